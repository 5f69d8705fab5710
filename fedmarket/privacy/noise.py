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
        found = np.zeros(count, dtype="<u8")
        self.fill(found)
        return found

    def fill(self, words: NDArray[np.uint64]) -> None:
        """Write uniform words over zeros, (n,) little-endian."""
        octets = words.view(np.uint8).data
        self._cipher.update_into(octets, octets)  # what encrypts zeros is the key stream itself

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
        words = np.zeros((len(streams), 8 * half), dtype="<u8")
        for stream, own in zip(streams, words, strict=True):
            stream.fill(own)
        units = _open_unit(words).reshape(len(streams), 2, 4, half)
        radius, tangent = units[:, 0], units[:, 1]
        np.log(radius, out=radius)
        radius *= -2.0
        np.sqrt(radius, out=radius)
        # Cosine and sine by the tangent of half the angle: numpy has a fast one, and both from it to 3e-16.
        tangent *= np.pi
        np.tan(tangent, out=tangent)
        square = tangent * tangent
        radius /= 1.0 + square
        # They are independent normals of one pair: the ones go into one output, the others into another.
        np.subtract(1.0, square, out=square)
        square *= radius
        tangent *= radius
        square.sum(axis=1, out=block[:, :half])
        tangent.sum(axis=1, out=block[:, half:])
        block[:, :half] *= 0.5  # a sum of four has the deviation 2; the sine is twice what was added already
    return found[:, :count]


_BLOCK = 1 << 11  # even, and small enough for the cache


def _cipher(key: bytes) -> CipherContext:
    # The key is used once, so a zero nonce and counter are safe.
    return Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor()


def _open_unit(words: NDArray[np.uint64]) -> FloatArray:
    """Map words to (0, 1] in steps of 2 ** -53; zero is left out, its logarithm would be infinite."""
    found = (words >> np.uint64(11)).astype(np.float64)
    found += 1.0
    found *= 2.0**-53
    return found
