"""The project's two apps, and a tiny market for them."""

from pathlib import Path

import pytest

from fedmarket.flower.inprocess import Apps, load_apps

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def apps() -> Apps:
    return load_apps(ROOT)


@pytest.fixture(scope="session")
def run_config(write_market, tmp_path_factory: pytest.TempPathFactory):
    """Return a maker of run configurations for four parties of the tiny market."""
    path = write_market(tmp_path_factory.mktemp("market"))

    def make(**changed: object) -> dict[str, object]:
        fields = {"config": str(path), "changes": "", "arm": "federated_dp", "seed": 0, "alone": "", "parties": 4}
        return fields | {"output": ""} | changed

    return make
