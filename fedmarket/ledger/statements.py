"""What stands beside an auditor's numbers: each run, what is assumed, what is not protected, what is still to ask."""

from dataclasses import dataclass
from typing import Self

from fedmarket.ledger.bundle import Manifest
from fedmarket.ledger.findings import PartyAccount, RunAccount
from fedmarket.ledger.reading import Reading
from fedmarket.ledger.spending import observers_of, sampled_of

SAMPLED = (
    "Every row of a sampled batch is drawn on its own secret coin (Poisson sampling). If it is not, what holds is the "
    "epsilon without sampling, printed beside it."
)

ROWS = "Has each customer one row at each party? The unit is a row; a customer of k rows spends more."

_ROSTER, _LOG_KEY = "the roster", "the log's key"


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """Whether roster and log key are those that the auditor has of another source; None where that was not asked."""

    roster: bool | None
    log_key: bool | None

    @classmethod
    def of(cls, manifest: Manifest, *, roster_hash: str | None, log_key: str | None) -> Self:
        """Hold what the manifest says against the auditor's own."""
        return cls(
            roster=None if roster_hash is None else roster_hash == manifest.roster_hash,
            log_key=None if log_key is None else log_key == manifest.log_key,
        )

    @property
    def words(self) -> str:
        """One sentence, to be read before anything else."""
        held = {_ROSTER: self.roster, _LOG_KEY: self.log_key}
        if self.roster is None and self.log_key is None:
            return "NOT COMPARED with copies of your own (--roster, --log-key); all below is by the bundle's own keys"
        same, other, open_ = ([name for name, found in held.items() if found is be] for be in (True, False, None))
        said = []
        if other:
            said.append(f"{' and '.join(other)} {'are' if len(other) > 1 else 'is'} NOT what you gave")
        if same:
            said.append(
                f"{' and '.join(same)} are those you gave" if len(same) > 1 else f"{same[0]} is the one you gave"
            )
        if open_:
            option = "--roster" if open_ == [_ROSTER] else "--log-key"
            said.append(f"{open_[0]} was NOT COMPARED with a copy of your own ({option}), and is the bundle's own")
        return "; ".join(said)


def per_of(parties: tuple[PartyAccount, ...]) -> str:
    """Return what the promise is for, in words: the unit that the parties signed."""
    found = {party.per for party in parties}
    return found.pop() if len(found) == 1 else "unit that each party signed"


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


def assumptions_of(runs: tuple[RunAccount, ...], *, quorum: int, parties: int, compared: Compared) -> tuple[str, ...]:
    """Return what must be true for the verdict to mean what it says."""
    found = [
        *_assumed_of(compared),
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


def _assumed_of(compared: Compared) -> list[str]:
    """Whose keys these are: what is left to hold against another copy, and where the copies came from."""
    whose = {"roster": "the parties' own", "log_key": "the log's own"}
    options = {"roster": "the roster's hash", "log_key": "the log's key"}
    still = [name for name in whose if getattr(compared, name) is None]
    found = []
    if still:
        keys = " and ".join(whose[name] for name in still)
        what = " and ".join(options[name] for name in still)
        found.append(f"The keys in this bundle are {keys}: hold {what} against a copy that came another way.")
    if len(still) < len(whose):
        found.append("What you compared with came to you another way than the bundle, from those whose it is.")
    return found


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
    parties: tuple[PartyAccount, ...], runs: tuple[RunAccount, ...], *, compared: Compared
) -> tuple[str, ...]:
    """Return what this bundle cannot answer and its reader should ask."""
    found = []
    if compared.roster is None:
        found.append("Whose keys are these? The roster was NOT COMPARED with a copy of your own (--roster).")
    if compared.log_key is None:
        found.append("Whose log is this? Its key was NOT COMPARED with one that came another way (--log-key).")
    found.append("Is this the newest bundle? One made earlier is whole too: ask for a checkpoint of today.")
    if any(party.unit == "row" for party in parties):
        found.append(ROWS)
    found += [
        f"{party.name}, entry {change.sequence}: {change.words}. Who decided that, and is it true?"
        for party in parties
        for change in party.changes
    ]
    found += [
        f"{party.name}: {party.given_back} {'release was' if party.given_back == 1 else 'releases were'} given back, "
        "as the party says that nothing had left. Does the server say so too?"
        for party in parties
        if party.given_back
    ]
    if any(len(run.code) > 1 for run in runs):
        found.append("Why did the parties of a run have different code? Their hashes are not the same.")
    found.append("Were clip norm, rounds and step sizes tuned on these customers? That would spend more than is here.")
    return tuple(found)
