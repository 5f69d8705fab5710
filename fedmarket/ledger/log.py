"""The server's log of all parties' entries, and the party that watches it.

The log is a file of envelopes and a Merkle tree over them. A :class:`Witness` remembers the last checkpoint that it
saw and cosigns only what continues it: a server that shows different logs to different parties, or rewrites one, cannot
find two quorums among them.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Self

from fedmarket.aggregation.secagg.suite import Signer
from fedmarket.errors import BadMessage, DataError, Refusal, UsageError
from fedmarket.files import appearing
from fedmarket.ledger.envelope import keyid_of, read_envelope
from fedmarket.ledger.lines import Lines
from fedmarket.ledger.merkle import Tree, need_consistent
from fedmarket.ledger.note import (
    COSIGNATURE,
    Checkpoint,
    Note,
    NoteSignature,
    VerifierKey,
    read_checkpoint,
    read_note,
)
from fedmarket.ledger.store import is_envelope


class Log:
    """The log in a folder, file ``log.jsonl``; one process at a time.

    Guarantees:
        An envelope has its place, and a checkpoint can be made over it, only when it is on disk.

    Attributes:
        key: what its checkpoints are signed with; its name is the log's origin.
    """

    def __init__(self, lines: Lines, *, origin: str, signer: Signer) -> None:
        """Build the tree over ``lines``; see :meth:`open`."""
        self.key = VerifierKey(name=origin, public_key=signer.public_key)
        self._lines, self._signer = lines, signer
        self._tree = Tree(lines.content)
        self._places = {line: place for place, line in enumerate(lines.content)}

    @classmethod
    def open(cls, folder: Path, *, origin: str, signer: Signer) -> Self:
        """Open or make the log in ``folder``.

        Raises:
            UsageError: if another process holds it, or the folder cannot be used.
            DataError: if a line is damaged.
            BadMessage: if ``origin`` is no name for a note's key.
        """
        lines = Lines(folder, "log", whole=is_envelope)
        try:
            return cls(lines, origin=origin, signer=signer)
        except BaseException:
            lines.close()
            raise

    @property
    def size(self) -> int:
        """Number of envelopes."""
        return self._tree.size

    @property
    def envelopes(self) -> tuple[bytes, ...]:
        """All envelopes in order."""
        return tuple(self._lines.content)

    def holds(self, envelope: bytes) -> bool:
        """Return whether ``envelope`` is in the log."""
        return envelope in self._places

    def extend(self, envelopes: Iterable[bytes]) -> list[int]:
        """Append ``envelopes`` and return the place of each; one that is there already keeps its place.

        Raises:
            BadMessage: if one is no envelope; none is appended then.
            UsageError: if they cannot be written.
        """
        asked = list(envelopes)
        for envelope in asked:
            read_envelope(envelope)
        new = [envelope for envelope in dict.fromkeys(asked) if envelope not in self._places]
        if new:
            self._lines.append(new)
        for envelope in new:
            self._places[envelope] = self._tree.size
            self._tree.append(envelope)
        return [self._places[envelope] for envelope in asked]

    def checkpoint(self) -> Note:
        """Return the signed checkpoint of the log as it is."""
        found = Checkpoint(origin=self.key.name, size=self.size, root=self._tree.root())
        return Note(text=found.to_text(), signatures=()).signed(self.key.name, self._signer)

    def inclusion(self, index: int, size: int) -> list[bytes]:
        """Return the proof that the envelope at ``index`` is in the log of ``size``; see :class:`Tree`."""
        return self._tree.inclusion(index, size)

    def consistency(self, old: int, size: int) -> list[bytes]:
        """Return the proof that the log of ``size`` continues that of ``old``; see :class:`Tree`."""
        return self._tree.consistency(old, size)

    def close(self) -> None:
        """Give up the file and its lock."""
        self._lines.close()


def witness_key(public_key: bytes) -> VerifierKey:
    """Return the key that a party cosigns with; names of parties may have blanks, which notes cannot hold."""
    return VerifierKey(name=f"fedmarket/{keyid_of(public_key)}", public_key=public_key, kind=COSIGNATURE)


class Witness:
    """A party, or an auditor, that cosigns one log's checkpoints; ``path`` keeps the last one that it saw.

    Guarantees:
        Every checkpoint that it ever cosigned is continued by the next one that it cosigns. What it saw is on disk
        before its cosignature leaves. One process at a time may use ``path``: a party has its ledger's lock for that.

    Attributes:
        log: key of the log.
        key: what it cosigns with.
        last: the last checkpoint seen; None before.
    """

    def __init__(self, path: Path, *, log: VerifierKey, signer: Signer) -> None:
        """Read what was seen last.

        Raises:
            DataError: if the file at ``path`` is damaged or of another log; it is never begun anew by itself.
        """
        self._path, self.log, self._signer = path, log, signer
        self.key = witness_key(signer.public_key)
        self.last: Checkpoint | None = None
        try:
            self.last = self._read(path.read_bytes())[1]
        except FileNotFoundError:
            pass
        except OSError as error:
            raise UsageError(f"{path}: cannot be read ({error.strerror or error})") from None
        except BadMessage as error:
            raise DataError(f"{path}: not the last checkpoint seen of this log ({error})") from None

    @property
    def size(self) -> int:
        """From which size a consistency proof must start."""
        return self.last.size if self.last else 0

    def cosign(
        self, content: bytes, proof: Sequence[bytes], *, clock: Callable[[], float] = time.time
    ) -> NoteSignature:
        """Return the cosignature of a signed checkpoint after checking that it continues the last one seen.

        Args:
            content: the note.
            proof: of consistency between :attr:`size` and the note's size.
            clock: seconds since 1970.

        Raises:
            BadMessage: if the note is malformed, of another log or not signed by it.
            Refusal: if the log is inconsistent with what was seen. The note is kept beside ``path`` as ``.refused``:
                two checkpoints that the log signed and that exclude each other are the proof against it.
            UsageError: if the checkpoint cannot be kept.
        """
        note, found = self._read(content)
        if self.last:
            self._need_continued(self.last, found, proof, content)
        elif proof:
            raise BadMessage("a first checkpoint needs no proof")
        self._keep(self._path, content)
        self.last = found
        return note.cosignature(self.key.name, self._signer, time=int(clock()))

    def _need_continued(self, last: Checkpoint, found: Checkpoint, proof: Sequence[bytes], content: bytes) -> None:
        try:
            need_consistent(proof, old=last.size, old_root=last.root, size=found.size, root=found.root)
        except BadMessage as error:
            self._keep(self._path.with_name(self._path.name + ".refused"), content)
            raise Refusal(
                f"the log is inconsistent, and is not cosigned: seen {last.size} entries of root "
                f"{last.root.hex()[:12]}, shown {found.size} of root {found.root.hex()[:12]} ({error})"
            ) from None

    def _read(self, content: bytes) -> tuple[Note, Checkpoint]:
        note = read_note(content)
        note.need_signed_by(self.log)
        return note, read_checkpoint(note.text, origin=self.log.name)

    @staticmethod
    def _keep(path: Path, content: bytes) -> None:
        with appearing(path) as temporary:
            temporary.write_bytes(content)
