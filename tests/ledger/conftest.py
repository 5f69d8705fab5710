"""Statements of a small ledger with any key changed, and chains of signed entries made from them."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from fedmarket.federation.identity import Identity, new_identity
from fedmarket.files import sha256_of
from fedmarket.ledger import entries
from fedmarket.ledger.entries import GENESIS, Entry, Head, Statement, moment
from fedmarket.ledger.envelope import seal

ALPHA, BETA = new_identity(), new_identity()
A, B, C = ("a" * 64, "b" * 64, "c" * 64)
RUN, OTHER = "1" * 32, "2" * 32
CODE = {"version": "0.1.0", "hash": C}


def mechanism(phase: str = "update", **changed: Any) -> dict[str, Any]:
    return {
        "phase": phase,
        "clip_norm": "1.0",
        "noise_multiplier": "4.0",
        "sample_rate": "1.0",
        "sampling": "all-rows",
        "releases": 10,
        "length": 61,
        "grid": None,
    } | changed


def plan(*mechanisms: dict[str, Any], **changed: Any) -> dict[str, Any]:
    return {
        "unit": "row",
        "adjacency": "add-or-remove-one",
        "delta": "1e-05",
        "generator": "operating-system",
        "assumed_colluders": 1,
        "minimum_survivors": 4,
        "mechanisms": list(mechanisms)
        or [mechanism("centre", releases=1), mechanism(), mechanism("evaluate", releases=1)],
    } | changed


DOCUMENTS: dict[str, dict[str, Any]] = {
    "opened": {
        "public_key": ALPHA.public_hex,
        "data_set": A,
        "unit": "row",
        "adjacency": "add-or-remove-one",
        "delta": "1e-05",
        "cap": "8.0",
        "code": CODE,
    },
    "cap-changed": {"old": "8.0", "new": "9.0", "reason": "agreed with the board"},
    "data-replaced": {"old": A, "new": B, "overlap": False, "reason": "another year"},
    "data-destroyed": {"data_set": A, "reason": "as agreed"},
    "joined": {
        "run": RUN,
        "data_set": A,
        "terms_hash": B,
        "contract_hash": B,
        "roster_hash": None,
        "code": CODE,
        "plan": plan(),
    },
    "reserved": {
        "run": RUN,
        "round": 0,
        "phase": "update",
        "count": 1,
        "figures": [{"accountant": "pld", "version": "0.6.0", "epsilon": "0.5"}],
        "cap": "8.0",
    },
    "committed": {"run": RUN, "round": 0, "model_hash": B, "content_hash": C},
    "voided": {"run": RUN, "round": 0, "left": False, "reason": "too few parties"},
    "released": {"run": RUN, "model_hash": B},
    "withdrawn": {"model_hash": B, "reason": "a customer asked"},
    "rotated": {"public_key": BETA.public_hex, "reason": "a new machine"},
}


def statement(kind: str, **changed: Any) -> Statement:
    return entries.KINDS[kind].model_validate({"kind": kind} | DOCUMENTS[kind] | changed)


@dataclass
class Chain:
    """Entries signed one after the other; nothing but the format is checked."""

    signer: Identity = ALPHA
    envelopes: list[bytes] = field(default_factory=list)

    def add(self, kind: str, *, head: dict[str, Any] | None = None, **changed: Any) -> "Chain":
        known = {
            "party": "Alpha Bank",
            "sequence": len(self.envelopes),
            "previous": sha256_of(self.envelopes[-1]) if self.envelopes else GENESIS,
            "time": moment(datetime(2026, 1, 31, 12, tzinfo=UTC)),
        }
        entry = Entry(head=Head(**known | (head or {})), statement=statement(kind, **changed))
        self.envelopes.append(seal(entry.payload(), self.signer))
        return self


@pytest.fixture
def say() -> Callable[..., Statement]:
    return statement


@pytest.fixture
def known() -> SimpleNamespace:
    """Identities, hashes and runs by name, and documents to change."""
    return SimpleNamespace(
        alpha=ALPHA,
        beta=BETA,
        A=A,
        B=B,
        C=C,
        run=RUN,
        other=OTHER,
        documents=DOCUMENTS,
        plan=plan,
        mechanism=mechanism,
    )


@pytest.fixture
def chain() -> Callable[..., Chain]:
    def begun(*kinds: str, signer: Identity = ALPHA) -> Chain:
        made = Chain(signer=signer)
        for kind in kinds:
            made.add(kind)
        return made

    return begun


@pytest.fixture
def write(say) -> Callable[..., None]:
    """Append one statement of each kind to a ledger."""

    def written(ledger: Any, kinds: Iterable[str]) -> None:
        for kind in kinds:
            ledger.append(say(kind))

    return written
