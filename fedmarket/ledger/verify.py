"""Whether a bundle holds: each signature, link, rule, root and number checked again, from the bundle alone.

Nobody is believed: not the server, whose log is recomputed, nor a party, whose epsilon is. Two verdicts are kept apart,
as a ledger cut at its end is intact and not complete; the third is whether what was promised is kept. Whose keys these
are a bundle cannot say: hold roster hash and log key against copies that came another way.
"""

from collections import Counter
from collections.abc import Iterator

from fedmarket.errors import BadMessage, ConfigError, ProtocolError
from fedmarket.ledger.bundle import LOG, MANIFEST, Bundle, BundleRun, checkpoint_name
from fedmarket.ledger.entries import Joined, read_entry
from fedmarket.ledger.envelope import read_envelope
from fedmarket.ledger.findings import Finding, Question, Verdict, clipped
from fedmarket.ledger.log import witness_key
from fedmarket.ledger.merkle import Tree
from fedmarket.ledger.note import Note, VerifierKey, read_checkpoint, read_note
from fedmarket.ledger.reading import Reading, read_ledger
from fedmarket.ledger.spending import Sampled, overlap_of
from fedmarket.ledger.statements import assumptions_of, not_protected_of, questions_of, run_account

MOST_FINDINGS = 1000


def verify(bundle: Bundle, *, roster_hash: str | None = None, log_key: str | None = None) -> Verdict:
    """Return what ``bundle`` is worth.

    Args:
        bundle: as :func:`fedmarket.ledger.bundle.read_bundle` found it.
        roster_hash: of the auditor's own copy of the roster, in hexadecimal; None where there is none.
        log_key: the log's key as it came another way; None where it did not.

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
    found += [*_of_log(bundle, readings), *_of_checkpoints(bundle, readings)]
    found += [*_of_runs(bundle, readings), *_of_models(readings)]
    if len(found) > MOST_FINDINGS:
        more = len(found) - MOST_FINDINGS
        found = found[:MOST_FINDINGS]
        found.append(_integrity(MANIFEST, "findings", f"at most {MOST_FINDINGS}", f"{more} more"))
    parties = tuple(reading.account() for reading in readings if reading.state.opened)
    listed, joined = {one.run for one in bundle.manifest.runs}, {run for one in readings for run in one.joined}
    runs = tuple(run_account(run, readings, listed=run in listed) for run in sorted(joined))
    return Verdict(
        findings=tuple(found),
        roster_hash=bundle.manifest.roster_hash,
        log_key=bundle.manifest.log_key,
        log_size=len(bundle.log),
        checkpoints=len(bundle.checkpoints),
        quorum=_quorum(bundle),
        parties=parties,
        runs=runs,
        unread=(unread := tuple(one.name for one in readings if one.broken or not one.state.size)),
        overlap=overlap_of(parties, unread=unread),
        assumptions=assumptions_of(runs, quorum=_quorum(bundle), parties=len(readings)),
        not_protected=not_protected_of(runs),
        questions=questions_of(parties, runs, roster_known=roster_hash is not None, log_known=log_key is not None),
    )


def _quorum(bundle: Bundle) -> int:
    return 2 * len(bundle.manifest.parties) // 3 + 1


def _integrity(source: str, what: str, expected: str, found: str) -> Finding:
    return Finding(question="integrity", source=source, what=what, expected=expected, found=found)


def _missing(source: str, what: str, expected: str, found: str) -> Finding:
    return Finding(question="completeness", source=source, what=what, expected=expected, found=found)


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


def _of_log(bundle: Bundle, readings: list[Reading]) -> Iterator[Finding]:
    """The log holds every entry of every ledger once, each party's in their order, and nothing else."""
    known = {
        content: (reading, sequence)
        for reading, ledger in zip(readings, bundle.ledgers, strict=True)
        for sequence, content in enumerate(ledger)
    }
    logged: dict[str, int] = Counter()
    for place, content in enumerate(bundle.log):
        if content not in known:
            yield _of_stray(bundle, readings, content, place)
            continue
        reading, sequence = known.pop(content)
        if sequence != (expected := logged[reading.name]):
            yield reading.finding(
                sequence,
                "integrity",
                "order of a party's entries in the log",
                place=place,
                expected=f"entry {expected}",
                found=f"entry {sequence}",
                source=LOG,
            )
        logged[reading.name] = sequence + 1
    for reading, sequence in known.values():
        yield reading.finding(
            sequence, "completeness", "entry of a ledger", expected="in the log", found="none", source=LOG
        )


def _of_stray(bundle: Bundle, readings: list[Reading], content: bytes, place: int) -> Finding:
    """Say what an entry of the log is that no ledger has, or has already been there: a rival, a cut, or a stranger."""
    try:
        head = read_entry(read_envelope(content).payload).head
    except ProtocolError as error:
        return Finding(
            question="integrity", source=LOG, place=place, what="entry of the log", expected="an entry of a ledger",
            found=clipped(str(error)),
        )  # fmt: skip
    owner = next((reading for reading in readings if reading.name == head.party), None)
    size = len(bundle.ledgers[owner.place]) if owner else 0
    cut = owner is not None and head.sequence >= size
    said = "none there: the ledger ends before it" if cut else "another entry of that number there, or the same twice"
    return Finding(
        question="completeness" if cut else "integrity",
        source=LOG,
        party=clipped(head.party),
        sequence=head.sequence,
        place=place,
        what="entry of the log",
        expected="in its party's ledger",
        found=said if owner else "no such party",
    )


def _of_checkpoints(bundle: Bundle, readings: list[Reading]) -> Iterator[Finding]:
    """Every checkpoint is the log's, grows, has the root of these very entries, and a quorum; the last covers all.

    All roots come from one tree, so each checkpoint continues the one before it.
    """
    log_key = VerifierKey.from_text(bundle.manifest.log_key)
    tree, places = Tree(bundle.log), {content: place for place, content in enumerate(bundle.log)}
    size, roots_hold = 0, True
    known = [
        witness_key(key) for reading in readings for key in (reading.public_key, *(key for _, key in reading.keys))
    ]
    for number, content in enumerate(bundle.checkpoints):
        source = checkpoint_name(number)
        try:
            note = read_note(content)
            note.need_signed_by(log_key)
            found = read_checkpoint(note.text, origin=log_key.name)
        except BadMessage as error:
            yield _integrity(source, "checkpoint", "one that the manifest's log key signed", clipped(str(error)))
            continue
        if number and found.size <= size:
            yield _integrity(source, "size of the log", f"more than {size}", str(found.size))
        if found.size > len(bundle.log):
            yield _missing(LOG, f"entries that {source} covers", str(found.size), str(len(bundle.log)))
        elif roots_hold and (root := tree.root(found.size)) != found.root:
            roots_hold = False
            said = f"{found.root.hex()[:12]}; later roots were not compared"
            yield _integrity(source, f"root over {found.size} entries of the log", root.hex()[:12], said)
        size = max(size, found.size)
        keys = [reading.key_at(found.size, places) for reading in readings]
        yield from _of_cosignatures(bundle, readings, note, source=source, known=known, in_force=keys)
    if size < len(bundle.log) or not bundle.checkpoints:
        yield _missing(LOG, "entries that a checkpoint covers", str(len(bundle.log)), str(size))


def _of_cosignatures(
    bundle: Bundle,
    readings: list[Reading],
    note: Note,
    *,
    source: str,
    known: list[VerifierKey],
    in_force: list[bytes],
) -> Iterator[Finding]:
    """Lines of known keys only, one each, all good; enough of them by the keys in force when the log was so long."""
    auditors = [witness_key(bytes.fromhex(key)) for key in bundle.manifest.auditors]
    try:
        good = note.cosigned((*dict.fromkeys(known), *auditors))
    except BadMessage as error:
        yield _integrity(source, "cosignatures", "good ones", clipped(str(error)))
        return
    lines = Counter(line.name for line in note.signatures)
    strange = len(note.signatures) - len(good) - 1
    if strange:
        yield _integrity(source, "signature lines", f"{len(good) + 1}: one of each known key", str(sum(lines.values())))
    if (signed := len({witness_key(key).name for key in in_force} & set(good))) < (quorum := _quorum(bundle)):
        yield _integrity(source, "cosignatures of parties", f"at least {quorum} of {len(readings)}", str(signed))
    last = source == checkpoint_name(len(bundle.checkpoints) - 1)
    if last and (absent := sum(key.name not in good for key in auditors)):
        yield _missing(
            source, "cosignatures of the manifest's auditors", str(len(auditors)), str(len(auditors) - absent)
        )


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
        for reading, sequence, statement in joined:
            yield from _of_join(bundle, reading, sequence, statement, listed.get(run), parties=len(joined))


def _of_models(readings: list[Reading]) -> Iterator[Finding]:
    """A round starts from one model: a server that shows another to one party may learn more of it."""
    shown: dict[tuple[str, int], Counter[str]] = {}
    for reading in readings:
        for place, model in reading.models.items():
            shown.setdefault(place, Counter())[model] += 1
    for reading in readings:
        for (run, number), model in reading.models.items():
            (common, parties), *_ = shown[run, number].most_common(1)
            if model != common:
                yield reading.finding(
                    reading.reserved[run, number],
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
    bundle: Bundle, reading: Reading, sequence: int, statement: Joined, assumed: BundleRun | None, *, parties: int
) -> Iterator[Finding]:
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
    if plan.mechanisms[0].grid is not None and parties < plan.minimum_survivors:
        yield finding(
            "promise", "parties that share the noise", expected=f"at least {plan.minimum_survivors}", found=str(parties)
        )
