"""The cap of a party's books: over runs, servers and restarts nothing is spent beyond it."""

import runpy
from pathlib import Path

import pytest

from fedmarket.errors import Refusal
from fedmarket.ledger.entries import CapChanged
from fedmarket.ledger.replay import replay

ROOM = runpy.run_path(str(Path(__file__).with_name("ledgers.py")))
kinds, outcomes, committed, a_round = (ROOM[name] for name in ("kinds", "outcomes", "committed", "a_round"))
NAMES = ROOM["NAMES"]


def test_a_run_that_would_pass_the_cap_is_refused_at_join_with_what_is_left_and_asked(rooms):
    room = rooms()
    coordinator, members = room.market(cap=1.2)
    room.finish(coordinator, members)
    before = kinds(members[0].party.books)
    second, again = room.market(join=False, cap=1.2)
    with pytest.raises(Refusal) as caught:
        again[0].join(second.invitation())
    assert str(caught.value) == (
        "budget: this run would bring epsilon from 1.0000 to 1.4652; the cap is 1.2, 0.2000 left"
    )
    assert kinds(again[0].party.books) == before
    assert again[0].state.run == b""


def test_a_run_that_just_fits_is_joined_and_run_to_its_end_and_not_a_third_time(rooms):
    room = rooms()
    for _ in range(2):
        coordinator, members = room.market(cap=1.4653)
        room.finish(coordinator, members)
    state = members[0].party.books.ledger.state
    assert state.spent().epsilon == pytest.approx(1.4652, abs=1e-4)
    third, again = room.market(join=False, cap=1.4653)
    with pytest.raises(Refusal, match=r"0.0001 left"):
        again[0].join(third.invitation())


def test_a_raised_cap_lets_a_run_go_on_and_a_lowered_one_stops_it(rooms):
    room = rooms()
    coordinator, members = room.market(cap=1.2)
    books = members[0].party.books
    room.world.round(coordinator, members)
    books.ledger.append(CapChanged(old=books.ledger.state.cap, new="0.1", reason="less"))
    said, left = a_round(coordinator, members)
    assert [line for line in said if "the cap is 0.1" in line] == said != []
    assert "p0" not in left
    books.ledger.append(CapChanged(old="0.1", new="1.5", reason="agreed"))
    assert a_round(coordinator, members)[0] == []
    second, again = room.market(join=False, cap=1.2)  # the cap of a ledger that was begun stays its own
    again[0].join(second.invitation())
    with pytest.raises(Refusal, match=r"from 0\.\d+ to 1\.3\d+; the cap is 1\.2"):
        again[1].join(second.invitation())


@pytest.mark.parametrize("servers", [1, 2])
def test_two_runs_at_once_on_one_data_set_stay_within_the_cap_together(rooms, servers: int):
    """Each message opens the folder and gives it up, as nodes do; the second server has a log of its own."""
    room, cap = rooms(), 1.2
    terms = room.terms()
    logs = [room.logbook(f"log {number}") for number in range(servers)]
    runs = [room.coordinator(terms, logs[number % servers], max_void_rounds=8) for number in range(2)]
    parties = [[room.member(name, terms, cap=cap) for name in NAMES] for _ in range(2)]
    left, refused = 0, []

    def asked(number: int, member, step: str, message):
        books = member.party.books = room.books(member.name, terms, cap=cap, log=f"log {number % servers}")
        try:
            return getattr(member, step)(message)
        finally:
            books.close()

    for number, coordinator in enumerate(runs):
        for member in parties[number]:
            coordinator.admit(asked(number, member, "join", coordinator.invitation()))
    for _ in range(terms.rounds):
        for number, coordinator in enumerate(runs):
            for member in parties[number]:
                request = coordinator.requests()[member.name].requests[0]
                try:
                    update = asked(number, member, "answer", request)
                except Refusal as error:
                    refused.append(str(error))
                    continue
                coordinator.receive(update)
                left += member.name == "p0"
            coordinator.close_step()
    books = room.books("p0", terms, cap=cap)
    assert replay(books.ledger.envelopes).spent().epsilon <= cap
    assert terms.rounds < left < 2 * terms.rounds
    assert outcomes(books)["committed"] == left == len(committed(books))
    assert refused
    assert all("the cap is 1.2" in line for line in refused)


def test_a_round_of_one_run_stays_open_while_another_run_is_entered(rooms):
    room = rooms()
    terms = room.terms()
    books = room.books("p0", terms)
    for run in (bytes(16), bytes([1] * 16)):
        books.join(run, terms, roster_hash="")
    for run in (bytes(16), bytes([1] * 16)):
        books.enter(run, 0, terms=terms)
    books.need_reserved(bytes(16), 0)
    assert outcomes(books) == {"open": 2}
