"""Known answers of the papers on CDNOW are in ``tests/data/test_cdnow.py``."""

import math
from dataclasses import replace

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import betaincinv, hyp2f1

from fedmarket.errors import DataError
from fedmarket.training.buyers import (
    Buyers,
    PurchaseModel,
    SpendModel,
    fit_buyers,
    fit_purchases,
    fit_spend,
)

PURCHASES = PurchaseModel(r=0.8, alpha=6.0, a=0.7, b=2.5)
SPEND = SpendModel(p=4.0, q=4.0, gamma=30.0)
WEEKS = 39.0


def market(customers, *, seed=3, purchases=PURCHASES, spend=SPEND):
    """Histories drawn from both laws, and what each customer spends in the ``WEEKS`` that follow."""
    rng = np.random.default_rng(seed)
    rate = rng.gamma(purchases.r, 1 / purchases.alpha, customers)
    drop_out = rng.beta(purchases.a, purchases.b, customers)
    scale = rng.gamma(spend.q, 1 / spend.gamma, customers)
    tenure = rng.uniform(27, 39, customers)
    time, active = np.zeros(customers), np.ones(customers, dtype=bool)
    frequency, recency, later = np.zeros(customers), np.zeros(customers), np.zeros(customers)
    while active.any():
        time = time + rng.exponential(1 / rate)
        active &= time <= tenure + WEEKS
        now = active & (time <= tenure)
        frequency, recency, later = frequency + now, np.where(now, time, recency), later + (active & ~now)
        active &= rng.random(customers) > drop_out
    history = {"frequency": frequency, "recency": recency, "tenure": tenure}
    total = rng.gamma(spend.p * (frequency + 1)) / scale
    future = rng.gamma(spend.p * np.maximum(later, 1)) / scale * (later > 0)
    return {**history, "total_spend": total}, history, later, future


def one(frequency, recency, tenure):
    return {"frequency": np.array([frequency]), "recency": np.array([recency]), "tenure": np.array([tenure])}


# How often.


def test_the_likelihood_of_one_repeat_purchase_adds_up_to_its_probability():
    """Fader, Hardie and Lee (2005), equation 6, with the time of the purchase integrated out."""
    r, alpha, a, b, weeks = 0.8, 6.0, 0.7, 2.5, 20.0

    def density(when):
        return float(np.exp(PURCHASES.log_likelihood(**one(1.0, when, weeks))[0]))

    never = (alpha / (alpha + weeks)) ** r
    probability = b / (a + b) * r * never * weeks / (alpha + weeks) + a / (a + b) * (1 - never)
    assert quad(density, 0, weeks)[0] == pytest.approx(probability, rel=1e-8)
    assert np.exp(PURCHASES.log_likelihood(**one(0.0, 0.0, weeks))[0]) == pytest.approx(never)


@pytest.mark.parametrize("weeks", [0.5, 39.0, 500.0])
def test_expected_purchases_are_equation_10_as_printed(weeks):
    r, alpha, a, b = 0.8, 6.0, 0.7, 2.5
    for x, recency, tenure in [(0, 0.0, 30.0), (1, 4.0, 30.0), (7, 25.0, 26.0), (30, 10.0, 38.0)]:
        z = weeks / (alpha + tenure + weeks)
        bracket = 1 - ((alpha + tenure) / (alpha + tenure + weeks)) ** (r + x) * hyp2f1(r + x, b + x, a + b + x - 1, z)
        odds = a / (b + x - 1) * ((alpha + tenure) / (alpha + recency)) ** (r + x) if x else 0.0
        printed = (a + b + x - 1) / (a - 1) * bracket / (1 + odds)
        found = PURCHASES.expected_purchases(**one(float(x), recency, tenure), weeks=weeks)
        assert found == pytest.approx([printed], rel=1e-9)


@pytest.mark.parametrize("purchases", [500.0, 10_000.0])
def test_a_customer_with_thousands_of_purchases_has_a_finite_expectation(purchases):
    """The rate and the drop-out that remain, both uncertain, integrated out; the printed formula overflows."""
    nodes, weights = np.polynomial.legendre.leggauss(400)
    drop_out = betaincinv(PURCHASES.a, PURCHASES.b + purchases, (nodes + 1) / 2)
    shape, tenure = PURCHASES.r + purchases, 38.0
    made = -np.expm1(-shape * np.log1p(drop_out * WEEKS / (PURCHASES.alpha + tenure))) / drop_out
    odds = PURCHASES.a / (PURCHASES.b + purchases - 1)  # who bought just now is still a customer but for this
    found = PURCHASES.expected_purchases(**one(purchases, tenure, tenure), weeks=WEEKS)
    assert found == pytest.approx([weights @ made / 2 / (1 + odds)], rel=1e-4)


@pytest.mark.parametrize("changed", [{"a": 1.0}, {"a": 0.4, "b": 0.6}])
def test_parameters_at_which_the_formula_divides_by_zero_are_as_good_as_their_neighbours(changed):
    model = replace(PURCHASES, **changed)
    for history in (one(0.0, 0.0, 30.0), one(3.0, 20.0, 30.0)):
        around = [replace(model, a=model.a + step).expected_purchases(**history, weeks=WEEKS) for step in (-1e-4, 1e-4)]
        found = model.expected_purchases(**history, weeks=WEEKS)
        assert found == pytest.approx(np.mean(around, axis=0), rel=1e-6)


def test_a_longer_silence_lowers_and_a_longer_future_raises_what_is_expected():
    silent = [PURCHASES.expected_purchases(**one(5.0, last, 38.0), weeks=WEEKS)[0] for last in (38.0, 25.0, 10.0)]
    assert silent == sorted(silent, reverse=True)
    longer = [PURCHASES.expected_purchases(**one(5.0, 30.0, 38.0), weeks=weeks)[0] for weeks in (1.0, 10.0, 100.0)]
    assert longer == sorted(longer)


@pytest.mark.statistical
def test_the_fit_finds_the_law_that_histories_were_drawn_from_and_forecasts_it():
    table, history, later, future = market(20_000)
    found = fit_buyers(**table)
    names = ("r", "alpha", "a", "b")
    assert [getattr(found.purchases, name) for name in names] == pytest.approx([0.8, 6.0, 0.7, 2.5], rel=0.12)
    assert [found.spend.p, found.spend.q, found.spend.gamma] == pytest.approx([4.0, 4.0, 30.0], rel=0.12)
    often, spent = (
        found.purchases.expected_purchases(**history, weeks=WEEKS),
        found.expected_spend(**table, weeks=WEEKS),
    )
    for expected, actual in ((often, later), (spent, future)):
        for group in (history["frequency"] == 0, history["frequency"] == 1, history["frequency"] > 1):
            off = 4 * (actual[group] - expected[group]).std() / math.sqrt(group.sum())
            assert expected[group].mean() == pytest.approx(actual[group].mean(), abs=off)
            assert 1.3 * expected[group].mean() != pytest.approx(actual[group].mean(), abs=off)


def test_the_fit_is_no_less_likely_than_its_neighbours_and_the_truth():
    table, history, _, _ = market(2000)
    found = fit_buyers(**table).purchases
    best = found.log_likelihood(**history).sum()
    assert best > PURCHASES.log_likelihood(**history).sum()
    for name in ("r", "alpha", "a", "b"):
        for factor in (0.99, 1.01):
            other = replace(found, **{name: factor * getattr(found, name)})
            assert other.log_likelihood(**history).sum() < best


def test_days_for_weeks_change_only_alpha():
    _, history, _, _ = market(2000)
    weeks = fit_purchases(**history)
    scaled = {**history, "recency": 7 * history["recency"], "tenure": 7 * history["tenure"]}
    days = fit_purchases(**scaled)
    assert [days.r, days.alpha / 7, days.a, days.b] == pytest.approx([weeks.r, weeks.alpha, weeks.a, weeks.b], rel=1e-3)
    assert weeks.expected_purchases(**history, weeks=WEEKS) == pytest.approx(
        days.expected_purchases(**scaled, weeks=7 * WEEKS), rel=1e-3
    )


def test_customers_who_are_all_alike_still_have_a_fit():
    alike = {"frequency": np.full(50, 3.0), "recency": np.full(50, 20.0), "tenure": np.full(50, 30.0)}
    expected = fit_purchases(**alike).expected_purchases(**alike, weeks=30.0)
    assert expected == pytest.approx(np.full(50, 3.0), rel=0.05)


# How much.


def test_the_likelihood_of_an_average_adds_up_to_one():
    def density(spend):
        return float(np.exp(SPEND.log_likelihood(purchases=np.array([3.0]), average_spend=np.array([spend]))[0]))

    assert quad(density, 0, np.inf)[0] == pytest.approx(1, rel=1e-8)


def test_the_expected_average_lies_between_the_customers_own_and_everybodys():
    purchases, own = np.array([0.0, 1.0, 5.0, 10_000.0]), np.full(4, 90.0)
    everybody = SPEND.p * SPEND.gamma / (SPEND.q - 1)
    found = SPEND.expected_average(purchases=purchases, average_spend=own)
    assert found[0] == pytest.approx(everybody)
    assert found.tolist() == sorted(found)
    assert found[-1] == pytest.approx(90.0, rel=1e-3)


def test_another_currency_changes_only_gamma():
    table, _, _, _ = market(2000)
    cents = {**table, "total_spend": 100 * table["total_spend"]}
    before, after = fit_buyers(**table), fit_buyers(**cents)
    assert after.purchases == before.purchases
    spend = [after.spend.p, after.spend.q, after.spend.gamma / 100]
    assert spend == pytest.approx([before.spend.p, before.spend.q, before.spend.gamma], rel=1e-3)
    assert after.expected_spend(**cents, weeks=WEEKS) == pytest.approx(
        100 * before.expected_spend(**table, weeks=WEEKS), rel=1e-4
    )


def test_the_spend_of_those_who_bought_once_or_for_nothing_is_not_fitted():
    table, _, _, _ = market(2000)
    once = table["frequency"] == 0
    free = np.flatnonzero(~once)[:5]
    total = np.where(once, 1e6, table["total_spend"])
    total[free] = 0.0
    kept = np.setdiff1d(np.flatnonzero(~once), free)
    days = table["frequency"][kept] + 1
    found = fit_buyers(**{**table, "total_spend": total}).spend
    assert found == fit_spend(purchases=days, average_spend=table["total_spend"][kept] / days)


def test_expected_spend_is_days_times_the_spend_of_a_day():
    buyers = Buyers(purchases=PURCHASES, spend=SPEND)
    history = one(3.0, 20.0, 30.0)
    found = buyers.expected_spend(**history, total_spend=np.array([200.0]), weeks=WEEKS)
    days = PURCHASES.expected_purchases(**history, weeks=WEEKS)
    assert found == pytest.approx(days * 4 * (30 + 200) / (4 * 4 + 3))


# What is refused.


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"frequency": [0.0, 0.0, 0.0], "recency": [0.0, 0.0, 0.0]}, "customers who bought again, got none of 3"),
        ({"frequency": [1.0, 2.0]}, r"expected \(n,\) each, got \(2,\), \(3,\)"),
        ({"recency": [0.0, 2.0, 31.0]}, "at most the tenure, got more for 1 customers"),
        ({"recency": [1.0, 2.0, 3.0]}, "above 0 exactly where frequency is, got 1 customers otherwise"),
        ({"frequency": [0.0, -1.0, 2.0]}, "frequency: .*got 1 others"),
        ({"tenure": [30.0, math.nan, math.inf]}, "tenure: .*got 2 others"),
        ({"tenure": ["long", "long", "long"]}, "expected numbers"),
        ({"total_spend": [1.0, -1.0, 2.0]}, "total_spend: .*got 1 others"),
        ({"total_spend": [1.0, 0.0, 0.0]}, r"got \(0,\)"),
        ({"total_spend": [1.0, 20.0, 30.0]}, "customers who differ, got 2 alike"),
        ({name: [] for name in ("frequency", "recency", "tenure", "total_spend")}, r"got \(0,\)"),
    ],
)
def test_unusable_tables_are_refused_in_one_line(changed, expected):
    table = {
        "frequency": [0.0, 1.0, 2.0],
        "recency": [0.0, 5.0, 9.0],
        "tenure": [30.0, 30.0, 30.0],
        "total_spend": [10.0, 50.0, 20.0],
    }
    with pytest.raises(DataError, match=expected) as refused:
        fit_buyers(**{**table, **changed})
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("weeks", [0.0, -1.0, math.nan, math.inf])
def test_a_future_without_length_is_refused(weeks):
    with pytest.raises(DataError, match="weeks: expected above 0"):
        PURCHASES.expected_purchases(**one(1.0, 2.0, 3.0), weeks=weeks)


def test_parameters_beyond_float64_are_refused_and_give_no_number():
    extreme = PurchaseModel(r=0.1, alpha=0.1, a=2000.0, b=10.0)
    with pytest.raises(DataError, match="expected finite numbers, got 1 that are not"):
        extreme.expected_purchases(**one(4.0, 30.0, 40.0), weeks=500.0)


def test_spend_without_a_mean_is_refused():
    heavy = SpendModel(p=4.0, q=0.9, gamma=30.0)
    with pytest.raises(DataError, match="no finite mean for 1 customers"):
        heavy.expected_average(purchases=np.array([0.0, 1.0]), average_spend=np.array([0.0, 30.0]))
    with pytest.raises(DataError, match="expected purchases above 0, got 1 customers"):
        fit_spend(purchases=np.array([0.0, 1.0]), average_spend=np.array([20.0, 30.0]))
