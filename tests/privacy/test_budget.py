"""The party counts its own releases and refuses the first that the plan does not hold."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmarket.config import ValueShares
from fedmarket.errors import PlanError, Refusal
from fedmarket.privacy.budget import Spending
from fedmarket.privacy.mechanism import Mechanism
from fedmarket.privacy.plan import PrivacyPlan
from fedmarket.privacy.shape import Shape

PlanOf = Callable[..., PrivacyPlan]

ALLOWED = {"centre": 1, "update": 20, "calibrate": 3, "level": 1, "segment": 1, "evaluate": 1}


def plan() -> PrivacyPlan:
    mechanisms = tuple(
        Mechanism(phase=phase, clip_norm=1.0, noise_multiplier=9.0, sample_rate=1.0, releases=releases, length=1)
        for phase, releases in ALLOWED.items()
    )
    return PrivacyPlan(
        unit="row", adjacency="add-or-remove-one", delta=1e-5, generator="operating-system", mechanisms=mechanisms
    )


@pytest.mark.parametrize("phase", ALLOWED)
def test_the_last_release_is_allowed_and_the_next_refused(phase: str):
    spending = Spending().charged(plan(), phase, ALLOWED[phase])
    assert spending.releases()[phase] == ALLOWED[phase]
    with pytest.raises(Refusal, match=rf"1 more release\(s\) of {phase} asked, 0 left of {ALLOWED[phase]}"):
        spending.charged(plan(), phase, 1)


def test_a_round_that_does_not_fit_whole_is_refused_whole():
    spending = Spending(update=18)
    with pytest.raises(Refusal, match=r"3 more release.* 2 left of 20"):
        spending.charged(plan(), "update", 3)
    assert spending == Spending(update=18)
    assert spending.charged(plan(), "update", 2) == Spending(update=20)


@pytest.mark.parametrize("phase", ["level", "segment"])
def test_what_the_plan_does_not_have_is_refused_and_nothing_is_charged(plan_of: PlanOf, phase: str):
    spending = Spending()
    with pytest.raises(PlanError, match=rf"^this run releases nothing in the phase {phase}$"):
        spending.charged(plan_of(epsilon=1.0), phase, 1)
    assert spending == Spending()


@given(asked=st.lists(st.tuples(st.sampled_from(sorted(ALLOWED)), st.integers(1, 9)), max_size=40))
def test_no_order_of_requests_gets_more_than_the_plan_holds(asked: list[tuple[str, int]]):
    spending, granted = Spending(), dict.fromkeys(ALLOWED, 0)
    for phase, count in asked:
        try:
            spending = spending.charged(plan(), phase, count)
            granted[phase] += count
        except Refusal:
            assert granted[phase] + count > ALLOWED[phase]
    assert spending.releases() == granted
    assert all(granted[phase] <= ALLOWED[phase] for phase in ALLOWED)


PLANS = {
    "response": {},
    "value": {
        "shape": Shape(
            width=60, norm_bound=3.0, parameters=183, response=False, purchase=True, value=True, segments=18
        ),
        "value": ValueShares(level_share=0.06, segment_share=0.04),
    },
}


@pytest.mark.parametrize("keys", PLANS.values(), ids=PLANS)
def test_the_whole_budget_spent_is_the_epsilon_of_the_plan(plan_of: PlanOf, keys: dict[str, object]):
    calibrated = plan_of(epsilon=1.0, **keys)
    assert len(calibrated.mechanisms) == (6 if keys else 4)
    spending, last = Spending(), 0.0
    for phase in (mechanism.phase for mechanism in calibrated.mechanisms):
        count = ALLOWED[phase]
        spending = spending.charged(calibrated, phase, count)
        # Held-out rows pay for themselves: they spend, but training rows have spent as much.
        assert (last < spending.spent(calibrated).epsilon <= 1.0) == (phase != "evaluate")
        last = spending.spent(calibrated).epsilon
    assert spending.spent(calibrated) == calibrated.spent()
    assert Spending().spent(calibrated).epsilon == 0.0
