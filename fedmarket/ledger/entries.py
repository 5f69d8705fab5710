"""What a ledger's entries say: a closed list of kinds, each a frozen document whose fields never change meaning.

On the wire an entry is one object: the head's keys (``format``, ``party``, ``sequence``, ``previous``, ``time``),
``kind``, and the keys of that kind. A new meaning is a new kind, and an unknown kind or key is refused. ``previous`` is
the SHA-256 of the predecessor's whole envelope, so an entry fixes all before it, signatures included.
"""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated, Literal

from pydantic import Field

from fedmarket.documents import Section
from fedmarket.errors import BadMessage
from fedmarket.ledger.canonical import canonical, read_canonical
from fedmarket.ledger.fields import (
    Accountant,
    Adjacency,
    Count,
    Hash,
    Line,
    Moment,
    NonNegativeReal,
    PositiveReal,
    Probability,
    PublicKey,
    Reason,
    Round,
    RunId,
    Unit,
    parsed,
)
from fedmarket.ledger.planned import Plan
from fedmarket.privacy.mechanism import Phase

FORMAT: Literal["fedmarket-ledger/1"] = "fedmarket-ledger/1"

GENESIS = "0" * 64
"""What the first entry has for its predecessor's hash."""

SALT_SIZE = 16
"""Fewest bytes of a commitment's salt."""


class Code(Section):
    """Which code ran: its version, and the hash of the installed package."""

    version: Line
    hash: Hash


class Opened(Section):
    """The first entry. ``data_set`` is a :func:`commitment`, to rows and to which of them are held out."""

    kind: Literal["opened"] = "opened"
    public_key: PublicKey
    data_set: Hash
    unit: Unit
    adjacency: Adjacency
    delta: Probability
    cap: PositiveReal
    code: Code


class CapChanged(Section):
    """Another cap on epsilon from here on."""

    kind: Literal["cap-changed"] = "cap-changed"
    old: PositiveReal
    new: PositiveReal
    reason: Reason


class DataReplaced(Section):
    """Another data set from here on.

    With ``overlap`` some customer of the old one may be in the new one, or be held out where it was not: what was spent
    on the old one then counts for the new one too. A party that does not know says true.
    """

    kind: Literal["data-replaced"] = "data-replaced"
    old: Hash
    new: Hash
    overlap: bool
    reason: Reason


class DataDestroyed(Section):
    """The data set is gone: from here on there are only statements about what was."""

    kind: Literal["data-destroyed"] = "data-destroyed"
    data_set: Hash
    reason: Reason


class Joined(Section):
    """A run that the party takes part in with its data set, and everything that the run may release."""

    kind: Literal["joined"] = "joined"
    run: RunId
    data_set: Hash
    terms_hash: Hash
    contract_hash: Hash
    roster_hash: Hash | None
    code: Code
    plan: Plan


class Figure(Section):
    """What one accountant found; for display, as every reader finds its own."""

    accountant: Accountant
    version: Line
    epsilon: NonNegativeReal


class Reserved(Section):
    """``count`` releases of a phase, on disk before anything of them leaves.

    ``figures`` are cumulative: everything that counts for the data set, this included, at the ledger's delta.
    """

    kind: Literal["reserved"] = "reserved"
    run: RunId
    round: Round
    phase: Phase
    count: Count
    figures: Annotated[tuple[Figure, ...], Field(strict=False, min_length=1, max_length=3)]
    cap: PositiveReal


class Committed(Section):
    """What was reserved left: computed with the model of ``model_hash``; ``content_hash`` is that of the bytes."""

    kind: Literal["committed"] = "committed"
    run: RunId
    round: Round
    model_hash: Hash
    content_hash: Hash


class Voided(Section):
    """What was reserved came to nothing. Only where nothing had ``left`` the party is it given back."""

    kind: Literal["voided"] = "voided"
    run: RunId
    round: Round
    left: bool
    reason: Reason


class Released(Section):
    """A model of a run was handed to others."""

    kind: Literal["released"] = "released"
    run: RunId
    model_hash: Hash


class Withdrawn(Section):
    """A released model is no longer to be used."""

    kind: Literal["withdrawn"] = "withdrawn"
    model_hash: Hash
    reason: Reason


class Rotated(Section):
    """Another key signs from the next entry on; this one is signed by the old key."""

    kind: Literal["rotated"] = "rotated"
    public_key: PublicKey
    reason: Reason


Statement = (
    Opened
    | CapChanged
    | DataReplaced
    | DataDestroyed
    | Joined
    | Reserved
    | Committed
    | Voided
    | Released
    | Withdrawn
    | Rotated
)

KINDS: dict[str, type[Statement]] = {
    model.model_fields["kind"].default: model
    for model in (
        Opened,
        CapChanged,
        DataReplaced,
        DataDestroyed,
        Joined,
        Reserved,
        Committed,
        Voided,
        Released,
        Withdrawn,
        Rotated,
    )
}


class Head(Section):
    """What every entry has: whose it is, where it stands, what came before, and when, by the party's own clock."""

    format: Literal["fedmarket-ledger/1"] = FORMAT
    party: Line
    sequence: Annotated[int, Field(ge=0, lt=2**48)]
    previous: Hash
    time: Moment


@dataclass(frozen=True, slots=True)
class Entry:
    """A head and a statement."""

    head: Head
    statement: Statement

    def payload(self) -> bytes:
        """Return the canonical JSON, which is what is signed."""
        return canonical(self.head.model_dump() | self.statement.model_dump())


@lru_cache(maxsize=64)
def read_entry(payload: bytes) -> Entry:
    """Return the entry in an envelope's payload; the last ones are remembered.

    Raises:
        BadMessage: if it is not canonical, its kind or a key is unknown, or a value is out of range.
    """
    document = read_canonical(payload)
    if not (isinstance(document, dict) and isinstance(document.get("kind"), str)):
        raise BadMessage("an entry is an object with a kind")
    if document["kind"] not in KINDS:
        raise BadMessage("an entry of an unknown kind")
    head = {key: document.pop(key) for key in Head.model_fields if key in document}
    return Entry(
        head=parsed(Head, {"format": None} | head),
        statement=parsed(KINDS[document["kind"]], document),
    )


def commitment(*content_hashes: str, salt: bytes) -> str:
    """Return what an entry says of a data set: SHA-256 of a label, the salt and the hashes, in hexadecimal.

    ``content_hashes`` are of the rows trained on and of the rows held out, so that another split is another data set.
    The salt is secret and stays the same; without it the commitment tells nobody which table it is.

    Raises:
        BadMessage: if the salt is shorter than :data:`SALT_SIZE`.
    """
    if len(salt) < SALT_SIZE:
        raise BadMessage(f"a commitment needs a salt of {SALT_SIZE} bytes, got {len(salt)}")
    hashes = b"".join(bytes.fromhex(content) for content in content_hashes)
    return hashlib.sha256(b"fedmarket data set/1" + hashlib.sha256(salt).digest() + hashes).hexdigest()


def moment(time: datetime) -> str:
    """Return ``time`` as entries write it: UTC, whole seconds."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
