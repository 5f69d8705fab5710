"""The server's side of a round of secure aggregation: it passes messages on, checks them, and unmasks the sum.

It is trusted with nothing but drop-outs: what it checks is for its own sake, so that a fault has a name.
"""

from collections.abc import Callable

import numpy as np

from fedmarket.aggregation.fixedpoint import bytes_to_words
from fedmarket.aggregation.secagg.context import RoundContext
from fedmarket.aggregation.secagg.keys import (
    SEALED_SIZE,
    Advert,
    Agreement,
    need_fresh_keys,
    need_high_order,
    pair_mask_key,
    read_advert,
    read_adverts,
    self_mask_key,
)
from fedmarket.aggregation.secagg.masks import Sign, add_masks, pair_sign
from fedmarket.aggregation.secagg.recovery import Recovery, recover
from fedmarket.aggregation.secagg.shamir import KEY_FIELD, SEED_FIELD, element
from fedmarket.aggregation.secagg.suite import HASH_SIZE, loaded
from fedmarket.aggregation.secagg.wire import open_message, write_sets
from fedmarket.aggregation.steps import SECURE, Step
from fedmarket.arrays import WordArray
from fedmarket.errors import BadMessage, RoundVoid


class SecureSum:
    """One round at the server: for each step :meth:`outgoing`, then :meth:`receive` from each, then :meth:`close`.

    Attributes:
        dropped: name of each party that was lost -> step and reason. A party lost after ``mask`` is still a survivor:
            its vector is in the sum.
        suspects: where shares did not combine, the parties that may have caused it, sorted; empty where that cannot be
            told. A hint for people, not a proof: a wrong share may be its dealer's fault or its holder's.

    Guarantees:
        :meth:`total` is the sum modulo 2 ** modulus_bits of the inputs of exactly :attr:`survivors`, or the round is
        void: too few parties, or a secret that does not fit what its owner signed. There are no partial sums.
    """

    def __init__(self, context: RoundContext) -> None:
        self.context = context
        self.dropped: dict[str, str] = {}
        self.suspects: tuple[str, ...] = ()
        self._step = 0
        self._alive = set(range(len(context.roster.members)))
        self._messages: dict[int, bytes] = {}  # of the step that is open
        self._adverts: dict[int, Advert] = {}
        self._agreement = Agreement(adverts={}, transcript=b"")
        self._joined = b""
        self._sealed: dict[int, dict[int, bytes]] = {}  # receiver -> sender -> text
        self._commitments: dict[int, bytes] = {}
        self._sharers: tuple[int, ...] = ()
        self._sum: WordArray = np.zeros(context.length, dtype=f"u{context.modulus_bits // 8}")
        self._survivors: tuple[int, ...] = ()
        self._sets = b""
        self._released: dict[int, dict[int, int]] = {}  # owner -> holder -> value
        self._recovery: Recovery | None = None
        self._unmasked = False
        self._void = ""

    @property
    def steps(self) -> tuple[Step, ...]:
        """The five steps, in order."""
        return SECURE

    @property
    def survivors(self) -> tuple[str, ...]:
        """Names of those whose inputs are in the sum, sorted; empty before ``mask`` is closed and in a void round."""
        return () if self._void else tuple(self.context.roster.names[place] for place in self._survivors)

    def bind(self, inputs: bytes) -> None:
        """Say, before the step mask, what the vectors are computed from; see :class:`RoundContext`."""
        self.context = self.context.bound_to(inputs)

    def outgoing(self, step: Step) -> dict[str, bytes]:
        """Return what goes to each party that is still in the round, for it to answer ``step``.

        Raises:
            RoundVoid: if the round is void.
            ValueError: if ``step`` is not the open one.
        """
        self._need_open(step)
        return {self.context.roster.names[place]: self._packet(step, place) for place in sorted(self._alive)}

    def receive(self, step: Step, name: str, message: bytes) -> None:
        """Take the answer of ``name``, whom the transport has authenticated.

        Raises:
            BadMessage: naming party and fault; the party is dropped for the round. A second answer to a step is
                refused too, but the first one stays.
            RoundVoid: if the round is void.
        """
        if self._void:
            raise RoundVoid(self._void)
        place = self.context.roster.index(name)
        if place is None:
            raise BadMessage("a message from a party that is not in the roster")
        if place not in self._alive:
            raise BadMessage(f"{name} is out of this round ({self.dropped[name]})")
        if place in self._messages:
            raise BadMessage(f"{name}: a second message for the step {step}")
        try:
            if self._step >= len(SECURE) or step != SECURE[self._step]:
                raise BadMessage(f"a message for the step {step}, which is not open")
            self._takers[step](place, message)
        except BadMessage as error:
            self._drop(place, str(error))
            raise BadMessage(f"{name}: {error}") from None
        self._messages[place] = message if step in ("advertise", "consent") else b""

    def close(self, step: Step) -> None:
        """End ``step``: whoever has not answered is dropped.

        Raises:
            RoundVoid: if too few are left or, after ``unmask``, shares do not combine; now and ever after.
            ValueError: if ``step`` is not the open one.
        """
        self._need_open(step)
        for place in sorted(self._alive - set(self._messages)):
            self._drop(place, "no answer")
        least = self.context.least if step in ("advertise", "share", "mask") else self.context.roster.threshold
        if len(self._alive) < least:
            self._end(f"{step}: expected at least {least} parties, {len(self._alive)} are left")
        self._closers[step]()
        self._messages = {}
        self._step += 1

    def total(self) -> WordArray:
        """Return the sum of the survivors' inputs, (length,) words.

        Raises:
            RoundVoid: if the round is void.
            ValueError: before ``unmask`` is closed.
        """
        if self._void:
            raise RoundVoid(self._void)
        if self._recovery is None:
            raise ValueError("the round is not closed")
        if not self._unmasked:
            add_masks(self._sum, self._masks_to_remove(self._recovery))
            self._unmasked = True
        return self._sum.copy()

    # What goes out.

    def _packet(self, step: Step, place: int) -> bytes:
        if step in ("share", "unmask"):
            return self._joined
        if step == "mask":
            texts = self._sealed.get(place, {})
            return b"".join(sender.to_bytes(2, "big") + texts[sender] for sender in self._sharers if sender in texts)
        return self._sets if step == "consent" else b""

    # What comes in, by step.

    @property
    def _takers(self) -> dict[Step, Callable[[int, bytes], None]]:
        return {
            "advertise": self._take_advert,
            "share": self._take_shares,
            "mask": self._take_vector,
            "consent": self._take_consent,
            "unmask": self._take_released,
        }

    def _take_advert(self, place: int, message: bytes) -> None:
        advert = read_advert(self.context, message)
        self._need_sender(place, advert.place)
        need_high_order(advert)
        need_fresh_keys(self.context, [*self._adverts.values(), advert])
        self._adverts[place] = advert

    def _take_shares(self, place: int, message: bytes) -> None:
        peers = [peer for peer in self._agreement.adverts if peer != place]
        payload = self._payload("share", place, message, HASH_SIZE + SEALED_SIZE * len(peers))
        self._commitments[place] = bytes(payload[:HASH_SIZE])
        for number, peer in enumerate(peers):
            start = HASH_SIZE + SEALED_SIZE * number
            self._sealed.setdefault(peer, {})[place] = bytes(payload[start : start + SEALED_SIZE])

    def _take_vector(self, place: int, message: bytes) -> None:
        payload = self._payload("mask", place, message, self.context.vector_size)
        self._sum += bytes_to_words(payload, modulus_bits=self.context.modulus_bits)

    def _take_consent(self, place: int, message: bytes) -> None:
        if self._payload("consent", place, message, len(self._sets)) != self._sets:
            raise BadMessage("signed other survivors than it was shown")

    def _take_released(self, place: int, message: bytes) -> None:
        fields = [SEED_FIELD if owner in self._survivors else KEY_FIELD for owner in self._sharers]
        payload = self._payload("unmask", place, message, sum(field.share_size for field in fields))
        start, values = 0, []
        for field in fields:
            values.append(element(field, bytes(payload[start : start + field.share_size])))
            start += field.share_size
        for owner, value in zip(self._sharers, values, strict=True):
            self._released.setdefault(owner, {})[place] = value

    def _payload(self, step: Step, place: int, message: bytes, size: int) -> memoryview:
        sender, payload = open_message(self.context, step, message, payload_size=size)
        self._need_sender(place, sender)
        return payload

    def _need_sender(self, expected: int, came: int) -> None:
        if came != expected:
            raise BadMessage(f"presents a message of {self.context.roster.names[came]}")

    # What a step leaves behind.

    @property
    def _closers(self) -> dict[Step, Callable[[], None]]:
        return {
            "advertise": self._close_adverts,
            "share": self._close_shares,
            "mask": self._close_vectors,
            "consent": self._join,
            "unmask": self._close_released,
        }

    def _join(self) -> None:
        self._joined = b"".join(self._messages[place] for place in sorted(self._alive))

    def _close_adverts(self) -> None:
        self._join()
        self._agreement = read_adverts(self.context, self._joined)

    def _close_shares(self) -> None:
        self._sharers = tuple(sorted(self._alive))

    def _close_vectors(self) -> None:
        self._survivors = tuple(sorted(self._alive))
        gone = tuple(place for place in self._sharers if place not in self._alive)
        self._sets = write_sets(self.context, self._survivors, gone)
        self._sealed = {}

    def _close_released(self) -> None:
        found = recover(
            self.context,
            self._agreement,
            released=self._released,
            survivors=self._survivors,
            commitments=self._commitments,
        )
        if found.faults:
            self.suspects = tuple(self.context.roster.names[place] for place in found.suspects)
            self._end(f"unmask: {found.faults[0]}" + _more(len(found.faults) - 1))
        self._recovery = found

    def _masks_to_remove(self, recovery: Recovery) -> list[tuple[bytes, Sign]]:
        context, agreement = self.context, self._agreement
        masks: list[tuple[bytes, Sign]] = [
            (self_mask_key(context, agreement, seed, own=place), -1) for place, seed in recovery.seeds.items()
        ]
        for gone, secret_bytes in recovery.keys.items():
            secret = loaded(secret_bytes)
            for place in self._survivors:
                key = pair_mask_key(context, agreement, secret, own=gone, peer=place)
                masks.append((key, pair_sign(gone, place)))  # the survivor's sign is the other one
        return masks

    # Ends.

    def _need_open(self, step: Step) -> None:
        if self._void:
            raise RoundVoid(self._void)
        if self._step >= len(SECURE) or step != SECURE[self._step]:
            raise ValueError(f"the step {step} is not open")

    def _drop(self, place: int, reason: str) -> None:
        self._alive.discard(place)
        step = SECURE[self._step] if self._step < len(SECURE) else "end"
        self.dropped[self.context.roster.names[place]] = f"{step}: {reason}"

    def _end(self, reason: str) -> None:
        self._void = f"round {self.context.round_number} is void, {reason}"
        self._released, self._sealed, self._messages = {}, {}, {}
        self._sum = self._sum[:0]
        raise RoundVoid(self._void)


def _more(count: int) -> str:
    return f" (and {count} more)" if count else ""
