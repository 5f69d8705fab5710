"""In which of the contract's segments each row is."""

import numpy as np
import polars as pl

from fedmarket.arrays import RowNumbers
from fedmarket.contract.cells import numbers
from fedmarket.contract.columns import NumericColumn
from fedmarket.contract.schema import Contract


def segments_of(table: pl.DataFrame, contract: Contract) -> RowNumbers | None:
    """Return the number of each row's segment, (n,) from 0, as :func:`segment_names` orders them; None without any.

    ``table`` keeps the contract. A row's segment depends on that row alone.
    """
    if not contract.segments:
        return None
    columns = {column.name: column for column in contract.columns}
    place = np.zeros(table.height, dtype=np.int64)
    for axis in contract.segments:
        column = columns[axis.column]
        if not isinstance(column, NumericColumn):
            raise TypeError(f"segments of column {axis.column!r}: the contract should have refused it")
        values = numbers(table[axis.column], column).fill_null(-np.inf).to_numpy()
        place = place * len(axis.tiers) + np.searchsorted(axis.cuts, values, side="right")
    return place
