"""Metrics of a propensity model: how well it ranks, how well it is calibrated, what a campaign with it earns.

All are functions of a :class:`~fedmarket.evaluation.ranking.Ranking`, so ties count as the expected value over a
random order of the tied customers: the AUC uses mid-ranks, and a cut-off inside a tie takes its share of the tie.
"""

import numpy as np
from numpy.typing import ArrayLike

from fedmarket.errors import DataError
from fedmarket.evaluation.ranking import Floats, Ranking, calibration_bins, rank

CUTS = (5, 10, 20)
"""Contacted shares, in percent, at which lift and captured response are given."""

CALIBRATION_BINS = 10
"""Bins of equal count in the calibration error."""


def propensity_metrics(
    labels: ArrayLike, probabilities: ArrayLike, *, contact_cost: float, response_margin: float
) -> dict[str, float]:
    """Return all metrics of predicted probabilities against what happened.

    Args:
        labels: 0 or 1 for each customer, (n,).
        probabilities: of a response, in [0, 1], (n,).
        contact_cost: cost of one contact.
        response_margin: earned by one response, in the same currency.

    Returns:
        ``auc``, ``average_precision``, ``log_loss`` (nats); ``lift_5/10/20`` and ``captured_5/10/20`` at the best
        5, 10, 20 % of customers; ``ks`` (Kolmogorov-Smirnov distance of the classes' scores);
        ``calibration_error`` and ``calibration_ratio``; ``profit_best`` (currency for each customer in the table,
        contacted or not) and ``profit_best_share``, the contacted share that earns it.

    Raises:
        DataError: lengths differ, one class only, a value that is not a probability, or a cost or margin not
            above zero.

    Guarantees:
        Finite numbers that do not depend on the order of the rows.

    >>> values = propensity_metrics([0, 0, 1, 1], [0.1, 0.4, 0.35, 0.8], contact_cost=1.0, response_margin=3.0)
    >>> values["auc"], values["profit_best"], values["profit_best_share"]
    (0.75, 0.75, 0.75)
    """
    ranking = rank(labels, probabilities)
    shares = {percent: percent / 100 for percent in CUTS}
    profit, share = best_profit(ranking, contact_cost=contact_cost, response_margin=response_margin)
    return {
        "auc": auc(ranking),
        "average_precision": average_precision(ranking),
        "log_loss": log_loss(ranking),
        **{f"lift_{percent}": captured_share(ranking, share) / share for percent, share in shares.items()},
        **{f"captured_{percent}": captured_share(ranking, share) for percent, share in shares.items()},
        "ks": kolmogorov_smirnov(ranking),
        "calibration_error": calibration_error(ranking),
        "calibration_ratio": float(ranking.predicted[-1] / ranking.responses),
        "profit_best": profit,
        "profit_best_share": share,
    }


def auc(ranking: Ranking) -> float:
    """Return the chance that a responder outranks a non-responder, a tie counting one half (Mann-Whitney)."""
    responders = np.diff(ranking.captured)
    others = np.diff(ranking.contacted) - responders
    above = ranking.captured[:-1] + responders / 2
    return float(np.sum(others * above) / (ranking.responses * (ranking.customers - ranking.responses)))


def average_precision(ranking: Ranking) -> float:
    """Return the mean of the precision at each response; tied customers are contacted together."""
    precision = ranking.captured[1:] / ranking.contacted[1:]
    return float(np.sum(np.diff(ranking.captured) * precision) / ranking.responses)


def log_loss(ranking: Ranking) -> float:
    """Return the mean negative log-likelihood in nats; certainty is moved to within 2.2e-16 of 0 or 1."""
    count, responders = np.diff(ranking.contacted), np.diff(ranking.captured)
    tiny = np.finfo(np.float64).eps
    probability = np.clip(ranking.probability, tiny, 1 - tiny)
    terms = responders * np.log(probability) + (count - responders) * np.log1p(-probability)
    return float(-np.sum(terms) / ranking.customers)


def captured_share(ranking: Ranking, share: float) -> float:
    """Return the share of all responses found among the best ``share`` of customers."""
    return float(ranking.captured_at(share * ranking.customers) / ranking.responses)


def kolmogorov_smirnov(ranking: Ranking) -> float:
    """Return the largest distance between the score distributions of responders and others."""
    others = ranking.contacted - ranking.captured
    return float(np.max(np.abs(ranking.captured / ranking.responses - others / others[-1])))


def calibration_error(ranking: Ranking) -> float:
    """Return the expected calibration error with ten bins of equal count.

    It is the sum over bins of ``count / n * |mean prediction - response rate|`` (Nguyen and O'Connor 2015). With few
    responses in a bin it is above zero for a perfect model too: compare values on the same customers only.
    """
    bins = calibration_bins(ranking, bins=CALIBRATION_BINS)
    return float(np.sum(bins.count * np.abs(bins.predicted - bins.observed)) / ranking.customers)


def best_profit(ranking: Ranking, *, contact_cost: float, response_margin: float) -> tuple[float, float]:
    """Return the largest profit for each customer in the table, and the contacted share that earns it.

    The share is chosen on the customers it is measured on, so the profit is what hindsight would have earned.
    Contacting nobody earns zero, so the profit is never negative. Of equal profits the smallest share is taken.
    """
    profit = campaign_profit(ranking, ranking.contacted, contact_cost=contact_cost, response_margin=response_margin)
    best = int(np.argmax(profit))
    return float(profit[best]), float(ranking.contacted[best] / ranking.customers)


def campaign_profit(
    ranking: Ranking, contacted: Floats | float, *, contact_cost: float, response_margin: float
) -> Floats:
    """Return the profit, for each customer in the table, of contacting the ``contacted`` best customers.

    Raises:
        DataError: if cost or margin is not above zero.
    """
    if not (0 < contact_cost < np.inf and 0 < response_margin < np.inf):
        raise DataError(f"contact_cost and response_margin: expected above 0, got {contact_cost}, {response_margin}")
    earned = response_margin * ranking.captured_at(contacted) - contact_cost * np.asarray(contacted)
    return earned / ranking.customers
