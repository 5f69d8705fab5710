"""Accuracy lost against risk taken off, for each way to train: the table of this folder's README.

Each setting is kept as soon as it is measured; what was stopped goes on with the next one.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from fedmarket.attacks.rates import Interval
from fedmarket.attacks.reduction import Reduction, certified_reduction
from fedmarket.experiment.arms import JOINT, arm_named
from fedmarket.experiment.market import MarketKey, forget_markets, open_market
from fedmarket.files import write_text
from fedmarket.simulation.attack import (
    EXPOSED,
    RANDOM,
    guarantees_of,
    measured,
    measured_document,
    targets_of,
)
from fedmarket.simulation.frontier import frontier
from fedmarket.simulation.reconstruction import BASELINE, federation_of
from fedmarket.simulation.workers import prepare

ROOT = Path(__file__).resolve().parents[2]
EXPERIMENTS = {
    "bank": (ROOT / "experiments" / "bank-marketing" / "config.toml", "student"),
    "cdnow": (ROOT / "experiments" / "ltv-cdnow" / "config.toml", ""),
}
"""The experiment's document, and whose customers are attacked."""

EPSILONS = (0.5, 1.0, 2.0, 4.0, 8.0)
NOISES = ("distributed", "local")


def main() -> int:
    """Measure what the options choose, and print the table."""
    chosen = parsed()
    folder = chosen.output.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    prepare(chosen.workers)
    for name in chosen.data.split(","):
        config, watched = EXPERIMENTS[name]
        epsilons = tuple(float(one) for one in chosen.epsilons.split(","))
        say(f"{name}: accuracy")
        changes = (f"workers={chosen.workers}", f'output="{folder / name}"')
        accuracy = frontier(config, changes=changes, epsilons=epsilons, on_point=point).results
        settings = [("", None), *((noise, epsilon) for noise in chosen.noises.split(",") for epsilon in epsilons)]
        risks = Risks(folder / name / "risks.json", runs=chosen.runs)
        for noise, epsilon in settings:
            if not risks.has(noise, epsilon):
                risks.keep(noise, epsilon, risk_of(config, watched, noise, epsilon, chosen))
        rows = list(table(accuracy, risks))
        write_text(folder / name / "table.json", json.dumps(rows, indent=1) + "\n")
        print(f"\n{name}\n\n{markdown(rows)}")
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


class Risks:
    """What was measured so far, on disk."""

    def __init__(self, path: Path, *, runs: int) -> None:
        self._path, self._runs = path, runs
        self._found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

    def _key(self, noise: str, epsilon: float | None) -> str:
        return f"{noise or 'none'} {epsilon} {self._runs}"

    def has(self, noise: str, epsilon: float | None) -> bool:
        """Return whether the setting is measured."""
        return self._key(noise, epsilon) in self._found

    def keep(self, noise: str, epsilon: float | None, found: dict[str, Any]) -> None:
        """Write what was found."""
        self._found[self._key(noise, epsilon)] = found
        write_text(self._path, json.dumps(self._found, indent=1) + "\n")

    def of(self, noise: str, epsilon: float | None) -> dict[str, Any]:
        """Return what was found."""
        found: dict[str, Any] = self._found[self._key(noise, epsilon)]
        return found


def risk_of(
    config: Path, watched: str, noise: str, epsilon: float | None, chosen: argparse.Namespace
) -> dict[str, Any]:
    """Return what membership inference attains on the same targets in one setting, and what any attack could."""
    forget_markets()
    changes = [f"workers={chosen.workers}"]
    if noise:
        changes += [f"privacy.noise={noise}", f"privacy.epsilon={epsilon}"]
    market = open_market(MarketKey(config=config, changes=tuple(changes), seed=0))
    targets = targets_of(market, watched or sorted(market.names)[0], chosen.targets)
    arm = arm_named(JOINT if noise else BASELINE)
    label = f"{noise or 'no privacy'} {epsilon or ''}"
    say(f"{label}: {chosen.runs} runs")
    found = measured(market, arm, targets, runs=chosen.runs, on_attack=quarters(label))
    terms, _ = federation_of(market, arm.name)
    limits = {view: one.advantage() for view, one in guarantees_of(terms).items()} if noise else {}
    return {"measured": measured_document(found), "limits": limits, "watched": targets.watched}


def table(accuracy: dict[str, Any], risks: Risks) -> Iterator[dict[str, Any]]:
    """Yield one row for each setting: what accuracy it costs, and what an attacker gains.

    The attacker knows every row but the targets', and sees one party's updates where nothing hides them, and else the
    sums. Reductions are from the first row's, certified at 95 %.
    """
    baseline = risks.of("", None)
    before = {group: advantage(baseline, group, "informed update") for group in (EXPOSED, RANDOM)}
    plain = accuracy["without_privacy"]
    yield row_of("one party visible, no privacy", plain, baseline, "informed update", before)
    yield row_of("secure aggregation, no privacy", plain, baseline, "informed aggregate", before)
    for found in accuracy["rows"]:
        if found["mode"] in VIEWED and risks.has(found["mode"], found["epsilon"]):
            words, view = VIEWED[found["mode"]]
            risk = risks.of(found["mode"], found["epsilon"])
            yield row_of(f"{words}, epsilon {found['epsilon']:g}", found, risk, view, before)


VIEWED = {
    "distributed": ("shared noise", "informed aggregate"),
    "local": ("noise at each party", "informed update"),
}
"""What a setting is called, and what its attacker sees."""


def row_of(
    words: str, accuracy: dict[str, Any], risk: dict[str, Any], view: str, before: dict[str, Interval]
) -> dict[str, Any]:
    """Return one row of the table."""
    limit = risk["limits"].get(view, 1.0)
    row: dict[str, Any] = {"setting": words, "loss": accuracy.get("pooled"), "points": accuracy["points"]["pooled"]}
    row |= {"limit": limit, "formal": 1.0 - limit}
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
        loss = row["loss"] or row["points"]
        cells = [f"{100 * loss['mean']:.2f} +- {100 * loss['standard_error']:.2f}"]
        for group in (EXPOSED, RANDOM):
            one = row[group]
            cells.append(f"{100 * one['advantage']:.1f} ({100 * one['low']:.1f} to {100 * one['high']:.1f})")
            cells.append("-" if one["certified"] is None else f"{100 * max(one['certified'], 0.0):.0f}")
        lines.append("| " + " | ".join((row["setting"], *cells, f"{100 * row['limit']:.1f}")) + " |")
    return "\n".join(lines) + "\n"


def quarters(label: str) -> Callable[[str, float], None]:
    """Return a callback that says each quarter."""
    said = [0]

    def tell(_: str, share: float) -> None:
        if int(4 * share) > said[0]:
            said[0] = int(4 * share)
            say(f"  {label}: {share:.0%}")

    return tell


def point(done: int, of: int) -> None:
    """Say how far the accuracies are."""
    if done % 5 == 0 or done == of:
        say(f"  {done} of {of} points")


def say(text: str) -> None:
    """Say on stderr how far it is."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
