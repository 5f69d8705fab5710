"""Imagined customers keep any terms, come again with the same seed, and buy as the process says."""

from datetime import date, datetime, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from scipy import integrate
from scipy.special import hyp2f1

from fedmarket.contract.transactions import TransactionTerms
from fedmarket.data import process as module
from fedmarket.data.process import imagined_lines
from fedmarket.data.transactions import customers_with_counts

BASE: dict[str, Any] = {
    "customer": "id",
    "time": "day",
    "time_format": "%Y-%m-%d",
    "amount": "paid",
    "amount_is": "total",
    "currency": "EUR",
    "start": "2024-01-01",
    "cut": "2024-07-01",
    "end": "2025-01-01",
    "max_transactions": 30,
    "max_amount": 500,
    "max_value": 2000,
    "typical_value": 60,
}


def terms(**changed: Any) -> TransactionTerms:
    return TransactionTerms.model_validate(BASE | changed)


def midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day)


@st.composite
def any_terms(draw: st.DrawFn) -> TransactionTerms:
    start = draw(st.dates(date(1971, 1, 1), date(2090, 1, 1)))
    cut = start + timedelta(days=draw(st.integers(2, 900)))
    changed: dict[str, Any] = {
        "start": start,
        "cut": cut,
        "end": cut + timedelta(days=draw(st.integers(1, 900))),
        "time_format": draw(st.sampled_from(["%Y-%m-%d", "%d.%m.%Y %H:%M:%S", "unix-seconds", "unix-milliseconds"])),
        "seasonality": draw(st.sampled_from(["none", "quarter", "month"])),
        "duplicates": draw(st.sampled_from(["keep", "drop"])),
        "without_customer": draw(st.sampled_from(["refuse", "drop"])),
        "max_transactions": draw(st.integers(2, 50)),
        "max_amount": draw(st.floats(0.01, 1e9)),
    }
    changed["max_value"] = draw(st.floats(0.02, 1e12))
    changed["typical_value"] = draw(st.floats(0.01, changed["max_value"], exclude_max=True))
    if draw(st.booleans()):
        changed["order"] = "invoice"
    if draw(st.booleans()):
        changed["category"] = {"column": "kind", "vocabulary": ["book", "disc"]}
    kind = draw(st.sampled_from(["none", "negative", "prefix"]))
    treatment = draw(st.sampled_from(["drop", "net"]))
    if kind == "negative":
        changed["cancellations"] = {"kind": kind, "treatment": treatment}
    if kind == "prefix":
        column = draw(st.sampled_from(["id", "kind", "note", *(["invoice"] if "order" in changed else [])]))
        prefix = draw(st.sampled_from(["C", "-", "0", "1", "p", "q", "pq", "null"]))
        changed["cancellations"] = {"kind": kind, "column": column, "prefix": prefix, "treatment": treatment}
    if kind == "negative" or draw(st.booleans()):
        changed |= {"quantity": "items", "amount_is": "total" if kind == "negative" else "unit-price"}
    return terms(**changed)


@settings(max_examples=60)
@given(agreed=any_terms(), seed=st.integers(0, 9))
@example(
    agreed=terms(order="no", cancellations={"kind": "prefix", "column": "no", "prefix": "1", "treatment": "net"}),
    seed=0,
)
@example(agreed=terms(cancellations={"kind": "prefix", "column": "id", "prefix": "p", "treatment": "drop"}), seed=0)
def test_imagined_lines_keep_any_terms(agreed: TransactionTerms, seed: int):
    lines = imagined_lines(agreed, customers=40, seed=seed)
    assert set(lines.columns) == set(agreed.used_columns)
    times, amounts = lines[agreed.time], lines[agreed.amount]
    assert times.is_between(midnight(agreed.start), midnight(agreed.end), closed="left").all()
    first = lines.group_by(agreed.customer).agg(pl.col(agreed.time).min())
    assert first.height == 40
    assert (first[agreed.time] < midnight(agreed.cut)).all()
    assert (amounts.is_finite() & (amounts > 0)).all()
    made = customers_with_counts(lines, agreed)
    counts = made.counts
    assert (made.table.height, counts.lines) == (40, lines.height)
    assert counts.calibration + counts.prediction == lines.height
    assert counts.cancelled == counts.unmatched_cancellations == counts.duplicates == counts.without_customer == 0
    assert made.table[agreed.customer].n_unique() == 40


def test_the_same_seed_imagines_the_same_lines_and_another_seed_others():
    first, again, other = (imagined_lines(terms(), customers=50, seed=seed) for seed in (3, 3, 4))
    assert_frame_equal(first, again, check_exact=True)
    assert not first["paid"][:50].equals(other["paid"][:50])


def test_what_is_not_asked_for_does_not_change_what_is():
    plain = imagined_lines(terms(), customers=50, seed=0)
    wider = imagined_lines(
        terms(order="no", quantity="items", amount_is="unit-price", seasonality="month"), customers=50, seed=0
    )
    assert_frame_equal(wider.select("id", "day", "paid"), plain, check_exact=True)
    assert wider["no"].n_unique() == wider.height
    assert (wider["items"] == 1).all()


def test_nobody_is_imagined_to_buy_more_often_than_is_said(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "MOST_PURCHASES", 3)
    bought = imagined_lines(terms(), customers=2000, seed=0).group_by("id").len()["len"]
    assert bought.max() == 3


# The law. A customer's clock starts with the first purchase, on any day of the calibration window.


CUSTOMERS = 20_000


def purchases() -> np.ndarray:
    """Return how often each imagined customer bought, the first purchase included."""
    return imagined_lines(terms(), customers=CUSTOMERS, seed=1).group_by("id").len()["len"].to_numpy()


def over_first_days(law: Any) -> float:
    """Return the mean of ``law`` of the weeks that are left after a first purchase."""
    agreed = terms()
    last, window = (agreed.end - agreed.start).days / 7, agreed.calibration_days / 7
    return float(integrate.quad(law, last - window, last)[0] / window)


def share_who_buy_again(rate_weeks: float) -> float:
    return over_first_days(lambda weeks: 1 - (rate_weeks / (rate_weeks + weeks)) ** module.RATE_SHAPE)


def mean_repeats(rate_weeks: float) -> float:
    """Fader, Hardie and Lee (2005), equation 9."""
    r, a, b = module.RATE_SHAPE, module.DROP_A, module.DROP_B

    def repeats(weeks: float) -> float:
        share = weeks / (rate_weeks + weeks)
        return (a + b - 1) / (a - 1) * (1 - (1 - share) ** r * hyp2f1(r, b, a + b - 1, share))

    return over_first_days(repeats)


@pytest.mark.statistical
def test_the_share_who_buy_again_is_that_of_the_process_and_of_no_other_rate():
    share = float((purchases() > 1).mean())
    error = np.sqrt(share * (1 - share) / CUSTOMERS)
    assert abs(share - share_who_buy_again(module.RATE_WEEKS)) < 4 * error
    for other in (0.9, 1.1):
        assert abs(share - share_who_buy_again(other * module.RATE_WEEKS)) > 4 * error


@pytest.mark.statistical
def test_the_mean_number_of_purchases_is_that_of_the_process_and_of_no_other_rate():
    repeats = purchases() - 1.0
    error = repeats.std() / np.sqrt(CUSTOMERS)
    assert abs(repeats.mean() - mean_repeats(module.RATE_WEEKS)) < 4 * error
    for other in (0.8, 1.25):
        assert abs(repeats.mean() - mean_repeats(other * module.RATE_WEEKS)) > 4 * error


@pytest.mark.statistical
def test_first_purchases_are_spread_evenly_and_spends_have_the_mean_that_is_said():
    agreed = terms()
    lines = imagined_lines(agreed, customers=CUSTOMERS, seed=1)
    first = lines.group_by("id").agg(pl.col("day").min())["day"]
    days = (first - midnight(agreed.start)).dt.total_microseconds().to_numpy() / 86_400e6
    shares = np.histogram(days, bins=13, range=(0, agreed.calibration_days))[0] / CUSTOMERS
    assert np.abs(shares - 1 / 13).max() < 4 * np.sqrt(1 / 13 / CUSTOMERS)
    of_each = lines.group_by("id").agg(pl.col("paid").mean())["paid"].to_numpy()
    error = of_each.std() / np.sqrt(CUSTOMERS)
    assert abs(of_each.mean() - module.MEAN_SHARE * agreed.typical_value) < 4 * error
    assert abs(of_each.mean() - 1.1 * module.MEAN_SHARE * agreed.typical_value) > 4 * error
