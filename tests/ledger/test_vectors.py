"""The published vector: made by the code as it is, and right by a second reading of the reference page."""

import base64
import hashlib
import json
import math
import runpy
from itertools import pairwise
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

VECTORS = Path(__file__).parents[1] / "vectors"
TYPE = b"application/vnd.fedmarket.ledger+json"


@pytest.fixture(scope="module")
def vector():
    return json.loads((VECTORS / "ledger" / "ledger.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def entries(vector):
    return [json.loads(entry["payload"]) for entry in vector["entries"]]


def sha256(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def test_the_file_is_what_the_command_writes():
    for name, text in runpy.run_path(str(VECTORS / "regenerate_ledger.py"))["documents"]().items():
        assert (VECTORS / "ledger" / name).read_text(encoding="utf-8") == text


def test_every_kind_is_in_it(entries):
    kinds = {entry["kind"] for entry in entries}
    assert len(kinds) == 11


def test_every_signature_and_link_is_good(vector, entries):
    key = bytes.fromhex(entries[0]["public_key"])
    for entry, read in zip(vector["entries"], entries, strict=True):
        envelope = json.loads(entry["envelope"])
        payload = base64.b64decode(envelope["payload"], validate=True)
        assert payload == entry["payload"].encode()
        (signature,) = envelope["signatures"]
        assert signature["keyid"] == hashlib.sha256(key).hexdigest()
        signed = b"DSSEv1 %d %b %d %b" % (len(TYPE), TYPE, len(payload), payload)
        Ed25519PublicKey.from_public_bytes(key).verify(base64.b64decode(signature["sig"]), signed)
        assert hashlib.sha256(entry["envelope"].encode()).hexdigest() == entry["hash"]
        if read["kind"] == "rotated":
            key = bytes.fromhex(read["public_key"])
    assert [read["sequence"] for read in entries] == list(range(len(entries)))
    assert entries[0]["previous"] == "0" * 64
    for (before, _), (_, after) in pairwise(zip(vector["entries"], entries, strict=True)):
        assert after["previous"] == before["hash"]


def test_keys_are_those_of_the_seeds(vector, entries):
    first, new, server = (
        Ed25519PrivateKey.from_private_bytes(bytes.fromhex(seed)).public_key().public_bytes_raw()
        for seed in vector["seeds"].values()
    )
    assert entries[0]["public_key"] == first.hex()
    assert next(entry for entry in entries if entry["kind"] == "rotated")["public_key"] == new.hex()
    for text, kind, key in ((vector["log_key"], 1, server), (vector["witness_key"], 4, first)):
        name, found, encoded = text.split("+", 2)
        assert base64.b64decode(encoded) == bytes([kind]) + key
        assert found == sha256(name.encode(), b"\n", bytes([kind]), key)[:4].hex()
    assert vector["witness_key"].startswith(f"fedmarket/{hashlib.sha256(first).hexdigest()}+")


def exact_epsilon(mu, delta):
    """Balle and Wang (2018), theorem 8, by halving."""

    def normal(x):
        return math.erfc(-x / math.sqrt(2)) / 2

    low, high = 0.0, 100.0
    for _ in range(200):
        middle = (low + high) / 2
        found = normal(mu / 2 - middle / mu) - math.exp(middle) * normal(-mu / 2 - middle / mu)
        low, high = (middle, high) if found > delta else (low, middle)
    return high


def test_epsilon_follows_from_the_parameters_alone(vector, entries):
    joined = next(entry for entry in entries if entry["kind"] == "joined")
    noise = {found["phase"]: float(found["noise_multiplier"]) for found in joined["plan"]["mechanisms"]}
    back = {entry["round"] for entry in entries if entry["kind"] == "voided" and not entry["left"]}
    spent = [
        (entry["phase"], entry["count"] / noise[entry["phase"]] ** 2)
        for entry in entries
        if entry["kind"] == "reserved" and entry["round"] not in back
    ]
    assert [phase for phase, _ in spent] == ["centre", "update", "update", "evaluate"]
    trained = sum(mu for phase, mu in spent if phase != "evaluate")
    held_out = sum(mu for phase, mu in spent if phase == "evaluate")
    delta = float(entries[0]["delta"])
    before = exact_epsilon(math.sqrt(max(trained, held_out)), delta)
    after = exact_epsilon(math.sqrt(trained + held_out), delta)  # carried to the data set that replaced it
    assert float(vector["epsilon_before_the_data_was_replaced"]) == pytest.approx(before, abs=1e-8)
    assert float(vector["epsilon_after"]) == pytest.approx(after, abs=1e-8)


def test_the_checkpoint_is_signed_and_cosigned_over_the_root(vector):
    leaves = [sha256(b"\0", entry["envelope"].encode()) for entry in vector["entries"]]
    assert [leaf.hex() for leaf in leaves] == vector["leaf_hashes"]
    assert len(leaves) == 16  # a power of two: the root is a plain fold

    def folded(nodes):
        while len(nodes) > 1:
            nodes = [sha256(b"\1", left, right) for left, right in zip(nodes[::2], nodes[1::2], strict=True)]
        return nodes[0]

    text, _, under = vector["checkpoint"].partition("\n\n")
    text += "\n"
    assert text == f"ledger.example/market\n16\n{base64.b64encode(folded(leaves)).decode()}\n"
    log_line, witness_line = under.splitlines()
    for line, key in ((log_line, vector["log_key"]), (witness_line, vector["witness_key"])):
        name, found, encoded = key.split("+", 2)
        content = base64.b64decode(line.removeprefix(f"— {name} "), validate=True)
        assert content[:4].hex() == found
        public = Ed25519PublicKey.from_public_bytes(base64.b64decode(encoded)[1:])
        if line is log_line:
            public.verify(content[4:], text.encode())
        else:
            time = int.from_bytes(content[4:12], "big")
            public.verify(content[12:], f"cosignature/v1\ntime {time}\n{text}".encode())
    node, place = leaves[vector["inclusion"]["index"]], vector["inclusion"]["index"]
    for sibling in map(bytes.fromhex, vector["inclusion"]["proof"]):
        node = sha256(b"\1", sibling, node) if place & 1 else sha256(b"\1", node, sibling)
        place >>= 1
    assert node == folded(leaves)
