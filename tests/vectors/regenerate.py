"""Write the known-answer vectors of secure aggregation: ``python tests/vectors/regenerate.py``.

``secagg/rfc.json`` is copied from the RFCs and never written here. The other files are whole rounds from fixed secrets.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedmarket.aggregation.secagg import party
from fedmarket.aggregation.secagg.context import RoundContext
from fedmarket.aggregation.secagg.keys import commitment, pair_mask_key, read_adverts, self_mask_key
from fedmarket.aggregation.secagg.server import SecureSum
from fedmarket.aggregation.steps import SECURE
from fedmarket.federation.identity import Identity
from fedmarket.federation.roster import Member, new_roster

FOLDER = Path(__file__).parent / "secagg"

NAMES = ("Alpha Bank", "bureau", "shop", "telecom")


def drawn(label: str) -> tuple[Callable[[int], bytes], bytearray]:
    """Return a generator of bytes that are a public function of ``label``, and all it has given so far."""
    given = bytearray()

    def draw(count: int) -> bytes:
        content = hashlib.shake_256(f"{label} {len(given)}".encode()).digest(count)
        given.extend(content)
        return content

    return draw, given


def round_document(*, modulus_bits: int, gone_before_mask: str | None, gone_before_consent: str | None) -> Any:
    """Return every input, secret, message and result of one round."""
    seeds = {name: hashlib.sha256(f"identity of {name}".encode()).digest() for name in NAMES}
    identities = {name: Identity(Ed25519PrivateKey.from_private_bytes(seed)) for name, seed in seeds.items()}
    roster = new_roster(Member(name=name, public_key=identities[name].public_key) for name in NAMES)
    context = RoundContext(
        run=bytes(range(16)),
        round_number=7,
        phase="update",
        length=5,
        modulus_bits=modulus_bits,
        terms_hash=hashlib.sha256(b"terms").digest(),
        roster=roster,
        inputs=hashlib.sha256(b"inputs").digest(),
    )
    generators = {name: drawn(f"{name} {modulus_bits}") for name in NAMES}
    inputs = {
        name: np.array([0, 1, 2**modulus_bits - 1, 10 + i, 2 ** (modulus_bits - 1)], dtype=f"u{modulus_bits // 8}")
        for i, name in enumerate(NAMES)
    }
    server, states = SecureSum(context), {}
    steps: dict[str, Any] = {}
    for step in SECURE:
        incoming, messages = server.outgoing(step), {}
        for name in incoming:
            if (step, name) in (("mask", gone_before_mask), ("consent", gone_before_consent)):
                continue
            draw = generators[name][0]
            if step == "advertise":
                states[name], messages[name] = party.advertise(context, identities[name], _random=draw)
            elif step == "share":
                states[name], messages[name] = party.share(states[name], incoming[name], _random=draw)
            elif step == "mask":
                states[name], messages[name] = party.mask(states[name], incoming[name], inputs[name])
            else:
                states[name], messages[name] = getattr(party, step)(states[name], incoming[name])
            server.receive(step, name, messages[name])
        server.close(step)
        steps[step] = {name: {"in": incoming[name].hex(), "out": out.hex()} for name, out in messages.items()}
        if step == "advertise":
            agreement = read_adverts(context, server.outgoing("share")[NAMES[0]])
    randomness = {name: bytes(given) for name, (_, given) in generators.items()}
    return {
        "made_by": "python tests/vectors/regenerate.py",
        "context": {
            "run": context.run.hex(),
            "round_number": context.round_number,
            "phase": context.phase,
            "length": context.length,
            "modulus_bits": modulus_bits,
            "terms_hash": context.terms_hash.hex(),
            "roster_toml": roster.to_toml(),
            "roster_hash": roster.hash.hex(),
            "hash": context.hash.hex(),
            "inputs": context.inputs.hex(),
            "bound_hash": context.bound_hash.hex(),
        },
        "parties": {
            name: {
                "identity_seed": seeds[name].hex(),
                "random_in_order_of_use": randomness[name].hex(),
                "input": [int(word) for word in inputs[name]],
                "commitment": commitment(context, agreement, randomness[name][64:80], own=place).hex(),
                "self_mask_key": self_mask_key(context, agreement, randomness[name][64:80], own=place).hex(),
                "pair_mask_keys": {
                    peer: pair_mask_key(context, agreement, randomness[name][32:64], own=place, peer=other).hex()
                    for other, peer in enumerate(NAMES)
                    if other != place
                },
            }
            for place, name in enumerate(NAMES)
        },
        "transcript": agreement.transcript.hex(),
        "steps": steps,
        "survivors": list(server.survivors),
        "total": [int(word) for word in server.total()],
    }


def documents() -> dict[str, str]:
    """Return the content of every file that this command writes."""
    rounds = {
        "round-32.json": round_document(modulus_bits=32, gone_before_mask=None, gone_before_consent="shop"),
        "round-64-drop-out.json": round_document(modulus_bits=64, gone_before_mask="bureau", gone_before_consent=None),
    }
    return {name: json.dumps(document, indent=1) + "\n" for name, document in rounds.items()}


if __name__ == "__main__":
    for file_name, text in documents().items():
        (FOLDER / file_name).write_text(text, encoding="utf-8")
