"""Public bins of scores: what is counted for private test metrics, and with which noise.

The bins are fixed before any row is seen, as distances of a score's log-odds from those of the average row, which the
released model tells. Few bins: each has noise of its own.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreCounts:
    """Held-out rows counted by outcome and bin of score, with noise.

    Attributes:
        counts: (2, SCORE_BINS); first the rows without, then those with a response. With noise they are no whole
            numbers of rows, and may be negative.
        typical: log-odds of the average row, from which bins are measured.
        noise_std: standard deviation of the noise on each count; 0 where it is exact.
    """

    counts: FloatArray = field(repr=False)
    typical: float
    noise_std: float
