"""Flower's own simulation runtime gives the same masked model as the grid in this process, to the last bit.

A SuperLink of our own is started for it, on free ports and in a home of its own.
"""

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
from fedmarket.loopback.processes import BIN, Daemon, environment_of, free_ports, stop_daemons

pytestmark = [
    pytest.mark.runtime,
    pytest.mark.skipif(sys.platform != "linux", reason="finds what it started in /proc"),
]

ROOT = Path(__file__).parents[2]
START_SECONDS = 40.0
RUN_SECONDS = 240.0


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
    command = [
        str(BIN / "flower-superlink"), "--insecure", "--simulation", "--isolation", "subprocess",
        "--host", "127.0.0.1", "--port", str(port), "--control-api-address", f"127.0.0.1:{control}",
    ]  # fmt: skip
    more = {
        "FLWR_LOCAL_SUPERLINK_HTTP_API_PORT": str(port),
        "FLWR_LOCAL_CONTROL_API_PORT": str(control),
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    log = tmp_path / "superlink.log"
    daemon = Daemon(name="SuperLink", command=command, home=home, log=log, environment=more)
    try:
        daemon.start()
        wait_until_healthy(port, daemon)
        yield Superlink(environment=environment_of(home) | more, log=log)
    finally:
        stop_daemons([daemon])


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
    assert outcome.messages == 4 + 4 * (5 + 3 * 7) + 8
    here = outcome.model
    there = load_file(model)
    assert set(there) == {"centre", "scale", "parameters", "calibration"}
    for name, array in there.items():
        assert array.dtype == getattr(here, name).dtype
        assert array.tobytes() == getattr(here, name).tobytes(), name
    assert abs(there["parameters"]).max() > 0.01


def wait_until_healthy(port: int, daemon: Daemon) -> None:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        assert daemon.alive, "the SuperLink stopped at once"
        try:
            if httpx.get(f"http://127.0.0.1:{port}/health", timeout=1.0).is_success:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.2)
    pytest.fail(f"no SuperLink after {START_SECONDS:g} s")
