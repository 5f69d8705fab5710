"""Metrics and tables of predicted customer value: how well it ranks, how far it is off, whom a campaign would reach.

What is predicted is an expected spend, and most customers spend nothing; so ranking is judged by Lorenz curves and the
level by deciles (Wang, Liu and Miao 2019, arXiv 1912.07753). Ties count as the expected value over a random order of
the tied customers. Everything here is an exact statistic of test rows and carries no differential privacy.
"""

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import rankdata

from fedmarket.errors import DataError
from fedmarket.evaluation.curves import Curve
from fedmarket.evaluation.metrics import auc, captured_share
from fedmarket.evaluation.ranking import CalibrationBins, Floats, Ranking, calibration_bins, checked_vector, ranked

CUTS = (10, 20)
"""Contacted shares, in percent, at which the captured share of value is given."""

DECILES = 10
"""Groups of equal count (up to rounding) by predicted value; fewer where there are fewer customers."""

_SHARES = np.linspace(0.0, 1.0, 101)


def value_metrics(
    actual: ArrayLike, predicted: ArrayLike, *, purchase_probability: ArrayLike | None = None
) -> dict[str, float]:
    """Return all metrics of predicted values against what customers spent.

    Args:
        actual: spend of each customer in money, at least 0, (n,).
        predicted: expected spend in the same money, at least 0, (n,).
        purchase_probability: of any spend at all, in [0, 1], (n,); without it, ``auc`` ranks by ``predicted``.

    Returns:
        * ``gini``: the area between Lorenz curve and diagonal, customers in the order of the prediction, over the same
          area in the order of their actual spend: 1 for the best order, 0 for chance, below 0 for worse.
        * ``spearman``: correlation of mid-ranks; 0 where all predictions are the same.
        * ``mae``, ``rmse``: of the spend, in money; ``value_ratio``: all predicted over all actual spend.
        * ``decile_error``: the mean over deciles by prediction of the distance between mean predicted and mean actual
          spend, over the mean actual spend of all customers. Wang et al. divide by the decile's own spend, which has
          no value where a decile spends nothing.
        * ``captured_10``, ``captured_20``: share of all spend by the best 10 and 20 % of customers.
        * ``auc``: of who spends anything.

    Raises:
        DataError: lengths differ, a value below zero or not finite, a probability above 1, no customers, nobody spent,
            or everybody did.

    Guarantees:
        Finite numbers that do not depend on the order of the rows.

    >>> values = value_metrics([30.0, 0.0, 10.0, 0.0], [20.0, 15.0, 5.0, 0.0])
    >>> values["gini"], values["captured_20"], values["value_ratio"]
    (0.8, 0.6, 1.0)
    """
    spend = checked_spend(actual)
    expected = checked_amounts(predicted, name="predicted", customers=spend.size)
    purchases = _purchases(spend, expected, purchase_probability)
    ranking = ranked(spend, expected)
    tenths = _tenths(ranking)
    return {
        "gini": _gini(ranking) / _gini(ranked(spend, spend)),
        "spearman": _spearman(spend, expected),
        "mae": float(np.mean(np.abs(expected - spend))),
        "rmse": float(np.sqrt(np.mean((expected - spend) ** 2))),
        "value_ratio": float(expected.sum() / spend.sum()),
        "decile_error": float(np.mean(np.abs(tenths.predicted - tenths.observed)) / spend.mean()),
        **{f"captured_{percent}": captured_share(ranking, percent / 100) for percent in CUTS},
        "auc": auc(purchases),
    }


def deciles(actual: ArrayLike, predicted: ArrayLike) -> Curve:
    """Return mean ``predicted``, mean ``actual``, ``count`` and share that ``bought``, highest predictions first.

    Numbers are rounded to six decimals; a decile that cuts a tie takes its share of the tie.

    Raises:
        DataError: as :func:`value_metrics`, but everybody may have spent.

    >>> deciles([30.0, 0.0], [20.0, 5.0])
    {'predicted': [20.0, 5.0], 'actual': [30.0, 0.0], 'count': [1.0, 1.0], 'bought': [1.0, 0.0]}
    """
    spend = checked_spend(actual)
    expected = checked_amounts(predicted, name="predicted", customers=spend.size)
    tenths, buyers = _tenths(ranked(spend, expected)), _tenths(ranked(_bought(spend), expected))
    return {
        "predicted": _rounded(tenths.predicted[::-1]),
        "actual": _rounded(tenths.observed[::-1]),
        "count": _rounded(tenths.count[::-1]),
        "bought": _rounded(buyers.observed[::-1]),
    }


def value_gains(actual: ArrayLike, predicted: ArrayLike) -> Curve:
    """Return the ``captured`` share of all spend at each ``contacted`` share of customers, (101,) each.

    Raises:
        DataError: as :func:`deciles`.

    >>> value_gains([30.0, 10.0], [20.0, 5.0])["captured"][50]
    0.75
    """
    spend = checked_spend(actual)
    ranking = ranked(spend, checked_amounts(predicted, name="predicted", customers=spend.size))
    captured = ranking.captured_at(_SHARES * ranking.customers) / ranking.responses
    return {"contacted": _rounded(_SHARES), "captured": _rounded(captured)}


def checked_spend(actual: ArrayLike) -> Floats:
    """Return ``actual`` as floats, (n,).

    Raises:
        DataError: unless they are numbers of at least 0 in one dimension, and one is above 0.
    """
    spend = checked_amounts(actual, name="actual")
    if not spend.sum() > 0:
        raise DataError(f"actual: expected someone who spent, got nobody in {spend.size} rows")
    return spend


def checked_amounts(values: ArrayLike, *, name: str, customers: int | None = None, most: float = np.inf) -> Floats:
    """Return ``values`` as floats, (n,).

    Raises:
        DataError: unless they are finite numbers from 0 to ``most``, one for each customer.
    """
    amounts = checked_vector(values, name=name)
    if customers is not None and amounts.size != customers:
        raise DataError(f"{name}: expected one for each of {customers} customers, got {amounts.size}")
    wrong = int((~(np.isfinite(amounts) & (amounts >= 0) & (amounts <= most))).sum())
    if wrong:
        bounds = "finite numbers of at least 0" if most == np.inf else f"numbers from 0 to {most:g}"
        raise DataError(f"{name}: expected {bounds}, got {wrong} others")
    return amounts


def _gini(ranking: Ranking) -> float:
    """Twice the area between the curve of captured amounts and the diagonal."""
    heights = (ranking.captured[1:] + ranking.captured[:-1]) / ranking.responses
    return float(np.sum(np.diff(ranking.contacted) * heights) / ranking.customers - 1)


def _spearman(spend: Floats, expected: Floats) -> float:
    ranks = [rankdata(values) - (values.size + 1) / 2 for values in (spend, expected)]
    scale = np.sqrt(np.sum(ranks[0] ** 2) * np.sum(ranks[1] ** 2))
    return float(np.sum(ranks[0] * ranks[1]) / scale) if scale > 0 else 0.0


def _purchases(spend: Floats, expected: Floats, probability: ArrayLike | None) -> Ranking:
    """Who bought, in the order of the chance to buy."""
    bought = _bought(spend)
    if bought.all():
        raise DataError(f"actual: expected someone who spent nothing, got nobody in {spend.size} rows")
    if probability is None:
        return ranked(bought, expected)
    return ranked(bought, checked_amounts(probability, name="purchase_probability", customers=spend.size, most=1))


def _bought(spend: Floats) -> Floats:
    return (spend > 0).astype(np.float64)


def _tenths(ranking: Ranking) -> CalibrationBins:
    return calibration_bins(ranking, bins=DECILES)


def _rounded(values: ArrayLike) -> list[float]:
    rounded: list[float] = np.round(np.asarray(values, dtype=np.float64), 6).tolist()
    return rounded
