"""Terms, parties, an honest coordinator, and the other parties of a round as a hostile one may play them, in memory."""

import runpy
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fedmarket.aggregation.fixedpoint import bytes_to_words
from fedmarket.aggregation.secagg import party as protocol
from fedmarket.aggregation.secagg.roster import threshold_for
from fedmarket.aggregation.steps import RELEASING
from fedmarket.config import ExperimentConfig, load_config
from fedmarket.contract.schema import Contract
from fedmarket.errors import BadMessage, Refusal
from fedmarket.experiment.arms import arm_named, terms_of
from fedmarket.federation.coordinator import Coordinator
from fedmarket.federation.messages import Invitation, Request, Update
from fedmarket.federation.party import Party, PartyState
from fedmarket.federation.rows import Rows
from fedmarket.federation.seat import Seat
from fedmarket.federation.terms import Terms
from fedmarket.models.state import ModelState

PLAYERS = runpy.run_path(str(Path(__file__).with_name("players.py")))
LEDGERS = runpy.run_path(str(Path(__file__).with_name("ledgers.py")))
Member, Circle, View, PARTS = (PLAYERS[name] for name in ("Member", "Circle", "View", "PARTS"))
identity_of, roster_of, same = (PLAYERS[name] for name in ("identity_of", "roster_of", "same"))

CONTRACT = Contract.model_validate(
    {
        "format": "fedmarket-contract/1",
        "name": "test",
        "task": "propensity",
        "minimum_parties": 2,
        "label": {"column": "y", "positive": "yes", "negative": "no"},
        "privacy": {"unit": "row", "adjacency": "add-or-remove-one", "delta": 1e-5},
        "columns": [
            {"name": "a", "kind": "numeric", "lower": 0, "upper": 1},
            {"name": "b", "kind": "numeric", "lower": 0, "upper": 1},
        ],
    }
)

WITH_VALUE = Contract.model_validate(
    CONTRACT.model_dump()
    | {
        "task": "propensity-and-ltv",
        "value": {"column": "spend", "currency": "EUR", "upper": 1000, "typical": 30},
        "segments": [{"column": "a", "cuts": [0.3, 0.6]}, {"column": "b", "cuts": [0.5]}],
    }
)

RUN = b"one run's number"

FOUR = ("a", "b", "c", "d")


def fitting(terms: Terms) -> Terms:
    """Return ``terms`` with updates as long as their parameters are many."""
    mechanisms = (replace(m, length=terms.parameters) if m.phase == "update" else m for m in terms.plan.mechanisms)
    return replace(terms, plan=replace(terms.plan, mechanisms=tuple(mechanisms)))


Lost = Mapping[tuple[int, str], Collection[str]]
"""(round, step) -> names of the parties whose answers never come from then on in that round."""


Break = Callable[[str, list], list]
"""(party, masks as (key, sign), its own first) -> the masks that a broken party adds."""


class World:
    """Makes terms, parties and runs; every number in it is public."""

    run = RUN
    four = FOUR
    parts = PARTS
    circle = Circle
    same = staticmethod(same)
    identity_of = staticmethod(identity_of)
    roster_of = staticmethod(roster_of)
    threshold_for = staticmethod(threshold_for)

    def __init__(self, config: ExperimentConfig, contract: Contract = CONTRACT) -> None:
        self.config = config
        self.contract = contract
        self._terms: dict[object, Terms] = {}

    def terms(self, arm: str = "federated_dp", *, parties: int = 4, **changed: object) -> Terms:
        """Return the terms of ``arm``, where a sum needs as many parties as must act together among ``parties``."""
        key = (arm, parties, *sorted(changed.items()))
        if key not in self._terms:
            terms = terms_of(arm_named(arm), self.config, self.contract, seed=0)
            if terms.max_parties > 1:
                changed = {"minimum_survivors": threshold_for(max(parties, 4))} | changed
            self._terms[key] = fitting(replace(terms, **changed))
        return self._terms[key]

    def rows(self, count: int, *, seed: int = 0, customers: np.ndarray | None = None) -> Rows:
        rng = np.random.default_rng(seed)
        features = np.zeros((count, 4), dtype=np.float32)
        features[:, [0, 2]] = rng.uniform(-0.9, 0.9, (count, 2))
        labels = (rng.uniform(size=count) < 0.3 + 0.3 * features[:, 0]).astype(np.float32)
        if self.contract.value is None:
            return Rows(features=features, targets=labels[:, None], customers=customers)
        spent = np.where(rng.uniform(size=count) < 0.5, np.exp(rng.normal(3.0, 1.0, count)), 0.0).astype(np.float32)
        targets, segments = np.stack([labels, spent], axis=1), rng.integers(0, 6, count)
        return Rows(features=features, targets=targets, segments=segments, customers=customers)

    def party(
        self,
        name: str,
        terms: Terms,
        *,
        roster: Iterable[str] = FOUR,
        rows: int | Rows = 40,
        held_out: int | Rows = 10,
        seed: int = 0,
        **changed: object,
    ) -> Party:
        """Return a party of rows as given, or of so many; it declares as many as it trains on."""
        rows = self.rows(rows, seed=seed) if isinstance(rows, int) else rows
        held_out = self.rows(held_out, seed=seed + 1000) if isinstance(held_out, int) else held_out
        seat = None
        if terms.secagg == "secure":
            seat = Seat(identity=identity_of(name), roster=roster_of(roster, minimum=terms.minimum_survivors))
        fields = {"declared_rows": len(rows.targets), "seat": seat} | changed
        return Party(name=name, terms=terms, rows=rows, held_out=held_out, **fields)

    def swap(self, party: Party, **places: Rows | None) -> None:
        """Give ``party`` other ``rows`` or ``held_out`` than those that it has checked."""
        for place, rows in places.items():
            setattr(party, place, rows)
            setattr(party._releases, place, rows)

    def member(
        self,
        name: str,
        *,
        arm: str = "federated_dp",
        secagg: str | None = None,
        rows: int | Rows = 40,
        held_out: int | Rows = 10,
        seed: int = 0,
    ) -> Member:
        """Return one party that has joined a run, in the open or among ``FOUR``."""
        terms = self.terms(arm, **({"secagg": secagg} if secagg else {}))
        member = self.fresh(self.party(name, terms, rows=rows, held_out=held_out, seed=seed))
        member.join(self.invitation(member.party))
        return member

    def fresh(self, party: Party, state: PartyState | None = None) -> Member:
        return Member(party, state or PartyState())

    def invitation(self, party: Party, **changed: object) -> Invitation:
        roster_hash = party.seat.roster.hash.hex() if party.seat else ""
        fields = {"run": RUN, "terms_hash": party.terms.hash, "roster_hash": roster_hash} | changed
        return Invitation(**fields)

    def model(self, terms: Terms, **changed: object) -> ModelState:
        fields = {
            "centre": np.zeros(terms.width),
            "scale": np.ones(terms.width),
            "parameters": np.zeros(terms.parameters),
            "calibration": terms.objective.uncalibrated,
        }
        return ModelState(**(fields | changed))

    def phase_of(self, terms: Terms, number: int) -> str:
        """Return the phase of a round, and of a round that there is not, the last one."""
        return terms.phase_of(number) if 0 <= number < terms.rounds else "evaluate"

    def request(self, terms: Terms, number: int, **changed: object) -> Request:
        """Return the request that opens round ``number``; in the open it is the only one."""
        parts = {key: changed.pop(key) for key in PARTS if key in changed}
        model = self.model(terms, **parts)
        step = terms.steps[0]
        fields = {
            "run": RUN,
            "round_number": number,
            "phase": self.phase_of(terms, number),
            "step": step,
            "model": model if changed.get("step", step) in RELEASING else None,
            "packet": b"",
        }
        return Request(**(fields | changed))

    def follow(
        self, member: Member, number: int, *, until: str = "", **changed: object
    ) -> tuple[Circle, Request, list[Update]]:
        """Let ``member`` answer all secure steps of a round before ``until``; return the round and the next request."""
        terms = member.party.terms
        opening = self.request(terms, number, step="advertise", **changed)
        model = self.model(terms, **{k: v for k, v in changed.items() if k in PARTS})
        circle, updates = Circle(member, opening), []
        for step in terms.steps:
            packet = circle.packet(step)
            request = replace(opening, step=step, packet=packet, model=model if step == "mask" else None)
            if step == until:
                if step == "mask":
                    circle.bind(request.inputs)
                return circle, request, updates
            updates.append(member.answer(request))
            if step == "mask":
                circle.bind(request.inputs)
            circle.take(updates[-1])
        return circle, request, updates

    def released(self, member: Member, number: int, **changed: object) -> np.ndarray:
        """Return the words that ``member`` releases in a round, hidden by nothing but zeros."""
        terms = member.party.terms
        if terms.secagg == "ideal":
            content = member.answer(self.request(terms, number, **changed)).content
            return bytes_to_words(content, modulus_bits=terms.modulus_bits)
        circle, _, _ = self.follow(member, number, **changed)
        return circle.server.total()

    def refused(self, member: Member, request: Request) -> str:
        """Return why ``member`` does not answer; it must not."""
        with pytest.raises((Refusal, BadMessage)) as caught:
            member.answer(request)
        return str(caught.value)

    # Whole runs.

    def market(self, parties: int = 4, *, arm: str = "federated_dp", max_void_rounds: int = 3, **changed: object):
        """Return a coordinator and its parties p0, p1, ... with rows of their own, all joined."""
        names = tuple(f"p{number}" for number in range(parties))
        terms = self.terms(arm, parties=parties, **changed)
        coordinator = self.coordinator(terms, names, max_void_rounds=max_void_rounds)
        members = [
            self.fresh(self.party(name, terms, roster=names, rows=30 + 5 * number, seed=number))
            for number, name in enumerate(names)
        ]
        self.join(coordinator, members)
        return coordinator, members

    def coordinator(self, terms: Terms, names: Iterable[str] = FOUR, *, max_void_rounds: int = 3) -> Coordinator:
        roster = roster_of(names, minimum=terms.minimum_survivors) if terms.secagg == "secure" else None
        return Coordinator(terms=terms, max_void_rounds=max_void_rounds, roster=roster)

    def join(self, coordinator: Coordinator, members: Iterable[Member]) -> None:
        for member in members:
            coordinator.admit(member.join(coordinator.invitation()))

    def step(
        self,
        coordinator: Coordinator,
        members: Iterable[Member],
        *,
        absent: Collection[str] = (),
        undelivered: Collection[str] = (),
    ) -> dict[str, Update]:
        """Let everyone but ``absent`` answer what is asked in an exchange, and close it; some answers do not arrive.

        Returns the answers in the round that is worked on.
        """
        number = self.number(coordinator)
        lost, undelivered = (lambda _, names=names: names for names in (absent, undelivered))
        sent = self.exchange(coordinator, members, lost=lost, undelivered=undelivered)
        return {name: update for (of, _, name), (_, update) in sent.items() if of == number}

    def exchange(
        self,
        coordinator: Coordinator,
        members: Iterable[Member],
        *,
        lost: Callable[[tuple[int, str]], Collection[str]] = lambda _: (),
        undelivered: Callable[[tuple[int, str]], Collection[str]] = lambda _: (),
    ) -> dict[tuple[int, str, str], tuple[Request, Update]]:
        """Run one exchange; (round, step) says who does not answer, and whose answer does not arrive."""
        by_name, sent = {member.name: member for member in members}, {}
        for name, asked in coordinator.requests().items():
            for request in asked.requests:
                at = (request.round_number, request.step)
                if name in by_name and name not in lost(at):
                    update = by_name[name].answer(request)
                    sent[*at, name] = request, update
                    if name not in undelivered(at):
                        coordinator.receive(update)
        coordinator.close_step()
        return sent

    def round(
        self,
        coordinator: Coordinator,
        members: Iterable[Member],
        *,
        lost: Lost | None = None,
        undelivered: Lost | None = None,
    ) -> None:
        """Run the steps of one round, or those that are left of it."""
        number = self.number(coordinator)
        gone, unheard = (lambda at, known=known: (known or {}).get(at, ()) for known in (lost, undelivered))
        while self.number(coordinator) == number:
            self.exchange(coordinator, members, lost=gone, undelivered=unheard)

    def until(self, coordinator: Coordinator, members: Iterable[Member], last: str, *, absent: Collection[str] = ()):
        """Run the exchanges before the step ``last``; return its requests."""
        while not (asked := self.asked(coordinator, last)):
            self.step(coordinator, members, absent=absent)
        return asked

    def asked(self, coordinator: Coordinator, step: str = "") -> dict[str, Request]:
        """Return who is asked for ``step``, or for the one that is due in the round that is worked on."""
        asked = [(name, request) for name, all_ in coordinator.requests().items() for request in all_.requests]
        return {name: request for name, request in asked if request.step == (step or coordinator.step)}

    def answers(self, coordinator: Coordinator, members: Iterable[Member], step: str) -> dict[str, Update]:
        """Return everyone's answers to ``step``; what else is asked in this exchange is answered and delivered."""
        by_name, held = {member.name: member for member in members}, {}
        for name, asked in coordinator.requests().items():
            for request in asked.requests if name in by_name else ():
                update = by_name[name].answer(request)
                if request.step == step:
                    held[name] = update
                else:
                    coordinator.receive(update)
        return held

    def finish(self, coordinator: Coordinator, members: Iterable[Member], number: int) -> None:
        """Run what is left of round ``number``."""
        while self.number(coordinator) == number:
            self.step(coordinator, members)

    def number(self, coordinator: Coordinator) -> int:
        """Return the number of the round that is worked on or due."""
        return coordinator._rounds.number

    def drive(self, coordinator: Coordinator, members: Iterable[Member], *, lost: Lost | None = None) -> ModelState:
        """Run honest ``members`` to the end."""
        while not coordinator.finished:
            self.round(coordinator, members, lost=lost)
        return coordinator.model

    def seen_rounds(self, coordinator: Coordinator, members, *, rounds: int, broken: Break | None = None) -> View:
        """Run ``rounds``, or what is left of one and those after it, and return the view of the server."""
        view, now = View(), {}
        paid, honest = Party._paid_words, protocol.add_masks

        def watched(party, state, request, keep):
            state, words = paid(party, state, request, keep)
            view.words[request.round_number, party.name] = words.copy()
            now["name"] = party.name
            return state, words

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Party, "_paid_words", watched)
            if broken:
                patch.setattr(
                    protocol, "add_masks", lambda words, masks: honest(words, broken(now["name"], list(masks)))
                )
            last = self.number(coordinator) + rounds
            while self.number(coordinator) < last:
                for at, (request, update) in self.exchange(coordinator, members).items():
                    view.requests[at], view.updates[at] = request, update
        return view


TRAINING = "rounds = 3\nlocal_steps = 1\nlocal_learning_rate = 1.0\nlearning_rate = 1.0"


@pytest.fixture(scope="session")
def world(write_market: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> World:
    """Two local steps, and noise of each party that is enough alone."""
    two_steps = (TRAINING, TRAINING.replace("local_steps = 1", "local_steps = 2"))
    return World(load_config(write_market(tmp_path_factory.mktemp("world"), two_steps)))


@pytest.fixture(scope="session")
def sharing(write_market: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> World:
    """One local step, and noise that parties share: sized for two of the least three, as one may collude."""
    changed = ('noise = "local"', 'noise = "distributed"')
    return World(load_config(write_market(tmp_path_factory.mktemp("sharing"), changed)))


@pytest.fixture(scope="session")
def worth(write_joint_market: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> World:
    """A response and a value on one linear body, six segments, and noise of each party that is enough alone."""
    return World(load_config(write_joint_market(tmp_path_factory.mktemp("worth"))), WITH_VALUE)


@pytest.fixture
def rooms(world: World, tmp_path: Path) -> Iterator[Callable]:
    """Return a maker of rooms, with books and a log, whose sums are masked or in the open."""
    made = []

    def make(masked: bool = False):
        made.append(LEDGERS["Room"](world, tmp_path / f"room-{len(made)}", masked=masked))
        return made[-1]

    yield make
    for room in made:
        room.leave()
