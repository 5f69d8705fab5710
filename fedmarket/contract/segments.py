"""Segments of customers by public cut points: recency, frequency, monetary value, or whatever the contract names.

RFM tables are what a marketing team reads first (Hughes 1994). A segment is a cell of the grid that the axes' tiers
make; each customer is in exactly one.
"""

import itertools
import math
from typing import Annotated, Self

from pydantic import Field, model_validator

from fedmarket.documents import Name, Number, Section

MOST_SEGMENTS = 64
"""More cells would have too few customers each for any noise."""


class SegmentAxis(Section):
    """A numeric column of the contract and the public values at which its tiers begin.

    With cuts 30 and 90 the tiers are below 30, 30 to below 90, and 90 or more. A missing cell counts as the first tier.
    """

    column: Name
    cuts: Annotated[tuple[Number, ...], Field(strict=False, min_length=1)]

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if not all(low < high for low, high in itertools.pairwise(self.cuts)):
            raise ValueError(f"cuts must rise strictly in segments of column {self.column!r}")
        return self

    @property
    def tiers(self) -> tuple[str, ...]:
        """The tiers in words, the lowest first.

        >>> SegmentAxis(column="orders", cuts=(2, 5)).tiers
        ('orders below 2', 'orders 2 to below 5', 'orders 5 or more')
        """
        middle = (f"{self.column} {low:g} to below {high:g}" for low, high in itertools.pairwise(self.cuts))
        return (f"{self.column} below {self.cuts[0]:g}", *middle, f"{self.column} {self.cuts[-1]:g} or more")


def segment_count(axes: tuple[SegmentAxis, ...] | None) -> int:
    """Return how many segments the axes make; 0 without axes."""
    return math.prod(len(axis.tiers) for axis in axes) if axes else 0


def segment_names(axes: tuple[SegmentAxis, ...]) -> tuple[tuple[str, ...], ...]:
    """Return each segment's tiers in words, in the order in which segments are numbered: the last axis runs fastest."""
    return tuple(itertools.product(*(axis.tiers for axis in axes)))
