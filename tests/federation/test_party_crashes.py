"""A party that is killed at every call that touches its disk: what left is paid for, and the next run needs no hands.

The party is a process of its own. Its node keeps what it remembers between messages and lives on, as does the server.
A kill before a call leaves the disk as it is; one after a call is a power failure, and what was not synced is lost.
"""

import multiprocessing
import os
import random
import runpy
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path

import pytest

from fedmarket.aggregation.steps import RELEASING
from fedmarket.errors import FedmarketError, Refusal
from fedmarket.federation.messages import Closing, Request, Update
from fedmarket.federation.party import PartyState
from fedmarket.files import sha256_of
from fedmarket.ledger.replay import replay

ROOM = runpy.run_path(str(Path(__file__).with_name("ledgers.py")))
Room, committed = ROOM["Room"], ROOM["committed"]
CALLS = ("open", "write", "fsync", "replace", "chmod", "unlink", "ftruncate")
FORK = multiprocessing.get_context("fork")
FIRST, SECOND = b"the run of a day", b"the run after it"


class Killer:
    """Kills its own process at the ``at``-th call in :data:`CALLS`, before it, or after it and with the power off."""

    def __init__(self, at: int, *, after: bool) -> None:
        self.left, self.after = at, after
        self.honest = {name: getattr(os, name) for name in CALLS}
        self.synced: dict[int, int] = {}

    def lurk(self) -> None:
        for name in CALLS:
            setattr(os, name, self._counting(name))

    def _counting(self, name: str) -> Callable:
        def call(*args, **named):
            self.left -= 1
            if self.left == 0 and not self.after:
                os.kill(os.getpid(), signal.SIGKILL)
            if name == "write":
                self.synced.setdefault(args[0], os.fstat(args[0]).st_size)
            try:
                return self.honest[name](*args, **named)
            finally:
                if name == "fsync":
                    self.synced.pop(args[0], None)
                if self.left == 0:
                    self._power_off()

        return call

    def _power_off(self) -> None:
        for handle, size in self.synced.items():
            self.honest["ftruncate"](handle, size)
        os.kill(os.getpid(), signal.SIGKILL)


def party_process(shop: "Shop", pipe, killer: Killer | None) -> None:
    """Answer what comes, each with the state that the node kept."""
    if killer:
        killer.lurk()
    member = shop.opened()
    pipe.send("open")
    while True:
        step, member.state, message = pipe.recv()
        try:
            answer = answer_of(member, step, message)
        except FedmarketError as error:
            answer = error
        pipe.send((answer, member.state))


def answer_of(member, step: str, message):
    return member.party.close(member.state, message) if step == "close" else getattr(member, step)(message)


@dataclass
class Shop:
    """A party's folder and what its node keeps; the server's log; and all that left, by run and round."""

    room: object
    terms: object
    cap: float
    party: object
    state: PartyState = field(default_factory=PartyState)
    left: dict[tuple[bytes, int], set[bytes]] = field(default_factory=dict)
    asked: tuple[str, object] | None = None
    pipe: object = None

    def opened(self):
        self.party.books = None  # until they are open
        self.party.books = self.room.books("p0", self.terms, cap=self.cap)
        return self.room.world.fresh(self.party, self.state)

    def ask(self, step: str, message):
        """Return the party's answer; what it says of its ledger goes to the log."""
        self.asked = (step, message)
        if self.pipe is None:
            member = self.opened()
            answer, self.state = answer_of(member, step, message), member.state
        else:
            self.pipe.send((step, self.state, message))
            answer, self.state = self.pipe.recv()
        if isinstance(answer, FedmarketError):
            raise answer
        if isinstance(answer, Update) and answer.step in RELEASING:
            self.left.setdefault((self.state.run, answer.round_number), set()).add(answer.content)
        if (told := answer if step == "close" else answer.told) is not None:
            self.logbook.take("p0", told)
        self.asked = None
        return answer

    def shown(self):
        self.logbook.draw()
        return self.logbook.shown_to("p0")

    def run(self, run: bytes, rounds: int, *, end: bool = True) -> None:
        """Play server and all other parties, from invitation to closing."""
        world = self.room.world
        self.state = PartyState()
        self.ask("join", world.invitation(self.party, run=run))
        for number in range(rounds):
            if self.room.masked:
                self._circle(run, number)
            else:
                self.ask("answer", replace(world.request(self.terms, number, run=run), shown=self.shown()))
        if end:
            self.ask("close", Closing(run=run, model_hash=bytes(32)))
            self.ask("close", Closing(run=run, shown=self.shown()))

    def _circle(self, run: bytes, number: int) -> None:
        """Go through the steps of a masked round up to the mask, after which nothing is written."""
        world = self.room.world
        opening: Request = world.request(self.terms, number, run=run, step="advertise")
        circle = world.circle(world.fresh(self.party, self.state), opening)
        for step in ("advertise", "share", "mask"):
            computing = {"model": world.model(self.terms), "shown": self.shown()} if step == "mask" else {}
            request = replace(opening, step=step, packet=circle.packet(step), **computing)
            update = self.ask("answer", request)
            if step == "mask":
                circle.bind(request.inputs)
            circle.take(update)

    def killed(self, killer: Killer | None, play: Callable[["Shop"], None], *, after_seconds: float | None = None):
        """Let a process of the party go through ``play``; return whether it was killed in it."""
        if self.party.books:
            self.party.books.close()  # which a child would hold on to
        self.pipe, theirs = FORK.Pipe()
        child = FORK.Process(target=party_process, args=(self, theirs, killer))
        child.start()
        theirs.close()
        if after_seconds is not None:
            signal.signal(signal.SIGALRM, lambda *_: child.kill())
            signal.setitimer(signal.ITIMER_REAL, after_seconds)
        try:
            self.pipe.recv()
            play(self)
            return False
        except (EOFError, ConnectionError):
            child.join()
            assert child.exitcode == -signal.SIGKILL
            return True
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            child.kill()
            child.join()
            self.pipe.close()
            self.pipe = None

    def check(self) -> None:
        """What left is committed and spent, once a round; the ledger holds, within its cap."""
        books = self.opened().party.books
        state, hashes = books.ledger.state, committed(books)
        assert replay(books.ledger.envelopes) == state
        assert state.spent().epsilon <= self.cap
        for (run, number), contents in self.left.items():
            assert len(contents) == 1
            assert sha256_of(*contents) in hashes
            assert state.reservations[run.hex(), number].outcome == "committed"

    def go_on(self) -> None:
        """Answer what was asked when the party was killed, from what its node still remembers; then take a next run."""
        if self.asked and self.state.run:
            with suppress(FedmarketError):
                self.ask(*self.asked)
            self.check()
        self.run(SECOND, 1, end=False)
        assert self.left[SECOND, 0]
        self.check()


@pytest.fixture
def shops(world, tmp_path: Path) -> Iterator[Callable[..., Shop]]:
    """Return a maker of shops; rows and terms are made once, so that a process begins at once."""
    made, parties = [], {}

    def make(masked: bool, cap: float = 2.0) -> Shop:
        for room in made[:-1]:
            room.leave()
        room = Room(world, tmp_path / f"room-{len(made)}", masked=masked)
        made.append(room)
        if masked not in parties:
            parties[masked] = world.party("p0", room.terms(), roster=ROOM["NAMES"])
        shop = Shop(room, room.terms(), cap, parties[masked])
        shop.logbook = room.logbook()
        return shop

    yield make
    for room in made:
        room.leave()


def interrupted(shop: Shop) -> None:
    """Leave an open reservation and half a line behind."""
    shop.run(FIRST, 1, end=False)
    member = shop.opened()
    member.party.books.enter(FIRST, 1, terms=shop.terms)
    path = member.party.books.ledger._lines.path
    member.party.books.close()
    with path.open("ab") as file:
        file.write(b'{"payload":"')


def from_the_start(shop: Shop) -> None:
    shop.run(FIRST, 2)


def after_an_interruption(shop: Shop) -> None:
    shop.run(b"the interrupted.", 1)


@pytest.mark.parametrize(
    ("masked", "before", "play", "least"),
    [
        (False, None, from_the_start, 40),
        (True, None, from_the_start, 40),
        (False, interrupted, after_an_interruption, 30),
    ],
    ids=["open", "masked", "after an interruption"],
)
@pytest.mark.parametrize("after", [False, True], ids=["kill", "power failure"])
def test_killed_at_every_call_a_party_has_paid_for_what_left_and_goes_on(shops, masked, before, play, least, after):
    at, left = 1, []
    while True:
        shop = shops(masked)
        if before:
            before(shop)
        if not shop.killed(Killer(at, after=after), play):
            break
        left.append(len(shop.left))
        shop.check()
        shop.go_on()
        at += 1
    assert at > least  # otherwise hardly anything was put to the test
    assert left == sorted(left)
    assert left[0] < left[-1] == len(shop.left)


def test_killed_at_random_times_run_after_run_a_party_never_passes_its_cap(shops):
    """In one folder, until a whole run does not fit any more: at a call, at a call, at a moment, and not at all."""
    luck, kills, refused = random.Random(11), 0, ""
    shop = shops(masked=False, cap=1.8)
    for number in count():
        run, killer = luck.randbytes(16), Killer(luck.randint(5, 60), after=luck.random() < 0.5)
        moment = luck.uniform(0.01, 0.1) if number % 4 == 2 else None
        try:
            kills += shop.killed(
                killer if number % 4 < 2 else None, lambda shop, run=run: shop.run(run, 8), after_seconds=moment
            )
        except Refusal as error:
            refused = str(error)
            break
        shop.check()
    assert "this run would bring epsilon" in refused
    assert "the cap is 1.8" in refused
    assert kills >= 3
    assert len(shop.left) > 8
