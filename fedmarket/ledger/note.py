"""Signed notes and checkpoints in the forms of C2SP: `signed-note`, `tlog-checkpoint` and `tlog-cosignature`.

A note is text, an empty line, and signature lines. A checkpoint is a note of three lines: the log's origin, its size,
its root. The log signs the text; a cosigner signs it together with the time at which it found the log consistent.
"""

import hashlib
import re
import struct
from dataclasses import dataclass

from fedmarket.aggregation.secagg.suite import KEY_SIZE, SIGNATURE_SIZE, Signer, verified
from fedmarket.errors import BadMessage
from fedmarket.ledger.canonical import from_base64, to_base64
from fedmarket.ledger.merkle import HASH_SIZE

SIGNATURE, COSIGNATURE = 1, 4
"""Types of keys: Ed25519 on the text, and Ed25519 on text and time (`cosignature/v1`)."""

MOST_SIGNATURES = 128
LARGEST_NOTE = 32 * 1024
"""Bytes."""

_LINE = re.compile(r"— (?P<name>\S+) (?P<content>[A-Za-z0-9+/]+={0,2})")
_SIZE = re.compile(r"0|[1-9][0-9]{0,15}")
_TIMED = struct.Struct(">Q64s")

COSIGNATURE_SIZE = _TIMED.size
"""Bytes of a cosignature: its time and an Ed25519 signature."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifierKey:
    """Who may sign a note: a name, an Ed25519 key, and whether it signs or cosigns.

    Raises:
        BadMessage: if the name is empty or has blanks or a plus, or the key has another length.
    """

    name: str
    public_key: bytes
    kind: int = SIGNATURE

    def __post_init__(self) -> None:
        if not (self.name.isprintable() and re.fullmatch(r"[^\s+]{1,200}", self.name)):
            raise BadMessage("a note's key needs a printable name without blanks and plus")
        if len(self.public_key) != KEY_SIZE or self.kind not in (SIGNATURE, COSIGNATURE):
            raise BadMessage(f"a note's key has {KEY_SIZE} bytes and the type {SIGNATURE} or {COSIGNATURE}")

    @property
    def id(self) -> bytes:
        """The key's id, four bytes: a hint for finding it, not a proof."""
        return hashlib.sha256(b"%b\n%c%b" % (self.name.encode(), self.kind, self.public_key)).digest()[:4]

    def __str__(self) -> str:
        return f"{self.name}+{self.id.hex()}+{to_base64(bytes([self.kind]) + self.public_key)}"

    @classmethod
    def from_text(cls, text: str) -> "VerifierKey":
        """Return the key written as ``name+id+base64``, or raise a BadMessage."""
        name, _, rest = text.partition("+")
        _, _, content = rest.partition("+")
        encoded = from_base64(content)
        key = cls(name=name, kind=encoded[0] if encoded else 0, public_key=encoded[1:])
        if str(key) != text:
            raise BadMessage("not a verifier key of a note")
        return key


@dataclass(frozen=True, slots=True, kw_only=True)
class NoteSignature:
    """One signature line: who is said to have signed, and the bytes."""

    name: str
    id: bytes
    content: bytes

    def __str__(self) -> str:
        return f"— {self.name} {to_base64(self.id + self.content)}\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """A text, every line ended, and the signatures under it, not yet checked."""

    text: str
    signatures: tuple[NoteSignature, ...]

    def to_bytes(self) -> bytes:
        """Return the note as it travels."""
        return f"{self.text}\n{''.join(map(str, self.signatures))}".encode()

    def signed(self, name: str, signer: Signer) -> "Note":
        """Return the note with ``signer``'s signature under ``name`` added."""
        key = VerifierKey(name=name, public_key=signer.public_key)
        line = NoteSignature(name=name, id=key.id, content=signer.sign(self.text.encode()))
        return self.with_line(line)

    def with_line(self, line: NoteSignature) -> "Note":
        """Return the note with one more signature line."""
        return Note(text=self.text, signatures=(*self.signatures, line))

    def cosignature(self, name: str, signer: Signer, *, time: int) -> NoteSignature:
        """Return ``signer``'s cosignature under ``name`` at ``time``, in seconds since 1970."""
        key = VerifierKey(name=name, public_key=signer.public_key, kind=COSIGNATURE)
        signature = signer.sign(_timed_text(self.text, time))
        return NoteSignature(name=name, id=key.id, content=_TIMED.pack(time, signature))

    def need_signed_by(self, key: VerifierKey) -> None:
        """Raise a BadMessage unless there is a signature of ``key``, and every one that claims to be is good."""
        claimed = self._claimed(key)
        if not claimed:
            raise BadMessage(f"the note is not signed by {key.name}")
        if not all(_good(key, line, self.text) for line in claimed):
            raise BadMessage(f"a signature of the note is not {key.name}'s")

    def cosigned(self, keys: tuple[VerifierKey, ...]) -> dict[str, int]:
        """Return the names of those of ``keys`` that cosigned, with the latest time of each.

        Raises:
            BadMessage: if a line that claims to be of one of them is not.
        """
        found: dict[str, int] = {}
        there = {line.name for line in self.signatures}  # of thousands of keys hardly any
        for key in (key for key in keys if key.name in there):
            for line in self._claimed(key):
                if key.kind != COSIGNATURE or not _good(key, line, self.text):
                    raise BadMessage(f"a cosignature of the note is not {key.name}'s")
                found[key.name] = max(found.get(key.name, 0), int(_TIMED.unpack(line.content)[0]))
        return found

    def _claimed(self, key: VerifierKey) -> list[NoteSignature]:
        return [line for line in self.signatures if (line.name, line.id) == (key.name, key.id)]


def _timed_text(text: str, time: int) -> bytes:
    if not 0 < time < 2**63:
        raise BadMessage("a cosignature needs a time after 1970")
    return f"cosignature/v1\ntime {time}\n{text}".encode()


def _good(key: VerifierKey, line: NoteSignature, text: str) -> bool:
    if key.kind == SIGNATURE:
        return len(line.content) == SIGNATURE_SIZE and verified(key.public_key, line.content, text.encode())
    if len(line.content) != _TIMED.size:
        return False
    time, signature = _TIMED.unpack(line.content)
    return 0 < time < 2**63 and verified(key.public_key, signature, _timed_text(text, time))


def read_note(content: bytes) -> Note:
    """Return the note in ``content``; lines of unknown keys are kept, for they prove nothing by themselves.

    Raises:
        BadMessage: if it is too large, not UTF-8, has control characters, no signature or more than 128, or a line that
            is none.
    """
    if len(content) > LARGEST_NOTE:
        raise BadMessage(f"expected a note of at most {LARGEST_NOTE} bytes, got {len(content)}")
    try:
        whole = content.decode("utf-8")
    except UnicodeDecodeError:
        raise BadMessage("a note must be UTF-8") from None
    body, gap, under = whole.rpartition("\n\n")
    if not (body and gap and under.endswith("\n")) or any(char < " " and char != "\n" for char in whole):
        raise BadMessage("a note is lines of text, an empty line, and signatures")
    lines = under[:-1].split("\n")
    if len(lines) > MOST_SIGNATURES:
        raise BadMessage(f"expected at most {MOST_SIGNATURES} signatures, got {len(lines)}")
    note = Note(text=body + "\n", signatures=tuple(map(_read_line, lines)))
    if note.to_bytes() != content:
        raise BadMessage("not a note in its one form")
    return note


def _read_line(line: str) -> NoteSignature:
    matched = _LINE.fullmatch(line)
    if not matched:
        raise BadMessage("a line under a note is no signature")
    content = from_base64(matched["content"])
    if len(content) <= 4 or "+" in matched["name"]:
        raise BadMessage("a line under a note is no signature")
    return NoteSignature(name=matched["name"], id=content[:4], content=content[4:])


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What a log says it is: its origin, its size in leaves, the root over them (32 bytes)."""

    origin: str
    size: int
    root: bytes

    def to_text(self) -> str:
        """Return the three lines."""
        return f"{self.origin}\n{self.size}\n{to_base64(self.root)}\n"


def read_checkpoint(text: str, *, origin: str) -> Checkpoint:
    """Return the checkpoint in a note's text.

    Raises:
        BadMessage: if it is of another log or anything but three lines; no extension line is defined, so none is taken.
    """
    lines = text.split("\n")
    if len(lines) != 4 or lines[3] or not _SIZE.fullmatch(lines[1]):
        raise BadMessage("a checkpoint is the lines origin, size and root")
    if lines[0] != origin:
        raise BadMessage("the checkpoint is of another log")
    root = from_base64(lines[2])
    if len(root) != HASH_SIZE:
        raise BadMessage(f"expected a root of {HASH_SIZE} bytes, got {len(root)}")
    return Checkpoint(origin=origin, size=int(lines[1]), root=root)
