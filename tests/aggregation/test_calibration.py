"""Newton steps on clean statistics end where direct optimisation ends; on noise alone they stay bounded."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import minimize
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from fedmarket.aggregation.calibration import LONGEST_STEP, SMALLEST_SLOPE, newton_step
from fedmarket.models.released import REACH, reach_of, recalibrated

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
