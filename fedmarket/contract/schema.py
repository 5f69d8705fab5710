"""The contract: columns with public bounds and vocabularies, label, privacy unit, adjacency, delta.

A contract is a TOML document that every party reads and accepts before it opens its own table. Nothing in it is
computed from private rows. Two parties work under the same contract exactly if :func:`contract_hash` agrees.
"""

import json
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fedmarket.errors import ConfigError
from fedmarket.files import parse_document, read_toml, sha256_of

FORMAT = "fedmarket-contract/1"


class _Document(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


Number = float  # strict mode takes whole numbers too, but neither texts nor truth values
Name = Annotated[str, Field(min_length=1)]
Weight = Annotated[Number, Field(gt=0, le=10)]


class NumericColumn(_Document):
    """A numeric column with public bounds.

    ``missing_codes`` are values that stand for "missing" in the parties' tables (``999`` days since a contact that
    never was); ``edges`` are public inner bin edges, used by models with binning. ``weight`` says how much the column
    is expected to matter, from public knowledge: under privacy, noise is spent where it is large.
    """

    name: Name
    kind: Literal["numeric"]
    lower: Number
    upper: Number
    edges: Annotated[tuple[Number, ...], Field(strict=False)] = ()
    missing_codes: Annotated[tuple[Number, ...], Field(strict=False)] = ()
    required: bool = False
    weight: Weight = 1.0

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.lower < self.upper:
            raise ValueError(f"lower must be below upper in column {self.name!r}")
        inside = all(self.lower < edge <= self.upper for edge in self.edges)
        rising = all(a < b for a, b in zip(self.edges, self.edges[1:], strict=False))
        if not (inside and rising):
            raise ValueError(f"edges must rise strictly between lower and upper in column {self.name!r}")
        return self


class CategoryColumn(_Document):
    """A column of categories with a public vocabulary.

    Values outside of it are encoded as "other" unless the column is ``closed``; missing ones have their own place
    unless the column is ``required``. ``weight`` is that of :class:`NumericColumn`.
    """

    name: Name
    kind: Literal["category"]
    vocabulary: Annotated[tuple[Name, ...], Field(strict=False, min_length=1)]
    closed: bool = False
    required: bool = False
    weight: Weight = 1.0

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len(set(self.vocabulary)) != len(self.vocabulary):
            raise ValueError(f"vocabulary repeats a word in column {self.name!r}")
        return self


Column = Annotated[NumericColumn | CategoryColumn, Field(discriminator="kind")]


class Label(_Document):
    """The column to predict and the two values it may take, compared as text."""

    column: Name
    positive: Name
    negative: Name

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if self.positive == self.negative:
            raise ValueError("label.positive and label.negative must differ")
        return self


class PrivacyTerms(_Document):
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


class Contract(_Document):
    """A whole contract; see :func:`load_contract`."""

    format: Literal["fedmarket-contract/1"]
    name: Name
    task: Literal["propensity"]
    minimum_parties: Annotated[int, Field(ge=1)]
    label: Label
    privacy: PrivacyTerms
    columns: Annotated[tuple[Column, ...], Field(strict=False, min_length=1)]

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        names = [column.name for column in self.columns]
        if len(set(names)) != len(names):
            raise ValueError("columns: a name is used twice")
        if self.label.column in names:
            raise ValueError(f"columns: the label column {self.label.column!r} must not be a feature")
        if self.privacy.customer_column in names:
            raise ValueError(f"columns: the customer column {self.privacy.customer_column!r} must not be a feature")
        return self

    @property
    def hash(self) -> str:
        """SHA-256 over the canonical JSON of the contract, as hexadecimal."""
        return contract_hash(self)


def load_contract(path: Path) -> Contract:
    """Return the contract at ``path``.

    Raises:
        ConfigError: one line that names the file and the key, and says what was expected.
    """
    return parse_document(Contract, _with_columns(read_toml(path), path), source=str(path))


def contract_hash(contract: Contract) -> str:
    """Return the SHA-256 of the contract's canonical JSON (sorted keys, no spaces, UTF-8)."""
    document = contract.model_dump(mode="json")
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return sha256_of(canonical.encode())


def _with_columns(document: dict[str, Any], path: Path) -> dict[str, Any]:
    """TOML's ``[[column]]`` reads well in a document; the model's field is ``columns``."""
    if "columns" in document:
        raise ConfigError(f"{path}: columns: unknown key (write one [[column]] table for each column)")
    document = dict(document)
    if "column" in document:
        document["columns"] = document.pop("column")
    return document
