"""An operator's folder."""

from collections.abc import Callable
from pathlib import Path

import pytest

from fedmarket.loopback.processes import free_ports
from fedmarket.operator.making import make_home
from fedmarket.operator.settings import Home

ROOT = Path(__file__).parents[2]

MakeHome = Callable[..., Home]


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
