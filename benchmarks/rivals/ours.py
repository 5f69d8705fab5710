"""Our side: ``fedmarket simulate`` for one arm and seed, in a process of its own.

It is what the command does for its released arm: read the configuration and the table, encode, search the noise with
two accountants, make identities, train through Flower's two apps with integer sums, secure aggregation, signed ledgers
and checkpoints, recalibrate, count held-out scores, and bundle the ledgers for an auditor. It leaves out the other
arms, the evaluation and the report.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from measuring import marked

from fedmarket.experiment.arms import JOINT, arm_named, terms_of
from fedmarket.experiment.market import MarketKey, open_market
from fedmarket.federation.rehearsal import bundle_of_rehearsal
from fedmarket.flower.inprocess import load_apps
from fedmarket.simulation.predictions import arm_prediction
from fedmarket.simulation.seed import rehearsed, run_arm


def train(key: MarketKey, folder: Path, *, arm_name: str = JOINT, alone: str = "") -> None:
    """Train one arm, and write what its model says of the test rows."""
    marked("imported")
    market, arm = open_market(key), arm_named(arm_name)
    marked("encoded")
    terms = terms_of(arm, market.config, market.contract, seed=key.seed)
    marked("planned")
    with rehearsed(market) as roster:
        apps = load_apps(key.config.resolve().parent)
        outcome = run_arm(key, arm, apps, alone=alone, roster=roster, on_exchange=lambda _: marked("exchange"))
        if roster and arm.holders == "parties":
            bundle_of_rehearsal(Path(roster), outcome.run, terms)
    marked("bundled")
    scores = arm_prediction(market, outcome.model, calibrated=False).response
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "scores.npy", np.asarray(scores))
    told = {"rejections": len(outcome.rejections), "epsilon": terms.plan.spent().epsilon if terms.plan.private else 0}
    (folder / "told.json").write_text(json.dumps(told), encoding="utf-8")


def main() -> None:
    """Run what the options say."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("config", type=Path)
    options.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--arm", default=JOINT)
    options.add_argument("--alone", default="", help="the party that trains, of an arm where each is on its own")
    options.add_argument("--output", type=Path, required=True)
    chosen = options.parse_args()
    key = MarketKey(config=chosen.config, changes=tuple(chosen.set), seed=chosen.seed)
    train(key, chosen.output, arm_name=chosen.arm, alone=chosen.alone)


if __name__ == "__main__":
    main()
