"""Whether a bundle holds: each signature, link, rule, root and number checked again, from the bundle alone.

Nobody is believed: not the server, whose log is recomputed, nor a party, whose epsilon is. Two verdicts are kept apart,
as a ledger cut at its end is intact and not complete; the third is whether what was promised is kept. Whose keys these
are a bundle cannot say: hold roster hash and log key against copies that came another way.
"""

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime

from fedmarket.attacks.measured import Measured
from fedmarket.errors import ConfigError
from fedmarket.ledger.attacked import findings_of
from fedmarket.ledger.bundle import MANIFEST, Bundle, BundleRun, hash_of_files
from fedmarket.ledger.checkpoints import last_checkpoint, quorum_of, read_checkpoints
from fedmarket.ledger.code import installed_code
from fedmarket.ledger.entries import Joined, moment
from fedmarket.ledger.findings import Evidence, Finding, Question, Verdict, clipped
from fedmarket.ledger.folding import folded
from fedmarket.ledger.logged import read_log
from fedmarket.ledger.reading import Reading, read_ledger
from fedmarket.ledger.spending import Sampled, overlap_of
from fedmarket.ledger.statements import (
    Compared,
    assumptions_of,
    not_protected_of,
    per_of,
    questions_of,
    run_account,
)

MOST_FINDINGS = 1000
"""That a verdict repeats, and lines of them."""


def verify(
    bundle: Bundle,
    *,
    roster_hash: str | None = None,
    log_key: str | None = None,
    measured: Measured | None = None,
    now: datetime | None = None,
) -> Verdict:
    """Return what ``bundle`` is worth.

    Args:
        bundle: as :func:`fedmarket.ledger.bundle.read_bundle` found it.
        roster_hash: of the auditor's own copy of the roster, in hexadecimal; None where there is none.
        log_key: the log's key as it came another way; None where it did not.
        measured: what attackers attained, as somebody wrote it down; it can refute what the ledgers say, and proves
            nothing.
        now: the time of the check, by default the machine's.

    Guarantees:
        Whatever the bundle holds, there is a verdict. It is good only if every check was made and none failed. Epsilon
        is recomputed for each reservation, and never taken from an entry.
    """
    sampled: set[Sampled] = set()
    readings = [
        Reading(place=place, name=party.name, public_key=bytes.fromhex(party.public_key), sampled=sampled)
        for place, party in enumerate(bundle.manifest.parties)
    ]
    found = [*_of_manifest(bundle, roster_hash, log_key)]
    for reading, ledger in zip(readings, bundle.ledgers, strict=True):
        found += read_ledger(reading, ledger)
    found += [*read_log(bundle, readings), *read_checkpoints(bundle, readings)]
    found += [*_of_runs(bundle, readings), *_of_models(readings)]
    parties = tuple(reading.account() for reading in readings if reading.state.opened)
    listed, joined = {one.run for one in bundle.manifest.runs}, {run for one in readings for run in one.joined}
    runs = tuple(run_account(run, readings, listed=run in listed) for run in sorted(joined))
    if measured is not None:
        found += findings_of(measured, parties, runs)
    compared = Compared.of(bundle.manifest, roster_hash=roster_hash, log_key=log_key)
    quorum, unread = quorum_of(bundle), tuple(one.name for one in readings if one.unread)
    return Verdict(
        keys=compared.words,
        roster_compared=compared.roster is not None,
        log_key_compared=compared.log_key is not None,
        evidence=_evidence(bundle, readings, now or datetime.now(UTC)),
        findings=_first(found),
        lines=_first_lines(folded(found)),
        per=per_of(parties),
        listed=len(readings),
        roster_hash=bundle.manifest.roster_hash,
        log_key=bundle.manifest.log_key,
        log_size=len(bundle.log),
        checkpoints=len(bundle.checkpoints),
        quorum=quorum,
        parties=parties,
        runs=runs,
        unread=unread,
        overlap=overlap_of(parties, listed=len(readings), unread=len(unread)),
        assumptions=assumptions_of(runs, quorum=quorum, parties=len(readings), compared=compared),
        not_protected=not_protected_of(runs),
        questions=questions_of(parties, runs, compared=compared),
        measured=measured.model_dump() if measured is not None else None,
    )


def _first(found: list[Finding]) -> tuple[Finding, ...]:
    """Return findings up to the limit, and of each question whose findings all come later how many there are."""
    later = Counter(one.question for one in found[MOST_FINDINGS:])
    more = (
        Finding(
            question=question, source=MANIFEST, what="findings", expected=f"at most {MOST_FINDINGS}",
            found=f"{number} more",
        )
        for question, number in later.items()
    )  # fmt: skip
    return (*found[:MOST_FINDINGS], *more)


def _first_lines(lines: tuple[str, ...]) -> tuple[str, ...]:
    more = len(lines) - MOST_FINDINGS
    return (*lines[:MOST_FINDINGS], f"and {more} more") if more > 0 else lines


def _evidence(bundle: Bundle, readings: list[Reading], now: datetime) -> Evidence:
    code = installed_code()
    return Evidence(
        bundle_hash=bundle.zip_hash or hash_of_files(bundle.files()),
        bundle_form="zip" if bundle.zip_hash else "files",
        checker=(code.version, code.hash),
        time=moment(now),
        checkpoint=last_checkpoint(bundle, readings),
    )


def _integrity(source: str, what: str, expected: str, found: str) -> Finding:
    return Finding(question="integrity", source=source, what=what, expected=expected, found=found)


def _of_manifest(bundle: Bundle, roster_hash: str | None, log_key: str | None) -> Iterator[Finding]:
    manifest = bundle.manifest
    try:
        if (known := manifest.roster().hash.hex()) != manifest.roster_hash:
            yield _integrity(MANIFEST, "roster_hash", known[:12], manifest.roster_hash[:12])
    except ConfigError as error:
        yield _integrity(MANIFEST, "parties", "a roster", str(error))
    if roster_hash is not None and roster_hash != manifest.roster_hash:
        yield _integrity(MANIFEST, "roster_hash, by your copy", clipped(roster_hash[:12]), manifest.roster_hash[:12])
    if log_key is not None and log_key != manifest.log_key:
        yield _integrity(MANIFEST, "log_key, by your copy", clipped(log_key), clipped(manifest.log_key))


def _of_runs(bundle: Bundle, readings: list[Reading]) -> Iterator[Finding]:
    """All parties of a run joined the same run, and the manifest assumes of it what they signed."""
    listed = {run.run: run for run in bundle.manifest.runs}
    for run in sorted({run for reading in readings for run in reading.joined} | set(listed)):
        joined = [(reading, *reading.joined[run]) for reading in readings if run in reading.joined]
        if not joined or run not in listed:
            what, there = ("run of the manifest", "joined by none") if not joined else ("run", "not in the manifest")
            yield Finding(
                question="completeness" if not joined else "integrity", source=MANIFEST, run=run, what=what,
                expected="in manifest and ledgers", found=there,
            )  # fmt: skip
        for key in ("plan", "terms_hash", "contract_hash", "roster_hash"):
            yield from _of_one_key(joined, key, run)
        unknown = sum(reading.unread and run not in reading.joined for reading in readings)
        for reading, sequence, statement in joined:
            at_most = len(joined) + unknown
            yield from _of_join(bundle, reading, sequence, statement, listed.get(run), at_most=at_most)


def _of_models(readings: list[Reading]) -> Iterator[Finding]:
    """A round starts from one model: a server that shows another to one party may learn more of it."""
    shown: dict[tuple[str, int], Counter[str]] = {}
    for reading in readings:
        for place, (_, model) in reading.models.items():
            shown.setdefault(place, Counter())[model] += 1
    for reading in readings:
        for (run, number), (sequence, model) in reading.models.items():
            (common, parties), *_ = shown[run, number].most_common(1)
            if model != common:
                yield reading.finding(
                    sequence,
                    "integrity",
                    "model_hash",
                    run=run,
                    round_number=number,
                    expected="the same at all parties in a round",
                    found=f"another than {parties} parties have",
                )


def _of_one_key(joined: list[tuple[Reading, int, Joined]], key: str, run: str) -> Iterator[Finding]:
    values = [getattr(statement, key) for _, _, statement in joined]
    if not values:
        return
    common = max(values, key=values.count)
    for (reading, sequence, _), value in zip(joined, values, strict=True):
        if value != common:
            yield reading.finding(
                sequence,
                "integrity",
                key,
                run=run,
                expected="the same at all parties of the run",
                found=f"another than {values.count(common)} parties have",
            )


def _of_join(
    bundle: Bundle, reading: Reading, sequence: int, statement: Joined, assumed: BundleRun | None, *, at_most: int
) -> Iterator[Finding]:
    """Hold what a party joined against roster and manifest; ``at_most`` so many parties are in the run.

    Those whose ledger could not be read may be among them, and nobody is to blame for what they hide.
    """
    plan = statement.plan

    def finding(question: Question, what: str, *, expected: str, found: str) -> Finding:
        return reading.finding(sequence, question, what, expected=expected, found=found, run=statement.run)

    if statement.roster_hash not in (None, bundle.manifest.roster_hash):
        yield finding(
            "integrity", "roster_hash", expected=bundle.manifest.roster_hash[:12], found=str(statement.roster_hash)[:12]
        )
    said = (plan.assumed_colluders, plan.minimum_survivors)
    if assumed and said != (there := (assumed.assumed_colluders, assumed.minimum_survivors)):
        yield finding(
            "integrity",
            "assumed colluders and minimum of survivors, of the manifest",
            expected=f"{said[0]} and {said[1]}",
            found=f"{there[0]} and {there[1]}",
        )
    if plan.mechanisms[0].grid is not None and at_most < plan.minimum_survivors:
        yield finding(
            "promise", "parties that share the noise", expected=f"at least {plan.minimum_survivors}", found=str(at_most)
        )
