"""One tiny experiment of two seeds, run once."""

from pathlib import Path

import pytest

from fedmarket.simulation.run import Simulation, simulate

TWO_SEEDS = ("seeds = [0]", "seeds = [0, 1]")


@pytest.fixture(scope="session")
def tiny(write_market, tmp_path_factory: pytest.TempPathFactory) -> Simulation:
    return simulate(write_market(tmp_path_factory.mktemp("tiny"), TWO_SEEDS))


@pytest.fixture
def tiny_config(write_market, tmp_path: Path) -> Path:
    return write_market(tmp_path / "market", TWO_SEEDS)
