"""A party's five answers in a round of secure aggregation: pure functions from state and bytes to state and bytes.

Bonawitz et al. (2017), figure 4, the variant against a hostile server, on the complete graph. ``incoming`` is always
what the server sends, and nothing in it is believed that a member of the party's own roster has not signed or sealed.
"""

import os
from collections.abc import Callable

from fedmarket.aggregation.fixedpoint import words_to_bytes
from fedmarket.aggregation.secagg.context import RoundContext
from fedmarket.aggregation.secagg.keys import (
    SEALED_SIZE,
    SHARES_SIZE,
    Agreement,
    channel,
    commitment,
    pair_mask_key,
    read_advert,
    read_adverts,
    self_mask_key,
)
from fedmarket.aggregation.secagg.masks import add_masks, need_words, pair_sign
from fedmarket.aggregation.secagg.shamir import KEY_FIELD, SEED_FIELD, element, split
from fedmarket.aggregation.secagg.state import PartyState, Secrets
from fedmarket.aggregation.secagg.suite import KEY_SIZE, SEED_SIZE, Private, Signer, loaded, opened, public_of, sealed
from fedmarket.aggregation.secagg.wire import (
    ENVELOPE_SIZE,
    need_rising,
    open_message,
    read_sets,
    records,
    sign_message,
)
from fedmarket.arrays import AnyArray
from fedmarket.errors import BadMessage, Refusal

Answer = tuple[PartyState, bytes]
Random = Callable[[int], bytes]


def advertise(context: RoundContext, identity: Signer, *, _random: Random = os.urandom) -> Answer:
    """Return the state after step 1 and the signed public keys for this round.

    Raises:
        Refusal: if the identity is not in the roster.
    """
    own = context.roster.index_of_key(identity.public_key)
    if own is None:
        raise Refusal("this identity is not in the roster")
    secrets = Secrets(channel=_random(KEY_SIZE), mask=_random(KEY_SIZE))
    payload = public_of(bytes(secrets.channel)) + public_of(bytes(secrets.mask))
    message = sign_message(context, "advertise", sender=own, payload=payload, signer=identity)
    return PartyState(
        context=context, identity=identity, own=own, after="advertise", advert=message, secrets=secrets
    ), message


def share(state: PartyState, incoming: bytes, *, _random: Random = os.urandom) -> Answer:
    """Return the state after step 2 and the sealed shares of the self-mask seed and of the mask secret.

    Args:
        state: after :func:`advertise`.
        incoming: the signed advertisements, joined in roster order.

    Raises:
        BadMessage: if an advertisement is malformed, forged, of another context, listed twice or reuses a key.
        Refusal: if too few take part, the party's own advertisement is missing or changed, or the step is not due.
    """
    context, own = state.context, state.own
    with state.spending(after="advertise") as secrets:
        # 1. Who takes part, by signatures of members of the party's own roster.
        agreement = read_adverts(context, incoming)
        _need_enough(context, len(agreement.adverts), "advertise keys")
        if agreement.adverts.get(own) != read_advert(context, state.advert):
            raise Refusal("the party's own advertisement is missing or was changed")
        # 2. Shares of both secrets, one for each place of the roster.
        places, threshold = len(context.roster.members), context.roster.threshold
        secrets.seed = bytearray(_random(SEED_SIZE))
        of_seed = split(SEED_FIELD, bytes(secrets.seed), places=places, threshold=threshold, _random=_random)
        of_mask = split(KEY_FIELD, bytes(secrets.mask), places=places, threshold=threshold, _random=_random)
        dealt = [seed_share + mask_share for seed_share, mask_share in zip(of_seed, of_mask, strict=True)]
        # 3. Each pair of shares sealed for its holder; the party's own stay here.
        secrets.shares = bytearray(SHARES_SIZE * places)
        _keep(secrets, own, dealt[own])
        own_channel = loaded(bytes(secrets.channel))
        payload = commitment(context, agreement, bytes(secrets.seed), own=own) + b"".join(
            _sealed_shares(context, agreement, own_channel, own=own, peer=peer, shares=dealt[peer])
            for peer in agreement.adverts
            if peer != own
        )
        message = sign_message(context, "share", sender=own, payload=payload, signer=state.identity)
        return state.moved("share", secrets, adverts=bytes(incoming)), message


def mask(state: PartyState, incoming: bytes, words: AnyArray | Callable[[], AnyArray]) -> Answer:
    """Return the state after step 3 and the masked vector.

    Args:
        state: after :func:`share`, bound to the round's inputs.
        incoming: for each other party that shared, in roster order, its place (2 bytes) and the text sealed for us.
        words: (length,) residues of the context's width, or what computes them once all shares have opened; they are
            left as they are.

    Raises:
        BadMessage: if ``words`` or ``incoming`` are malformed or a text does not open.
        Refusal: if too few shared, the step is not due, or the state is not bound to inputs.
    """
    context, own = state.context, state.own
    with state.spending(after="share") as secrets:
        agreement = state.agreement()
        texts = _sealed_texts(state, agreement, incoming)
        sharers = tuple(sorted((own, *texts)))
        _need_enough(context, len(sharers), "shared their keys")
        own_channel, own_mask = loaded(bytes(secrets.channel)), loaded(bytes(secrets.mask))
        for peer, text in texts.items():
            _keep(secrets, peer, _opened_shares(context, agreement, own_channel, own=own, peer=peer, text=text))
        found = words() if callable(words) else words
        need_words(found, length=context.length, modulus_bits=context.modulus_bits)
        masked = found.copy()
        pairs = [
            (pair_mask_key(context, agreement, own_mask, own=own, peer=peer), pair_sign(own, peer)) for peer in texts
        ]
        add_masks(masked, [(self_mask_key(context, agreement, bytes(secrets.seed), own=own), 1), *pairs])
        secrets.wipe("channel", "mask", "seed")
        message = sign_message(context, "mask", sender=own, payload=words_to_bytes(masked), signer=state.identity)
        return state.moved("mask", secrets, sharers=sharers), message


def consent(state: PartyState, incoming: bytes) -> Answer:
    """Return the state after step 4 and the signed sets of survivors and drop-outs.

    Args:
        state: after :func:`mask`.
        incoming: two bitmaps, of those whose masked vector the server has and of those who shared and then dropped.

    Raises:
        BadMessage: if the bitmaps are malformed.
        Refusal: if a party is listed twice, or as both, or not at all, if we are listed as dropped, if too few
            survive, or if the step is not due.
    """
    context = state.context
    with state.spending(after="mask") as secrets:
        survivors, dropped = read_sets(context, incoming)
        _need_partition(state, survivors, dropped)
        if state.own not in survivors:
            raise Refusal("the server lists this party as dropped although it has answered")
        _need_enough(context, len(survivors), "survive")
        message = sign_message(context, "consent", sender=state.own, payload=incoming, signer=state.identity)
        return state.moved("consent", secrets, sets=bytes(incoming)), message


def unmask(state: PartyState, incoming: bytes) -> Answer:
    """Return the state after step 5, without secrets, and for each party one of its two shares.

    Args:
        state: after :func:`consent`.
        incoming: the signed consents, joined in roster order.

    Raises:
        BadMessage: if a consent is malformed or forged.
        Refusal: if a party signed other sets than we did, if fewer than the threshold signed, if our own consent is
            missing, or if the step is not due.

    Guarantees:
        For a survivor only the share of its seed leaves, for a drop-out only the share of its mask secret, and the
        state answers once. Whoever keeps states on disk records the answer before sending it.
    """
    context = state.context
    members = len(context.roster.members)
    with state.spending(after="consent") as secrets:
        signers = []
        for message in records(incoming, ENVELOPE_SIZE + len(state.sets), most=members):
            place, sets = open_message(context, "consent", message, payload_size=len(state.sets))
            if sets != state.sets:
                raise Refusal(f"{context.roster.names[place]} was shown other survivors than this party")
            signers.append(place)
        need_rising(signers)
        survivors, _ = read_sets(context, state.sets)
        if not set(signers) <= set(survivors) or state.own not in signers:
            raise Refusal("the signers of the survivors are not survivors, or this party is not among them")
        if len(signers) < context.roster.threshold:
            raise Refusal(f"expected {context.roster.threshold} signatures of the survivors, got {len(signers)}")
        payload = b"".join(_released(secrets, place, place in survivors) for place in state.sharers)
        secrets.wipe()
        message = sign_message(context, "unmask", sender=state.own, payload=payload, signer=state.identity)
        return state.moved("unmask", secrets), message


def _need_enough(context: RoundContext, count: int, did: str) -> None:
    if count < context.least:
        raise Refusal(f"expected at least {context.least} parties that {did}, got {count}")


def _need_partition(state: PartyState, survivors: tuple[int, ...], dropped: tuple[int, ...]) -> None:
    names = state.context.roster.names
    for place in sorted(set(survivors) & set(dropped)):
        raise Refusal(f"{names[place]} is listed both as survivor and as dropped")
    for place in sorted({*survivors, *dropped} ^ set(state.sharers)):
        raise Refusal(f"{names[place]} is listed without having shared its keys, or shared them and is not listed")


def _sealed_texts(state: PartyState, agreement: Agreement, incoming: bytes) -> dict[int, bytes]:
    texts = {}
    listed = []
    for record in records(incoming, 2 + SEALED_SIZE, most=len(agreement.adverts)):
        place = int.from_bytes(record[:2], "big")
        if place not in agreement.adverts or place == state.own:
            raise BadMessage("shares from a party that advertised no keys, or from this party itself")
        listed.append(place)
        texts[place] = record[2:]
    need_rising(listed)
    return texts


def _sealed_shares(
    context: RoundContext, agreement: Agreement, secret: Private, *, own: int, peer: int, shares: bytes
) -> bytes:
    key, associated = channel(context, agreement, secret, own=own, peer=peer, sender=own)
    return sealed(key, shares, associated)


def _opened_shares(
    context: RoundContext, agreement: Agreement, secret: Private, *, own: int, peer: int, text: bytes
) -> bytes:
    key, associated = channel(context, agreement, secret, own=own, peer=peer, sender=peer)
    shares = opened(key, text, associated)
    if shares is None:
        raise BadMessage(f"the shares from {context.roster.names[peer]} do not open")
    element(SEED_FIELD, shares[: SEED_FIELD.share_size])
    element(KEY_FIELD, shares[SEED_FIELD.share_size :])
    return shares


def _keep(secrets: Secrets, place: int, shares: bytes) -> None:
    secrets.shares[place * SHARES_SIZE : (place + 1) * SHARES_SIZE] = shares


def _released(secrets: Secrets, place: int, survived: bool) -> bytes:
    middle = place * SHARES_SIZE + SEED_FIELD.share_size
    if survived:
        return bytes(secrets.shares[place * SHARES_SIZE : middle])
    return bytes(secrets.shares[middle : (place + 1) * SHARES_SIZE])
