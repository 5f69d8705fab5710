"""CDNOW gives its published counts and estimates (Fader, Hardie and Lee 2005); another tenth of it does not."""

from datetime import datetime

import numpy as np
import polars as pl
import pytest

from fedmarket.arrays import FloatArray
from fedmarket.contract.transactions import TransactionTerms
from fedmarket.data.public import PUBLIC_FILES, load_public, locate
from fedmarket.data.transactions import customers_of, customers_with_counts
from fedmarket.evaluation.value import value_metrics
from fedmarket.training.buyers import Buyers, PurchaseModel, fit_buyers, fit_purchases, fit_spend

CDNOW_TERMS = TransactionTerms.model_validate(
    {
        "customer": "id",
        "time": "day",
        "time_format": "%Y%m%d",
        "amount": "dollars",
        "amount_is": "total",
        "currency": "USD",
        "start": "1997-01-01",
        "cut": "1997-10-01",
        "end": "1998-07-01",
        "max_transactions": 200,
        "max_amount": 2000.0,
        "max_value": 10_000.0,
        "typical_value": 60.0,
    }
)


@pytest.fixture(scope="module")
def cdnow() -> pl.DataFrame:
    public = next(one for one in PUBLIC_FILES if one.name == "cdnow")
    if locate(public) is None:
        pytest.skip("no data folder has this file")
    return load_public(public)


def test_cdnow_has_its_published_customers_and_transactions(cdnow: pl.DataFrame):
    found = customers_with_counts(cdnow, CDNOW_TERMS)
    assert (found.counts.lines, found.counts.customers) == (69_659, 23_570)
    assert found.counts.lines == found.counts.calibration + found.counts.prediction
    assert (found.counts.over_limit, found.counts.clipped_amounts, found.counts.clipped_values) == (0, 0, 0)
    # Fader, Hardie and Lee (2005): of the sample as of the cohort, 59.9 % have not bought again after 39 weeks.
    assert found.table.filter(pl.col("frequency") == 0).height == 14_119


def test_the_tenth_of_cdnow_gives_the_published_bg_nbd_estimates(cdnow: pl.DataFrame):
    """Fader, Hardie and Lee (2005), table 2: r, alpha, a, b and the log-likelihood, with weeks for the unit of time."""
    table = customers_of(cdnow.filter(pl.col("id").is_in(tenth_of(cdnow))), CDNOW_TERMS)
    assert table.height == 2357
    first = {name: round(values[0], 2) for name, values in history_of(table).items()}
    assert first == {"frequency": 2, "recency": 30.43, "tenure": 38.86}
    found = fit_purchases(**history_of(table))
    assert parameters_of(found) == pytest.approx([0.243, 4.414, 0.793, 2.426], rel=0.003)
    assert found.log_likelihood(**history_of(table)).sum() == pytest.approx(-9582.4, abs=0.1)


def test_another_tenth_of_cdnow_does_not_give_them(cdnow: pl.DataFrame):
    table = customers_of(cdnow.filter(pl.col("id").cast(pl.Int64) % 10 == 4), CDNOW_TERMS)
    found = fit_purchases(**history_of(table))
    assert parameters_of(found) != pytest.approx([0.243, 4.414, 0.793, 2.426], rel=0.01)


def test_the_tenth_of_cdnow_gives_the_published_forecasts(cdnow: pl.DataFrame):
    """Of the first customer, and the correlation of expected and actual purchases in weeks 40 to 78."""
    sample = cdnow.filter(pl.col("id").is_in(tenth_of(cdnow)))
    table = customers_of(sample, CDNOW_TERMS)
    expected = fit_purchases(**history_of(table)).expected_purchases(**history_of(table), weeks=39.0)
    assert expected[0] == pytest.approx(1.226, abs=0.001)
    later = sample.filter(pl.col("day") >= "19971001").group_by("id").agg(pl.col("day").n_unique())
    actual = table.join(later, on="id", how="left", maintain_order="left")["day"].fill_null(0)
    assert np.corrcoef(expected, actual.to_numpy())[0, 1] == pytest.approx(0.626, abs=0.001)
    assert (round(expected.sum()), actual.sum()) == (1653, 1882)


def test_the_repeat_purchases_of_the_tenth_give_the_published_gamma_gamma_estimates(cdnow: pl.DataFrame):
    """Fader and Hardie (2013): 946 customers without their first day. With it, as in our features, the law differs."""
    sample = cdnow.filter(pl.col("id").is_in(tenth_of(cdnow)))
    repeated = (
        sample.filter((pl.col("day") < "19971001") & (pl.col("day") > pl.col("day").min().over("id")))
        .group_by("id")
        .agg(pl.col("day").n_unique().cast(pl.Float64), pl.col("dollars").cast(pl.Float64).sum())
    )
    assert repeated.height == 946
    average = (repeated["dollars"] / repeated["day"]).to_numpy()
    found = fit_spend(purchases=repeated["day"].to_numpy(), average_spend=average)
    assert [found.p, found.q, found.gamma] == pytest.approx([6.25, 3.74, 15.44], rel=0.003)
    ours = buyers_of(customers_of(sample, CDNOW_TERMS)).spend
    assert [ours.p, ours.q, ours.gamma] != pytest.approx([6.25, 3.74, 15.44], rel=0.05)


def test_expected_spend_ranks_the_buyers_of_cdnow_and_is_below_what_came(cdnow: pl.DataFrame):
    """So is BG/NBD's forecast of purchases: 1,653 where 1,882 came in the tenth."""
    table = customers_of(cdnow, CDNOW_TERMS)
    expected = buyers_of(table).expected_spend(
        **history_of(table), total_spend=table["total_spend"].to_numpy(), weeks=39.0
    )
    values = value_metrics(table["future_spend"].to_numpy(), expected)
    assert values["gini"] == pytest.approx(0.71, abs=0.005)
    assert values["value_ratio"] == pytest.approx(0.816, abs=0.005)
    for name in ("total_spend", "average_spend"):
        assert (
            value_metrics(table["future_spend"].to_numpy(), table[name].to_numpy())["gini"] < values["gini"] - 0.01
        ), name


def buyers_of(table: pl.DataFrame) -> Buyers:
    return fit_buyers(**history_of(table), total_spend=table["total_spend"].to_numpy())


def history_of(table: pl.DataFrame) -> dict[str, FloatArray]:
    """Return what BG/NBD is about, in weeks."""
    return {
        "frequency": table["frequency"].to_numpy(),
        "recency": table["recency_days"].to_numpy() / 7,
        "tenure": table["tenure_days"].to_numpy() / 7,
    }


def parameters_of(model: PurchaseModel) -> list[float]:
    return [model.r, model.alpha, model.a, model.b]


def tenth_of(master: pl.DataFrame) -> list[str]:
    """The published systematic sample: by week of the first purchase, then by repeat spend of 39 weeks, every tenth.

    Equal spends are told apart by the rounding of "all less the first day" in float64, from the largest down, and then
    by number; this gives the 2,357 customers and 6,919 lines of the publishers' sample.
    """
    lines: dict[str, list[tuple[str, float]]] = {}
    for name, day, dollars in master.select("id", "day", "dollars").iter_rows():
        lines.setdefault(name, []).append((day, float(dollars)))

    def place(name: str) -> tuple[int, float, str]:
        first = lines[name][0][0]
        spent = sum(paid for day, paid in lines[name] if day < "19971001")
        week = (datetime.strptime(first, "%Y%m%d") - datetime(1997, 1, 1)).days // 7
        return week, -(spent - sum(paid for day, paid in lines[name] if day == first)), name

    return sorted(lines, key=place)[9::10]
