"""Names for the arrays that travel between the folders, and the blocks in which many rows are worked on."""

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
"""Real vectors: parameters, sums, probabilities."""

FeatureArray = NDArray[np.float32]
"""Encoded rows (n, width) and their labels (n,)."""

WordArray = NDArray[np.unsignedinteger]
"""Residues modulo 2 ** 32 or 2 ** 64, one for each coordinate of an update."""

RowNumbers = NDArray[np.int64]
"""Numbers of rows of a table."""

AnyArray = NDArray[Any]
"""An array that came from outside and is not yet checked."""

BLOCK = 1 << 16
"""Rows that are worked on at once where each is a few numbers: many, as what they are added up to depends on it."""

WIDE = 1 << 13
"""Rows that are written out at once: few enough that their memory is used again for the next."""


class Features(Protocol):
    """Encoded rows (n, width): an array, or what makes an array of those that are asked for."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Rows and width."""

    def __len__(self) -> int:
        """Return how many rows there are."""

    def __getitem__(self, rows: slice | RowNumbers, /) -> FeatureArray:
        """Return some of the rows, written out."""


def blocks_of(rows: int, *, wide: bool = False) -> Iterator[slice]:
    """Yield the rows from the first to the last in blocks of ``BLOCK``, or ``WIDE``; of no rows, one that is empty.

    >>> [(one.start, one.stop) for one in blocks_of(BLOCK + 1)]
    [(0, 65536), (65536, 65537)]
    """
    most = WIDE if wide else BLOCK
    for start in range(0, max(rows, 1), most):
        yield slice(start, min(start + most, rows))
