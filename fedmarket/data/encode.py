"""A table encoded as the layout says: numbers scaled from public bounds, categories as one-hot places.

Nothing is fitted: a row's encoding depends on the row, the contract and nothing else, so that encoding costs no
privacy and every party's columns mean the same.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl

from fedmarket.contract.cells import can_be_numbers, can_be_words, misspelt, numbers, words
from fedmarket.contract.columns import CategoryColumn, NumericColumn, Value
from fedmarket.contract.layout import Layout
from fedmarket.contract.schema import Contract
from fedmarket.data.coded import Coded
from fedmarket.errors import ConfigError, DataError

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """Rows as a model sees them: ``features`` (n, width) and ``targets`` (n, T) as :func:`targets_of` gives them."""

    features: Floats
    targets: Floats | None


def encode(table: pl.DataFrame, contract: Contract, layout: Layout, *, label_expected: bool = True) -> Encoded:
    """Return ``table`` encoded under ``layout``.

    Args:
        table: rows that keep ``contract`` (:func:`fedmarket.contract.check.check_table`).
        contract: says which columns are label and value, and which word is positive.
        layout: the layout of ``contract``.
        label_expected: False leaves the targets out, also where the table has their columns.

    Returns:
        Features, C-contiguous float32 of shape (n, layout.width), and targets of shape (n, T). Targets are None where
        the table lacks a target's column or none is expected.

    Raises:
        DataError: if a cell breaks the contract; column names and counts only.

    **Guarantees.** Each row's norm is at most ``layout.norm_bound``. Row i of the result depends on row i alone. A
    feature out of bounds is refused, never clipped.
    """
    features = coded(table, layout)[:]
    columns = [part.column for part in (contract.label, contract.value) if part is not None]
    has_targets = label_expected and all(name in table.columns for name in columns)
    return Encoded(features=features, targets=targets_of(table, contract) if has_targets else None)


def coded(table: pl.DataFrame, layout: Layout) -> Coded:
    """Return the features of ``table`` as :func:`encode` does, in a form that takes a tenth of the memory.

    Raises:
        DataError: if a cell breaks the contract; column names and counts only.
    """
    found = Coded.blank(table.height, layout)
    numeric = iter(found.numbers.T)
    for slots, ones in zip(layout.slots, found.ones.T, strict=True):
        column = slots.column
        if column.name not in table.columns:
            raise DataError(f"column {column.name!r}: missing")
        cells = table[column.name]
        if isinstance(column, CategoryColumn):
            ones[:] = slots.start + _places_of_words(_words(cells, column.name), column)
        else:
            values = _values(cells, column)
            ones[:] = slots.start + _places_of_numbers(values, column, binned=slots.binned)
            next(numeric)[:] = _scaled(values, column)
    return found


def targets_of(table: pl.DataFrame, contract: Contract) -> Floats:
    """Return what is to be predicted, float32 of shape (n, T), one column for each of ``contract.targets``.

    A response is 1 or 0. A value is in the contract's currency and clipped at the contract's upper bound.

    Raises:
        DataError: if a column is missing or a cell breaks the contract; column names and counts only.
    """
    made = {"response": labels_of, "value": _values_of}
    return np.stack([made[target](table, contract) for target in contract.targets], axis=1)


def labels_of(table: pl.DataFrame, contract: Contract) -> Floats:
    """Return 1 for each positive row and 0 for each negative one, as float32 of shape (n,).

    Raises:
        DataError: if the label column is missing, or holds anything else than the contract's two words.
        ConfigError: if the contract has no label.
    """
    label = contract.label
    if label is None:
        raise ConfigError(f"contract {contract.name!r}: task = {contract.task!r} has no label")
    if label.column not in table.columns:
        raise DataError(f"label column {label.column!r}: missing")
    said = _words(table[label.column], label.column)
    unknown = table.height - int(said.is_in([label.positive, label.negative]).sum() or 0)
    if unknown:
        raise DataError(f"label column {label.column!r}: {unknown} values are neither positive nor negative")
    return (said == label.positive).to_numpy().astype(np.float32)


def spent_of(table: pl.DataFrame, contract: Contract) -> npt.NDArray[np.float64]:
    """Return the value column as it stands, not clipped, as float64 of shape (n,).

    Raises:
        DataError: if the value column is missing, or a value is no number, not finite or below zero.
        ConfigError: if the contract has no value.
    """
    value = _value(contract)
    if value.column not in table.columns:
        raise DataError(f"value column {value.column!r}: missing")
    cells = table[value.column]
    if not can_be_numbers(cells):
        raise DataError(f"value column {value.column!r}: expected numbers, got {cells.dtype.base_type()}")
    said = numbers(cells)
    bad = table.height - int((said.is_finite() & (said >= 0)).sum() or 0)
    if bad:
        raise DataError(f"value column {value.column!r}: {bad} values are not numbers from 0 on")
    return said.to_numpy()


def _values_of(table: pl.DataFrame, contract: Contract) -> Floats:
    """The value column clipped at its upper bound, or at the last float32 below where the bound is none itself."""
    upper = _value(contract).upper
    top = np.float32(upper)
    top = np.nextafter(top, np.float32(0)) if float(top) > upper else top
    return np.minimum(spent_of(table, contract).clip(max=upper).astype(np.float32), top)


def _value(contract: Contract) -> Value:
    if contract.value is None:
        raise ConfigError(f"contract {contract.name!r}: task = {contract.task!r} has no value")
    return contract.value


def _places_of_words(said: pl.Series, column: CategoryColumn) -> npt.NDArray[np.int64]:
    """One place for each word of the vocabulary, then "other", then "missing"."""
    place_of = {word: place for place, word in enumerate(column.vocabulary)}
    other, missing = len(place_of), len(place_of) + 1
    place = said.replace_strict(place_of, default=other, return_dtype=pl.Int64)
    return place.set(said.is_null(), missing).to_numpy()


def _places_of_numbers(values: pl.Series, column: NumericColumn, *, binned: bool) -> npt.NDArray[np.int64]:
    """The scaled value's own place, the flag "missing", then the bins [low, high); a missing value is in no bin."""
    known = values.fill_null(column.lower).to_numpy()
    place = 2 + np.searchsorted(column.edges, known, side="right") if binned else np.zeros(len(known), dtype=np.int64)
    return np.where(values.is_null().to_numpy(), 1, place)


def _scaled(values: pl.Series, column: NumericColumn) -> npt.NDArray[np.float64]:
    """The values from -1 to 1 as they lie between the public bounds, 0 where missing."""
    above, width = values.to_numpy() - column.lower, column.upper - column.lower
    if column.log_unit is not None:
        above, width = np.log1p(above / column.log_unit), math.log1p(width / column.log_unit)
    return np.where(values.is_null().to_numpy(), 0.0, (2.0 * (above / width) - 1.0).clip(-1.0, 1.0))


def _values(cells: pl.Series, column: NumericColumn) -> pl.Series:
    if not can_be_numbers(cells):
        raise DataError(f"column {column.name!r}: expected numbers, got {cells.dtype.base_type()}")
    values = numbers(cells, column)
    inside = values.is_between(column.lower, column.upper)  # NaN is above every bound and so counts as outside.
    bad = misspelt(cells) + int((~inside).sum() or 0)
    if bad:
        raise DataError(
            f"column {column.name!r}: {bad} values are not numbers in {column.lower:.12g} to {column.upper:.12g}"
        )
    return values


def _words(cells: pl.Series, name: str) -> pl.Series:
    if not can_be_words(cells):
        raise DataError(f"column {name!r}: expected words, got {cells.dtype.base_type()}")
    return words(cells)
