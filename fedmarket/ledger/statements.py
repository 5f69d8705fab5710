"""What stands beside an auditor's numbers: each run, what is assumed, what is not protected, what is still to ask."""

from fedmarket.ledger.findings import PartyAccount, RunAccount
from fedmarket.ledger.reading import Reading
from fedmarket.ledger.spending import observers_of, sampled_of

SAMPLED = (
    "Every row of a sampled batch is drawn on its own secret coin (Poisson sampling). If it is not, what holds is the "
    "epsilon without sampling, printed beside it."
)


def run_account(run: str, readings: list[Reading], *, listed: bool = True) -> RunAccount:
    """Return what the ledgers say of ``run``, under the plan of the first party that joined it.

    Nothing is accounted of a run that is not ``listed`` in the manifest, or is beyond the sampled mechanisms that are
    accounted: each is a finding already.
    """
    joined = [(reading, reading.joined[run][1]) for reading in readings if run in reading.joined]
    reading, first = joined[0]
    accounted = listed and sampled_of(planned.mechanism() for planned in first.plan.mechanisms) <= reading.sampled
    return RunAccount(
        run=run,
        parties=tuple(reading.name for reading, _ in joined),
        terms_hash=first.terms_hash,
        contract_hash=first.contract_hash,
        masked=first.roster_hash is not None,
        plan=first.plan.model_dump(),
        code=tuple(sorted({(statement.code.version, statement.code.hash) for _, statement in joined})),
        observers=observers_of(first.plan, masked=first.roster_hash is not None, accounted=accounted),
        models=tuple(sorted({model for reading, _ in joined for said, model in reading.released if said == run})),
        withdrawn=tuple(sorted({model for reading, _ in joined for model in reading.withdrawn})),
        private=all(statement.plan.generator == "operating-system" for _, statement in joined),
    )


def assumptions_of(runs: tuple[RunAccount, ...], *, quorum: int, parties: int) -> tuple[str, ...]:
    """Return what must be true for the verdict to mean what it says."""
    found = [
        "The keys in this bundle are the parties' and the log's own: hold the roster's hash and the log's key against "
        "copies that came another way.",
        f"Fewer than a third of the {parties} parties are dishonest: no second log then has {quorum} cosignatures.",
        "Each party drew the noise that it says it drew, and clipped as it says: no ledger can prove that.",
    ]
    for run in runs:
        colluders = run.plan["assumed_colluders"]
        shared = run.plan["mechanisms"][0]["grid"] is not None
        if shared:
            found.append(
                f"Run {run.run[:12]}: noise is shared; at least {run.plan['minimum_survivors']} parties stay in a "
                f"round, and at most {colluders} of them leave out their noise or tell it."
            )
        if not run.masked:
            found.append(f"Run {run.run[:12]}: no roster is named, so updates are taken to be seen by the server.")
    if any(mechanism["sampling"] == "poisson" for run in runs for mechanism in run.plan["mechanisms"]):
        found.append(SAMPLED)
    return tuple(found)


def not_protected_of(runs: tuple[RunAccount, ...]) -> tuple[str, ...]:
    """Return what differential privacy does not promise here, whatever the numbers."""
    found = (
        "That a company takes part, and what its ledger says: rounds, caps, times and reasons are in the open.",
        "What is true of customers in general: a good model reveals it, whether or not one is in the data.",
        "The model against a party that sends well-formed but poisoned updates.",
        "Choices made on customers' rows before the ledger was opened: contract, clip norm, number of rounds.",
    )
    if all(run.masked for run in runs):
        return found
    return (*found, "One party's noisy update from the server, where updates were not masked.")


def questions_of(
    parties: tuple[PartyAccount, ...], runs: tuple[RunAccount, ...], *, roster_known: bool, log_known: bool
) -> tuple[str, ...]:
    """Return what this bundle cannot answer and its reader should ask."""
    found = []
    if not roster_known:
        found.append("Whose keys are these? The roster's hash was not held against a copy of your own (--roster).")
    if not log_known:
        found.append("Whose log is this? Its key was not held against one that came another way (--log-key).")
    found.append("Is this the newest bundle? One made earlier is whole too: ask for a checkpoint of today.")
    found += [
        f"{party.name}, entry {change.sequence}: {change.words}. Who decided that, and is it true?"
        for party in parties
        for change in party.changes
    ]
    found += [
        f"{party.name}: {party.given_back} release(s) were given back, as the party says that nothing had left. Does "
        "the server say so too?"
        for party in parties
        if party.given_back
    ]
    if any(len(run.code) > 1 for run in runs):
        found.append("Why did the parties of a run have different code? Their hashes are not the same.")
    found.append("Were clip norm, rounds and step sizes tuned on these customers? That would spend more than is here.")
    return tuple(found)
