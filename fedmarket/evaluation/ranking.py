"""Customers ranked by score, summed up where the score changes: what every ranking metric and curve is read from.

Customers with the same score have no order among themselves. All sums here are therefore taken in expectation over a
random order of the tied customers, which makes each sum a straight line within a tie; no result depends on the order
of the rows.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedmarket.errors import DataError

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranking:
    """Cumulated sums from the highest score down; one entry before the first customer and one after each tie.

    Attributes:
        contacted: customers so far, (ties + 1,), from 0 to the number of customers.
        captured: responses so far, same shape.
        probability: of the customers in each tie, (ties,), decreasing.
    """

    contacted: Floats
    captured: Floats
    probability: Floats

    @property
    def customers(self) -> float:
        """Number of customers."""
        return float(self.contacted[-1])

    @property
    def responses(self) -> float:
        """Number of responses."""
        return float(self.captured[-1])

    @property
    def predicted(self) -> Floats:
        """Sum of the probabilities so far, (ties + 1,)."""
        return np.append(0.0, np.cumsum(self.probability * np.diff(self.contacted)))

    def captured_at(self, contacted: Floats | float) -> Floats:
        """Return the expected responses among the ``contacted`` (any shape, may be fractional) best customers."""
        return np.asarray(np.interp(contacted, self.contacted, self.captured), dtype=np.float64)

    def predicted_at(self, contacted: Floats | float) -> Floats:
        """Return the sum of probabilities among the ``contacted`` best customers."""
        return np.asarray(np.interp(contacted, self.contacted, self.predicted), dtype=np.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationBins:
    """Customers in bins of equal count along the score, lowest scores first; each attribute is (bins,)."""

    predicted: Floats
    observed: Floats
    count: Floats


def rank(labels: ArrayLike, probabilities: ArrayLike) -> Ranking:
    """Rank customers by probability.

    Args:
        labels: 0 or 1 (or booleans) for each customer, (n,).
        probabilities: of a response, in [0, 1], (n,).

    Raises:
        DataError: different lengths, a label other than 0 and 1, one class only, or a probability that is not a
            number in [0, 1].
    """
    outcome = checked_labels(labels)
    score = checked_scores(probabilities, customers=outcome.size)
    if not (score.min() >= 0 and score.max() <= 1):
        raise DataError("probabilities: expected numbers in [0, 1], got some outside")
    return ranked(outcome, score)


def ranked(amounts: Floats, scores: Floats) -> Ranking:
    """Return the ranking by ``scores``, (n,), whose responses are ``amounts``, (n,); both are finite and not empty."""
    order = np.argsort(-scores, kind="stable")
    ordered, captured = scores[order], np.cumsum(amounts[order])
    last_of_tie = np.append(np.flatnonzero(np.diff(ordered)), ordered.size - 1)
    return Ranking(
        contacted=np.append(0.0, last_of_tie + 1.0),
        captured=np.append(0.0, captured[last_of_tie]),
        probability=ordered[last_of_tie],
    )


def calibration_bins(ranking: Ranking, *, bins: int) -> CalibrationBins:
    """Return mean prediction and response rate in at most ``bins`` bins of equal count (up to rounding)."""
    edges = np.unique(np.round(np.linspace(0, ranking.customers, bins + 1)))
    count = np.diff(edges)
    return CalibrationBins(
        predicted=(np.diff(ranking.predicted_at(edges)) / count)[::-1],
        observed=(np.diff(ranking.captured_at(edges)) / count)[::-1],
        count=count[::-1],
    )


def checked_labels(labels: ArrayLike) -> Floats:
    """Return ``labels`` as floats, (n,).

    Raises:
        DataError: unless they are one-dimensional, 0 or 1, and both occur.
    """
    outcome = checked_vector(labels, name="labels")
    if not np.isin(outcome, (0.0, 1.0)).all():
        raise DataError("labels: expected only 0 and 1, got other values")
    if outcome.size == 0 or outcome.min() == outcome.max():
        raise DataError(f"labels: expected both classes, got {np.unique(outcome).size} in {outcome.size} rows")
    return outcome


def checked_scores(scores: ArrayLike, *, customers: int) -> Floats:
    """Return ``scores`` as floats, (customers,).

    Raises:
        DataError: unless there is one finite score for each customer.
    """
    score = checked_vector(scores, name="scores")
    if score.size != customers:
        raise DataError(f"scores: expected one for each of {customers} labels, got {score.size}")
    if not np.isfinite(score).all():
        raise DataError(f"scores: expected finite numbers, got {int((~np.isfinite(score)).sum())} that are not")
    return score


def checked_vector(values: ArrayLike, *, name: str) -> Floats:
    """Return ``values`` as floats, (n,).

    Raises:
        DataError: unless they are numbers in one dimension.
    """
    try:
        vector = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise DataError(f"{name}: expected numbers") from None
    if vector.ndim != 1:
        raise DataError(f"{name}: expected one dimension, got {vector.ndim}")
    return vector
