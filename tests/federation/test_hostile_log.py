"""A server that shows another log than the one seen before, or one without the reservation: nothing is computed."""

import runpy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from fedmarket.errors import BadMessage, ProtocolError, Refusal
from fedmarket.federation.books import Books
from fedmarket.federation.messages import Closing, Shown
from fedmarket.federation.release import Releases
from fedmarket.ledger.entries import CapChanged
from fedmarket.ledger.merkle import Tree
from fedmarket.ledger.note import read_note

ROOM = runpy.run_path(str(Path(__file__).with_name("ledgers.py")))
Room, releasing, kinds, outcomes, committed = (
    ROOM[name] for name in ("Room", "releasing", "kinds", "outcomes", "committed")
)
RUN = b"one run's number"
SEEN = 5
"""Entries of the log that the party has seen; three more have come since, its reservation among them."""


@dataclass
class Shop:
    """A party that reserved, and the leaves of a log that has it, the last but one."""

    room: object
    books: Books
    leaves: list[bytes]

    @property
    def own(self) -> tuple[bytes, ...]:
        return self.books.ledger.envelopes

    def shown(self, leaves: list[bytes] | None = None, *, own: bytes | None = None, **changed: object) -> Shown:
        """Return what an honest server shows, or one whose log has other ``leaves``."""
        own = self.own[-1] if own is None else own
        sequence = changed.pop("sequence", len(self.own) - 1)
        leaves = self.leaves if leaves is None else leaves
        return self.room.shown(leaves, own, seen=SEEN, sequence=sequence, **changed)

    def see(self, shown: Shown | None) -> None:
        self.books.see(shown, reserved_in=(RUN, 0))

    def reopened(self) -> "Shop":
        return replace(self, books=self.room.books("p0", self.room.terms()))


@pytest.fixture
def shop(world, tmp_path: Path) -> Iterator[Shop]:
    room = Room(world, tmp_path / "room")
    terms = room.terms()
    books = room.books("p0", terms)
    books.join(RUN, terms, roster_hash="")
    opened, joined = books.ledger.envelopes
    leaves = [b"p1 opened", opened, joined, b"p1 joined", b"p2 opened"]
    books.see(room.shown(leaves, joined, seen=0, sequence=1))
    assert books.told().cosignature
    books.enter(RUN, 0, terms=terms)
    yield Shop(room, books, [*leaves, b"p2 joined", books.ledger.envelopes[-1], b"p3 opened"])
    room.leave()


def consistency(change: Callable[[tuple[bytes, ...]], object]) -> Callable[[Shop], Shown]:
    def shown(shop: Shop) -> Shown:
        honest = shop.shown()
        return replace(honest, consistency={SEEN: change(honest.consistency[SEEN])})

    return shown


def fork(leaves: list[bytes], *, at: int = 0) -> list[bytes]:
    return [*leaves[:at], b"never there", *leaves[at + 1 :]]


def bare(shop: Shop, leaves: list[bytes], **consistency: object) -> Shown:
    """Return a checkpoint over any leaves, with nothing of the party."""
    return Shown(checkpoint=shop.room.note(leaves), sequence=-1, index=0, inclusion=(), **consistency)


def noted(change: Callable[[Shop], bytes]) -> Callable[[Shop], Shown]:
    return lambda shop: replace(shop.shown(), checkpoint=change(shop))


def included(**changed: object) -> Callable[[Shop], Shown]:
    return lambda shop: replace(shop.shown(), **changed)


def unlogged(shop: Shop, **changed: object) -> Shown:
    """A log without the reservation, and what it has of the party."""
    return shop.shown([*shop.leaves[:6], b"in its place", shop.leaves[7]], own=shop.own[1], sequence=1, **changed)


CONTRADICTIONS: dict[str, Callable[[Shop], Shown]] = {
    "a wrong proof": consistency(lambda proof: (bytes(32), *proof[1:])),
    "a short proof": consistency(lambda proof: proof[:-1]),
    "a long proof": consistency(lambda proof: (*proof, bytes(32))),
    "a proof turned round": consistency(lambda proof: proof[::-1]),
    "an empty proof": consistency(lambda _: ()),
    "a hash of no hash's size": consistency(lambda proof: (b"", *proof[1:])),
    "another beginning": lambda shop: shop.shown(fork(shop.leaves)),
    "another last one seen": lambda shop: shop.shown(fork(shop.leaves, at=SEEN - 1)),
    "other entries, as many": lambda shop: bare(shop, fork(shop.leaves[:SEEN]), consistency={SEEN: ()}),
    "other entries, as many, without a proof": lambda shop: bare(shop, fork(shop.leaves[:SEEN]), consistency={}),
    "fewer entries": lambda shop: bare(shop, shop.leaves[: SEEN - 1], consistency={SEEN: ()}),
    "fewer entries, without a proof": lambda shop: bare(shop, shop.leaves[: SEEN - 1], consistency={}),
    "no entry": lambda shop: bare(shop, [], consistency={SEEN: ()}),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_a_log_that_contradicts_the_one_seen_is_refused_for_good_and_its_checkpoint_kept(shop: Shop, name: str):
    shown = CONTRADICTIONS[name](shop)
    seen = shop.books.witness.last
    for again in (shop, shop.reopened()):
        with pytest.raises(Refusal) as caught:
            again.see(shown)
        assert len(str(caught.value).splitlines()) == 1
        assert again.books.witness.last == seen
        assert again.books.told().cosignature == b""
        assert again.books.refused.read_bytes() == shown.checkpoint
    with pytest.raises(Refusal, match=r"contradicted itself; seen-.*refused in the ledger's folder is the proof"):
        again.see(again.shown())  # even what would have been good
    again.books.refused.unlink()  # a person looked into it
    again.see(again.shown())


BAD: dict[str, tuple[Callable[[Shop], Shown | None], str]] = {
    "nothing": (lambda _: None, "expected a checkpoint, got none"),
    "no proof": (included(consistency={}), "no proof that it continues the 5 entries"),
    "a proof from elsewhere": (included(consistency={4: ()}), "no proof that it continues the 5 entries"),
    "signed by another": (
        noted(lambda shop: shop.room.note(shop.leaves, signer=shop.room.world.identity_of("p1"))),
        "not signed by",
    ),
    "another log": (noted(lambda shop: shop.room.note(shop.leaves, origin="other.example")), "of another log"),
    "signature of another text": (
        noted(lambda shop: shop.room.note(shop.leaves).replace(b"\n8\n", b"\n9\n")),
        "is not fedmarket.invalid/rehearsal's",
    ),
    "unsigned": (
        noted(lambda shop: read_note(shop.room.note(shop.leaves)).text.encode() + "\n— other AAAAAAAA\n".encode()),
        "not signed by",
    ),
    "no note": (included(checkpoint=b"fedmarket.invalid/rehearsal\n8\n"), "a note is lines of text"),
    "an entry never written": (included(sequence=3), "an entry that this party never wrote"),
    "a number below all": (included(sequence=-2), "an entry that this party never wrote"),
    "no inclusion": (included(inclusion=()), "leaf 6 is not in the tree"),
    "a wrong inclusion": (included(inclusion=(bytes(32),) * 3), "leaf 6 is not in the tree"),
    "half a hash": (included(inclusion=(bytes(16),) * 3), "32 bytes"),
    "another's place": (included(index=5), "leaf 5 is not in the tree"),
    "no place": (included(index=8), "has none at 8"),
    "a place below all": (included(index=-1), "has none at -1"),
    "another's entry": (
        lambda shop: replace(shop.shown(own=b"p2 joined"), sequence=2),
        "leaf 5 is not in the tree",
    ),
    "an older entry for the newest": (lambda shop: replace(shop.shown(own=shop.own[1]), sequence=2), "not in the tree"),
    "an older entry": (lambda shop: shop.shown(own=shop.own[1], sequence=1), "the reservation is not in it"),
    "none of the party's": (included(sequence=-1, index=0, inclusion=()), "the reservation is not in it"),
    "a log without it": (unlogged, "the reservation is not in it"),
    "a log without it, said to have it": (lambda shop: replace(unlogged(shop), sequence=2), "is not in the tree"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_log_that_is_not_shown_to_have_the_reservation_is_not_cosigned_before_it_is(shop: Shop, name: str):
    make, said = BAD[name]
    proved, shown = shop.books.proved, make(shop)
    with pytest.raises(ProtocolError, match=said) as caught:
        shop.see(shown)
    assert len(str(caught.value).splitlines()) == 1
    assert (shop.books.proved, shop.books.told().cosignature) == (proved, b"")
    assert not shop.books.refused.exists()
    if not name.startswith("a log without it"):  # which grew, and is the one seen now
        good = shop.shown()
        shop.see(replace(good, consistency=good.consistency | {8: ()}))
        assert shop.books.proved == 3
        assert len(shop.books.told().cosignature) == 72


def test_a_log_that_did_not_grow_is_cosigned_again(shop: Shop):
    for _ in range(2):
        shop.see(replace(shop.shown(), consistency={SEEN: shop.shown().consistency[SEEN], 8: ()}))
        assert shop.books.told().cosignature


def test_whoever_hid_the_reservation_in_one_log_cannot_show_it_in_another_afterwards(shop: Shop):
    with pytest.raises(Refusal, match="the reservation is not in it"):
        shop.see(unlogged(shop))
    good = shop.shown()
    for proof in ({}, {8: ()}, {8: tuple(Tree(shop.leaves).consistency(8, 8))}):
        with pytest.raises(Refusal):
            shop.see(replace(good, consistency=proof))
    assert shop.books.refused.read_bytes() == good.checkpoint


def test_an_entry_after_the_reservation_is_as_good_as_the_reservation(shop: Shop):
    """It has the hash of all entries before it."""
    shop.books.ledger.append(CapChanged(old="2.0", new="3.0", reason="agreed"))
    shop.see(shop.shown([*shop.leaves, shop.own[-1]]))
    assert shop.books.proved == 4


# The same in a round.


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    found, honest = [], Releases.of
    monkeypatch.setattr(Releases, "of", lambda self, *args: found.append(args[0]) or honest(self, *args))
    return found


def hostile(shown: Shown, case: str, leaves: list[bytes], room) -> Shown | None:
    return {
        "nothing": None,
        "no proof": replace(shown, consistency={}),
        "a fork": replace(shown, checkpoint=room.note(fork(leaves))),
        "fewer": replace(shown, checkpoint=room.note(leaves[:3]), consistency={}),
        "not in it": replace(shown, sequence=-1, index=0, inclusion=()),
        "wrong inclusion": replace(shown, inclusion=(bytes(32),) * len(shown.inclusion)),
    }[case]


@pytest.mark.parametrize(
    ("case", "masked"),
    [(case, masked) for masked in (True, False) for case in ("nothing", "no proof", "a fork", "fewer")]
    + [("not in it", True), ("wrong inclusion", True), ("wrong inclusion", False)],
)
def test_in_a_round_nothing_is_computed_and_the_next_round_goes_on_unless_the_log_lied(
    world, tmp_path: Path, computed, case: str, masked: bool
):
    room = Room(world, tmp_path / "room", masked=masked)
    coordinator, members = room.market()
    room.world.round(coordinator, members)
    request, member = releasing(room.world, coordinator, members)["p0"], members[0]
    computed.clear()
    leaves = list(coordinator.logbook.log.envelopes)
    with pytest.raises((BadMessage, Refusal)):
        member.answer(replace(request, shown=hostile(request.shown, case, leaves, room)))
    assert not computed
    assert len(committed(member.party.books)) == 1
    with pytest.raises((BadMessage, Refusal)):
        member.answer(request)  # it was asked once
    assert not computed
    room.world.round(coordinator, members, lost={(1, step): ["p0"] for step in coordinator.terms.steps})
    lied = case in ("a fork", "fewer")
    assert member.party.books.refused.exists() == lied
    request = releasing(room.world, coordinator, members)["p0"]
    if lied:
        with pytest.raises(Refusal, match="contradicted itself"):
            member.answer(request)
    else:
        coordinator.receive(member.answer(request))
    assert outcomes(member.party.books)["given-back"] == 1
    room.leave()


def test_at_the_end_no_log_is_cosigned_that_contradicts_the_one_seen(world, tmp_path: Path):
    room = Room(world, tmp_path / "room", masked=False)
    coordinator, members = room.market()
    room.world.drive(coordinator, members)
    member, leaves = members[0], list(coordinator.logbook.log.envelopes)
    shown = coordinator.closings(last=True)["p0"].shown
    for case in ("no proof", "a fork"):
        with pytest.raises((BadMessage, Refusal)):
            member.party.close(member.state, Closing(run=coordinator.run, shown=hostile(shown, case, leaves, room)))
    room.leave()
