"""Steps on clean statistics end where direct optimisation ends; on noise alone they stay bounded."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import minimize
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from fedmarket.aggregation.calibration import LEVEL_PRIOR, LONGEST_STEP, SMALLEST_SLOPE, level_step, newton_step
from fedmarket.models.prediction import REACH, reach_of, recalibrated

PIVOT = -1.2


def answers(slope: float, intercept: float) -> tuple[np.ndarray, np.ndarray]:
    """Return raw logits and answers whose truth is another straight line of them."""
    rng = np.random.default_rng(0)
    raw = rng.normal(PIVOT, 2.5, 20_000)
    return raw, (rng.random(raw.size) < expit(intercept + slope * (raw - PIVOT))).astype(float)


def statistics(raw: np.ndarray, labels: np.ndarray, calibration: np.ndarray) -> np.ndarray:
    rate, reach = expit(recalibrated(raw, calibration)), reach_of(raw, PIVOT)
    weight = rate * (1 - rate)
    rows = [labels - rate, (labels - rate) * reach, weight, weight * reach, weight * reach**2]
    return np.array([row.sum() for row in rows])


def after_steps(raw: np.ndarray, labels: np.ndarray, *, steps: int, noise_std: float = 0.0) -> np.ndarray:
    calibration = np.array([PIVOT, 1.0, PIVOT])
    for _ in range(steps):
        calibration = newton_step(calibration, statistics(raw, labels, calibration), noise_std=noise_std)
    return calibration


TRUTHS = pytest.mark.parametrize(("slope", "intercept"), [(0.4, -2.0), (1.0, PIVOT), (1.8, -0.3), (0.15, -3.0)])


@TRUTHS
def test_the_steps_end_at_the_maximum_of_the_likelihood(slope: float, intercept: float):
    raw, labels = answers(slope, intercept)

    def loss(point: np.ndarray) -> float:
        value = recalibrated(raw, np.array([*point, PIVOT]))
        return float(np.mean(np.logaddexp(0, value) - labels * value))

    best = minimize(loss, np.array([0.0, 1.0]), method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-14}).x
    found = after_steps(raw, labels, steps=30)
    np.testing.assert_allclose(found[:2], best, atol=1e-5)
    assert found[2] == PIVOT
    learner = LogisticRegression(C=np.inf, tol=1e-10).fit(REACH * reach_of(raw, PIVOT)[:, None], labels)
    np.testing.assert_allclose(found[:2], [learner.intercept_[0], learner.coef_[0, 0]], atol=1e-3)


@TRUTHS
def test_three_steps_come_close_and_set_the_mean_right(slope: float, intercept: float):
    raw, labels = answers(slope, intercept)
    before = np.abs(expit(raw).mean() - labels.mean())
    after = np.abs(expit(recalibrated(raw, after_steps(raw, labels, steps=3, noise_std=20.0))).mean() - labels.mean())
    assert after < 0.015
    assert after < max(before / 2, 0.003)


def test_what_is_calibrated_stays():
    raw, labels = answers(0.7, -1.0)
    end = after_steps(raw, labels, steps=40)
    again = newton_step(end, statistics(raw, labels, end), noise_std=0.0)
    np.testing.assert_allclose(again, end, atol=1e-9)


ANY_STATISTICS = arrays(np.float64, 5, elements=st.floats(-1e9, 1e9))


@given(
    noise=ANY_STATISTICS,
    noise_std=st.floats(0, 1e9),
    intercept=st.floats(-50, 50),
    slope=st.floats(SMALLEST_SLOPE, 20.0),
)
def test_no_noise_moves_far_or_turns_the_slope(noise: np.ndarray, noise_std: float, intercept: float, slope: float):
    found = newton_step(np.array([intercept, slope, PIVOT]), noise, noise_std=noise_std)
    assert np.isfinite(found).all()
    assert found[1] >= SMALLEST_SLOPE > 0
    assert abs(found[0] - intercept) <= LONGEST_STEP * (1 + 1e-9)
    assert abs(found[1] - slope) <= LONGEST_STEP / REACH + 1e-9
    assert found[2] == PIVOT


def test_huge_noise_hardly_moves_and_an_undamped_step_would():
    """Curvature below twice the noise is not believed: steps are then of the size of one."""
    rng = np.random.default_rng(0)
    start, std = np.array([PIVOT, 1.0, PIVOT]), 1e5
    damped, trusting = [], []
    for _ in range(200):
        drawn = std * rng.standard_normal(5)
        damped.append(abs(newton_step(start, drawn, noise_std=std)[0] - PIVOT))
        trusting.append(abs(newton_step(start, drawn, noise_std=0.0)[0] - PIVOT))
    assert np.mean(damped) < 0.7
    assert np.mean(trusting) > 1.0


# The level.

REACHES = 10.0


@given(level=st.floats(0.1, 20.0), expected=st.floats(1e-3, 1e6))
def test_without_noise_the_level_is_what_was_spent_over_what_was_expected(level: float, expected: float):
    found = level_step(np.array([level * expected / REACHES, expected / 2]), reach=REACHES, noise_std=0.0)
    assert found == pytest.approx(level, rel=1e-9)


@given(level=st.floats(0.2, 5.0), expected=st.floats(1.0, 1e4))
def test_the_more_noise_the_less_of_what_was_observed_is_believed(level: float, expected: float):
    statistics = np.array([level * expected / REACHES, expected / 2])
    stds = expected / REACHES * np.array([0.0, 1e-3, 0.01, 0.1, 1.0, 10.0, 1e4])
    found = np.array([level_step(statistics, reach=REACHES, noise_std=float(std)) for std in stds])
    off = np.abs(found - 1.0)
    assert (np.diff(off) <= 1e-12).all()
    assert ((found - 1.0) * (level - 1.0) >= 0).all()
    assert off[0] == pytest.approx(abs(level - 1.0))
    assert off[-1] < 1e-6


def test_half_of_what_was_observed_is_believed_where_noise_is_as_wide_as_the_prior():
    """By hand: 400 expected, half as much again spent, and a standard deviation of LEVEL_PRIOR of the 400."""
    noise_std = LEVEL_PRIOR * 400.0 / REACHES
    assert level_step(np.array([60.0, 200.0]), reach=REACHES, noise_std=noise_std) == pytest.approx(1.25)


@pytest.mark.statistical
def test_the_shrunk_level_is_nearer_to_the_truth_than_the_quotient():
    rng, expected, noise_std = np.random.default_rng(0), 400.0, 12.0
    truth = 1.0 + LEVEL_PRIOR * rng.standard_normal(4000)
    drawn = np.stack([truth * expected / REACHES, np.full(4000, expected / 2)], axis=1)
    drawn += noise_std * np.array([1.0, 0.0]) * rng.standard_normal(drawn.shape)
    shrunk = np.array([level_step(row, reach=REACHES, noise_std=noise_std) for row in drawn])
    quotient = REACHES * drawn[:, 0] / expected
    variance = 1 / (1 / LEVEL_PRIOR**2 + (expected / REACHES / noise_std) ** 2)
    assert np.mean((shrunk - truth) ** 2) == pytest.approx(variance, rel=0.1)  # Bayes' least
    assert np.mean((shrunk - truth) ** 2) < 0.8 * np.mean((quotient - truth) ** 2)


@given(statistics=arrays(np.float64, 2, elements=st.floats(-1e9, 1e9)), noise_std=st.floats(0, 1e9))
def test_no_noise_makes_a_level_that_is_not_finite_or_nearly_nothing(statistics: np.ndarray, noise_std: float):
    found = level_step(statistics, reach=REACHES, noise_std=noise_std)
    assert np.isfinite(found)
    assert found >= 0.1


@pytest.mark.parametrize("noise_std", [0.0, 3.0])
def test_negative_statistics_do_no_harm(noise_std: float):
    assert level_step(np.array([5.0, -20.0]), reach=REACHES, noise_std=noise_std) == 1.0  # nothing expected, it seems
    assert level_step(np.array([0.0, 0.0]), reach=REACHES, noise_std=noise_std) == 1.0
    assert level_step(np.array([-50.0, 200.0]), reach=REACHES, noise_std=noise_std) == 0.1
