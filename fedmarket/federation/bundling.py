"""From ledgers and a log to what an auditor is handed; a server finds all parties' ledgers in its own log, in order."""

from collections.abc import Iterable

from fedmarket.aggregation.secagg.roster import Roster
from fedmarket.federation.logbook import Logbook, cosigned_notes
from fedmarket.ledger.bundle import MOST_CHECKPOINTS, Bundle, BundleParty, BundleRun, Manifest
from fedmarket.ledger.entries import Joined, read_entry
from fedmarket.ledger.envelope import read_envelope
from fedmarket.ledger.note import VerifierKey
from fedmarket.ledger.planned import Plan


def bundle_of_log(logbook: Logbook, runs: Iterable[BundleRun] = ()) -> Bundle:
    """Return the bundle of all runs in ``logbook``: each party's ledger as far as the server was told it.

    What a party wrote and never sent is missing; the cosigned checkpoints say how far each party saw the log.

    Args:
        logbook: the server's.
        runs: what the server knows to be assumed of them; of others it is what the first party wrote that joined.
    """
    roster, log = logbook.roster, logbook.log
    ledgers: dict[str, list[bytes]] = {member.name: [] for member in roster.members}
    listed = {run.run: run for run in runs}
    for envelope in log.envelopes:
        entry = read_entry(read_envelope(envelope).payload)
        ledgers[entry.head.party].append(envelope)
        if isinstance(entry.statement, Joined):
            listed.setdefault(entry.statement.run, assumed(entry.statement.run, entry.statement.plan))
    return bundled(
        roster,
        log_key=log.key,
        runs=(listed[run] for run in sorted(listed)),
        ledgers=(tuple(ledgers[member.name]) for member in roster.members),
        log=log.envelopes,
        checkpoints=cosigned_notes(logbook.folder),
    )


def bundled(
    roster: Roster,
    *,
    log_key: VerifierKey,
    runs: Iterable[BundleRun],
    ledgers: Iterable[tuple[bytes, ...]],
    log: tuple[bytes, ...],
    checkpoints: tuple[bytes, ...],
) -> Bundle:
    """Return the bundle of these parts: ledgers in the roster's order, and the last checkpoints that it can hold."""
    return Bundle(
        manifest=Manifest(
            suite=roster.suite,
            threshold=roster.threshold,
            minimum_survivors=roster.minimum_survivors,
            roster_hash=roster.hash.hex(),
            parties=tuple(BundleParty(name=m.name, public_key=m.public_key.hex()) for m in roster.members),
            log_key=str(log_key),
            auditors=(),
            runs=tuple(runs),
        ),
        ledgers=tuple(ledgers),
        log=log,
        checkpoints=checkpoints[-MOST_CHECKPOINTS:],
    )


def assumed(run: str, plan: Plan) -> BundleRun:
    """Return what a manifest says of a run with this plan."""
    return BundleRun(run=run, assumed_colluders=plan.assumed_colluders, minimum_survivors=plan.minimum_survivors)
