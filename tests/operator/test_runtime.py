"""A real SuperLink with TLS, node authentication and process isolation, and four SuperNodes: one run, start to model.

Only loopback. Whatever is started inherits the name of a Flower home in its environment, so all of it is found again.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from fedmarket.experiment.market import MarketKey, open_market
from fedmarket.federation.rehearsal import ORIGIN, rehearse
from fedmarket.flower.inprocess import load_apps, run_in_process
from fedmarket.ledger.bundle import read_bundle
from fedmarket.ledger.verify import verify
from fedmarket.operator.settings import Home
from fedmarket.operator.superlink import ENVIRONMENT, running, start, stop

pytestmark = [
    pytest.mark.runtime,
    pytest.mark.skipif(sys.platform != "linux", reason="finds what it started in /proc"),
]

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
RUN_SECONDS = 560.0
SHORT = (
    "training.rounds=1", "privacy.calibration_rounds=1", "privacy.private_evaluation=false",
    "federation.reply_timeout_seconds=200.0", "federation.training_timeout_seconds=200.0",
)  # fmt: skip
"""Three rounds, and patience: each simulated node loads torch for each message, four at once on shared cores."""
OPEN = "aggregation.secagg=ideal"
NODES = ("n0", "n1", "n2", "n3")


def environment(home: Path) -> dict[str, str]:
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    return os.environ | ENVIRONMENT | {"PATH": path, "FLWR_HOME": str(home), "OMP_NUM_THREADS": "1"}


@pytest.fixture
def market(write_market, tmp_path: Path) -> tuple[Path, Path]:
    """Return the experiment and the rehearsal's roster."""
    config = write_market(tmp_path / "market")
    names = open_market(MarketKey(config=config, changes=(), seed=0)).names
    return config, rehearse(tmp_path / "roster", names)


@pytest.fixture
def server(make, market, stop_all) -> Iterator[Home]:
    """The operator's processes; the simulated parties know the rehearsal's log, so it is that one."""
    home = make(hosts=("localhost",), nodes=NODES, log_name=ORIGIN)
    shutil.copy(market[1].parent / "log.pem", home.folder / "log.pem")
    try:
        start(home)
        yield home
    finally:
        stop(home)
        stop_all(home.folder / "flower")


@pytest.fixture
def supernodes(server: Home, ports, tmp_path: Path, stop_all) -> Iterator[None]:
    folders, started = [tmp_path / name for name in NODES], []
    try:
        for place, (name, folder, port) in enumerate(zip(NODES, folders, ports(len(NODES)), strict=True)):
            folder.mkdir()
            command = [
                str(BIN / "flower-supernode"), "--superlink", server.address, "--root-certificates", str(server.ca),
                "--auth-supernode-private-key", str(server.nodes / f"{name}.key"), "--port", str(port),
                "--max-wait-time", str(RUN_SECONDS), "--isolation", "subprocess",
                "--node-config", f"partition-id={place} num-partitions={len(NODES)}",
            ]  # fmt: skip
            with (folder / "log").open("wb") as log:
                started.append(subprocess.Popen(command, env=environment(folder), stdout=log, stderr=log))
        yield
    finally:
        for folder in folders:
            stop_all(folder)
        for process in started:
            process.wait(10)


def fedmarket(*words: object) -> subprocess.CompletedProcess[str]:
    command = [str(BIN / "fedmarket"), *map(str, words)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=RUN_SECONDS, check=False)


@pytest.mark.usefixtures("supernodes")
def test_a_run_between_processes_gives_the_model_of_a_simulation(server, market, tmp_path, processes_of):
    config, roster = market
    changes = [word for change in (OPEN, *SHORT) for word in ("--set", change)]
    output = tmp_path / "output"
    settings = server.folder / "server.toml"
    ran = fedmarket("server", "run", settings, config, "--roster", roster, "--output", output, *changes)
    assert ran.returncode == 0, f"{ran.stdout}\n{ran.stderr}\n{said_by(server)}"
    run_config = {
        "config": str(config), "changes": "\n".join((OPEN, *SHORT)), "arm": "federated_dp", "seed": 0, "alone": "",
        "parties": 4, "roster": str(rehearse(tmp_path / "again", read_names(roster))), "output": "",
    }  # fmt: skip
    here, there = run_in_process(load_apps(ROOT), run_config, nodes=4).model, load_file(output / "model.safetensors")
    for name, array in there.items():
        assert array.tobytes() == getattr(here, name).tobytes(), name
    assert abs(there["parameters"]).max() > 0.01
    findings = verify(read_bundle(output / "bundle.zip")).findings
    assert all("seeded-for-tests" in str(finding) for finding in findings), findings
    need_no_secret_shown(server, processes_of)
    again = fedmarket("server", "run", settings, config, "--roster", roster, "--output", output, *changes)
    assert again.returncode == 2
    assert "this run is finished" in again.stderr


def test_who_has_no_token_starts_no_run(server, tmp_path):
    home = tmp_path / "stranger"
    home.mkdir()
    connection = f'[superlink]\ndefault = "here"\n[superlink.here]\naddress = "{server.address}"\n'
    (home / "config.toml").write_text(f'{connection}root-certificates = "{server.ca}"\n')
    for words in (("run", ".", "here"), ("list", "here"), ("supernode", "list", "here")):
        ran = subprocess.run(
            [str(BIN / "flwr"), *words],
            env=environment(home), cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert ran.returncode != 0
        assert "Authentication failed" in ran.stdout + ran.stderr
    assert '/v1/control/start-run HTTP/1.1" 401' in said_by(server)


def test_without_superlink_there_is_one_line(make, market, tmp_path):
    config, roster = market
    home = make(nodes=NODES)
    ran = fedmarket(
        "server", "run", home.folder / "server.toml", config, "--roster", roster, "--output", tmp_path / "o",
        "--set", OPEN,
    )  # fmt: skip
    assert ran.returncode == 2
    assert ran.stderr.count("error:") == 1
    assert "does not answer" in ran.stderr


def said_by(server: Home) -> str:
    return "\n".join(path.read_text()[-4000:] for path in sorted(server.logs.glob("*.log")))


def read_names(roster: Path) -> list[str]:
    from fedmarket.federation.roster import load_roster  # noqa: PLC0415

    return list(load_roster(roster).names)


def need_no_secret_shown(server: Home, processes_of: Callable[[Path], dict[int, list[str]]]) -> None:
    found = processes_of(server.folder / "flower")
    assert {one.pid for one in running(server)} <= set(found)
    secrets = [path.read_text() for path in (server.control_token, server.superexec_secret)]
    for words in found.values():
        assert not any(secret in word for secret in secrets for word in words)
        assert "--token" not in words
