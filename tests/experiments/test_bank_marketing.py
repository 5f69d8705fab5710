"""The published numbers of experiments/bank-marketing: it is run as its README says, and held to them."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from fedmarket.data.public import PUBLIC_FILES, locate
from fedmarket.simulation.run import simulate

FOLDER = Path(__file__).resolve().parents[2] / "experiments" / "bank-marketing"
EXPECTED = tomllib.loads((FOLDER / "expected.toml").read_text(encoding="utf-8"))["experiment"]

pytestmark = pytest.mark.experiment


@pytest.fixture(scope="module", params=EXPECTED, ids=[f"epsilon {one['epsilon']}" for one in EXPECTED])
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Any]:
    """Expected numbers at one epsilon, and the results of running it."""
    if locate(next(public for public in PUBLIC_FILES if public.name == "bank-additional")) is None:
        pytest.skip("bank-additional-full.csv is not here; put it into $FEDMARKET_DATA")
    output = tmp_path_factory.mktemp("bank")
    changes = ("workers=1", f'output="{output}"', *request.param["changes"])
    return request.param, simulate(FOLDER / "config.toml", changes=changes).results


def test_the_private_federated_model_loses_what_is_published(found):
    expected, results = found
    for reference in ("pooled", "pooled_best"):
        loss, published = results["loss"][reference], expected["loss"][reference]
        assert loss["mean"] == pytest.approx(published["mean"], abs=expected["tolerance"])
        assert loss["upper_95"] == pytest.approx(published["upper_95"], abs=1.5 * expected["tolerance"])
    assert results["loss"]["pooled"]["mean"] <= expected["loss"]["at_most"]


def test_federation_without_privacy_loses_nothing(found):
    expected, results = found
    assert results["arms"]["federated"]["loss"] <= expected["federated_at_most"]


def test_the_baselines_are_as_strong_as_published(found):
    expected, results = found
    arms = results["arms"]
    assert arms["pooled"]["mean"] == pytest.approx(expected["pooled_auc"], abs=0.002)
    assert arms["local_only_dp"]["loss"] == pytest.approx(expected["alone_dp_loss"], abs=2 * expected["tolerance"])


def test_no_party_spends_more_than_the_target(found):
    expected, results = found
    assert len(results["privacy"]) == 12
    for spent in results["privacy"].values():
        assert 0.97 * expected["epsilon"] < spent["epsilon"] <= expected["epsilon"]
        assert abs(spent["accountants"]["pld"] - spent["accountants"]["exact"]) <= 0.02 + 0.01 * spent["epsilon"]


def test_probabilities_are_calibrated_by_the_private_recalibration(found):
    _, results = found
    assert results["calibration"]["after"]["calibration_ratio"] == pytest.approx(1.0, abs=0.15)
    assert results["calibration"]["after"]["log_loss"] < results["calibration"]["before"]["log_loss"]
