"""Real vectors as residues modulo 2 ** 32 or 2 ** 64: what secure aggregation can mask and add.

A value v becomes the integer nearest to v / resolution, negative ones in two's complement. The resolution is a power of
two, found from public bounds so that the sum of all parties cannot wrap. What would not fit is an error, never a
silent clip.
"""

import sys
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np

from fedmarket.arrays import FloatArray, WordArray
from fedmarket.errors import BadMessage, PlanError
from fedmarket.privacy.mechanism import Mechanism, finest_step

FINEST_STEP = 2.0**-20
"""Least step of the grid in standard deviations of noise: too small to matter, too large to see its last bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FixedPoint:
    """A grid of step ``resolution`` on which ``parties`` values of at most ``bound`` can be added.

    Guarantees:
        For at most ``parties`` vectors that :meth:`encode` accepts, :meth:`decode` of their sum modulo
        ``2 ** modulus_bits`` is the sum of the rounded vectors, to float64's own precision.
    """

    modulus_bits: Literal[32, 64]
    parties: int
    bound: float
    resolution: float

    @classmethod
    def for_bound(
        cls, bound: float, *, parties: int, modulus_bits: Literal[32, 64], no_finer_than: float = 0.0
    ) -> Self:
        """Return the finest grid on which ``parties`` values within ``bound`` cannot wrap when added.

        ``no_finer_than`` keeps it coarse enough that rounding hides the last bits of floating-point noise.
        """
        resolution = finest_step(bound, parties=parties, modulus_bits=modulus_bits, no_finer_than=no_finer_than)
        return cls(modulus_bits=modulus_bits, parties=parties, bound=bound, resolution=resolution)

    @classmethod
    def on_grid(cls, bound: float, *, parties: int, modulus_bits: Literal[32, 64], resolution: float) -> Self:
        """Return the grid of step ``resolution``.

        Raises:
            PlanError: if ``parties`` values within ``bound`` could wrap when added.
        """
        if not finest_step(bound, parties=parties, modulus_bits=modulus_bits) <= resolution:
            raise PlanError(f"aggregation.modulus_bits: {modulus_bits} bits do not hold the sum with its noise")
        return cls(modulus_bits=modulus_bits, parties=parties, bound=bound, resolution=resolution)

    @classmethod
    def for_mechanism(
        cls, mechanism: Mechanism, *, parties: int, party_rows: int, modulus_bits: Literal[32, 64], releases: int = 1
    ) -> Self:
        """Return the grid of a party's noisy sum, sized by public bounds so that the sum of all cannot wrap.

        Args:
            mechanism: of the sum; its grid is kept where parties share the noise.
            parties: most of them in a sum.
            party_rows: most rows of a party.
            modulus_bits: width of a word.
            releases: how many noisy sums a party adds up before it sends them.

        Raises:
            PlanError: if noise that parties share does not fit the words.
        """
        bound = releases * (mechanism.sensitivity * party_rows + mechanism.noise_reach)
        if mechanism.grid is not None:
            return cls.on_grid(bound, parties=parties, modulus_bits=modulus_bits, resolution=mechanism.grid.resolution)
        finest = mechanism.noise_std * FINEST_STEP
        return cls.for_bound(bound, parties=parties, modulus_bits=modulus_bits, no_finer_than=finest)

    def encode(self, vector: FloatArray) -> WordArray:
        """Return ``vector`` (p,) as residues (p,), of ``word_dtype``.

        Raises:
            BadMessage: if a coordinate is outside of the bound or not a number; nothing must leave then.
        """
        if not np.all(np.abs(vector) <= self.bound):
            raise BadMessage("update out of the public range")  # how far, or where, is the party's own affair
        signed = np.rint(vector / self.resolution).astype(f"i{self.modulus_bits // 8}")
        return signed.view(self.word_dtype)

    def decode(self, words: WordArray) -> FloatArray:
        """Return the sum of residues (p,) as the real vector (p,), by the representative nearest to zero."""
        return words.view(f"i{self.modulus_bits // 8}").astype(np.float64) * self.resolution

    @property
    def word_dtype(self) -> np.dtype[np.unsignedinteger]:
        """The unsigned type whose arithmetic wraps at the modulus."""
        return np.dtype(f"u{self.modulus_bits // 8}")


def words_to_bytes(words: WordArray) -> bytes:
    """Return ``words`` as little-endian bytes."""
    return words.tobytes() if sys.byteorder == "little" else words.byteswap().tobytes()


def bytes_to_words(content: bytes | memoryview, *, modulus_bits: int) -> WordArray:
    """Return little-endian bytes as words of this machine, read-only where no copy was needed."""
    return np.frombuffer(content, dtype=f"<u{modulus_bits // 8}").astype(f"u{modulus_bits // 8}", copy=False)
