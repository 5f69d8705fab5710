"""By how much an attack got worse, certified: what remains at most, over what was there at least.

A reduction is a ratio and means nothing where there was hardly anything to reduce. Such a baseline is an answer of its
own, :class:`AlreadyLow`, and no number.
"""

from dataclasses import dataclass

from fedmarket.attacks.rates import Interval
from fedmarket.errors import DataError

LEAST_BASELINE = 0.01
"""A baseline whose lower bound is not above this is not divided by: one customer in a hundred is near nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reduction:
    """How much an attack attains less after than before.

    Attributes:
        certified: ``1 - after.high / before.low``; below 0 where it may even have grown.
        estimate: ``1 - after.estimate / before.estimate``.
        ceiling: what would be certified if after were known to be ``chance``; no attack can be worse than guessing.
        confidence: that the reduction is at least ``certified``.
    """

    certified: float
    estimate: float
    ceiling: float
    confidence: float
    before: Interval
    after: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class AlreadyLow:
    """The baseline is not certainly above ``floor``: it was already at most ``before.high``, and has no reduction."""

    before: Interval
    after: Interval
    floor: float

    @property
    def words(self) -> str:
        """The answer, for a sentence."""
        before = f"{self.before.estimate:.3g} ({self.before.low:.3g} to {self.before.high:.3g})"
        return f"baseline already at {before}, not certainly above {self.floor:g}: no reduction is claimed"


def certified_reduction(before: Interval, after: Interval, *, chance: float) -> Reduction | AlreadyLow:
    """Return the reduction from ``before`` to ``after``, or that there was nothing to reduce.

    Args:
        before: an advantage or a true-positive rate at a false-positive rate, without protection.
        after: the same with protection, of the same confidence.
        chance: what guessing attains: 0 for the advantage, the false-positive rate for a true-positive rate.

    Guarantees:
        ``certified`` is above the true reduction with probability ``1 - confidence`` at most, if both intervals hold:
        the upper end of one and the lower end of the other err with half of that each, however they depend on each
        other. Nothing is divided by a number that is not above :data:`LEAST_BASELINE` and ``chance``.

    Raises:
        DataError: intervals of different confidence, an end that is no number or in no order, or a chance outside
            [0, 1).

    >>> before = Interval(estimate=0.5, low=0.4, high=0.6, confidence=0.95, method="clopper-pearson")
    >>> after = Interval(estimate=0.02, low=0.0, high=0.03, confidence=0.95, method="clopper-pearson")
    >>> found = certified_reduction(before, after, chance=0.0)
    >>> round(found.certified, 3), round(found.estimate, 3)
    (0.925, 0.96)
    >>> print(certified_reduction(after, after, chance=0.0).words)
    baseline already at 0.02 (0 to 0.03), not certainly above 0.01: no reduction is claimed
    """
    if before.confidence != after.confidence:
        raise DataError(f"expected intervals of one confidence, got {before.confidence} and {after.confidence}")
    if not 0 <= chance < 1:
        raise DataError(f"chance: expected a number in [0, 1), got {chance}")
    for name, interval in (("before", before), ("after", after)):
        if not interval.low <= interval.estimate <= interval.high:
            raise DataError(f"{name}: expected low <= estimate <= high, got {interval.low} to {interval.high}")
    floor = max(LEAST_BASELINE, chance)
    if before.low <= floor:
        return AlreadyLow(before=before, after=after, floor=floor)
    return Reduction(
        certified=1 - after.high / before.low,
        estimate=1 - after.estimate / before.estimate,
        ceiling=1 - chance / before.low,
        confidence=before.confidence,
        before=before,
        after=after,
    )
