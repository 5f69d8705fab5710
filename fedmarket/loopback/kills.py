"""What runs is killed while it runs, as a power cut would, and started again as whoever keeps it alive would do.

A case is a victim and what the run asks for when it dies; the phases are those of the terms, so nothing here knows how
many there are in a round. A victim is killed when the run's own state file says that the phase is asked, so before it
hears of it, or when its party has answered, so before all know of it. The next one is killed when every party has
answered something since: then each case is of a whole federation.
"""

import re
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from threading import Event, Thread
from typing import Any, Literal, Self

from fedmarket.aggregation.steps import RELEASING
from fedmarket.errors import FederationStopped
from fedmarket.federation.answering import JOIN
from fedmarket.ledger.look import look
from fedmarket.loopback.federation import Federation, Say
from fedmarket.loopback.processes import Daemon, end
from fedmarket.operator.follow import MODEL, progress_of

VICTIMS = ("party", "supernode", "serverapp", "superlink")
OF_THE_SERVER = ("serverapp", "superlink")

Moment = Literal["asked", "answered"]

LOOK_SECONDS = 0.1
FIRST_BACK_OFF, LONGEST_BACK_OFF = 2.0, 16.0
"""Seconds before what ended is started again, and at most: a SuperNode is refused while it is thought to be there."""

MOST_STARTS, PAUSE_SECONDS = 40, 5.0
"""How often the operator gives the command again that goes on with a run, and after which pause."""

_ANSWERED = re.compile(r" (\w+) ([0-9a-f]+)(?: round (\d+))?(?:, \w+ round \d+)?: answered ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Who is killed, and in what: ``join``, a step of a round, or ``close``."""

    victim: str
    phase: str
    moment: Moment = "asked"

    def __str__(self) -> str:
        return f"{self.victim} in {self.phase}, {self.moment}"


def all_cases(phases: Iterable[str], victims: Iterable[str], moments: Iterable[Moment]) -> list[Case]:
    """Return every victim in every phase, at each of the moments."""
    every = product(phases, victims, moments)
    return [Case(victim=victim, phase=phase, moment=moment) for phase, victim, moment in every]


@dataclass(slots=True, kw_only=True)
class Keeper:
    """Starts a daemon again that ended, after a pause that doubles with each start in vain."""

    daemon: Daemon
    _pause: float = FIRST_BACK_OFF
    _due: float | None = None
    _started: float = 0.0

    def look(self) -> None:
        """Start it if it is due."""
        now = time.monotonic()
        if self.daemon.alive:
            if now - self._started > LONGEST_BACK_OFF:
                self._pause = FIRST_BACK_OFF
            self._due = None
        elif self._due is None:
            self._due, self._pause = now + self._pause, min(2 * self._pause, LONGEST_BACK_OFF)
        elif now >= self._due:
            self._due, self._started = None, now
            self.daemon.start()


@dataclass(slots=True, kw_only=True)
class Killer:
    """Kills what the cases say, one after the other, while a federation runs; use it as a context.

    Attributes:
        federation: whose processes they are.
        cases: what is left to do; done ones move to ``done`` with the round in which they were.
        output: of the run that is followed.
    """

    federation: Federation
    cases: list[Case]
    output: Path
    say: Say
    done: list[tuple[Case, int]] = field(default_factory=list)
    failed: list[Exception] = field(default_factory=list)
    _keepers: list[Keeper] = field(default_factory=list)
    _marks: list[int] = field(default_factory=list)
    _stood: int = -3
    _of_server: bool = False
    _began: list[int] = field(default_factory=list)
    _next: int = 0
    _stopped: Event = field(default_factory=Event)
    _thread: Thread | None = None

    def __enter__(self) -> Self:
        """Begin to look."""
        self._keepers = [Keeper(daemon=one) for one in (*self.federation.parties, *self.federation.nodes)]
        self._began = [party.log.stat().st_size for party in self.federation.parties]
        self._marks = list(self._began)
        self._thread = Thread(target=self._work, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Look no more."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()

    def _work(self) -> None:
        while not self._stopped.wait(LOOK_SECONDS):
            try:
                for keeper in self._keepers:
                    keeper.look()
                if told := progress_of(self.output):
                    self._consider(told)
            except Exception as error:
                self.failed.append(error)
                return

    def _consider(self, told: dict[str, Any]) -> None:
        phase = JOIN if told["doing"].startswith("waiting") else str(told["doing"])
        number = int(told["round"])
        for case in self.cases:
            if case.phase != phase or (case.moment == "answered" and not self._answered(phase, number)):
                continue
            if self._ready(case, number, told["parties"]):
                self.cases.remove(case)
                self._kill(case, number)
                self.done.append((case, number))
                self.say(f"killed: {case}, round {number}")
                return

    def _ready(self, case: Case, number: int, joined: list[str]) -> bool:
        """Whether what died before is back: every party that joined has answered since.

        And in a whole round since: who is lost in a round is out of the next one too. What the server loses is void for
        one round or two, and void rounds in a row end a run.
        """
        if case.phase == JOIN:
            return not self.done
        both = self._of_server and case.victim in OF_THE_SERVER
        if number < self._stood + (3 if both else 2):
            return False
        if case.victim not in OF_THE_SERVER and len(joined) < len(self._marks):
            return False
        return all(
            self._is_back(place)
            for place, site in enumerate(self.federation.consortium.sites)
            if site.name in joined or case.victim not in OF_THE_SERVER
        )

    def _answered(self, phase: str, number: int) -> bool:
        """Whether the next victim's party has just answered this."""
        party = self.federation.parties[self._next]
        found = _ANSWERED.findall(said_since(party, self._began[self._next]))
        return bool(found) and found[-1][0] == phase and found[-1][2] in ("", str(number))

    def _is_back(self, place: int) -> bool:
        party, node = self.federation.parties[place], self.federation.nodes[place]
        if not (party.alive and node.alive):
            self._marks[place] = party.log.stat().st_size
            return False
        return _ANSWERED.search(said_since(party, self._marks[place])) is not None

    def _kill(self, case: Case, number: int) -> None:
        federation = self.federation
        self._stood, self._of_server = number, case.victim in OF_THE_SERVER
        if not self._of_server:
            place, self._next = self._next, (self._next + 1) % len(federation.parties)
            self._marks[place] = federation.parties[place].log.stat().st_size
            daemons = federation.parties if case.victim == "party" else federation.nodes
            daemons[place].kill()
            return
        self._marks = [party.log.stat().st_size for party in federation.parties]
        for pid in federation.server_apps() if case.victim == "serverapp" else [federation.superlink()]:
            end(pid)
        if case.victim == "superlink":
            time.sleep(FIRST_BACK_OFF)
            federation.start_server()


def run_with_kills(
    federation: Federation, cases: list[Case], output: Path, *, seconds: float, say: Say
) -> list[tuple[Case, int]]:
    """Run to a model in ``output`` while the cases happen, and return which did, with their rounds.

    The operator gives the command again as long as the run has no model, as the guide tells.

    Args:
        federation: running.
        cases: what is to happen; what did is taken out of it.
        output: of the run.
        seconds: after which it is given up.
        say: is told what happens.

    Raises:
        FederationStopped: if there is no model in time; the message has the last reason.
    """
    until, said = time.monotonic() + seconds, "the operator's command did not end"
    with Killer(federation=federation, cases=cases, output=output, say=say) as killer:
        for _ in range(MOST_STARTS):
            left = until - time.monotonic()
            if left <= 0 or killer.failed:
                break
            try:
                federation.run(output, seconds=left, say=say)
                break
            except FederationStopped as error:
                said = str(error)
                say(said)
                time.sleep(PAUSE_SECONDS)
    if killer.failed:
        raise FederationStopped(f"what was killed cannot be started again: {killer.failed[0]}") from killer.failed[0]
    if not (output / MODEL).is_file():
        raise FederationStopped(f"no model after {seconds:g} s: {said}")
    return killer.done


def need_nothing_lost(federation: Federation) -> int:
    """Return how many answers that release something left parties; hold each against the ledger that paid for it.

    Raises:
        FederationStopped: if one was not paid for, or a cap is passed.
    """
    released = 0
    for site, party in zip(federation.consortium.sites, federation.parties, strict=True):
        state = look(site.books).state
        outcomes = {(run[:12], number): one.outcome for (run, number), one in state.reservations.items()}
        for step, run, number in _ANSWERED.findall(said_since(party, 0)):
            if step not in RELEASING:
                continue
            released += 1
            if outcomes.get((run, int(number))) == "given-back" or (run, int(number)) not in outcomes:
                raise FederationStopped(f"party {site.name}: round {number} of {run} left and is not in its ledger")
        spent, cap = state.spent().epsilon, float(state.cap)
        if not spent <= cap:
            raise FederationStopped(f"party {site.name}: spent {spent:g} of a cap of {cap:g}")
    return released


def said_since(daemon: Daemon, mark: int) -> str:
    """Return what a daemon's log has after its first ``mark`` bytes."""
    with suppress(FileNotFoundError), daemon.log.open("rb") as log:
        log.seek(mark)
        return log.read().decode(errors="replace")
    return ""
