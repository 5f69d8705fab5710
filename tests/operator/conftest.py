"""An operator's folder, and processes that are found again by the name of a folder in their environment."""

import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fedmarket.operator.making import make_home
from fedmarket.operator.settings import Home

ROOT = Path(__file__).parents[2]
STOP_SECONDS = 10.0

MakeHome = Callable[..., Home]


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


@pytest.fixture
def make(tmp_path: Path) -> MakeHome:
    """Return a maker of an operator's folder on free ports."""

    def home(
        *, hosts: tuple[str, ...] = ("federation.example",), nodes: tuple[str, ...] = (), **changed: object
    ) -> Home:
        port, fleet_port = free_ports(2)
        fields = {"log_name": "federation.example/log", "app": ROOT, "port": port, "fleet_port": fleet_port} | changed
        return make_home(tmp_path / "server", hosts=list(hosts), nodes=list(nodes), **fields)

    return home


@pytest.fixture
def ports() -> Callable[[int], list[int]]:
    return free_ports


@pytest.fixture
def processes_of() -> Callable[[Path], dict[int, list[str]]]:
    """Return a finder of the running processes whose Flower home is a folder, with their command lines."""

    def found(folder: Path) -> dict[int, list[str]]:
        mark, running = f"FLWR_HOME={folder}".encode(), {}
        for entry in Path("/proc").iterdir():
            try:
                if not entry.name.isdigit() or mark not in (entry / "environ").read_bytes().split(b"\0"):
                    continue
                if (entry / "stat").read_text().rpartition(")")[2].split()[0] != "Z":
                    running[int(entry.name)] = (entry / "cmdline").read_text().split("\0")
            except OSError:
                continue
        return running

    return found


@pytest.fixture
def stop_all(processes_of) -> Callable[[Path], None]:
    """Return what stops every process whose Flower home is a folder: first it asks, then it insists."""

    def stop(folder: Path) -> None:
        until = time.monotonic() + STOP_SECONDS
        while (found := processes_of(folder)) and time.monotonic() < until:
            insist = time.monotonic() > until - STOP_SECONDS / 2
            for pid in found:
                try:
                    os.kill(pid, signal.SIGKILL if insist else signal.SIGTERM)
                except ProcessLookupError:
                    continue
            time.sleep(0.5)
        assert not processes_of(folder)

    return stop
