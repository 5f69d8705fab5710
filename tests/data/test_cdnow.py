"""CDNOW gives its published counts and BG/NBD estimates (Fader, Hardie and Lee 2005); another tenth of it does not."""

import gzip
from datetime import datetime
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy.optimize import minimize
from scipy.special import betaln, gammaln

from fedmarket.contract.transactions import TransactionTerms
from fedmarket.data.public import PublicFile, locate
from fedmarket.data.tables import parse_spaced
from fedmarket.data.transactions import customers_of, customers_with_counts
from fedmarket.files import sha256_of

CDNOW = PublicFile(
    name="cdnow",
    folder="cdnow",
    file="CDNOW_master.txt",
    sha256="61fd6f7bf3497187a7ec0d9ff6a99b7568f1fe911a9f3665e02efecd6b34ed07",
    url=None,
    members=(),
    licence="research use",
    citation="Fader, Hardie (2001), Forecasting Repeat Sales at CDNOW, Interfaces 31(3)",
)
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
    }
)


@pytest.fixture(scope="module")
def cdnow() -> pl.DataFrame:
    path = locate(CDNOW)
    if path is None:
        pytest.skip("no data folder has this file")
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    assert sha256_of(content) == CDNOW.sha256
    return parse_spaced(content, columns=("id", "day", "items", "dollars"), source=CDNOW.file)


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
    x, recency, tenure = (table[name].to_numpy() for name in ("frequency", "recency_days", "tenure_days"))
    assert (x[0], round(recency[0] / 7, 2), round(tenure[0] / 7, 2)) == (2, 30.43, 38.86)
    found = minimize(minus_log_likelihood, np.zeros(4), args=(x, recency / 7, tenure / 7), method="BFGS")
    assert np.exp(found.x) == pytest.approx([0.243, 4.414, 0.793, 2.426], rel=0.003)
    assert -found.fun == pytest.approx(-9582.4, abs=0.1)


def test_another_tenth_of_cdnow_does_not_give_them(cdnow: pl.DataFrame):
    table = customers_of(cdnow.filter(pl.col("id").cast(pl.Int64) % 10 == 4), CDNOW_TERMS)
    weeks = (table[name].to_numpy() / 7 for name in ("recency_days", "tenure_days"))
    found = minimize(minus_log_likelihood, np.zeros(4), args=(table["frequency"].to_numpy(), *weeks), method="BFGS")
    assert np.exp(found.x) != pytest.approx([0.243, 4.414, 0.793, 2.426], rel=0.01)


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


def minus_log_likelihood(logs: Any, x: Any, recency: Any, tenure: Any) -> float:
    """BG/NBD, Fader, Hardie and Lee (2005), equation 6; ``logs`` are those of r, alpha, a, b."""
    r, alpha, a, b = np.exp(logs)
    common = gammaln(r + x) - gammaln(r) + r * np.log(alpha) + betaln(a, b + x) - betaln(a, b)
    alive = -(r + x) * np.log(alpha + tenure)
    dropped = np.log(a) - np.log(b + np.maximum(x, 1) - 1) - (r + x) * np.log(alpha + recency)
    return -float(np.sum(common + np.where(x > 0, np.logaddexp(alive, dropped), alive)))
