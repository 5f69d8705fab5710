"""Accuracy lost against risk taken off, for each way to train: the table of this folder's README.

Each setting is kept as soon as it is measured; what was stopped goes on with the next one.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from fedmarket.attacks.rates import Interval
from fedmarket.attacks.reduction import Reduction, certified_reduction
from fedmarket.config import load_config
from fedmarket.evaluation.metrics import auc
from fedmarket.evaluation.ranking import rank
from fedmarket.evaluation.value import value_metrics
from fedmarket.experiment.arms import JOINT, arm_named, start_for
from fedmarket.experiment.market import MarketKey, open_market
from fedmarket.files import write_text
from fedmarket.report.attained import SEEN
from fedmarket.risk.replica import replica
from fedmarket.simulation.attack import (
    EXPOSED,
    RANDOM,
    Targets,
    guarantees_of,
    measured,
    measured_document,
    targets_of,
)
from fedmarket.simulation.measures import there
from fedmarket.simulation.predictions import arm_prediction
from fedmarket.simulation.reconstruction import BASELINE, federation_of
from fedmarket.simulation.workers import pool_of, prepare

ROOT = Path(__file__).resolve().parents[2]
EXPERIMENTS = {
    "bank": (ROOT / "experiments" / "bank-marketing" / "config.toml", "student"),
    "cdnow": (ROOT / "experiments" / "ltv-cdnow" / "config.toml", ""),
}
"""The experiment's document, and whose customers are attacked."""

Setting = tuple[str, float | None]
"""Whose noise, and which epsilon."""

PLAIN: Setting = ("", None)
"""Federated, without privacy."""

POOLED: Setting = ("pooled", None)
"""All rows in one place, without privacy."""

EPSILONS = (0.5, 1.0, 2.0, 4.0, 8.0)
NOISES = ("distributed", "local")


def main() -> int:
    """Measure what the options choose, and print the table."""
    chosen = parsed()
    epsilons = tuple(float(one) for one in chosen.epsilons.split(","))
    settings = [PLAIN, *((noise, epsilon) for noise in chosen.noises.split(",") for epsilon in epsilons)]
    prepare(chosen.workers)
    for name in chosen.data.split(","):
        config, watched = EXPERIMENTS[name]
        folder = chosen.output.resolve() / name
        folder.mkdir(parents=True, exist_ok=True)
        scores = Kept(folder / "scores.json")
        measure_scores(config, settings, scores, workers=chosen.workers)
        risks = Kept(folder / "risks.json")
        for setting in settings:
            if not risks.has(key := key_of(setting, chosen.runs)):
                risks.keep(key, risk_of(config, watched, setting, chosen))
        rows = list(table(settings, scores, risks, runs=chosen.runs))
        write_text(folder / "table.json", json.dumps(rows, indent=1) + "\n")
        print(f"\n{name}\n\n{markdown(rows)}\n{unprotected(risks.of(key_of(PLAIN, chosen.runs)))}")
    return 0


def parsed() -> argparse.Namespace:
    """Return the options."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--data", default="bank,cdnow", help=f"of {', '.join(EXPERIMENTS)}")
    options.add_argument("--epsilons", default=",".join(f"{one:g}" for one in EPSILONS))
    options.add_argument("--noises", default=",".join(NOISES))
    options.add_argument("--runs", type=int, default=64, help="of the whole federation, for each setting")
    options.add_argument("--targets", type=int, default=200)
    options.add_argument("--workers", type=int, default=2)
    options.add_argument("--output", type=Path, default=ROOT / "runs" / "risk-and-accuracy")
    return options.parse_args()


class Kept:
    """What was measured so far, on disk, by a key."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    def has(self, key: str) -> bool:
        """Return whether it is measured."""
        return key in self._found

    def keep(self, key: str, found: Any) -> None:
        """Write what was found."""
        self._found[key] = found
        write_text(self._path, json.dumps(self._found, indent=1) + "\n")

    def of(self, key: str) -> Any:
        """Return what was found."""
        return self._found[key]


def key_of(setting: Setting, runs: int) -> str:
    """Return what a setting is kept under: with so many runs of the attack, or as the seed of so many."""
    noise, epsilon = setting
    return f"{noise or 'none'} {epsilon} {runs}"


def changes_of(setting: Setting) -> tuple[str, ...]:
    """Return what a setting changes in the experiment's document."""
    noise, epsilon = setting
    return () if epsilon is None else (f"privacy.noise={noise}", f"privacy.epsilon={epsilon}")


def measure_scores(config: Path, settings: list[Setting], scores: Kept, *, workers: int) -> None:
    """Keep AUC or Gini on test rows of every setting, and of all rows in one place, for each of the experiment's seeds.

    Models are those of runs in memory, which are the same to the last bit as through Flower, masked and with ledgers.
    """
    seeds = load_config(config).seeds
    tasks = [(config, setting, seed) for seed in seeds for setting in (POOLED, *settings)]
    waiting = [task for task in tasks if not scores.has(key_of(task[1], task[2]))]
    say(f"{config.parent.name}: {len(waiting)} models for accuracy")
    with pool_of(workers) if workers > 1 else nullcontext() as pool:
        for (_, setting, seed), found in zip(waiting, (pool.map if pool else map)(score_of, waiting), strict=True):
            scores.keep(key_of(setting, seed), found)


def score_of(task: tuple[Path, Setting, int]) -> float:
    """Return AUC or Gini of one model."""
    config, setting, seed = task
    market = open_market(MarketKey(config=config, changes=changes_of(setting), seed=seed))
    arm = "pooled" if setting == POOLED else BASELINE if setting == PLAIN else JOINT
    terms, parties = federation_of(market, arm)
    said = arm_prediction(market, replica(terms, parties, start=start_for(market.config, market.contract)).model)
    rows, population = market.test_rows, market.population
    if said.response is not None:
        return auc(rank(population.labels[rows], said.response))
    spent = there(population.spent)[rows]
    return value_metrics(spent, there(said.value), purchase_probability=said.purchase)["gini"]


def risk_of(config: Path, watched: str, setting: Setting, chosen: argparse.Namespace) -> dict[str, Any]:
    """Return what membership inference attains on the same targets in one setting, and what any attack could."""
    noise, epsilon = setting
    changes = (f"workers={chosen.workers}", *changes_of(setting))
    market = open_market(MarketKey(config=config, changes=changes, seed=0))
    targets = same_targets(config, watched, chosen.targets)
    arm = arm_named(JOINT if noise else BASELINE)
    label = f"{noise or 'no privacy'} {epsilon or ''}"
    say(f"{label}: {chosen.runs} runs")
    found = measured(market, arm, targets, runs=chosen.runs, on_attack=quarters(label))
    terms, _ = federation_of(market, arm.name)
    limits = {view: one.advantage() for view, one in guarantees_of(terms).items()} if noise else {}
    return {"measured": measured_document(found), "limits": limits, "watched": targets.watched}


@lru_cache(maxsize=1)
def same_targets(config: Path, watched: str, count: int) -> Targets:
    """Return the customers that are attacked in all settings."""
    market = open_market(MarketKey(config=config, changes=(), seed=0))
    return targets_of(market, watched or sorted(market.names)[0], count)


def table(settings: list[Setting], scores: Kept, risks: Kept, *, runs: int) -> Iterator[dict[str, Any]]:
    """Yield one row for each setting: what accuracy it costs, and what an attacker gains.

    The attacker knows every row but the targets', and sees one party's updates where nothing hides them, and else the
    sums. Reductions are from the first row's, certified at 95 %.
    """
    baseline = risks.of(key_of(PLAIN, runs))
    before = {group: advantage(baseline, group, "informed update") for group in (EXPOSED, RANDOM)}
    plain = lost(scores, PLAIN)
    yield row_of("one party visible, no privacy", plain, baseline, "informed update", before)
    yield row_of("secure aggregation, no privacy", plain, baseline, "informed aggregate", before)
    for setting in settings:
        noise, epsilon = setting
        if noise:
            words, view = VIEWED[noise]
            risk = risks.of(key_of(setting, runs))
            yield row_of(f"{words}, epsilon {epsilon:g}", lost(scores, setting), risk, view, before)


VIEWED = {
    "distributed": ("shared noise", "informed aggregate"),
    "local": ("noise at each party", "informed update"),
}
"""What a setting is called, and what its attacker sees."""


def lost(scores: Kept, setting: Setting) -> dict[str, float]:
    """Return which share of the same model's score on all rows without privacy is lost, over seeds."""
    pooled, found = [], []
    while scores.has(key_of(setting, len(found))):
        pooled.append(scores.of(key_of(POOLED, len(found))))
        found.append(scores.of(key_of(setting, len(found))))
    losses = 1.0 - np.array(found) / np.array(pooled)
    return {"mean": float(losses.mean()), "standard_error": float(losses.std(ddof=1) / np.sqrt(len(losses)))}


def row_of(
    words: str, loss: dict[str, float], risk: dict[str, Any], view: str, before: dict[str, Interval]
) -> dict[str, Any]:
    """Return one row of the table."""
    limit = risk["limits"].get(view, 1.0)
    row: dict[str, Any] = {"setting": words, "loss": loss, "limit": limit}
    for group, first in before.items():
        found = advantage(risk, group, view)
        after = replace(found, high=max(min(found.high, limit), found.estimate))
        cut = certified_reduction(first, after, chance=0.0)
        certified = cut.certified if isinstance(cut, Reduction) else None
        row[group] = {"advantage": found.estimate, "low": found.low, "high": found.high, "certified": certified}
    return row


def advantage(risk: dict[str, Any], group: str, view: str) -> Interval:
    """Return the advantage that was measured."""
    return Interval(**risk["measured"][group][view]["advantage"])


def markdown(rows: list[dict[str, Any]]) -> str:
    """Return the table as the README has it."""
    head = (
        "| setting | accuracy lost, % | advantage, exposed, % | certified, % | advantage, random, % | certified, % "
        "| any attack, at most, % |"
    )
    lines = [head, "|---|---|---|---|---|---|---|"]
    for row in rows:
        cells = [f"{100 * row['loss']['mean']:.2f} +- {100 * row['loss']['standard_error']:.2f}"]
        for group in (EXPOSED, RANDOM):
            one = row[group]
            cells.append(f"{100 * one['advantage']:.1f} ({100 * one['low']:.1f} to {100 * one['high']:.1f})")
            cells.append("already low" if one["certified"] is None else certain(one["certified"]))
        lines.append("| " + " | ".join((row["setting"], *cells, f"{100 * row['limit']:.1f}")) + " |")
    return "\n".join(lines) + "\n"


def certain(certified: float) -> str:
    """Return a certified reduction in percent, never rounded up."""
    return f"{max(math.floor(100 * certified + 1e-9), 0)}"


def unprotected(baseline: dict[str, Any]) -> str:
    """Return what is attained without privacy by what is seen, as a table: most attackers know less than other rows."""
    lines = ["| seen, without privacy | advantage, exposed, % | advantage, random, % |", "|---|---|---|"]
    for view, words in SEEN.items():
        cells = [said(advantage(baseline, group, view)) for group in (EXPOSED, RANDOM)]
        lines.append("| " + " | ".join((words, *cells)) + " |")
    return "\n".join(lines) + "\n"


def said(one: Interval) -> str:
    """Return an advantage with its interval, in percent."""
    return f"{100 * one.estimate:.1f} ({100 * one.low:.1f} to {100 * one.high:.1f})"


def quarters(label: str) -> Callable[[str, float], None]:
    """Return a callback that says each quarter."""
    said = [0]

    def tell(_: str, share: float) -> None:
        if int(4 * share) > said[0]:
            said[0] = int(4 * share)
            say(f"  {label}: {share:.0%}")

    return tell


def say(text: str) -> None:
    """Say on stderr how far it is."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
