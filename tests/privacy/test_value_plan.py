"""A run that predicts a value pays for its level and its segments too, out of the same epsilon."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from fedmarket.config import ValueShares
from fedmarket.errors import PlanError
from fedmarket.privacy.accountant import gaussian_epsilon, gaussian_mu
from fedmarket.privacy.histogram import SCORE_BINS, VALUE_BINS
from fedmarket.privacy.mechanism import PHASES, Phase
from fedmarket.privacy.plan import PrivacyPlan, Sharing, with_update_noise
from fedmarket.privacy.shape import Shape

PlanOf = Callable[..., PrivacyPlan]

VALUE = Shape(width=60, norm_bound=3.0, parameters=183, response=False, purchase=True, value=True, segments=18)
JOINT = replace(VALUE, response=True, parameters=244)
TWEEDIE = replace(VALUE, purchase=False, parameters=61)
SHARES = ValueShares(level_share=0.06, segment_share=0.04)
SHARING = Sharing(shares=6, parties=16, party_rows=20_000, modulus_bits=64)
WAYS: dict[str, dict[str, Any]] = {
    "own noise": {},
    "replace-one": {"adjacency": "replace-one"},
    "sampled": {"sample_rate": 0.1},
    "shared noise": {"noise": "distributed", "sharing": SHARING},
    "shared noise, replace-one": {"noise": "distributed", "sharing": SHARING, "adjacency": "replace-one"},
    "local steps": {"rounds": 10, "local_steps": 2},
}
EACH = pytest.mark.parametrize("keys", WAYS.values(), ids=WAYS)


def plan(plan_of: PlanOf, **keys: Any) -> PrivacyPlan:
    return plan_of(**{"epsilon": 1.0, "shape": VALUE, "value": SHARES, **keys})


# What is released.


def test_a_shape_says_how_long_each_release_is_and_how_far_a_customer_moves_it():
    assert {phase: VALUE.length_of(phase) for phase in PHASES} == {
        "centre": 60, "update": 183, "calibrate": 5, "level": 2, "segment": 54, "evaluate": 3 * VALUE_BINS,
    }  # fmt: skip
    assert {phase: VALUE.sensitivity_of(phase) for phase in PHASES} == {
        "centre": 3.0, "update": math.inf, "calibrate": math.sqrt(2), "level": math.sqrt(1.25),
        "segment": math.sqrt(1.5), "evaluate": math.sqrt(3),
    }  # fmt: skip
    assert (JOINT.length_of("calibrate"), JOINT.sensitivity_of("calibrate")) == (10, 2.0)
    assert (JOINT.length_of("evaluate"), JOINT.sensitivity_of("evaluate")) == (2 * SCORE_BINS + 3 * VALUE_BINS, 2.0)


def test_a_model_of_a_response_alone_is_what_it_was_before_there_were_values():
    shape = Shape(width=60, norm_bound=3.0, parameters=61)
    assert [phase for phase in PHASES if shape.has(phase)] == ["centre", "update", "calibrate", "evaluate"]
    assert (shape.length_of("calibrate"), shape.length_of("evaluate")) == (5, 2 * SCORE_BINS)
    assert (shape.sensitivity_of("calibrate"), shape.sensitivity_of("evaluate")) == (math.sqrt(2), 1.0)


RUNS: dict[str, tuple[dict[str, Any], set[Phase]]] = {
    "a purchase and its value": ({}, set(PHASES)),
    "a response too": ({"shape": JOINT}, set(PHASES)),
    "one mean has no probability": ({"shape": TWEEDIE}, set(PHASES) - {"calibrate"}),
    "no segments": ({"shape": replace(VALUE, segments=0)}, set(PHASES) - {"segment"}),
    "no private evaluation": ({"private_evaluation": "false"}, set(PHASES) - {"evaluate"}),
}


@pytest.mark.parametrize(("keys", "phases"), RUNS.values(), ids=RUNS)
def test_the_plan_has_the_phases_of_the_run_and_no_others(plan_of: PlanOf, keys: dict[str, Any], phases: set[Phase]):
    found = plan(plan_of, **keys)
    assert [mechanism.phase for mechanism in found.mechanisms] == [phase for phase in PHASES if phase in phases]
    shape = keys.get("shape", VALUE)
    for mechanism in found.mechanisms:
        assert mechanism.length == shape.length_of(mechanism.phase)
        assert found.releases_of(mechanism.phase) == mechanism.releases
        if mechanism.phase != "update":
            assert (mechanism.clip_norm, mechanism.sample_rate) == (shape.sensitivity_of(mechanism.phase), 1.0)
    for phase in set(PHASES) - phases:
        assert found.releases_of(phase) == 0
        with pytest.raises(PlanError, match=rf"^this run releases nothing in the phase {phase}$"):
            found.mechanism(phase)


# What it costs.


@EACH
@pytest.mark.parametrize("shape", [VALUE, JOINT, TWEEDIE], ids=["value", "joint", "tweedie"])
def test_the_whole_run_spends_the_target_and_no_more_by_both_accountants(
    plan_of: PlanOf, keys: dict[str, Any], shape: Shape
):
    found = plan(plan_of, **keys, shape=shape)
    spent = found.spent()
    assert len(spent.accountants) == 2
    assert 0.97 < max(spent.accountants.values()) == spent.epsilon <= 1.0
    noise = found.mechanism("update").noise_multiplier
    assert with_update_noise(found, 0.99 * noise).spent().epsilon > 1.0


@EACH
@pytest.mark.parametrize("phase", ["centre", "update", "calibrate", "level", "segment", "evaluate"])
def test_a_party_that_draws_2_percent_less_in_one_phase_breaks_the_promise(
    plan_of: PlanOf, keys: dict[str, Any], phase: Phase
):
    found = plan(plan_of, **keys)
    quieter = (
        replace(m, noise_multiplier=0.98 * m.noise_multiplier) if m.phase == phase else m for m in found.mechanisms
    )
    assert replace(found, mechanisms=tuple(quieter)).spent().epsilon > 1.0


@EACH
def test_each_phase_gets_its_share_of_squared_mu_and_the_updates_what_is_left(plan_of: PlanOf, keys: dict[str, Any]):
    found = plan(plan_of, **keys)
    whole = (gaussian_mu(1.0, 1e-5) / (2.0 if "adjacency" in keys else 1.0)) ** 2
    shares = {
        m.phase: m.releases / m.noise_multiplier**2 / whole
        for m in found.mechanisms
        if m.phase not in ("update", "evaluate")
    }
    expected = {"centre": 0.05, "calibrate": 0.05, "level": 0.06, "segment": 0.04}
    assert shares == pytest.approx(expected, rel=1e-4)
    assert all(share <= expected[phase] for phase, share in shares.items())
    update = found.mechanism("update")
    if update.sample_rate == 1:
        left = update.releases / update.noise_multiplier**2 / whole
        assert 0.75 < left < 0.8  # a little is lost to the pessimism of the accountants
    total = sum(shares.values()) + (0.8 if update.sample_rate < 1 else left)
    assert total <= 1.0 + 1e-9


def test_the_noise_that_is_drawn_costs_the_promise_by_the_exact_formula(plan_of: PlanOf):
    """What is summed here is what parties draw over how far a customer moves it, and not what the plan says of it."""
    training = [m for m in plan(plan_of, shape=JOINT).mechanisms if m.phase != "evaluate"]
    moved = {phase: JOINT.sensitivity_of(phase) for phase in PHASES} | {"update": 1.0}
    mu_squared = sum(m.releases * (moved[m.phase] / m.noise_std) ** 2 for m in training)
    assert 0.97 < gaussian_epsilon(math.sqrt(mu_squared), 1e-5) < 1.0
    shared = [m for m in plan(plan_of, shape=JOINT, **WAYS["shared noise"]).mechanisms if m.phase != "evaluate"]
    mu_squared = sum(m.releases * (moved[m.phase] / m.noise_std) ** 2 / SHARING.shares for m in shared)
    assert 0.97 < gaussian_epsilon(math.sqrt(mu_squared), 1e-5) < 1.0


def test_a_shape_without_probabilities_leaves_their_share_to_the_updates(plan_of: PlanOf):
    with_it, without = plan(plan_of), plan(plan_of, shape=TWEEDIE)
    assert without.mechanism("update").noise_multiplier < 0.99 * with_it.mechanism("update").noise_multiplier


def test_without_privacy_the_same_phases_are_released_without_noise(bare_plan_of: PlanOf, plan_of: PlanOf):
    bare = bare_plan_of(epsilon=1.0, shape=VALUE, value=SHARES, clip_norm=math.inf)
    protected = plan(plan_of)
    released = [(m.phase, m.releases, m.length) for m in bare.mechanisms]
    assert released == [(m.phase, m.releases, m.length) for m in protected.mechanisms]
    assert {m.noise_std for m in bare.mechanisms} == {0.0}
    assert not bare.private
