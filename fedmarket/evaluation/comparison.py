"""Arms compared over seeds: the share of AUC that an arm loses, and how sure that is.

Arms are compared in pairs: within a seed all arms are scored on the same test rows, and a bootstrap replicate
resamples those rows once for all arms, so what the test sample does to both arms cancels.

Two sources of chance are counted: the test rows (bootstrap within a seed) and everything a seed changes, namely split,
initial weights, and noise (spread between seeds). Not counted: the seeds' splits share rows of one table, so seeds are
not independent draws and the spread between them understates the spread over new tables (Nadeau and Bengio 2003).
Bounds hold for new seeds on tables like this one, and say nothing of other markets.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from fedmarket.errors import DataError
from fedmarket.evaluation.ranking import Floats, checked_labels, checked_scores

HIERARCHICAL_DRAWS = 10_000
"""Draws of the bootstrap over seeds and replicates."""

_CELLS_AT_ONCE = 4_000_000
_LEVEL = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """A relative loss: mean over seeds, one-sided 95 % upper bound of that mean, and each seed's own loss."""

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
    arms = {
        arm: _Pairs.of(outcome, checked_scores(scores, customers=outcome.size)) for arm, scores in scores_by_arm.items()
    }
    found = {arm: np.empty(replicates) for arm in arms}
    step = max(1, _CELLS_AT_ONCE // outcome.size)
    for start in range(0, replicates, step):
        stop = min(start + step, replicates)
        weights = _resample(outcome, replicates=stop - start, rng=rng)
        for arm, pairs in arms.items():
            found[arm][start:stop] = pairs.auc(weights)
    return found


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
    base, base_replicates = _checked(reference, reference_replicates, name="reference")
    other, other_replicates = _checked(arm, arm_replicates, name="arm")
    if base_replicates.shape != other_replicates.shape:
        raise DataError(f"replicates: expected the same shape, got {base_replicates.shape}, {other_replicates.shape}")
    if not (base.min() > 0 and base_replicates.min() > 0):
        raise DataError("reference: expected values above 0")
    losses = 1 - other / base
    upper = _upper_bound(losses, 1 - other_replicates / base_replicates, level=_LEVEL, rng=rng)
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


def _checked(per_seed: ArrayLike, replicates: ArrayLike, *, name: str) -> tuple[Floats, Floats]:
    values, spread = np.asarray(per_seed, dtype=np.float64), np.asarray(replicates, dtype=np.float64)
    if values.ndim != 1 or spread.ndim != 2 or spread.shape[0] != values.size or spread.size == 0:
        raise DataError(f"{name}: expected (seeds,) and (seeds, replicates), got {values.shape} and {spread.shape}")
    if not (np.isfinite(values).all() and np.isfinite(spread).all()):
        raise DataError(f"{name}: expected finite numbers for every seed and replicate")
    return values, spread


def _resample(outcome: Floats, *, replicates: int, rng: np.random.Generator) -> NDArray[np.int32]:
    """How often each row is drawn, (n, replicates); every column holds both classes."""
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
    """One arm's rows, sorted once: for each responder, how many others score below it and how many tie or below."""

    responders: NDArray[np.intp]
    others: NDArray[np.intp]
    below: NDArray[np.intp]
    not_above: NDArray[np.intp]

    @classmethod
    def of(cls, outcome: Floats, scores: Floats) -> "_Pairs":
        responders, others = np.flatnonzero(outcome == 1), np.flatnonzero(outcome == 0)
        others = others[np.argsort(scores[others], kind="stable")]
        return cls(
            responders=responders,
            others=others,
            below=np.searchsorted(scores[others], scores[responders], side="left"),
            not_above=np.searchsorted(scores[others], scores[responders], side="right"),
        )

    def auc(self, weights: NDArray[np.int32]) -> Floats:
        """AUC of weighted rows, (replicates,), from weights (n, replicates)."""
        others = np.zeros((self.others.size + 1, weights.shape[1]), dtype=np.int32)
        np.cumsum(weights[self.others], axis=0, out=others[1:])
        responders = weights[self.responders].astype(np.float64)
        beaten = (others[self.below] + others[self.not_above]) / 2
        won = np.einsum("ir,ir->r", responders, beaten)
        return np.asarray(won / (responders.sum(axis=0) * others[-1]), dtype=np.float64)
