"""What is derived from keys: advertisements, the transcript of a round, channel keys and mask keys.

Each output is bound to the transcript and to the context, with the round number in it; masks to the round's inputs too.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from fedmarket.aggregation.secagg.context import RoundContext
from fedmarket.aggregation.secagg.shamir import KEY_FIELD, SEED_FIELD
from fedmarket.aggregation.secagg.suite import (
    KEY_SIZE,
    LABEL_CHANNEL,
    LABEL_COMMITMENT,
    LABEL_PAIR_MASK,
    LABEL_SELF_MASK,
    LABEL_TRANSCRIPT,
    TAG_SIZE,
    Private,
    agreed,
    derived,
    loaded,
    packed,
    sha256,
)
from fedmarket.aggregation.secagg.wire import ENVELOPE_SIZE, HEADER, need_rising, open_message, records
from fedmarket.errors import BadMessage

ADVERT_SIZE = 2 * KEY_SIZE
"""Bytes of an advertisement's payload: the channel key, then the mask key."""

SHARES_SIZE = SEED_FIELD.share_size + KEY_FIELD.share_size
"""Bytes of two shares for one holder: of the seed, then of the mask secret key."""

SEALED_SIZE = SHARES_SIZE + TAG_SIZE

_ANY_SECRET = loaded(b"\1" * KEY_SIZE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Advert:
    """A member's fresh public keys for one round."""

    place: int
    channel: bytes
    mask: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """All advertisements of a round as one party, or the server, sees them."""

    adverts: dict[int, Advert]
    transcript: bytes = field(repr=False)


def read_advert(context: RoundContext, message: bytes) -> Advert:
    """Return the advertisement in a signed message, or raise a BadMessage."""
    place, payload = open_message(context, "advertise", message, payload_size=ADVERT_SIZE)
    return Advert(place=place, channel=bytes(payload[:KEY_SIZE]), mask=bytes(payload[KEY_SIZE:]))


def read_adverts(context: RoundContext, content: bytes) -> Agreement:
    """Return the agreement in joined signed advertisements.

    Raises:
        BadMessage: if one is malformed, not signed by its member, listed twice or out of order, or shares a key.
    """
    members = len(context.roster.members)
    adverts = [read_advert(context, message) for message in records(content, ENVELOPE_SIZE + ADVERT_SIZE, most=members)]
    need_rising(advert.place for advert in adverts)
    need_fresh_keys(context, adverts)
    return _agreement(context, adverts, content)


def reread_adverts(context: RoundContext, content: bytes) -> Agreement:
    """Return the agreement in bytes that :func:`read_adverts` accepted before; signatures are not checked again."""
    adverts = []
    for message in records(content, ENVELOPE_SIZE + ADVERT_SIZE, most=len(context.roster.members)):
        place = int.from_bytes(message[5:7], "big")
        keys = message[HEADER.size : HEADER.size + ADVERT_SIZE]
        adverts.append(Advert(place=place, channel=keys[:KEY_SIZE], mask=keys[KEY_SIZE:]))
    return _agreement(context, adverts, content)


def _agreement(context: RoundContext, adverts: list[Advert], content: bytes) -> Agreement:
    return Agreement(
        adverts={advert.place: advert for advert in adverts},
        transcript=sha256(LABEL_TRANSCRIPT, context.hash, content),
    )


def need_fresh_keys(context: RoundContext, adverts: Iterable[Advert]) -> None:
    """Raise a BadMessage if a key is advertised twice, by one member or by two."""
    owners: dict[bytes, int] = {}
    for advert in adverts:
        for key in (advert.channel, advert.mask):
            if key in owners:
                first, second = (context.roster.names[place] for place in (owners[key], advert.place))
                raise BadMessage(f"{first} and {second} advertise the same key")
            owners[key] = advert.place


def need_high_order(advert: Advert) -> None:
    """Raise a BadMessage if a key has low order: agreement with any secret then gives zero (RFC 7748, section 6.1)."""
    for key in (advert.channel, advert.mask):
        if agreed(_ANY_SECRET, key) is None:
            raise BadMessage("advertises a key of low order")


def channel(
    context: RoundContext, agreement: Agreement, secret: Private, *, own: int, peer: int, sender: int
) -> tuple[bytes, bytes]:
    """Return one-use key and associated data of the text that ``sender``, either of both, seals for the other."""
    shared = _shared(context, secret, agreement.adverts[peer].channel, peer)
    info = _info(context, LABEL_CHANNEL, sender, peer if sender == own else own)
    return derived(shared, salt=agreement.transcript, info=info), info


def pair_mask_key(context: RoundContext, agreement: Agreement, secret: Private, *, own: int, peer: int) -> bytes:
    """Return the key of the mask that ``own`` and ``peer`` have in common, from ``own``'s mask secret."""
    shared = _shared(context, secret, agreement.adverts[peer].mask, peer)
    return derived(
        shared, salt=agreement.transcript, info=_info(context, LABEL_PAIR_MASK, min(own, peer), max(own, peer))
    )


def self_mask_key(context: RoundContext, agreement: Agreement, seed: bytes, *, own: int) -> bytes:
    """Return the key of ``own``'s self-mask."""
    return derived(seed, salt=agreement.transcript, info=_info(context, LABEL_SELF_MASK, own))


def commitment(context: RoundContext, agreement: Agreement, seed: bytes, *, own: int) -> bytes:
    """Return what ``own`` signs beside its shares, so that a seed put together from wrong ones is recognised."""
    return derived(seed, salt=agreement.transcript, info=_info(context, LABEL_COMMITMENT, own))


def _shared(context: RoundContext, secret: Private, public: bytes, peer: int) -> bytes:
    shared = agreed(secret, public)
    if shared is None:
        raise BadMessage(f"{context.roster.names[peer]} advertises a key of low order")
    return shared


def _info(context: RoundContext, label: bytes, *places: int) -> bytes:
    names = (context.roster.names[place].encode() for place in places)
    about = context.bound_hash if label in (LABEL_PAIR_MASK, LABEL_SELF_MASK) else context.hash
    return packed(label, context.roster.suite.encode(), about, context.round_number.to_bytes(8, "big"), *names)
