"""A hostile operator against one party: ``python experiments/attack-operator/attack.py``, as root.

The party's process runs as one user of the system, the app that the operator ships as another, and nothing else stands
between them than what a partner sets up by ``docs/how-to/run-a-node.md``. One line for each attempt says what was tried
and what came back; ends with 1 if anything got through.
"""

import argparse
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedmarket.data.synthetic import synthetic_market
from fedmarket.ledger.look import look
from fedmarket.node.settings import load_partner

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
MARKET = runpy.run_path(str(ROOT / "tests" / "conftest.py"))
PARTIES = runpy.run_path(str(ROOT / "tests" / "node" / "parties.py"))
GROWTH = runpy.run_path(str(ROOT / "benchmarks" / "growth.py"))
TRIED = runpy.run_path(str(HERE / "tried.py"))

PARTY_USER, RELAY_USER, OTHER_USER = 61_234, 65_534, 61_235
"""The party's own, ``nobody`` for what is shipped, and somebody else."""

RELAY_GROUP = "nogroup"
MOST_ROUNDS = 60
LARGEST = 1_000_000
"""Bytes of junk at a time: about what is taken under these terms."""

CONNECT = """
import socket, sys
one = socket.socket(socket.AF_UNIX)
one.settimeout(10)
one.connect(sys.argv[1])
one.sendall(b"fmp1\4" + bytes(8) + b"join")
print(one.recv(1) or "no answer")
"""
CHANGES = (
    ("[training]\nrounds = 3", "[training]\nrounds = 90"),
    ('generator = "seeded-for-tests"', 'generator = "operating-system"'),
    ('noise = "local"', 'noise = "distributed"'),
    ("modulus_bits = 32", "modulus_bits = 64"),
)


def made(folder: Path) -> tuple[Any, Path]:
    """Make the node with a table of its own, as its own user's, and the operator's folder, as the relay's user's."""
    config = MARKET["written"](
        folder / "node" / "market", MARKET["changed_text"](MARKET["CONFIG"], CHANGES), MARKET["demo_contract"]()
    )
    policy = f"most_rounds_a_day = {MOST_ROUNDS}\nmost_runs_a_day = 3"
    nodes = PARTIES["nodes_of"](config, folder / "node", policy=policy)
    operator = folder / "operator"
    shutil.copytree(nodes.folder / "market", operator / "market")
    for name in ("roster.toml", "log.pem", *(f"{place:02}.pem" for place in (1, 2, 3))):
        shutil.copy(nodes.folder / name, operator / name)
    synthetic_market(customers=400, parties=1, seed=3).table.write_csv(nodes.folder / "customers.csv")
    data = 'kind = "table"\nheld_out_share = 0.25\n[data.source]\nkind = "file"\npath = "customers.csv"'
    nodes.change(0, 'kind = "market"', data)
    reached = f'path = "run/party.sock"\ngroup = "{RELAY_GROUP}"\nusers = ["nobody"]'
    nodes.change(0, 'path = "00.sock"', reached)
    (nodes.folder / "run").mkdir()
    for one, user in ((nodes.folder, PARTY_USER), (operator, RELAY_USER)):
        for path in (one, *one.rglob("*")):
            os.chown(path, user, user)
            path.chmod(0o700 if path.is_dir() else 0o600)
    for path in (folder, nodes.folder, nodes.folder / "run"):
        path.chmod(0o711)
    return nodes, operator


def python_as(user: int, *, group: int = RELAY_USER) -> list[str]:
    """Return what runs Python as ``user``, who is in ``group`` too."""
    return ["setpriv", f"--reuid={user}", f"--regid={user}", f"--groups={group}", sys.executable]


def missing() -> str:
    """Return what is missing here to be several users of the system; empty where nothing is."""
    if os.geteuid() != 0:
        return "only root can be several users of the system"
    if shutil.which("setpriv") is None:
        return "setpriv is not installed"
    ran = subprocess.run(
        [*python_as(PARTY_USER), "-c", "import flwr, torch"], cwd="/", capture_output=True, check=False
    )
    return f"another user cannot run {sys.executable}" if ran.returncode else ""


@contextmanager
def serving(nodes: Any, code: Path) -> Iterator[Any]:
    """Give the party's process, as its own user."""
    socket, log = nodes.folder / "run" / "party.sock", code.parent / "party.log"
    command = (*python_as(PARTY_USER), "-c", "from fedmarket.cli.main import main; main()", "party", "serve")
    process = PARTIES["Process"](nodes.document(0), socket, log, code, command)
    process.start()
    try:
        process.wait()
        yield process
    finally:
        process.running.kill()
        process.running.wait()


def attacked(nodes: Any, operator: Path, process: Any, code: Path) -> list[Any]:
    """Run the shipped app as the relay's user, and return what it tried."""
    listed = {
        "customers' table": "customers.csv", "private key": "00.pem", "ledger": "00/ledger.jsonl",
        "salt of its commitments": "00/salt", "key of its split": "00/split", "policy": "partner-00.toml",
    }  # fmt: skip
    plan = {
        "operator": str(operator), "node": str(nodes.folder), "pid": process.running.pid, "uid": PARTY_USER,
        "listed": {what: str(nodes.folder / name) for what, name in listed.items()},
        "most_rounds": MOST_ROUNDS, "largest": LARGEST, "socket": str(process.socket),
    }  # fmt: skip
    assert all(Path(path).is_file() for path in plan["listed"].values())
    ran = subprocess.run(
        [*python_as(RELAY_USER), str(code / HERE.name / "shipped.py")],
        input=json.dumps(plan), capture_output=True, text=True,
        cwd=operator, env=os.environ | {"PYTHONPATH": str(code)}, timeout=500, check=False,
    )  # fmt: skip
    if ran.returncode:
        raise SystemExit(f"the shipped app failed:\n{ran.stderr}")
    return [TRIED["Tried"](**json.loads(line)) for line in ran.stdout.splitlines()]


def as_another(process: Any) -> list[Any]:
    """Try to be answered as a user who may not ask, without the relay's group and with it; first as one who may."""
    found = []
    for what, user, group, expected in (
        ("the relay's user is answered", RELAY_USER, RELAY_USER, "^b'f'$"),
        ("connect as another user", OTHER_USER, OTHER_USER, "Permission denied"),
        ("be answered as another user of the relay's group", OTHER_USER, RELAY_USER, "no answer|reset|Broken pipe"),
    ):
        command = [*python_as(user, group=group), "-c", CONNECT, str(process.socket)]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        back = (ran.stdout + ran.stderr).strip().rpartition("\n")[2]
        found.append(TRIED["Tried"](what, back, re.search(expected, back) is not None, user == RELAY_USER))
    return found


def afterwards(nodes: Any, process: Any, before: Any) -> list[Any]:
    """Return what can be said when all is over: whether the process lives, and what it holds, wrote and spent."""
    alive, after = process.running.poll() is None, GROWTH["Sample"].of(process.running.pid, 1)
    outside = [path for path in _everywhere() if not path.is_relative_to(nodes.folder) and _owner(path) == PARTY_USER]
    ledger = look(nodes.books(0))
    epsilon, cap = ledger.state.spent().epsilon, load_partner(nodes.document(0)).section.cap
    grown = after.resident / before.resident
    return [
        TRIED["Tried"]("end the party's process", "it lives" if alive else "it is gone", alive),
        TRIED["Tried"]("fill its memory", f"{grown:.3f} of what it held at first", grown <= GROWTH["MAY_GROW"]),
        TRIED["Tried"]("have it write outside of its folder", f"{len(outside)} files {outside[:3] or ''}", not outside),
        TRIED["Tried"]("spend more than the cap", f"epsilon {epsilon:.4f} of {cap:g}", epsilon <= cap),
    ]


def _everywhere() -> Iterator[Path]:
    """Give every file and folder where any user may write; what goes away meanwhile is passed over."""
    for top in ("/tmp", "/var/tmp", "/dev/shm"):  # noqa: S108 - looked at, not written to
        for folder, folders, files in os.walk(top):
            yield from (Path(folder, name) for name in (*folders, *files))


def _owner(path: Path) -> int:
    try:
        return path.lstat().st_uid
    except OSError:
        return -1


def attack(folder: Path) -> list[Any]:
    """Do all of it in ``folder``, whose path leaves room for a socket's name, and return every attempt."""
    code = folder / "code"  # read by other users than whose checkout it is
    for one in (ROOT / "fedmarket", HERE):
        shutil.copytree(one, code / one.name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (code, *code.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    nodes, operator = made(folder)
    with serving(nodes, code) as process:
        before = GROWTH["Sample"].of(process.running.pid, 0)
        found = as_another(process)
        found += attacked(nodes, operator, process, code)
        return found + afterwards(nodes, process, before)


def main() -> None:
    """Attack, and say how it went."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--server", action="store_true", help="also as a stranger at a real SuperLink")
    chosen = options.parse_args()
    if said := missing():
        raise SystemExit(said)
    with tempfile.TemporaryDirectory(prefix="fm-") as folder:
        found = attack(Path(folder))
        if chosen.server:
            sys.path.insert(0, str(HERE))
            found += runpy.run_path(str(HERE / "strangers.py"))["strangers"](Path(folder), ROOT)
    for one in found:
        print(one.line)
    through = sum(not one.good for one in found)
    print(f"{len(found)} attempts, {through} got through")
    if through:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
