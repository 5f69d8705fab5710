"""Terms for a table of transactions: what its columns mean, the two windows, and the public bounds of a customer.

A lifetime-value task starts from lines of sale. The terms say which lines count as purchases, which window the
features come from and which one the target, and how much one customer can contribute: at most ``max_transactions``
purchases of at most ``max_amount`` each, and a target of at most ``max_value``. Every bound and bin edge of a feature
follows from the terms alone (:func:`columns_of`), so that none is computed from private rows.

The two windows follow the calibration and holdout design of Fader, Hardie and Lee (2005).
"""

import itertools
import re
from collections.abc import Iterator
from datetime import date, datetime
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from fedmarket.contract.columns import LARGEST_VALUE, NumericColumn, Value, Weight
from fedmarket.documents import Name, Number, Section

TARGETS = ("future_spend", "bought_again")
UNIX_FORMATS = ("unix-seconds", "unix-milliseconds")
OTHER = "(other)"

_PERIODS = {"none": (), "quarter": ("q1", "q2", "q3", "q4"), "month": tuple(f"m{month:02}" for month in range(1, 13))}
_DATES: tuple[set[str], ...] = ({"F"}, {"Y", "m", "d"}, {"Y", "b", "d"}, {"Y", "B", "d"})
_CLOCKS: tuple[set[str], ...] = (
    set(), {"R"}, {"T"}, {"T", ".f"}, {"H", "M"}, {"H", "M", "S"}, {"H", "M", "S", ".f"}, {"I", "M", "p"},
    {"I", "M", "S", "p"},
)  # fmt: skip

# Round numbers that a calendar and a shop would choose; a column keeps those inside of its bounds.
_DAY_EDGES = (1, 7, 14, 30, 60, 90, 120, 180, 270, 365, 540, 730, 1095, 1825)
_COUNT_EDGES = (1, 2, 3, 4, 6, 10, 15, 20, 30, 50, 100, 200, 500, 1000)
_SHARE_EDGES = (0.05, 0.25, 0.5, 0.75, 0.95)
_MONEY_LADDER = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)

SHORT_DAYS = 14.0
SMALL_MONEY = 0.1
"""Where logarithms of days, and of money in shares of the typical value, set in: less than this is nearly linear."""


def _read_day(said: Any) -> Any:
    """A date as TOML writes it, or the same as text."""
    if isinstance(said, str):
        try:
            return date.fromisoformat(said)
        except ValueError:
            raise ValueError("expected a date such as 1997-10-01") from None
    if isinstance(said, datetime):
        raise ValueError("expected a date such as 1997-10-01 without a time")
    return said


def _known_format(said: str) -> str:
    if said in UNIX_FORMATS:
        return said
    found = re.findall(r"%(\.f|.)", said)
    if len(set(found)) != len(found) or set(found) not in [day | clock for day in _DATES for clock in _CLOCKS]:
        raise ValueError("expected a day such as %Y-%m-%d, with or without a clock such as %H:%M:%S, or unix-seconds")
    return said


Day = Annotated[date, BeforeValidator(_read_day)]
TimeFormat = Annotated[str, AfterValidator(_known_format)]
Treatment = Literal["drop", "net"]


class CategoryCounts(Section):
    """A column of categories whose purchases are counted, word by word of a public vocabulary."""

    column: Name
    vocabulary: Annotated[tuple[Name, ...], Field(strict=False, min_length=1, max_length=60)]

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        if len(set(self.vocabulary)) != len(self.vocabulary):
            raise ValueError(f"vocabulary repeats a word in column {self.column!r}")
        if OTHER in self.vocabulary:
            raise ValueError(f"vocabulary must not hold {OTHER!r}, which counts all other words")
        return self


class PrefixedCancellations(Section):
    """A line is a cancellation if the text in ``column`` starts with ``prefix``, whatever the sign of its amount."""

    kind: Literal["prefix"]
    column: Name
    prefix: Name
    treatment: Treatment


class NegativeCancellations(Section):
    """A line is a cancellation if its amount or its quantity is below zero."""

    kind: Literal["negative"]
    treatment: Treatment


Cancellations = Annotated[PrefixedCancellations | NegativeCancellations, Field(discriminator="kind")]


class TransactionTerms(Section):
    """How a table of transactions is read, and how much of it one customer can be.

    Columns: ``customer``, ``time``, ``amount`` and, where there are any, ``quantity``, ``order`` and ``category``.
    Lines of one customer with the same ``order`` are one transaction; without that column each line is one.
    ``amount_is`` says whether an amount is the line's total or the price of one, to be multiplied by the quantity.

    Times: ``time_format`` is written as in ``strptime`` (``%Y-%m-%d %H:%M:%S``) or is ``unix-seconds`` or
    ``unix-milliseconds``; columns that hold dates or times need none and ignore it. The calibration window is all
    that happened from ``start`` and before ``cut``, the prediction window from ``cut`` and before ``end``.

    Cancellations: ``drop`` leaves cancelling lines out and changes nothing else. ``net`` lets each take its value back
    from the customer's latest purchases that were made no later and in the same window; a purchase taken back whole
    was none. What a cancellation cannot take back that way is void. Without a rule no amount may be below zero.

    Lines that are alike in every column of the table are all kept unless ``duplicates`` is ``drop``; lines without a
    customer are an error unless ``without_customer`` is ``drop``.

    Bounds: of a customer's calibration purchases the latest ``max_transactions`` are kept, each at most
    ``max_amount``; the target is at most ``max_value``. All three are public and none has a default.

    ``typical_value`` is a public guess of what a customer who buys in the prediction window spends there. ``weights``
    says by feature how much it is expected to matter, 1 where it is silent; see :class:`NumericColumn`.
    """

    customer: Name
    time: Name
    time_format: TimeFormat
    amount: Name
    amount_is: Literal["total", "unit-price"]
    currency: Name
    quantity: Name | None = None
    order: Name | None = None
    category: CategoryCounts | None = None
    cancellations: Cancellations | None = None
    without_customer: Literal["refuse", "drop"] = "refuse"
    duplicates: Literal["keep", "drop"] = "keep"
    seasonality: Literal["none", "quarter", "month"] = "none"
    start: Day
    cut: Day
    end: Day
    max_transactions: Annotated[int, Field(ge=2, le=100_000)]
    max_amount: Annotated[Number, Field(ge=0.01, le=1e9)]
    max_value: Annotated[Number, Field(ge=0.01, le=LARGEST_VALUE)]
    typical_value: Annotated[Number, Field(gt=0)]
    weights: dict[str, Weight] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _whole(self) -> Self:
        for broken in _broken_rules(self):
            raise ValueError(broken)
        return self

    def __hash__(self) -> int:
        """Equal terms have equal hashes; the table of weights, which has none of its own, goes in as a set."""
        plain = (getattr(self, name) for name in type(self).model_fields if name != "weights")
        return hash((*plain, frozenset(self.weights.items())))

    @property
    def calibration_days(self) -> int:
        """The length of the calibration window."""
        return (self.cut - self.start).days

    @property
    def periods(self) -> tuple[str, ...]:
        """The parts of the year whose share of the spend is a feature: ``q1`` to ``q4``, ``m01`` to ``m12`` or none."""
        return _PERIODS[self.seasonality]

    @property
    def categories(self) -> tuple[str, ...]:
        """The names of the category counts, one for each word of the vocabulary and one for all others."""
        if self.category is None:
            return ()
        return tuple(f"{self.category.column}:{word}" for word in (*self.category.vocabulary, OTHER))

    @property
    def used_columns(self) -> tuple[str, ...]:
        """The columns of the table that the terms name, each once."""
        named = [self.customer, self.time, self.amount, self.quantity, self.order]
        named += [self.category.column] if self.category else []
        named += [self.cancellations.column] if isinstance(self.cancellations, PrefixedCancellations) else []
        return tuple(dict.fromkeys(name for name in named if name is not None))


def columns_of(terms: TransactionTerms) -> tuple[NumericColumn, ...]:
    """Return the contract's columns for the features of a customer, with bounds and edges that follow from ``terms``.

    The names are those of the table that :func:`fedmarket.data.transactions.customers_of` makes. Days are whole days,
    money is in ``terms.currency``.

    >>> terms = TransactionTerms(
    ...     customer="id", time="day", time_format="%Y%m%d", amount="dollars", amount_is="total", currency="USD",
    ...     start="1997-01-01", cut="1997-10-01", end="1998-07-01", max_transactions=40, max_amount=500, max_value=2000,
    ...     typical_value=50,
    ... )
    >>> [(column.name, column.lower, column.upper) for column in columns_of(terms)][1:3]
    [('frequency', 0.0, 39.0), ('recency_days', 0.0, 272.0)]
    """
    return tuple(
        column.model_copy(update={"weight": terms.weights.get(column.name, column.weight)})
        for column in _columns(terms)
    )


def value_of(terms: TransactionTerms) -> Value:
    """Return the contract's value: what a customer spends in the prediction window, at most ``max_value``."""
    return Value(column=TARGETS[0], currency=terms.currency, upper=terms.max_value, typical=terms.typical_value)


def _columns(terms: TransactionTerms) -> Iterator[NumericColumn]:
    most, last_day = terms.max_transactions, terms.calibration_days - 1
    money = [float(f"{step * terms.max_amount:.12g}") for step in _MONEY_LADDER]
    small = terms.typical_value * SMALL_MONEY
    yield _numeric("transactions", 1, most, _COUNT_EDGES, log_unit=1)
    yield _numeric("frequency", 0, min(most - 1, last_day), _COUNT_EDGES, log_unit=1)
    for name in ("recency_days", "tenure_days", "days_since_last"):
        yield _numeric(name, 0, last_day, _DAY_EDGES, log_unit=SHORT_DAYS)
    yield _numeric("total_spend", 0, most * terms.max_amount, money, log_unit=small)
    for name in ("average_spend", "last_spend"):
        yield _numeric(name, 0, terms.max_amount, money, log_unit=small)
    for name in ("gap_mean_days", "gap_min_days", "gap_max_days"):
        yield _numeric(name, 0, last_day, _DAY_EDGES, log_unit=SHORT_DAYS)
    # The standard deviation of numbers in a range is at most half of it (Popoviciu 1935).
    yield _numeric("gap_std_days", 0, last_day / 2, _DAY_EDGES, log_unit=SHORT_DAYS)
    for period in terms.periods:
        yield _numeric(f"spend_share_{period}", 0, 1, _SHARE_EDGES)
    for name in terms.categories:
        yield _numeric(name, 0, most, _COUNT_EDGES, log_unit=1)


def _numeric(
    name: str, lower: float, upper: float, ladder: tuple[float, ...] | list[float], *, log_unit: float | None = None
) -> NumericColumn:
    edges = tuple(step for step in ladder if lower < step <= upper)
    return NumericColumn(name=name, kind="numeric", lower=lower, upper=upper, edges=edges, log_unit=log_unit)


def _broken_rules(terms: TransactionTerms) -> Iterator[str]:
    """One line for each rule that holds between keys and is broken."""
    if not (terms.cut - terms.start).days >= 2:
        yield "cut must be two days or more after start"
        return
    if not terms.end > terms.cut:
        yield "end must be after cut"
    if not terms.typical_value < terms.max_value:
        yield "typical_value must be below max_value"
    columns = {"customer": terms.customer, "time": terms.time, "amount": terms.amount}
    columns |= {"quantity": terms.quantity} if terms.quantity else {}
    columns |= {"order": terms.order} if terms.order else {}
    columns |= {"category": terms.category.column} if terms.category else {}
    for one, other in itertools.combinations(columns, 2):
        if columns[one] == columns[other]:
            yield f"{other} must not be the column of {one}, {columns[one]!r}"
    if terms.amount_is == "unit-price" and terms.quantity is None:
        yield "quantity is missing, but amount_is = 'unit-price' needs it"
    if terms.amount_is == "total" and terms.quantity and not isinstance(terms.cancellations, NegativeCancellations):
        yield "quantity serves amount_is = 'unit-price' and cancellations of kind 'negative' alone; leave it out"
    features = [column.name for column in columns_of(terms)]
    if unknown := sorted(set(terms.weights) - set(features)):
        yield f"weights: unknown features {', '.join(unknown)}; expected some of {', '.join(features)}"
    if terms.customer in (*TARGETS, *features):
        yield f"customer must not be named as a feature or target is, {terms.customer!r}"
