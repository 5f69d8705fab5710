"""What a contract says of single columns: features with public bounds or vocabularies, and what is predicted."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from fedmarket.documents import Name, Number, Section

Weight = Annotated[Number, Field(gt=0, le=10)]
LARGEST_VALUE = 1e12


class NumericColumn(Section):
    """A numeric column with public bounds.

    ``missing_codes`` are values that stand for "missing" in the parties' tables (``999`` days since a contact that
    never was); ``edges`` are public inner bin edges, used by models with binning. ``weight`` says how much the column
    is expected to matter, from public knowledge: under privacy, noise is spent where it is large.

    With ``log_unit`` the column is encoded by its logarithm, ``log(1 + (value - lower) / log_unit)``: for counts, times
    and money, of which most are small and a few are huge. Below the unit it is nearly linear.
    """

    name: Name
    kind: Literal["numeric"]
    lower: Number
    upper: Number
    edges: Annotated[tuple[Number, ...], Field(strict=False)] = ()
    missing_codes: Annotated[tuple[Number, ...], Field(strict=False)] = ()
    required: bool = False
    weight: Weight = 1.0
    log_unit: Annotated[Number, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.lower < self.upper:
            raise ValueError(f"lower must be below upper in column {self.name!r}")
        inside = all(self.lower < edge <= self.upper for edge in self.edges)
        rising = all(a < b for a, b in zip(self.edges, self.edges[1:], strict=False))
        if not (inside and rising):
            raise ValueError(f"edges must rise strictly between lower and upper in column {self.name!r}")
        return self


class CategoryColumn(Section):
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


class Label(Section):
    """The column to predict and the two values it may take, compared as text."""

    column: Name
    positive: Name
    negative: Name

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if self.positive == self.negative:
            raise ValueError("label.positive and label.negative must differ")
        return self


class Value(Section):
    """The column of what a customer spends, to be predicted, in ``currency``.

    A customer's value beyond ``upper`` counts as ``upper``. ``typical`` is a public guess of what a customer who buys
    spends: networks measure values from it. Neither may be computed from private rows.
    """

    column: Name
    currency: Name
    upper: Annotated[Number, Field(gt=0, le=LARGEST_VALUE)]
    typical: Annotated[Number, Field(gt=0)]

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.typical < self.upper:
            raise ValueError(f"typical must be below upper in column {self.column!r}")
        return self
