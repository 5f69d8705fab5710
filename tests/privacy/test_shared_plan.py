"""Plans of shared noise: what is promised to whom, by which noise of each party, at what price of rounding."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import pytest

from fedmarket.errors import PlanError
from fedmarket.privacy.accountant import exact_epsilon, gaussian_epsilon, gaussian_mu, spent
from fedmarket.privacy.distributed import SummedNoise, concentrated_epsilon, reduced_delta
from fedmarket.privacy.histogram import SCORE_BINS
from fedmarket.privacy.mechanism import Grid, Mechanism
from fedmarket.privacy.plan import PrivacyPlan, Sharing, with_update_noise

# Noise that parties share.

SHARING = Sharing(shares=6, parties=16, party_rows=20_000, modulus_bits=64)
LENGTHS = {"centre": 60, "update": 61, "calibrate": 5, "evaluate": 2 * SCORE_BINS}


PlanOf = Callable[..., PrivacyPlan]


def shared(plan_of: PlanOf, *, shares: int = 6, modulus_bits: Literal[32, 64] = 64, **keys: object) -> PrivacyPlan:
    sharing = replace(SHARING, shares=shares, modulus_bits=modulus_bits)
    return plan_of(**{"epsilon": 1.0, "noise": "distributed", "sharing": sharing, **keys})


def steps_of(mechanism: Mechanism) -> tuple[SummedNoise, float]:
    """Return the noise of all shares and the sensitivity, both in steps of the grid."""
    grid = mechanism.grid
    assert grid is not None
    noise = SummedNoise(share_std=mechanism.noise_std / grid.resolution, shares=grid.shares)
    return noise, mechanism.sensitivity / grid.resolution


@pytest.mark.parametrize("modulus_bits", [32, 64])
@pytest.mark.parametrize("shares", range(1, 11))
def test_shared_noise_spends_the_target_and_no_more_for_any_words_and_shares(
    plan_of: PlanOf, shares: int, modulus_bits: Literal[32, 64]
):
    plan = shared(plan_of, shares=shares, modulus_bits=modulus_bits)
    assert plan.shares == shares
    assert 0.999 < plan.spent().epsilon <= 1.0
    noise = plan.mechanism("update").noise_multiplier
    assert with_update_noise(plan, 0.999 * noise).spent().epsilon > 1.0


SHARED_PLANS = {
    "eps 0.1": {"epsilon": 0.1},
    "eps 3": {"epsilon": 3.0},
    "replace-one": {"adjacency": "replace-one"},
    "sampled": {"sample_rate": 0.1},
}


@pytest.mark.parametrize("keys", SHARED_PLANS.values(), ids=SHARED_PLANS)
def test_shared_noise_keeps_the_promise_under_every_relation_and_sampling(plan_of: PlanOf, keys: dict[str, object]):
    plan = shared(plan_of, **keys)
    target = float(str(keys.get("epsilon", 1.0)))
    assert 0.97 * target < plan.spent().epsilon <= target
    assert plan.mechanism("update").noise_multiplier == pytest.approx(
        plan_of(**{"epsilon": 1.0, **keys}).mechanism("update").noise_multiplier, rel=1e-3
    )


@pytest.mark.parametrize("shares", [1, 3, 10])
def test_the_sum_of_the_shares_alone_costs_the_promise_by_the_exact_formula(plan_of: PlanOf, shares: int):
    """What is summed here is the variance that parties draw, and not what the plan says of it."""
    mu_squared = 0.0
    for mechanism in shared(plan_of, shares=shares).mechanisms:
        if mechanism.phase != "evaluate":
            variance = shares * mechanism.noise_std**2
            mu_squared += mechanism.releases * mechanism.sensitivity**2 / variance
    assert 0.99 < gaussian_epsilon(math.sqrt(mu_squared), 1e-5) < 1.0


@pytest.mark.parametrize("modulus_bits", [32, 64])
@pytest.mark.parametrize("shares", [1, 3, 10])
def test_the_published_theorem_finds_little_more_than_is_promised(
    plan_of: PlanOf, shares: int, modulus_bits: Literal[32, 64]
):
    rho = 0.0
    for mechanism in shared(plan_of, shares=shares, modulus_bits=modulus_bits).mechanisms:
        if mechanism.phase != "evaluate":
            noise, sensitivity = steps_of(mechanism)
            rho += mechanism.releases * noise.concentrated_rho(sensitivity, length=LENGTHS[mechanism.phase])
    assert 1.0 < concentrated_epsilon(rho, 1e-5) < 1.12


@pytest.mark.parametrize("modulus_bits", [32, 64])
@pytest.mark.parametrize("shares", [1, 2, 6, 10])
def test_each_party_draws_the_whole_noise_over_the_square_root_of_the_shares(
    plan_of: PlanOf, shares: int, modulus_bits: Literal[32, 64]
):
    for mechanism in shared(plan_of, shares=shares, modulus_bits=modulus_bits).mechanisms:
        whole = mechanism.noise_multiplier * mechanism.sensitivity
        assert mechanism.noise_std == pytest.approx(whole / math.sqrt(shares), rel=1e-5)
        # To the last digit: two steps of standard deviation are added, which a continuous stand-in lacks.
        exact = math.sqrt((whole**2 + 4 * mechanism.grid.resolution**2) / shares)
        assert exact <= mechanism.noise_std < exact * (1 + 1e-9)


def test_the_sensitivity_on_a_grid_is_the_clip_with_float64s_error_and_rounding(plan_of: PlanOf):
    plan = shared(plan_of, clip_norm=0.5)
    clips = {"centre": 3.0, "update": 0.5, "calibrate": math.sqrt(2), "evaluate": 1.0}
    slack = 1e-6 + 4 * 20_000**2 * 2.0**-53
    for mechanism in plan.mechanisms:
        resolution = mechanism.grid.resolution
        assert math.frexp(resolution)[0] == 0.5
        by_hand = clips[mechanism.phase] * (1 + slack) + resolution * math.sqrt(LENGTHS[mechanism.phase])
        assert mechanism.sensitivity == pytest.approx(by_hand, rel=1e-14)
        assert mechanism.sensitivity > mechanism.clip_norm == clips[mechanism.phase]


def test_shorter_words_have_a_coarser_grid_and_cost_a_little_more_noise(plan_of: PlanOf):
    short, long = (shared(plan_of, modulus_bits=bits) for bits in (32, 64))
    for one, other in zip(short.mechanisms, long.mechanisms, strict=True):
        assert one.grid.resolution > 100 * other.grid.resolution
        assert other.sensitivity < one.sensitivity < 1.01 * other.sensitivity
        assert other.grid.resolution >= other.clip_norm * 2.0**-24
    assert short.mechanism("update").noise_multiplier == long.mechanism("update").noise_multiplier


@pytest.mark.parametrize("modulus_bits", [32, 64])
def test_who_misses_more_shares_learns_less(plan_of: PlanOf, modulus_bits: Literal[32, 64]):
    plan = shared(plan_of, shares=4, modulus_bits=modulus_bits)
    public, party, coalition, bare = (plan.epsilon_against(missed) for missed in (7, 6, 4, 1))
    assert public < party < coalition < bare
    assert coalition == pytest.approx(plan.spent().epsilon, abs=1e-6)
    assert coalition <= 1.0
    mu = gaussian_mu(1.0, 1e-5)
    for missed, epsilon in ((7, public), (6, party), (1, bare)):
        assert epsilon == pytest.approx(gaussian_epsilon(mu * math.sqrt(4 / missed), 1e-5), rel=1e-3)


def test_noise_of_ones_own_is_the_same_against_everyone(plan_of: PlanOf):
    plan = plan_of(epsilon=1.0)
    assert plan.shares is None
    assert {plan.epsilon_against(missed) for missed in (1, 2, 7)} == {plan.spent().epsilon}


def test_a_share_of_noise_protects_no_steps_of_a_partys_own(plan_of: PlanOf):
    with pytest.raises(
        PlanError, match=r"^local_steps of a private schedule: expected 1 with distributed noise, got 2"
    ):
        shared(plan_of, local_steps=2)


def test_shared_noise_without_the_number_of_shares_is_refused(plan_of: PlanOf):
    with pytest.raises(PlanError, match=r"privacy\.noise: distributed noise needs the number of its shares"):
        plan_of(epsilon=1.0, noise="distributed")


@pytest.mark.parametrize("shares", [0, -1])
def test_noise_of_nobody_is_refused(plan_of: PlanOf, shares: int):
    with pytest.raises(PlanError, match="shares"):
        shared(plan_of, shares=shares)


def test_a_plan_without_privacy_shares_no_noise_either(bare_plan_of: PlanOf):
    bare = bare_plan_of(epsilon=1.0, noise="distributed", clip_norm=1.0)
    assert bare.shares is None
    assert all((m.noise_std, m.noise_reach, m.distance) == (0.0, 0.0, 0.0) for m in bare.mechanisms)
    assert bare.spent().epsilon == bare.epsilon_against(7) == math.inf


# What the distance from a continuous law costs.


def coarse(*, shares: int, resolution: float = 1.0, noise_multiplier: float = 4.0, releases: int = 1) -> PrivacyPlan:
    """Return a plan of one number a release, whose noise is a few steps wide in all."""
    grid = Grid(resolution=resolution, shares=shares, slack=0.0)
    update = Mechanism(
        phase="update",
        clip_norm=1.0,
        noise_multiplier=noise_multiplier,
        sample_rate=1.0,
        releases=releases,
        length=1,
        grid=grid,
    )
    return PrivacyPlan(
        unit="row", adjacency="add-or-remove-one", delta=1e-5, generator="operating-system", mechanisms=(update,)
    )


def undistorted(plan: PrivacyPlan) -> float:
    events = tuple(m.event() for m in plan.mechanisms)
    return spent(events, delta=1e-5, adjacency="add-or-remove-one").epsilon


def test_a_distance_is_paid_for_out_of_delta():
    plan = coarse(shares=35, releases=3)
    (update,) = plan.mechanisms
    found = plan.spent()
    left = reduced_delta(1e-5, epsilon=found.epsilon, distance=3 * update.distance)
    assert 0.97 < left / 1e-5 < 0.997
    by_hand = exact_epsilon((update.event(),), left)
    assert undistorted(plan) + 1e-4 < by_hand <= found.epsilon < 1.001 * by_hand + 0.001
    assert found.delta == 1e-5


def test_a_distance_that_would_cost_more_than_a_thousandth_is_refused():
    plan = coarse(shares=45, releases=3)
    assert 3 * plan.mechanisms[0].distance < 1e-5
    with pytest.raises(PlanError, match=r"delta 1e-05 does not pay for a distance of .*; a finer grid is needed"):
        plan.spent()


def test_a_distance_that_delta_does_not_bear_claims_no_epsilon():
    assert coarse(shares=200).mechanisms[0].distance > 1e-5
    with pytest.raises(PlanError, match="does not pay for a distance"):
        coarse(shares=200).spent()
    assert coarse(shares=200, resolution=0.1).spent().epsilon < math.inf


def test_distances_of_all_releases_add_up():
    once, often = (coarse(shares=35, noise_multiplier=4.0 * n**0.5, releases=n) for n in (1, 4))
    assert undistorted(once) == pytest.approx(undistorted(often), rel=1e-6)
    assert often.spent({"update": 1}).epsilon < often.spent().epsilon
    assert often.mechanisms[0].distance < once.mechanisms[0].distance


def test_on_the_grids_of_a_plan_the_distance_costs_nothing_to_speak_of(plan_of: PlanOf):
    for shares in (1, 10):
        plan = shared(plan_of, shares=shares, modulus_bits=32)
        whole = sum(m.distance * m.releases for m in plan.mechanisms)
        assert 0 < whole < 1e-25
        events = tuple(m.event() for m in plan.mechanisms if m.phase != "evaluate")
        alone = spent(events, delta=1e-5, adjacency="add-or-remove-one").epsilon
        assert plan.spent().epsilon == pytest.approx(alone, abs=1e-9)
