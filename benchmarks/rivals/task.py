"""The task that both sides of ``benchmarks/whole.py`` are given: the bank experiment, cut to what a rival can do too.

Twelve parties by job, logistic regression on the rows as the contract encodes them, clip and noise of our plan, plain
steps: no scaling of columns, the last iterate. So both sides do the same arithmetic. The rivals get their rows encoded,
in one file; ours reads the public table and encodes it.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedmarket.experiment.arms import JOINT, arm_named, terms_of
from fedmarket.experiment.market import MarketKey, open_market

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "experiments" / "bank-marketing" / "config.toml"

PLAIN = (
    "training.noise_walk=0.0",
    "training.scaled=false",
    "training.weight_decay=0.0",
    "training.average_after=0.999",
)
"""What turns our schedule into plain steps whose last iterate is released."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What is trained.

    Attributes:
        rounds: exchanges with every party.
        steps: gradient steps of a party in each, every one on a sample of ``1 / steps`` of its rows.
        rate: of these steps; the server takes the mean of the parties' models, weighted by their rows.
        momentum: of the server.
        noise: ``local``, each party's enough alone, or ``distributed``, shares of it.
        secagg: ``secure`` or ``ideal``, the sum in the open.
    """

    rounds: int
    steps: int
    rate: float
    momentum: float = 0.0
    noise: str = "local"
    secagg: str = "secure"
    seed: int = 0

    @property
    def changes(self) -> tuple[str, ...]:
        """The task as changes to the bank experiment."""
        return (
            *PLAIN,
            f"training.rounds={self.rounds}",
            f"training.local_steps={self.steps}",
            f"training.local_learning_rate={self.rate}",
            f"training.learning_rate={self.rate}",
            f"training.momentum={self.momentum}",
            f"privacy.noise={self.noise}",
            f"privacy.sample_rate={1.0 / self.steps}",
            f"aggregation.secagg={self.secagg}",
        )

    @property
    def key(self) -> MarketKey:
        """The market of the task."""
        return MarketKey(config=CONFIG, changes=self.changes, seed=self.seed)


def prepare(task: Task, folder: Path) -> dict[str, Any]:
    """Write what a rival reads, ``task.json`` and ``rows.npz``, and return the former."""
    market = open_market(task.key)
    terms = terms_of(arm_named(JOINT), market.config, market.contract, seed=task.seed)
    update = terms.plan.mechanism("update")
    document = {
        "rounds": task.rounds,
        "steps": task.steps,
        "rate": task.rate,
        "momentum": task.momentum,
        "width": terms.width,
        "parties": list(market.names),
        "clip_norm": update.clip_norm,
        "noise_multiplier": update.noise_multiplier,
        "rows": int(sum(len(market.deal.train[name]) for name in market.names)),
        "seed": task.seed,
    }
    arrays = {"test": market.features[market.test_rows], "labels": market.population.labels[market.test_rows]}
    for place, name in enumerate(market.names):
        rows = market.deal.train[name]
        arrays |= {f"features_{place}": market.features[rows], f"targets_{place}": market.population.targets[rows, 0]}
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "rows.npz", **arrays)
    (folder / "task.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return document
