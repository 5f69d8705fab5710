"""Lines of a transaction table as the terms read them: checked, cleaned and counted, before any window or netting."""

from collections.abc import Iterator
from dataclasses import dataclass

import polars as pl

from fedmarket.contract.cells import can_be_numbers, can_be_words, misspelt, numbers, words
from fedmarket.contract.transactions import UNIX_FORMATS, NegativeCancellations, PrefixedCancellations, TransactionTerms
from fedmarket.errors import ContractViolation, TableError

TICKS = 10_000
"""Money is rounded to this part of the currency's unit."""

LARGEST_LINE = 1e9
"""A line's value beyond this many units of the currency counts as this many, so that sums stay whole and exact."""

_LARGEST_UNIX_SECOND = 253_402_300_799  # The end of the year 9999; more would overflow the clock.


@dataclass(frozen=True, slots=True, kw_only=True)
class Lines:
    """Lines with a customer: customer, time, value (in ticks, not negative), cancelled, category bits and order."""

    table: pl.DataFrame
    lines: int
    without_customer: int
    duplicates: int


def lines_of(transactions: pl.LazyFrame | pl.DataFrame, terms: TransactionTerms, source: str) -> Lines:
    """Return the lines that have a customer, as ``terms`` read them.

    Raises:
        ContractViolation: with every broken rule, column names and counts only.
        TableError: if the table cannot be read.
    """
    raw, duplicates = _used(transactions, terms, source)
    if broken := tuple(_wrong_kinds(raw, terms)):
        raise ContractViolation(source, broken)
    known = raw.filter(_customers(raw, terms).is_not_null())
    without = raw.height - known.height
    if without and terms.without_customer == "refuse":
        broken += (f"customer column {terms.customer!r}: {without} lines without a customer",)
    broken += tuple(_bad_cells(known, terms))
    if broken:
        raise ContractViolation(source, broken)
    return Lines(
        table=_read(known, terms), lines=raw.height + duplicates, without_customer=without, duplicates=duplicates
    )


def _used(transactions: pl.LazyFrame | pl.DataFrame, terms: TransactionTerms, source: str) -> tuple[pl.DataFrame, int]:
    """The columns that the terms name, and how many duplicates were dropped.

    An error of a reader may carry a cell and so is not passed on.
    """
    try:
        scan = transactions.lazy()
        there = scan.collect_schema().names()
        if missing := tuple(f"column {name!r}: missing" for name in terms.used_columns if name not in there):
            raise ContractViolation(source, missing)
        if terms.duplicates == "keep":
            return scan.select(terms.used_columns).collect(), 0
        # Two articles at one price are no duplicate: columns that the terms do not name tell lines apart, too.
        whole = scan.collect()
        distinct = whole.unique()
        return distinct.select(terms.used_columns), whole.height - distinct.height
    except (pl.exceptions.PolarsError, OSError):
        raise TableError(f"{source}: cannot be read as a table") from None


def _wrong_kinds(raw: pl.DataFrame, terms: TransactionTerms) -> Iterator[str]:
    numeric = [terms.amount] + ([terms.quantity] if terms.quantity else [])
    for name, cells in ((name, raw[name]) for name in terms.used_columns):
        kind = cells.dtype.base_type()
        if name == terms.time:
            if not (cells.dtype in (pl.Date, pl.Datetime, pl.String, pl.Null) or cells.dtype.is_numeric()):
                yield f"time column {name!r}: expected times, got {kind}"
        elif name in numeric:
            if not can_be_numbers(cells):
                yield f"column {name!r}: expected numbers, got {kind}"
        elif not can_be_words(cells):
            yield f"column {name!r}: expected words, got {kind}"


def _bad_cells(known: pl.DataFrame, terms: TransactionTerms) -> Iterator[str]:
    """Rules on cells of lines with a customer; a line of nobody cannot do harm."""
    cells, times = known[terms.time], _times(known[terms.time], terms)
    missing = words(cells).null_count()
    if missing:
        yield f"time column {terms.time!r}: {missing} values are missing"
    if count := times.null_count() - missing:
        yield f"time column {terms.time!r}: {count} values are not times of the form {terms.time_format!r}"
    for name in (terms.amount, terms.quantity):
        if name is not None:
            yield from _bad_numbers(known[name])
    if terms.order is not None and (count := words(known[terms.order]).null_count()):
        yield f"order column {terms.order!r}: {count} values are missing"
    if not isinstance(terms.cancellations, NegativeCancellations):
        below = pl.DataFrame({"below": _below_zero(known, terms), "cancelled": _cancelled(known, terms)})
        if count := lines_where(below, pl.col("below") & ~pl.col("cancelled")):
            yield f"column {terms.amount!r}: {count} lines are below zero, but no rule makes them cancellations"


def _bad_numbers(cells: pl.Series) -> Iterator[str]:
    values = numbers(cells)
    if count := misspelt(cells):
        yield f"column {cells.name!r}: expected numbers, {count} values are not"
    if count := values.null_count() - misspelt(cells):
        yield f"column {cells.name!r}: {count} values are missing"
    if count := int(values.is_nan().sum() or 0):
        yield f"column {cells.name!r}: {count} values are NaN"
    if count := int(values.is_infinite().sum() or 0):
        yield f"column {cells.name!r}: {count} values are infinite"


def _read(known: pl.DataFrame, terms: TransactionTerms) -> pl.DataFrame:
    """Lines without a bad cell; see :class:`Lines`."""
    customers = _customers(known, terms)
    value = numbers(known[terms.amount])
    if terms.amount_is == "unit-price" and terms.quantity is not None:
        value = value * numbers(known[terms.quantity])
    columns = {
        # Numbers in the order of the names: they sort and group faster than text.
        "customer": customers.cast(pl.Enum(customers.unique().sort())),
        "time": _times(known[terms.time], terms),
        "value": (value.abs().clip(upper_bound=LARGEST_LINE) * TICKS).round().cast(pl.Int64),
        "cancelled": _cancelled(known, terms),
        "bits": _category_bits(known, terms),
    }
    return pl.DataFrame(columns | ({"order": words(known[terms.order])} if terms.order else {}))


def _customers(table: pl.DataFrame, terms: TransactionTerms) -> pl.Series:
    cells = table[terms.customer]
    return words(cells.fill_nan(None) if cells.dtype.is_float() else cells)


def _times(cells: pl.Series, terms: TransactionTerms) -> pl.Series:
    """The cells as times on the party's own clock, null where they are none."""
    if isinstance(cells.dtype, pl.Datetime):
        return cells.dt.replace_time_zone(None).cast(pl.Datetime("us"))
    if cells.dtype == pl.Date:
        return cells.cast(pl.Datetime("us"))
    if terms.time_format not in UNIX_FORMATS:
        return words(cells).str.to_datetime(terms.time_format, time_unit="us", strict=False)
    microseconds = numbers(cells) * (1e6 if terms.time_format == "unix-seconds" else 1e3)
    there = microseconds.abs() <= _LARGEST_UNIX_SECOND * 1e6  # False for NaN, which is above every bound.
    return microseconds.set(~there, None).round().cast(pl.Int64).cast(pl.Datetime("us"))


def _below_zero(known: pl.DataFrame, terms: TransactionTerms) -> pl.Series:
    below = numbers(known[terms.amount]) < 0
    return below | (numbers(known[terms.quantity]) < 0) if terms.quantity else below


def _cancelled(known: pl.DataFrame, terms: TransactionTerms) -> pl.Series:
    rule = terms.cancellations
    if isinstance(rule, PrefixedCancellations):
        return words(known[rule.column]).str.starts_with(rule.prefix).fill_null(value=False)
    if isinstance(rule, NegativeCancellations):
        return _below_zero(known, terms)
    return pl.repeat(value=False, n=known.height, dtype=pl.Boolean, eager=True)


def _category_bits(known: pl.DataFrame, terms: TransactionTerms) -> pl.Series:
    """One bit for the line's word in the vocabulary, the next one for any other or none; 0 without categories."""
    if terms.category is None:
        return pl.repeat(0, known.height, dtype=pl.Int64, eager=True)
    bit_of = {word: 1 << place for place, word in enumerate(terms.category.vocabulary)}
    said = words(known[terms.category.column])
    return said.replace_strict(bit_of, default=1 << len(bit_of), return_dtype=pl.Int64).fill_null(1 << len(bit_of))


def lines_where(table: pl.DataFrame, true: pl.Expr) -> int:
    """How many rows are true; null counts as false."""
    return int(table.select(true.sum()).item() or 0)
