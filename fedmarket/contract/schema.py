"""The contract: columns with public bounds and vocabularies, what is predicted, privacy unit, adjacency, delta.

A contract is a TOML document that every party reads and accepts before it opens its own table. Nothing in it is
computed from private rows. Two parties work under the same contract exactly if :func:`contract_hash` agrees.

A lifetime-value contract is about a table of customers, as a propensity contract is, or about lines of sale
(``[transactions]``), whose terms then say which columns and which value a customer has.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from fedmarket.contract.columns import CategoryColumn, Column, Label, NumericColumn, Value
from fedmarket.contract.segments import MOST_SEGMENTS, SegmentAxis, segment_count
from fedmarket.contract.transactions import TransactionTerms, columns_of, value_of
from fedmarket.documents import Count, Name, Number, Section, parse_document
from fedmarket.errors import ConfigError
from fedmarket.files import read_toml, sha256_of

__all__ = [
    "CategoryColumn", "Column", "Contract", "Label", "NumericColumn", "PrivacyTerms", "Target", "TransactionTerms",
    "Value", "contract_hash", "load_contract",
]  # fmt: skip

FORMAT = "fedmarket-contract/1"
Target = Literal["response", "value"]

_TARGETS: dict[str, tuple[Target, ...]] = {
    "propensity": ("response",),
    "ltv": ("value",),
    "propensity-and-ltv": ("response", "value"),
}


class PrivacyTerms(Section):
    """What is protected, from whom it is told apart, and how surely. None of these has a default.

    ``unit`` is ``"row"`` (each row is one customer) or ``"column:NAME"`` (that column identifies the customer, whose
    rows are bounded together, however many there are). ``adjacency`` is the neighbouring relation of the guarantee.
    """

    unit: Annotated[str, Field(pattern=r"^(row|column:.+)$")]
    adjacency: Literal["add-or-remove-one", "replace-one"]
    delta: Annotated[Number, Field(gt=0, lt=1)]

    @property
    def customer_column(self) -> str | None:
        """The column that identifies a customer, or None where each row is one."""
        return self.unit.removeprefix("column:") if self.unit.startswith("column:") else None


class Contract(Section):
    """A whole contract; see :func:`load_contract`.

    The ``task`` says what is predicted: a response (``label``), what a customer will spend (``value``), or both. With
    ``transactions`` columns and value are those of the terms. ``segments`` are for contracts with a value.
    """

    format: Literal["fedmarket-contract/1"]
    name: Name
    task: Literal["propensity", "ltv", "propensity-and-ltv"]
    minimum_parties: Count
    label: Label | None = None
    value: Value | None = None
    privacy: PrivacyTerms
    transactions: TransactionTerms | None = None
    segments: Annotated[tuple[SegmentAxis, ...], Field(strict=False, min_length=1)] | None = None
    columns: Annotated[tuple[Column, ...], Field(strict=False, min_length=1)]

    @model_validator(mode="after")
    def _whole(self) -> Self:
        for broken in _broken_rules(self):
            raise ValueError(broken)
        return self

    @property
    def targets(self) -> tuple[Target, ...]:
        """What is predicted, in the order of the columns of every array of targets."""
        return _TARGETS[self.task]

    @property
    def hash(self) -> str:
        """SHA-256 over the canonical JSON of the contract, as hexadecimal."""
        return contract_hash(self)


def load_contract(path: Path) -> Contract:
    """Return the contract at ``path``; with ``[transactions]``, its columns and value are filled in from these.

    Raises:
        ConfigError: one line that names the file and the key, and says what was expected.
    """
    return parse_document(Contract, _with_columns(read_toml(path), path), source=str(path))


def contract_hash(contract: Contract) -> str:
    """Return the SHA-256 of the contract's canonical JSON (sorted keys, no spaces, UTF-8, no key without a value)."""
    document = contract.model_dump(mode="json", exclude_none=True)
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return sha256_of(canonical.encode())


def _broken_rules(contract: Contract) -> Iterator[str]:
    """One line for each rule that holds between keys and is broken."""
    task, label, value = contract.task, contract.label, contract.value
    for key, there, target in (("label", label, "response"), ("value", value, "value")):
        if there is None and target in contract.targets:
            yield f"{key}: missing, but task = {task!r} needs it"
        if there is not None and target not in contract.targets:
            yield f"{key}: task = {task!r} has none; leave it out"
    names = [column.name for column in contract.columns]
    if len(set(names)) != len(names):
        yield "columns: a name is used twice"
    customer = contract.privacy.customer_column
    if label is not None and label.column in names:
        yield f"columns: the label column {label.column!r} must not be a feature"
    if value is not None and value.column in names:
        yield f"columns: the value column {value.column!r} must not be a feature"
    if customer in names:
        yield f"columns: the customer column {customer!r} must not be a feature"
    if value is not None and value.column in (customer, label.column if label is not None else None):
        yield f"value.column: must be neither the label column nor the customer column, got {value.column!r}"
    yield from _broken_by_segments(contract)
    if contract.transactions is not None:
        yield from _broken_by_transactions(contract, contract.transactions)


def _broken_by_segments(contract: Contract) -> Iterator[str]:
    axes = contract.segments or ()
    numeric = [column.name for column in contract.columns if isinstance(column, NumericColumn)]
    if axes and contract.value is None:
        yield f"segments: are for contracts with a value, got task = {contract.task!r}"
    for axis in axes:
        if axis.column not in numeric:
            yield f"segments: {axis.column!r} is no numeric column of the contract"
    if len({axis.column for axis in axes}) != len(axes):
        yield "segments: a column is used twice"
    if segment_count(axes) > MOST_SEGMENTS:
        yield f"segments: expected at most {MOST_SEGMENTS} in all, got {segment_count(axes)}"


def _broken_by_transactions(contract: Contract, terms: TransactionTerms) -> Iterator[str]:
    if contract.task != "ltv":
        yield f"transactions: task = 'ltv' has them alone, got task = {contract.task!r}"
    unit = f"column:{terms.customer}"
    if contract.privacy.unit != unit:
        yield f"privacy.unit: expected {unit!r}, the customer of the transactions, got {contract.privacy.unit!r}"
    if contract.columns != columns_of(terms):
        yield "columns: must be those that follow from transactions; leave them out"
    if contract.value != value_of(terms):
        yield "value: must be the one that follows from transactions; leave it out"


class _TransactionsAlone(Section):
    """The one table of a document that the others follow from; errors name its keys as the document does."""

    transactions: TransactionTerms


def _with_columns(document: dict[str, Any], path: Path) -> dict[str, Any]:
    """TOML's ``[[column]]`` reads well in a document; the model's field is ``columns``."""
    if "columns" in document:
        raise ConfigError(f"{path}: columns: unknown key (write one [[column]] table for each column)")
    document = dict(document)
    if "transactions" in document:
        return document | _from_transactions(document, path)
    if "column" in document:
        document["columns"] = document.pop("column")
    return document


def _from_transactions(document: dict[str, Any], path: Path) -> dict[str, Any]:
    for key in ("value", "column"):
        if key in document:
            raise ConfigError(f"{path}: {key}: follows from [transactions]; leave it out")
    table = {"transactions": document["transactions"]}
    terms = parse_document(_TransactionsAlone, table, source=str(path)).transactions
    return {"transactions": terms, "columns": columns_of(terms), "value": value_of(terms)}
