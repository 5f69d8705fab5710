"""What a party remembers between two messages of a round: public facts, and secrets that can be taken once.

Every step takes the secrets out of the state it is given, so a state answers once; a failure overwrites them. Python
cannot promise more: copies made by its own byte strings and inside of `cryptography` are freed, not overwritten.
"""

import hmac
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, NoReturn

from fedmarket.aggregation.secagg.context import RoundContext
from fedmarket.aggregation.secagg.keys import ADVERT_SIZE, SHARES_SIZE, Agreement, reread_adverts
from fedmarket.aggregation.secagg.suite import KEY_SIZE, SEED_SIZE, Signer, packed
from fedmarket.aggregation.secagg.wire import ENVELOPE_SIZE, from_bitmap, to_bitmap
from fedmarket.aggregation.steps import SECURE, Step
from fedmarket.errors import BadMessage, Refusal

MAGIC = b"fedmarket secagg state/2"


class Secrets:
    """A party's secrets of one round, in memory that can be overwritten; never shown, pickled or copied.

    Attributes:
        channel: X25519 secret of the share channel.
        mask: X25519 secret of the pair masks.
        seed: self-mask seed.
        shares: for each member, by place, the share of its seed and of its mask secret; zeros where there is none.
    """

    __slots__ = ("_taken", "channel", "mask", "seed", "shares")

    def __init__(self, *, channel: bytes = b"", mask: bytes = b"", seed: bytes = b"", shares: bytes = b"") -> None:
        self.channel, self.mask, self.seed, self.shares = map(bytearray, (channel, mask, seed, shares))
        self._taken = False

    def take(self) -> "Secrets":
        """Return the secrets as a new owner's; this one is empty from now on.

        Raises:
            Refusal: if they were taken before.
        """
        if self._taken:
            raise Refusal("this state of the round has answered already")
        self._taken = True
        taken = Secrets()
        for name in self._names():
            setattr(taken, name, getattr(self, name))
            setattr(self, name, bytearray())
        return taken

    def wipe(self, *names: str) -> None:
        """Overwrite and forget the named secrets, all where none is named."""
        for name in names or self._names():
            held: bytearray = getattr(self, name)
            held[:] = bytes(len(held))
            setattr(self, name, bytearray())

    def dumped(self) -> bytes:
        """Return the secrets in clear."""
        if self._taken:
            raise Refusal("this state of the round has answered already")
        return packed(*(bytes(getattr(self, name)) for name in self._names()))

    @staticmethod
    def _names() -> tuple[str, ...]:
        return ("channel", "mask", "seed", "shares")

    def __repr__(self) -> str:
        return "Secrets(...)"

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("secrets of a round are neither copied nor pickled")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PartyState:
    """One party in one round; made by :func:`fedmarket.aggregation.secagg.party.advertise`.

    Attributes:
        context: the round, as the party knows it.
        identity: the party's long-term key; it is never part of :meth:`to_bytes`.
        own: the party's place in the roster.
        after: the last step that it answered.
        advert: its own signed advertisement.
        adverts: all advertisements it was shown, joined.
        sharers: places of the parties whose shares it holds, itself included.
        sets: the survivors and drop-outs that it signed, two bitmaps.

    Guarantees:
        Each state answers once. After an unmasking or a failure no secret of the round is left in it. Neither repr
        nor pickle shows a secret; pickle and copy refuse.
    """

    context: RoundContext = field(repr=False)
    identity: Signer = field(repr=False)
    own: int
    after: Step
    advert: bytes = field(repr=False)
    adverts: bytes = field(default=b"", repr=False)
    sharers: tuple[int, ...] = ()
    sets: bytes = field(default=b"", repr=False)
    secrets: Secrets = field(repr=False)

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("a party's state is not pickled; to_bytes gives its bytes, secrets in clear")

    @contextmanager
    def spending(self, *, after: Step) -> Iterator[Secrets]:
        """Give the secrets to the step that follows ``after``; if that fails they are overwritten.

        Raises:
            Refusal: if another step is due, or this state has answered already.
        """
        secrets = self.secrets.take()
        try:
            if self.after != after:
                raise Refusal(f"asked for the step after {after}, but the last step answered is {self.after}")
            yield secrets
        except BaseException:
            secrets.wipe()
            raise

    def bound_to(self, inputs: bytes) -> "PartyState":
        """Return the state, with the same secrets, of the round bound to ``inputs``.

        Raises:
            Refusal: if it is bound to others already, or they are no hash.
        """
        return replace(self, context=self.context.bound_to(inputs))

    def agreement(self) -> Agreement:
        """Return the advertisements shown, which were checked when they came."""
        return reread_adverts(self.context, self.adverts)

    def moved(self, step: Step, secrets: Secrets, **changes: Any) -> "PartyState":
        """Return the state after ``step`` with ``secrets`` as its own."""
        return replace(self, after=step, secrets=secrets.take(), **changes)

    def to_bytes(self) -> bytes:
        """Return the state for another process. SECRETS ARE IN CLEAR: memory only, or a file that nobody else reads.

        Raises:
            Refusal: if the state has answered already.
        """
        members = len(self.context.roster.members)
        return packed(
            MAGIC,
            self.context.hash,
            self.context.inputs,
            self.identity.public_key,
            self.after.encode(),
            self.advert,
            self.adverts,
            to_bitmap(self.sharers, members=members),
            self.sets,
            self.secrets.dumped(),
        )

    @classmethod
    def from_bytes(cls, content: bytes, *, context: RoundContext, identity: Signer) -> "PartyState":
        """Return the state from :meth:`to_bytes`; the party brings context and identity from its own documents.

        Whoever keeps such bytes must take care that they are used once: the same bytes give the same masks.

        Raises:
            BadMessage: if the bytes are malformed, or of another context or identity.
            Refusal: if they are of a round with other inputs than the context has.
        """
        magic, context_hash, inputs, public_key, after, advert, adverts, sharers, sets, dumped = unpacked(content, 10)
        if magic != MAGIC or after.decode("ascii", "replace") not in SECURE:
            raise BadMessage("not a party's state")
        if inputs:
            context = context.bound_to(inputs)
        if not hmac.compare_digest(context_hash, context.hash) or public_key != identity.public_key:
            raise BadMessage("the state is of another round or identity")
        own = context.roster.index_of_key(public_key)
        if own is None:
            raise BadMessage("the state's identity is not in the roster")
        channel, mask, seed, shares = unpacked(dumped, 4)
        members = len(context.roster.members)
        wrong = (
            len(advert) != ENVELOPE_SIZE + ADVERT_SIZE
            or len(channel) not in (0, KEY_SIZE)
            or len(mask) not in (0, KEY_SIZE)
            or len(seed) not in (0, SEED_SIZE)
            or len(shares) not in (0, SHARES_SIZE * members)
        )
        if wrong:
            raise BadMessage("not a party's state")
        return cls(
            context=context,
            identity=identity,
            own=own,
            after=SECURE[[step.encode() for step in SECURE].index(after)],
            advert=advert,
            adverts=adverts,
            sharers=from_bitmap(sharers, members=members),
            sets=sets,
            secrets=Secrets(channel=channel, mask=mask, seed=seed, shares=shares),
        )


def unpacked(content: bytes, count: int) -> list[bytes]:
    """Return the ``count`` parts that :func:`packed` joined.

    Raises:
        BadMessage: if ``content`` is anything else.
    """
    parts, end = [], 0
    for _ in range(count):
        start = end + 4
        end = start + int.from_bytes(content[start - 4 : start], "big")
        if len(content) < end:
            raise BadMessage("packed bytes end too soon")
        parts.append(content[start:end])
    if len(content) > end:
        raise BadMessage("packed bytes go on too long")
    return parts
