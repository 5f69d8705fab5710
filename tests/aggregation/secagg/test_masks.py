"""Masks are the keystream, added at any length and width, and two signs cancel."""

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from hypothesis import given
from hypothesis import strategies as st

from fedmarket.aggregation.fixedpoint import bytes_to_words, words_to_bytes
from fedmarket.aggregation.secagg.masks import CHUNK, add_masks, pair_sign


def keystream(key, count):
    return Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor().update(bytes(count))


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("size", [8, CHUNK - 8, CHUNK, CHUNK + 8, 3 * CHUNK + 24])
def test_a_mask_is_the_keystream_in_little_endian_words(bits, size):
    words = np.zeros(size * 8 // bits, dtype=f"u{bits // 8}")
    add_masks(words, [(b"k" * 32, 1)])
    assert words_to_bytes(words) == keystream(b"k" * 32, size)
    add_masks(words, [(b"k" * 32, -1)])
    assert not words.any()


@given(keys=st.lists(st.binary(min_size=32, max_size=32), max_size=4), bits=st.sampled_from([32, 64]))
def test_masks_add_modulo_the_width_in_any_order(keys, bits):
    start = np.full(5, 2**bits - 1, dtype=f"u{bits // 8}")
    one, other = start.copy(), start.copy()
    add_masks(one, [(key, 1) for key in keys])
    add_masks(other, [(key, 1) for key in reversed(keys)])
    expected = [
        (2**bits - 1 + sum(int.from_bytes(keystream(k, 40)[i * bits // 8 :][: bits // 8], "little") for k in keys))
        % 2**bits
        for i in range(5)
    ]
    assert one.tolist() == other.tolist() == expected


def test_of_two_members_one_adds_and_the_other_subtracts():
    assert (pair_sign(0, 1), pair_sign(1, 0)) == (1, -1)


@pytest.mark.parametrize("bits", [32, 64])
def test_words_survive_the_wire(bits):
    words = np.array([0, 1, 2**bits - 1], dtype=f"u{bits // 8}")
    assert words_to_bytes(words)[: 2 * bits // 8] == (1 << bits).to_bytes(2 * bits // 8, "little")
    np.testing.assert_array_equal(bytes_to_words(memoryview(words_to_bytes(words)), modulus_bits=bits), words)
