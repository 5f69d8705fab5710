"""What a party's books promise: reserved on disk, computed, committed, sent; the cap; what is given back and what not.

A full disk is made of ``os.write``, ``os.fsync`` and ``os.replace`` that fail. What left is what ``answer`` returned.
"""

import multiprocessing
import os
import runpy
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fedmarket.aggregation.steps import RELEASING
from fedmarket.errors import BadMessage, ConfigError, FedmarketError, Refusal, UsageError
from fedmarket.federation.messages import Closing
from fedmarket.federation.party import Party
from fedmarket.federation.release import Releases
from fedmarket.files import sha256_of
from fedmarket.ledger.entries import CapChanged, DataDestroyed, DataReplaced
from fedmarket.ledger.envelope import read_envelope
from fedmarket.ledger.replay import replay

ROOM = runpy.run_path(str(Path(__file__).with_name("ledgers.py")))
Room, releasing, kinds, outcomes, committed = (
    ROOM[name] for name in ("Room", "releasing", "kinds", "outcomes", "committed")
)
NAMES, ROWS, TRAINED, HELD_OUT, OTHER = (ROOM[name] for name in ("NAMES", "ROWS", "TRAINED", "HELD_OUT", "OTHER"))
MASKED = pytest.mark.parametrize("masked", [True, False], ids=["masked", "open"])


@pytest.fixture
def rooms(world, tmp_path: Path) -> Iterator[Callable]:
    """Return a maker of rooms whose sums are masked or in the open."""
    made = []

    def make(masked: bool = False):
        made.append(Room(world, tmp_path / f"room-{len(made)}", masked=masked))
        return made[-1]

    yield make
    for room in made:
        room.leave()


def kinds_on_disk(books) -> list[str]:
    """Return the kinds in the file itself, whoever holds it."""
    lines = books.ledger._lines.path.read_bytes().split(b"\n")[:-1]
    return [kind_of(line) for line in lines]


def kind_of(envelope: bytes) -> str:
    payload = read_envelope(envelope).payload
    return payload.split(b'"kind":"', 1)[1].split(b'"', 1)[0].decode()


class Disk:
    """Watches writes and syncs: what is not synced yet, and which call of :meth:`failing` fails."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.unsynced: set[int] = set()
        self.left = 0
        self._write, self._fsync, self._replace = os.write, os.fsync, os.replace
        for name in ("write", "fsync", "replace"):
            monkeypatch.setattr(os, name, getattr(self, name))

    def write(self, handle: int, content: bytes) -> int:
        self._count()
        self.unsynced.add(handle)
        return self._write(handle, content)

    def fsync(self, handle: int) -> None:
        self._count()
        self._fsync(handle)
        self.unsynced.discard(handle)

    def replace(self, old: str, new: str) -> None:
        self._count()
        self._replace(old, new)

    def _count(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise OSError(28, "No space left on device")

    def failing(self, member, at: int) -> None:
        """Let the ``at``-th call fail that the party makes in its answers from now on; 0 for none."""
        honest = type(member).answer

        def answer(request):
            nonlocal at
            self.left = at
            try:
                return honest(member, request)
            finally:
                at, self.left = self.left, 0

        member.answer = answer


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the phases of the sums that were computed, as they are."""
    found, honest = [], Releases.of

    def of(self, phase, model, stream):
        found.append(phase)
        return honest(self, phase, model, stream)

    monkeypatch.setattr(Releases, "of", of)
    return found


# The order of a release.


@MASKED
def test_a_release_is_reserved_on_disk_when_it_is_computed_and_committed_on_disk_when_it_leaves(
    rooms, disk: Disk, monkeypatch, masked: bool
):
    room = rooms(masked)
    coordinator, members = room.market()
    books, of, answer, watched = members[0].party.books, Releases.of, Party.answer, []

    def computing(self, *args):
        if self is members[0].party._releases:
            watched.append((kinds_on_disk(books)[-1], set(disk.unsynced), books.proved))
        return of(self, *args)

    def answering(self, state, request, **kept):
        update = answer(self, state, request, **kept)
        if self is members[0].party and request.step in RELEASING:
            watched.append((kinds_on_disk(books)[-1], set(disk.unsynced), committed(books)[-1]))
            assert watched[-1][-1] == sha256_of(update.content)
        return update

    monkeypatch.setattr(Releases, "of", computing)
    monkeypatch.setattr(Party, "answer", answering)
    for size in (3, 5):  # with this reservation
        room.world.round(coordinator, members)
        before, after = watched
        assert before[:2] == ("reserved", set())
        assert after[:2] == ("committed", set())
        if masked:
            assert before[2] == size
        watched.clear()


def a_round(coordinator, members) -> tuple[list[str], dict[str, bytes]]:
    """Run a round in which parties may fail; return what they say, and what left."""
    number, said, left = coordinator._rounds.number, [], {}
    while coordinator._rounds.number == number:
        asked = [(name, request) for name, all_ in coordinator.requests().items() for request in all_.requests]
        for name, request in asked:
            try:
                update = next(m for m in members if m.name == name).answer(request)
                coordinator.receive(update)
            except FedmarketError as error:
                said.append(str(error))
            else:
                left |= {name: update.content} if request.step in RELEASING else {}
        coordinator.close_step()
    return said, left


@MASKED
def test_wherever_the_disk_is_full_nothing_leaves_that_is_not_paid_for_and_a_restart_goes_on(
    rooms, disk: Disk, computed, masked: bool
):
    found = []
    for at in range(1, 30):
        room = rooms(masked)
        coordinator, members = room.market()
        disk.failing(members[0], at)
        computed.clear()
        said, left = a_round(coordinator, members)
        if "p0" in left:  # whatever failed after that, in the round that begins
            break
        found.append(len(computed))
        assert "No space left on device" in said[0]
        assert "p0" not in left
        books = members[0].party.books = room.books("p0", coordinator.terms)
        for _ in range(1 + masked):  # keys of the next masked round were agreed without it
            said, left = a_round(coordinator, members)
            assert said == []
            if "p0" in left:
                break
        assert committed(books)[-1] == sha256_of(left["p0"])
        # Whose write came through and whose fsync did not, may be there: it says too much rather than too little.
        assert len(committed(books)) == 1 + (at == 6)
        assert outcomes(books)["open"] == masked  # of the masked round that begins
        room.leave()
    # Three parties computed, the fourth only where its reservation and what it saw were on disk.
    assert found == [3] * (len(found) - 2) + [4, 4]
    assert len(found) == 6


@MASKED
def test_with_a_ledger_that_is_closed_nothing_leaves(rooms, computed, masked: bool):
    room = rooms(masked)
    coordinator, members = room.market()
    request = releasing(room.world, coordinator, members)["p0"]
    members[0].party.books.close()
    with pytest.raises(UsageError, match="open it again"):
        members[0].answer(request)
    assert members[0].state.spending.centre == len(computed) == masked  # masked sums were reserved before


def test_what_is_computed_and_fails_is_spent(rooms, monkeypatch):
    room = rooms()
    coordinator, members = room.market()
    request, books = coordinator.requests()["p0"].requests[0], members[0].party.books
    with monkeypatch.context() as patch:
        patch.setattr(Releases, "of", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            members[0].answer(request)
    assert outcomes(books) == {"lost": 1}
    room.world.round(coordinator, members[1:])
    room.world.round(coordinator, members)
    assert outcomes(books) == {"lost": 1, "committed": 1}
    assert books.ledger.state.spent().epsilon > 0


# The cap.


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


# Whose folder it is, and of which rows.


def test_no_second_process_opens_a_folder_nor_the_same_twice(rooms):
    room = rooms()
    terms = room.terms()
    books = room.books("p0", terms)

    def elsewhere(told) -> None:
        room.opened.clear()
        try:
            room.books("p0", terms)
        except UsageError as error:
            told.send(str(error))

    process = multiprocessing.get_context("fork")
    told, teller = process.Pipe(duplex=False)
    child = process.Process(target=elsewhere, args=(teller,))
    child.start()
    child.join()
    assert "in use by another process" in (told.recv() if told.poll() else "")
    room.opened.clear()
    with pytest.raises(UsageError, match="in use by another process"):
        room.books("p0", terms)
    books.close()
    room.books("p0", terms)


@pytest.mark.parametrize("rows", [(OTHER, HELD_OUT), (TRAINED, OTHER), (HELD_OUT, TRAINED)])
def test_other_rows_or_another_split_are_refused_with_the_command_to_type(rooms, rows: tuple[str, str]):
    room = rooms()
    coordinator, members = room.market()
    room.world.round(coordinator, members)
    spent = members[0].party.books.ledger.state.spent().epsilon
    with pytest.raises(UsageError, match="of other rows") as caught:
        room.books("p0", coordinator.terms, rows=rows)
    command, folder, new = str(caught.value).rpartition(": ")[2].rsplit(" ", 2)
    assert (command, folder) == ("fedmarket ledger replace-data", str(room.folder / "00"))
    books = room.books("p0", coordinator.terms)
    old = books.ledger.state.data_set
    books.ledger.append(DataReplaced(old=old, new=new, overlap=True, reason="as it says"))
    books = room.books("p0", coordinator.terms, rows=rows)
    assert books.ledger.state.spent().epsilon >= spent > 0
    with pytest.raises(BadMessage, match="no longer in use"):
        books.enter(coordinator.run, 1, terms=coordinator.terms)


@pytest.mark.parametrize("changed", [{"unit": "column:id"}, {"adjacency": "replace-one"}, {"delta": 2e-5}])
def test_another_unit_adjacency_or_delta_is_refused(rooms, changed: dict):
    room = rooms()
    terms = room.terms()
    room.books("p0", terms)
    with pytest.raises(ConfigError, match="another unit, adjacency or delta"):
        room.books("p0", replace(terms, plan=replace(terms.plan, **changed)))
    room.books("p0", terms)


def test_a_data_set_that_is_destroyed_releases_nothing_and_opens_no_more(rooms):
    room = rooms()
    coordinator, members = room.market()
    books = members[0].party.books
    books.ledger.append(DataDestroyed(data_set=books.ledger.state.data_set, reason="as agreed"))
    with pytest.raises(BadMessage, match=r"destroyed|no longer in use"):
        members[0].answer(coordinator.requests()["p0"].requests[0])
    with pytest.raises(UsageError, match="destroyed"):
        room.books("p0", coordinator.terms)


# What is given back, and what is not.


@pytest.mark.parametrize("until", ["share", "mask"])
def test_a_round_that_ended_before_the_mask_is_given_back_at_the_next_entry(rooms, until: str):
    room = rooms(masked=True)
    coordinator, members = room.market()
    books = members[0].party.books
    room.world.until(coordinator, members, until)
    assert outcomes(books) == {"open": 1}
    for number in (1, 2):
        members[0].answer(room.world.request(coordinator.terms, number, run=coordinator.run))
        assert outcomes(books) == {"open": 1, "given-back": number}
    state = books.ledger.state
    assert state.runs[coordinator.run.hex()].left == {"centre": 1, "update": 4, "calibrate": 3, "evaluate": 1}
    assert {found.round for found in state.counting()} == {2}


@MASKED
def test_what_was_committed_is_never_given_back_whatever_is_lost(rooms, masked: bool):
    room = rooms(masked)
    coordinator, members = room.market()
    books = members[0].party.books
    members[0].answer(releasing(room.world, coordinator, members)["p0"])
    assert outcomes(books) == {"committed": 1}
    members[0].answer(room.world.request(coordinator.terms, 1, run=coordinator.run, shown=shown_anew(coordinator)))
    members[0].party.close(members[0].state, Closing(run=coordinator.run, model_hash=bytes(32)))
    books = room.books("p0", coordinator.terms)
    books.join(b"another run's no", coordinator.terms, roster_hash="")
    assert outcomes(books) == {"committed": 2 - masked} | ({"given-back": 1} if masked else {})


def shown_anew(coordinator):
    coordinator.logbook.draw()
    return coordinator.logbook.shown_to("p0")


@MASKED
def test_a_reservation_that_another_run_interrupts_is_lost_to_the_cap_and_computes_nothing(
    rooms, computed, masked: bool
):
    room = rooms(masked)
    coordinator, members = room.market()
    member, books = members[0], members[0].party.books
    if masked:
        request = releasing(room.world, coordinator, members)["p0"]
    else:
        request = coordinator.requests()["p0"].requests[0]
        books.enter(coordinator.run, 0, terms=coordinator.terms)
    books.join(b"another run's no", coordinator.terms, roster_hash="")
    assert outcomes(books) == {"lost": 1}
    assert books.ledger.state.spent().epsilon > 0
    with pytest.raises((Refusal, BadMessage), match="nothing is reserved" if masked else "expected one after 0"):
        member.answer(request)
    assert not computed


def test_after_a_restart_with_an_open_reservation_the_next_run_needs_no_hand_work(rooms):
    room = rooms(masked=True)
    coordinator, members = room.market()
    room.world.until(coordinator, members, "mask")
    again, members = room.market()
    assert outcomes(members[0].party.books) == {"lost": 1}
    room.finish(again, members)
    assert outcomes(members[0].party.books) == {"lost": 1, "committed": 8}
    found = room.verdict(coordinator, again)
    assert found.integrity
    assert found.completeness


@MASKED
@pytest.mark.parametrize("lost_round", [0, 3])
def test_a_lost_answer_makes_no_party_believe_that_the_log_is_inconsistent(rooms, masked: bool, lost_round: int):
    room = rooms(masked)
    coordinator, members = room.market()
    step = "mask" if masked else "sum"
    while not coordinator.finished:
        if coordinator._rounds.number == lost_round:
            room.world.round(coordinator, members, undelivered={(lost_round, step): ["p0"]})
        else:
            room.world.round(coordinator, members)
    assert coordinator.rejections == []
    room.finish(coordinator, members)
    assert outcomes(members[0].party.books) == {"committed": 8}
    assert room.verdict(coordinator).completeness


@MASKED
@pytest.mark.parametrize("heard", [True, False], ids=["answers lost", "requests lost"])
def test_a_party_that_was_silent_for_forty_sizes_of_the_log_is_shown_a_proof_that_it_can_use(
    rooms, masked: bool, heard: bool
):
    room = rooms(masked)
    coordinator, members = room.market()
    logbook, books = coordinator.logbook, members[0].party.books
    room.world.round(coordinator, members)
    caps = ["2.0", "3.0"] * 21
    for number in range(40):
        members[1].party.books.ledger.append(CapChanged(old=caps[number], new=caps[number + 1], reason="once more"))
        logbook.take("p1", members[1].party.books.told())
        logbook.draw()
        shown = logbook.shown_to("p0")
        if heard or number == 0:
            books.see(shown)
    assert (books.witness.size == logbook.log.size) == heard
    assert a_round(coordinator, members)[0] == []
    assert not books.refused.exists()


# What a hostile server asks for.


def test_a_closing_in_the_middle_of_a_round_releases_nothing_and_ends_the_round_for_the_party(rooms, computed):
    room = rooms(masked=True)
    coordinator, members = room.market()
    request = releasing(room.world, coordinator, members)["p0"]
    members[0].party.close(members[0].state, Closing(run=coordinator.run, model_hash=bytes(32)))
    with pytest.raises(Refusal, match="nothing is reserved"):
        members[0].answer(request)
    assert not computed
    assert outcomes(members[0].party.books) == {"given-back": 1}


@MASKED
def test_a_cosignature_of_a_failed_answer_is_not_told_with_another(rooms, monkeypatch, masked: bool):
    """The server would take it for one of no checkpoint, and leave the party out."""
    room = rooms(masked)
    coordinator, members = room.market()
    honest = Releases.of

    def failing(self, *args):
        if self is members[0].party._releases and args[0] == "centre":
            raise ValueError("so it is")
        return honest(self, *args)

    monkeypatch.setattr(Releases, "of", failing)
    request = releasing(room.world, coordinator, members)["p0"]
    with pytest.raises(ValueError, match="so it is"):
        members[0].answer(request)
    while coordinator._rounds.number == 0:
        room.world.step(coordinator, members, absent=["p0"])
    assert a_round(coordinator, members)[0] == []
    assert members[0].party.books.told().cosignature == b""
