"""All arms over all seeds by one measure: means with intervals, what the joint model loses, and in which step."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fedmarket.arrays import FloatArray
from fedmarket.evaluation.comparison import Loss, absolute_loss, mean_interval, relative_loss
from fedmarket.experiment.arms import ARMS, DECOMPOSITION, JOINT
from fedmarket.models.prediction import Prediction
from fedmarket.simulation.measures import Measure, Metrics
from fedmarket.simulation.predictions import BOOSTED, BUYERS, PAST_SPEND, PUBLIC_START
from fedmarket.simulation.seed import SeedResult

LEARNERS = {
    BOOSTED: "gradient boosting on all rows in one place, no privacy",
    BUYERS: "BG/NBD with Gamma-Gamma spend on all rows in one place, no privacy",
}
"""Pooled learners of other classes, of which the best one is chosen."""

BESIDE = {
    "past_spend": (PAST_SPEND, "what was spent so far, times a constant"),
    "buyers": (BUYERS, LEARNERS[BUYERS]),
    "public_start": (PUBLIC_START, "where training starts: public knowledge, no customer was looked at"),
}
"""What stands beside every predicted value, with its name among the predictions."""

LEAST = {"auc": 0.0, "gini": -1.0}
"""The least value of each metric."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Arm:
    """One arm over all seeds: the measure's metric, its bootstrap replicates, and all metrics averaged over seeds."""

    values: FloatArray
    replicates: FloatArray = field(repr=False)
    metrics: Metrics
    description: str


class Table:
    """All arms over all seeds.

    Attributes:
        best: the name among the predictions of the best pooled learner of any class. It is chosen on the test rows,
            which favours the baseline: the loss against it is not flattered.
    """

    def __init__(self, measure: Measure, seeds: list[SeedResult], *, rng: np.random.Generator) -> None:
        self._measure, self._seeds, self._rng = measure, seeds, rng
        replicates = [self._replicates(seed) for seed in seeds]
        self._arms = {arm.name: self._arm(arm.name, replicates, arm.description) for arm in ARMS}
        known = set.intersection(*(set(found) for found in replicates))  # a learner need not fit every seed's customers
        others = {name: words for name, words in LEARNERS.items() if name in known}
        candidates = {"pooled": self._arms["pooled"]}
        candidates |= {name: self._arm(name, replicates, words) for name, words in others.items()}
        self.best = max(reversed(candidates), key=lambda name: float(candidates[name].values.mean()))
        self._arms["pooled_best"] = candidates[self.best]
        for key, (name, words) in BESIDE.items():
            if name in known:
                self._arms[key] = self._arm(name, replicates, words)

    def document(self) -> dict[str, Any]:
        """Return the keys ``metric, arms, loss, decomposition`` of a results document."""
        references = [name for name in ("pooled", "pooled_best", "past_spend") if name in self._arms]
        return {
            "metric": self._measure.metric,
            "arms": {name: self._shown(name) for name in ("pooled_best", *self._arms) if name in self._arms},
            "loss": {reference: self._loss(reference) for reference in references},
            "decomposition": self._decomposition(),
        }

    def metrics(self, arm: str) -> Metrics:
        """Return the arm's metrics, averaged over seeds."""
        return self._arms[arm].metrics

    def first(self, arm: str) -> Metrics:
        """Return the arm's metrics on the first seed."""
        return self._metrics(self._seeds[0], arm)

    def metrics_of(self, predictions: list[Prediction]) -> Metrics:
        """Return the metrics of one prediction a seed, averaged over seeds."""
        return _mean([self._measure.metrics(seed, one) for seed, one in zip(self._seeds, predictions, strict=True)])

    def _shown(self, name: str) -> dict[str, Any]:
        arm = self._arms[name]
        low, high = mean_interval(arm.values, arm.replicates, rng=self._rng)
        return {
            "description": arm.description,
            "per_seed": arm.values.tolist(),
            "mean": float(arm.values.mean()),
            "interval": [max(low, LEAST[self._measure.metric]), min(high, 1.0)],
            "loss": _share_lost(self._arms["pooled"].values, arm.values),
            "joint_loss": _share_lost(arm.values, self._arms[JOINT].values),
            "metrics": arm.metrics,
        }

    def _loss(self, reference: str) -> dict[str, Any]:
        base, arm = self._arms[reference], self._arms[JOINT]
        replicates = {"reference_replicates": base.replicates, "arm_replicates": arm.replicates}
        points = absolute_loss(base.values, arm.values, **replicates, rng=self._rng)
        if base.values.min() > 0 and base.replicates.min() > 0:
            share = _as_keys(relative_loss(base.values, arm.values, **replicates, rng=self._rng))
        else:  # a Gini may be at or below zero, which has no share: on few rows that may happen to a replicate alone
            mean = _share_lost(base.values, arm.values)
            per_seed = None if mean is None else (1 - arm.values / base.values).tolist()
            share = {"mean": mean, "upper_95": None, "per_seed": per_seed}
        return {**share, "points": _as_keys(points)}

    def _decomposition(self) -> list[dict[str, Any]]:
        base = self._arms["pooled"].values
        return [
            {
                "step": step,
                "from": start,
                "to": end,
                "loss": _share_lost(base, base - self._arms[start].values + self._arms[end].values),
                "words": words,
            }
            for step, start, end, words in DECOMPOSITION
        ]

    def _arm(self, name: str, replicates: list[dict[str, FloatArray]], description: str) -> _Arm:
        metrics = [self._metrics(seed, name) for seed in self._seeds]
        return _Arm(
            values=np.array([found[self._measure.metric] for found in metrics]),
            replicates=np.stack([found[name] for found in replicates]),
            metrics=_mean(metrics),
            description=description,
        )

    def _metrics(self, seed: SeedResult, name: str) -> Metrics:
        if name in seed.alone:
            return _mean([self._measure.metrics(seed, one) for one in seed.alone[name]], weights=_shares(seed))
        return self._measure.metrics(seed, seed.predictions[name])

    def _replicates(self, seed: SeedResult) -> dict[str, FloatArray]:
        """Return bootstrap replicates of every arm on the same resampled rows; of a local arm, its parties' mean."""
        single = dict(seed.predictions)
        for arm, predictions in seed.alone.items():
            single |= {f"{arm}/{place}": one for place, one in enumerate(predictions)}
        found = self._measure.replicates(seed, single)
        for arm in seed.alone:
            parts = [found[f"{arm}/{place}"] for place in range(len(seed.names))]
            found[arm] = np.average(parts, axis=0, weights=_shares(seed))
        return found


def _share_lost(reference: FloatArray, values: FloatArray) -> float | None:
    """Return the mean share of the reference that is lost; None where a reference is not above zero."""
    return float((1 - values / reference).mean()) if reference.min() > 0 else None


def _as_keys(loss: Loss) -> dict[str, Any]:
    return {"mean": loss.mean, "upper_95": loss.upper_95, "per_seed": list(loss.per_seed)}


def _shares(seed: SeedResult) -> FloatArray:
    """Return each party's share of the test rows: what the mean over local models is weighted by."""
    return np.bincount(seed.owners, minlength=len(seed.names)) / len(seed.owners)


def _mean(found: list[Metrics], *, weights: FloatArray | None = None) -> Metrics:
    return {name: float(np.average([one[name] for one in found], weights=weights)) for name in found[0]}
