"""``frontier``: AUC or Gini against epsilon for noise at each party, noise shared between parties, and pooled DP.

Each finished run is a line of ``points.jsonl``; a sweep that was stopped goes on where it ended. The page is made from
``frontier.json``, which is made from the points.
"""

import json
from collections.abc import Callable, Iterable
from concurrent.futures import as_completed
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from fedmarket import __version__
from fedmarket.arrays import FloatArray
from fedmarket.config import ExperimentConfig, load_config
from fedmarket.contract.schema import load_contract
from fedmarket.errors import UsageError
from fedmarket.evaluation.metrics import auc
from fedmarket.evaluation.ranking import rank
from fedmarket.evaluation.value import value_metrics
from fedmarket.experiment.arms import arm_named, start_for, terms_of
from fedmarket.experiment.market import Market, MarketKey, forget_markets, open_market
from fedmarket.files import need_writable, sha256_of, write_text
from fedmarket.flower.inprocess import load_apps
from fedmarket.models.prediction import Prediction
from fedmarket.report.frontier import render_frontier
from fedmarket.simulation.measures import there
from fedmarket.simulation.predictions import (
    BOOSTED,
    BUYERS,
    PAST_SPEND,
    PUBLIC_START,
    arm_prediction,
    boosted_prediction,
    simple_predictions,
)
from fedmarket.simulation.seed import rehearsed, run_arm
from fedmarket.simulation.workers import pool_of

FORMAT = "fedmarket-frontier/2"
EPSILONS: tuple[float, ...] = (0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)

MODES = {
    "distributed": ("federated_dp", "distributed"),
    "local": ("federated_dp", "local"),
    "pooled_dp": ("pooled_dp", "distributed"),
}
"""Mode: which arm it runs and under which ``privacy.noise``."""

WITHOUT = ("pooled", "federated")
"""Arms that are run once a seed, without privacy; other learners stand beside them."""

BEST = ("pooled", BOOSTED, BUYERS)
"""Among which the best pooled learner is chosen."""

VALUE_METRICS = ("gini", "value_ratio", "decile_error")
"""What is kept of a value; the first is compared."""

Metrics = dict[str, float]
Found = dict[str, Metrics]
"""The metrics of each mode or learner at one point."""

OnPoint = Callable[[int, int], None]
"""Told how many points are done, and of how many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Frontier:
    """A finished sweep: its document and where its files are."""

    results: dict[str, Any]
    folder: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class _Item:
    """One seed at one epsilon, or without privacy where it is None."""

    config: Path
    changes: tuple[str, ...]
    seed: int
    epsilon: float | None

    @property
    def key(self) -> tuple[int, float | None]:
        return self.seed, self.epsilon


def frontier(
    config_path: Path,
    *,
    changes: tuple[str, ...] = (),
    epsilons: Iterable[float] = EPSILONS,
    on_point: OnPoint = lambda _done, _all: None,
) -> Frontier:
    """Sweep the experiment at ``config_path`` and write ``points.jsonl``, ``frontier.json`` and ``frontier.html``.

    ``privacy.epsilon`` and ``privacy.noise`` of the document are replaced by the sweep; all else holds.

    Raises:
        FedmarketError: what is wrong with documents, data or plan, or points of another experiment in the folder.
    """
    config = load_config(config_path, changes=changes)
    wanted = tuple(sorted(set(epsilons)))
    items = [
        _Item(config=config_path, changes=changes, seed=seed, epsilon=epsilon)
        for seed in config.seeds
        for epsilon in (None, *wanted)
    ]
    for item in items:
        _need_possible(item)
    folder = Path(config.output)
    need_writable(folder)
    points = _Points(folder / "points.jsonl", fingerprint=_fingerprint(config))
    waiting = [item for item in items if item.key not in points.found]
    on_point(len(items) - len(waiting), len(items))
    for item, found in _all_found(waiting, workers=min(config.workers, max(len(waiting), 1))):
        points.add(item, found)
        on_point(sum(item.key in points.found for item in items), len(items))
    results = _results(config, config_path, changes, wanted, points.found)
    write_text(folder / "frontier.json", json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    write_text(folder / "frontier.html", render_frontier(results))
    return Frontier(results=results, folder=folder)


class _Points:
    """The file of finished points; a torn last line, from a run that was stopped while writing, is dropped."""

    def __init__(self, path: Path, *, fingerprint: str) -> None:
        self.found: dict[tuple[int, float | None], Found] = {}
        self._path = path
        head = {"format": FORMAT, "experiment": fingerprint}
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
        try:
            whole = [json.loads(line) for line in lines if line.endswith("\n")]
            if whole and whole[0] != head:
                raise UsageError(
                    f"{path}: points of another experiment or version; remove it or choose another --output"
                )
            self.found = {(point["seed"], point["epsilon"]): point["found"] for point in whole[1:]}
        except (ValueError, KeyError, TypeError):
            raise UsageError(f"{path}: not a file of points; remove it or choose another --output") from None
        write_text(path, "".join(json.dumps(line) + "\n" for line in (head, *whole[1:])))

    def add(self, item: _Item, found: Found) -> None:
        self.found[item.key] = found
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"seed": item.seed, "epsilon": item.epsilon, "found": found}) + "\n")


def _all_found(items: list[_Item], *, workers: int) -> Iterable[tuple[_Item, Found]]:
    if workers == 1:
        for item in items:
            yield item, _run(item)
        return
    with pool_of(workers) as pool:
        futures = {pool.submit(_run, item): item for item in items}
        for future in as_completed(futures):
            yield futures[future], future.result()


def _run(item: _Item) -> Found:
    """Return the metrics on the common test rows of every mode at one epsilon, or of what has no privacy."""
    apps = load_apps(item.config.resolve().parent)
    if item.epsilon is None:
        plain = _key(item, item.changes)
        market = open_market(plain)
        models = {name: run_arm(plain, arm_named(name), apps).model for name in WITHOUT}
        learners = {BOOSTED: boosted_prediction(market)} | simple_predictions(market)
        arms = {name: arm_prediction(market, model) for name, model in models.items()}
        said = (arms | learners).items()
        return {name: _metrics(market, prediction) for name, prediction in said if _comparable(market, prediction)}
    found = {}
    for mode, (arm, noise) in MODES.items():
        key = _key(item, _changed(item, noise))
        with rehearsed(open_market(key)) as roster:
            outcome = run_arm(key, arm_named(arm), apps, roster=roster)
        found[mode] = _metrics(open_market(key), arm_prediction(open_market(key), outcome.model))
    return found


def _comparable(market: Market, prediction: Prediction) -> bool:
    """Return whether a learner predicts what modes are compared by: past spend tells nothing of a response."""
    return (prediction.response if market.contract.label is not None else prediction.value) is not None


def _metrics(market: Market, prediction: Prediction) -> Metrics:
    """Return what is kept of a prediction; the metric by which modes are compared comes first."""
    if market.contract.label is not None:
        return {"auc": auc(rank(market.population.labels[market.test_rows], there(prediction.response)))}
    spent = there(market.population.spent)[market.test_rows]
    found = value_metrics(spent, there(prediction.value), purchase_probability=prediction.purchase)
    return {name: found[name] for name in VALUE_METRICS}


def _changed(item: _Item, noise: str) -> tuple[str, ...]:
    return (*item.changes, f"privacy.epsilon={item.epsilon}", f"privacy.noise={noise}")


def _key(item: _Item, changes: tuple[str, ...]) -> MarketKey:
    return MarketKey(config=item.config, changes=changes, seed=item.seed)


def _need_possible(item: _Item) -> None:
    """Find now what would stop the sweep later: documents, data, parties and plans."""
    if item.epsilon is None:
        forget_markets()
        open_market(_key(item, item.changes)).check(arm_named("federated_dp"))
        return
    for arm, noise in MODES.values():
        config = load_config(item.config, changes=_changed(item, noise))
        terms_of(arm_named(arm), config, load_contract(Path(config.data.contract)), seed=item.seed)


def _fingerprint(config: ExperimentConfig) -> str:
    """Return the hash of everything that a point depends on, but seed and epsilon, which stand beside it."""
    document = config.model_dump(mode="json", exclude={"output", "seeds", "workers", "device", "start"})
    document["privacy"] = {k: v for k, v in document["privacy"].items() if k not in ("epsilon", "noise")}
    contract = load_contract(Path(config.data.contract))
    start = start_for(config, contract)
    document |= {"start": start.hash} if start else {}
    document["data"]["contract"] = contract.hash
    return sha256_of(json.dumps([__version__, document], sort_keys=True).encode())


def _results(
    config: ExperimentConfig,
    config_path: Path,
    changes: tuple[str, ...],
    epsilons: tuple[float, ...],
    points: dict[tuple[int, float | None], Found],
) -> dict[str, Any]:
    market = open_market(MarketKey(config=config_path, changes=changes, seed=config.seeds[0]))
    metric = next(iter(points[config.seeds[0], None]["pooled"]))

    def over_seeds(name: str, epsilon: float | None = None) -> dict[str, FloatArray]:
        found = [points[seed, epsilon][name] for seed in config.seeds]
        return {key: np.array([one[key] for one in found]) for key in found[0]}

    # A learner need not fit every seed's customers.
    known = [name for name in points[config.seeds[0], None] if all(name in points[seed, None] for seed in config.seeds)]
    without = {name: over_seeds(name)[metric] for name in known}
    best = max((name for name in reversed(BEST) if name in without), key=lambda name: float(without[name].mean()))
    references = {"pooled": without["pooled"], "pooled_best": without[best]}
    references |= {"past_spend": without[PAST_SPEND]} if PAST_SPEND in without else {}
    rows = [
        {"mode": mode, "epsilon": epsilon, **_compared(over_seeds(mode, epsilon), metric, references)}
        for mode in MODES
        for epsilon in epsilons
    ]
    return {
        "format": FORMAT,
        "name": config.name,
        "metric": metric,
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "source": market.population.source,
        "parties": len(market.names),
        "seeds": list(config.seeds),
        "delta": market.contract.privacy.delta,
        "unit": market.contract.privacy.unit,
        "generator": config.privacy.generator,
        "shares": config.federation.minimum_survivors - config.privacy.colluders,
        "secagg": config.aggregation.secagg,
        "epsilons": list(epsilons),
        "pooled": float(without["pooled"].mean()),
        "best": {"name": "the same model" if best == "pooled" else best, "score": float(without[best].mean())},
        "past_spend": float(without[PAST_SPEND].mean()) if PAST_SPEND in without else None,
        "public_start": float(without[PUBLIC_START].mean()) if PUBLIC_START in without else None,
        "without_privacy": _compared(over_seeds("federated"), metric, references),
        "rows": rows,
        "version": __version__,
    }


def _compared(found: dict[str, FloatArray], metric: str, references: dict[str, FloatArray]) -> dict[str, Any]:
    """Return the mean of each metric, and the relative loss and the loss in points against each reference.

    A Gini may be at or below zero, which has no share to lose: then there are points alone.
    """
    scores = found[metric]
    return {
        "score": float(scores.mean()),
        "metrics": {name: float(values.mean()) for name, values in found.items()},
        **{name: _band(1 - scores / reference) for name, reference in references.items() if reference.min() > 0},
        "points": {name: _band(reference - scores) for name, reference in references.items()},
    }


def _band(losses: Any) -> dict[str, Any]:
    """Return mean, standard error and 95 % interval of the mean by Student's t over seeds (zero width for one)."""
    count = len(losses)
    error = float(losses.std(ddof=1) / np.sqrt(count)) if count > 1 else 0.0
    reach = float(stats.t.ppf(0.975, count - 1)) * error if count > 1 else 0.0
    mean = float(losses.mean())
    return {"mean": mean, "standard_error": error, "low": mean - reach, "high": mean + reach}
