"""The shape of a run's releases: how long each is, and how far one customer moves it, from public facts alone."""

import math
from dataclasses import dataclass

from fedmarket.privacy.histogram import SCORE_BINS, VALUE_BINS
from fedmarket.privacy.mechanism import Phase

CALIBRATION_LENGTH = 5
"""For each probability; see :func:`fedmarket.training.sums.calibration_sum`."""

LEVEL_LENGTH = 2
"""See :func:`fedmarket.training.sums.level_sum`."""

SEGMENT_LENGTH = 3
"""For each segment; see :func:`fedmarket.training.sums.segment_sum`."""

LEVEL_REACH = 10.0
"""A spend counts as this many times what is expected of a buyer at most: of a lognormal of spread 1 that misses 1 %."""

SEGMENT_REACH = 8.0
"""A predicted value counts as this many times that of the average row at most in the sum of its segment."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What the plan must know of model and contract.

    Attributes:
        width: places of an encoded row.
        norm_bound: bound on its norm.
        parameters: numbers that the network learns.
        response: whether it predicts a response.
        purchase: whether it predicts a purchase.
        value: whether it predicts a value.
        segments: how many segments customers are counted in; 0 for none.
    """

    width: int
    norm_bound: float
    parameters: int
    response: bool = True
    purchase: bool = False
    value: bool = False
    segments: int = 0

    @property
    def probabilities(self) -> int:
        """How many probabilities are recalibrated."""
        return int(self.response) + int(self.purchase)

    def has(self, phase: Phase) -> bool:
        """Return whether a run of this shape has anything to release in ``phase``."""
        return self.length_of(phase) > 0

    def length_of(self, phase: Phase) -> int:
        """Return how many coordinates are released in a round of ``phase``."""
        lengths: dict[Phase, int] = {
            "centre": self.width,
            "update": self.parameters,
            "calibrate": CALIBRATION_LENGTH * self.probabilities,
            "level": LEVEL_LENGTH * self.value,
            "segment": SEGMENT_LENGTH * self.segments,
            "evaluate": 2 * SCORE_BINS * self.response + 3 * VALUE_BINS * self.value,
        }
        return lengths[phase]

    def sensitivity_of(self, phase: Phase) -> float:
        """Return a bound on the Euclidean norm of one customer's part in ``phase``; the plan clips updates itself.

        Each bound is argued where the sum is made, in :mod:`fedmarket.training.sums`.
        """
        bounds: dict[Phase, float] = {
            "centre": self.norm_bound,
            "update": math.inf,
            "calibrate": math.sqrt(2.0 * self.probabilities),
            "level": math.sqrt(1.25),
            "segment": math.sqrt(1.5),
            "evaluate": math.sqrt(1.0 * self.response + 3.0 * self.value),
        }
        return bounds[phase]
