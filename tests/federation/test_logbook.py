"""The server's side of the ledgers: what breaks a rule is not logged, and the answer that came with it is not used."""

import runpy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from fedmarket.errors import BadMessage, DataError, FederationStopped, UsageError
from fedmarket.federation import logbook as module
from fedmarket.federation.logbook import Logbook, cosigned_notes
from fedmarket.federation.messages import Told
from fedmarket.files import sha256_of
from fedmarket.ledger.entries import CapChanged, Committed, Entry, Opened, Reserved, Voided
from fedmarket.ledger.envelope import seal
from fedmarket.ledger.note import read_checkpoint, read_note
from fedmarket.ledger.replay import replay

ROOM = runpy.run_path(str(Path(__file__).with_name("ledgers.py")))
NAMES, ORIGIN = (ROOM[name] for name in ("NAMES", "ORIGIN"))
NOTHING = Told(seen=0, envelopes=(), cosignature=b"")


def told(*envelopes: bytes, **changed: object) -> Told:
    return replace(NOTHING, envelopes=envelopes, **changed)


def forged(books, signer, statement=None, **head: object) -> bytes:
    """Return an entry as the next of ``books``, by another hand or with another head."""
    last = books.ledger.entries[-1]
    size, previous = len(books.ledger.entries), sha256_of(books.ledger.envelopes[-1])
    known = {"sequence": size, "previous": previous} | head
    statement = statement or CapChanged(old="2.0", new="9.0", reason="forged")
    return seal(Entry(head=last.head.model_copy(update=known), statement=statement).payload(), signer)


def reserved(room, books, coordinator, number: int = 0, **changed: object) -> Reserved:
    figure = {"accountant": "exact", "version": "1", "epsilon": "0.1"}
    fields = {
        "kind": "reserved", "run": coordinator.run.hex(), "round": number, "phase": "centre", "count": 1,
        "figures": [figure], "cap": "2.0",
    }  # fmt: skip
    return Reserved.model_validate(fields | changed)


HOSTILE: dict[str, tuple[Callable, str]] = {
    "nothing at all": (lambda *_: None, "ledger: expected its new entries, got none"),
    "a longer log seen": (lambda *_: told(seen=10**6), "ledger: claims to have seen a longer log than there is"),
    "a log seen below none": (lambda *_: told(seen=-1), "ledger: claims to have seen a longer log than there is"),
    "no envelope": (lambda *_: told(b"{}"), "ledger: "),
    "another party's name": (
        lambda room, books, _: told(forged(books, room.world.identity_of("p0"), party="p1")),
        "ledger: an entry of another party",
    ),
    "a stranger's name": (
        lambda room, books, _: told(forged(books, room.world.identity_of("p0"), party="eve")),
        "ledger: an entry of another party",
    ),
    "another key": (lambda room, books, _: told(forged(books, room.world.identity_of("p1"))), "ledger: .*sign"),
    "a number left out": (
        lambda room, books, _: told(forged(books, room.world.identity_of("p0"), sequence=7)),
        "ledger: sequence: expected 2, got 7",
    ),
    "another past": (
        lambda room, books, _: told(forged(books, room.world.identity_of("p0"), previous="0" * 64)),
        "ledger: previous: not the hash",
    ),
    "a rival": (
        lambda room, books, _: told(forged(books, room.world.identity_of("p0"), sequence=1)),
        "ledger: sequence: expected 2, got 1",
    ),
    "another cap than there is": (
        lambda room, books, _: told(
            forged(books, room.world.identity_of("p0"), CapChanged(old="1.0", new="9.0", reason="no"))
        ),
        "ledger: old: not the one in force",
    ),
    "an outcome of nothing": (
        lambda room, books, coordinator: told(
            forged(
                books,
                room.world.identity_of("p0"),
                Committed(run=coordinator.run.hex(), round=0, model_hash="0" * 64, content_hash="0" * 64),
            )
        ),
        "ledger: round 0: nothing was reserved",
    ),
    "more than the plan": (
        lambda room, books, coordinator: told(
            forged(books, room.world.identity_of("p0"), reserved(room, books, coordinator, count=2))
        ),
        r"ledger: budget: 2 more release\(s\) of centre asked",
    ),
    "a run not joined": (
        lambda room, books, coordinator: told(
            forged(books, room.world.identity_of("p0"), reserved(room, books, coordinator, run="1" * 32))
        ),
        "ledger: run: not joined",
    ),
    "no reservation": (lambda *_: NOTHING, "ledger: nothing is reserved for round 0"),
    "a reservation of another round": (
        lambda room, books, coordinator: told(
            forged(books, room.world.identity_of("p0"), reserved(room, books, coordinator, 1))
        ),
        "ledger: nothing is reserved for round 0",
    ),
    "a short cosignature": (lambda *_: told(cosignature=bytes(71)), "ledger: a cosignature of no checkpoint"),
    "a cosignature of nothing": (lambda *_: told(cosignature=bytes(72)), "ledger: a cosignature of|a cosignature of"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_an_answer_with_bad_entries_is_not_used_and_the_log_is_without_them(rooms, name: str):
    make, said = HOSTILE[name]
    room = rooms()
    coordinator, members = room.market()
    request, logbook = coordinator.requests()["p0"].requests[0], coordinator.logbook
    before, books = logbook.log.envelopes, members[0].party.books
    bad = make(room, books, coordinator)
    good = members[0].answer(request)
    with pytest.raises(BadMessage, match=f"^{said}") as caught:
        coordinator.receive(replace(good, told=bad))
    assert len(str(caught.value).splitlines()) == 1
    if name != "a reservation of another round":  # which breaks no rule by itself
        assert logbook.log.envelopes == before
        coordinator.receive(good)  # of which nothing was taken for a second one
        assert logbook.log.envelopes[len(before) :] == books.ledger.envelopes[2:]
    for member in members[1:]:
        coordinator.receive(member.answer(coordinator.requests()[member.name].requests[0]))


def test_good_entries_before_a_bad_one_are_kept_and_the_party_goes_on(rooms):
    room = rooms()
    coordinator, members = room.market()
    books, logbook = members[0].party.books, coordinator.logbook
    good = members[0].answer(coordinator.requests()["p0"].requests[0])
    bad = replace(good.told, envelopes=(*good.told.envelopes, b"{}"))
    with pytest.raises(BadMessage, match=r"^ledger: "):
        coordinator.receive(replace(good, told=bad))
    assert logbook.log.envelopes[-2:] == books.ledger.envelopes[-2:]
    coordinator.receive(good)
    assert logbook.log.envelopes.count(books.ledger.envelopes[-1]) == 1


def test_a_reservation_that_was_taken_back_is_none(rooms):
    room = rooms()
    coordinator, members = room.market()
    request, books = coordinator.requests()["p0"].requests[0], members[0].party.books
    honest = members[0].answer(request)
    told_open = replace(honest.told, envelopes=honest.told.envelopes[:1])  # reserved, not committed
    coordinator.logbook.take("p0", told_open)
    voided = Voided(run=coordinator.run.hex(), round=0, left=False, reason="I take it back")
    state = replay(books.ledger.envelopes[:3])
    last = read(books.ledger.envelopes[2])
    head = last.head.model_copy(update={"sequence": state.size, "previous": state.last})
    envelope = seal(Entry(head=head, statement=voided).payload(), room.world.identity_of("p0"))
    with pytest.raises(BadMessage, match=r"^ledger: nothing is reserved for round 0$"):
        coordinator.receive(replace(honest, told=told(envelope)))


def read(envelope: bytes) -> Entry:
    return module.read_entry(module.read_envelope(envelope).payload)


def test_duplicates_change_nothing(rooms):
    room = rooms()
    coordinator, members = room.market()
    logbook = coordinator.logbook
    update = members[0].answer(coordinator.requests()["p0"].requests[0])
    coordinator.receive(update)
    size, note = logbook.log.size, logbook._note
    with pytest.raises(BadMessage, match="second"):
        coordinator.receive(update)
    assert (logbook.log.size, logbook._note) == (size, note)
    logbook.take("p1", told(*members[0].party.books.ledger.envelopes))  # another's, which is there already
    assert logbook.log.size == size


def test_a_first_entry_with_another_key_than_the_rosters_is_refused(rooms):
    room = rooms()
    coordinator, members = room.market(join=False)
    opened = members[0].party.books.ledger.entries[0]
    stolen = room.world.identity_of("eve")
    statement = Opened.model_validate(opened.statement.model_dump() | {"public_key": stolen.public_hex})
    envelope = seal(Entry(head=opened.head, statement=statement).payload(), stolen)
    with pytest.raises(BadMessage, match=r"^ledger: public_key: not the one of the roster$"):
        coordinator.logbook.take("p0", told(envelope))
    with pytest.raises(BadMessage, match=r"^ledger: an entry of another party$"):
        coordinator.logbook.take("eve", told(envelope))
    assert coordinator.logbook.log.size == 0


@pytest.mark.parametrize("kept", [2, 3])
def test_a_party_that_put_an_old_ledger_back_is_found_out_when_it_joins(rooms, kept: int):
    room = rooms()
    coordinator, members = room.market()
    path = members[0].party.books.ledger._lines.path
    room.finish(coordinator, members)
    lines = path.read_bytes().split(b"\n")[:kept]
    members[0].party.books.close()
    path.write_bytes(b"\n".join(lines) + b"\n")
    second, again = room.market(join=False)
    with pytest.raises(BadMessage, match=r"^ledger: sequence: expected 19, got"):
        second.admit(again[0].join(second.invitation()))
    for member in again[1:]:
        second.admit(member.join(second.invitation()))
    room.finish(second, again[1:])
    assert second.void_rounds == []


# Checkpoints.


@pytest.mark.parametrize("masked", [True, False])
def test_a_checkpoint_is_kept_only_with_a_quorum_of_cosignatures(rooms, masked: bool):
    room = rooms(masked)
    coordinator, members = room.market()
    step = "mask" if masked else "sum"
    room.world.round(coordinator, members)
    assert coordinator.logbook.checkpoints == 1
    honest = module.Logbook.take

    def without(self, party, said):
        honest(self, party, replace(said, cosignature=b"") if party in ("p2", "p3") else said)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.Logbook, "take", without)
        room.world.round(coordinator, members)
    assert coordinator.logbook.checkpoints == 1
    room.world.round(coordinator, members, undelivered={(2, step): ["p3"]})
    assert coordinator.logbook.checkpoints == 2
    notes = cosigned_notes(coordinator.logbook.folder)
    assert [len(read_note(note).signatures) for note in notes] == [5, 4]


@pytest.mark.parametrize("who", ["another's", "of another text", "zeros"])
def test_a_bad_cosignature_makes_the_answer_unused_and_is_not_in_the_checkpoint(rooms, who: str):
    room = rooms()
    coordinator, members = room.market()
    requests = room.world.asked(coordinator)
    updates = {member.name: member.answer(requests[member.name]) for member in members}
    cosignature = {
        "another's": updates["p1"].told.cosignature,
        "of another text": updates["p0"].told.cosignature[:-1] + bytes([updates["p0"].told.cosignature[-1] ^ 1]),
        "zeros": bytes(72),
    }[who]
    bad = replace(updates["p0"], told=replace(updates["p0"].told, cosignature=cosignature))
    with pytest.raises(BadMessage, match="a cosignature of the note is not fedmarket/"):
        coordinator.receive(bad)
    for name in NAMES[1:]:
        coordinator.receive(updates[name])
    coordinator.close_step()
    note = read_note(cosigned_notes(coordinator.logbook.folder)[0])
    assert len(note.signatures) == 4
    assert coordinator._rounds.number == 1


def test_each_checkpoint_covers_more_than_the_one_before_also_after_a_restart(rooms):
    room = rooms()
    coordinator, members = room.market()
    for _ in range(2):
        room.world.round(coordinator, members)
    logbook = coordinator.logbook
    logbook.draw()
    for member in members:
        member.party.books.see(logbook.shown_to(member.name))
        logbook.take(member.name, member.party.books.told())
    assert logbook.seal()
    for again in (logbook, room.logbook()):
        again.draw()
        for member in members:
            again.take(member.name, replace(NOTHING, seen=member.party.books.witness.size))
            member.party.books.see(again.shown_to(member.name))
            again.take(member.name, member.party.books.told())
        assert not again.seal()  # as long as the last one
    sizes = [read_checkpoint(read_note(note).text, origin=ORIGIN).size for note in cosigned_notes(again.folder)]
    assert sizes == sorted(set(sizes))
    assert again.checkpoints == len(sizes) == 3


def test_a_log_that_is_opened_again_goes_on_where_it_was(rooms):
    room = rooms()
    coordinator, members = room.market()
    room.world.round(coordinator, members)
    before = coordinator.logbook
    again = coordinator.logbook = room.logbook()
    assert again.log.envelopes == before.log.envelopes
    assert {name: known.state for name, known in again._known.items()} == {
        name: known.state for name, known in before._known.items()
    }
    assert (again.checkpoints, again._sealed) == (1, before._sealed)
    second, members = room.market()  # a run that was cut is not gone on with; the next one is as good as the first
    room.finish(second, members)
    assert second.rejections == []
    found = room.verdict(coordinator, second)
    assert found.integrity
    assert found.completeness


def test_no_second_server_opens_the_log(rooms):
    room = rooms()
    room.logbook()
    with pytest.raises(UsageError, match="in use by another process"):
        Logbook.open(room.folder / "log", room.world.identity_of("log"), origin=ORIGIN, roster=room.roster)


def cut(lines: list[bytes]) -> list[bytes]:
    return lines[:6]


def turned(lines: list[bytes]) -> list[bytes]:
    return lines[::-1]


def another(lines: list[bytes]) -> list[bytes]:
    """Return two parties' entries in another order: every rule holds, and it is another log."""
    return [*lines[2:4], *lines[:2], *lines[4:]]


@pytest.mark.parametrize("change", [cut, turned, another])
def test_a_log_that_is_not_the_one_its_last_checkpoint_covers_is_not_opened(rooms, change):
    room = rooms()
    coordinator, members = room.market()
    room.world.round(coordinator, members)
    logbook = coordinator.logbook
    logbook.close()
    path = logbook.folder / "log.jsonl"
    lines = path.read_bytes().split(b"\n")[:-1]
    path.write_bytes(b"\n".join(change(lines)) + b"\n")
    with pytest.raises(DataError, match=r"^.*/log: ") as caught:
        room.logbook()
    assert len(str(caught.value).splitlines()) == 1


def test_a_log_on_a_full_disk_stops_the_run_and_shows_nothing_that_is_not_on_disk(rooms, monkeypatch):
    room = rooms()
    coordinator, members = room.market()
    update = members[0].answer(coordinator.requests()["p0"].requests[0])
    size = coordinator.logbook.log.size

    def full(handle, content):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.write", full)
        with pytest.raises(UsageError, match="No space left on device"):
            coordinator.receive(update)
    assert coordinator.logbook.log.size == size
    with pytest.raises(UsageError, match="open it again"):
        coordinator.receive(members[1].answer(coordinator.requests()["p1"].requests[0]))
    assert room.logbook().log.size == size


def test_a_party_without_books_is_not_admitted(rooms):
    room = rooms()
    coordinator, members = room.market(join=False)
    acceptance = members[0].join(coordinator.invitation())
    with pytest.raises(BadMessage, match=r"^ledger: expected its new entries, got none$"):
        coordinator.admit(replace(acceptance, told=None))
    with pytest.raises(FederationStopped, match="0 parties joined"):
        coordinator.requests()
    coordinator.admit(acceptance)
