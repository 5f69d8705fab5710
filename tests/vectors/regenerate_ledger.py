"""Write the known-answer vector of the privacy ledger: ``python tests/vectors/regenerate_ledger.py``."""

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedmarket.federation.identity import Identity
from fedmarket.ledger.canonical import decimal
from fedmarket.ledger.entries import GENESIS, KINDS, Entry, Head
from fedmarket.ledger.envelope import seal
from fedmarket.ledger.log import Log, witness_key
from fedmarket.ledger.merkle import leaf_hash
from fedmarket.ledger.replay import replay

FOLDER = Path(__file__).parent / "ledger"
ORIGIN = "ledger.example/market"
PARTY = "Älpha Bank"
TIME = 1_770_000_000
RUN = bytes(range(16)).hex()


def hashed(label: str) -> str:
    """Return a hash that is a public function of ``label``."""
    return hashlib.sha256(label.encode()).hexdigest()


def identity_of(name: str) -> Identity:
    """Return an identity whose seed is the hash of a label."""
    return Identity(Ed25519PrivateKey.from_private_bytes(bytes.fromhex(hashed(f"identity of {name}"))))


def mechanism(phase: str, *, noise_multiplier: str, releases: int, length: int) -> dict[str, Any]:
    """Return a mechanism on all rows."""
    return {
        "phase": phase,
        "clip_norm": "1.0",
        "noise_multiplier": noise_multiplier,
        "sample_rate": "1.0",
        "sampling": "all-rows",
        "releases": releases,
        "length": length,
        "grid": None,
    }


def statements() -> list[dict[str, Any]]:
    """Return one statement of every kind, in an order that is allowed."""
    code = {"version": "0.1.0", "hash": hashed("code")}
    plan = {
        "unit": "column:id",
        "adjacency": "add-or-remove-one",
        "delta": "1e-05",
        "generator": "operating-system",
        "assumed_colluders": 1,
        "minimum_survivors": 4,
        "mechanisms": [
            mechanism("centre", noise_multiplier="9.0", releases=1, length=60),
            mechanism("update", noise_multiplier="6.5", releases=4, length=61),
            mechanism("evaluate", noise_multiplier="2.5", releases=1, length=200),
        ],
    }
    data, other = hashed("data set"), hashed("another data set")

    def reserved(round_number: int, phase: str) -> dict[str, Any]:
        figures = [{"accountant": "pld", "version": "0.6.0", "epsilon": decimal(0.25 + round_number / 8)}]
        body = {"run": RUN, "round": round_number, "phase": phase, "count": 1}
        return {"kind": "reserved", **body, "figures": figures, "cap": "4.0"}

    return [
        {
            "kind": "opened",
            "public_key": identity_of(PARTY).public_hex,
            "data_set": data,
            "unit": "column:id",
            "adjacency": "add-or-remove-one",
            "delta": "1e-05",
            "cap": "4.0",
            "code": code,
        },
        {
            "kind": "joined",
            "run": RUN,
            "data_set": data,
            "terms_hash": hashed("terms"),
            "contract_hash": hashed("contract"),
            "roster_hash": None,
            "code": code,
            "plan": plan,
        },
        reserved(0, "centre"),
        {"kind": "committed", "run": RUN, "round": 0, "model_hash": hashed("model 0"), "content_hash": hashed("sum")},
        reserved(1, "update"),
        {"kind": "voided", "run": RUN, "round": 1, "left": False, "reason": "too few parties"},
        reserved(2, "update"),
        {"kind": "voided", "run": RUN, "round": 2, "left": True, "reason": "too few parties — lost"},
        reserved(3, "update"),
        reserved(4, "evaluate"),
        {"kind": "rotated", "public_key": identity_of("new key").public_hex, "reason": "a new machine"},
        {"kind": "released", "run": RUN, "model_hash": hashed("model")},
        {"kind": "withdrawn", "model_hash": hashed("model"), "reason": "a customer asked"},
        {"kind": "cap-changed", "old": "4.0", "new": "2.5", "reason": "agreed"},
        {"kind": "data-replaced", "old": data, "new": other, "overlap": True, "reason": "another year"},
        {"kind": "data-destroyed", "data_set": other, "reason": "as agreed"},
    ]


def document() -> dict[str, Any]:
    """Return keys, every entry, what they mean, and the log over them with its proofs."""
    signer, previous, entries = identity_of(PARTY), GENESIS, []
    for sequence, statement in enumerate(statements()):
        head = Head(party=PARTY, sequence=sequence, previous=previous, time=f"2026-02-02T00:00:{sequence:02}Z")
        entry = Entry(head=head, statement=KINDS[statement["kind"]].model_validate(statement))
        envelope = seal(entry.payload(), signer)
        previous = hashlib.sha256(envelope).hexdigest()
        entries.append({"payload": entry.payload().decode(), "envelope": envelope.decode(), "hash": previous})
        if statement["kind"] == "rotated":
            signer = identity_of("new key")
    envelopes = [entry["envelope"].encode() for entry in entries]
    before = replay(envelopes[:-2])
    with tempfile.TemporaryDirectory() as folder:
        log = Log.open(Path(folder), origin=ORIGIN, signer=identity_of("server"))
        log.extend(envelopes)
        note, watcher = log.checkpoint(), identity_of(PARTY)
        key = witness_key(watcher.public_key)
        whole = note.with_line(note.cosignature(key.name, watcher, time=TIME)).to_bytes().decode()
        proofs = {
            "inclusion": {"index": 10, "proof": [node.hex() for node in log.inclusion(10, log.size)]},
            "consistency": {"old": 11, "old_root": log._tree.root(11).hex()}
            | {"proof": [node.hex() for node in log.consistency(11, log.size)]},
        }
        log_key = str(log.key)
        log.close()
    return {
        "seeds": {name: hashed(f"identity of {name}") for name in (PARTY, "new key", "server")},
        "entries": entries,
        "epsilon_before_the_data_was_replaced": decimal(round(before.spent().accountants["exact"], 9)),
        "epsilon_after": decimal(round(replay(envelopes).spent().accountants["exact"], 9)),
        "leaf_hashes": [leaf_hash(envelope).hex() for envelope in envelopes],
        "log_key": log_key,
        "witness_key": str(key),
        "checkpoint": whole,
        **proofs,
    }


def documents() -> dict[str, str]:
    """Return the content of every file that this command writes."""
    return {"ledger.json": json.dumps(document(), indent=1) + "\n"}


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for file_name, text in documents().items():
        (FOLDER / file_name).write_text(text, encoding="utf-8")
