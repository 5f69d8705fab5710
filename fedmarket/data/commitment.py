"""What a party commits to: its rows in one form each, whatever they were read from, and who of them is held out.

A ledger's ``data_set`` stands for rows, not for a file: csv, parquet and a query of the same rows must agree on it, in
whatever order they come. So each row becomes one line of canonical JSON (RFC 8785) as the contract reads its cells,
and the lines are hashed in sorted order. ``docs/reference/data-set.md`` has the form for a second implementation.

Lines and their hash are the party's own: rows can be guessed and tried. What leaves is salted
(:func:`fedmarket.ledger.entries.commitment`).
"""

import hashlib
import hmac
import json
from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from fedmarket.contract.cells import can_be_numbers, can_be_words, numbers, words
from fedmarket.contract.columns import NumericColumn
from fedmarket.contract.schema import Contract
from fedmarket.contract.transactions import TransactionTerms
from fedmarket.data.lines import _times as times_of
from fedmarket.errors import DataError, UsageError

FORMAT = b"fedmarket rows/1"
SPLIT = b"fedmarket held out/1"
KEY_SIZE = 32
"""Bytes; the least that a key of :func:`held_out` may have."""

TIME = "%Y-%m-%dT%H:%M:%S%.6f"
_BLOCK = 100_000
"""Rows that are spelt at once; bounds memory and changes nothing else."""

Kind = Literal["number", "word", "customer", "time"]


def canonical_lines(table: pl.DataFrame, contract: Contract) -> list[bytes]:
    """Return each row's line, in the order of the table; under a contract with transactions, each line of sale's.

    Args:
        table: rows that keep ``contract``; with transactions, lines of sale and not customers.
        contract: says which columns count, in which order, and how their cells are read.

    Returns:
        One JSON list of texts and nulls a row, in UTF-8 and without a line end: the customer where a column names it,
        the contract's columns, label, value; of lines of sale ``terms.used_columns``. A number is the shortest decimal
        of its float64 (:func:`fedmarket.ledger.canonical.decimal`), a time ``2024-01-31T00:00:00.000000`` on the
        party's own clock, anything else the text that :func:`fedmarket.contract.cells.words` reads. Where the terms
        drop duplicates, these are dropped.

    Raises:
        DataError: if a column is missing, or holds lists, structs, bytes or objects; column names only.

    **Guarantees.** A row's line depends on its own cells as the contract reads them, so ``1``, ``1.0`` and ``1.00`` in
    a numeric column are one. A cell that is missing to the contract (null, empty text) is null. Two rows that the
    contract reads differently have different lines; a cell that is no number or time where one is expected stays text.
    """
    rows, kinds = _rows(table, contract), _kinds(contract)
    _need_columns(rows, kinds)
    blocks = (rows.slice(start, _BLOCK) for start in range(0, rows.height, _BLOCK))
    return [line for block in blocks for line in _lines(block, kinds, contract.transactions)]


def contents_hash(lines: Sequence[bytes]) -> str:
    r"""Return the SHA-256 of a label, the number of lines and the sorted lines, each ended by a newline; hexadecimal.

    >>> contents_hash([b'["b"]', b'["a"]']) == contents_hash([b'["a"]', b'["b"]'])
    True
    >>> import hashlib
    >>> hashlib.sha256(b'fedmarket rows/1\n1\n["a"]\n').hexdigest() == contents_hash([b'["a"]'])
    True

    **Guarantees.** For lines of :func:`canonical_lines`: neither their order nor their source changes it; a line more,
    less, twice or another does.
    """
    digest = hashlib.sha256(b"%b\n%d\n" % (FORMAT, len(lines)))
    for line in sorted(lines):
        digest.update(line + b"\n")
    return digest.hexdigest()


def units_of(table: pl.DataFrame, contract: Contract) -> list[bytes]:
    """Return whose each row is: the customer as one JSON text, or the row's line where each row is a customer.

    Args:
        table: rows that keep ``contract``; with transactions, lines of sale or the customers made of them.
        contract: names the customer's column, if there is one.

    Returns:
        In the order of :func:`canonical_lines`. Rows of nobody have ``null``.

    Raises:
        DataError: as :func:`canonical_lines`.
    """
    name = contract.privacy.customer_column
    if name is None:
        return canonical_lines(table, contract)
    rows = _rows(table, contract)
    _need_columns(rows, {name: "customer"})
    return _encoded(_cells(rows[name], "customer", None))


def held_out(units: Sequence[bytes], *, share: float, key: bytes) -> npt.NDArray[np.bool_]:
    """Return which rows are kept for the private evaluation, shape (n,): about ``share`` of the customers.

    A customer is held out if the first 8 bytes of HMAC-SHA-256(``key``, label, unit), as a big-endian number, are
    below ``share`` times 2 ** 64.

    Args:
        units: whose each row is (:func:`units_of`).
        share: between 0 and 1, both excluded.
        key: the party's own secret, 32 bytes or more, of the operating system's generator, kept as long as the ledger.

    Raises:
        UsageError: if the key is too short or the share is none.

    **Guarantees.** Whether a customer is held out depends on that customer and the key and on nobody else: not on the
    other rows, their number or order, nor on the source. So a customer more or less changes one side of the split by
    that customer and the other not at all, which is what parallel composition needs
    (:meth:`fedmarket.privacy.plan.PrivacyPlan.spent`). One put in another's place may be on the other side; then each
    side changes by one customer gone or come, which is half of the replacement that either was paid for. All rows of
    a customer are on one side. Without the key nobody can tell which. The number held out is random: either side can be
    empty in a small table, which the caller must refuse.
    """
    if not 0 < share < 1:
        raise UsageError(f"share of customers to hold out: expected a number between 0 and 1, got {share:g}")
    if len(key) < KEY_SIZE:
        raise UsageError(f"key of the split: expected {KEY_SIZE} bytes or more, got {len(key)}")
    below = int(share * 2**64)
    drawn = (hmac.digest(key, SPLIT + b"\n" + unit, "sha256") for unit in units)
    return np.fromiter((int.from_bytes(one[:8]) < below for one in drawn), dtype=np.bool_, count=len(units))


def _kinds(contract: Contract) -> dict[str, Kind]:
    """The columns that count, in order, and how each is read."""
    terms = contract.transactions
    if terms is not None:
        special: dict[str | None, Kind] = {terms.customer: "customer", terms.time: "time"}
        special |= {terms.amount: "number", terms.quantity: "number"}
        return {name: special.get(name, "word") for name in terms.used_columns}
    customer = contract.privacy.customer_column
    kinds: dict[str, Kind] = {customer: "customer"} if customer is not None else {}
    kinds |= {one.name: "number" if isinstance(one, NumericColumn) else "word" for one in contract.columns}
    kinds |= {contract.label.column: "word"} if contract.label else {}
    return kinds | ({contract.value.column: "number"} if contract.value else {})


def _rows(table: pl.DataFrame, contract: Contract) -> pl.DataFrame:
    """The rows that count: what :mod:`fedmarket.data.lines` drops as duplicate never was there."""
    drops = contract.transactions is not None and contract.transactions.duplicates == "drop"
    return table.unique(maintain_order=True) if drops else table


def _need_columns(table: pl.DataFrame, kinds: dict[str, Kind]) -> None:
    for name in kinds:
        if name not in table.columns:
            raise DataError(f"column {name!r}: missing")
        if not can_be_words(table[name]):
            raise DataError(f"column {name!r}: expected words or numbers, got {table[name].dtype.base_type()}")


def _lines(block: pl.DataFrame, kinds: dict[str, Kind], terms: TransactionTerms | None) -> list[bytes]:
    cells = pl.DataFrame([_cells(block[name], kind, terms) for name, kind in kinds.items()])
    joined = pl.concat_str(pl.all(), separator=",")
    return _encoded(cells.select(pl.concat_str(pl.lit("["), joined, pl.lit("]"))).to_series())


def _cells(cells: pl.Series, kind: Kind, terms: TransactionTerms | None) -> pl.Series:
    """The cells as JSON: a text in quotes, or ``null``."""
    said = words(cells.fill_nan(None) if kind == "customer" and cells.dtype.is_float() else cells)
    spelt = _quoted(said)
    if kind == "number" and can_be_numbers(cells):
        spelt = _decimals(numbers(cells)).fill_null(spelt)
    if kind == "time" and terms is not None:
        spelt = times_of(cells, terms).dt.strftime(f'"{TIME}"').fill_null(spelt)
    return spelt.fill_null("null").alias(cells.name)


def _quoted(said: pl.Series) -> pl.Series:
    """The texts as RFC 8785, section 3.2.2.2, writes them."""
    odd = said.str.contains(r'["\\\x00-\x1f]').fill_null(value=False)
    plain = '"' + said + '"'
    escaped = [json.dumps(text, ensure_ascii=False) for text in said.filter(odd).to_list()]
    return plain.scatter(odd.arg_true(), escaped) if escaped else plain


def _decimals(values: pl.Series) -> pl.Series:
    """The numbers in quotes; those of a column with few different ones are spelt once each."""
    values = values.set(values == 0, 0.0)  # minus zero becomes zero
    distinct = values.unique()
    if 8 * distinct.len() > values.len():
        return pl.Series([None if one is None else f'"{one!r}"' for one in values.to_list()], dtype=pl.String)
    said = pl.Series([None if one is None else f'"{one!r}"' for one in distinct], dtype=pl.String)
    return values.replace_strict(distinct, said, return_dtype=pl.String)


def _encoded(texts: pl.Series) -> list[bytes]:
    return [text.encode() for text in texts.to_list()]
