"""A table held against its contract: all broken rules in one answer, and a profile of the table that keeps them.

A party runs this on its own rows before it joins. What is found stays with the party: an error names columns, rules
and counts, never a cell. A *training* table carries label, value or both and is what the privacy terms speak about; a
*scoring* table (``label_expected=False``) has none of these, so the rules on them, on delta, on customer ids and on
columns that are missing throughout are not asked of it. Under a contract with transactions the table is the one that
its terms make of the lines, where a column may be missing throughout: nobody came back yet.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import polars as pl

from fedmarket.contract.cells import can_be_numbers, can_be_words, misspelt, numbers, words
from fedmarket.contract.columns import CategoryColumn, Column, NumericColumn
from fedmarket.contract.schema import Contract, Label, Value
from fedmarket.contract.transactions import TARGETS
from fedmarket.errors import ContractViolation


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnProfile:
    """How many cells of a column are missing, and how many lie outside of its (open) vocabulary."""

    name: str
    missing: int
    other: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What a table looks like through its contract. Exact counts of private rows: not for others' eyes.

    ``positives`` is None without a label. ``buyers`` have a value above zero, and ``clipped_values`` of them one above
    the contract's upper bound, as which it counts; both are None without a value. A scoring table has neither.
    ``ignored`` names the columns that the contract does not mention.
    """

    rows: int
    positives: int | None
    buyers: int | None
    clipped_values: int | None
    columns: tuple[ColumnProfile, ...]
    ignored: tuple[str, ...]


def check_table(table: pl.DataFrame, contract: Contract, *, source: str, label_expected: bool = True) -> Profile:
    """Return the profile of ``table``, which keeps every rule of ``contract``.

    Args:
        table: one party's rows.
        contract: what the parties agreed on.
        source: what to call the table in an error.
        label_expected: False for a table to be scored, which needs neither label nor value.

    Raises:
        ContractViolation: with every broken rule, and no cell.
    """
    broken = find_violations(table, contract, label_expected=label_expected)
    if broken:
        raise ContractViolation(source, broken)
    label, value = (contract.label, contract.value) if label_expected else (None, None)
    return Profile(
        rows=table.height,
        positives=_count(words(table[label.column]) == label.positive) if label else None,
        buyers=_count(numbers(table[value.column]) > 0) if value else None,
        clipped_values=_count(numbers(table[value.column]) > value.upper) if value else None,
        columns=tuple(_profile(table[column.name], column) for column in contract.columns),
        ignored=tuple(name for name in table.columns if name not in _known(contract)),
    )


def find_violations(table: pl.DataFrame, contract: Contract, *, label_expected: bool = True) -> tuple[str, ...]:
    """Return one line for each rule of ``contract`` that ``table`` breaks, in the contract's order."""
    broken: list[str] = [] if table.height else ["empty table: expected at least one row, got 0"]
    for column in contract.columns:
        broken += _column_rules(table, column, may_be_empty=not label_expected or contract.transactions is not None)
    if label_expected:
        broken += _label_rules(table, contract.label) if contract.label else ()
        broken += _value_rules(table, contract.value) if contract.value else ()
        broken += _privacy_rules(table, contract)
    return tuple(broken)


def _known(contract: Contract) -> set[str | None]:
    predicted = {part.column for part in (contract.label, contract.value) if part is not None}
    made = set(TARGETS) if contract.transactions is not None else set()
    return {column.name for column in contract.columns} | predicted | made | {contract.privacy.customer_column}


def _column_rules(table: pl.DataFrame, column: Column, *, may_be_empty: bool) -> Iterator[str]:
    if column.name not in table.columns:
        yield f"column {column.name!r}: missing"
        return
    cells = table[column.name]
    if isinstance(column, NumericColumn):
        if not can_be_numbers(cells):
            yield f"column {column.name!r}: expected numbers, got {cells.dtype.base_type()}"
            return
        yield from _number_rules(cells, column)
    else:
        if not can_be_words(cells):
            yield f"column {column.name!r}: expected words, got {cells.dtype.base_type()}"
            return
        yield from _word_rules(cells, column)
    yield from _missing_rules(cells, column, may_be_empty=may_be_empty)


def _number_rules(cells: pl.Series, column: NumericColumn) -> Iterator[str]:
    values = numbers(cells, column)
    finite = values.filter(values.is_finite())
    outside = finite.filter((finite < column.lower) | (finite > column.upper)).len()
    if count := misspelt(cells):
        yield f"column {column.name!r}: expected numbers, {count} values are not"
    if count := _count(values.is_nan()):
        yield f"column {column.name!r}: {count} values are NaN (a missing value must be left empty)"
    if count := _count(values.is_infinite()):
        yield f"column {column.name!r}: {count} values are infinite"
    if outside:
        yield f"column {column.name!r}: {outside} values outside the bounds {column.lower:.12g} to {column.upper:.12g}"


def _word_rules(cells: pl.Series, column: CategoryColumn) -> Iterator[str]:
    if column.closed and (count := _other(cells, column)):
        yield f"column {column.name!r}: {count} values outside the closed vocabulary of {len(column.vocabulary)} words"


def _missing_rules(cells: pl.Series, column: Column, *, may_be_empty: bool) -> Iterator[str]:
    missing = _missing(cells, column)
    if missing and column.required:
        yield f"column {column.name!r}: required, but {missing} values are missing"
    elif not may_be_empty and cells.len() and (empty := words(cells).null_count()) == cells.len():
        # A column full of missing codes says something ("nobody was contacted before"); an empty one says nothing.
        yield f"column {column.name!r}: all {empty} values are missing"


def _label_rules(table: pl.DataFrame, label: Label) -> Iterator[str]:
    if label.column not in table.columns:
        yield f"label column {label.column!r}: missing"
        return
    if not can_be_words(table[label.column]):
        yield f"label column {label.column!r}: expected words, got {table[label.column].dtype.base_type()}"
        return
    said = words(table[label.column])
    if count := said.null_count():
        yield f"label column {label.column!r}: {count} values are missing"
    if count := _count(~said.is_in([label.positive, label.negative])):
        yield f"label column {label.column!r}: {count} values are neither {label.positive!r} nor {label.negative!r}"
    for word, name in ((label.positive, "positive"), (label.negative, "negative")):
        if table.height and not _count(said == word):
            yield f"label column {label.column!r}: only one class (no {name} among {table.height} rows)"


def _value_rules(table: pl.DataFrame, value: Value) -> Iterator[str]:
    """Nobody needs to have bought, and a value above the upper bound counts as that bound."""
    if value.column not in table.columns:
        yield f"value column {value.column!r}: missing"
        return
    cells = table[value.column]
    if not can_be_numbers(cells):
        yield f"value column {value.column!r}: expected numbers, got {cells.dtype.base_type()}"
        return
    said, strange = numbers(cells), misspelt(cells)
    counts = {
        "are not numbers": strange,
        "are missing": said.null_count() - strange,
        "are NaN": _count(said.is_nan()),
        "are infinite": _count(said.is_infinite()),
        "are below zero": _count(said.is_finite() & (said < 0)),
    }
    for rule, count in counts.items():
        if count:
            yield f"value column {value.column!r}: {count} values {rule}"


def _privacy_rules(table: pl.DataFrame, contract: Contract) -> Iterator[str]:
    rows, delta = table.height, contract.privacy.delta
    if rows and not delta < 1 / rows:
        yield f"privacy.delta {delta:g} must be below 1/rows ({rows} rows)"
    name = contract.privacy.customer_column
    if name is None:
        return
    if name not in table.columns:
        yield f"customer column {name!r}: missing"
        return
    if not can_be_words(table[name]):
        yield f"customer column {name!r}: expected words or numbers, got {table[name].dtype.base_type()}"
        return
    customers = words(table[name])
    if count := customers.null_count():
        yield f"customer column {name!r}: {count} rows without a customer"


def _profile(cells: pl.Series, column: Column) -> ColumnProfile:
    other = _other(cells, column) if isinstance(column, CategoryColumn) else 0
    return ColumnProfile(name=column.name, missing=_missing(cells, column), other=other)


def _missing(cells: pl.Series, column: Column) -> int:
    if isinstance(column, NumericColumn):
        return numbers(cells, column).null_count() - misspelt(cells)
    return words(cells).null_count()


def _other(cells: pl.Series, column: CategoryColumn) -> int:
    return _count(~words(cells).is_in(column.vocabulary))


def _count(true: pl.Series) -> int:
    """How many cells are true; null counts as false."""
    return int(true.sum() or 0)
