"""The primitives as used here, against the vectors of their RFCs."""

import json
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from fedmarket.aggregation.fixedpoint import words_to_bytes
from fedmarket.aggregation.secagg.masks import add_masks
from fedmarket.aggregation.secagg.suite import agreed, derived, opened, packed, public_of, sealed, verified

RFC = json.loads((Path(__file__).parents[2] / "vectors" / "secagg" / "rfc.json").read_text(encoding="utf-8"))


def values(name):
    return {key: bytes.fromhex(value) for key, value in RFC[name].items() if key != "source"}


def test_x25519_agrees_as_in_rfc_7748():
    known = values("x25519")
    assert public_of(known["alice_private"]) == known["alice_public"]
    assert public_of(known["bob_private"]) == known["bob_public"]
    assert agreed(known["alice_private"], known["bob_public"]) == known["shared"]
    assert agreed(known["bob_private"], known["alice_public"]) == known["shared"]


@pytest.mark.parametrize("low", [bytes(32), b"\1" + bytes(31), (2**255 - 20).to_bytes(32, "little")])
def test_x25519_refuses_keys_of_low_order(low):
    assert agreed(b"\7" * 32, low) is None


def test_hkdf_derives_as_in_rfc_5869():
    known = values("hkdf_sha256")
    assert derived(known["ikm"], salt=known["salt"], info=known["info"]) == known["okm"][:32]


def test_masks_are_the_keystream_of_rfc_8439():
    known = values("chacha20")
    words = np.zeros(32, dtype=np.uint32)
    add_masks(words, [(bytes(32), 1)])
    assert words_to_bytes(words) == known["key_0_block_0"] + known["key_0_block_1"]
    words[:] = 0
    add_masks(words, [(bytes(31) + b"\1", 1)])
    assert words_to_bytes(words)[64:] == known["key_1_block_1"]


def test_the_sealing_cipher_is_that_of_rfc_8439():
    known = values("chacha20_poly1305")
    cipher = ChaCha20Poly1305(known["key"])
    assert cipher.encrypt(known["nonce"], known["plaintext"], known["aad"]) == known["ciphertext"] + known["tag"]
    text = sealed(known["key"], known["plaintext"], known["aad"])
    assert text == cipher.encrypt(bytes(12), known["plaintext"], known["aad"])
    assert opened(known["key"], text, known["aad"]) == known["plaintext"]
    for wrong in ((known["key"], text, b""), (bytes(32), text, known["aad"]), (known["key"], text[:-1], known["aad"])):
        assert opened(*wrong) is None
    assert opened(known["key"], b"", known["aad"]) is None


def test_signatures_are_those_of_rfc_8032():
    known = values("ed25519")
    assert verified(known["public"], known["signature"], known["message"])
    assert not verified(known["public"], known["signature"], known["message"] + b"\0")
    assert not verified(bytes(32), known["signature"], known["message"])
    assert not verified(known["public"], known["signature"][:63], known["message"])


def test_packed_parts_cannot_be_moved_across_their_borders():
    assert packed(b"ab", b"c") != packed(b"a", b"bc") != packed(b"abc")
    assert packed(b"ab") == b"\0\0\0\2ab"
