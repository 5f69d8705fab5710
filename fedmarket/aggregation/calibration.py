"""From noisy statistics to a two-parameter recalibration: one damped Newton step, by post-processing alone."""

import numpy as np

from fedmarket.arrays import FloatArray
from fedmarket.models.released import REACH

LONGEST_STEP = 2.0
"""Trust region: no coefficient moves by more in one step, whatever the noise says."""

SMALLEST_SLOPE = 0.05
"""Slopes stay positive, so that recalibration never changes who ranks above whom."""


def newton_step(calibration: FloatArray, statistics: FloatArray, *, noise_std: float) -> FloatArray:
    """Return the calibration (intercept, slope, pivot) after one Newton step on the log-likelihood.

    Args:
        calibration: (3,) the current one.
        statistics: (5,) summed over parties, see :func:`fedmarket.training.sums.calibration_sum`.
        noise_std: standard deviation of the noise on each statistic of the sum; directions in which the curvature is
            not above twice the noise are not trusted and move as if it were.
    """
    intercept, slope, pivot = calibration
    gradient = statistics[:2]
    curvature = np.array([[statistics[2], statistics[3]], [statistics[3], statistics[4]]])
    values, vectors = np.linalg.eigh(curvature)
    trusted = np.maximum(values, max(2.0 * noise_std, 1e-3))
    step = vectors @ ((vectors.T @ gradient) / trusted)
    step = np.clip(step, -LONGEST_STEP, LONGEST_STEP)
    return np.array([intercept + step[0], max(slope + step[1] / REACH, SMALLEST_SLOPE), pivot])
