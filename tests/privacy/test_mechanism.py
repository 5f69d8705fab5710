"""One noisy sum: on a grid it is whole steps with the law of a share, elsewhere a continuous normal of one's own."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fedmarket.errors import PlanError
from fedmarket.privacy.discrete import DiscreteGaussian
from fedmarket.privacy.distributed import SummedNoise
from fedmarket.privacy.mechanism import NOISE_REACH, Grid, Mechanism, finest_step
from fedmarket.privacy.noise import Stream

DOUBT = 1e-7
"""A right law is rejected this rarely: the streams are secret, so no seed makes a lucky run last."""

DRAWS = 300_000

UPDATE: dict[str, Any] = {"phase": "update", "clip_norm": 0.4, "sample_rate": 1.0, "releases": 3}


def local(*, noise_multiplier: float = 2.5) -> Mechanism:
    return Mechanism(**UPDATE, noise_multiplier=noise_multiplier, length=9)


def shared(
    *, shares: int = 4, resolution: float = 2.0**-6, noise_multiplier: float = 2.5, length: int = 9
) -> Mechanism:
    grid = Grid(resolution=resolution, shares=shares, slack=1e-6)
    return Mechanism(**UPDATE, noise_multiplier=noise_multiplier, length=length, grid=grid)


# The finest step.


@given(
    bound=st.floats(1e-6, 1e12), parties=st.integers(1, 10_000), modulus_bits=st.sampled_from([32, 64]),
    no_finer_than=st.floats(0.0, 1e6),
)  # fmt: skip
def test_the_finest_step_is_the_least_power_of_two_that_holds_the_sum(
    bound: float, parties: int, modulus_bits: int, no_finer_than: float
):
    step = finest_step(bound, parties=parties, modulus_bits=modulus_bits, no_finer_than=no_finer_than)
    assert math.frexp(step)[0] == 0.5
    assert parties * bound / step <= 2.0 ** (modulus_bits - 2)
    assert step >= no_finer_than
    half = step / 2
    assert parties * bound / half > 2.0 ** (modulus_bits - 2) * (1 - 1e-12) or half < no_finer_than * (1 + 1e-12)


@given(bound=st.floats(1e-3, 1e6), parties=st.integers(1, 1000))
def test_more_parties_larger_values_or_shorter_words_never_make_the_step_finer(bound: float, parties: int):
    step = finest_step(bound, parties=parties, modulus_bits=32)
    assert finest_step(2 * bound, parties=parties, modulus_bits=32) == 2 * step
    assert finest_step(bound, parties=parties + 1, modulus_bits=32) >= step
    assert finest_step(bound, parties=parties, modulus_bits=64) == step / 2.0**32


@pytest.mark.parametrize("bound", [0.0, -1.0, math.inf, math.nan])
def test_a_range_that_is_none_has_no_step(bound: float):
    with pytest.raises(PlanError, match="the range of an update must be positive and finite"):
        finest_step(bound, parties=4, modulus_bits=32)


# Noise on a grid.


@given(
    exact=st.lists(st.floats(-4000.0, 4000.0), min_size=1, max_size=20), seed=st.integers(0, 2**32),
    exponent=st.integers(-30, 0), shares=st.integers(1, 20),
)  # fmt: skip
def test_a_shared_sum_is_rounded_and_moved_by_whole_steps_that_float64_holds(
    exact: list[float], seed: int, exponent: int, shares: int
):
    mechanism = shared(shares=shares, resolution=2.0**exponent)
    noisy = mechanism.noisy(np.array(exact), Stream.seeded(seed))
    assert noisy.dtype == np.float64
    steps = noisy / 2.0**exponent
    assert np.abs(steps).max() < 2**53
    whole = [int(step) for step in steps]
    assert whole == steps.tolist()
    drawn = DiscreteGaussian(mechanism.noise_std / 2.0**exponent).draw(Stream.seeded(seed), len(exact))
    assert [step - int(noise) for step, noise in zip(whole, drawn, strict=True)] == [
        round(value / 2.0**exponent)
        for value in exact  # ties to even, as in the standard
    ]


def test_sums_of_shared_noise_lose_nothing_in_any_order():
    """All values are whole steps: adding them is exact, and what is masked is what was drawn."""
    parties = np.stack([shared().noisy(np.full(50, 0.1 * place), Stream.secret()) for place in range(40)])
    backwards = parties[::-1].cumsum(axis=0)[-1]
    np.testing.assert_array_equal(parties.cumsum(axis=0)[-1], backwards)


def law_complaints(draws: np.ndarray, std: float) -> list[str]:
    """Return which tests against independent N_Z(0, std^2) reject whole numbers ``draws`` (n,)."""
    n = draws.size
    spread = (float(np.sum(draws.astype(np.float64) ** 2)) / std**2 - n) / math.sqrt(2 * n)
    reach = round(3 * std)
    masses = np.exp(-(np.arange(-40 * reach, 40 * reach + 1) ** 2) / (2 * std**2))
    masses /= masses.sum()
    middle = 40 * reach
    inner = masses[middle - reach : middle + reach + 1]
    expected = np.array([masses[: middle - reach].sum(), *inner, masses[middle + reach + 1 :].sum()]) * n
    found = np.bincount(np.clip(draws, -reach - 1, reach + 1) + reach + 1, minlength=2 * reach + 3)
    chances = {
        "mean": 2 * stats.norm.sf(abs(draws.mean()) * math.sqrt(n) / std),
        "variance": 2 * stats.norm.sf(abs(spread)),
        "shape": stats.chisquare(found, expected * (n / expected.sum())).pvalue,
        "neighbours": stats.pearsonr(draws[1:], draws[:-1]).pvalue,
    }  # fmt: skip
    return [name for name, chance in chances.items() if not chance > DOUBT]


@pytest.mark.statistical
@pytest.mark.parametrize("shares", [1, 3, 10])
def test_what_a_party_adds_is_a_discrete_gaussian_of_its_share(shares: int):
    mechanism = shared(shares=shares)
    steps = mechanism.noisy(np.zeros(DRAWS), Stream.secret()) / 2.0**-6
    draws = steps.astype(np.int64)
    std = mechanism.noise_std / 2.0**-6
    assert law_complaints(draws, std) == []
    for wrong in (0.98 * std, 1.02 * std):
        assert law_complaints(draws, wrong) != []
    assert law_complaints(draws + math.ceil(0.02 * std), std) != []
    assert law_complaints(np.rint(draws / 4).astype(np.int64) * 4, std) != []


@pytest.mark.statistical
@pytest.mark.parametrize("shares", [1, 3, 10])
def test_shares_of_all_parties_together_are_the_noise_that_is_accounted(shares: int):
    mechanism = shared(shares=shares)
    total = sum(mechanism.noisy(np.zeros(DRAWS), Stream.secret()) for _ in range(shares))
    steps = (np.asarray(total) / 2.0**-6).astype(np.int64)
    whole = mechanism.noise_multiplier * mechanism.sensitivity / 2.0**-6
    assert law_complaints(steps, math.sqrt(whole**2 + 4.0)) == []
    assert law_complaints(steps, 0.98 * whole) != []
    if shares > 1:
        one_left_out = math.sqrt((shares - 1) / shares) * whole
        assert law_complaints(steps, one_left_out) != []


@pytest.mark.parametrize("shares", [1, 10])
def test_no_draw_is_beyond_the_reach_that_words_are_sized_for(shares: int):
    mechanism = shared(shares=shares)
    assert np.abs(mechanism.noisy(np.zeros(DRAWS), Stream.secret())).max() <= mechanism.noise_reach
    assert 12 * mechanism.noise_std <= mechanism.noise_reach <= 18 * mechanism.noise_std


def test_who_misses_more_shares_sees_more_noise():
    mechanism = shared(shares=4)
    std, sensitivity = mechanism.noise_std / 2.0**-6, mechanism.sensitivity / 2.0**-6
    for missed in (1, 3, 4, 9):
        seen = mechanism.event(shares=missed).noise_multiplier
        assert seen == pytest.approx(math.sqrt(missed * std**2 - 4.0) / sensitivity, rel=1e-12)
    assert mechanism.event(shares=4).noise_multiplier == pytest.approx(mechanism.event().noise_multiplier, rel=1e-9)
    assert mechanism.event(shares=4).noise_multiplier >= mechanism.event().noise_multiplier


def test_the_distance_is_that_of_every_coordinate():
    mechanism = shared(length=9, resolution=0.25, noise_multiplier=1.0, shares=30)
    one = SummedNoise(share_std=mechanism.noise_std / 0.25, shares=30).distance
    assert one > 0
    assert mechanism.distance == pytest.approx(9 * one, rel=1e-12)
    assert local().distance == 0.0


# Noise of one's own.


def test_noise_of_ones_own_is_a_continuous_normal_and_nothing_is_rounded():
    mechanism = local()
    exact = np.array([0.1, -3.7, 1e6])
    noisy = mechanism.noisy(exact, Stream.seeded(5, "own"))
    np.testing.assert_array_equal(noisy, exact + 2.5 * 0.4 * Stream.seeded(5, "own").normals(3))
    assert (mechanism.sensitivity, mechanism.noise_std) == (0.4, 1.0)
    assert mechanism.noise_reach == NOISE_REACH * 1.0


def test_against_noise_of_ones_own_no_share_is_known():
    assert {local().event(shares=missed) for missed in (None, 1, 7)} == {local().event()}


@pytest.mark.parametrize("mechanism", [local(noise_multiplier=0.0), shared(noise_multiplier=0.0)], ids=["own", "grid"])
def test_without_noise_a_sum_is_left_as_it_is_and_nothing_is_drawn(mechanism: Mechanism):
    exact, stream = np.array([0.1, -3.7]), Stream.seeded(1)
    assert mechanism.noisy(exact, stream) is exact
    np.testing.assert_array_equal(stream.words(3), Stream.seeded(1).words(3))
    assert (mechanism.noise_std, mechanism.noise_reach, mechanism.distance) == (0.0, 0.0, 0.0)
    assert mechanism.event(shares=3).noise_multiplier == 0.0
