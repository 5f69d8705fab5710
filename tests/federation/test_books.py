"""What a party's books promise: reserved on disk, computed, committed, sent; the cap; what is given back and what not.

A full disk is made of ``os.write``, ``os.fsync`` and ``os.replace`` that fail. What left is what ``answer`` returned.
"""

import os
import runpy
from pathlib import Path

import pytest

from fedmarket.aggregation.steps import RELEASING
from fedmarket.errors import BadMessage, Refusal, UsageError
from fedmarket.federation.messages import Closing
from fedmarket.federation.party import Party
from fedmarket.federation.release import Releases
from fedmarket.files import sha256_of
from fedmarket.ledger.entries import CapChanged
from fedmarket.ledger.envelope import read_envelope

ROOM = runpy.run_path(str(Path(__file__).with_name("ledgers.py")))
releasing, kinds, outcomes, committed, a_round = (
    ROOM[name] for name in ("releasing", "kinds", "outcomes", "committed", "a_round")
)
MASKED = pytest.mark.parametrize("masked", [True, False], ids=["masked", "open"])


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
