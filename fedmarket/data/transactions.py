"""From a table of transactions to one row for each customer, at the party, under public terms.

Features come from the calibration window, targets from the prediction window; frequency, recency and tenure follow
Fader, Hardie and Lee (2005): distinct days, the first of which is no repeat purchase. Money is counted in whole
ten-thousandths of the currency, so that a sum does not depend on the order of its terms and a cancelled purchase
leaves exactly nothing. Nothing is fitted, and what is left out is counted.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta

import polars as pl

from fedmarket.contract.cells import can_be_numbers, can_be_words, misspelt, words
from fedmarket.contract.transactions import (
    UNIX_FORMATS,
    NegativeCancellations,
    PrefixedCancellations,
    TransactionTerms,
    columns_of,
)
from fedmarket.errors import ContractViolation, TableError

TICKS = 10_000
"""Money is rounded to this part of the currency's unit."""

LARGEST_LINE = 1e9
"""A line's value beyond this many units of the currency counts as this many, so that sums stay whole and exact."""

_LARGEST_UNIX_SECOND = 253_402_300_799  # The end of the year 9999; more would overflow the clock.
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
    """One row for each customer (see :func:`customers_of`), and what became of the lines."""

    table: pl.DataFrame
    counts: Counts


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lines:
    """Lines with a customer: customer, time, value (in ticks, not negative), cancelled, category bits and order."""

    table: pl.DataFrame
    lines: int
    without_customer: int
    duplicates: int


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
    read = _lines(transactions, terms, source)
    # 2. The two windows, and what stands in them once cancellations have taken back what they can.
    inside = _in_windows(read.table, terms)
    events = _netted(_transactions(inside, terms), terms)
    standing = events.filter(~pl.col("cancelled") & ((pl.col("left") > 0) | (pl.col("value") == 0)))
    # 3. The latest purchases, what they say, and what came after them.
    bought = standing.filter(~pl.col("future"))
    kept = _latest(bought, terms)
    spent = standing.filter("future").group_by("customer").agg(pl.col("left").sum() / TICKS)
    rows = _features(kept, terms).join(spent, on="customer", how="left", maintain_order="left")
    later = spent.join(rows, on="customer", how="anti").height
    counts = Counts(
        lines=read.lines,
        without_customer=read.without_customer,
        duplicates=read.duplicates,
        before_start=_count(read.table, pl.col("time") < _midnight(terms.start)),
        after_end=_count(read.table, pl.col("time") >= _midnight(terms.end)),
        **_counts_inside(inside, terms),
        unmatched_cancellations=_count(events, pl.col("unmatched")),
        transactions=bought.height,
        over_limit=bought.height - kept.height,
        clipped_amounts=_count(kept, pl.col("left") > pl.col("amount")),
        customers=rows.height,
        clipped_values=_count(rows, pl.col("left") > terms.max_value),
        only_later=later,
        without_purchase=read.table["customer"].n_unique() - rows.height - later,
    )
    return Customers(table=_with_targets(rows, terms), counts=counts)


def parse_spaced(content: bytes, *, columns: tuple[str, ...], source: str) -> pl.DataFrame:
    r"""Return a document of fields apart by white space, without a header, as a table of text columns.

    >>> parse_spaced(b" 00001 19970101\r\n", columns=("id", "day"), source="example").rows()
    [('00001', '19970101')]

    Raises:
        TableError: not UTF-8, no lines, or lines with another number of fields; line numbers and counts only.
    """
    try:
        rows = [fields for line in content.decode("utf-8-sig").splitlines() if (fields := line.split())]
    except UnicodeDecodeError as error:
        raise TableError(f"{source}: expected UTF-8 text, but byte {error.start} is not") from None
    if not rows:
        raise TableError(f"{source}: the file is empty")
    ragged = [number for number, fields in enumerate(rows, start=1) if len(fields) != len(columns)]
    if ragged:
        told = f"{len(ragged)} rows differ (the first is row {ragged[0]})"
        raise TableError(f"{source}: expected {len(columns)} fields in each row, but {told}")
    return pl.DataFrame(rows, schema=dict.fromkeys(columns, pl.String), orient="row")


def _with_targets(rows: pl.DataFrame, terms: TransactionTerms) -> pl.DataFrame:
    spend = pl.col("left").fill_null(0.0).clip(upper_bound=terms.max_value)
    table = rows.with_columns(spend.alias("future_spend"), (spend > 0).alias("bought_again")).drop("left")
    return table.with_columns(pl.col("customer").cast(pl.String)).rename({"customer": terms.customer})


def _counts_inside(inside: pl.DataFrame, terms: TransactionTerms) -> dict[str, int]:
    other = 1 << (len(terms.categories) - 1) if terms.categories else -1
    return {
        "calibration": _count(inside, ~pl.col("future")),
        "prediction": _count(inside, pl.col("future")),
        "cancelled": _count(inside, pl.col("cancelled")),
        "outside_vocabulary": _count(inside, pl.col("bits") == other),
    }


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


def _lines(transactions: pl.LazyFrame | pl.DataFrame, terms: TransactionTerms, source: str) -> _Lines:
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
    return _Lines(
        table=_read(known, terms), lines=raw.height + duplicates, without_customer=without, duplicates=duplicates
    )


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
        if count := _count(below, pl.col("below") & ~pl.col("cancelled")):
            yield f"column {terms.amount!r}: {count} lines are below zero, but no rule makes them cancellations"


def _bad_numbers(cells: pl.Series) -> Iterator[str]:
    values = _numbers(cells)
    if count := misspelt(cells):
        yield f"column {cells.name!r}: expected numbers, {count} values are not"
    if count := values.null_count() - misspelt(cells):
        yield f"column {cells.name!r}: {count} values are missing"
    if count := int(values.is_nan().sum() or 0):
        yield f"column {cells.name!r}: {count} values are NaN"
    if count := int(values.is_infinite().sum() or 0):
        yield f"column {cells.name!r}: {count} values are infinite"


def _read(known: pl.DataFrame, terms: TransactionTerms) -> pl.DataFrame:
    """Lines without a bad cell; see :class:`_Lines`."""
    customers = _customers(known, terms)
    value = _numbers(known[terms.amount])
    if terms.amount_is == "unit-price" and terms.quantity is not None:
        value = value * _numbers(known[terms.quantity])
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


def _numbers(cells: pl.Series) -> pl.Series:
    return (words(cells) if cells.dtype == pl.String else cells).cast(pl.Float64, strict=False)


def _times(cells: pl.Series, terms: TransactionTerms) -> pl.Series:
    """The cells as times on the party's own clock, null where they are none."""
    if isinstance(cells.dtype, pl.Datetime):
        return cells.dt.replace_time_zone(None).cast(pl.Datetime("us"))
    if cells.dtype == pl.Date:
        return cells.cast(pl.Datetime("us"))
    if terms.time_format not in UNIX_FORMATS:
        return words(cells).str.to_datetime(terms.time_format, time_unit="us", strict=False)
    scale = 1 if terms.time_format == "unix-seconds" else 1000
    values = _numbers(cells) / scale
    values = values.set(~(values.abs() <= _LARGEST_UNIX_SECOND), None)
    return (values * 1e6).round().cast(pl.Int64).cast(pl.Datetime("us"))


def _below_zero(known: pl.DataFrame, terms: TransactionTerms) -> pl.Series:
    below = _numbers(known[terms.amount]) < 0
    return below | (_numbers(known[terms.quantity]) < 0) if terms.quantity else below


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
        (pl.col("total") / TICKS).alias("total_spend"),
        (pl.col("total") / (pl.col("transactions") * TICKS)).alias("average_spend"),
        (pl.col("last_amount") / TICKS).alias("last_spend"),
    ).with_columns(*_gap_statistics(), *_shares(terms))
    return told.select("customer", *(pl.col(one.name).clip(one.lower, one.upper) for one in columns_of(terms)))


def _in_periods(terms: TransactionTerms) -> Iterator[pl.Expr]:
    period = pl.col("day").dt.quarter() if terms.seasonality == "quarter" else pl.col("day").dt.month()
    for number, name in enumerate(terms.periods, start=1):
        yield pl.col("amount").filter(period == number).sum().alias(f"spend_share_{name}")


def _in_categories(terms: TransactionTerms) -> Iterator[pl.Expr]:
    for place, name in enumerate(terms.categories):
        yield ((pl.col("bits") & (1 << place)) != 0).sum().cast(pl.Int64).alias(name)


def _gap_statistics() -> Iterator[pl.Expr]:
    """Mean and standard deviation of the gaps, whose sum is the recency, from whole numbers; missing without gaps."""
    gaps, total, squares = pl.col("frequency"), pl.col("recency_days"), pl.col("gap_squares")
    some = pl.when(gaps > 0)
    yield some.then(total / gaps).otherwise(None).alias("gap_mean_days")
    yield some.then((gaps * squares - total * total).sqrt() / gaps).otherwise(None).alias("gap_std_days")


def _shares(terms: TransactionTerms) -> Iterator[pl.Expr]:
    for name in terms.periods:
        share = pl.col(f"spend_share_{name}") / pl.col("total")
        yield pl.when(pl.col("total") > 0).then(share).otherwise(None).alias(f"spend_share_{name}")


def _midnight(day: date) -> pl.Expr:
    return pl.lit(day).cast(pl.Datetime("us"))


def _count(table: pl.DataFrame, true: pl.Expr) -> int:
    """How many rows are true; null counts as false."""
    return int(table.select(true.sum()).item() or 0)
