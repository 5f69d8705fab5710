"""The hostile operator's side of the protocol: honest as far as it helps him, with accomplices for all other parties.

The one module of this folder that knows how messages look. The operator has every document that is not secret, his
log's key, and the keys of all parties but one: more accomplices than any protocol could bear, so that the victim's own
rules are all that is in his way.
"""

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from fedmarket.aggregation.secagg import party as protocol
from fedmarket.aggregation.secagg.server import SecureSum
from fedmarket.aggregation.secagg.suite import SIGNATURE_SIZE
from fedmarket.aggregation.secagg.wire import HEADER, sign_message, write_sets
from fedmarket.aggregation.steps import SECURE
from fedmarket.config import load_config
from fedmarket.contract.schema import load_contract
from fedmarket.errors import BadMessage
from fedmarket.experiment.arms import JOINT, arm_named, terms_of
from fedmarket.federation.coordinator import Coordinator
from fedmarket.federation.identity import Identity, load_identity, new_identity
from fedmarket.federation.logbook import Logbook
from fedmarket.federation.messages import Acceptance, Invitation, Refused, Replies, Request, Requests, Shown, Update
from fedmarket.federation.rehearsal import ORIGIN
from fedmarket.federation.roster import load_roster
from fedmarket.federation.terms import Terms
from fedmarket.federation.wire import decoded, encoded
from fedmarket.ledger.merkle import Tree
from fedmarket.ledger.note import Checkpoint, Note
from fedmarket.node.question import ask

LARGEST, SECONDS = 1 << 26, 120.0


class Operator:
    """The server of a federation of which the party at the first place is the victim."""

    def __init__(self, folder: Path, victim: Path) -> None:
        """Read the operator's documents in ``folder``; ``victim`` is the socket that the relay was given."""
        self.folder, self.victim = folder, victim
        self.terms = self.terms_with()
        self.roster = load_roster(folder / "roster.toml")
        self.name = self.roster.names[0]
        self.accomplices: dict[str, Identity] = {
            name: load_identity(folder / f"{place:02}.pem") for place, name in enumerate(self.roster.names) if place
        }
        self.log = load_identity(folder / "log.pem")
        self.logbook = self.logbook_in("log")
        self.run = os.urandom(16)
        self.rounds: list[Round] = []
        self.model = Coordinator(terms=self.terms, max_void_rounds=1, roster=self.roster).model

    def terms_with(self, *changes: str) -> Terms:
        """Return the agreed terms, or what they would be with changes."""
        config = load_config(self.folder / "market" / "config.toml", changes=changes)
        return terms_of(arm_named(JOINT), config, load_contract(Path(config.data.contract)), seed=config.seeds[0])

    def logbook_in(self, name: str) -> Logbook:
        """Open a log of the operator's: as many as he likes, all under the same key."""
        return Logbook.open(self.folder / name, self.log, origin=ORIGIN, roster=self.roster)

    def say(self, action: str, frame: bytes) -> bytes:
        """Return what the victim answers to any bytes."""
        return ask(self.victim, action, frame, largest=LARGEST, seconds=SECONDS)

    def invite(self, **changed: Any) -> Acceptance:
        """Invite the victim, honestly but for what is changed."""
        fields = {"run": self.run, "terms_hash": self.terms.hash, "roster_hash": self.roster.hash.hex()}
        return decoded(Acceptance, self.say("join", encoded(Invitation(**(fields | changed)))))

    def join(self) -> None:
        """Have the victim join, and its entries in the log."""
        self.logbook.take(self.name, self.invite().told)

    def fork(self) -> Shown:
        """Show a log that begins with another entry, with every proof that can be made for it."""
        leaves = [b"another", *self.logbook.log.envelopes]
        tree, size = Tree(leaves), len(leaves)
        found = Checkpoint(origin=ORIGIN, size=size, root=tree.root())
        return Shown(
            checkpoint=Note(text=found.to_text(), signatures=()).signed(ORIGIN, self.log).to_bytes(),
            consistency={seen: tuple(tree.consistency(seen, size)) for seen in range(size)},
            sequence=size - 2,
            index=size - 1,
            inclusion=tuple(tree.inclusion(size - 1, size)),
        )

    def round_at(self, step: str) -> "Round":
        """Return a new round in which all went well until ``step`` is due."""
        found = Round(self, len(self.rounds))
        self.rounds.append(found)
        for before in SECURE[: SECURE.index(step)]:
            found.go_on(before)
        return found


@dataclass
class Round:
    """One round with one victim."""

    operator: Operator
    number: int
    states: dict[str, Any] = field(default_factory=dict)
    heard: dict[str, list[bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Begin it."""
        operator = self.operator
        operator.logbook.draw()
        self.shown_before = operator.logbook.shown_to(operator.name)
        self.context = operator.terms.context_of(self.number, run=operator.run, roster=operator.roster)
        self.sum = SecureSum(self.context)

    @property
    def beyond(self) -> int:
        """The first round that the plan does not have."""
        return self.operator.terms.rounds

    def packet(self, step: str) -> bytes:
        """Return what an honest server would send to the victim."""
        return self.sum.outgoing(step)[self.operator.name]

    def ask(self, due: str, **changed: Any) -> Update:
        """Ask the victim for the step that is due, honestly but for what is changed."""
        operator, releasing, shown = self.operator, due == "mask", None
        if releasing:
            operator.logbook.draw()
            shown = operator.logbook.shown_to(operator.name)
        fields = {
            "run": operator.run,
            "round_number": self.number,
            "phase": operator.terms.phase_of(self.number),
            "step": due,
            "model": operator.model if releasing else None,
            "packet": self.packet(due) if "packet" not in changed else b"",
            "shown": shown,
        }
        request = Request(**(fields | changed))
        frame = operator.say(request.step, encoded(Requests(requests=(request,))))
        (update,) = decoded(Replies, frame).replies
        if isinstance(update, Refused):
            raise BadMessage(update.line)
        if releasing:
            self._bind(request.inputs)
        if update.told is not None:
            operator.logbook.take(operator.name, update.told)
        return update

    def go_on(self, step: str) -> bytes:
        """Take a step as an honest server does, and return the victim's answer."""
        incoming = self.sum.outgoing(step)
        content = self.ask(step).content
        self.sum.receive(step, self.operator.name, content)
        self.heard[step] = [content]
        for name, identity in self.operator.accomplices.items():
            if step == "advertise":
                self.states[name], message = protocol.advertise(self.context, identity)
            elif step == "mask":
                zeros = np.zeros(self.context.length, dtype=f"u{self.context.modulus_bits // 8}")
                self.states[name], message = protocol.mask(self.states[name], incoming[name], zeros)
            else:
                self.states[name], message = getattr(protocol, step)(self.states[name], incoming[name])
            self.sum.receive(step, name, message)
            self.heard[step].append(message)
        self.sum.close(step)
        return content

    def _bind(self, inputs: bytes) -> None:
        """Tell the accomplices what the victim's sum is computed from."""
        self.sum.bind(inputs)
        self.context = self.sum.context
        self.states = {name: state.bound_to(inputs) for name, state in self.states.items()}

    def sybils(self) -> bytes:
        """Return the victim's advertisement with three that a key of the operator's own signed, under known names."""
        own, *others = self.heard["advertise"]
        stranger = new_identity()
        return own + b"".join(
            sign_message(
                self.context,
                "advertise",
                sender=place,
                payload=message[HEADER.size : -SIGNATURE_SIZE],
                signer=stranger,
            )
            for place, message in enumerate(others, start=1)
        )

    def sets(self, survivors: tuple[int, ...], dropped: tuple[int, ...]) -> bytes:
        """Return what asks for consent to these survivors and drop-outs."""
        return write_sets(self.context, survivors, dropped)

    def two_sets(self) -> bytes:
        """Return the victim's consent, with those of all others to fewer survivors."""
        signed = [
            sign_message(self.context, "consent", sender=place, payload=self.sets((0, 1, 2), (3,)), signer=identity)
            for place, identity in enumerate(self.operator.accomplices.values(), start=1)
        ]
        return self.heard["consent"][0] + b"".join(signed)

    def of_another_model(self) -> bytes:
        """Return the victim's consent, with those of all others as if they had been shown another model."""
        context = replace(self.context, inputs=bytes(32))
        everybody = self.sets(tuple(range(len(self.operator.roster.names))), ())
        signed = [
            sign_message(context, "consent", sender=place, payload=everybody, signer=identity)
            for place, identity in enumerate(self.operator.accomplices.values(), start=1)
        ]
        return self.heard["consent"][0] + b"".join(signed)

    def stale(self, step: str) -> bytes:
        """Return what was right for this step in the round before, which must have stood at it too."""
        return self.operator.rounds[self.number - 1].packet(step)

    def without_last(self, step: str, *, keep: int) -> bytes:
        """Return an honest packet with the words of the first ``keep`` parties alone."""
        packet = self.packet(step)
        each = len(packet) // (len(self.operator.roster.names) - (step == "mask"))
        return packet[: keep * each]
