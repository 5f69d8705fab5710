"""A table's cells as a contract reads them: numbers, words and missing values.

The check and the encoding share these readings, so that they cannot disagree about what a cell says. Null and the
empty text are missing in every column; a numeric column's ``missing_codes`` are missing there.
"""

import polars as pl

from fedmarket.contract.columns import NumericColumn


def can_be_words(cells: pl.Series) -> bool:
    """Whether the cells can be read as text: not lists, structs, bytes or objects."""
    return not (cells.dtype.is_nested() or cells.dtype in (pl.Binary, pl.Object))


def can_be_numbers(cells: pl.Series) -> bool:
    """Whether the cells are numbers or text that may spell numbers; truth values and dates are not."""
    return cells.dtype.is_numeric() or cells.dtype in (pl.String, pl.Null)


def words(cells: pl.Series) -> pl.Series:
    """Return the cells as text, null where missing. Truth values read ``true`` and ``false``, the whole number 1 ``1``.

    >>> words(pl.Series([True, None])).to_list()
    ['true', None]
    """
    text = cells.cast(pl.String)
    return text.set(text == "", None)


def numbers(cells: pl.Series, column: NumericColumn | None = None) -> pl.Series:
    """Return the cells as float64, null where missing or where they do not spell a number (:func:`misspelt`).

    Without a feature's ``column`` no number stands for "missing".
    """
    values = _parsed(cells)
    codes = column.missing_codes if column is not None else ()
    return values.set(values.is_in(codes), None) if codes else values


def misspelt(cells: pl.Series) -> int:
    """Return how many cells are there but do not spell a number."""
    return _parsed(cells).null_count() - _without_empty(cells).null_count()


def _parsed(cells: pl.Series) -> pl.Series:
    return _without_empty(cells).cast(pl.Float64, strict=False)


def _without_empty(cells: pl.Series) -> pl.Series:
    return words(cells) if cells.dtype == pl.String else cells
