"""The published vectors: made by the code as it is, and right by a second reading of the reference page."""

import hashlib
import hmac
import json
import runpy
from itertools import pairwise
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

VECTORS = Path(__file__).parents[2] / "vectors"
FILES = ["round-32.json", "round-64-drop-out.json"]
SUITE = b"x25519-hkdf-sha256-chacha20poly1305-shamir/1"


def lp(*parts):
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def hkdf(secret, salt, info):
    inner = hmac.digest(salt, secret, "sha256")
    return hmac.digest(inner, info + b"\1", "sha256")


@pytest.fixture(params=FILES)
def vector(request):
    return json.loads((VECTORS / "secagg" / request.param).read_text(encoding="utf-8"))


def test_the_files_are_what_the_command_writes():
    documents = runpy.run_path(str(VECTORS / "regenerate.py"))["documents"]()
    assert sorted(documents) == FILES
    for name, text in documents.items():
        assert (VECTORS / "secagg" / name).read_text(encoding="utf-8") == text


class Second:
    """The reference page read again, with nothing from the package."""

    def __init__(self, vector):
        self.vector, self.names = vector, list(vector["parties"])
        c = vector["context"]
        self.hash = hashlib.sha256(
            lp(
                b"fedmarket secagg context/1",
                SUITE,
                bytes.fromhex(c["run"]),
                c["round_number"].to_bytes(8, "big"),
                c["phase"].encode(),
                c["length"].to_bytes(8, "big"),
                bytes([c["modulus_bits"]]),
                bytes.fromhex(c["terms_hash"]),
                bytes.fromhex(c["roster_hash"]),
            )
        ).digest()
        self.bound = hashlib.sha256(lp(b"fedmarket secagg inputs/1", self.hash, bytes.fromhex(c["inputs"]))).digest()
        self.random = {n: bytes.fromhex(p["random_in_order_of_use"]) for n, p in vector["parties"].items()}
        self.adverts = b"".join(self.message("advertise", n) for n in self.names)
        self.salt = hashlib.sha256(lp(b"fedmarket secagg transcript/1", self.hash, self.adverts)).digest()

    def message(self, step, name):
        return bytes.fromhex(self.vector["steps"][step][name]["out"])

    def info(self, label, *names):
        number = self.vector["context"]["round_number"].to_bytes(8, "big")
        about = self.bound if label in ("self mask", "pair mask") else self.hash
        return lp(f"fedmarket secagg {label}/1".encode(), SUITE, about, number, *(n.encode() for n in names))

    def agreed(self, one, other, start):
        private = X25519PrivateKey.from_private_bytes(self.random[one][start : start + 32])
        place = 171 * self.names.index(other) + 43 + start
        return private.exchange(X25519PublicKey.from_public_bytes(self.adverts[place : place + 32]))


def test_context_transcript_and_signatures_are_as_the_page_says(vector):
    second = Second(vector)
    assert second.hash.hex() == vector["context"]["hash"]
    assert second.salt.hex() == vector["transcript"]
    for number, (step, messages) in enumerate(vector["steps"].items(), start=1):
        about = second.hash if step in ("advertise", "share") else second.bound
        for name, both in messages.items():
            message = bytes.fromhex(both["out"])
            payload = message[43 + 0 : -64]
            head = b"FMS1" + bytes([number]) + second.names.index(name).to_bytes(2, "big") + about
            assert message[:43] == head + len(payload).to_bytes(4, "big")
            text = lp(b"fedmarket secagg message/1", SUITE, about, step.encode(), name.encode())
            text += lp(hashlib.sha256(payload).digest())
            seed = bytes.fromhex(vector["parties"][name]["identity_seed"])
            assert Ed25519PrivateKey.from_private_bytes(seed).sign(text) == message[-64:]


def test_shares_are_points_of_the_drawn_polynomials_sealed_for_their_holders(vector):
    second = Second(vector)
    for name in second.names:
        random, texts = second.random[name], second.message("share", name)[43 + 32 : -64]
        seed_prime, key_prime = 2**128 + 51, 2**256 + 297
        drawn = random[80:]
        of_seed = [int.from_bytes(drawn[i : i + 33], "big") % seed_prime for i in (0, 33)]
        of_key = [int.from_bytes(drawn[66 + i : 66 + i + 49], "big") % key_prime for i in (0, 49)]
        assert len(drawn) == 66 + 98
        of_seed.append(int.from_bytes(random[64:80], "big"))
        of_key.append(int.from_bytes(random[32:64], "big"))
        peers = [peer for peer in second.names if peer != name]
        for number, peer in enumerate(peers):
            x = second.names.index(peer) + 1
            share = ((of_seed[0] * x + of_seed[1]) * x + of_seed[2]) % seed_prime
            key_share = ((of_key[0] * x + of_key[1]) * x + of_key[2]) % key_prime
            info = second.info("channel", name, peer)
            key = hkdf(second.agreed(name, peer, 0), second.salt, info)
            text = texts[66 * number : 66 * number + 66]
            opened = ChaCha20Poly1305(key).decrypt(bytes(12), text, info)
            assert opened == share.to_bytes(17, "big") + key_share.to_bytes(33, "big")


def test_masked_vectors_and_total_are_as_the_page_says(vector):
    second = Second(vector)
    bits, length = vector["context"]["modulus_bits"], vector["context"]["length"]

    def words(key):
        stream = Cipher(ChaCha20(key, bytes(16)), mode=None).encryptor().update(bytes(length * bits // 8))
        return [int.from_bytes(stream[i : i + bits // 8], "little") for i in range(0, len(stream), bits // 8)]

    for name in vector["steps"]["mask"]:
        known = vector["parties"][name]
        self_key = hkdf(second.random[name][64:80], second.salt, second.info("self mask", name))
        commitment = hkdf(second.random[name][64:80], second.salt, second.info("commitment", name))
        assert self_key.hex() == known["self_mask_key"]
        assert commitment.hex() == known["commitment"]
        assert second.message("share", name)[43 : 43 + 32] == commitment
        masked = [x + m for x, m in zip(known["input"], words(self_key), strict=True)]
        for peer in second.names:
            if peer != name:
                info = second.info("pair mask", *sorted((name, peer)))
                key = hkdf(second.agreed(name, peer, 32), second.salt, info)
                assert key.hex() == known["pair_mask_keys"][peer]
                sign = 1 if name < peer else -1
                masked = [y + sign * m for y, m in zip(masked, words(key), strict=True)]
        sent = b"".join((y % 2**bits).to_bytes(bits // 8, "little") for y in masked)
        assert second.message("mask", name)[43:-64] == sent
    inputs = [vector["parties"][name]["input"] for name in vector["survivors"]]
    assert vector["total"] == [sum(column) % 2**bits for column in zip(*inputs, strict=True)]
    assert vector["survivors"] == list(vector["steps"]["mask"])
    assert all(one < other for one, other in pairwise(vector["survivors"]))
