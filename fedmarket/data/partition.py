"""Rows dealt to parties: by a column's values or their hash, by first purchase, at random, or with Dirichlet skew.

Skews follow Hsu et al. (2019, label) and Li et al. (2022, quantity). Dealing is data randomness: it takes a
:class:`numpy.random.Generator` and promises no privacy.
"""

import hashlib
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import polars as pl

from fedmarket.config import (
    AcquisitionPartition,
    ColumnPartition,
    HashPartition,
    IidPartition,
    Partition,
    SkewPartition,
)
from fedmarket.contract.cells import can_be_words, words
from fedmarket.errors import DataError

Indices = npt.NDArray[np.int64]
DRAWS = 100
"""How often a skewed deal that leaves a party empty is drawn anew."""


def partition(
    table: pl.DataFrame,
    labels: npt.NDArray[np.float32] | None,
    how: Partition,
    rng: np.random.Generator,
    *,
    first_days: npt.NDArray[np.datetime64] | None = None,
) -> dict[str, Indices]:
    """Return each party's row numbers, ascending, by party name in sorted order.

    Args:
        table: all rows.
        labels: shape (n,); used by label skew only, None where there are none.
        how: the section of the configuration.
        rng: data randomness; the same state deals the same hands. Columns, hashes and first purchases use none.
        first_days: the day of each customer's first purchase, datetime64[D] of shape (n,), where it is known.

    Raises:
        DataError: if the column is missing or has missing values, if labels or first purchases are needed and not
            known, or if a party would have no row.

    **Guarantees.** Every row is in exactly one party and no party is empty.
    """
    if isinstance(how, ColumnPartition):
        return by_name(_party_column(table, how.column))
    if isinstance(how, AcquisitionPartition):
        return by_name(_acquired(first_days, how))
    if table.height < how.parties:
        raise DataError(f"partition: expected at least one row a party, got {table.height} rows, {how.parties} parties")
    if isinstance(how, HashPartition):
        return _named(_hashed(_party_column(table, how.column), how.parties))
    if isinstance(how, IidPartition):
        return _named(np.array_split(rng.permutation(table.height), how.parties))
    groups = _classes(labels) if how.kind == "label-skew" else [np.arange(table.height)]
    return _named(_without_empty(lambda: _skewed(groups, how, rng), how))


def by_name(party: pl.Series) -> dict[str, Indices]:
    """Return the row numbers of each party from the party's name in each row.

    >>> by_name(pl.Series(["b", "a", "b"]))["b"].tolist()
    [0, 2]
    """
    rows = pl.DataFrame({"party": party, "row": pl.int_range(len(party), eager=True)})
    hands = rows.group_by("party", maintain_order=True).agg("row").sort("party")
    return {name: hand.to_numpy() for name, hand in zip(*hands, strict=True)}


def _party_column(table: pl.DataFrame, name: str) -> pl.Series:
    if name not in table.columns:
        raise DataError(f"partition column {name!r}: missing")
    if not can_be_words(table[name]):
        raise DataError(f"partition column {name!r}: expected words, got {table[name].dtype.base_type()}")
    names = words(table[name])
    if names.null_count():
        raise DataError(f"partition column {name!r}: expected a party in each row, {names.null_count()} are missing")
    return names


def _acquired(first_days: npt.NDArray[np.datetime64] | None, how: AcquisitionPartition) -> pl.Series:
    """The month or quarter of each first day, as ``1997-01`` or ``1997-Q1``."""
    if first_days is None:
        raise DataError("partition acquisition: expected a contract with transactions, which tell first purchases")
    months = first_days.astype("datetime64[M]")
    if how.period == "month":
        return pl.Series(months.astype(np.str_))
    quarters = months.astype(np.int64) % 12 // 3 + 1
    years = months.astype("datetime64[Y]").astype(np.str_)
    return pl.Series(np.char.add(np.char.add(years, "-Q"), quarters.astype(np.str_)))


def _hashed(cells: pl.Series, parties: int) -> list[Indices]:
    names = cells.unique()
    places = [int.from_bytes(hashlib.sha256(name.encode()).digest()) % parties for name in names]
    place = cells.replace_strict(names, pl.Series(places), return_dtype=pl.Int64).to_numpy()
    hands = [np.flatnonzero(place == number) for number in range(parties)]
    if empty := sum(not hand.size for hand in hands):
        raise DataError(f"partition hash: {len(names)} different cells leave {empty} of {parties} parties empty")
    return hands


def _named(hands: list[Indices]) -> dict[str, Indices]:
    digits = len(str(len(hands)))
    return {f"party-{number:0{digits}}": np.sort(hand) for number, hand in enumerate(hands, start=1)}


def _classes(labels: npt.NDArray[np.float32] | None) -> list[Indices]:
    if labels is None:
        raise DataError("partition label-skew: expected a contract with a label, got none")
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
