"""What is said of predicted values alone: segments with the noise of their sums, campaigns, lines of sale, in words."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fedmarket.report.words import count, money, percent

Document = dict[str, Any]

POLICY_NAMES = {
    "model": "Where the joint model expects to earn",
    "pooled": "Where the pooled model expects to earn",
    "everyone": "Everyone",
    "top decile by past spend": "The tenth that spent most so far",
    "nobody": "Nobody",
    "truth": "Where the truth expects to earn",
}

MEASURED_BY = {
    "known truth": "what each customer is truly expected to do, as this market's truth is known",
    "what happened": "what the customers did",
}

LEFT_OUT = {
    "without_customer": "lines without a customer were left out",
    "duplicates": "lines were copies of another and left out",
    "before_start": "lines were before the calibration window and left out",
    "after_end": "lines were after the prediction window and left out",
    "cancelled": "lines took a purchase back",
    "unmatched_cancellations": "cancellations took back more than what was left of a purchase",
    "outside_vocabulary": "lines were of a category outside of the vocabulary",
    "over_limit": "transactions were beyond the latest that count for a customer",
    "clipped_amounts": "amounts were cut to the largest that counts",
    "clipped_values": "customers spent later more than counts in training",
    "only_later": "customers bought in the prediction window alone and have no row",
    "without_purchase": "customers had lines but no purchase that stands, and have no row",
}
"""What became of lines of sale, transactions and customers, by the keys of a results document."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Noisy:
    """A number with the 95 % interval of its noise, whose lower end may be cut off at zero."""

    value: float
    low: float
    high: float

    @property
    def lost(self) -> bool:
        """Whether the noise is larger than the number."""
        return self.low <= 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A number of a segment as it is written: with noise, its interval, and without; ``lost`` in its noise or not."""

    value: str
    interval: str
    exact: str
    lost: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """A row of the table: its tiers in words, and customers, share and mean value."""

    tiers: tuple[str, ...]
    cells: tuple[Cell, ...]


def segments_of(document: Document) -> tuple[Segment, ...]:
    """Return the segments of a results document's ``value``, in their order."""
    return tuple(_segment(found) for found in document["segments"])


def lost_segments(segments: tuple[Segment, ...]) -> int:
    """Return in how many segments the noise is larger than the number of customers."""
    return sum(segment.cells[0].lost for segment in segments)


def ratio(top: Noisy, bottom: Noisy) -> Noisy | None:
    """Return ``top / bottom`` with the interval of independent normal noise on both (Fieller 1954).

    None where the noise of ``bottom`` reaches zero: then nothing is known of the ratio.

    >>> ratio(Noisy(value=50, low=25, high=75), Noisy(value=100, low=100, high=100))
    Noisy(value=0.5, low=0.25, high=0.75)
    """
    if bottom.lost:
        return None
    over, under = (one.high - one.value for one in (top, bottom))
    sure = bottom.value**2 - under**2
    middle = top.value * bottom.value / sure
    width = math.sqrt(over**2 * sure + under**2 * top.value**2) / sure
    return Noisy(value=top.value / bottom.value, low=middle - width, high=middle + width)


def policies_of(document: Document) -> tuple[tuple[str, ...], ...]:
    """Return each policy's name, contacted share, responses and profit for 1,000 customers, as written."""
    return tuple(
        (
            POLICY_NAMES.get(name, name),
            percent(found["contacted_share"]),
            count(found["responses"]),
            count(1000 * found["profit"]),
        )
        for name, found in document["targeting"]["policies"].items()
    )


def targeting_sentence(document: Document) -> str:
    """Return how the policies were measured, and at which prices."""
    targeting, currency = document["targeting"], document["currency"]
    measured = MEASURED_BY.get(targeting["measured_by"], targeting["measured_by"])
    return (
        f"A contact costs {money(targeting['contact_cost'])} {currency}, and of what a responder spends "
        f"{percent(targeting['margin'])} is earned. Measured by {measured}, on the first seed's test customers."
    )


def lines_sentence(lines: Document) -> str:
    """Return what the lines of sale became."""
    return (
        f"{count(lines['lines'])} lines of sale, {count(lines['calibration'])} of them in the calibration window and "
        f"{count(lines['prediction'])} in the prediction window, became {count(lines['customers'])} customers with "
        f"{count(lines['transactions'])} transactions."
    )


def left_out(lines: Document) -> tuple[str, ...]:
    """Return in words what was left out or cut, of what there was any."""
    return tuple(f"{count(lines[key])} {said}." for key, said in LEFT_OUT.items() if lines[key])


def _segment(found: Document) -> Segment:
    known, exact = _sums(found["known"]), None if found["exact"] is None else _sums(found["exact"])
    shown = (
        ("customers", count, math.inf),
        ("share", percent, 1.0),
        ("mean", money, math.inf),
    )
    return Segment(
        tiers=tuple(found["tiers"]),
        cells=tuple(
            _cell(known[name], None if exact is None else exact[name], written=written, most=most)
            for name, written, most in shown
        ),
    )


def _sums(sums: Document) -> dict[str, Noisy | None]:
    """Customers, the share of them that responded or bought, and their mean value."""
    customers, responses, value = (Noisy(**sums[name]) for name in ("customers", "responses", "value"))
    return {"customers": customers, "share": ratio(responses, customers), "mean": ratio(value, customers)}


def _cell(known: Noisy | None, exact: Noisy | None, *, written: Callable[[float], str], most: float) -> Cell:
    return Cell(
        value="-" if known is None else written(known.value),
        interval="" if known is None else f"{written(max(known.low, 0.0))} to {written(min(known.high, most))}",
        exact="-" if exact is None else written(exact.value),
        lost=known is None or known.lost,
    )
