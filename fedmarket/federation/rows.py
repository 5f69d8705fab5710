"""A party's encoded rows, and the rules they must keep before anything is computed on them."""

from dataclasses import dataclass, field
from typing import Self

import numpy as np

from fedmarket.arrays import AnyArray, FeatureArray, Features, FloatArray, RowNumbers, blocks_of
from fedmarket.errors import DataError
from fedmarket.models.objectives import Objective
from fedmarket.privacy.mechanism import ROW_TOLERANCE


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Encoded rows, never shown.

    Attributes:
        features: (n, width); an array, or what is written out a block at a time.
        targets: (n, targets); see :class:`fedmarket.models.objectives.Objective`.
        segments: (n,) in which segment each row is, from 0; None where none are counted.
        customers: (n,) whose row each is, where a customer may have several; rising, so that they stand together.
    """

    features: Features = field(repr=False)
    targets: FeatureArray = field(repr=False)
    segments: RowNumbers | None = field(default=None, repr=False)
    customers: RowNumbers | None = field(default=None, repr=False)

    def taken(self, rows: AnyArray) -> Self:
        """Return those of these numbers (k,), or that a mask (n,) selects."""
        chosen = np.flatnonzero(rows) if rows.dtype == np.bool_ else rows
        return type(self)(
            features=self.features[chosen],
            targets=self.targets[chosen],
            segments=None if self.segments is None else self.segments[chosen],
            customers=None if self.customers is None else self.customers[chosen],
        )

    @property
    def shares(self) -> FloatArray | None:
        """One over the number of rows of each row's customer, (n,); None where each customer has one."""
        if self.customers is None:
            return None
        _, place, count = np.unique(self.customers, return_inverse=True, return_counts=True)
        return np.asarray(1.0 / count[place])

    def need_usable(
        self, *, party: str, width: int, objective: Objective, segments: int, norm_bound: float, most: int
    ) -> None:
        """Refuse rows that would break a sensitivity or the integer range.

        Raises:
            DataError: with the party's name and a count, never a value.
        """
        rows = len(self.features)
        if self.features.shape != (rows, width) or self.targets.shape != (rows, objective.targets):
            raise DataError(
                f"party {party}: expected rows of width {width} with {objective.targets} target(s) each, "
                f"got {self.features.shape} and {self.targets.shape}"
            )
        if objective.response and not np.all((self.targets[:, 0] == 0) | (self.targets[:, 0] == 1)):
            raise DataError(f"party {party}: expected labels 0 and 1")
        if objective.value:
            value, upper = self.targets[:, -1], objective.value.upper * (1 + ROW_TOLERANCE)
            if count := int(np.count_nonzero(~((value >= 0) & (value <= upper)))):
                raise DataError(f"party {party}: {count} values are not between 0 and the contract's upper bound")
        if count := self._beyond(norm_bound * (1 + ROW_TOLERANCE)):
            raise DataError(f"party {party}: {count} encoded rows are not finite or beyond the norm bound")
        if rows > most:  # the integer range holds the sum of so many rows and no more
            raise DataError(f"party {party}: has more rows than federation.max_party_rows = {most}")
        if self.customers is not None and (self.customers.shape != (rows,) or np.any(np.diff(self.customers) < 0)):
            raise DataError(f"party {party}: expected the rows of each customer to stand together")
        if segments and not (
            self.segments is not None
            and self.segments.shape == (rows,)
            and np.all((self.segments >= 0) & (self.segments < segments))
        ):
            raise DataError(f"party {party}: expected each row in one of {segments} segments")

    def _beyond(self, bound: float) -> int:
        """Return how many rows are not finite or have a norm above ``bound``."""
        norms = (np.linalg.norm(self.features[block], axis=1) for block in blocks_of(len(self.features), wide=True))
        return sum(int(np.count_nonzero(~(some <= bound))) for some in norms)
