"""Noise and sampling coins from a ChaCha20 stream keyed by the operating system.

Torch's and numpy's generators are Mersenne Twister and PCG64: their output can be predicted, so they must not protect
anyone. A :class:`Stream` is ChaCha20 (RFC 8439) under a key from ``os.urandom``. Opacus' own ``secure_mode`` needs a
package that can no longer be installed.
"""

import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from numpy.typing import NDArray

from fedmarket.arrays import FloatArray


@dataclass(frozen=True, slots=True)
class Stream:
    """A stream of random words; make one with :meth:`secret`, in tests with :meth:`seeded`.

    Guarantees:
        Under a secret key the words are indistinguishable from uniform ones as long as ChaCha20 is a secure stream
        cipher. A seeded stream protects nobody, and whoever uses one must say so in what is published.
    """

    _cipher: CipherContext = field(repr=False)

    @classmethod
    def secret(cls) -> Self:
        """Return a stream under a fresh key from the operating system."""
        return cls(_cipher(os.urandom(32)))

    @classmethod
    def seeded(cls, seed: int, *labels: str) -> Self:
        """Return the reproducible stream of (seed, labels): FOR TESTS ONLY, no protection at all."""
        info = "\x1f".join(("fedmarket seeded-for-tests", *labels)).encode()
        derive = HKDF(algorithm=SHA256(), length=32, salt=None, info=info)
        return cls(_cipher(derive.derive(struct.pack(">Q", seed))))

    def words(self, count: int) -> NDArray[np.uint64]:
        """Return ``count`` uniform 64-bit words."""
        return np.frombuffer(self._cipher.update(bytes(8 * count)), dtype="<u8")

    def normals(self, count: int) -> FloatArray:
        """Return ``count`` standard normals, float64.

        Each is the sum of four independent Box-Muller normals over 2, so that a draw cannot be inverted from the
        floating-point pattern of one output (Mironov 2012; Holohan and Braghin 2021). A summand
        beyond 8.57, of probability 2 ** -53, never comes. The noisy sum is then rounded to a public grid, which as
        post-processing costs nothing.
        """
        return np.asarray(normals_of([self], count)[0])

    def coins(self, count: int, rate: float) -> NDArray[np.bool_]:
        """Return ``count`` independent coins that are heads with probability ``rate``, or less by under 2 ** -53.

        This is Poisson sampling: every row tosses its own coin, and the size of the sample is random.
        """
        if rate >= 1:
            return np.ones(count, dtype=np.bool_)
        threshold = np.uint64(int(rate * 2.0**53) << 11)
        return np.asarray(self.words(count) < threshold)


def normals_of(streams: Sequence[Stream], count: int) -> FloatArray:
    """Return what :meth:`Stream.normals` gives of each stream, (streams, count)."""
    found = np.empty((len(streams), count + count % 2))
    for start in range(0, found.shape[1], _BLOCK):
        block = found[:, start : start + _BLOCK]
        half = block.shape[1] // 2
        words = np.stack([stream.words(8 * half) for stream in streams]).reshape(len(streams), 2, 4, half)
        radius = np.sqrt(-2.0 * np.log(_open_unit(words[:, 0])))
        # Cosine and sine by the tangent of half the angle: numpy has a fast one, and both from it to 3e-16.
        tangent = np.tan(np.pi * _open_unit(words[:, 1]))
        square = tangent * tangent
        radius /= 1.0 + square
        # They are independent normals of one pair: the ones go into one output, the others into another.
        block[:, :half] = ((1.0 - square) * radius).sum(axis=1)
        block[:, half:] = (2.0 * tangent * radius).sum(axis=1)
    return np.asarray(found[:, :count] / 2.0)


_BLOCK = 1 << 12  # even, and small enough for the cache


def _cipher(key: bytes) -> CipherContext:
    # The key is used once, so a zero nonce and counter are safe.
    return Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor()


def _open_unit(words: NDArray[np.uint64]) -> FloatArray:
    """Map words to (0, 1] in steps of 2 ** -53; zero is left out, its logarithm would be infinite."""
    return ((words >> np.uint64(11)).astype(np.float64) + 1.0) * 2.0**-53
