"""A market with known truth: companies whose customers buy, drop out, are contacted and respond.

Purchases follow the BG/NBD process of Fader, Hardie and Lee (2005): a customer buys at a gamma-mixed Poisson rate and
drops out after each purchase with a beta-mixed chance. Spend is gamma about the customer's own gamma-mixed mean
(Fader, Hardie and Lee 2005b). The response to a campaign is a coin with a probability that depends on what the table
shows and on the company, so that no model of the table can beat ``response_probability``. What a customer spends in
the year to come is the same process run on from today.

Companies differ in size, in their customers (age, purchase rate, spend, region) and in how readily these respond.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl
from scipy.optimize import brentq
from scipy.special import expit, logit

from fedmarket.errors import DataError

Floats = npt.NDArray[np.float64]

COMPANIES = (
    "bank",
    "telecom",
    "grocer",
    "insurer",
    "energy",
    "pharmacy",
    "airline",
    "fashion",
    "bookshop",
    "electronics",
    "travel",
    "streaming",
)
OVERALL_RATE = 0.12
HORIZON_WEEKS = 52.0
LONGEST_TENURE_WEEKS = 156
MOST_PURCHASES = 150
_NEXT_YEAR = 2
"""Keeps the year to come apart from the random stream of the past, whose draws it leaves as they are."""
HIGHEST_SPEND = 1000.0

# BG/NBD: purchase rate a week ~ Gamma(RATE_SHAPE) / RATE_WEEKS, drop-out chance ~ Beta(DROP_A, DROP_B).
RATE_SHAPE, RATE_WEEKS = 1.2, 9.0
DROP_A, DROP_B = 0.9, 6.0
# A spend is Gamma(SPEND_SHAPE) about the customer's mean, which is MEAN_SPEND / Gamma(MEAN_SHAPE) up to scale.
SPEND_SHAPE, MEAN_SHAPE, MEAN_SPEND = 4.0, 6.0, 40.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Market:
    """All customers of all companies, and the truth about them.

    Attributes:
        table: one row a customer; ``past_spend`` is what was spent so far, of all purchases, and no feature;
            the label is ``responded`` ("yes" or "no"), the value ``spend_next_year``, what the
            customer spends in the next 52 weeks, in whole cents.
        party: the customer's company, shape (n,).
        response_probability: the chance of "yes" given the row and the company, shape (n,).
        expected_value: the expectation of ``spend_next_year`` given the customer's own (hidden) rates, shape (n,).
    """

    table: pl.DataFrame
    party: npt.NDArray[np.str_]
    response_probability: Floats
    expected_value: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class _Histories:
    """What the purchase process left behind: repeat purchases, week of the last one, and who is still a customer."""

    frequency: npt.NDArray[np.int64]
    last_week: Floats
    alive: npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rates:
    """What no table shows: purchases a week, chance to drop out after each, mean spend, and who is still a customer."""

    rate: Floats
    drop: Floats
    mean_spend: Floats
    alive: npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shift:
    """How each row's company differs from the average one, in standard units; each array has shape (n,)."""

    age: Floats
    rate: Floats
    spend: Floats
    region: Floats


def synthetic_market(*, customers: int, parties: int, seed: int) -> Market:
    """Return a market of ``customers`` customers of ``parties`` companies, fully determined by ``seed``.

    Raises:
        DataError: if there are more parties than customers.

    **Guarantees.** Every party has a customer. The labels are independent draws with ``response_probability``. The
    expected share of "yes" is 12 % over all customers. ``spend_next_year`` is 0 for all who dropped out.
    """
    if not 1 <= parties <= customers:
        raise DataError(f"synthetic market: expected 1 to {customers} parties for {customers} customers, got {parties}")
    rng = np.random.default_rng(seed)
    number = rng.permutation(np.repeat(np.arange(parties), _sizes(customers, parties, rng)))
    shift = _shift(number, parties, rng)
    table, rates = _customers(shift, rng)
    probability = expit(_with_rates(_appeal(table), number, parties, rng))
    answer = np.where(rng.random(customers) < probability, "yes", "no")
    spend = _spend(rates, np.random.default_rng([seed, _NEXT_YEAR]))
    return Market(
        table=table.with_columns(
            (pl.col("average_spend") * (pl.col("frequency") + 1)).round(2).alias("past_spend"),
            pl.Series("responded", answer),
            pl.Series("spend_next_year", spend),
        ),
        party=np.array([_name(place) for place in range(parties)])[number],
        response_probability=probability,
        expected_value=rates.alive * _expected_purchases(rates.rate, rates.drop, HORIZON_WEEKS) * rates.mean_spend,
    )


def _name(place: int) -> str:
    return COMPANIES[place] if place < len(COMPANIES) else f"company-{place + 1}"


def _sizes(customers: int, parties: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Uneven sizes, each at least 1: the largest company is about five times the smallest."""
    weights = rng.permutation(np.geomspace(1.0, 5.0, parties))
    ends = np.rint(np.cumsum(weights) / weights.sum() * (customers - parties)).astype(np.int64)
    sizes: npt.NDArray[np.int64] = 1 + np.diff(ends, prepend=0)
    return sizes


def _shift(number: npt.NDArray[np.int64], parties: int, rng: np.random.Generator) -> _Shift:
    age, rate, spend, region = np.clip(rng.standard_normal((4, parties)), -2.0, 2.0)[:, number]
    return _Shift(age=age, rate=rate, spend=spend, region=region)


def _customers(shift: _Shift, rng: np.random.Generator) -> tuple[pl.DataFrame, _Rates]:
    """The feature table, and what it does not show."""
    n = shift.age.size
    tenure = rng.integers(4, LONGEST_TENURE_WEEKS + 1, n)
    rate = rng.gamma(RATE_SHAPE, 1.0 / RATE_WEEKS, n) * np.exp(0.25 * shift.rate)
    drop = rng.beta(DROP_A, DROP_B, n)
    mean_spend = MEAN_SPEND * (MEAN_SHAPE - 1) / rng.gamma(MEAN_SHAPE, 1.0, n) * np.exp(0.3 * shift.spend)
    histories = _histories(rate, drop, tenure.astype(np.float64), rng)
    average, last = _spends(histories.frequency, mean_spend, rng)
    contacts = np.minimum(rng.poisson(1.8, n), 12)
    table = pl.DataFrame(
        {
            **_demographics(shift, rng),
            "tenure_weeks": tenure,
            "frequency": histories.frequency,
            "weeks_since_purchase": np.round(tenure - histories.last_week, 1),
            "average_spend": average,
            "last_spend": last,
            "contacts_last_year": contacts,
            "days_since_contact": _days_since_contact(contacts, rng),
        }
    )
    return table, _Rates(rate=rate, drop=drop, mean_spend=mean_spend, alive=histories.alive)


def _histories(rate: Floats, drop: Floats, weeks: Floats, rng: np.random.Generator) -> _Histories:
    """Each customer's purchases after the first one at week 0, until drop-out or the end of ``weeks``."""
    frequency = np.zeros(rate.size, dtype=np.int64)
    last_week = np.zeros(rate.size)
    alive = np.ones(rate.size, dtype=np.bool_)
    buying = np.arange(rate.size)
    while buying.size:
        week = last_week[buying] + rng.exponential(1.0 / rate[buying])
        inside = week <= weeks[buying]
        buying = buying[inside]
        last_week[buying] = week[inside]
        frequency[buying] += 1
        alive[buying] = rng.random(buying.size) >= drop[buying]
        # A company keeps no longer history than this; the bound is part of the public contract.
        buying = buying[alive[buying] & (frequency[buying] < MOST_PURCHASES)]
    return _Histories(frequency=frequency, last_week=last_week, alive=alive)


def _expected_purchases(rate: Floats, drop: Floats, weeks: float) -> Floats:
    """E[X(t) | rate, drop] = (1 - exp(-rate drop t)) / drop of a customer who is active at the start."""
    safe = np.maximum(drop, 1e-12)
    purchases: Floats = -np.expm1(-rate * safe * weeks) / safe
    return purchases


def _spend(rates: _Rates, rng: np.random.Generator) -> Floats:
    """What each customer spends over the horizon, in whole cents.

    Waiting times have no memory, so that the horizon of a customer who is still there is a history of its own. A sum
    of k spends is Gamma(k SPEND_SHAPE).
    """
    ahead = _histories(rates.rate, rates.drop, np.full(rates.rate.size, HORIZON_WEEKS), rng)
    purchases = np.where(rates.alive, ahead.frequency, 0)
    amounts = rng.gamma(SPEND_SHAPE * np.maximum(purchases, 1), 1.0 / SPEND_SHAPE)
    spend: Floats = (rates.mean_spend * amounts * (purchases > 0)).round(2)
    return spend


def _spends(frequency: npt.NDArray[np.int64], mean: Floats, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Average spend over all purchases, and the last one, in the market's currency."""
    last = rng.gamma(SPEND_SHAPE, 1.0 / SPEND_SHAPE, mean.size)
    earlier = rng.gamma(SPEND_SHAPE * np.maximum(frequency, 1), 1.0 / SPEND_SHAPE) * (frequency > 0)
    average = (earlier + last) / (frequency + 1)
    return _recorded(mean * average), _recorded(mean * last)


def _recorded(spend: Floats) -> Floats:
    """Spend in whole cents, within what a company records."""
    return spend.clip(1.0, HIGHEST_SPEND).round(2)


def _demographics(shift: _Shift, rng: np.random.Generator) -> dict[str, pl.Series]:
    n = shift.age.size
    age = np.clip(np.rint(rng.normal(46.0 + 5.0 * shift.age, 14.0)), 18, 95).astype(np.int64)
    capital = rng.random(n) < expit(-1.2 + 0.8 * shift.region)
    elsewhere = rng.choice(["north", "south", "east", "west"], n, p=[0.3, 0.3, 0.2, 0.2])
    online = rng.random(n) < expit((50.0 - age) / 15.0)
    # A few customers come through a channel that the contract does not list.
    offline = rng.choice(["store", "phone", "kiosk"], n, p=[0.75, 0.22, 0.03])
    tier = rng.choice(["none", "silver", "gold"], n, p=[0.6, 0.3, 0.1])
    return {
        "age": _with_gaps(pl.Series(age), 0.02, rng),
        "region": pl.Series(np.where(capital, "capital", elsewhere)),
        "channel": pl.Series(np.where(online, "online", offline)),
        "loyalty_tier": _with_gaps(pl.Series(tier), 0.03, rng),
    }


def _days_since_contact(contacts: npt.NDArray[np.int64], rng: np.random.Generator) -> pl.Series:
    """Missing for those who were not contacted within the year: the last of k contacts is the smallest of k draws."""
    days = np.ceil(365.0 * rng.beta(1.0, np.maximum(contacts, 1))).clip(1, 365).astype(np.int64)
    return pl.Series(days).set(pl.Series(contacts == 0), None)


def _with_gaps(values: pl.Series, share: float, rng: np.random.Generator) -> pl.Series:
    return values.set(pl.Series(rng.random(values.len()) < share), None)


def _appeal(table: pl.DataFrame) -> Floats:
    """How much the campaign appeals to a customer, on the logit scale up to a constant, from the table alone."""
    age = pl.col("age").fill_null(45)
    since = pl.col("weeks_since_purchase")
    contacts = pl.col("contacts_last_year")
    online = (pl.col("channel") == "online").cast(pl.Float64)
    tier = pl.col("loyalty_tier").replace_strict({"silver": 0.6, "gold": 1.2}, default=0.0, return_dtype=pl.Float64)
    appeal = (
        0.6 * (pl.col("frequency") + 1).log()
        + 1.6 * (since / -26.0).exp()
        + 0.6 * (pl.col("average_spend") / 40.0).log()
        + 0.3 * (pl.col("last_spend") > 1.3 * pl.col("average_spend")).cast(pl.Float64)
        + 0.5 * ((age - 45) / 20.0).pow(2).clip(0.0, 2.5)
        + 0.8 * online * (age < 40).cast(pl.Float64)
        + 0.5 * contacts
        - 0.06 * contacts.pow(2)
        - 0.8 * (pl.col("days_since_contact").fill_null(365) / -45.0).exp()
        + tier
        + 0.5 * (pl.col("region") == "capital").cast(pl.Float64)
    )
    return table.select(appeal.alias("appeal"))["appeal"].to_numpy()


def _with_rates(appeal: Floats, number: npt.NDArray[np.int64], parties: int, rng: np.random.Generator) -> Floats:
    """``appeal`` shifted in each company so that its expected response rate is its own and the market's is 12 %."""
    spread = rng.permutation(np.linspace(-0.6, 0.6, parties)) if parties > 1 else np.zeros(1)
    share = np.bincount(number, minlength=parties) / number.size
    middle = brentq(lambda shift: share @ expit(spread + shift) - OVERALL_RATE, -10.0, 10.0)
    shown = appeal.copy()
    for place, rate in enumerate(expit(spread + middle)):
        mine = number == place
        shown[mine] += _intercept(appeal[mine], float(rate))
    return shown


def _intercept(appeal: Floats, rate: float) -> float:
    """The shift that makes the mean probability equal to ``rate``."""
    centre = float(logit(rate))
    low, high = centre - float(appeal.max()), centre - float(appeal.min())
    return float(brentq(lambda shift: expit(appeal + shift).mean() - rate, low - 1e-9, high + 1e-9))
