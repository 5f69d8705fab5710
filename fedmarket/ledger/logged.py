"""What an auditor finds in the log: every entry of every ledger once, in its party's order, and nothing else.

Nobody is accused of what another could have done. Two versions of an entry are held against a party only where its key
signed both; and what follows from a ledger's first broken entry is counted in one line, not listed.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from fedmarket.errors import ProtocolError
from fedmarket.ledger.bundle import LOG, Bundle
from fedmarket.ledger.entries import Entry, Rotated, read_entry
from fedmarket.ledger.envelope import keyid_of, read_envelope
from fedmarket.ledger.findings import Finding, Question, clipped
from fedmarket.ledger.reading import Reading


@dataclass(slots=True, kw_only=True)
class _Found:
    """What the ledgers have, and what was found of it in the log so far.

    Attributes:
        left: place of the party and number of the entry, by envelope, of those that the log has not had yet.
        there: all of them.
        signers: keys that each party was known by, by their ids: of thousands each is looked at once.
        following: how many findings follow from the broken entry, by party.
        doubled: entries of which the log has another signed version, by party and number.
    """

    left: dict[bytes, tuple[Reading, int]]
    there: frozenset[bytes]
    signers: dict[str, dict[str, bytes]]
    logged: Counter[str] = field(default_factory=Counter)
    following: Counter[str] = field(default_factory=Counter)
    doubled: set[tuple[str, int]] = field(default_factory=set)


def read_log(bundle: Bundle, readings: list[Reading]) -> Iterator[Finding]:
    """Yield what does not hold in the log, and note in ``readings`` keys that it names and ledgers that end early."""
    left = {
        content: (reading, sequence)
        for reading, ledger in zip(readings, bundle.ledgers, strict=True)
        for sequence, content in enumerate(ledger)
    }
    signers = {
        reading.name: {keyid_of(key): key for key in (reading.public_key, *(key for _, key in reading.keys))}
        for reading in readings
    }
    found = _Found(left=left, there=frozenset(left), signers=signers)
    for place, content in enumerate(bundle.log):
        if content in found.left:
            yield from _of_known(bundle, found, content, place)
        else:
            yield from _of_stray(bundle, readings, found, content, place)
    for reading, sequence in found.left.values():
        if (reading.name, sequence) in found.doubled:
            continue
        if _follows(reading, sequence):
            found.following[reading.name] += 1
            continue
        yield reading.finding(
            sequence, "completeness", "entry of a ledger", expected="in the log", found="none", source=LOG
        )
    for reading in readings:
        if count := found.following[reading.name]:
            said = "1 finding follows" if count == 1 else f"{count} findings about its entries in the log follow"
            yield reading.finding(
                reading.broken_at,
                "completeness" if reading.cut else "integrity",
                "its entries in the log from there on",
                expected="those of its ledger",
                found=f"others: {said} from this",
                source=LOG,
            )


def _follows(reading: Reading, sequence: int) -> bool:
    return reading.broken_at is not None and sequence >= reading.broken_at


def _of_known(bundle: Bundle, found: _Found, content: bytes, place: int) -> Iterator[Finding]:
    """Take an entry of a ledger, in its order or not."""
    reading, sequence = found.left.pop(content)
    expected, found.logged[reading.name] = found.logged[reading.name], sequence + 1
    if _follows(reading, sequence):
        _learn(found, reading, content, size=len(bundle.ledgers[reading.place]))
        found.following[reading.name] += sequence != expected
    elif sequence != expected:
        yield reading.finding(
            sequence,
            "integrity",
            "order of a party's entries in the log",
            place=place,
            expected=f"entry {expected}",
            found=f"entry {sequence}",
            source=LOG,
        )


def _of_stray(bundle: Bundle, readings: list[Reading], found: _Found, content: bytes, place: int) -> Iterator[Finding]:
    """Say what an entry of the log is that is not left in a ledger: unreadable, twice, forged, a rival, or cut off."""
    try:
        entry = _entry_of(content)
    except ProtocolError as error:
        yield _stray(None, None, place, found=clipped(str(error)))
        return
    owner = next((reading for reading in readings if reading.name == entry.head.party), None)
    party, sequence = clipped(entry.head.party), entry.head.sequence
    if owner is None:
        yield _stray(party, sequence, place, found="no such party")
    elif content in found.there:
        yield _stray(party, sequence, place, found="the same entry twice", expected="once")
    else:
        yield from _of_owner(bundle.ledgers[owner.place], found, owner, entry, content=content, place=place)


def _of_owner(
    ledger: tuple[bytes, ...], found: _Found, owner: Reading, entry: Entry, *, content: bytes, place: int
) -> Iterator[Finding]:
    """Say what an entry is that is said to be the owner's, and is not in its ledger."""
    sequence, signed = entry.head.sequence, _signed(found, owner, content)
    cut = sequence >= len(ledger)
    if signed:
        _note_key(found, owner, content, entry)
        owner.cut = owner.cut or cut
        if found.logged[owner.name] == sequence:
            found.logged[owner.name] += 1
    if signed and not cut and _is_version(found, owner, ledger[sequence], sequence):
        found.doubled.add((owner.name, sequence))
        yield _stray(owner.name, sequence, place, found="two signed versions of this entry: both are the proof")
    elif _follows(owner, sequence):
        found.following[owner.name] += 1
    elif signed and cut:
        yield _stray(
            owner.name, sequence, place, found="none there: the ledger ends before it", question="completeness"
        )
    else:
        yield _stray(owner.name, sequence, place, found="an entry that its party's key did not sign")


def _stray(
    party: str | None,
    sequence: int | None,
    place: int,
    *,
    found: str,
    expected: str = "in its party's ledger",
    question: Question = "integrity",
) -> Finding:
    return Finding(
        question=question,
        source=LOG,
        party=party,
        sequence=sequence,
        place=place,
        what="entry of the log",
        expected=expected,
        found=found,
    )


def _entry_of(content: bytes) -> Entry:
    return read_entry(read_envelope(content).payload)


def _signed(found: _Found, owner: Reading, content: bytes) -> bool:
    """Whether a key that the party was known by signed an envelope."""
    try:
        envelope = read_envelope(content)
        envelope.need_signed_by(found.signers[owner.name].get(envelope.keyid, owner.public_key))
    except ProtocolError:
        return False
    return True


def _is_version(found: _Found, owner: Reading, content: bytes, sequence: int) -> bool:
    """Whether the party signed ``content`` as its entry of that number."""
    try:
        head = _entry_of(content).head
    except ProtocolError:
        return False
    return (head.party, head.sequence) == (owner.name, sequence) and _signed(found, owner, content)


def _learn(found: _Found, owner: Reading, content: bytes, *, size: int) -> None:
    """Note what an entry says where the ledger of ``size`` entries is not read: a key, or that there were more."""
    try:
        entry = _entry_of(content)
    except ProtocolError:
        return
    if _signed(found, owner, content):
        _note_key(found, owner, content, entry)
        owner.cut = owner.cut or entry.head.sequence >= size


def _note_key(found: _Found, owner: Reading, content: bytes, entry: Entry) -> None:
    if isinstance(entry.statement, Rotated):
        key = bytes.fromhex(entry.statement.public_key)
        owner.keys.append((content, key))
        found.signers[owner.name][keyid_of(key)] = key
