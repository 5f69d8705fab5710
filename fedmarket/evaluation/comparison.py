"""Arms compared over seeds: the share of AUC or Gini that an arm loses, and how sure that is.

Arms are compared in pairs: within a seed all arms are scored on the same test rows, and a bootstrap replicate
resamples those rows once for all arms, so what the test sample does to both arms cancels.

Two sources of chance are counted: the test rows (bootstrap within a seed) and everything a seed changes, namely split,
initial weights, and noise (spread between seeds). Not counted: the seeds' splits share rows of one table, so seeds are
not independent draws and the spread between them understates the spread over new tables (Nadeau and Bengio 2003).
Bounds hold for new seeds on tables like this one, and say nothing of other markets.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from fedmarket.errors import DataError
from fedmarket.evaluation.ranking import Floats, checked_labels, checked_scores
from fedmarket.evaluation.value import checked_amounts, checked_spend

HIERARCHICAL_DRAWS = 10_000
"""Draws of the bootstrap over seeds and replicates."""

Weights = NDArray[np.int32]
"""How often each row is drawn, (n, replicates)."""

_CELLS_AT_ONCE = 4_000_000
_LEVEL = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """A loss: mean over seeds, one-sided 95 % upper bound of that mean, and each seed's own loss."""

    mean: float
    upper_95: float
    per_seed: tuple[float, ...]


def bootstrap_aucs(
    labels: ArrayLike, scores_by_arm: Mapping[str, ArrayLike], *, replicates: int, rng: np.random.Generator
) -> dict[str, Floats]:
    """Return each arm's AUC on the same ``replicates`` resamples of the rows (Efron 1979), (replicates,) for an arm.

    Args:
        labels: 0 or 1 for each row, (n,).
        scores_by_arm: finite scores, (n,) for each arm; any increasing scale.
        replicates: resamples, each of n rows drawn with replacement.
        rng: data randomness.

    Raises:
        DataError: lengths differ, one class only, or a score that is not finite.

    Guarantees:
        The same rows for every arm in a replicate, and no dependence on which arms are present. A resample
        that holds one class only has no AUC and is drawn again. Ties count one half.
    """
    outcome = checked_labels(labels)
    aucs = [
        _Pairs.of_classes(checked_scores(scores, customers=outcome.size), outcome=outcome).auc
        for scores in scores_by_arm.values()
    ]
    return dict(zip(scores_by_arm, _replicated(aucs, outcome, replicates=replicates, rng=rng), strict=True))


def bootstrap_ginis(
    actual: ArrayLike, predictions_by_arm: Mapping[str, ArrayLike], *, replicates: int, rng: np.random.Generator
) -> dict[str, Floats]:
    """Return each arm's normalised Gini on the same ``replicates`` resamples of the rows, (replicates,) for an arm.

    Args:
        actual: spend of each customer, at least 0, (n,).
        predictions_by_arm: expected values, at least 0, (n,) for each arm; any increasing scale.
        replicates: resamples, each of n rows drawn with replacement.
        rng: data randomness.

    Raises:
        DataError: lengths differ, a value below zero or not finite, nobody spent, or all spent the same.

    Guarantees:
        As :func:`bootstrap_aucs`. A replicate is the ``gini`` of :func:`fedmarket.evaluation.value.value_metrics` on
        the drawn rows; a resample in which all spent the same has none and is drawn again.
    """
    spend = checked_spend(actual)
    if spend.min() == spend.max():
        raise DataError(f"actual: expected customers who differ, got one spend in {spend.size} rows")
    ginis = [
        _Pairs.of_buyers(checked_amounts(values, name="predicted", customers=spend.size), spend=spend).gini
        for values in predictions_by_arm.values()
    ]
    best = _Pairs.of_buyers(spend, spend=spend).gini
    *found, largest = _replicated([*ginis, best], spend, replicates=replicates, rng=rng)
    return {arm: gini / largest for arm, gini in zip(predictions_by_arm, found, strict=True)}


def relative_loss(
    reference: ArrayLike,
    arm: ArrayLike,
    *,
    reference_replicates: ArrayLike,
    arm_replicates: ArrayLike,
    rng: np.random.Generator,
) -> Loss:
    """Return the share of the reference's metric that the arm loses, ``1 - arm / reference``, over seeds.

    Args:
        reference: the reference's metric for each seed, (seeds,), above zero.
        arm: the arm's metric for the same seeds, (seeds,).
        reference_replicates: bootstrap replicates of the reference, (seeds, replicates).
        arm_replicates: of the arm on the same resampled rows, same shape.
        rng: data randomness.

    Returns:
        The loss. Its ``upper_95`` is the larger of two one-sided 95 % bounds of the mean: Student's t over
        seeds (skipped with one seed), which counts only what differs between seeds, and the 95th percentile of
        a hierarchical bootstrap that resamples seeds and then takes a replicate within each, which also counts
        the test rows. Neither counts that the splits of different seeds overlap (Nadeau and Bengio 2003).

    Raises:
        DataError: shapes that do not fit, values that are not finite, or a reference not above zero.
    """
    base, base_replicates, other, other_replicates = _paired(reference, arm, reference_replicates, arm_replicates)
    if not (base.min() > 0 and base_replicates.min() > 0):
        raise DataError("reference: expected values above 0")
    losses = 1 - other / base
    upper = _upper_bound(losses, 1 - other_replicates / base_replicates, level=_LEVEL, rng=rng)
    return Loss(mean=float(losses.mean()), upper_95=upper, per_seed=tuple(losses.tolist()))


def absolute_loss(
    reference: ArrayLike,
    arm: ArrayLike,
    *,
    reference_replicates: ArrayLike,
    arm_replicates: ArrayLike,
    rng: np.random.Generator,
) -> Loss:
    """Return by how much the arm's metric is below the reference's, in the metric's own points, over seeds.

    Arguments, bounds and errors are those of :func:`relative_loss`; the reference may have any sign.
    """
    base, base_replicates, other, other_replicates = _paired(reference, arm, reference_replicates, arm_replicates)
    losses = base - other
    upper = _upper_bound(losses, base_replicates - other_replicates, level=_LEVEL, rng=rng)
    return Loss(mean=float(losses.mean()), upper_95=upper, per_seed=tuple(losses.tolist()))


def mean_interval(per_seed: ArrayLike, replicates: ArrayLike, *, rng: np.random.Generator) -> tuple[float, float]:
    """Return a two-sided 95 % interval of one arm's mean over seeds.

    Each end is the outer of Student's t over seeds (skipped with one seed) and the hierarchical bootstrap; what is
    not counted is said at :func:`relative_loss`.

    Args:
        per_seed: the metric for each seed, (seeds,).
        replicates: bootstrap replicates, (seeds, replicates).
        rng: data randomness.

    Raises:
        DataError: shapes that do not fit or values that are not finite.
    """
    values, spread = _checked(per_seed, replicates, name="arm")
    level = (1 + _LEVEL) / 2
    low = -_upper_bound(-values, -spread, level=level, rng=rng)
    return low, _upper_bound(values, spread, level=level, rng=rng)


def _upper_bound(per_seed: Floats, replicates: Floats, *, level: float, rng: np.random.Generator) -> float:
    bound = float(np.quantile(_hierarchical_means(replicates, rng=rng), level))
    seeds = per_seed.size
    if seeds == 1:
        return bound
    margin = stats.t.ppf(level, seeds - 1) * per_seed.std(ddof=1) / np.sqrt(seeds)
    return max(bound, float(per_seed.mean() + margin))


def _hierarchical_means(replicates: Floats, *, rng: np.random.Generator) -> Floats:
    """Mean over resampled seeds of one replicate within each, (HIERARCHICAL_DRAWS,)."""
    seeds, count = replicates.shape
    shape = (HIERARCHICAL_DRAWS, seeds)
    return np.asarray(replicates[rng.integers(seeds, size=shape), rng.integers(count, size=shape)].mean(axis=1))


def _paired(
    reference: ArrayLike, arm: ArrayLike, reference_replicates: ArrayLike, arm_replicates: ArrayLike
) -> tuple[Floats, Floats, Floats, Floats]:
    base, base_replicates = _checked(reference, reference_replicates, name="reference")
    other, other_replicates = _checked(arm, arm_replicates, name="arm")
    if base_replicates.shape != other_replicates.shape:
        raise DataError(f"replicates: expected the same shape, got {base_replicates.shape}, {other_replicates.shape}")
    return base, base_replicates, other, other_replicates


def _checked(per_seed: ArrayLike, replicates: ArrayLike, *, name: str) -> tuple[Floats, Floats]:
    values, spread = np.asarray(per_seed, dtype=np.float64), np.asarray(replicates, dtype=np.float64)
    if values.ndim != 1 or spread.ndim != 2 or spread.shape[0] != values.size or spread.size == 0:
        raise DataError(f"{name}: expected (seeds,) and (seeds, replicates), got {values.shape} and {spread.shape}")
    if not (np.isfinite(values).all() and np.isfinite(spread).all()):
        raise DataError(f"{name}: expected finite numbers for every seed and replicate")
    return values, spread


def _replicated(
    metrics: Sequence[Callable[[Weights], Floats]], outcome: Floats, *, replicates: int, rng: np.random.Generator
) -> list[Floats]:
    """Each metric on the same resampled rows, (replicates,); a few replicates at once."""
    found = [np.empty(replicates) for _ in metrics]
    step = max(1, _CELLS_AT_ONCE // outcome.size)
    for start in range(0, replicates, step):
        stop = min(start + step, replicates)
        weights = _resample(outcome, replicates=stop - start, rng=rng)
        for values, metric in zip(found, metrics, strict=True):
            values[start:stop] = metric(weights)
    return found


def _resample(outcome: Floats, *, replicates: int, rng: np.random.Generator) -> Weights:
    """How often each row is drawn, (n, replicates); in every column outcomes differ."""
    rows = outcome.size
    weights = np.empty((replicates, rows), dtype=np.int32)
    for replicate in range(replicates):
        drawn = rng.integers(rows, size=rows)
        while outcome[drawn].min() == outcome[drawn].max():
            drawn = rng.integers(rows, size=rows)
        weights[replicate] = np.bincount(drawn, minlength=rows)
    return np.ascontiguousarray(weights.T)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pairs:
    """One arm's rows, sorted once: for each responder, how many others score below it and how many tie or below.

    For the AUC the others are those who did not respond. For the Gini they are all customers, and ``spend`` is what
    each responder spent.
    """

    responders: NDArray[np.intp]
    others: NDArray[np.intp]
    below: NDArray[np.intp]
    not_above: NDArray[np.intp]
    spend: Floats

    @classmethod
    def of_classes(cls, scores: Floats, *, outcome: Floats) -> "_Pairs":
        return cls._of(scores, outcome=outcome, others=np.flatnonzero(outcome == 0))

    @classmethod
    def of_buyers(cls, scores: Floats, *, spend: Floats) -> "_Pairs":
        return cls._of(scores, outcome=spend, others=np.arange(spend.size))

    @classmethod
    def _of(cls, scores: Floats, *, outcome: Floats, others: NDArray[np.intp]) -> "_Pairs":
        responders = np.flatnonzero(outcome > 0)
        others = others[np.argsort(scores[others], kind="stable")]
        return cls(
            responders=responders,
            others=others,
            below=np.searchsorted(scores[others], scores[responders], side="left"),
            not_above=np.searchsorted(scores[others], scores[responders], side="right"),
            spend=outcome[responders],
        )

    def auc(self, weights: Weights) -> Floats:
        """AUC of weighted rows, (replicates,), from weights (n, replicates)."""
        return self._won(weights, weights[self.responders].astype(np.float64))

    def gini(self, weights: Weights) -> Floats:
        """Gini of spend in the order of the scores, not normalised: twice the area above the diagonal."""
        return 2 * self._won(weights, weights[self.responders] * self.spend[:, None]) - 1

    def _won(self, weights: Weights, worth: Floats) -> Floats:
        """Share of all pairs that the responders win, each counted by its worth, (responders, replicates)."""
        others = np.zeros((self.others.size + 1, weights.shape[1]), dtype=np.int32)
        np.cumsum(weights[self.others], axis=0, out=others[1:])
        beaten = (others[self.below] + others[self.not_above]) / 2
        won = np.einsum("ir,ir->r", worth, beaten)
        return np.asarray(won / (worth.sum(axis=0) * others[-1]), dtype=np.float64)
