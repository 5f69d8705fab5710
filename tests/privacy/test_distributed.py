"""What is claimed for summed noise lies above what direct summation finds, and careless accounting lies below."""

import math

import numpy as np
import pytest
from dp_accounting import dp_event
from dp_accounting.rdp import RdpAccountant
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.optimize import brentq

from fedmarket.errors import PlanError
from fedmarket.privacy import distributed
from fedmarket.privacy.accountant import gaussian_delta, gaussian_epsilon, gaussian_mu
from fedmarket.privacy.distributed import (
    SMOOTHING,
    SummedNoise,
    added_delta,
    concentrated_epsilon,
    convolution_distance,
    gaussian_distance,
    reduced_delta,
    rounded_sensitivity,
)

DELTA = 1e-5


def exact(std: float, reach: int) -> np.ndarray:
    """Return N_Z(0, std^2) at -reach .. reach."""
    mass = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * std**2))
    return mass / mass.sum()


def total(noise: SummedNoise, reach: float = 13.0) -> np.ndarray:
    """Return the law of the summed noise, by convolving the shares one by one; zero is in the middle."""
    share = exact(noise.share_std, math.ceil(reach * noise.share_std))
    law = np.ones(1)
    for _ in range(noise.shares):
        law = np.convolve(law, share)
    return law


def moved(law: np.ndarray, shift: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the laws of shift + noise and of noise, on the same integers."""
    return np.pad(law, (shift, 0)), np.pad(law, (0, shift))


def hockey_stick(p: np.ndarray, q: np.ndarray, epsilon: float) -> float:
    """Return the least delta for which p and q are (epsilon, delta)-close in this direction, by its definition."""
    return float(np.maximum(p - math.exp(epsilon) * q, 0).sum())


def noise_of(share_std: float, shares: int) -> SummedNoise:
    return SummedNoise(share_std=share_std, shares=shares)


def claimed_delta(noise: SummedNoise, sensitivity: float, epsilon: float) -> float:
    return gaussian_delta(epsilon, 1 / noise.noise_multiplier(sensitivity)) + added_delta(epsilon, noise.distance)


# --- sensitivity ---------------------------------------------------------------------------------------------------


@given(seed=st.integers(0, 2**32), length=st.integers(1, 40), clip_norm=st.floats(0.01, 20.0), bits=st.integers(-3, 6))
@settings(max_examples=100, deadline=None)
def test_one_row_moves_a_rounded_sum_by_no_more_than_the_bound(seed: int, length: int, clip_norm: float, bits: int):
    rng, resolution = np.random.default_rng(seed), 2.0**-bits
    without = rng.normal(scale=5, size=length)
    row = rng.normal(size=length)
    row *= clip_norm * rng.random() ** 0.1 / np.linalg.norm(row)
    steps = np.rint((without + row) / resolution) - np.rint(without / resolution)
    assert np.linalg.norm(steps) <= rounded_sensitivity(clip_norm, resolution=resolution, length=length)


def test_the_root_of_the_length_is_needed():
    """A tiny row carries every coordinate across the middle between two steps."""
    length, row = 100, 1e-3
    below = np.full(length, 0.5 - row / 20)
    steps = np.linalg.norm(np.rint(below + row / 10) - np.rint(below))
    assert np.linalg.norm(np.full(length, row / 10)) <= row
    assert steps > row
    assert steps <= rounded_sensitivity(row, resolution=1.0, length=length) <= 1.001 * steps


@pytest.mark.parametrize("bad", [(0.0, 1.0, 1), (math.nan, 1.0, 1), (1.0, -1.0, 1), (1.0, 1.0, 0), (math.inf, 1.0, 1)])
def test_a_sum_without_bound_grid_or_length_is_refused(bad: tuple[float, float, int]):
    with pytest.raises(PlanError, match="a rounded sum needs"):
        rounded_sensitivity(bad[0], resolution=bad[1], length=bad[2])


# --- distances -----------------------------------------------------------------------------------------------------


@given(share_std=st.floats(0.5, 2.5), shares=st.integers(1, 7))
@settings(max_examples=60, deadline=None)
def test_the_sum_is_within_its_distance_of_one_discrete_gaussian(share_std: float, shares: int):
    law = total(noise_of(share_std, shares))
    found = float(np.abs(law - exact(math.sqrt(shares) * share_std, law.size // 2)).sum()) / 2
    assert found <= convolution_distance(share_std, shares) + 1e-13


def test_the_distance_of_a_sum_is_tight_enough_to_notice_a_wrong_exponent():
    law = total(noise_of(0.7, 4))
    found = float(np.abs(law - exact(1.4, law.size // 2)).sum()) / 2
    assert convolution_distance(0.7 * math.sqrt(2), 4) < found <= convolution_distance(0.7, 4) < 10 * found


def image(std: float, smoothing: float, reach: int) -> np.ndarray:
    """Return the law of the integer drawn around y ~ N(0, std^2 - smoothing), by summation over a fine grid of y."""
    spread = math.sqrt(std**2 - smoothing)
    fine = np.arange(-12 * spread, 12 * spread, spread / 400)
    density = stats.norm.pdf(fine / spread) / 400
    around = np.exp(-((np.arange(-reach, reach + 1)[:, None] - fine) ** 2) / (2 * smoothing))
    return (around / around.sum(axis=0)) @ density


@pytest.mark.parametrize("std", [0.7, 1.0, 2.5])
@pytest.mark.parametrize("smoothing", [0.05, 0.1, 0.2, 0.4])
def test_the_image_of_a_continuous_gaussian_is_within_its_distance(
    std: float, smoothing: float, monkeypatch: pytest.MonkeyPatch
):
    """With less smoothing than is used, for the distance to be large enough to be seen in floating point."""
    monkeypatch.setattr(distributed, "SMOOTHING", smoothing)
    reach = math.ceil(12 * std)
    found = float(np.abs(image(std, smoothing, reach) - exact(std, reach)).sum()) / 2
    assert found <= gaussian_distance(std) + 1e-12


def test_a_distance_of_three_times_the_exponent_would_be_too_small(monkeypatch: pytest.MonkeyPatch):
    found = float(np.abs(image(0.7, 0.1, 9) - exact(0.7, 9)).sum()) / 2
    monkeypatch.setattr(distributed, "SMOOTHING", 0.3)
    assert found > gaussian_distance(0.7)


def test_with_the_smoothing_in_use_the_image_is_the_discrete_gaussian_in_floating_point():
    assert np.abs(image(3.0, SMOOTHING, 40) - exact(3.0, 40)).sum() < 1e-12
    assert gaussian_distance(3.0) < 1e-33
    assert gaussian_distance(1.9) == 1.0


@pytest.mark.parametrize("std", [3.0, 10.0, 40.0])
def test_rounding_the_continuous_gaussian_would_be_much_farther_off(std: float):
    """0.0202 / std^2, as the explanation says: many coordinates could not bear it."""
    grid = np.arange(-math.ceil(12 * std), math.ceil(12 * std) + 1)
    rounded = np.diff(stats.norm.cdf(np.append(grid - 0.5, grid[-1] + 0.5) / std))
    found = float(np.abs(rounded - exact(std, grid[-1])).sum()) / 2
    assert 0.9 * 0.02017 / std**2 < found <= 0.02017 / std**2 + 0.00606 / std**3
    assert found > 1e20 * gaussian_distance(std)


def test_the_distance_of_a_coordinate_counts_every_share():
    noise = noise_of(2.0**16, 6)
    assert 6 * noise.share.distance <= noise.distance < 2.0**-80
    assert noise_of(1.0, 6).distance > 1e-5  # so narrow that the sum is not near a discrete Gaussian


# --- what the tight way claims -------------------------------------------------------------------------------------


@given(share_std=st.floats(1.5, 12.0), shares=st.integers(2, 5), shift=st.integers(1, 12), epsilon=st.floats(0.0, 6.0))
@settings(max_examples=60, deadline=None)
def test_the_claimed_delta_is_above_the_true_one(share_std: float, shares: int, shift: int, epsilon: float):
    noise = noise_of(share_std, shares)
    p, q = moved(total(noise), shift)
    true = max(hockey_stick(p, q, epsilon), hockey_stick(q, p, epsilon))
    assert true <= claimed_delta(noise, shift, epsilon) + 1e-13


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 3.0])
def test_on_a_fine_grid_the_claimed_delta_is_the_true_one(epsilon: float):
    noise = noise_of(120.0, 3)
    p, q = moved(total(noise), 70)
    assert hockey_stick(p, q, epsilon) == pytest.approx(claimed_delta(noise, 70, epsilon), rel=0.01)


def test_careless_accounting_claims_less_than_the_truth():
    """The noise of all parties instead of the fewest, and the sensitivity before rounding instead of after it."""
    noise, epsilon = noise_of(8.0, 3), 1.0
    clip_norm = 2.0  # of values, on a grid of whole numbers, in one dimension
    sensitivity = rounded_sensitivity(clip_norm, resolution=1.0, length=1)
    shift = round(2.5000001) - round(0.5)
    assert shift == sensitivity == 3
    p, q = moved(total(noise), shift)
    true = hockey_stick(p, q, epsilon)
    assert true <= claimed_delta(noise, sensitivity, epsilon)
    assert true > claimed_delta(noise_of(8.0, 5), sensitivity, epsilon)
    assert true > claimed_delta(noise, clip_norm, epsilon)
    assert true > claimed_delta(noise_of(8.0 * math.sqrt(3), 3), sensitivity, epsilon)


@pytest.mark.parametrize("epsilon", [0.2, 1.0, 2.0])
def test_further_shares_only_lower_delta(epsilon: float):
    deltas = [hockey_stick(*moved(total(noise_of(4.0, shares)), 5), epsilon) for shares in (2, 3, 4, 6)]
    assert deltas == sorted(deltas, reverse=True)
    assert deltas[0] > deltas[-1]


def sampled_delta(epsilon: float, noise: float, rate: float) -> float:
    """Return delta of a Gaussian mechanism on a Poisson sample, of both directions, by thresholds on the ratio."""

    def threshold(ratio: float) -> float:
        return 0.5 + noise**2 * math.log((ratio - 1 + rate) / rate)

    def above(x: float) -> float:
        return float((1 - rate) * stats.norm.sf(x / noise) + rate * stats.norm.sf((x - 1) / noise))

    x = threshold(math.exp(epsilon))
    removed = above(x) - math.exp(epsilon) * float(stats.norm.sf(x / noise))
    if math.exp(-epsilon) <= 1 - rate:
        return removed
    x = threshold(math.exp(-epsilon))
    return max(removed, float(stats.norm.cdf(x / noise)) - math.exp(epsilon) * (1 - above(x)))


@given(
    share_std=st.floats(2.0, 10.0), shift=st.integers(3, 20), rate=st.floats(0.05, 0.9), epsilon=st.floats(0.05, 3.0)
)
@settings(max_examples=60, deadline=None)
def test_the_claim_holds_on_a_poisson_sample(share_std: float, shift: int, rate: float, epsilon: float):
    noise = noise_of(share_std, 3)
    p, q = moved(total(noise), shift)
    mixed = (1 - rate) * q + rate * p
    true = max(hockey_stick(mixed, q, epsilon), hockey_stick(q, mixed, epsilon))
    claimed = sampled_delta(epsilon, noise.noise_multiplier(shift), rate) + added_delta(epsilon, noise.distance)
    assert true <= claimed + 1e-13


def test_a_claim_for_a_rarer_sample_is_below_the_truth():
    noise, epsilon = noise_of(40.0, 3), 0.5
    p, q = moved(total(noise), 80)
    true = hockey_stick(0.7 * q + 0.3 * p, q, epsilon)
    assert sampled_delta(epsilon, noise.noise_multiplier(80), 0.29) < true
    assert true == pytest.approx(sampled_delta(epsilon, noise.noise_multiplier(80), 0.3), rel=0.01)


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 8.0])
def test_in_the_limit_of_a_fine_grid_the_noise_is_that_of_the_continuous_mechanism(epsilon: float):
    clip_norm, length = 0.3, 5000
    multiplier = 1 / gaussian_mu(epsilon, DELTA)
    for bits, excess in ((12, 0.07), (20, 3e-4), (30, 3e-7)):
        sensitivity = rounded_sensitivity(clip_norm, resolution=2.0**-bits, length=length)
        noise = SummedNoise.for_multiplier(multiplier, sensitivity=sensitivity, shares=5)
        std = math.sqrt(5) * noise.share_std * 2.0**-bits
        assert multiplier * clip_norm < std < (1 + excess) * multiplier * clip_norm
        assert gaussian_epsilon(1 / noise.noise_multiplier(sensitivity), DELTA) == pytest.approx(epsilon, rel=1e-6)


@given(multiplier=st.floats(0.3, 1e3), sensitivity=st.floats(20.0, 2.0**25), shares=st.integers(1, 40))
def test_the_noise_for_a_multiplier_is_enough_and_little_more(multiplier: float, sensitivity: float, shares: int):
    noise = SummedNoise.for_multiplier(multiplier, sensitivity=sensitivity, shares=shares)
    assert multiplier <= noise.noise_multiplier(sensitivity) <= (1 + 1e-6) * multiplier


def test_one_share_alone_protects_by_the_root_less():
    """What is left of the noise where secure aggregation is broken."""
    together, alone = (noise_of(2.0**12, shares).noise_multiplier(2.0**10) for shares in (9, 1))
    assert together == pytest.approx(3 * alone, rel=1e-6)
    assert gaussian_epsilon(1 / alone, DELTA) > 3 * gaussian_epsilon(1 / together, DELTA)


# --- from distance to delta ----------------------------------------------------------------------------------------


@given(seed=st.integers(0, 2**32), epsilon=st.floats(0.0, 4.0), size=st.floats(0.0, 0.3))
@settings(max_examples=100, deadline=None)
def test_replacing_laws_within_a_distance_adds_no_more_than_is_said(seed: int, epsilon: float, size: float):
    rng = np.random.default_rng(seed)
    p, q, other_p, other_q = rng.dirichlet(np.ones(6), size=4)
    near_p, near_q = (1 - size) * p + size * other_p, (1 - size) * q + size * other_q
    distance = max(float(np.abs(a - b).sum()) / 2 for a, b in ((p, near_p), (q, near_q)))
    grown = hockey_stick(near_p, near_q, epsilon) - hockey_stick(p, q, epsilon)
    assert grown <= added_delta(epsilon, distance) + 1e-12


def test_the_whole_of_what_is_added_can_be_needed():
    """Half of it is not a bound: one law gains an event that the other loses."""
    epsilon, distance = 1.0, 0.01
    p = q = np.array([0.5, 0.5])
    change = np.array([distance, -distance])
    grown = hockey_stick(p + change, q - change, 0.0) - hockey_stick(p, q, 0.0)
    assert grown == pytest.approx(added_delta(0.0, distance))
    assert added_delta(epsilon, distance) == pytest.approx(distance * (1 + math.e))


def test_a_run_of_ten_million_draws_costs_nothing_that_shows():
    distance = 1e7 * noise_of(2.0**14, 10).distance
    assert added_delta(8.0, distance) < 1e-12
    assert reduced_delta(DELTA, epsilon=8.0, distance=distance) == pytest.approx(DELTA, rel=1e-7)
    assert reduced_delta(DELTA, epsilon=8.0, distance=1e-9) == pytest.approx(DELTA - 2.98e-6, rel=1e-3)


@pytest.mark.parametrize(
    ("epsilon", "distance"), [(1.0, 1e-5), (1e4, 1e-20), (math.inf, 1e-20), (math.nan, 1e-20), (1.0, math.nan)]
)
def test_a_distance_that_delta_cannot_pay_is_refused(epsilon: float, distance: float):
    with pytest.raises(PlanError, match="does not pay for a distance"):
        reduced_delta(DELTA, epsilon=epsilon, distance=distance)


@pytest.mark.parametrize(("share_std", "shares"), [(0.4, 3), (math.nan, 3), (8.0, 0), (8.0, -1)])
def test_noise_that_is_none_is_refused(share_std: float, shares: int):
    with pytest.raises(PlanError):
        noise_of(share_std, shares)


def test_too_coarse_a_grid_and_nonsense_are_refused():
    with pytest.raises(PlanError, match="more than 2 steps"):
        noise_of(1.0, 3).noise_multiplier(1.0)
    with pytest.raises(PlanError, match="positive sensitivity"):
        noise_of(10.0, 3).noise_multiplier(math.nan)
    for sensitivity, length in ((math.nan, 1), (0.0, 1), (1.0, 0)):
        with pytest.raises(PlanError, match="a release needs"):
            noise_of(10.0, 3).concentrated_rho(sensitivity, length=length)
    with pytest.raises(PlanError, match="positive multiplier"):
        SummedNoise.for_multiplier(math.nan, sensitivity=1.0, shares=3)
    with pytest.raises(PlanError, match="standard deviation"):
        SummedNoise.for_multiplier(1e9, sensitivity=2.0**20, shares=3)


# --- what the published theorem claims -----------------------------------------------------------------------------


def renyi(noise: SummedNoise, shift: int, order: float) -> float:
    """Return the Renyi divergence by its definition; it lives far out, so shares reach to 32 standard deviations."""
    p, q = moved(total(noise, reach=32.0), shift)
    both = (p > 1e-290) & (q > 1e-290)
    return float(np.logaddexp.reduce(order * np.log(p[both]) + (1 - order) * np.log(q[both]))) / (order - 1)


@given(share_std=st.floats(0.5, 4.0), shares=st.integers(1, 6), shift=st.integers(1, 4), order=st.floats(1.05, 8.0))
@settings(max_examples=60, deadline=None)
def test_the_published_bound_is_above_the_true_divergence(share_std: float, shares: int, shift: int, order: float):
    noise = noise_of(share_std, shares)
    true = renyi(noise, shift, order)
    assert true <= order * noise.concentrated_rho(shift, length=1) + 1e-9


def test_the_published_bound_fails_for_more_shares_than_there_are():
    true = renyi(noise_of(3.0, 3), 2, 4.0)
    assert true > 4.0 * noise_of(3.0, 4).concentrated_rho(2, length=1)
    assert true == pytest.approx(4.0 * noise_of(3.0, 3).concentrated_rho(2, length=1), rel=1e-6)


def test_tau_is_the_sum_of_the_theorem():
    assert noise_of(0.5, 1).tau == 0.0
    assert noise_of(0.5, 2).tau == pytest.approx(10 * math.exp(-(math.pi**2) / 4))
    first, second = math.exp(-(math.pi**2) / 4), math.exp(-(math.pi**2) / 3)
    assert noise_of(0.5, 3).tau == pytest.approx(10 * (first + second))
    assert noise_of(2.0**10, 50).tau == 0.0


def test_narrow_shares_cost_more_in_many_coordinates():
    few, many = (noise_of(1.0, 3).concentrated_rho(10.0, length=length) for length in (1, 1000))
    plain = 10.0**2 / (2 * 3)
    assert plain < few < many
    assert many - plain > 0.01


@given(rho=st.floats(1e-3, 30.0))
@settings(max_examples=30, deadline=None)
def test_the_conversion_is_as_good_as_the_reference_and_above_the_exact_gaussian(rho: float):
    ours = concentrated_epsilon(rho, DELTA)
    reference = RdpAccountant().compose(dp_event.ZCDpEvent(rho)).get_epsilon(DELTA)
    assert ours <= reference + 1e-9
    assert ours >= gaussian_epsilon(math.sqrt(2 * rho), DELTA)
    if 0.05 < rho < 10:
        assert ours == pytest.approx(reference, rel=0.01)


def test_rho_zero_costs_nothing_and_nonsense_is_refused():
    assert concentrated_epsilon(0.0, DELTA) == 0.0
    for rho, delta in ((-1.0, DELTA), (math.nan, DELTA), (1.0, 0.0), (1.0, 1.0), (1.0, math.nan)):
        with pytest.raises(PlanError, match="zCDP needs"):
            concentrated_epsilon(rho, delta)


@pytest.mark.parametrize(("epsilon", "saving"), [(0.1, 0.095), (0.5, 0.083), (1.0, 0.078), (8.0, 0.059)])
def test_the_tight_way_saves_noise(epsilon: float, saving: float):
    """The explanation publishes these savings."""
    tight = 1 / gaussian_mu(epsilon, DELTA)
    rho = brentq(lambda rho: concentrated_epsilon(rho, DELTA) - epsilon, 1e-6, 50.0, xtol=1e-13)
    assert 1 - tight * math.sqrt(2 * rho) == pytest.approx(saving, abs=5e-4)
