"""Public bins of scores and values: what is counted for private test metrics, and with which noise.

The bins are fixed before any row is seen, as distances of a score's log-odds, or of a value's logarithm, from those of
the average row, which the released model tells. Few bins: each has noise of its own.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fedmarket.arrays import FloatArray

SCORE_EDGES = np.array([-2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0, 3.0])
SCORE_BINS = len(SCORE_EDGES) + 1

BIN_MIDDLES = np.array([-2.25, -1.75, -1.25, -0.75, -0.25, 0.25, 0.75, 1.25, 1.75, 2.5, 3.5])
"""The distance that each bin stands for, (SCORE_BINS,)."""

BIN_WIDTHS = np.array([1.0, *np.diff(SCORE_EDGES), 1.0])
"""Width of each bin in log-odds; the outer ones have none, and count as 1."""


def score_bins(log_odds: FloatArray, *, typical: float) -> NDArray[np.int64]:
    """Return the bin of each score, (n,), rising from 0; ``typical`` are the log-odds of the average row."""
    return np.searchsorted(SCORE_EDGES, log_odds - typical, side="right").astype(np.int64)


VALUE_EDGES = np.array([-2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0])
VALUE_BINS = len(VALUE_EDGES) + 1

VALUE_MIDDLES = np.array([-2.25, -1.75, -1.25, -0.75, -0.25, 0.25, 0.75, 1.25, 1.75, 2.5])
"""The distance that each bin stands for, in natural logarithms, (VALUE_BINS,)."""

VALUE_REACH = 5.0
"""A spend counts as this many times its bin's value at most; what is beyond is not seen in private test metrics."""

SMALLEST_VALUE = 1e-9
"""Values below are counted as this, so that they have a logarithm."""


def value_bins(values: FloatArray, *, typical: float) -> NDArray[np.int64]:
    """Return the bin of each predicted value, (n,), rising from 0; ``typical`` is the value of the average row."""
    logarithms = np.log(np.maximum(values, SMALLEST_VALUE)) - np.log(max(typical, SMALLEST_VALUE))
    return np.asarray(np.searchsorted(VALUE_EDGES, logarithms, side="right"), dtype=np.int64)


def value_caps(*, typical: float) -> FloatArray:
    """Return how much one customer's spend counts at most in each bin, (VALUE_BINS,): never less than in the middle."""
    return np.asarray(VALUE_REACH * max(typical, SMALLEST_VALUE) * np.exp(np.maximum(VALUE_MIDDLES, 0.0)))


@dataclass(frozen=True, slots=True, kw_only=True)
class BinnedCounts:
    """Held-out rows counted by bin, with noise: they are no whole numbers of rows then, and may be negative.

    Attributes:
        counts: of scores (2, SCORE_BINS), first the rows without, then those with a response; of values
            (3, VALUE_BINS), rows, rows that bought, and spend over the bin's cap (:func:`value_caps`).
        typical: log-odds or value of the average row, from which bins are measured.
        noise_std: standard deviation of the noise on each number; 0 where it is exact.
    """

    counts: FloatArray = field(repr=False)
    typical: float
    noise_std: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentSums:
    """What is known of the training customers of each segment, with noise.

    Attributes:
        sums: (3, segments): customers; how many of them responded or, where there is no response, bought; and the sum
            of their predicted values, in money.
        noise_stds: (3,) standard deviations of the noise on them; 0 where they are exact.
    """

    sums: FloatArray = field(repr=False)
    noise_stds: FloatArray

    @classmethod
    def of(cls, released: FloatArray, *, unit: float, noise_std: float) -> "SegmentSums":
        """Return (segments, 3) sums as :func:`fedmarket.training.sums.segment_sum` releases them, in natural units."""
        units = np.array([2.0, 2.0, unit])
        return cls(sums=(released * units).T, noise_stds=units * noise_std)


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """What a run tells beside its model; None where it does not.

    Attributes:
        scores: held-out rows by outcome and released score.
        values: held-out rows by predicted value.
        segments: training rows by segment.
    """

    scores: BinnedCounts | None = None
    values: BinnedCounts | None = None
    segments: SegmentSums | None = None
