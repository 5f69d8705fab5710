"""What the seeds found, as the one document that the report and every reader start from: ``results.json``."""

import platform
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import numpy as np

from fedmarket import __version__
from fedmarket.arrays import FloatArray
from fedmarket.config import ExperimentConfig
from fedmarket.contract.schema import Contract
from fedmarket.errors import DataError
from fedmarket.evaluation import curves
from fedmarket.evaluation.comparison import bootstrap_aucs, mean_interval, relative_loss
from fedmarket.evaluation.metrics import propensity_metrics
from fedmarket.evaluation.private import private_metrics
from fedmarket.experiment.arms import ARMS, DECOMPOSITION, arm_named, layout_for, terms_of
from fedmarket.privacy.plan import PrivacyPlan
from fedmarket.simulation.seed import BOOSTED, JOINT, SeedResult
from fedmarket.simulation.statements import (
    AGGREGATION_ASSUMPTIONS,
    AGGREGATION_NOT_PROTECTED,
    ASSUMPTIONS,
    GENERATOR_WORDS,
    HYPERPARAMETERS,
    MECHANISM_WORDS,
    NOISE_ASSUMPTIONS,
    NOT_PROTECTED,
    OBSERVERS,
)

FORMAT = "fedmarket-results/1"
METRIC = "auc"
CURVE_ARMS = ("pooled_best", "pooled", JOINT)
_BOOTSTRAP = 2
"""Keeps the bootstrap's random stream apart from other streams of the same seed."""

Metrics = dict[str, float]


def results_of(
    config: ExperimentConfig, contract: Contract, seeds: list[SeedResult], *, source: str, seconds: float
) -> dict[str, Any]:
    """Return the results document; its keys are described in ``docs/reference/results.md``."""
    table = _Table(config, seeds)
    plan = terms_of(arm_named(JOINT), config, contract, seed=0).plan
    return {
        "format": FORMAT,
        "task": contract.task,
        "metric": METRIC,
        "name": config.name,
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "data": _data(seeds, source=source, features=layout_for(config, contract).width),
        "arms": {arm: table.arm(arm) for arm in ("pooled_best", *(arm.name for arm in ARMS))},
        "loss": {reference: table.loss(reference) for reference in ("pooled", "pooled_best")},
        "decomposition": table.decomposition(),
        "calibration": {"before": table.metrics_of([s.raw for s in seeds]), "after": table.arms[JOINT].metrics},
        "private_evaluation": table.private_evaluation(),
        "curves": table.curves(),
        "parties": _parties(seeds, plan),
        "privacy": {name: _spent(seeds, plan, name) for name in seeds[0].names},
        "plan": _plan(config, plan),
        "federation": _federation(seeds, config, contract),
        "not_protected": [*NOT_PROTECTED, AGGREGATION_NOT_PROTECTED[config.aggregation.secagg]],
        "assumptions": [
            GENERATOR_WORDS[plan.generator],
            NOISE_ASSUMPTIONS[config.privacy.noise],
            AGGREGATION_ASSUMPTIONS[config.aggregation.secagg],
            *ASSUMPTIONS,
        ],
        "configuration": _configuration(config),
        "versions": _versions(),
        "seconds": _seconds(seeds, total=seconds),
    }


class _Arm:
    """One arm over all seeds: AUCs, their bootstrap replicates, and metrics averaged over seeds."""

    def __init__(self, aucs: list[float], replicates: list[FloatArray], metrics: Metrics, description: str) -> None:
        self.aucs = np.array(aucs)
        self.replicates = np.stack(replicates)
        self.metrics = metrics
        self.description = description


class _Table:
    """All arms over all seeds."""

    def __init__(self, config: ExperimentConfig, seeds: list[SeedResult]) -> None:
        self._evaluation = config.evaluation
        self._seeds = seeds
        self._rng = np.random.default_rng([0, _BOOTSTRAP])
        replicates = [self._replicates(seed) for seed in seeds]
        self.arms: dict[str, _Arm] = {}
        for arm in ARMS:
            single = arm.holders != "alone"
            metrics = [self._metrics(seed, arm.name) if single else self._alone(seed, arm.name) for seed in seeds]
            self.arms[arm.name] = self._arm(metrics, [r[arm.name] for r in replicates], arm.description)
        boosted = self._arm(
            [self._metrics(seed, BOOSTED) for seed in seeds],
            [r[BOOSTED] for r in replicates],
            "gradient boosting on all rows in one place, no privacy",
        )
        # The best class is chosen on the test rows, which favours the baseline: the loss against it is not flattered.
        pooled = self.arms["pooled"]
        self._best_is_boosted = bool(boosted.aucs.mean() >= pooled.aucs.mean())
        self.arms["pooled_best"] = boosted if self._best_is_boosted else pooled

    def arm(self, name: str) -> dict[str, Any]:
        arm = self.arms[name]
        low, high = mean_interval(arm.aucs, arm.replicates, rng=self._rng)
        return {
            "description": arm.description,
            "per_seed": arm.aucs.tolist(),
            "mean": float(arm.aucs.mean()),
            "interval": [max(low, 0.0), min(high, 1.0)],
            "loss": float((1 - arm.aucs / self.arms["pooled"].aucs).mean()),
            "joint_loss": float((1 - self.arms[JOINT].aucs / arm.aucs).mean()),
            "metrics": arm.metrics,
        }

    def loss(self, reference: str) -> dict[str, Any]:
        base, arm = self.arms[reference], self.arms[JOINT]
        loss = relative_loss(
            base.aucs,
            arm.aucs,
            reference_replicates=base.replicates,
            arm_replicates=arm.replicates,
            rng=self._rng,
        )
        return {"mean": loss.mean, "upper_95": loss.upper_95, "per_seed": list(loss.per_seed)}

    def decomposition(self) -> list[dict[str, Any]]:
        base = self.arms["pooled"].aucs
        return [
            {
                "step": step,
                "from": start,
                "to": end,
                "loss": float(((self.arms[start].aucs - self.arms[end].aucs) / base).mean()),
                "words": words,
            }
            for step, start, end, words in DECOMPOSITION
        ]

    def curves(self) -> dict[str, Any]:
        """Return curves of the first seed: a mean over seeds would show no campaign that anyone could run."""
        seed = self._seeds[0]
        prices = {"contact_cost": self._evaluation.contact_cost, "response_margin": self._evaluation.response_margin}
        best = BOOSTED if self._best_is_boosted else "pooled"
        scores = {arm: seed.scores[best if arm == "pooled_best" else arm] for arm in CURVE_ARMS}
        return {
            "roc": {arm: curves.roc(seed.labels, score) for arm, score in scores.items()},
            "gains": {arm: curves.gains(seed.labels, score) for arm, score in scores.items()},
            "calibration": {
                "before": curves.calibration(seed.labels, seed.raw),
                "after": curves.calibration(seed.labels, seed.scores[JOINT]),
            },
            "profit": {arm: curves.profit(seed.labels, score, **prices) for arm, score in scores.items()},
        }

    def private_evaluation(self) -> dict[str, Any] | None:
        """Return the first seed's test metrics as a deployment would know them, and the same without noise."""
        seed = self._seeds[0]
        if seed.score_counts is None:
            return None
        try:
            noisy = private_metrics(seed.score_counts, rng=self._rng)
        except DataError:  # too few held-out customers for this noise: there is nothing to report
            return None
        exact = self._metrics(seed, JOINT) | {"response_rate": float(seed.labels.mean())}
        return {name: {**found, "exact": exact[name]} for name, found in noisy.items()}

    def metrics_of(self, scores: list[FloatArray]) -> Metrics:
        return _mean([self._metric(seed, score) for seed, score in zip(self._seeds, scores, strict=True)])

    def _arm(self, metrics: list[Metrics], replicates: list[FloatArray], description: str) -> _Arm:
        return _Arm([found[METRIC] for found in metrics], replicates, _mean(metrics), description)

    def _metric(self, seed: SeedResult, scores: FloatArray) -> Metrics:
        return propensity_metrics(
            seed.labels,
            scores,
            contact_cost=self._evaluation.contact_cost,
            response_margin=self._evaluation.response_margin,
        )

    def _metrics(self, seed: SeedResult, arm: str) -> Metrics:
        return self._metric(seed, seed.scores[arm])

    def _alone(self, seed: SeedResult, arm: str) -> Metrics:
        return _mean([self._metric(seed, scores) for scores in seed.alone[arm]], weights=_shares(seed))

    def _replicates(self, seed: SeedResult) -> dict[str, FloatArray]:
        """Return bootstrap AUCs of every arm on the same resampled rows; of a local arm, its parties' mean."""
        single = dict(seed.scores)
        for arm, scores in seed.alone.items():
            single |= {f"{arm}/{place}": score for place, score in enumerate(scores)}
        found = bootstrap_aucs(
            seed.labels,
            single,
            replicates=self._evaluation.bootstrap_replicates,
            rng=np.random.default_rng([seed.seed, _BOOTSTRAP]),
        )
        for arm in seed.alone:
            parts = [found[f"{arm}/{place}"] for place in range(len(seed.names))]
            found[arm] = np.average(parts, axis=0, weights=_shares(seed))
        return found


def _shares(seed: SeedResult) -> FloatArray:
    """Return each party's share of the test rows: what the mean over local models is weighted by."""
    return np.bincount(seed.owners, minlength=len(seed.names)) / len(seed.owners)


def _mean(found: list[Metrics], *, weights: FloatArray | None = None) -> Metrics:
    return {name: float(np.average([one[name] for one in found], weights=weights)) for name in found[0]}


def _data(seeds: list[SeedResult], *, source: str, features: int) -> dict[str, Any]:
    first = seeds[0]
    positives = sum(first.train_positives) + float(first.labels.sum())
    rows = sum(first.train_rows) + len(first.labels)
    return {
        "source": source,
        "train_rows": sum(first.train_rows),
        "test_rows": len(first.labels),
        "response_rate": positives / rows,
        "features": features,
        "bayes_optimal": _bayes_optimal(seeds),
    }


def _bayes_optimal(seeds: list[SeedResult]) -> dict[str, Any] | None:
    aucs = [_auc(seed.labels, seed.truth) for seed in seeds if seed.truth is not None]
    return {"per_seed": aucs, "mean": float(np.mean([a for a in aucs if a is not None]))} if aucs else None


def _parties(seeds: list[SeedResult], plan: PrivacyPlan) -> list[dict[str, Any]]:
    first = seeds[0]
    return [
        {
            "name": name,
            "rows": first.train_rows[place],
            "declared_rows": first.declared[place],
            "response_rate": first.train_positives[place] / first.train_rows[place],
            **_own_customers(seeds, place),
            "epsilon": _spent(seeds, plan, name)["epsilon"],
        }
        for place, name in enumerate(first.names)
    ]


def _own_customers(seeds: list[SeedResult], place: int) -> dict[str, float | None]:
    """Return the party's mean AUCs on its own test customers; null where a seed's rows hold one class."""
    found: dict[str, list[float | None]] = {"auc_alone": [], "auc_alone_dp": [], "auc_joint_dp": []}
    for seed in seeds:
        own = seed.owners == place
        found["auc_alone"].append(_auc(seed.labels[own], seed.alone["local_only"][place][own]))
        found["auc_alone_dp"].append(_auc(seed.labels[own], seed.alone["local_only_dp"][place][own]))
        found["auc_joint_dp"].append(_auc(seed.labels[own], seed.scores[JOINT][own]))
    means = {name: None if None in aucs else float(np.mean(np.array(aucs, float))) for name, aucs in found.items()}
    joint, alone = means["auc_joint_dp"], means["auc_alone"]
    return {**means, "gain": None if joint is None or alone is None else joint - alone}


def _auc(labels: Any, scores: Any) -> float | None:
    if len(np.unique(labels)) < 2:
        return None
    return float(propensity_metrics(labels, scores, contact_cost=1.0, response_margin=1.0)[METRIC])


def _spent(seeds: list[SeedResult], plan: PrivacyPlan, name: str) -> dict[str, Any]:
    """Return what a party's most expensive seed spent, by the party's own count of its releases."""
    worst = max((seed.states[name].spending.spent(plan) for seed in seeds), key=lambda spent: spent.epsilon)
    rate = plan.mechanism("update").sample_rate
    return {
        "epsilon": worst.epsilon,
        "delta": worst.delta,
        "accountants": worst.accountants,
        "sampling": "full batch" if rate == 1 else "Poisson",
        "sample_rate": rate,
    }


def _plan(config: ExperimentConfig, plan: PrivacyPlan) -> dict[str, Any]:
    return {
        "unit": plan.unit,
        "adjacency": plan.adjacency,
        "delta": plan.delta,
        "target_epsilon": config.privacy.epsilon,
        "clip_norm": config.privacy.clip_norm,
        "generator": plan.generator,
        "noise": config.privacy.noise,
        "shares": plan.shares,
        "observers": _observers(config, plan),
        "mechanisms": [
            {
                "name": mechanism.phase,
                "releases": mechanism.releases,
                "noise_multiplier": mechanism.noise_multiplier,
                "sample_rate": mechanism.sample_rate,
                "sensitivity": mechanism.sensitivity,
                "words": MECHANISM_WORDS[mechanism.phase],
            }
            for mechanism in plan.mechanisms
            if mechanism.releases
        ],
        "hyperparameters": HYPERPARAMETERS,
    }


def _observers(config: ExperimentConfig, plan: PrivacyPlan) -> list[dict[str, Any]]:
    """Return the epsilon of a whole run against each observer, by the shares of noise that each cannot know."""
    least = config.federation.minimum_survivors
    missed = {"public": least, "server": least, "party": least - 1}
    missed |= {"coalition": least - config.privacy.colluders, "bare": 1}
    if config.aggregation.secagg == "ideal":
        missed |= {"server": 1, "coalition": 1}
    return [
        {"name": name, "words": OBSERVERS[name], "epsilon": plan.epsilon_against(shares)}
        for name, shares in missed.items()
    ]


def _federation(seeds: list[SeedResult], config: ExperimentConfig, contract: Contract) -> dict[str, Any]:
    terms = terms_of(arm_named(JOINT), config, contract, seed=0)
    return {
        "secagg": terms.secagg,
        "rounds": terms.rounds,
        "exchanges_per_round": len(terms.steps),
        "messages": seeds[0].messages,
        "bytes_up_per_party": seeds[0].bytes_up,
        "void_rounds": [
            {"seed": seed.seed, "round": void.round_number, "reason": void.reason}
            for seed in seeds
            for void in seed.void_rounds
        ],
        "rejections": [
            {
                "seed": seed.seed,
                "round": rejection.round_number,
                "step": rejection.step,
                "party": rejection.party,
                "reason": rejection.reason,
            }
            for seed in seeds
            for rejection in seed.rejections
        ],
    }


def _configuration(config: ExperimentConfig) -> dict[str, Any]:
    """Return the configuration as given, without the folders of the machine that ran it."""
    document = config.model_dump(mode="json", exclude={"output"})
    document["data"]["contract"] = document["data"]["contract"].rsplit("/", 1)[-1]
    if "path" in document["data"]["source"]:
        document["data"]["source"]["path"] = document["data"]["source"]["path"].rsplit("/", 1)[-1]
    return document


def _versions() -> dict[str, str]:
    packages = ("flwr", "torch", "opacus", "dp-accounting", "cryptography", "numpy", "scikit-learn", "polars")
    return {"fedmarket": __version__, "python": platform.python_version(), **{p: version(p) for p in packages}}


def _seconds(seeds: list[SeedResult], *, total: float) -> dict[str, float]:
    """Return the wall seconds of the whole experiment, and of each arm over all seeds."""
    return {"total": total, **{arm: sum(seed.seconds[arm] for seed in seeds) for arm in seeds[0].seconds}}
