"""Tiny experiments that are run once through the Python API."""

from pathlib import Path

import pytest

import fedmarket

FOR_BOTH = {
    "evaluation": {
        "contact_cost": 5.0,
        "response_margin": 60.0,
        "value_margin": 0.3,
        "past_spend": "past_spend",
        "bootstrap_replicates": 100,
    }
}
"""What a contract with label and value is judged by."""


@pytest.fixture(scope="session")
def market(write_market, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_market(tmp_path_factory.mktemp("market"))


@pytest.fixture(scope="session")
def tiny(market: Path) -> fedmarket.Result:
    return fedmarket.simulate(market, changes={"seeds": [0, 1], "privacy.generator": "operating-system"})


@pytest.fixture(scope="session")
def tiny_joint(write_joint_market, tmp_path_factory: pytest.TempPathFactory) -> fedmarket.Result:
    config = write_joint_market(tmp_path_factory.mktemp("joint"))
    return fedmarket.simulate(config, changes=FOR_BOTH, output=tmp_path_factory.mktemp("elsewhere"))


@pytest.fixture(scope="session")
def sweep(market: Path, tmp_path_factory: pytest.TempPathFactory) -> fedmarket.Frontier:
    folder = tmp_path_factory.mktemp("sweep")
    return fedmarket.frontier(market, epsilons=[1, 8], changes={"seeds": (0,)}, output=folder)
