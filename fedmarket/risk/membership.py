"""Membership inference by likelihood ratios: LiRA (Carlini et al. 2022), on whole federations that are run again.

Every run is a victim once and a shadow of all other runs. A target's scores in the other runs where it was in, and in
those where it was out, are taken as two Gaussians, and the victim's score by the logarithm of their ratio. Figures are
means over runs.

Why runs are counted, and not pairs of target and run: all targets of a run share its noise and its model, so decisions
on them come and go together, and an exact binomial interval of the pairs would be too narrow. The coins are
independent, but what is counted is decisions given coins. Each run gives one number between fixed bounds instead: the
share of its members that are found at a threshold that comes from other runs, and likewise the rest. These have one law
and, given Gaussians and threshold, are independent; :func:`fedmarket.risk.means.mean_of` then holds for any law and any
number of runs. As a run is also one of 63 or more that the others' Gaussians and thresholds come from, the numbers
depend on each other a little; a test shows on correlated scores that the coverage stays, and that pairs lack it.

The intervals are for these targets, this federation and this attack, over new runs. A better attack may attain more:
what no attack attains is in :mod:`fedmarket.attacks.formal`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fedmarket.arrays import FloatArray
from fedmarket.attacks.rates import Interval, auc, scores_of
from fedmarket.attacks.reduction import AlreadyLow, Reduction, certified_reduction
from fedmarket.errors import DataError
from fedmarket.risk.means import mean_of
from fedmarket.risk.shadows import Flags, Shadows, View

Variance = Literal["per-target", "global"]
"""Whose spread is used: each target's own by case, or the mean over targets, for few runs (Carlini et al. 2022)."""

RATES = (0.01, 0.001)
"""False-positive rates at which true ones are given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AtRate:
    """Both rates in a run, where a member is called whom at most ``asked`` of the other runs' non-members outscore.

    Nobody is called whose ratio is not above one: where both cases are far apart, the highest non-members are all of
    one run, the one with the widest Gaussians, and a threshold from other runs would be below that run's.

    With n such non-members the false-positive rate in a new run is about ``(asked n + 1) / (n + 1)``: with fewer than
    ``1 / asked`` it is above the one asked for, so look at both.
    """

    asked: float
    true_positive_rate: Interval
    false_positive_rate: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What an attack attains in a run, on average over runs.

    Attributes:
        auc: the chance that a member of a run outscores a non-member of the same run.
        advantage: difference of true- and false-positive rate where everybody is called a member whose ratio favours
            it. That threshold is fixed before any run: at the best one it may be more.
        at_rates: for each of :data:`RATES`.
        runs: how many.
        targets: how many.
    """

    auc: Interval
    advantage: Interval
    at_rates: tuple[AtRate, ...]
    runs: int
    targets: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reductions:
    """By how much each figure is less after than before."""

    advantage: Reduction | AlreadyLow
    at_rates: tuple[Reduction | AlreadyLow, ...]


def membership(
    shadows: Shadows, groups: Mapping[str, Flags], *, variance: Variance, confidence: float
) -> dict[str, dict[View, Figures]]:
    """Return the figures of every group of targets and every view.

    Args:
        shadows: of :func:`fedmarket.risk.shadows.shadows`.
        groups: name -> which targets are in it, (m,).
        variance: see :data:`Variance`; "global" is over the targets of all groups.
        confidence: of every interval alone.

    Raises:
        DataError: an empty group or one of another length, or a target that was nearly always in or out.
    """
    ratios = {
        view: likelihood_ratios(shadows.coins, scores, variance=variance) for view, scores in shadows.scores.items()
    }
    found: dict[str, dict[View, Figures]] = {}
    for name, chosen in groups.items():
        if chosen.shape != shadows.coins.shape[1:] or chosen.dtype != np.bool_ or not chosen.any():
            raise DataError(f"group {name}: expected some of {shadows.coins.shape[1]} targets as booleans")
        coins = shadows.coins[:, chosen]
        found[name] = {view: figures(coins, ratio[:, chosen], confidence=confidence) for view, ratio in ratios.items()}
    return found


def likelihood_ratios(coins: Flags, scores: FloatArray, *, variance: Variance) -> FloatArray:
    """Return the logarithm of each score's likelihood ratio, in over out, by the other runs' Gaussians, (R, m).

    Args:
        coins: (R, m) who was in.
        scores: (R, m).
        variance: see :data:`Variance`.

    Guarantees:
        A run's own scores and coins move none of the Gaussians that it is judged by.

    Raises:
        DataError: a target that is in, or out, in fewer than two of the other runs of some run.
    """
    centred = scores - scores.mean(axis=0)
    inside, outside = (_others(centred, mask, variance=variance) for mask in (coins, ~coins))
    floor = 1e-12 * centred.var(axis=0) + np.finfo(np.float64).tiny
    return _log_density(centred, *inside, floor) - _log_density(centred, *outside, floor)


def figures(coins: Flags, ratios: FloatArray, *, confidence: float) -> Figures:
    """Return the figures of ratios (R, m), one number for each run that has members and non-members.

    Raises:
        DataError: if no run has both.
    """
    both = coins.any(axis=1) & ~coins.all(axis=1)
    if both.sum() < 2:
        raise DataError(f"expected two runs or more with members and non-members, got {int(both.sum())}")
    coins, ratios = coins[both], ratios[both]
    areas = [
        auc(scores_of(row[own], row[~own]), confidence=confidence).estimate
        for row, own in zip(ratios, coins, strict=True)
    ]
    true, false = _rates(coins, ratios, np.zeros(len(coins)))
    return Figures(
        auc=mean_of(areas, lower=0.0, upper=1.0, confidence=confidence),
        advantage=mean_of(true - false, lower=-1.0, upper=1.0, confidence=confidence),
        at_rates=tuple(_at(coins, ratios, rate, confidence) for rate in RATES),
        runs=len(coins),
        targets=coins.shape[1],
    )


def reductions(before: Figures, after: Figures) -> Reductions:
    """Return the certified reduction of each figure between two measurements of one confidence.

    Raises:
        DataError: see :func:`fedmarket.attacks.reduction.certified_reduction`.
    """
    return Reductions(
        advantage=certified_reduction(before.advantage, after.advantage, chance=0.0),
        at_rates=tuple(
            certified_reduction(one.true_positive_rate, other.true_positive_rate, chance=one.asked)
            for one, other in zip(before.at_rates, after.at_rates, strict=True)
        ),
    )


def _others(scores: FloatArray, mask: Flags, *, variance: Variance) -> tuple[FloatArray, FloatArray]:
    """Return mean and variance of each target's scores where ``mask``, over all runs but each one, (R, m) both."""
    weights = mask.astype(np.float64)
    counts = weights.sum(axis=0) - weights
    if counts.min() < 2:
        raise DataError("expected each target in, and out, in three runs or more")
    sums = (weights * scores).sum(axis=0) - weights * scores
    squares = (weights * scores**2).sum(axis=0) - weights * scores**2
    means = sums / counts
    spreads = np.maximum(squares - counts * means**2, 0.0) / (counts - 1)
    if variance == "global":
        spreads = np.broadcast_to(spreads.mean(axis=1, keepdims=True), scores.shape)
    return means, spreads


def _log_density(scores: FloatArray, means: FloatArray, spreads: FloatArray, floor: FloatArray) -> FloatArray:
    held = np.maximum(spreads, floor)
    return np.asarray(-((scores - means) ** 2) / (2 * held) - np.log(held) / 2)


def _at(coins: Flags, ratios: FloatArray, asked: float, confidence: float) -> AtRate:
    thresholds = np.empty(len(coins))
    for run in range(len(coins)):
        others = np.delete(ratios, run, axis=0)[~np.delete(coins, run, axis=0)]
        last = len(others) - 1 - int(asked * len(others))  # so many may be above
        thresholds[run] = max(np.partition(others, last)[last], 0.0)
    true, false = _rates(coins, ratios, thresholds)
    return AtRate(
        asked=asked,
        true_positive_rate=mean_of(true, lower=0.0, upper=1.0, confidence=confidence),
        false_positive_rate=mean_of(false, lower=0.0, upper=1.0, confidence=confidence),
    )


def _rates(coins: Flags, ratios: FloatArray, thresholds: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return each run's true- and false-positive rate, (R,), where a member is called whose ratio is above."""
    called, members = ratios > thresholds[:, None], coins.sum(axis=1)
    return (called & coins).sum(axis=1) / members, (called & ~coins).sum(axis=1) / (coins.shape[1] - members)
