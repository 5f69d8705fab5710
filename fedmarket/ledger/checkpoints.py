"""What an auditor finds in a bundle's checkpoints: the log's own, growing, over these very entries, and cosigned."""

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime

from fedmarket.errors import BadMessage
from fedmarket.ledger.bundle import LOG, Bundle, checkpoint_name
from fedmarket.ledger.entries import moment
from fedmarket.ledger.findings import Finding, LastCheckpoint, Question, clipped
from fedmarket.ledger.log import witness_key
from fedmarket.ledger.merkle import Tree
from fedmarket.ledger.note import Note, VerifierKey, read_checkpoint, read_note
from fedmarket.ledger.reading import Reading


def quorum_of(bundle: Bundle) -> int:
    """Return how many parties must have cosigned each checkpoint."""
    return 2 * len(bundle.manifest.parties) // 3 + 1


def last_checkpoint(bundle: Bundle, readings: list[Reading]) -> LastCheckpoint | None:
    """Return what the last checkpoint says and who cosigned it; None where it cannot be read."""
    if not bundle.checkpoints:
        return None
    log_key = VerifierKey.from_text(bundle.manifest.log_key)
    try:
        note = read_note(bundle.checkpoints[-1])
        note.need_signed_by(log_key)
        found = read_checkpoint(note.text, origin=log_key.name)
        good = note.cosigned((*dict.fromkeys(_known_keys(readings)), *_auditors(bundle)))
    except BadMessage:
        return None
    time = _time_of(max(good.values())) if good else None
    return LastCheckpoint(size=found.size, root=found.root.hex(), cosigners=len(good), time=time)


def _time_of(seconds: int) -> str:
    try:
        return moment(datetime.fromtimestamp(seconds, UTC))
    except (OverflowError, OSError, ValueError):  # a cosigner may write any 63 bits
        return f"{seconds} s after 1970"


def _known_keys(readings: list[Reading]) -> list[VerifierKey]:
    return [witness_key(key) for reading in readings for key in (reading.public_key, *(key for _, key in reading.keys))]


def _auditors(bundle: Bundle) -> list[VerifierKey]:
    return [witness_key(bytes.fromhex(key)) for key in bundle.manifest.auditors]


def _found(question: Question, source: str, what: str, expected: str, found: str) -> Finding:
    return Finding(question=question, source=source, what=what, expected=expected, found=found)


def read_checkpoints(bundle: Bundle, readings: list[Reading]) -> Iterator[Finding]:
    """Every checkpoint is the log's, grows, has the root of these very entries, and a quorum; the last covers all.

    All roots come from one tree, so each checkpoint continues the one before it.
    """
    log_key = VerifierKey.from_text(bundle.manifest.log_key)
    tree, places = Tree(bundle.log), {content: place for place, content in enumerate(bundle.log)}
    size, roots_hold = 0, True
    known = _known_keys(readings)
    for number, content in enumerate(bundle.checkpoints):
        source = checkpoint_name(number)
        try:
            note = read_note(content)
            note.need_signed_by(log_key)
            found = read_checkpoint(note.text, origin=log_key.name)
        except BadMessage as error:
            yield _found(
                "integrity", source, "checkpoint", "one that the manifest's log key signed", clipped(str(error))
            )
            continue
        if number and found.size <= size:
            yield _found("integrity", source, "size of the log", f"more than {size}", str(found.size))
        if found.size > len(bundle.log):
            yield _found("completeness", LOG, f"entries that {source} covers", str(found.size), str(len(bundle.log)))
        elif roots_hold and (root := tree.root(found.size)) != found.root:
            roots_hold = False
            said = f"{found.root.hex()[:12]}; later roots were not compared"
            yield _found("integrity", source, f"root over {found.size} entries of the log", root.hex()[:12], said)
        size = max(size, found.size)
        keys = [reading.key_at(found.size, places) for reading in readings]
        yield from _of_cosignatures(bundle, readings, note, source=source, known=known, in_force=keys)
    if size < len(bundle.log) or not bundle.checkpoints:
        yield _found("completeness", LOG, "entries that a checkpoint covers", str(len(bundle.log)), str(size))


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
    auditors = _auditors(bundle)
    try:
        good = note.cosigned((*dict.fromkeys(known), *auditors))
    except BadMessage as error:
        yield _found("integrity", source, "cosignatures", "good ones", clipped(str(error)))
        return
    lines = Counter(line.name for line in note.signatures)
    strange = len(note.signatures) - len(good) - 1
    if strange:
        yield _found(
            "integrity", source, "signature lines", f"{len(good) + 1}: one of each known key", str(sum(lines.values()))
        )
    if (signed := len({witness_key(key).name for key in in_force} & set(good))) < (quorum := quorum_of(bundle)):
        yield _found(
            "integrity", source, "cosignatures of parties", f"at least {quorum} of {len(readings)}", str(signed)
        )
    last = source == checkpoint_name(len(bundle.checkpoints) - 1)
    if last and (absent := sum(key.name not in good for key in auditors)):
        yield _found(
            "completeness",
            source,
            "cosignatures of the manifest's auditors",
            str(len(auditors)),
            str(len(auditors) - absent),
        )
