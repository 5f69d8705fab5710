"""Who is killed when, and when the next. In ``tests/operator/test_runtime.py`` they are real processes."""

import json
import time
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest

from fedmarket.aggregation.steps import SECURE
from fedmarket.errors import FederationStopped
from fedmarket.loopback import kills
from fedmarket.loopback.kills import VICTIMS, Case, Keeper, Killer, all_cases, run_with_kills

NAMES = ["bank", "grocer"]


@dataclass
class FakeDaemon:
    log: Path
    alive: bool = True
    killed: int = 0
    started: int = 0

    def kill(self) -> None:
        self.alive, self.killed = False, self.killed + 1

    def start(self) -> None:
        self.started += 1

    def says(self, line: str) -> None:
        with self.log.open("a") as log:
            log.write(f"2026-01-01 00:00:00,000 INFO {line}\n")


@dataclass
class FakeFederation:
    parties: list[FakeDaemon]
    nodes: list[FakeDaemon]
    ended: list[str] = field(default_factory=list)
    consortium: SimpleNamespace = field(
        default_factory=lambda: SimpleNamespace(sites=[SimpleNamespace(name=name) for name in NAMES])
    )

    def server_apps(self) -> list[str]:
        return ["serverapp"]

    def superlink(self) -> str:
        return "superlink"

    def start_server(self) -> None:
        self.ended.append("started")


@pytest.fixture
def federation(tmp_path, monkeypatch) -> FakeFederation:
    made = FakeFederation(
        parties=[FakeDaemon(tmp_path / name) for name in NAMES], nodes=[FakeDaemon(tmp_path / name) for name in NAMES]
    )
    for party in made.parties:
        party.log.touch()
    monkeypatch.setattr(kills, "end", made.ended.append)
    monkeypatch.setattr(kills, "FIRST_BACK_OFF", 0.0)
    return made


@pytest.fixture
def killer(federation, tmp_path):
    """Return a killer of the cases, which is told where the run is by hand."""

    def made(*cases: Case) -> Killer:
        one = Killer(federation=federation, cases=list(cases), output=tmp_path / "run", say=lambda line: None)
        one._began = one._marks = [0, 0]
        return one

    return made


def told(doing: str, number: int = 0, parties=NAMES) -> dict[str, object]:
    return json.loads(json.dumps({"doing": doing, "round": number, "parties": list(parties)}))


def answer(federation: FakeFederation, words: str) -> None:
    for party in federation.parties:
        party.says(f"{words}: answered (3 ms)")


def test_every_victim_is_killed_in_every_phase_at_both_moments():
    cases = all_cases(SECURE, VICTIMS, ["asked", "answered"])
    assert len(set(cases)) == len(cases) == 2 * 4 * len(SECURE)
    assert all_cases(["join", "sum"], ["party"], ["asked"]) == [
        Case(victim="party", phase="join"),
        Case(victim="party", phase="sum"),
    ]


def test_nobody_is_killed_before_its_phase_nor_twice_nor_while_another_is_away(federation, killer):
    one = killer(Case(victim="party", phase="mask"), Case(victim="supernode", phase="mask"))
    answer(federation, "join abc")
    one._consider(told("share"))
    assert one.done == []
    one._consider(told("mask"))
    one._consider(told("mask"))
    assert one.done == [(Case(victim="party", phase="mask"), 0)]
    federation.parties[0].alive = True
    one._consider(told("mask", 1))
    assert len(one.done) == 1
    federation.parties[0].says("mask abc round 0: refused: round 0: this party is not in it (0 ms)")
    one._consider(told("mask", 1))
    assert len(one.done) == 1
    answer(federation, "advertise abc round 1")
    one._consider(told("mask", 1))
    assert len(one.done) == 1  # it was not in this round, nor in the one before
    one._consider(told("mask", 2))
    assert [daemon.killed for daemon in (*federation.parties, *federation.nodes)] == [1, 0, 0, 1]


def test_a_case_of_an_answer_waits_for_the_answer(federation, killer):
    one = killer(Case(victim="superlink", phase="share", moment="answered"))
    answer(federation, "advertise abc round 3")
    answer(federation, "share abc round 2")
    one._consider(told("share", 3))
    assert federation.ended == []
    answer(federation, "share abc round 3")
    one._consider(told("share", 3))
    assert federation.ended == ["superlink", "started"]


def test_a_server_is_killed_again_only_after_a_round_that_gave_a_sum(federation, killer):
    one = killer(Case(victim="serverapp", phase="share"), Case(victim="serverapp", phase="mask"))
    answer(federation, "join abc")
    one._consider(told("share", 4))
    answer(federation, "join abc")
    for number in (4, 5, 6):
        one._consider(told("mask", number))
    assert federation.ended == ["serverapp"]
    one._consider(told("mask", 7))
    assert federation.ended == 2 * ["serverapp"]


def test_without_all_parties_only_the_server_is_killed(federation, killer):
    one = killer(Case(victim="party", phase="mask"), Case(victim="serverapp", phase="mask"))
    federation.parties[0].says("join abc: answered (1 ms)")
    one._consider(told("mask", 0, parties=NAMES[:1]))
    assert [case.victim for case, _ in one.done] == ["serverapp"]


def test_what_ended_is_started_after_a_pause_that_grows(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(kills, "time", SimpleNamespace(monotonic=lambda: now[0]))
    one = FakeDaemon(tmp_path / "log", alive=False)
    keeper, starts = Keeper(daemon=one), []
    for tick in range(120):
        now[0] = float(tick)
        before = one.started
        keeper.look()
        starts += [tick] * (one.started - before)
    pauses = [later - earlier for earlier, later in pairwise(starts)]
    assert starts[0] == 2
    assert pauses[:3] == [5, 9, 17]
    assert set(pauses[3:]) == {17}


def test_a_run_that_never_ends_well_is_given_up_with_its_last_reason(federation, tmp_path, monkeypatch):
    monkeypatch.setattr(kills, "MOST_STARTS", 3)
    monkeypatch.setattr(kills, "PAUSE_SECONDS", 0.0)
    federation.runs = []

    def run(output, *, seconds, say):
        federation.runs.append(seconds)
        raise FederationStopped("too few parties")

    federation.run = run
    with pytest.raises(FederationStopped, match="no model after 5 s: too few parties"):
        run_with_kills(federation, [], tmp_path / "run", seconds=5.0, say=lambda line: None)
    assert len(federation.runs) == 3


def test_what_cannot_be_started_again_is_said(federation, tmp_path, monkeypatch):
    monkeypatch.setattr(kills, "PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(kills, "LOOK_SECONDS", 0.0)
    federation.parties[0].alive = False

    def broken() -> None:
        raise OSError("no such file")

    def run(output, *, seconds, say):
        time.sleep(0.05)
        raise FederationStopped("stopped")

    federation.parties[0].start, federation.run = broken, run
    with pytest.raises(FederationStopped, match="cannot be started again: no such file"):
        run_with_kills(federation, [], tmp_path / "run", seconds=30.0, say=lambda line: None)
