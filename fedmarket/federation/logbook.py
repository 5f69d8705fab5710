"""The coordinator's side of the ledgers: takes parties' entries into its log, shows it to them, keeps cosignatures.

It refuses entries that break a rule of :mod:`fedmarket.ledger.replay`, as an auditor would later, and a release that
was not reserved first. Nobody relies on that: parties and auditors check for themselves.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from fedmarket.aggregation.secagg.roster import Roster, threshold_for
from fedmarket.aggregation.secagg.suite import Signer
from fedmarket.errors import BadMessage, DataError, ProtocolError, UsageError
from fedmarket.federation.messages import Shown, Told
from fedmarket.files import appearing
from fedmarket.ledger.bundle import checkpoint_name
from fedmarket.ledger.entries import Opened, read_entry
from fedmarket.ledger.envelope import read_envelope
from fedmarket.ledger.log import Log, witness_key
from fedmarket.ledger.merkle import Tree
from fedmarket.ledger.note import COSIGNATURE_SIZE, Note, NoteSignature, read_checkpoint, read_note
from fedmarket.ledger.replay import State, take

MOST_UNSURE = 16
"""Sizes of the log kept of what a silent party may have seen last; half the oldest, as it may hear nothing either."""


@dataclass(slots=True)
class _Known:
    """What the logbook knows of one party: its ledger as logged, where its newest entry stands, what it may have seen.

    ``seen`` are sizes of the log: the one that it told last, and those that it was shown since.
    """

    state: State = field(default_factory=State)
    place: int = -1
    seen: list[int] = field(default_factory=lambda: [0])


@dataclass(slots=True, kw_only=True)
class Logbook:
    """A log in a folder and the checkpoints over it that a quorum of parties cosigned; made by :meth:`open`.

    Attributes:
        folder: of the log and its checkpoints.
        roster: whose entries are taken.
        checkpoints: number of cosigned checkpoints on disk.
    """

    folder: Path
    log: Log = field(repr=False)
    roster: Roster = field(repr=False)
    checkpoints: int = 0
    _known: dict[str, _Known] = field(default_factory=dict, repr=False)
    _note: Note | None = field(default=None, repr=False)
    _size: int = -1
    _sealed: int = 0

    @classmethod
    def open(cls, folder: Path, signer: Signer, *, origin: str, roster: Roster) -> Self:
        """Open or begin the log in ``folder``.

        Raises:
            UsageError: if another process holds it, or the folder cannot be used.
            DataError: if a file is damaged, or an entry in it is of no member of the roster or breaks a rule.
        """
        log = Log.open(folder, origin=origin, signer=signer)
        try:
            book = cls(folder=folder, log=log, roster=roster, checkpoints=len(cosigned_notes(folder)))
            for place, envelope in enumerate(log.envelopes):
                book._replay(envelope, place)
            if book.checkpoints:
                last = read_note((folder / checkpoint_name(book.checkpoints - 1)).read_bytes())
                kept = read_checkpoint(last.text, origin=origin)
                if Tree(log.envelopes[: kept.size]).root() != kept.root:
                    raise BadMessage("the log is not the one that its last cosigned checkpoint covers")
                book._sealed = kept.size
        except ProtocolError as error:
            log.close()
            raise DataError(f"{folder}: {error}") from None
        except BaseException:
            log.close()
            raise
        return book

    def take(self, party: str, told: Told | None) -> None:
        """Take a party's new entries into the log, and its cosignature of the checkpoint that it was shown.

        Entries that are there already change nothing. Good entries before a bad one are kept.

        Raises:
            BadMessage: if nothing is told, an entry does not follow the party's others, or the cosignature is bad.
        """
        if told is None:
            raise BadMessage("ledger: expected its new entries, got none")
        known = self._known.setdefault(party, _Known())
        if not 0 <= told.seen <= self.log.size:
            raise BadMessage("ledger: claims to have seen a longer log than there is")
        known.seen = [told.seen]
        good: list[bytes] = []
        try:
            for envelope in told.envelopes:
                if not self.log.holds(envelope):  # what is there was checked when it came
                    self._need_own(party, envelope)
                    take(known.state, envelope)
                    good.append(envelope)
        except ProtocolError as error:
            raise BadMessage(f"ledger: {error}") from None
        finally:
            if good:
                known.place = self.log.extend(good)[-1]
        if told.cosignature:
            self._cosign(known, told.cosignature)

    def need_reserved(self, party: str, run: bytes, round_number: int) -> None:
        """Raise a BadMessage unless the party's entries reserve a release in this round, and have not taken it back."""
        found = self._known.setdefault(party, _Known()).state.reservations.get((run.hex(), round_number))
        if found is None or not found.counts:
            raise BadMessage(f"ledger: nothing is reserved for round {round_number}")

    def draw(self) -> None:
        """Sign a checkpoint over the log as it is, for parties to see and cosign."""
        self._note, self._size = self.log.checkpoint(), self.log.size

    def shown_to(self, party: str) -> Shown | None:
        """Return the last checkpoint drawn with the proofs for ``party``; None where none is."""
        if self._note is None:
            return None
        known, size = self._known.setdefault(party, _Known()), self._size
        logged = 0 <= known.place < size
        continued = {seen: tuple(self.log.consistency(seen, size)) for seen in known.seen}
        seen, half = [*dict.fromkeys([*known.seen, size])], MOST_UNSURE // 2
        known.seen = seen if len(seen) <= MOST_UNSURE else [*seen[:half], *seen[-half:]]
        return Shown(
            checkpoint=self._note_without_cosignatures(),
            consistency=continued,
            sequence=known.state.size - 1 if logged else -1,
            index=known.place if logged else 0,
            inclusion=tuple(self.log.inclusion(known.place, size)) if logged else (),
        )

    def seal(self) -> bool:
        """Keep the last checkpoint drawn if a quorum cosigned it and it covers more than the one kept before."""
        note, self._note = self._note, None
        if note is None or self._size <= self._sealed:
            return False
        if len(note.signatures) - 1 < threshold_for(len(self.roster.members)):
            return False
        with appearing(self.folder / checkpoint_name(self.checkpoints)) as temporary:
            temporary.write_bytes(note.to_bytes())
        self.checkpoints, self._sealed = self.checkpoints + 1, self._size
        return True

    def close(self) -> None:
        """Give up the log."""
        self.log.close()

    def _cosign(self, known: _Known, content: bytes) -> None:
        if self._note is None or len(content) != COSIGNATURE_SIZE:
            raise BadMessage("ledger: a cosignature of no checkpoint")
        key = witness_key(known.state.public_key)
        note = self._note.with_line(NoteSignature(name=key.name, id=key.id, content=content))
        note.cosigned((key,))
        if not any(line.name == key.name for line in self._note.signatures):
            self._note = note

    def _note_without_cosignatures(self) -> bytes:
        """What is signed is the text; others' cosignatures would only make each message longer."""
        assert self._note is not None
        return Note(text=self._note.text, signatures=self._note.signatures[:1]).to_bytes()

    def _need_own(self, party: str, envelope: bytes) -> None:
        """Refuse another party's entry, and a first one that is not of the roster's key."""
        entry = read_entry(read_envelope(envelope).payload)
        place = self.roster.index(party)
        if entry.head.party != party or place is None:
            raise BadMessage("an entry of another party")
        key = self.roster.members[place].public_key
        if isinstance(entry.statement, Opened) and entry.statement.public_key != key.hex():
            raise BadMessage("public_key: not the one of the roster")

    def _replay(self, envelope: bytes, place: int) -> None:
        party = read_entry(read_envelope(envelope).payload).head.party
        self._need_own(party, envelope)
        known = self._known.setdefault(party, _Known())
        take(known.state, envelope)
        known.place = place


def cosigned_notes(folder: Path) -> tuple[bytes, ...]:
    """Return the cosigned checkpoints in a log's folder, as it grew.

    Raises:
        UsageError: if one cannot be read.
    """
    found: list[bytes] = []
    try:
        while (path := folder / checkpoint_name(len(found))).is_file():
            found.append(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{folder}: cannot be read ({error.strerror or error})") from None
    return tuple(found)
