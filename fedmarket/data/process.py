"""Customers of a public process, under a contract's own terms: what a model may know before it sees a private row.

Purchases follow BG/NBD (Fader, Hardie and Lee 2005), spends are gamma about the customer's own mean (Fader and Hardie
2013), a first purchase falls on any day of the calibration window. The parameters are round numbers, chosen for "some
buy often, many once" and fitted to nothing; money is in the contract's typical value. The customers are imagined, so
whatever is learned from them is public and costs no epsilon.
"""

from datetime import datetime

import numpy as np
import polars as pl

from fedmarket.arrays import FloatArray
from fedmarket.contract.transactions import PrefixedCancellations, TransactionTerms

RATE_SHAPE, RATE_WEEKS = 0.5, 6.0
"""Purchases a week are Gamma(RATE_SHAPE) / RATE_WEEKS: one in twelve weeks on average, and for most far fewer."""

DROP_A, DROP_B = 0.5, 3.0
"""The chance to drop out after a purchase is Beta(DROP_A, DROP_B): one in seven on average."""

SPEND_SHAPE, MEAN_SHAPE, MEAN_SHARE = 6.0, 4.0, 0.6
"""A spend is Gamma(SPEND_SHAPE) about a mean that is inverse-gamma of MEAN_SHAPE, MEAN_SHARE of the typical value."""

MOST_PURCHASES = 400
"""Nobody is imagined to buy more often."""

_WEEK_MICROSECONDS = 7 * 86_400 * 1_000_000

Numbers = np.ndarray[tuple[int], np.dtype[np.int64]]


def imagined_lines(terms: TransactionTerms, *, customers: int, seed: int) -> pl.DataFrame:
    """Return lines of sale of ``customers`` imagined customers, in the columns that ``terms`` name.

    ``seed`` is public: the same one gives the same lines.
    """
    rng = np.random.default_rng(seed)
    who, weeks = _purchases(terms, customers, rng)
    mean = (MEAN_SHAPE - 1.0) / rng.gamma(MEAN_SHAPE, 1.0, customers) * MEAN_SHARE * terms.typical_value
    spend = mean[who] * rng.gamma(SPEND_SHAPE, 1.0 / SPEND_SHAPE, who.size)
    start = np.datetime64(datetime(terms.start.year, terms.start.month, terms.start.day), "us")
    columns = {
        terms.customer: _named(who, terms),
        terms.time: pl.Series(start + (weeks * _WEEK_MICROSECONDS).astype("timedelta64[us]")),
        terms.amount: pl.Series(spend),
    }
    if terms.quantity is not None:
        columns[terms.quantity] = pl.Series(np.ones(who.size))
    if terms.order is not None:
        columns[terms.order] = _named(np.arange(who.size), terms)
    named = pl.DataFrame(columns)
    absent = [name for name in terms.used_columns if name not in named.columns]  # categories, and what cancels
    return named.with_columns(pl.lit(None, dtype=pl.String).alias(name) for name in absent)


def _named(numbers: Numbers, terms: TransactionTerms) -> pl.Series:
    """Return a name for each number, none of which begins as a cancellation does."""
    rule = terms.cancellations
    letter = "p" if not isinstance(rule, PrefixedCancellations) or rule.prefix[0] != "p" else "q"
    return letter + pl.Series(numbers).cast(pl.String)


def _purchases(terms: TransactionTerms, customers: int, rng: np.random.Generator) -> tuple[Numbers, FloatArray]:
    """Return whose each purchase is and how many weeks after the start it was made, until the terms' end."""
    last = (terms.end - terms.start).days / 7.0
    rate = rng.gamma(RATE_SHAPE, 1.0 / RATE_WEEKS, customers)
    drop = rng.beta(DROP_A, DROP_B, customers)
    week = rng.random(customers) * terms.calibration_days / 7.0
    buying = np.arange(customers)
    who, weeks = [buying], [week.copy()]
    while buying.size and len(who) < MOST_PURCHASES:
        # As BG/NBD has it, nobody drops out before a repeat purchase.
        staying = rng.random(buying.size) >= drop[buying] if len(who) > 1 else np.ones(buying.size, dtype=np.bool_)
        buying = buying[staying]
        week[buying] += rng.exponential(1.0, buying.size) / np.maximum(rate[buying], 1e-12)
        buying = buying[week[buying] < last]
        who.append(buying)
        weeks.append(week[buying])
    return np.concatenate(who), np.concatenate(weeks)
