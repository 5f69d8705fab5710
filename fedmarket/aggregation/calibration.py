"""From noisy statistics to a recalibration, by post-processing alone: a damped Newton step, and a shrunk level."""

import numpy as np

from fedmarket.arrays import FloatArray
from fedmarket.models.prediction import REACH

LONGEST_STEP = 2.0
"""Trust region: no coefficient moves by more in one step, whatever the noise says."""

SMALLEST_SLOPE = 0.05
"""Slopes stay positive, so that recalibration never changes who ranks above whom."""

LEVEL_PRIOR = 0.4
"""Standard deviation of how far a trained level is expected to be off, in shares: noise beyond it is not believed."""


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


def level_step(statistics: FloatArray, *, reach: float, noise_std: float) -> float:
    """Return by which factor the level of all values must change, at least 0.1.

    Args:
        statistics: (2,) summed over parties, see :func:`fedmarket.training.sums.level_sum`.
        reach: its ``LEVEL_REACH``.
        noise_std: standard deviation of the noise on each statistic of the sum.

    The share d by which spends exceed what is expected has a normal prior of standard deviation ``LEVEL_PRIOR`` and is
    observed as ``expected * d + noise``. Its posterior mean is ``expected * observed`` over
    ``expected^2 + (noise / prior)^2``: the less noise, the more of what was observed is believed.
    """
    spent, expected = reach * float(statistics[0]), max(2.0 * float(statistics[1]), 0.0)
    doubt = (reach * noise_std / LEVEL_PRIOR) ** 2
    if not expected**2 + doubt > 0:
        return 1.0
    return max(1.0 + expected * (spent - expected) / (expected**2 + doubt), 0.1)
