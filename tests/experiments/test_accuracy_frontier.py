"""The published frontier of experiments/accuracy-frontier: fewer seeds of it are run, and held to its numbers."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from fedmarket.data.public import PUBLIC_FILES, locate
from fedmarket.simulation.frontier import frontier

FOLDER = Path(__file__).resolve().parents[2] / "experiments" / "accuracy-frontier"
EXPECTED = tomllib.loads((FOLDER / "expected.toml").read_text(encoding="utf-8"))

pytestmark = pytest.mark.experiment


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, float], dict[str, Any]]:
    """The rows of a sweep over a few seeds and epsilons, by mode and epsilon."""
    if locate(next(public for public in PUBLIC_FILES if public.name == "bank-additional")) is None:
        pytest.skip("bank-additional-full.csv is not here; put it into $FEDMARKET_DATA")
    output = tmp_path_factory.mktemp("frontier")
    changes = ("workers=1", f'output="{output}"', f"seeds={EXPECTED['seeds']}")
    epsilons = [point["epsilon"] for point in EXPECTED["point"]]
    results = frontier(FOLDER / "bank-additional.toml", changes=changes, epsilons=epsilons).results
    return {(row["mode"], row["epsilon"]): row for row in results["rows"]}


@pytest.mark.parametrize("point", EXPECTED["point"], ids=[f"epsilon {point['epsilon']}" for point in EXPECTED["point"]])
def test_shared_noise_loses_what_is_published(found, point: dict[str, Any]):
    row = found["distributed", point["epsilon"]]
    for reference in ("pooled", "pooled_best"):
        assert row[reference]["mean"] == pytest.approx(point[reference], abs=point["tolerance"])


@pytest.mark.parametrize("point", EXPECTED["point"], ids=[f"epsilon {point['epsilon']}" for point in EXPECTED["point"]])
def test_federating_costs_next_to_nothing_over_private_training_in_one_place(found, point: dict[str, Any]):
    federated, pooled = found["distributed", point["epsilon"]], found["pooled_dp", point["epsilon"]]
    assert federated["pooled"]["mean"] - pooled["pooled"]["mean"] <= 1.5 * point["tolerance"]


def test_noise_at_each_party_costs_more(found):
    smallest = min(point["epsilon"] for point in EXPECTED["point"])
    assert found["local", smallest]["pooled"]["mean"] > found["distributed", smallest]["pooled"]["mean"]
