"""Encoded rows in a tenth of their size: most places of a row are zero, and which are not is one number a column."""

from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from fedmarket.arrays import AnyArray, FeatureArray, RowNumbers
from fedmarket.contract.columns import NumericColumn
from fedmarket.contract.layout import Layout


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Coded:
    """Encoded rows of one layout, (n, width), of which those that are asked for are written out.

    Attributes:
        width: of a row that is written out.
        ones: (m, columns) the place of a row that each column sets to 1; a number's own place where it sets none.
        numbers: (m, numeric columns) scaled, 0 where missing.
        at: (numeric columns,) the place of each number.
        rows: (n,) which of the m rows these are, in their order; None for all of them.
    """

    width: int
    ones: npt.NDArray[np.unsignedinteger] = field(repr=False)
    numbers: FeatureArray = field(repr=False)
    at: RowNumbers = field(repr=False)
    rows: RowNumbers | None = field(default=None, repr=False)

    @classmethod
    def blank(cls, rows: int, layout: Layout) -> "Coded":
        """Return so many rows, of which nothing is known yet."""
        at = [slots.start for slots in layout.slots if isinstance(slots.column, NumericColumn)]
        return cls(
            width=layout.width,
            ones=np.zeros((rows, len(layout.slots)), dtype=np.min_scalar_type(layout.width)),
            numbers=np.zeros((rows, len(at)), dtype=np.float32),
            at=np.array(at, dtype=np.int64),
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows and width."""
        return len(self), self.width

    def __len__(self) -> int:
        """Return how many rows there are."""
        return len(self.ones if self.rows is None else self.rows)

    def __getitem__(self, rows: slice | RowNumbers) -> FeatureArray:
        """Return some of the rows written out, C-contiguous."""
        chosen = rows if self.rows is None else self.rows[rows]
        ones = self.ones[chosen]
        features = np.zeros((len(ones), self.width), dtype=np.float32)
        features.reshape(-1)[np.arange(0, features.size, self.width)[:, None] + ones] = 1.0
        features[:, self.at] = self.numbers[chosen]  # also over the ones that stand for none
        return features

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> AnyArray:
        """Return all rows written out, where NumPy wants an array."""
        del copy
        return np.asarray(self[:], dtype=dtype)

    def taken(self, rows: RowNumbers) -> "Coded":
        """Return some of the rows, in the order of ``rows``; they are not copied."""
        return replace(self, rows=rows if self.rows is None else self.rows[rows])
