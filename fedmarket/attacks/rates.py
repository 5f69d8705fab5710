"""What an attack attains, from its scores of members and of non-members, with intervals that hold for finite samples.

A customer is called a member where the score reaches a threshold; higher scores mean more likely a member, and tied
scores are called alike. Members and non-members are taken as two independent samples of customers, given the model: the
intervals speak of new customers of the same kind and the same model. Scores of one customer under several models are no
independent sample, and the same customers with and without training are no two.

Why each interval is valid:

* rates at a threshold that was chosen on other data are binomial: Clopper and Pearson (1934);
* the true-positive rate at a false-positive rate: order statistics of the non-members bound the threshold from both
  sides, and the members, who took no part in that, are counted there (Clopper and Pearson again); both may err, so each
  has half of the error. This is the split that is needed, as the two samples are split already;
* the advantage of the best threshold: all thresholds at once are within the band of Dvoretzky, Kiefer and Wolfowitz
  with the constant of Massart (1990), one for each sample. At a threshold chosen on other data, :func:`advantage_at`
  is tighter;
* the area under the curve has no exact interval: :func:`auc` gives the bound of Hoeffding (1963, section 5), which
  holds and is wide, :func:`bootstrap_auc` a narrow one that holds for many customers only.

For a subset of customers, say those of many purchases, take :meth:`Scores.among` first; everything above then holds for
customers of that subset, if it was chosen without looking at scores. Several subsets are several intervals.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import betaincinv
from scipy.stats import binom, rankdata

from fedmarket.arrays import FloatArray
from fedmarket.errors import DataError

Method = Literal[
    "clopper-pearson", "order-statistics", "dvoretzky-kiefer-wolfowitz", "hoeffding", "betting", "bootstrap"
]
"""How an interval was made; all but the bootstrap hold for every number of customers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """An estimate, and a two-sided interval; each end alone is exceeded with half of ``1 - confidence`` at most."""

    estimate: float
    low: float
    high: float
    confidence: float
    method: Method


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """An attack's scores of members (n,) and non-members (k,); make it with :func:`scores_of`, which checks."""

    members: FloatArray
    nonmembers: FloatArray

    def among(self, *, members: ArrayLike, nonmembers: ArrayLike) -> "Scores":
        """Return the scores of a subset of customers, given as one boolean for each.

        Raises:
            DataError: masks of another length or kind, or that leave no member or no non-member.
        """
        return Scores(
            members=_masked(self.members, members, name="members"),
            nonmembers=_masked(self.nonmembers, nonmembers, name="nonmembers"),
        )

    def halves(self, rng: np.random.Generator) -> tuple["Scores", "Scores"]:
        """Return two random halves, one to choose a threshold on and one to measure it.

        Raises:
            DataError: fewer than two members or non-members.
        """
        if min(self.members.size, self.nonmembers.size) < 2:
            raise DataError("halves: expected two members and two non-members at least")
        members, nonmembers = rng.permutation(self.members), rng.permutation(self.nonmembers)
        cut, other = members.size // 2, nonmembers.size // 2
        return (
            Scores(members=members[:cut], nonmembers=nonmembers[:other]),
            Scores(members=members[cut:], nonmembers=nonmembers[other:]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Roc:
    """The observed curve from (0, 0) to (1, 1): rates of scores that reach each threshold, (thresholds,).

    Thresholds fall; the first is infinity, where nobody is called a member.
    """

    thresholds: FloatArray
    false_positive_rate: FloatArray
    true_positive_rate: FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Both rates at one threshold."""

    threshold: float
    true_positive_rate: Interval
    false_positive_rate: Interval


def scores_of(members: ArrayLike, nonmembers: ArrayLike) -> Scores:
    """Return checked scores.

    Raises:
        DataError: unless both are numbers in one dimension, finite, and not empty.
    """
    return Scores(members=_checked(members, name="members"), nonmembers=_checked(nonmembers, name="nonmembers"))


def roc(scores: Scores) -> Roc:
    """Return the observed curve, one point for each distinct score.

    >>> curve = roc(scores_of([3.0, 2.0], [2.0, 1.0]))
    >>> curve.false_positive_rate.tolist(), curve.true_positive_rate.tolist()
    ([0.0, 0.0, 0.5, 1.0], [0.0, 0.5, 1.0, 1.0])
    """
    thresholds = np.append(np.inf, np.unique(np.concatenate([scores.members, scores.nonmembers]))[::-1])
    return Roc(
        thresholds=thresholds,
        false_positive_rate=_reaching(scores.nonmembers, thresholds),
        true_positive_rate=_reaching(scores.members, thresholds),
    )


def auc(scores: Scores, *, confidence: float) -> Interval:
    """Return the chance that a member outscores a non-member, a tie counting one half, with Hoeffding's bound.

    >>> auc(scores_of([3.0, 2.0], [2.0, 1.0]), confidence=0.95).estimate
    0.875
    """
    fewer = min(scores.members.size, scores.nonmembers.size)
    margin = math.sqrt(math.log(2 / _error(confidence)) / (2 * fewer))
    return _around(_area(scores), margin=margin, confidence=confidence, method="hoeffding")


def bootstrap_auc(scores: Scores, *, confidence: float, replicates: int, rng: np.random.Generator) -> Interval:
    """Return the same chance with a percentile interval of resampled members and non-members (Efron 1979).

    It holds for many customers only, and is a point where the samples do not overlap: certify nothing with it.

    Raises:
        DataError: fewer than one replicate.
    """
    if not replicates >= 1:
        raise DataError(f"replicates: expected 1 or more, got {replicates}")
    tail = _error(confidence) / 2
    areas = [
        _area(
            Scores(
                members=rng.choice(scores.members, scores.members.size),
                nonmembers=rng.choice(scores.nonmembers, scores.nonmembers.size),
            )
        )
        for _ in range(replicates)
    ]
    low, high = np.quantile(areas, [tail, 1 - tail]).tolist()
    return Interval(estimate=_area(scores), low=low, high=high, confidence=confidence, method="bootstrap")


def tpr_at_fpr(scores: Scores, *, false_positive_rate: float, confidence: float) -> Interval:
    """Return the largest true-positive rate of any threshold whose false-positive rate is not above the given one.

    The interval is for the rates among all customers, of whom the scores are samples. The estimate takes the observed
    rates for these, without a random choice between two thresholds. "Above the j-th highest of k non-members" flags
    more of them all than fpr with probability ``P(Bin(k, fpr) < j)`` at most, and flags all that any allowed threshold
    flags, but with probability ``P(Bin(k, fpr) >= j)``: the largest j for which the first is small gives the lower end,
    the smallest for which the second is small the upper end.

    Guarantees:
        Below the lower end with probability ``(1 - confidence) / 2`` at most, and above the upper end likewise, for
        every law of the scores, ties included. With fewer than about ``ln(4 / (1 - confidence)) / fpr`` non-members
        nothing bounds the threshold from above, and the lower end is 0.

    Raises:
        DataError: a rate or confidence outside (0, 1).

    >>> found = tpr_at_fpr(scores_of([5.0] * 40, range(400)), false_positive_rate=0.01, confidence=0.95)
    >>> found.estimate, found.low
    (0.0, 0.0)
    """
    fpr, each = _share(false_positive_rate, name="false_positive_rate"), _error(confidence) / 4
    others = np.sort(scores.nonmembers)[::-1]
    count = others.size
    chance = binom.sf(np.arange(count), count, fpr)  # P(Bin(k, fpr) >= j) for j = 1, 2, ...
    safe, loose = int(np.sum(chance >= 1 - each)), int(np.sum(chance > each))
    above = int(np.sum(scores.members > others[safe - 1])) if safe else 0
    reaching = int(np.sum(scores.members > others[loose])) if loose < count else scores.members.size
    observed = roc(scores)
    estimate = observed.true_positive_rate[observed.false_positive_rate <= fpr].max()
    return Interval(
        estimate=float(estimate),
        low=_clopper_pearson(above, scores.members.size, each)[0],
        high=_clopper_pearson(reaching, scores.members.size, each)[1],
        confidence=confidence,
        method="order-statistics",
    )


def threshold_for(nonmembers: ArrayLike, *, false_positive_rate: float) -> float:
    """Return the lowest threshold that at most that share of these non-members reach; infinity if there is none.

    Raises:
        DataError: scores that are no finite numbers, or a rate outside (0, 1).
    """
    others, fpr = _checked(nonmembers, name="nonmembers"), _share(false_positive_rate, name="false_positive_rate")
    thresholds = np.unique(others)
    return float(np.min(thresholds[_reaching(others, thresholds) <= fpr], initial=math.inf))


def best_threshold(scores: Scores) -> float:
    """Return the threshold of the largest observed advantage, the highest of these; measure it on other scores."""
    curve = roc(scores)
    return float(curve.thresholds[np.argmax(curve.true_positive_rate - curve.false_positive_rate)])


def rates_at(scores: Scores, *, threshold: float, confidence: float) -> Rates:
    """Return both rates at a threshold chosen on other data, each with its own exact interval.

    Raises:
        DataError: a threshold that is no number, or a confidence outside (0, 1).
    """
    if math.isnan(threshold):
        raise DataError("threshold: expected a number, got NaN")
    return Rates(
        threshold=threshold,
        true_positive_rate=_binomial(scores.members >= threshold, confidence),
        false_positive_rate=_binomial(scores.nonmembers >= threshold, confidence),
    )


def advantage(scores: Scores, *, confidence: float) -> Interval:
    """Return the largest difference of true- and false-positive rate over all thresholds (Yeom et al. 2018).

    The interval is for the largest difference among all customers; the observed one is above it on average.

    Guarantees:
        As :func:`tpr_at_fpr`, for every law of the scores. Each end errs only if one of two one-sided bands does, which
        have a quarter of the error each.
    """
    each = _error(confidence) / 4
    margin = sum(math.sqrt(math.log(1 / each) / (2 * size)) for size in (scores.members.size, scores.nonmembers.size))
    curve = roc(scores)
    observed = float(np.max(curve.true_positive_rate - curve.false_positive_rate))
    return _around(observed, margin=margin, confidence=confidence, method="dvoretzky-kiefer-wolfowitz")


def advantage_at(scores: Scores, *, threshold: float, confidence: float) -> Interval:
    """Return the difference of both rates at a threshold chosen on other data (:meth:`Scores.halves`).

    Guarantees:
        An end errs only if one of two exact bounds does, which have a quarter of the error each. The lower end bounds
        the advantage of the best threshold too; the upper end does not.

    Raises:
        DataError: see :func:`rates_at`.
    """
    found = rates_at(scores, threshold=threshold, confidence=1 - _error(confidence) / 2)
    true, false = found.true_positive_rate, found.false_positive_rate
    return Interval(
        estimate=true.estimate - false.estimate,
        low=true.low - false.high,
        high=true.high - false.low,
        confidence=confidence,
        method="clopper-pearson",
    )


def _area(scores: Scores) -> float:
    members, others = scores.members.size, scores.nonmembers.size
    ranks = rankdata(np.concatenate([scores.members, scores.nonmembers]))[:members]
    return float((ranks.sum() - members * (members + 1) / 2) / (members * others))


def _reaching(scores: FloatArray, thresholds: FloatArray) -> FloatArray:
    """Return the share of ``scores`` at or above each threshold."""
    below = np.searchsorted(np.sort(scores), thresholds, side="left")
    return np.asarray((scores.size - below) / scores.size, dtype=np.float64)


def _binomial(called: np.ndarray[tuple[int, ...], np.dtype[np.bool_]], confidence: float) -> Interval:
    count = int(called.sum())
    low, high = _clopper_pearson(count, called.size, _error(confidence) / 2)
    return Interval(estimate=count / called.size, low=low, high=high, confidence=confidence, method="clopper-pearson")


def _clopper_pearson(count: int, size: int, error: float) -> tuple[float, float]:
    """Return both bounds of a binomial chance, each of which errs with ``error`` at most."""
    low = 0.0 if count == 0 else float(betaincinv(count, size - count + 1, error))
    high = 1.0 if count == size else float(betaincinv(count + 1, size - count, 1 - error))
    return low, high


def _around(estimate: float, *, margin: float, confidence: float, method: Method) -> Interval:
    """Return the interval of a quantity that lies in [0, 1]."""
    low, high = max(estimate - margin, 0.0), min(estimate + margin, 1.0)
    return Interval(estimate=estimate, low=low, high=high, confidence=confidence, method=method)


def _checked(values: ArrayLike, *, name: str) -> FloatArray:
    try:
        vector = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise DataError(f"{name}: expected numbers") from None
    if vector.ndim != 1 or not vector.size:
        raise DataError(f"{name}: expected scores in one dimension, got shape {vector.shape}")
    if not np.isfinite(vector).all():
        raise DataError(f"{name}: expected finite numbers, got {int((~np.isfinite(vector)).sum())} that are not")
    return vector


def _masked(values: FloatArray, mask: ArrayLike, *, name: str) -> FloatArray:
    chosen = np.asarray(mask)
    if chosen.dtype != np.bool_ or chosen.shape != values.shape:
        raise DataError(f"{name}: expected {values.size} booleans, got shape {chosen.shape} of {chosen.dtype}")
    if not chosen.any():
        raise DataError(f"{name}: expected a subset of at least one, got none of {values.size}")
    return np.asarray(values[chosen], dtype=np.float64)


def _share(value: float, *, name: str) -> float:
    if not 0 < value < 1:
        raise DataError(f"{name}: expected a number between 0 and 1, got {value}")
    return value


def _error(confidence: float) -> float:
    return 1 - _share(confidence, name="confidence")
