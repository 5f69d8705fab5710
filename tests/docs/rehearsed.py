"""Leave behind what a bank has after a run with three other companies: ``books``, ``identity.pem``, ``bundle.zip``.

For pages that begin there; everything is the demo's, with four companies and few rounds.
"""

import shutil
from pathlib import Path

from fedmarket.config import load_config
from fedmarket.contract.schema import load_contract
from fedmarket.experiment.arms import JOINT, arm_named, terms_of
from fedmarket.experiment.market import MarketKey, open_market
from fedmarket.federation.rehearsal import bundle_of_rehearsal, rehearse
from fedmarket.flower.inprocess import load_apps, run_in_process
from fedmarket.ledger.bundle import write_bundle

DEMO, FOLDER = Path("experiments/demo"), Path("rehearsal")
CHANGES = ("seeds=[0]", "data.source.customers=2000", "data.source.parties=4", "federation.minimum_survivors=4",
           "training.rounds=2")  # fmt: skip


def main() -> None:
    """Run it in the working folder."""
    config, contract = load_config(DEMO / "config.toml", changes=CHANGES), load_contract(DEMO / "contract.toml")
    names = open_market(MarketKey(config=DEMO / "config.toml", changes=CHANGES, seed=0)).names
    roster = rehearse(FOLDER, names, minimum_survivors=4)
    told = {"config": str((DEMO / "config.toml").resolve()), "changes": "\n".join(CHANGES), "arm": JOINT, "seed": 0,
            "alone": "", "parties": len(names), "roster": str(roster.resolve()), "output": ""}  # fmt: skip
    outcome = run_in_process(load_apps(Path.cwd()), told, nodes=len(names))
    terms = terms_of(arm_named(JOINT), config, contract, seed=0)
    write_bundle(bundle_of_rehearsal(roster, outcome.run, terms), Path("bundle.zip"))
    shutil.copy(roster, "roster.toml")
    (FOLDER / "00").rename("books")
    (FOLDER / "00.pem").rename("identity.pem")


if __name__ == "__main__":
    main()
