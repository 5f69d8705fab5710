"""Encoded rows read back as cells, a guess from the population alone, and how many cells a guess has right."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from fedmarket.arrays import AnyArray, FloatArray
from fedmarket.contract.columns import CategoryColumn
from fedmarket.contract.layout import Layout, Slots
from fedmarket.errors import DataError

TOLERANCE = 0.1
"""A number counts as recovered within so much of it, as it is encoded from -1 to 1: a twentieth of its range."""

FAINT = 1e-3
"""Share that a word has in a prior where the population has none of it."""

Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prior:
    """What is known of a row before anything is seen.

    Attributes:
        shares: (width,) of rows that have each place of a one-hot group; of a scaled number where it is densest.
        spreads: (width,) standard deviation of a scaled number; elsewhere 1.
        guess: (width,) the row that has the most cells right on average: each column's most frequent word, and the
            number within whose tolerance most rows are.
    """

    shares: FloatArray = field(repr=False)
    spreads: FloatArray = field(repr=False)
    guess: FloatArray = field(repr=False)


def is_category(slots: Slots) -> bool:
    """Return whether the column holds words."""
    return isinstance(slots.column, CategoryColumn)


def prior_of(features: AnyArray, layout: Layout) -> Prior:
    """Return the prior of the population that encoded rows (n, width) are a sample of.

    Raises:
        DataError: no rows, or rows of another width.
    """
    if features.ndim != 2 or features.shape[1] != layout.width or not len(features):
        raise DataError(f"expected encoded rows of width {layout.width}, got shape {features.shape}")
    rows = features.astype(np.float64)
    shares, spreads, guess = rows.mean(axis=0), np.ones(layout.width), np.zeros(layout.width)
    for slots in layout.slots:
        if is_category(slots):
            guess[slots.start + int(np.argmax(shares[slots.start : slots.stop]))] = 1.0
            continue
        known = rows[rows[:, slots.start + 1] == 0, slots.start]
        if not known.size:
            guess[slots.start + 1] = 1.0
            continue
        middle, held = _densest(known)
        shares[slots.start], spreads[slots.start] = middle, max(float(known.std()), FAINT)
        if held > shares[slots.start + 1] * len(rows):
            guess[slots.start] = middle
        else:
            guess[slots.start + 1] = 1.0
    return Prior(shares=shares, spreads=spreads, guess=guess)


def knots_of(slots: Slots) -> FloatArray:
    """Return the bounds and inner edges of a numeric column as they are encoded, from -1 to 1, (bins + 1,)."""
    column = slots.column
    if isinstance(column, CategoryColumn):
        raise DataError(f"column {column.name!r}: expected numbers, got words")
    above = np.array([column.lower, *(column.edges if slots.binned else ()), column.upper]) - column.lower
    if column.log_unit is not None:
        above = np.log1p(above / column.log_unit)
    return np.asarray(2.0 * above / above[-1] - 1.0)


def cells_of(rows: AnyArray, layout: Layout) -> FloatArray:
    """Return each row's cells, (n, columns): the number of the word, or the scaled number, NaN where it is missing.

    Rows may be soft: of a group the largest place counts, and a flag from one half on.
    """
    cells = np.empty((len(rows), len(layout.slots)))
    for place, slots in enumerate(layout.slots):
        own = np.asarray(rows[:, slots.start : slots.stop], dtype=np.float64)
        cells[:, place] = own.argmax(axis=1) if is_category(slots) else np.where(own[:, 1] >= 0.5, np.nan, own[:, 0])
    return cells


def right_cells(guessed: AnyArray, true: AnyArray, layout: Layout) -> Flags:
    """Return which cells of (n, width) rows are right, (n, columns): the same word, or a number within the tolerance.

    A missing number is right where it is missing. What is not finite is wrong.
    """
    found, told = cells_of(guessed, layout), cells_of(true, layout)
    with np.errstate(invalid="ignore"):
        near = np.abs(found - told) <= np.where([is_category(slots) for slots in layout.slots], 0.0, TOLERANCE)
    finite = np.stack([np.isfinite(guessed[:, slots.start : slots.stop]).all(axis=1) for slots in layout.slots], axis=1)
    return np.asarray((near | (np.isnan(found) & np.isnan(told))) & finite)


def best_matched(guessed: AnyArray, true: AnyArray, layout: Layout) -> Flags:
    """Return :func:`right_cells` with guesses in the order in which most cells are right: a sum has no order.

    It favours guesses that differ from each other, so it is generous to an attack.
    """
    count = len(true)
    pairs = right_cells(np.repeat(guessed, count, axis=0), np.tile(true, (count, 1)), layout)
    pairs = pairs.reshape(count, count, -1)
    rows, columns = linear_sum_assignment(-pairs.sum(axis=2))
    return np.asarray(pairs[rows, columns])


def _densest(values: FloatArray) -> tuple[float, int]:
    """Return the number within whose tolerance most values are, and how many."""
    ordered = np.sort(values)
    ends = np.searchsorted(ordered, ordered + 2 * TOLERANCE, side="right")
    first = int(np.argmax(ends - np.arange(len(ordered))))
    inside = ordered[first : ends[first]]
    return float((inside[0] + inside[-1]) / 2), len(inside)
