"""What a run between processes is held to: an auditor's verdict, the caps, and the numbers of a simulation."""

import shutil
from pathlib import Path

from safetensors.numpy import load_file

from fedmarket.arrays import AnyArray
from fedmarket.config import load_config
from fedmarket.errors import FederationStopped
from fedmarket.federation.rehearsal import rehearse
from fedmarket.federation.roster import load_roster
from fedmarket.flower.inprocess import RunConfig, load_apps, run_in_process
from fedmarket.flower.records import MODEL_ARRAYS
from fedmarket.ledger.bundle import read_bundle
from fedmarket.ledger.findings import Verdict
from fedmarket.ledger.verify import verify
from fedmarket.loopback.documents import Consortium

ONLY_OF_TESTS = "seeded-for-tests"
"""What an auditor rightly finds wrong with a rehearsal, and with nothing else."""


def need_verified(consortium: Consortium, bundle: Path) -> Verdict:
    """Return what an auditor with everybody's keys finds in the bundle of a run.

    Raises:
        FederationStopped: if it does not hold; that a rehearsal's noise came from a seed is no surprise.
    """
    known = load_roster(consortium.roster)
    verdict = verify(read_bundle(bundle), roster_hash=known.hash.hex(), log_key=consortium.log_key)
    wrong = [str(found) for found in verdict.findings if not (consortium.seeded and ONLY_OF_TESTS in str(found))]
    if not (verdict.roster_compared and verdict.log_key_compared):
        wrong.append("the keys were not compared")
    if not (verdict.integrity and verdict.completeness):
        wrong.append("integrity or completeness is not established")
    wrong += [
        f"{party.name} spent {party.epsilon:g} of a cap of {party.cap:g}"
        for party in verdict.parties
        if not party.epsilon <= party.cap
    ]
    if {party.name for party in verdict.parties} != set(known.names):
        wrong.append("a party's ledger is missing")
    if wrong:
        raise FederationStopped(f"{bundle}: {len(wrong)} finding(s), the first: {wrong[0]}")
    return verdict


def simulated_model(consortium: Consortium, *, app: Path) -> dict[str, AnyArray]:
    """Return the numbers of the model that a simulation in this process gives for the same documents."""
    folder = consortium.folder / "simulated"
    shutil.rmtree(folder, ignore_errors=True)
    settings = load_config(consortium.config)
    names = load_roster(consortium.roster).names
    roster = rehearse(folder, names, minimum_survivors=settings.federation.minimum_survivors)
    run_config: RunConfig = {
        "config": str(consortium.config), "changes": "", "arm": "federated_dp", "seed": settings.seeds[0], "alone": "",
        "parties": len(names), "roster": str(roster), "output": "",
    }  # fmt: skip
    model = run_in_process(load_apps(app), run_config, nodes=len(names)).model
    return {name: getattr(model, name) for name in MODEL_ARRAYS}


def need_bit_equal(model: Path, simulated: dict[str, AnyArray]) -> None:
    """Hold the model file at ``model`` against a simulation's numbers.

    Raises:
        FederationStopped: if a bit differs.
    """
    found = load_file(model)
    differing = [
        name
        for name, array in simulated.items()
        if name not in found or found[name].dtype != array.dtype or found[name].tobytes() != array.tobytes()
    ]
    if differing or set(found) != set(simulated):
        raise FederationStopped(f"{model}: other numbers than a simulation's in {', '.join(differing) or 'its names'}")
