"""Summing the survivors' residues: what the coordinator needs from a round, and the plain sum that provides it.

:class:`IdealSum` adds plain residues in one step; it is for quick research, where the server may see each update.
:class:`fedmarket.aggregation.secagg.server.SecureSum` gives the same sum in five steps, and sees nothing else.
"""

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from fedmarket.aggregation.fixedpoint import bytes_to_words
from fedmarket.aggregation.steps import IN_THE_OPEN, Step
from fedmarket.arrays import WordArray
from fedmarket.errors import BadMessage, RoundVoid


class RoundSum(Protocol):
    """A round of a fixed sequence of steps: in each, something goes out, answers come in, and the step is closed.

    Guarantees:
        :meth:`total` is the sum over exactly the survivors, or the round is void. There are no partial sums.
    """

    @property
    def steps(self) -> tuple[Step, ...]:
        """The steps in order."""

    @property
    def survivors(self) -> tuple[str, ...]:
        """Names of those whose words are in the sum, sorted."""

    @property
    def suspects(self) -> tuple[str, ...]:
        """Where answers did not fit together: who may have caused it."""

    def bind(self, inputs: bytes) -> None:
        """Say, before words are asked for, what they are computed from: 32 bytes that are the same at all parties."""

    def outgoing(self, step: Step) -> dict[str, bytes]:
        """Return what goes to each party that is still in the round, for it to answer ``step``."""

    def receive(self, step: Step, name: str, message: bytes) -> None:
        """Take the answer of the party ``name``.

        Raises:
            BadMessage: if it cannot be used; the party is then out of this round.
        """

    def close(self, step: Step) -> None:
        """End ``step``: whoever has not answered is out of this round.

        Raises:
            RoundVoid: if too few are left.
        """

    def total(self) -> WordArray:
        """Return the sum over the survivors, (length,) words."""


@dataclass(slots=True, kw_only=True)
class IdealSum:
    """The plain sum of ``parties``' words, of which at least ``least`` must come: words wrap at their own modulus."""

    round_number: int
    parties: tuple[str, ...]
    least: int
    length: int
    modulus_bits: int
    suspects: tuple[str, ...] = ()
    _messages: dict[str, WordArray] = field(default_factory=dict, repr=False)
    _lost: set[str] = field(default_factory=set)

    @property
    def steps(self) -> tuple[Step, ...]:
        """See :class:`RoundSum`."""
        return IN_THE_OPEN

    @property
    def survivors(self) -> tuple[str, ...]:
        """See :class:`RoundSum`."""
        return tuple(sorted(self._messages))

    def bind(self, inputs: bytes) -> None:
        """See :class:`RoundSum`; nothing is bound in the open."""

    def outgoing(self, step: Step) -> dict[str, bytes]:  # noqa: ARG002 - there is one step, and nothing to say in it
        """See :class:`RoundSum`."""
        return dict.fromkeys(sorted(self.parties), b"")

    def receive(self, step: Step, name: str, message: bytes) -> None:
        """See :class:`RoundSum`."""
        if name not in self.parties or name in self._lost:
            raise BadMessage("from a party that is not in this round")
        if name in self._messages:
            raise BadMessage("a second update in the same round")
        size = self.length * self.modulus_bits // 8
        if step not in self.steps or len(message) != size:
            self._lost.add(name)
            raise BadMessage(f"expected an update of {size} bytes in the step sum, got {len(message)} in {step}")
        self._messages[name] = bytes_to_words(message, modulus_bits=self.modulus_bits)

    def close(self, step: Step) -> None:
        """See :class:`RoundSum`."""
        if len(self._messages) < self.least:
            raise RoundVoid(
                f"round {self.round_number} is void, {step}: expected at least {self.least} parties, "
                f"{len(self._messages)} are left"
            )

    def total(self) -> WordArray:
        """See :class:`RoundSum`."""
        total = np.zeros(self.length, dtype=f"u{self.modulus_bits // 8}")
        for words in self._messages.values():
            total += words
        return total
