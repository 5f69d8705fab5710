"""Envelopes: DSSE's own vector, one form, and no byte that can be changed."""

import json

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from fedmarket.errors import BadMessage
from fedmarket.federation.identity import Identity, new_identity
from fedmarket.ledger.canonical import LARGEST_DOCUMENT, canonical
from fedmarket.ledger.envelope import keyid_of, pae, read_envelope, seal

# RFC 8032, section 7.1, test 2.
SEED = bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
SIGNER = Identity(Ed25519PrivateKey.from_private_bytes(SEED))
GOOD = seal(b'{"a":1}', SIGNER)


def test_what_is_signed_is_that_of_dsse():
    # DSSE protocol, version 1, test vector.
    found = pae("http://example.com/HelloWorld", b"hello world")
    assert found == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"


def test_lengths_are_of_bytes_and_keep_type_and_payload_apart():
    assert pae("é", b"") == "DSSEv1 2 é 0 ".encode()
    assert pae("a", b"b c") != pae("a 1 b", b"c")


def test_the_keyid_is_the_hash_of_the_raw_key():
    # sha256sum of the 32 bytes 3d4017c3...
    assert keyid_of(SIGNER.public_key) == "39f713d0a644253f04529421b9f51b9b08979d08295959c4f3990ee617f5139f"


@given(st.binary(max_size=100))
def test_a_sealed_payload_is_opened_under_its_key_and_no_other(payload):
    envelope = read_envelope(seal(payload, SIGNER))
    envelope.need_signed_by(SIGNER.public_key)
    assert envelope.payload == payload
    with pytest.raises(BadMessage, match="signed by the key"):
        envelope.need_signed_by(new_identity().public_key)


def test_who_reads_an_envelope_again_gets_the_same_value_and_nothing_that_was_refused_is_remembered():
    assert read_envelope(GOOD) is read_envelope(bytes(bytearray(GOOD)))
    for _ in range(2):
        with pytest.raises(BadMessage):
            read_envelope(GOOD + b" ")


@given(st.integers(0, 8 * len(GOOD) - 1))
def test_no_bit_can_be_changed(place):
    changed = bytearray(GOOD)
    changed[place // 8] ^= 1 << place % 8
    with pytest.raises(BadMessage) as caught:
        read_envelope(bytes(changed)).need_signed_by(SIGNER.public_key)
    assert "\n" not in str(caught.value)


@given(st.integers(0, len(GOOD) - 1))
def test_a_cut_envelope_is_none(length):
    with pytest.raises(BadMessage):
        read_envelope(GOOD[:length])


def test_a_signature_for_another_type_or_of_another_key_is_refused():
    document = json.loads(GOOD)
    document["signatures"][0]["keyid"] = keyid_of(new_identity().public_key)
    with pytest.raises(BadMessage, match="signed by the key"):
        read_envelope(canonical(document)).need_signed_by(SIGNER.public_key)
    with pytest.raises(BadMessage, match="not an envelope"):
        read_envelope(canonical(json.loads(GOOD) | {"payloadType": "text/plain"}))


@pytest.mark.parametrize(
    "change",
    [
        lambda document: document | {"extra": 1},
        lambda document: document | {"signatures": []},
        lambda document: document | {"signatures": document["signatures"] * 2},
        lambda document: document | {"signatures": [document["signatures"][0] | {"cert": ""}]},
        lambda document: document | {"signatures": [{"sig": document["signatures"][0]["sig"]}]},
        lambda document: document | {"signatures": [document["signatures"][0] | {"sig": "AAAA"}]},
        lambda document: document | {"payload": document["payload"].rstrip("=")},
        lambda document: document | {"payload": 7},
        lambda document: document | {"payload": None},
        lambda document: [document],
        lambda document: "text",
    ],
)
def test_another_shape_is_refused(change):
    with pytest.raises(BadMessage):
        read_envelope(canonical(change(json.loads(GOOD))))


def test_a_payload_that_is_too_large_is_never_sealed():
    seal(bytes(LARGEST_DOCUMENT), SIGNER)
    read_envelope(seal(bytes(LARGEST_DOCUMENT), SIGNER))
    with pytest.raises(BadMessage, match="at most"):
        seal(bytes(LARGEST_DOCUMENT + 1), SIGNER)
