"""From a table of transactions to one row for each customer, at the party, under public terms.

Features come from the calibration window, targets from the prediction window; frequency, recency and tenure follow
Fader, Hardie and Lee (2005): distinct days, the first of which is no repeat purchase. Money is counted in whole
ten-thousandths of the currency, so that a sum does not depend on the order of its terms and a cancelled purchase
leaves exactly nothing. Nothing is fitted, and what is left out is counted.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta

import numpy as np
import numpy.typing as npt
import polars as pl

from fedmarket.contract.transactions import TransactionTerms, columns_of
from fedmarket.data.lines import TICKS, lines_of, lines_where

_CUSTOMER_AND_WINDOW = ("customer", "future")


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What became of a table's lines. Exact counts of private rows: not for others' eyes.

    Lines: ``lines`` = ``duplicates`` (dropped ones) + ``without_customer`` + ``before_start`` + ``after_end`` +
    ``calibration`` + ``prediction``. ``cancelled`` and ``outside_vocabulary`` are among those in the two windows.

    Transactions (orders, or lines where there are none): ``unmatched_cancellations`` took back less than their value;
    ``transactions`` are the calibration purchases that stand, of which ``over_limit`` are beyond ``max_transactions``
    and ``clipped_amounts`` of the others are above ``max_amount``.

    Customers: ``customers`` have a row, and ``clipped_values`` of these a future spend above ``max_value``;
    ``only_later`` bought in the prediction window alone; ``without_purchase`` have lines but no purchase that stands.
    """

    lines: int
    without_customer: int
    duplicates: int
    before_start: int
    after_end: int
    calibration: int
    prediction: int
    cancelled: int
    outside_vocabulary: int
    unmatched_cancellations: int
    transactions: int
    over_limit: int
    clipped_amounts: int
    customers: int
    clipped_values: int
    only_later: int
    without_purchase: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Customers:
    """One row for each customer (see :func:`customers_of`), and what became of the lines.

    Attributes:
        table: n rows.
        spent: what each customer spent in the prediction window, however much that is, float64 of shape (n,).
        first_days: the day of each customer's first purchase that stands in the calibration window, also where the
            table's features know later ones only, datetime64[D] of shape (n,).
        counts: what became of the lines.
    """

    table: pl.DataFrame
    spent: npt.NDArray[np.float64]
    first_days: npt.NDArray[np.datetime64]
    counts: Counts


def customers_of(
    transactions: pl.LazyFrame | pl.DataFrame, terms: TransactionTerms, *, source: str = "transactions"
) -> pl.DataFrame:
    """Return one row for each customer who bought in the calibration window, sorted by customer.

    Args:
        transactions: lines of sale; of a lazy frame, only the columns that the terms name are read.
        terms: what the columns mean, the windows and the bounds.
        source: what to call the table in an error.

    Returns:
        The customer (as text, under its own name), the features that ``columns_of(terms)`` describes, and two targets.
        All features are about the latest ``max_transactions`` purchases of the calibration window, as if the customer
        had made no others:

        * ``transactions``: how many these are; ``frequency``: distinct days less one; ``recency_days``: days from the
          first day to the last; ``tenure_days``: days from the first day to the window's last; ``days_since_last``.
        * ``total_spend``, ``average_spend`` for each transaction, ``last_spend``; each amount at most ``max_amount``.
        * ``gap_mean_days``, ``gap_min_days``, ``gap_max_days``, ``gap_std_days`` (of the population) between distinct
          days; missing where there is one day.
        * ``spend_share_*`` for each quarter or month of the year; missing where nothing was spent.
        * ``column:word``: transactions with at least one line of that category.
        * ``future_spend``: what was spent in the prediction window, at most ``max_value``; ``bought_again``: whether
          that is above zero.

    Raises:
        ContractViolation: with every broken rule: columns, kinds of cells and counts, and never a cell.
        TableError: if a lazy frame cannot be read.

    **Guarantees.** A customer's row depends on that customer's lines alone and not on the order of lines. Every
    feature is within the bounds of its column. Nothing from ``cut`` on touches a feature and nothing before it a
    target. Where more than ``max_transactions`` purchases stand, the latest by time are kept, of those at the same
    time the ones with the larger amount, and then those with the later categories of the vocabulary; purchases alike
    in all of these are interchangeable. A table with no such customer gives no rows.
    """
    return customers_with_counts(transactions, terms, source=source).table


def customers_with_counts(
    transactions: pl.LazyFrame | pl.DataFrame, terms: TransactionTerms, *, source: str = "transactions"
) -> Customers:
    """Return what :func:`customers_of` returns, and what became of every line."""
    # 1. Lines as the terms read them; all broken rules in one answer.
    read = lines_of(transactions, terms, source)
    # 2. The two windows, and what stands in them once cancellations have taken back what they can.
    inside = _in_windows(read.table, terms)
    events = _netted(_transactions(inside, terms), terms)
    standing = events.filter(~pl.col("cancelled") & ((pl.col("left") > 0) | (pl.col("value") == 0)))
    # 3. The latest purchases, what they say, and what came after them.
    bought = standing.filter(~pl.col("future"))
    kept = _latest(bought, terms)
    spent = standing.filter("future").group_by("customer").agg(pl.col("left").sum())
    first = bought.group_by("customer").agg(pl.col("time").min().dt.date().alias("first_day"))
    rows = _features(kept, terms)
    for more in (spent, first):
        rows = rows.join(more, on="customer", how="left", maintain_order="left")
    later = spent.join(rows, on="customer", how="anti").height
    counts = Counts(
        lines=read.lines,
        without_customer=read.without_customer,
        duplicates=read.duplicates,
        before_start=lines_where(read.table, pl.col("time") < _midnight(terms.start)),
        after_end=lines_where(read.table, pl.col("time") >= _midnight(terms.end)),
        **_counts_inside(inside, terms),
        unmatched_cancellations=lines_where(events, pl.col("unmatched")),
        transactions=bought.height,
        over_limit=bought.height - kept.height,
        clipped_amounts=lines_where(kept, pl.col("left") > pl.col("amount")),
        customers=rows.height,
        clipped_values=lines_where(rows, pl.col("left") > terms.max_value * TICKS),
        only_later=later,
        without_purchase=read.table["customer"].n_unique() - rows.height - later,
    )
    spend = _ratio(rows["left"].fill_null(0), TICKS)
    return Customers(
        table=_with_targets(rows.drop("left", "first_day"), spend.clip(upper_bound=terms.max_value), terms),
        spent=spend.to_numpy(),
        first_days=rows["first_day"].to_numpy(),
        counts=counts,
    )


def _with_targets(rows: pl.DataFrame, spend: pl.Series, terms: TransactionTerms) -> pl.DataFrame:
    table = rows.with_columns(spend.alias("future_spend"), (spend > 0).alias("bought_again"))
    return table.with_columns(pl.col("customer").cast(pl.String)).rename({"customer": terms.customer})


def _counts_inside(inside: pl.DataFrame, terms: TransactionTerms) -> dict[str, int]:
    other = 1 << (len(terms.categories) - 1) if terms.categories else -1
    return {
        "calibration": lines_where(inside, ~pl.col("future")),
        "prediction": lines_where(inside, pl.col("future")),
        "cancelled": lines_where(inside, pl.col("cancelled")),
        "outside_vocabulary": lines_where(inside, pl.col("bits") == other),
    }


def _in_windows(lines: pl.DataFrame, terms: TransactionTerms) -> pl.DataFrame:
    start, cut, end = map(_midnight, (terms.start, terms.cut, terms.end))
    inside = lines.filter((pl.col("time") >= start) & (pl.col("time") < end))
    return inside.with_columns((pl.col("time") >= cut).alias("future"))


def _transactions(inside: pl.DataFrame, terms: TransactionTerms) -> pl.DataFrame:
    """Purchases and cancellations of each customer and window by time; at the same time, cancellations come last.

    An order begins with its first line. One that buys and cancels, or reaches over the cut, is one of each.
    """
    if terms.order is not None:
        inside = inside.group_by(*_CUSTOMER_AND_WINDOW, "cancelled", "order").agg(
            pl.col("time").min(), pl.col("value").sum(), pl.col("bits").bitwise_or()
        )
    return inside.sort(*_CUSTOMER_AND_WINDOW, "time", "cancelled", "value", "bits")


def _netted(events: pl.DataFrame, terms: TransactionTerms) -> pl.DataFrame:
    """The events with ``left``, what is left of each purchase, and ``unmatched``, whether a cancellation went short.

    Under ``net`` the balance rises by each purchase and falls, never below zero, by each cancellation. As the latest
    purchase is taken back first, what is left of one is how far the balance after it stays above the balance before.
    """
    if terms.cancellations is None or terms.cancellations.treatment == "drop":
        return events.with_columns(pl.col("value").alias("left"), pl.lit(value=False).alias("unmatched"))
    change = pl.when("cancelled").then(-pl.col("value")).otherwise(pl.col("value"))
    walk = pl.col("walk")
    return (
        events.with_columns(change.cum_sum().over(_CUSTOMER_AND_WINDOW).alias("walk"))
        .with_columns((walk - walk.cum_min().over(_CUSTOMER_AND_WINDOW).clip(upper_bound=0)).alias("balance"))
        .with_columns(
            pl.col("balance").shift(1, fill_value=0).over(_CUSTOMER_AND_WINDOW).alias("before"),
            pl.col("balance").cum_min(reverse=True).over(_CUSTOMER_AND_WINDOW).alias("lowest"),
        )
        .with_columns(
            (pl.col("lowest") - pl.col("before")).clip(lower_bound=0).alias("left"),
            (pl.col("cancelled") & (pl.col("before") < pl.col("value"))).alias("unmatched"),
        )
        .drop("walk", "balance", "before", "lowest")
    )


def _latest(bought: pl.DataFrame, terms: TransactionTerms) -> pl.DataFrame:
    """The last ``max_transactions`` of each customer, with their ``amount``; the order stays."""
    place = pl.int_range(pl.len()).over("customer")
    latest = bought.filter(pl.len().over("customer") - place <= terms.max_transactions)
    return latest.with_columns(pl.col("left").clip(upper_bound=int(terms.max_amount * TICKS)).alias("amount"))


def _features(kept: pl.DataFrame, terms: TransactionTerms) -> pl.DataFrame:
    """One row for each customer in ``kept``, which is sorted by customer and time."""
    gap = (pl.col("day") - pl.col("day").shift(1)).dt.total_days()
    again = (pl.col("customer") == pl.col("customer").shift(1)) & (gap > 0)
    dated = kept.with_columns(pl.col("time").dt.date().alias("day")).with_columns(
        pl.when(again).then(gap).otherwise(None).alias("gap")
    )
    summed = dated.group_by("customer", maintain_order=True).agg(
        pl.len().cast(pl.Int64).alias("transactions"),
        pl.col("gap").count().cast(pl.Int64).alias("frequency"),
        pl.col("day").first().alias("first"),
        pl.col("day").last().alias("last"),
        pl.col("amount").sum().alias("total"),
        pl.col("amount").last().alias("last_amount"),
        pl.col("gap").pow(2).sum().alias("gap_squares"),
        pl.col("gap").min().cast(pl.Float64).alias("gap_min_days"),
        pl.col("gap").max().cast(pl.Float64).alias("gap_max_days"),
        *_in_periods(terms),
        *_in_categories(terms),
    )
    final = terms.cut - timedelta(days=1)
    told = summed.with_columns(
        (pl.col("last") - pl.col("first")).dt.total_days().alias("recency_days"),
        (pl.lit(final) - pl.col("first")).dt.total_days().alias("tenure_days"),
        (pl.lit(final) - pl.col("last")).dt.total_days().alias("days_since_last"),
    )
    told = told.with_columns(*_money(told), *_gap_statistics(told), *_shares(told, terms))
    return told.select("customer", *(pl.col(one.name).clip(one.lower, one.upper) for one in columns_of(terms)))


def _in_periods(terms: TransactionTerms) -> Iterator[pl.Expr]:
    period = pl.col("day").dt.quarter() if terms.seasonality == "quarter" else pl.col("day").dt.month()
    for number, name in enumerate(terms.periods, start=1):
        yield pl.col("amount").filter(period == number).sum().alias(f"spend_share_{name}")


def _in_categories(terms: TransactionTerms) -> Iterator[pl.Expr]:
    for place, name in enumerate(terms.categories):
        yield ((pl.col("bits") & (1 << place)) != 0).sum().cast(pl.Int64).alias(name)


def _money(told: pl.DataFrame) -> Iterator[pl.Series]:
    yield _ratio(told["total"], TICKS).alias("total_spend")
    yield _ratio(told["total"], told["transactions"] * TICKS).alias("average_spend")
    yield _ratio(told["last_amount"], TICKS).alias("last_spend")


def _gap_statistics(told: pl.DataFrame) -> Iterator[pl.Series]:
    """Mean and standard deviation of the gaps, whose sum is the recency, from whole numbers; missing without gaps."""
    gaps, total, squares = told["frequency"], told["recency_days"], told["gap_squares"]
    yield _ratio(total, gaps).alias("gap_mean_days")
    yield _ratio((gaps * squares - total * total).sqrt(), gaps).alias("gap_std_days")


def _shares(told: pl.DataFrame, terms: TransactionTerms) -> Iterator[pl.Series]:
    for name in terms.periods:
        yield _ratio(told[f"spend_share_{name}"], told["total"])


def _ratio(over: pl.Series, under: pl.Series | int) -> pl.Series:
    """The quotient in float64, missing where ``under`` is 0.

    Polars multiplies by the reciprocal of a single divisor, so that its quotient by a constant depends, in the last
    bit, on how many other rows there are; NumPy divides each pair.
    """
    divisor = np.broadcast_to(np.asarray(under, dtype=np.float64), over.len())
    quotient = np.full(over.len(), np.nan)
    np.divide(over.to_numpy(), divisor, out=quotient, where=divisor > 0)
    return pl.Series(over.name, quotient, nan_to_null=True)


def _midnight(day: date) -> pl.Expr:
    return pl.lit(day).cast(pl.Datetime("us"))
