"""Masks: ChaCha20 keystreams (RFC 8439) added to words in place, at the speed of the cipher.

Of two members the one that comes first in the roster adds their common mask and the other subtracts it, so that it is
gone from the sum.
"""

from collections.abc import Iterable
from typing import Literal

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

from fedmarket.arrays import AnyArray, WordArray
from fedmarket.errors import BadMessage

Sign = Literal[1, -1]

CHUNK = 1 << 17
"""Bytes of keystream held at once: small enough to stay in a core's cache until they are added."""

_ZEROS = bytes(CHUNK)


def pair_sign(own: int, peer: int) -> Sign:
    """Return the sign with which member ``own`` applies its common mask with ``peer``."""
    return 1 if own < peer else -1


def add_masks(words: WordArray, masks: Iterable[tuple[bytes, Sign]]) -> None:
    """Add to ``words`` (length,) in place, modulo their own width, each mask with its sign.

    A mask is the keystream under its 32-byte key, nonce and counter zero, as little-endian words. A key gives one mask
    and is used for nothing else, so the zero nonce is safe; the 32-bit block counter reaches 256 GiB.

    Guarantees:
        Adding and subtracting the same mask leaves the words as they were. The order of masks does not matter.
    """
    stream = bytearray(CHUNK)
    chunk = np.frombuffer(stream, dtype=words.dtype.newbyteorder("<"))
    step = len(chunk)
    for key, sign in masks:
        cipher = Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor()
        apply = np.add if sign == 1 else np.subtract
        for start in range(0, len(words), step):
            part = words[start : start + step]
            if len(part) == step:
                cipher.update_into(_ZEROS, stream)
            else:
                cipher.update_into(memoryview(_ZEROS)[: part.nbytes], stream)
            apply(part, chunk[: len(part)], out=part)
    stream[:] = _ZEROS


def need_words(words: AnyArray, *, length: int, modulus_bits: int) -> None:
    """Raise a BadMessage unless ``words`` are (length,) unsigned words of ``modulus_bits``."""
    expected = np.dtype(f"u{modulus_bits // 8}")
    if words.dtype != expected or words.shape != (length,):
        raise BadMessage(f"expected words {expected} of shape ({length},), got {words.dtype} of {words.shape}")
