"""Hundreds of rounds with faults: ``python benchmarks/soak.py --rounds 500``; does anything grow, does anything break?

Four party processes as partners start them, relays, and a server with its state folder and log, each a process of its
own. Two parties are killed, stopped for longer than the time-out, and reached over a link that is cut; all four get
garbage on their sockets. Memory, files and threads of each process are looked at in every round. Prints a table, writes
JSON, and ends with 1 if something is wrong. Times are this machine's; growth is not.
"""

import argparse
import json
import platform
import runpy
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fedmarket.config import load_config
from fedmarket.contract.schema import load_contract
from fedmarket.experiment.arms import terms_of
from fedmarket.federation.rehearsal import bundle_of_rehearsal
from fedmarket.flower.inprocess import load_apps, run_in_process
from fedmarket.ledger.look import look
from fedmarket.ledger.verify import verify
from fedmarket.node.agreement import ARM

ROOT = Path(__file__).resolve().parents[1]
MARKET = runpy.run_path(str(ROOT / "tests" / "conftest.py"))
GROWTH = runpy.run_path(str(ROOT / "benchmarks" / "growth.py"))
PARTIES = runpy.run_path(str(ROOT / "tests" / "node" / "parties.py"))
LINKS = runpy.run_path(str(ROOT / "tests" / "node" / "links.py"))

OTHER_ROUNDS = 5
"""Of a run: the columns' centre, three of recalibration, the private evaluation."""

VICTIMS, LINKED = (0, 1), 1
"""Who is killed and stopped, and who of them is reached over a bad link."""

TIMEOUT = 4.0
"""Seconds that the server waits for an answer."""

WITHOUT = 3
"""Rounds that go on without a party that was killed; then the run is held until it is back."""

SHARES = {"kill": 3, "silence": 2, "cut": 4, "garbage": 4, "both silent": 1}
"""How often each fault is drawn, beside the others."""

MOST_CARRIED = 1000
"""Bytes, question and answer together, before a connection is cut; few messages are shorter."""

EVERY = 4
"""Rounds from one fault to the next, at least."""

JUNK = (
    b"GET / HTTP/1.1\r\n\r\n",
    struct.pack(">4sBQ", b"fmp1", 4, 1 << 40) + b"join",
    struct.pack(">4sBQ", b"fmp1", 4, 50_000) + b"mask" + bytes(50_000),
    struct.pack(">4sBQ", b"fmp1", 7, 9) + b"consent\x81\xa3run\xc4\x01x" + b"\xff",
    struct.pack(">4sBQ", b"fmp1", 4, 60_000) + b"join" + b"\x93" * 60_000,
)


@dataclass
class Soak:
    """A run under way: its processes, the faults that are due, and what was seen."""

    nodes: Any
    processes: list[Any]
    link: Any
    hold: Path
    rng: np.random.Generator
    due: list[str]
    samples: dict[str, list[Any]] = field(default_factory=dict)
    starts: dict[int, float] = field(default_factory=dict)
    done: list[tuple[int, str]] = field(default_factory=list)
    stopped: set[int] = field(default_factory=set)
    killed_in: int | None = None
    cuts: int = 0
    next: int = 2

    def look(self, number: int, server: int) -> None:
        """A round has begun: look at everybody, and let the next fault happen if the last one is over."""
        self.starts[number] = time.monotonic()
        pids = {"server": server} | {
            name: process.running.pid for name, process in zip(self.nodes.names, self.processes, strict=True)
        }
        for name, pid in pids.items():
            with suppress(OSError, KeyError):  # it was killed just now
                self.samples.setdefault(name, []).append(GROWTH["Sample"].of(pid, number))
        if self.due and number >= self.next and self.quiet:
            fault = self.due.pop(0)
            self.done.append((number, fault))
            self.next = number + EVERY
            self._happen(fault, number)

    @property
    def quiet(self) -> bool:
        """Whether everybody is back and the link is whole."""
        return not self.stopped and self.link.cut_after is None and self.killed_in is None

    def tend(self, number: int) -> None:
        """End faults that are over, and hold the run where it would be done before a killed party is back."""
        if self.link.cuts > self.cuts:
            self.cuts, self.link.cut_after = self.link.cuts, None
        if self.killed_in is None:
            return
        if all(process.listens for process in self.processes):
            self.killed_in = None
            self.hold.unlink(missing_ok=True)
        elif number >= self.killed_in + WITHOUT:
            self.hold.touch()

    def _happen(self, fault: str, number: int) -> None:
        victim = int(self.rng.choice(VICTIMS))
        time.sleep(float(self.rng.uniform(0, 0.1)))  # in whatever step the round is by then
        match fault:
            case "kill":
                self.killed_in = number
                self.processes[victim].kill()
                self.processes[victim].start()
            case "silence":
                self._silence((victim,))
            case "both silent":
                self._silence(VICTIMS)
            case "cut":
                self.link.cut_after = int(self.rng.integers(1, MOST_CARRIED))
            case "garbage":
                threading.Thread(target=bother, args=([self.nodes.socket(place) for place in range(4)],)).start()

    def _silence(self, places: Iterable[int]) -> None:
        for place in places:
            process = self.processes[place].running
            self.stopped.add(place)
            process.send_signal(signal.SIGSTOP)
            threading.Timer(TIMEOUT + 0.5, self._wake, (place, process)).start()

    def _wake(self, place: int, process: Any) -> None:
        process.send_signal(signal.SIGCONT)
        self.stopped.discard(place)


def bother(sockets: Iterable[Path]) -> None:
    """Send each kind of garbage to each socket, and do not wait for what is said to it."""
    for path in sockets:
        for content in JUNK:
            with socket.socket(socket.AF_UNIX) as connection, suppress(OSError):
                connection.settimeout(1.0)
                connection.connect(str(path))
                connection.sendall(content)


def faults(rounds: int, rng: np.random.Generator) -> list[str]:
    """Return what is to happen, in a random order: each kind at least once."""
    count, whole = max(len(SHARES), rounds // (EVERY + 1)), sum(SHARES.values())
    found = [kind for kind, share in SHARES.items() for _ in range(max(1, round(count * share / whole)))]
    return [found[place] for place in rng.permutation(len(found))]


def market(folder: Path, rounds: int) -> Any:
    """Write a market of four parties whose run has so many rounds, and return its nodes."""
    changes = (
        ("[training]\nrounds = 3", f"[training]\nrounds = {rounds - OTHER_ROUNDS}"),
        ('generator = "seeded-for-tests"', 'generator = "operating-system"'),
        ('noise = "local"', 'noise = "distributed"'),
        ("modulus_bits = 32", "modulus_bits = 64"),
        ("max_void_rounds = 3", "max_void_rounds = 9"),
        ("reply_timeout_seconds = 60.0", f"reply_timeout_seconds = {TIMEOUT}"),
        ("training_timeout_seconds = 60.0", f"training_timeout_seconds = {TIMEOUT}"),
    )
    config = MARKET["written"](
        folder / "market", MARKET["changed_text"](MARKET["CONFIG"], changes), MARKET["demo_contract"]()
    )
    return PARTIES["nodes_of"](config, folder)


def serve(folder: Path) -> None:
    """Be the server of the federation in ``folder``."""

    class Grid(PARTIES["ConcurrentGrid"]):  # type: ignore[misc]
        def send_and_receive(self, *given: Any, **more: Any) -> Any:
            while (folder / "hold").exists():
                time.sleep(0.01)
            return super().send_and_receive(*given, **more)

    config = folder / "market" / "config.toml"
    nodes = PARTIES["Nodes"](config=config, folder=folder, names=("",) * 4)
    apps = nodes.relays(load_apps(ROOT), sockets={LINKED: folder / "link.sock"})
    run_config = nodes.run_config | {"state": str(folder / "state"), "output": str(folder / "model.safetensors")}
    outcome = run_in_process(apps, run_config, nodes=4, grid_type=Grid)
    told = {
        "run": outcome.run.hex(),
        "rejections": [asdict(one) for one in outcome.rejections],
        "void_rounds": [asdict(one) for one in outcome.void_rounds],
    }
    (folder / "outcome.json").write_text(json.dumps(told), encoding="utf-8")


def soak(rounds: int, folder: Path, *, seed: int = 0, commands: dict[int, tuple[object, ...]] | None = None) -> Any:
    """Run so many rounds in ``folder``, whose path leaves room for a socket's name, and return what was seen.

    Args:
        rounds: of the run, void ones included.
        folder: empty.
        seed: of the faults' order and places; which step they meet is the machine's affair.
        commands: what serves at some places instead of ``fedmarket party serve``.

    Returns:
        The figures; ``wrong``, what must not be; ``late``, what must not be on a machine that never stops for seconds.
    """
    rng = np.random.default_rng(seed)
    nodes = market(folder, rounds)
    code = folder / "installed"  # who restarts a node with other code is out of the run, and somebody may be editing
    shutil.copytree(ROOT / "fedmarket", code / "fedmarket", ignore=shutil.ignore_patterns("__pycache__"))
    processes = [
        PARTIES["Process"](nodes.document(place), nodes.socket(place), folder / f"{place:02}.log", code)
        for place in range(4)
    ]
    for place, command in (commands or {}).items():
        processes[place].command = command
    with ExitStack() as ending:
        for process in processes:
            process.start()
            ending.callback(ended, process)
        for process in processes:
            process.wait()
        link = ending.enter_context(LINKS["linked"](folder / "link.sock", nodes.socket(LINKED)))
        with (folder / "server.log").open("wb") as log:
            server = subprocess.Popen([sys.executable, __file__, "--server", str(folder)], stdout=log, stderr=log)
        ending.callback(server.wait)
        ending.callback(server.kill)
        going = Soak(nodes, processes, link, folder / "hold", rng, faults(rounds, rng))
        watch(going, server, folder / "state" / "progress.json")
        while not going.quiet:
            going.tend(rounds)
            time.sleep(0.05)
        codes = [process.stop() for process in processes]
    if server.returncode:
        said = (folder / "server.log").read_text(encoding="utf-8").strip().rpartition("\n")[2]
        return {"rounds": rounds, "wrong": [f"the run ended with {server.returncode}: {said}"], "late": []}
    return found_in(going, rounds, folder, codes)


def watch(going: Soak, server: "subprocess.Popen[bytes]", progress: Path) -> None:
    """Follow the run until its server ends, as fast as rounds go."""
    number = -1
    while server.poll() is None:
        with suppress(OSError, ValueError):
            told = json.loads(progress.read_text(encoding="utf-8"))
            if told["parties"] and told["round"] != number:
                number = told["round"]
                going.look(number, server.pid)
        going.tend(number)
        time.sleep(0.005)
    going.link.cut_after = None
    going.hold.unlink(missing_ok=True)


def ended(process: Any) -> None:
    """End a party process that still runs."""
    if process.running is not None and process.running.poll() is None:
        process.running.kill()
        process.running.wait()


def found_in(going: Soak, rounds: int, folder: Path, codes: list[int]) -> Any:
    """Return the figures of a run that came to its end, and what is wrong with them."""
    nodes, outcome = going.nodes, json.loads((folder / "outcome.json").read_text(encoding="utf-8"))
    rejections, voids = outcome["rejections"], outcome["void_rounds"]
    kills = Counter(kind for _, kind in going.done)
    terms = terms_of(ARM, load_config(nodes.config), load_contract(nodes.config.with_name("contract.toml")), seed=0)
    verdict = verify(bundle_of_rehearsal(folder / "roster.toml", bytes.fromhex(outcome["run"]), terms))
    spent = [look(nodes.books(place)).state.spent().epsilon for place in range(4)]
    processes = {name: GROWTH["growth"](samples, rounds) for name, samples in going.samples.items()}
    for place in VICTIMS:  # they begin anew
        processes[nodes.names[place]].pop("flat", None)
    wrong = [f"{name} grows: {one}" for name, one in processes.items() if not one.get("flat", True)]
    wrong += [f"{name} ended with {code}" for name, code in zip(nodes.names, codes, strict=True) if code]
    if not (verdict.integrity and verdict.completeness):
        wrong.append(f"an auditor finds {len(verdict.findings)} faults in the ledgers")
    wrong += [f"epsilon {epsilon:.4f} beyond the cap" for epsilon in spent if not epsilon <= 1.0]
    wrong += [f"the fault {kind!r} never happened" for kind in SHARES if not kills[kind]]
    strangers = {said["party"] for said in rejections} - {nodes.names[place] for place in VICTIMS}
    late = [f"{name}, whom nothing happened to, was rejected" for name in sorted(strangers)]
    if len(voids) > 2 * kills["both silent"]:  # one that ends, and one that begins
        late.append(f"{len(voids)} void rounds, although only {kills['both silent']} had two silent parties")
    return {
        "rounds": rounds,
        "faults": dict(kills),
        "cuts": going.cuts,
        "rejected": len(rejections),
        "reasons": Counter(said["reason"].partition(": ")[2][:60] or said["reason"][:60] for said in rejections),
        "void": voids,
        "milliseconds": times(going.starts, rounds),
        "entries": look(nodes.books(3)).state.size,
        "epsilon": spent,
        "processes": processes,
        "wrong": wrong,
        "late": late,
    }


def times(starts: dict[int, float], rounds: int) -> list[float]:
    """Return the median milliseconds of a round in each fifth of the run."""
    took = {number: 1000 * (starts[number + 1] - at) for number, at in starts.items() if number + 1 in starts}
    fifths = ([ms for number, ms in took.items() if number * 5 // rounds == fifth] for fifth in range(5))
    return [statistics.median(some) if some else float("nan") for some in fifths]


def table(found: Any) -> str:
    """Return the figures for a person."""
    if "processes" not in found:
        return "\n".join(found["wrong"])
    lines = [
        "              |   resident MB    |        |   own  |    files    |   threads   | CPU ms a round",
        "process       |  early     late  |  ratio | B/round| early  late | early  late | early  late",
    ]
    for name, one in found["processes"].items():
        if "early" not in one:
            continue
        early, late = one["early"], one["late"]
        lines.append(
            f"{name:<13} |{early['resident'] / 1e6:8.1f}{late['resident'] / 1e6:9.1f} |{one['ratio']:7.3f} |"
            f"{one['own_bytes_a_round']:7.0f} |{early['files']:6.0f}{late['files']:6.0f} |"
            f"{early['threads']:6.0f}{late['threads']:6.0f} |"
            + (f"{early['cpu_ms_a_round']:6.0f}{late['cpu_ms_a_round']:6.0f}" if "flat" in one else " killed at times")
        )
    happened = ", ".join(f"{count} x {kind}" for kind, count in found["faults"].items())
    lines += [f"faults: {happened}; {found['rejected']} answers rejected, {len(found['void'])} void rounds",
              "ms a round, by fifths: " + ", ".join(f"{ms:.0f}" for ms in found["milliseconds"])]  # fmt: skip
    return "\n".join([*lines, *(f"WRONG: {line}" for line in found["wrong"] + found["late"])])


def main() -> None:
    """Run what the options choose."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--rounds", type=int, default=500)
    options.add_argument("--seed", type=int, default=0, help="of the faults")
    options.add_argument("--output", type=Path, default=Path("runs/benchmark-soak.json"))
    options.add_argument("--server", type=Path, help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.server:
        serve(chosen.server)
        return
    with tempfile.TemporaryDirectory(prefix="fm-") as folder:
        found = soak(chosen.rounds, Path(folder), seed=chosen.seed)
    print(table(found))
    machine = {"python": platform.python_version(), "machine": platform.machine(), "numpy": np.__version__}
    chosen.output.parent.mkdir(parents=True, exist_ok=True)
    chosen.output.write_text(json.dumps({"machine": machine} | found, indent=1) + "\n", encoding="utf-8")
    if found["wrong"] + found["late"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
