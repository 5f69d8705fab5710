"""One plan yields clip, noise, sampling and events; its whole run spends the target and no more."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from fedmarket.errors import PlanError
from fedmarket.privacy import accountant
from fedmarket.privacy.accountant import gaussian_epsilon, gaussian_mu
from fedmarket.privacy.histogram import SCORE_BINS
from fedmarket.privacy.mechanism import Mechanism, Phase
from fedmarket.privacy.plan import PrivacyPlan, Sharing, with_update_noise

PlanOf = Callable[..., PrivacyPlan]

PLANS = {
    "eps 0.1": (0.1, {}),
    "eps 1": (1.0, {}),
    "eps 1, replace-one": (1.0, {"adjacency": "replace-one"}),
    "eps 1, sampled": (1.0, {"sample_rate": 0.1}),
    "eps 4": (4.0, {}),
}


@pytest.mark.parametrize(("epsilon", "keys"), PLANS.values(), ids=PLANS)
def test_the_whole_run_spends_the_target_and_no_more(plan_of: PlanOf, epsilon: float, keys: dict[str, object]):
    plan = plan_of(epsilon=epsilon, **keys)
    assert 0.97 * epsilon < plan.spent().epsilon <= epsilon
    noise = plan.mechanism("update").noise_multiplier
    assert with_update_noise(plan, 0.99 * noise).spent().epsilon > epsilon


@pytest.mark.parametrize(("epsilon", "keys"), [PLANS[name] for name in ("eps 0.1", "eps 1", "eps 4")])
def test_a_full_batch_run_truly_spends_little_less(plan_of: PlanOf, epsilon: float, keys: dict[str, object]):
    """The exact epsilon lies below the reported one by the error bounds of the accountants alone."""
    training = [m for m in plan_of(epsilon=epsilon, **keys).mechanisms if m.phase != "evaluate"]
    mu_squared = sum(m.releases / m.noise_multiplier**2 for m in training)
    exact = gaussian_epsilon(math.sqrt(mu_squared), 1e-5)
    assert epsilon - 0.02 - 0.01 * epsilon < exact < epsilon


@pytest.mark.parametrize("phase", ["centre", "update", "calibrate"])
def test_leaving_a_release_out_of_the_account_would_understate_it(plan_of: PlanOf, phase: str):
    plan = plan_of(epsilon=1.0)
    counts = {m.phase: m.releases for m in plan.mechanisms}
    assert plan.spent(counts) == plan.spent()
    assert plan.spent({**counts, phase: counts[phase] - 1}).epsilon < plan.spent().epsilon


def test_epsilon_is_of_all_rounds_together_and_not_of_one(plan_of: PlanOf):
    plan = plan_of(epsilon=1.0)
    one, two = (plan.spent({"update": count}).epsilon for count in (1, 2))
    assert one < two < 2 * one
    assert two < plan.spent().epsilon < 20 * one


def test_nothing_released_is_nothing_spent(plan_of: PlanOf):
    assert plan_of(epsilon=1.0).spent({}).epsilon == 0.0
    assert plan_of(epsilon=1.0).spent({"centre": 0, "update": 0, "calibrate": 0, "evaluate": 0}).epsilon == 0.0


@pytest.mark.parametrize("keys", [{}, {"adjacency": "replace-one"}], ids=["add-or-remove-one", "replace-one"])
def test_centre_and_calibration_get_their_shares_of_squared_mu(plan_of: PlanOf, keys: dict[str, object]):
    plan = plan_of(epsilon=1.0, **keys)
    factor = 2.0 if keys else 1.0
    whole = gaussian_mu(1.0, 1e-5) ** 2
    for phase in ("centre", "calibrate"):
        mechanism = plan.mechanism(phase)
        share = mechanism.releases * (factor / mechanism.noise_multiplier) ** 2 / whole
        assert share == pytest.approx(0.05, rel=1e-4)
        assert share <= 0.05


def test_the_plan_holds_the_bounds_that_the_trainer_enforces(plan_of: PlanOf):
    plan = plan_of(epsilon=1.0, sample_rate=0.1)
    found = {m.phase: (m.clip_norm, m.sample_rate, m.releases) for m in plan.mechanisms}
    assert found == {
        "centre": (3.0, 1.0, 1),
        "update": (1.0, 0.1, 20),
        "calibrate": (math.sqrt(2), 1.0, 3),
        "evaluate": (1.0, 1.0, 1),
    }
    lengths = {m.phase: m.length for m in plan.mechanisms}
    assert lengths == {"centre": 60, "update": 61, "calibrate": 5, "evaluate": 2 * SCORE_BINS}


def test_what_is_accounted_is_what_is_drawn():
    mechanism = Mechanism(phase="update", clip_norm=0.3, noise_multiplier=7.0, sample_rate=0.25, releases=9, length=1)
    assert mechanism.noise_std == pytest.approx(2.1)
    event = mechanism.event()
    assert (event.noise_multiplier, event.sample_rate, event.count) == (7.0, 0.25, 9)
    assert mechanism.event(4).count == 4


def test_local_steps_are_releases_of_their_own(plan_of: PlanOf):
    """Half the rounds of two steps each draw as often, and need the same noise."""
    assert plan_of(epsilon=1.0, rounds=10, local_steps=2).mechanism("update") == plan_of(epsilon=1.0).mechanism(
        "update"
    )


def test_the_clip_scales_the_noise_and_not_its_multiplier(plan_of: PlanOf):
    one, half = (plan_of(epsilon=1.0, clip_norm=clip).mechanism("update") for clip in (1.0, 0.5))
    assert one.noise_multiplier == half.noise_multiplier
    assert one.noise_std == 2 * half.noise_std


def test_sampling_under_replace_one_is_refused_before_any_noise_is_sought(plan_of: PlanOf):
    with pytest.raises(PlanError, match=r"privacy\.sample_rate: expected 1 .* replace-one, got 0\.5"):
        plan_of(epsilon=1.0, adjacency="replace-one", sample_rate=0.5)


def test_only_noise_from_the_operating_system_on_every_release_is_private(plan_of: PlanOf):
    plan = plan_of(epsilon=1.0)
    assert plan.private
    assert not replace(plan, generator="seeded-for-tests").private
    assert not plan_of(epsilon=1.0, generator="seeded-for-tests").private
    for place in range(4):
        mechanisms = list(plan.mechanisms)
        mechanisms[place] = replace(mechanisms[place], noise_multiplier=0.0)
        bare = replace(plan, mechanisms=tuple(mechanisms))
        assert not bare.private
        assert bare.spent().epsilon == math.inf


@pytest.mark.parametrize("clip_norm", [math.inf, 1.0])
def test_a_run_without_privacy_claims_none(bare_plan_of: PlanOf, clip_norm: float):
    bare = bare_plan_of(epsilon=1.0, sample_rate=0.1, rounds=7, clip_norm=clip_norm)
    assert bare.spent().epsilon == math.inf
    assert not bare.private
    assert [(m.noise_std, m.sample_rate) for m in bare.mechanisms] == [(0.0, 1.0)] * 4
    assert (bare.mechanism("update").clip_norm, bare.mechanism("update").releases) == (clip_norm, 7)


def test_noise_is_written_with_six_digits_and_never_rounded_down(plan_of: PlanOf):
    plan = plan_of(epsilon=1.0)
    for mechanism in plan.mechanisms:
        assert float(f"{mechanism.noise_multiplier:.6g}") == pytest.approx(mechanism.noise_multiplier, rel=1e-12)
    exact = 1 / (np.sqrt(0.05) * gaussian_mu(1.0, 1e-5))
    assert exact <= plan.mechanism("centre").noise_multiplier < exact * 1.00002


@pytest.mark.parametrize(("epsilon", "rate"), [(1.2345, 0.1), (1.2345, 1.0)])
def test_noise_is_sought_by_one_accountant_and_held_against_both(
    plan_of: PlanOf, monkeypatch: pytest.MonkeyPatch, epsilon: float, rate: float
):
    asked = []
    found = accountant.pld_epsilon
    monkeypatch.setattr(accountant, "pld_epsilon", lambda *events: asked.append(events) or found(*events))
    plan = plan_of(epsilon=epsilon, sample_rate=rate)
    assert 1 <= len(asked) <= 2
    assert 0.9999 * epsilon < plan.spent().epsilon <= epsilon


@pytest.mark.parametrize(("epsilon", "rate"), [(1.2346, 0.1), (1.2346, 1.0)])
def test_where_the_other_accountant_finds_more_it_decides(
    plan_of: PlanOf, monkeypatch: pytest.MonkeyPatch, epsilon: float, rate: float
):
    first = accountant.prv_epsilon if rate < 1 else accountant.exact_epsilon
    monkeypatch.setattr(accountant, "pld_epsilon", lambda events, delta: first(events, delta) + 0.015)
    plan = plan_of(epsilon=epsilon, sample_rate=rate)
    spent = plan.spent({m.phase: m.releases for m in plan.mechanisms if m.phase != "evaluate"})
    assert spent.epsilon == spent.accountants["pld"]
    assert 0.9999 * epsilon < spent.epsilon <= epsilon


# Training rows and held-out rows pay apart.

SHARING = Sharing(shares=6, parties=16, party_rows=20_000, modulus_bits=64)
TRAINING: dict[Phase, int] = {"centre": 1, "update": 20, "calibrate": 3}
HELD_OUT: dict[Phase, int] = {"evaluate": 1}


def louder(plan: PrivacyPlan, phase: Phase, factor: float) -> PrivacyPlan:
    """Return ``plan`` with ``factor`` times the noise in one phase, as a party would draw it."""
    return replace(
        plan,
        mechanisms=tuple(
            replace(m, noise_multiplier=factor * m.noise_multiplier) if m.phase == phase else m for m in plan.mechanisms
        ),
    )


@pytest.mark.parametrize("noise", ["local", "distributed"])
def test_what_is_spent_is_the_larger_of_training_rows_and_held_out_rows(plan_of: PlanOf, noise: str):
    plan = plan_of(epsilon=1.0, noise=noise, sharing=SHARING if noise == "distributed" else None)
    trained, held_out = plan.spent(TRAINING), plan.spent(HELD_OUT)
    assert plan.spent() == max(trained, held_out, key=lambda found: found.epsilon)
    assert min(trained.epsilon, held_out.epsilon) > 0.97
    weak = louder(plan, "evaluate", 0.5)
    assert weak.spent() == weak.spent(HELD_OUT)
    assert weak.spent(HELD_OUT).epsilon > 2 * weak.spent(TRAINING).epsilon
    assert weak.spent(TRAINING) == trained


def test_held_out_rows_take_nothing_from_training(plan_of: PlanOf):
    with_it, without = (plan_of(epsilon=1.0, private_evaluation=said) for said in ("true", "false"))
    assert with_it.mechanism("update") == without.mechanism("update")
    assert (with_it.releases_of("evaluate"), without.releases_of("evaluate")) == (1, 0)
    assert without.spent() == with_it.spent(TRAINING)
    assert without.epsilon_against(1) == without.spent().epsilon


@pytest.mark.parametrize("noise", ["local", "distributed"])
@pytest.mark.parametrize("phase", ["centre", "update", "calibrate", "evaluate"])
def test_a_party_that_draws_1_percent_less_in_one_phase_breaks_the_promise(plan_of: PlanOf, phase: Phase, noise: str):
    plan = plan_of(epsilon=1.0, noise=noise, sharing=SHARING if noise == "distributed" else None)
    assert louder(plan, phase, 1.0).spent().epsilon <= 1.0
    assert louder(plan, phase, 0.99).spent().epsilon > 1.0


def test_held_out_rows_count_in_what_an_observer_learns(plan_of: PlanOf):
    plan = louder(plan_of(epsilon=1.0, noise="distributed", sharing=SHARING), "evaluate", 0.5)
    assert plan.epsilon_against(6) == pytest.approx(plan.spent(HELD_OUT).epsilon, abs=1e-6)
