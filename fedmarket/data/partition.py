"""Rows dealt to parties: by a column's values, at random, or with Dirichlet skew.

Skews follow Hsu et al. (2019, label) and Li et al. (2022, quantity). Dealing is data randomness: it takes a
:class:`numpy.random.Generator` and promises no privacy.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import polars as pl

from fedmarket.config import ColumnPartition, IidPartition, SkewPartition
from fedmarket.contract.cells import can_be_words, words
from fedmarket.errors import DataError

Indices = npt.NDArray[np.int64]
DRAWS = 100
"""How often a skewed deal that leaves a party empty is drawn anew."""


def partition(
    table: pl.DataFrame,
    labels: npt.NDArray[np.float32],
    how: ColumnPartition | IidPartition | SkewPartition,
    rng: np.random.Generator,
) -> dict[str, Indices]:
    """Return each party's row numbers, ascending, by party name in sorted order.

    Args:
        table: all rows.
        labels: shape (n,); used by label skew only.
        how: the section of the configuration.
        rng: data randomness; the same state deals the same hands.

    Raises:
        DataError: if the column is missing or has missing values, or if a party would have no row.

    **Guarantees.** Every row is in exactly one party and no party is empty.
    """
    if isinstance(how, ColumnPartition):
        return by_name(_party_column(table, how.column))
    if table.height < how.parties:
        raise DataError(f"partition: expected at least one row a party, got {table.height} rows, {how.parties} parties")
    if isinstance(how, IidPartition):
        return _named(np.array_split(rng.permutation(table.height), how.parties))
    groups = _classes(labels) if how.kind == "label-skew" else [np.arange(table.height)]
    return _named(_without_empty(lambda: _skewed(groups, how, rng), how))


def by_name(party: npt.NDArray[np.str_]) -> dict[str, Indices]:
    """Return the row numbers of each party from the party's name in each row.

    >>> by_name(np.array(["b", "a", "b"]))["b"].tolist()
    [0, 2]
    """
    return {str(name): np.flatnonzero(party == name) for name in np.unique(party)}


def _party_column(table: pl.DataFrame, name: str) -> npt.NDArray[np.str_]:
    if name not in table.columns:
        raise DataError(f"partition column {name!r}: missing")
    if not can_be_words(table[name]):
        raise DataError(f"partition column {name!r}: expected words, got {table[name].dtype.base_type()}")
    names = words(table[name])
    if names.null_count():
        raise DataError(f"partition column {name!r}: expected a party in each row, {names.null_count()} are missing")
    return np.array(names.to_list(), dtype=np.str_)


def _named(hands: list[Indices]) -> dict[str, Indices]:
    digits = len(str(len(hands)))
    return {f"party-{number:0{digits}}": np.sort(hand) for number, hand in enumerate(hands, start=1)}


def _classes(labels: npt.NDArray[np.float32]) -> list[Indices]:
    return [np.flatnonzero(labels == value) for value in np.unique(labels)]


def _skewed(groups: list[Indices], how: SkewPartition, rng: np.random.Generator) -> list[Indices]:
    """Each group of rows, shuffled, is cut at the cumulated shares of its own Dirichlet draw."""
    cuts = [_cut(rng.permutation(group), rng.dirichlet([how.alpha] * how.parties)) for group in groups]
    return [np.concatenate(pieces) for pieces in zip(*cuts, strict=True)]


def _cut(rows: Indices, shares: npt.NDArray[np.float64]) -> list[Indices]:
    ends = np.rint(np.cumsum(shares)[:-1] * rows.size).astype(np.int64)
    return np.split(rows, ends)


def _without_empty(draw: Callable[[], list[Indices]], how: SkewPartition) -> list[Indices]:
    for _ in range(DRAWS):
        hands = draw()
        if all(hand.size for hand in hands):
            return hands
    raise DataError(f"partition {how.kind}: {DRAWS} draws left one of {how.parties} parties empty; raise alpha")
