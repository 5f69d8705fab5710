"""A whole round in memory, in which any message can be changed or lost."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fedmarket.aggregation.secagg import party
from fedmarket.aggregation.secagg.context import RoundContext
from fedmarket.aggregation.secagg.server import SecureSum
from fedmarket.aggregation.secagg.state import PartyState
from fedmarket.aggregation.steps import SECURE, Step
from fedmarket.federation.identity import Identity, new_identity
from fedmarket.federation.roster import Member, Roster, new_roster

IDENTITIES = [new_identity() for _ in range(12)]

Absent = Mapping[Step, Collection[int]]


def roster_of(members: int, *, minimum: int | None = None, shift: int = 0) -> Roster:
    listed = [Member(name=f"party-{i}", public_key=IDENTITIES[i + shift].public_key) for i in range(members)]
    return new_roster(listed, minimum_survivors=minimum)


def context_of(members: int = 5, **changed: Any) -> RoundContext:
    fields: dict[str, Any] = {
        "run": b"a run's own name",
        "round_number": 3,
        "phase": "update",
        "length": 6,
        "modulus_bits": 32,
        "terms_hash": bytes(range(32)),
        "roster": roster_of(members),
        "inputs": bytes(range(32, 64)),
    }
    return RoundContext(**(fields | changed))


class Round:
    """An honest server and honest parties; a test steps it and interferes."""

    def __init__(
        self, members: int = 5, *, seed: int = 0, contexts: Mapping[int, RoundContext] | None = None, **changed
    ):
        self.context = context_of(members, **changed)
        self.names = self.context.roster.names
        self.contexts = {i: (contexts or {}).get(i, self.context) for i in range(members)}
        self.server = SecureSum(self.context)
        self.states: dict[int, PartyState] = {}
        self.sent: dict[Step, dict[int, bytes]] = {step: {} for step in SECURE}
        self.got: dict[Step, dict[int, bytes]] = {step: {} for step in SECURE}
        self.reload = False
        generator = np.random.default_rng(seed)
        width = self.context.modulus_bits
        self.inputs = [
            generator.integers(0, 2**width, self.context.length, dtype=f"u{width // 8}") for _ in range(members)
        ]

    def answer(self, step: Step, i: int, incoming: bytes) -> bytes:
        if step == "advertise":
            self.states[i], message = party.advertise(self.contexts[i], IDENTITIES[i])
        elif step == "mask":
            self.states[i], message = party.mask(self.states[i], incoming, self.inputs[i])
        else:
            self.states[i], message = getattr(party, step)(self.states[i], incoming)
        if self.reload:
            self.states[i] = PartyState.from_bytes(
                self.states[i].to_bytes(), context=self.contexts[i], identity=IDENTITIES[i]
            )
        return message

    def ask(self, step: Step, *, absent: Collection[int] = ()) -> None:
        """Let everyone but ``absent`` answer, without closing the step."""
        for name, incoming in self.server.outgoing(step).items():
            i = self.names.index(name)
            if i not in absent:
                self.got[step][i] = incoming
                self.sent[step][i] = self.answer(step, i, incoming)
                self.server.receive(step, name, self.sent[step][i])

    def until(self, last: Step, *, absent: Absent | None = None) -> "Round":
        """Run and close all steps before ``last``."""
        for step in SECURE[: SECURE.index(last)]:
            self.ask(step, absent=(absent or {}).get(step, ()))
            self.server.close(step)
        return self

    def run(self, absent: Absent | None = None):
        """Run all steps; return the total."""
        self.until("unmask", absent=absent)
        self.ask("unmask", absent=(absent or {}).get("unmask", ()))
        self.server.close("unmask")
        return self.server.total()

    def plain_sum(self, members: Collection[int] | None = None):
        chosen = [x for i, x in enumerate(self.inputs) if members is None or i in members]
        return np.sum(chosen, axis=0, dtype=chosen[0].dtype)

    def dump(self, i: int) -> bytes:
        return self.states[i].to_bytes()

    def restored(self, dump: bytes, i: int) -> PartyState:
        return PartyState.from_bytes(dump, context=self.contexts[i], identity=IDENTITIES[i])


class Tools:
    """What the tests of this folder share, as they cannot import each other."""

    Round = Round
    identities: list[Identity] = IDENTITIES
    roster_of = staticmethod(roster_of)
    context_of = staticmethod(context_of)
    replace = staticmethod(replace)


@pytest.fixture(scope="session")
def tools() -> type[Tools]:
    return Tools


@pytest.fixture(scope="session")
def new_round() -> Callable[..., Round]:
    return Round
