"""Signed messages as bytes: one fixed layout for each step, and a decoder that takes nothing else.

Integers are big-endian; words of masked vectors are little-endian. All records of a step have one length, so lists are
plain concatenations in roster order and need no counts.
"""

import hashlib
import struct
from collections.abc import Iterable, Iterator

from fedmarket.aggregation.secagg.context import RoundContext
from fedmarket.aggregation.secagg.suite import LABEL_MESSAGE, SIGNATURE_SIZE, Signer, packed, verified
from fedmarket.aggregation.steps import SECURE, Step
from fedmarket.errors import BadMessage

MAGIC = b"FMS1"

HEADER = struct.Struct(">4sBH32sI")
"""Magic, number of the step from 1, sender's place in the roster, hash of the context, length of the payload."""

ENVELOPE_SIZE = HEADER.size + SIGNATURE_SIZE
"""Bytes that a message has beside its payload."""


def sign_message(context: RoundContext, step: Step, *, sender: int, payload: bytes, signer: Signer) -> bytes:
    """Return header, payload and signature as one message."""
    header = HEADER.pack(MAGIC, SECURE.index(step) + 1, sender, context.hash_of(step), len(payload))
    return b"".join((header, payload, signer.sign(_signed_text(context, step, sender, payload))))


def open_message(context: RoundContext, step: Step, message: bytes, *, payload_size: int) -> tuple[int, memoryview]:
    """Return the sender's place and the payload of a message of this step and context.

    Raises:
        BadMessage: for another length, step, context, sender or signature.

    Guarantees:
        What is returned was signed under the sender's key in the roster, for this context and step.
    """
    if len(message) != ENVELOPE_SIZE + payload_size:
        raise BadMessage(f"expected {ENVELOPE_SIZE + payload_size} bytes for the step {step}, got {len(message)}")
    magic, number, sender, context_hash, length = HEADER.unpack_from(message)
    if magic != MAGIC or length != payload_size:
        raise BadMessage("not a message of this protocol")
    if number != SECURE.index(step) + 1:
        raise BadMessage(f"expected a message of the step {step}, got one of another")
    if sender >= len(context.roster.members):
        raise BadMessage("the sender is not in the roster")
    name = context.roster.names[sender]
    if context_hash != context.hash_of(step):
        raise BadMessage(f"the message of {name} is for another run, round, model, terms or roster")
    payload = memoryview(message)[HEADER.size : -SIGNATURE_SIZE]
    text = _signed_text(context, step, sender, payload)
    if not verified(context.roster.members[sender].public_key, message[-SIGNATURE_SIZE:], text):
        raise BadMessage(f"the signature is not {name}'s")
    return sender, payload


def _signed_text(context: RoundContext, step: Step, sender: int, payload: bytes | memoryview) -> bytes:
    return packed(
        LABEL_MESSAGE,
        context.roster.suite.encode(),
        context.hash_of(step),
        step.encode(),
        context.roster.names[sender].encode(),
        hashlib.sha256(payload).digest(),
    )


def records(content: bytes, size: int, *, most: int) -> Iterator[bytes]:
    """Give the records of ``size`` bytes that ``content`` is made of, at most ``most``.

    Raises:
        BadMessage: if bytes are left over or there are too many.
    """
    if len(content) % size or len(content) // size > most:
        raise BadMessage(f"expected at most {most} records of {size} bytes, got {len(content)} bytes")
    return (content[start : start + size] for start in range(0, len(content), size))


def need_rising(places: Iterable[int]) -> None:
    """Raise a BadMessage unless every place is greater than the one before: sorted, and nobody twice."""
    last = -1
    for place in places:
        if place <= last:
            raise BadMessage("expected every member at most once and in roster order")
        last = place


def bitmap_size(members: int) -> int:
    """Return the bytes of a set of members."""
    return (members + 7) // 8


def to_bitmap(places: Iterable[int], *, members: int) -> bytes:
    """Return a set of places: member i is bit i % 8, least first, of byte i // 8.

    >>> to_bitmap([0, 9], members=10).hex()
    '0102'
    """
    return sum(1 << place for place in set(places)).to_bytes(bitmap_size(members), "little")


def from_bitmap(content: bytes, *, members: int) -> tuple[int, ...]:
    """Return the places of a bitmap, rising.

    Raises:
        BadMessage: if the length is another or a bit beyond the last member is set.
    """
    bits = int.from_bytes(content, "little")
    if len(content) != bitmap_size(members) or bits >> members:
        raise BadMessage("a set of members is malformed")
    return tuple(place for place in range(members) if bits >> place & 1)


def read_sets(context: RoundContext, content: bytes) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return survivors and drop-outs from two bitmaps, or raise a BadMessage."""
    members = len(context.roster.members)
    size = bitmap_size(members)
    return from_bitmap(content[:size], members=members), from_bitmap(content[size:], members=members)


def write_sets(context: RoundContext, survivors: tuple[int, ...], dropped: tuple[int, ...]) -> bytes:
    """Return survivors and drop-outs as two bitmaps."""
    members = len(context.roster.members)
    return to_bitmap(survivors, members=members) + to_bitmap(dropped, members=members)
