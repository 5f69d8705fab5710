"""Curves of a propensity model as plain lists, ready for JSON and small enough for a page.

Each curve is read at 101 contacted shares, 0 % to 100 %; a share inside a tie takes the expected value over a random
order of the tied customers. Numbers are rounded to six decimals. Curves are exact statistics of test rows: they carry
no differential privacy.
"""

import numpy as np
from numpy.typing import ArrayLike

from fedmarket.evaluation.metrics import CALIBRATION_BINS, campaign_profit
from fedmarket.evaluation.ranking import calibration_bins, rank

Curve = dict[str, list[float]]

_SHARES = np.linspace(0.0, 1.0, 101)


def roc(labels: ArrayLike, probabilities: ArrayLike) -> Curve:
    """Return ``false_positive_rate`` and ``true_positive_rate``, (101,) each, from (0, 0) to (1, 1).

    Raises:
        DataError: as :func:`fedmarket.evaluation.ranking.rank`; so for every curve here.
    """
    ranking = rank(labels, probabilities)
    contacted = _SHARES * ranking.customers
    captured = ranking.captured_at(contacted)
    others = ranking.customers - ranking.responses
    return {
        "false_positive_rate": _rounded((contacted - captured) / others),
        "true_positive_rate": _rounded(captured / ranking.responses),
    }


def gains(labels: ArrayLike, probabilities: ArrayLike) -> Curve:
    """Return the ``captured`` share of responses at each ``contacted`` share of customers, (101,) each.

    >>> gains([1, 0], [0.9, 0.1])["captured"][25]
    0.5
    """
    ranking = rank(labels, probabilities)
    captured = ranking.captured_at(_SHARES * ranking.customers) / ranking.responses
    return {"contacted": _rounded(_SHARES), "captured": _rounded(captured)}


def calibration(labels: ArrayLike, probabilities: ArrayLike) -> Curve:
    """Return mean ``predicted``, ``observed`` rate and ``count`` in ten bins of equal count, lowest scores first."""
    bins = calibration_bins(rank(labels, probabilities), bins=CALIBRATION_BINS)
    return {
        "predicted": _rounded(bins.predicted),
        "observed": _rounded(bins.observed),
        "count": _rounded(bins.count),
    }


def profit(labels: ArrayLike, probabilities: ArrayLike, *, contact_cost: float, response_margin: float) -> Curve:
    """Return ``profit`` for each customer in the table at each ``contacted`` share, (101,) each."""
    ranking = rank(labels, probabilities)
    earned = campaign_profit(
        ranking, _SHARES * ranking.customers, contact_cost=contact_cost, response_margin=response_margin
    )
    return {"contacted": _rounded(_SHARES), "profit": _rounded(earned)}


def _rounded(values: ArrayLike) -> list[float]:
    rounded: list[float] = np.round(np.asarray(values, dtype=np.float64), 6).tolist()
    return rounded
