"""A party with its memory, the others of a round as puppets, and all that a server sees; run by path (``runpy``)."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache

import numpy as np

from fedmarket.aggregation.fixedpoint import bytes_to_words
from fedmarket.aggregation.secagg import party as protocol
from fedmarket.aggregation.secagg.server import SecureSum
from fedmarket.aggregation.secagg.suite import SIGNATURE_SIZE
from fedmarket.aggregation.secagg.wire import HEADER
from fedmarket.federation.identity import new_identity
from fedmarket.federation.messages import Invitation, Request, Update
from fedmarket.federation.party import Party, PartyState
from fedmarket.federation.roster import Member as RosterMember
from fedmarket.federation.roster import Roster, new_roster
from fedmarket.models.state import ModelState

PARTS = ("centre", "scale", "parameters", "calibration")
"""The vectors of a model."""


@cache
def identity_of(name: str):
    return new_identity()


def roster_of(names: Iterable[str], *, minimum: int | None = None) -> Roster:
    listed = [RosterMember(name=name, public_key=identity_of(name).public_key) for name in names]
    return new_roster(listed, minimum_survivors=minimum)


def same(one: ModelState, other: ModelState) -> bool:
    """Whether two models are the same to the last bit."""
    return one.hash == other.hash


@dataclass
class Member:
    """A party with what it remembers, as a node keeps it, and all that it ever remembered."""

    party: Party
    state: PartyState = field(default_factory=PartyState)
    kept: list[PartyState] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.party.name

    def join(self, invitation: Invitation):
        return self.party.join(self.state, invitation, keep=self._keep)

    def answer(self, request: Request) -> Update:
        return self.party.answer(self.state, request, keep=self._keep)

    def _keep(self, state: PartyState) -> None:
        self.state = state
        self.kept.append(state)


class Circle:
    """One round of one real party among puppets: members of its roster whose words are all zero.

    The sum is then the real party's words, which no server of honest parties would see.
    """

    def __init__(self, member: Member, request: Request) -> None:
        seat, terms = member.party.seat, member.party.terms
        self.context = terms.context_of(request.round_number, run=member.state.run, roster=seat.roster)
        self.name = member.name
        self.server = SecureSum(self.context)
        self.states = {name: None for name in seat.roster.names if name != self.name}

    def packet(self, step: str) -> bytes:
        return self.server.outgoing(step)[self.name]

    def bind(self, inputs: bytes) -> None:
        """Tell server and puppets what the real party's words are computed from."""
        self.server.bind(inputs)
        self.context = self.server.context
        self.states = {name: state.bound_to(inputs) for name, state in self.states.items()}

    def take(self, update: Update) -> None:
        """Take the real party's answer, let the puppets answer, and close the step."""
        step = update.step
        incoming = self.server.outgoing(step)
        self.server.receive(step, self.name, update.content)
        for name, state in self.states.items():
            self.states[name], message = self._puppet(step, name, state, incoming[name])
            self.server.receive(step, name, message)
        self.server.close(step)

    def _puppet(self, step: str, name: str, state, packet: bytes):
        if step == "advertise":
            return protocol.advertise(self.context, identity_of(name))
        if step == "mask":
            zeros = np.zeros(self.context.length, dtype=f"u{self.context.modulus_bits // 8}")
            return protocol.mask(state, packet, zeros)
        return getattr(protocol, step)(state, packet)


@dataclass
class View:
    """All that goes through the server in some rounds, and, for the tests alone, the words behind it."""

    updates: dict[tuple[int, str, str], Update] = field(default_factory=dict)
    requests: dict[tuple[int, str, str], Request] = field(default_factory=dict)
    words: dict[tuple[int, str], np.ndarray] = field(default_factory=dict)

    def masked(self, number: int, name: str) -> np.ndarray:
        content = self.updates[number, "mask", name].content
        return bytes_to_words(content[HEADER.size : -SIGNATURE_SIZE], modulus_bits=32).copy()

    def everything(self) -> dict[tuple, bytes]:
        """Return every byte string in the view by its place in the run."""
        seen = {(*at, "answer"): update.content for at, update in self.updates.items()}
        for at, request in self.requests.items():
            seen[*at, "packet"] = request.packet
            if request.model:
                seen[*at, "model"] = b"".join(getattr(request.model, part).tobytes() for part in PARTS)
        return seen
