"""Test metrics from noisy counts of scores, with the width that the noise gives them.

Everything here is post-processing of counts that were paid for: no row is looked at.
"""

from collections.abc import Callable

import numpy as np
from scipy.special import expit

from fedmarket.arrays import FloatArray
from fedmarket.errors import DataError
from fedmarket.privacy.histogram import (
    BIN_MIDDLES,
    BIN_WIDTHS,
    VALUE_MIDDLES,
    BinnedCounts,
    SegmentSums,
    value_caps,
)

REPLICATES = 400
"""How often noise is added once more to see how far it moves a metric."""

CONTACTED = 0.1
"""Share of customers contacted, best scores first, for the lift."""

BEST = 0.2
"""Share of customers, best values first, whose spend is counted."""

SHARES = ("auc", "response_rate", "purchase_rate", "captured_20")
"""Metrics that cannot be above 1."""

NORMAL_95 = 1.959963984540054

Stack = FloatArray
"""Many histograms at once: the first axis counts them."""


def private_metrics(scores: BinnedCounts, *, rng: np.random.Generator) -> dict[str, dict[str, float]]:
    """Return each metric as ``value``, and ``low`` and ``high``, 95 % for the privacy noise alone.

    ``auc``, ``lift_10``, ``calibration_ratio`` (predicted over observed responses), ``log_loss`` (nats) and
    ``response_rate``. Scores count as the middle of their bin. Of two customers in one bin, the one with the response
    ranks first with probability 1/2 + width / 12: so it is, to first order, where odds in the bin rise as the model
    says. The interval is the normal one with the standard deviation that one more draw of the same noise gives: it is
    the width of the noise alone, and holds neither the sampling of customers nor what the bins cost.

    Args:
        scores: see :class:`fedmarket.privacy.histogram.BinnedCounts`.
        rng: for the replicates; it protects nobody and need not be secret.

    Raises:
        DataError: if noise leaves no rows of one class.
    """
    probabilities = expit(scores.typical + BIN_MIDDLES)
    return _with_noise(lambda counts: _metrics(counts, probabilities), scores, rng=rng)


def private_value_metrics(values: BinnedCounts, *, rng: np.random.Generator) -> dict[str, dict[str, float]]:
    """Return each metric of predicted values as :func:`private_metrics` does.

    ``value_ratio`` (predicted over observed spend), ``captured_20`` (share of the spend among the best 20 %),
    ``purchase_rate`` and ``mean_spend`` (money). Values count as the middle of their bin, spends as their bin's cap at
    most, and inside of a bin spend is taken to be spread evenly.

    Raises:
        DataError: if noise leaves no rows or no spend.
    """
    predicted = values.typical * np.exp(VALUE_MIDDLES)
    caps = value_caps(typical=values.typical)
    return _with_noise(lambda counts: _value_metrics(counts, predicted, caps), values, rng=rng)


def private_segment(sums: SegmentSums, place: int) -> dict[str, dict[str, float]]:
    """Return ``customers``, ``responses`` and ``value`` (money) of one segment as :func:`private_metrics` does."""
    names, row = ("customers", "responses", "value"), sums.sums[:, place]
    reach = NORMAL_95 * sums.noise_stds
    return {
        name: {"value": float(number), "low": max(float(number - width), 0.0), "high": float(number + width)}
        for name, number, width in zip(names, row, reach, strict=True)
    }


def _with_noise(
    metrics: Callable[[Stack], dict[str, FloatArray]], binned: BinnedCounts, *, rng: np.random.Generator
) -> dict[str, dict[str, float]]:
    values = metrics(binned.counts[None])
    if not all(np.isfinite(value[0]) for value in values.values()):
        raise DataError("private evaluation: the noise leaves no rows of one class")
    noise = binned.noise_std * rng.standard_normal((REPLICATES, *binned.counts.shape))
    moved = metrics(binned.counts + noise)
    width = {name: NORMAL_95 * float(np.nanstd(value)) for name, value in moved.items()}
    return {
        name: {
            "value": float(value[0]),
            "low": max(float(value[0]) - width[name], 0.0),
            "high": min(float(value[0]) + width[name], 1.0 if name in SHARES else np.inf),
        }
        for name, value in values.items()
    }


def _value_metrics(counts: Stack, predicted: FloatArray, caps: FloatArray) -> dict[str, FloatArray]:
    """Return the metrics of each of (k, 3, bins) counts, (k,); not a number where there are no rows or no spend."""
    rows, buyers, spend = counts[:, 0], counts[:, 1], counts[:, 2] * caps
    all_rows, all_spend = rows.sum(axis=1), spend.sum(axis=1)
    with np.errstate(all="ignore"):
        usable = np.where((all_rows > 0) & (all_spend > 0), 1.0, np.nan)
        best_first, paid = np.maximum(rows[:, ::-1], 0.0), spend[:, ::-1]
        before = np.cumsum(best_first, axis=1) - best_first
        wanted = BEST * best_first.sum(axis=1, keepdims=True)
        share = np.clip((wanted - before) / np.where(best_first > 0, best_first, np.inf), 0.0, 1.0)
        metrics = {
            "value_ratio": rows @ predicted / all_spend,
            "captured_20": (share * paid).sum(axis=1) / all_spend,
            "purchase_rate": buyers.sum(axis=1) / all_rows,
            "mean_spend": all_spend / all_rows,
        }
        return {name: value * usable for name, value in metrics.items()}


def _metrics(counts: Stack, probabilities: FloatArray) -> dict[str, FloatArray]:
    """Return the metrics of each of (k, 2, bins) counts, (k,); not a number where a class has no rows."""
    negatives, positives = counts[:, 0], counts[:, 1]
    all_negatives, all_positives = negatives.sum(axis=1), positives.sum(axis=1)
    with np.errstate(all="ignore"):
        usable = np.where((all_negatives > 0) & (all_positives > 0), 1.0, np.nan)
        below = np.cumsum(negatives, axis=1) - negatives * (0.5 - BIN_WIDTHS / 12.0)
        rows = all_negatives + all_positives
        predicted = (negatives + positives) @ probabilities
        log_loss = -(positives @ np.log(probabilities) + negatives @ np.log1p(-probabilities))
        metrics = {
            "auc": (positives * below).sum(axis=1) / (all_negatives * all_positives),
            "lift_10": _captured(negatives + positives, positives, probabilities) / all_positives / CONTACTED,
            "calibration_ratio": predicted / all_positives,
            "log_loss": log_loss / rows,
            "response_rate": all_positives / rows,
        }
        return {name: value * usable for name, value in metrics.items()}


def _captured(counts: Stack, positives: Stack, probabilities: FloatArray) -> FloatArray:
    """Return the responses among the best ``CONTACTED`` of all rows.

    Of the bin at the edge a share s is contacted, its best scores first. To first order in the bin's width, the odds
    rise inside of it as the model says, so that share holds s + s (1 - s) (1 - p) width / 2 of its responses.
    """
    counts, positives = counts[:, ::-1], positives[:, ::-1]
    tilt = ((1.0 - probabilities) * BIN_WIDTHS / 2.0)[::-1]
    before = np.cumsum(counts, axis=1) - counts
    wanted = CONTACTED * counts.sum(axis=1, keepdims=True)
    share = np.clip((wanted - before) / np.where(counts > 0, counts, np.inf), 0.0, 1.0)
    return np.asarray(((share + share * (1.0 - share) * tilt) * positives).sum(axis=1))
