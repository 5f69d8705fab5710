"""From released shares to seeds and keys, each held against what its owner signed before anyone knew who would drop."""

import hmac
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from fedmarket.aggregation.secagg.context import RoundContext
from fedmarket.aggregation.secagg.keys import Agreement, commitment
from fedmarket.aggregation.secagg.shamir import KEY_FIELD, SEED_FIELD, combined, strays, weights
from fedmarket.aggregation.secagg.suite import public_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovery:
    """What the shares gave.

    Attributes:
        seeds: place of each survivor -> its self-mask seed.
        keys: place of each drop-out -> its X25519 mask secret.
        faults: one line for each secret that could not be put together.
        suspects: places that may have caused them, rising.
    """

    seeds: dict[int, bytes] = field(default_factory=dict, repr=False)
    keys: dict[int, bytes] = field(default_factory=dict, repr=False)
    faults: tuple[str, ...] = ()
    suspects: tuple[int, ...] = ()


def recover(
    context: RoundContext,
    agreement: Agreement,
    *,
    released: Mapping[int, Mapping[int, int]],
    survivors: tuple[int, ...],
    commitments: Mapping[int, bytes],
) -> Recovery:
    """Return every seed and key that ``released`` (owner -> holder -> value) should give, and the faults.

    Guarantees:
        A returned seed fits its owner's signed commitment, a returned key its advertised public key. If a share that
        was used is wrong, there is a fault.
    """
    threshold = context.roster.threshold
    holders = sorted(next(iter(released.values())))
    found: dict[int, bytes] = {}
    wrong: list[int] = []
    by = {each.prime: weights(each, [holder + 1 for holder in holders[:threshold]]) for each in (SEED_FIELD, KEY_FIELD)}
    for owner, shares in released.items():
        kind = SEED_FIELD if owner in survivors else KEY_FIELD
        right = _check_of(context, agreement, owner, commitments if owner in survivors else None)
        secret = combined(kind, [shares[holder] for holder in holders[:threshold]], by[kind.prime])
        if secret is not None and right(secret):
            found[owner] = secret
        else:
            wrong.append(owner)
    if wrong:
        return _blame(context, {owner: released[owner] for owner in wrong}, survivors)
    return Recovery(
        seeds={owner: secret for owner, secret in found.items() if owner in survivors},
        keys={owner: secret for owner, secret in found.items() if owner not in survivors},
    )


def _check_of(
    context: RoundContext, agreement: Agreement, owner: int, commitments: Mapping[int, bytes] | None
) -> Callable[[bytes], bool]:
    if commitments is None:
        return lambda secret: hmac.compare_digest(public_of(secret), agreement.adverts[owner].mask)
    return lambda secret: hmac.compare_digest(commitment(context, agreement, secret, own=owner), commitments[owner])


def _blame(context: RoundContext, released: Mapping[int, Mapping[int, int]], survivors: tuple[int, ...]) -> Recovery:
    """Return the faults of owners whose secrets could not be put together, and who may have caused them."""
    names = context.roster.names
    faults: list[str] = []
    pairs: list[tuple[int, int]] = []
    dealers: set[int] = set()
    for owner, shares in released.items():
        kind = SEED_FIELD if owner in survivors else KEY_FIELD
        values = {holder + 1: value for holder, value in shares.items()}
        off = strays(kind, values, threshold=context.roster.threshold)
        # On one polynomial with a share to spare, the shares are as they were dealt.
        if off == frozenset() and len(values) > context.roster.threshold:
            dealers.add(owner)
            faults.append(f"the shares that {names[owner]} dealt do not combine to what it signed")
        elif not off:
            faults.append(f"the shares of {names[owner]} do not combine (its fault, or their holders')")
        for place in sorted(off or ()):
            pairs.append((owner, place - 1))
            holder = names[place - 1]
            faults.append(
                f"the share of {names[owner]} that {holder} released is wrong (its fault, or {names[owner]}'s)"
            )
    return Recovery(faults=tuple(faults), suspects=tuple(sorted(dealers | _suspects(pairs))))


def _suspects(pairs: list[tuple[int, int]]) -> set[int]:
    """Return the holders that fail several owners, the owners that fail several holders, and else both."""
    of_owner, of_holder = Counter(owner for owner, _ in pairs), Counter(holder for _, holder in pairs)
    suspects: set[int] = set()
    for owner, holder in pairs:
        if of_holder[holder] > 1:
            suspects.add(holder)
        elif of_owner[owner] > 1:
            suspects.add(owner)
        else:
            suspects |= {owner, holder}
    return suspects
