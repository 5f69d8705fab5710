"""Flower's own simulation runtime gives the same masked model as the grid in this process, to the last bit.

A SuperLink of our own is started for it, on free ports and in a home of its own. Whatever it starts inherits the name
of that home in its environment: so all of it is found, and stopped by process id.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from safetensors.numpy import load_file

from fedmarket.experiment.market import MarketKey, open_market
from fedmarket.federation.rehearsal import rehearse
from fedmarket.flower.inprocess import load_apps, run_in_process

pytestmark = [
    pytest.mark.runtime,
    pytest.mark.skipif(sys.platform != "linux", reason="finds what it started in /proc"),
]

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
START_SECONDS = 40.0
RUN_SECONDS = 120.0
STOP_SECONDS = 10.0


@dataclass(frozen=True)
class Superlink:
    """A running SuperLink: the environment in which ``flwr`` finds it, and the name of the connection."""

    environment: dict[str, str]
    log: Path

    def flwr(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(BIN / "flwr"), *words],
            env=self.environment, cwd=ROOT, capture_output=True, text=True, timeout=RUN_SECONDS, check=False,
        )  # fmt: skip


@pytest.fixture
def superlink(tmp_path: Path) -> Iterator[Superlink]:
    home = tmp_path / "flower"
    home.mkdir()
    port, control = free_ports(2)
    connection = f'[superlink]\ndefault = "here"\n[superlink.here]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
    (home / "config.toml").write_text(connection)
    environment = os.environ | {
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "FLWR_HOME": str(home),
        "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": str(port),
        "FLWR_LOCAL_CONTROL_API_PORT": str(control),
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    command = [
        str(BIN / "flower-superlink"), "--insecure", "--simulation", "--isolation", "subprocess",
        "--host", "127.0.0.1", "--port", str(port), "--control-api-address", f"127.0.0.1:{control}",
    ]  # fmt: skip
    log = tmp_path / "superlink.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
        try:
            wait_until_healthy(port, process)
            yield Superlink(environment=environment, log=log)
        finally:
            process.terminate()
            stop_all(f"FLWR_HOME={home}")
            process.wait(STOP_SECONDS)


def test_flowers_own_runtime_gives_the_same_model_to_the_last_bit(superlink: Superlink, write_market, tmp_path: Path):
    config = write_market(tmp_path / "market")
    names = open_market(MarketKey(config=config, changes=(), seed=0)).names
    roster = rehearse(tmp_path / "roster", names, minimum_survivors=3)
    model = tmp_path / "model.safetensors"
    ran = superlink.flwr(
        "run", ".", "here", "--stream",
        "--run-config", f'config="{config}" roster="{roster}" output="{model}" parties=4',
        "--federation-config", "num-supernodes=4 client-resources-num-cpus=1 init-args-num-cpus=2",
    )  # fmt: skip
    assert model.is_file(), f"{ran.stdout[-3000:]}\n{ran.stderr[-3000:]}\n{superlink.log.read_text()[-3000:]}"
    run_config = {
        "config": str(config), "changes": "", "arm": "federated_dp", "seed": 0, "alone": "", "parties": 4,
        "roster": str(rehearse(tmp_path / "again", names, minimum_survivors=3)), "output": "",
    }  # fmt: skip
    outcome = run_in_process(load_apps(ROOT), run_config, nodes=4)
    assert outcome.messages == 4 + 4 * 5 * 8 + 8
    here = outcome.model
    there = load_file(model)
    assert set(there) == {"centre", "scale", "parameters", "calibration"}
    for name, array in there.items():
        assert array.dtype == getattr(here, name).dtype
        assert array.tobytes() == getattr(here, name).tobytes(), name
    assert abs(there["parameters"]).max() > 0.01


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def wait_until_healthy(port: int, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        assert process.poll() is None, "the SuperLink stopped at once"
        try:
            if httpx.get(f"http://127.0.0.1:{port}/health", timeout=1.0).is_success:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.2)
    pytest.fail(f"no SuperLink after {START_SECONDS:g} s")


def stop_all(mark: str) -> None:
    """Stop every process that was started with ``mark`` in its environment: first ask, then insist."""
    until = time.monotonic() + STOP_SECONDS
    while (found := started_with(mark)) and time.monotonic() < until:
        insist = time.monotonic() > until - STOP_SECONDS / 2
        for pid in found:
            try:
                os.kill(pid, signal.SIGKILL if insist else signal.SIGTERM)
            except ProcessLookupError:
                continue
        time.sleep(0.5)
    assert not started_with(mark)


def started_with(mark: str) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            environment = (entry / "environ").read_bytes().split(b"\0")
            running = (entry / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except OSError:
            continue
        if mark.encode() in environment and running:
            found.append(int(entry.name))
    return found
