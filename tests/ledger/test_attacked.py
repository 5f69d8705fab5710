"""A measurement can refute what ledgers say, and confirms nothing."""

import runpy
from pathlib import Path

import pytest

from fedmarket.attacks.measured import Measured
from fedmarket.ledger.verify import verify

BUNDLE = runpy.run_path(str(Path(__file__).with_name("bundles.py")))["whole"]().bundle()


@pytest.fixture(scope="module")
def epsilon() -> float:
    """Of the run's plan, as the auditor finds it."""
    (run,) = verify(BUNDLE).runs
    return {name: found for name, _, found in run.observers}["coalition"]


@pytest.fixture
def attacked(made_risk, epsilon: float):
    """Return the verdict on the bundle with a risk document beside it."""

    def judge(**changed: object):
        known = {"epsilon": epsilon, "unit": "column:customer"} | changed
        return verify(BUNDLE, measured=Measured(**made_risk(**known)))

    return judge


def test_an_attack_on_this_plan_that_found_little_changes_no_verdict(attacked):
    verdict = attacked()
    assert verdict.good
    assert verdict.measured["name"] == "tiny"
    assert verify(BUNDLE).measured is None


def test_a_lower_bound_above_epsilon_breaks_the_promise(attacked, epsilon: float):
    verdict = attacked(lower=epsilon + 0.01)
    assert verdict.verdicts == {"integrity": "holds", "completeness": "holds", "promise": "broken"}
    assert verdict.lines == (
        f"promise: risk document: epsilon, measured from below: expected at most {epsilon:.4f}, "
        f"found {epsilon + 0.01:.4f}",
    )


def test_a_refuted_claim_breaks_the_promise_whatever_the_lower_bound(attacked):
    assert "its audit refuted the claim" in attacked(verdict="violated", lower=0.1).lines[0]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"epsilon": 0.5}, "epsilon that was attacked: expected {epsilon:.4f}, found 0.5000"),
        ({"delta": 1e-6}, "delta that was attacked: expected 1e-05, found 1e-06"),
        ({"unit": "row"}, "unit that was attacked: expected column:customer, found row"),
    ],
)
def test_an_attack_on_something_else_is_found(attacked, epsilon: float, changed: dict[str, object], said: str):
    verdict = attacked(**changed)
    assert verdict.lines == (f"integrity: risk document: {said.format(epsilon=epsilon)}",)
    assert not verdict.good
