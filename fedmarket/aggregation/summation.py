"""Summing the survivors' residues: the seam that secure aggregation fills.

An aggregation of one round takes from each party one message and gives the sum over those whose message was good.
:class:`IdealSum` adds plain residues; it is for quick research, where the server may see each update.
"""

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from fedmarket.arrays import AnyArray, WordArray
from fedmarket.errors import BadMessage


class RoundSum(Protocol):
    """What the coordinator needs from an aggregation of one round."""

    def add(self, party: str, message: AnyArray) -> None:
        """Take ``party``'s message.

        Raises:
            BadMessage: if it cannot be used; the party then does not count as a survivor.
        """

    @property
    def survivors(self) -> tuple[str, ...]:
        """Names of the parties whose messages are in the sum, sorted."""

    def total(self) -> WordArray:
        """Return the sum over the survivors, (length,) residues."""


@dataclass(slots=True)
class IdealSum:
    """The plain sum: unsigned words wrap at their own modulus."""

    length: int
    word_dtype: np.dtype[np.unsignedinteger]
    _messages: dict[str, WordArray] = field(default_factory=dict, repr=False)

    def add(self, party: str, message: AnyArray) -> None:
        """See :class:`RoundSum`."""
        if party in self._messages:
            raise BadMessage("a second update in the same round")
        self._messages[party] = checked_words(message, length=self.length, word_dtype=self.word_dtype)

    @property
    def survivors(self) -> tuple[str, ...]:
        """See :class:`RoundSum`."""
        return tuple(sorted(self._messages))

    def total(self) -> WordArray:
        """See :class:`RoundSum`."""
        total = np.zeros(self.length, dtype=self.word_dtype)
        for message in self._messages.values():
            total += message
        return total


def checked_words(message: AnyArray, *, length: int, word_dtype: np.dtype[np.unsignedinteger]) -> WordArray:
    """Return ``message`` as residues (length,).

    Raises:
        BadMessage: if dtype or shape is another.
    """
    if message.dtype != word_dtype:
        raise BadMessage(f"expected an update of dtype {word_dtype}, got {message.dtype}")
    if message.shape != (length,):
        raise BadMessage(f"expected an update of shape ({length},), got {message.shape}")
    return message
