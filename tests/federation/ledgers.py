"""Parties with books and a server with a log, in one folder; run by path (``runpy``) from the tests that need them."""

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fedmarket.aggregation.steps import RELEASING
from fedmarket.errors import FedmarketError
from fedmarket.federation.books import Books
from fedmarket.federation.coordinator import Coordinator
from fedmarket.federation.identity import save_identity
from fedmarket.federation.logbook import Logbook
from fedmarket.federation.messages import Request, Shown
from fedmarket.federation.rehearsal import ORIGIN, bundle_of_rehearsal
from fedmarket.federation.terms import Terms
from fedmarket.files import sha256_of
from fedmarket.ledger.merkle import Tree
from fedmarket.ledger.note import Checkpoint, Note, VerifierKey
from fedmarket.ledger.verify import verify

NAMES = ("p0", "p1", "p2", "p3")
TRAINED, HELD_OUT, OTHER = (sha256_of(text) for text in (b"trained on", b"held out", b"other"))
ROWS = (TRAINED, HELD_OUT)


@dataclass
class Room:
    """A rehearsal of :data:`NAMES` in ``folder`` with the parties of a test's ``world``."""

    world: Any
    folder: Path
    masked: bool = True

    def __post_init__(self) -> None:
        self.folder.mkdir()
        self.roster = self.world.roster_of(NAMES, minimum=3)
        for file, name in [(f"{place:02}", name) for place, name in enumerate(NAMES)] + [("log", "log")]:
            save_identity(self.world.identity_of(name), self.folder / f"{file}.pem")
        self.roster_path = self.folder / "roster.toml"
        self.roster_path.write_text(self.roster.to_toml(), encoding="utf-8")
        self.opened: list[Any] = []

    def terms(self, **changed: Any) -> Terms:
        return self.world.terms(parties=4, secagg="secure" if self.masked else "ideal", **changed)

    def books(
        self, name: str, terms: Terms, *, cap: float = 2.0, rows: tuple[str, str] = ROWS, log: str = "log"
    ) -> Books:
        """Open the books of ``name``, after those that were open before are given up."""
        for books in [books for other, books in self.opened if other == name]:
            books.close()
        place, identity = NAMES.index(name), self.world.identity_of(name)
        books = Books.open(
            self.folder / f"{place:02}", identity, party=name, plan=terms.plan, cap=cap, rows=rows, log=self.key(log)
        )
        self.opened.append((name, books))
        return books

    def key(self, log: str = "log") -> VerifierKey:
        return VerifierKey(name=ORIGIN, public_key=self.world.identity_of(log).public_key)

    def member(self, name: str, terms: Terms, **changed: Any) -> Any:
        """Return a party with its books, in no run."""
        place = NAMES.index(name)
        party = self.world.party(name, terms, roster=NAMES, rows=30 + 5 * place, seed=place)
        party.books = self.books(name, terms, **changed)
        return self.world.fresh(party)

    def logbook(self, log: str = "log") -> Logbook:
        """Open the log of a server, after it was given up."""
        for logbook in [logbook for name, logbook in self.opened if name == log]:
            logbook.close()
        logbook = Logbook.open(self.folder / log, self.world.identity_of(log), origin=ORIGIN, roster=self.roster)
        self.opened.append((log, logbook))
        return logbook

    def coordinator(self, terms: Terms, logbook: Logbook, *, max_void_rounds: int = 3) -> Coordinator:
        return Coordinator(terms=terms, max_void_rounds=max_void_rounds, roster=self.roster, logbook=logbook)

    def market(self, *, join: bool = True, cap: float = 2.0, **changed: Any) -> tuple[Coordinator, list[Any]]:
        """Return a coordinator and four parties that have joined its run."""
        terms = self.terms(**changed)
        coordinator = self.coordinator(terms, self.logbook())
        members = [self.member(name, terms, cap=cap) for name in NAMES]
        if join:
            self.world.join(coordinator, members)
        return coordinator, members

    def finish(self, coordinator: Coordinator, members: list[Any]) -> None:
        """Run what is left of the rounds, and the closings."""
        self.world.drive(coordinator, members)
        for last in (False, True):
            closings = coordinator.closings(last=last)
            for member in members:
                told = member.party.close(member.state, closings[member.name])
                coordinator.receive_closing(member.name, told)
        coordinator.seal()

    def verdict(self, *coordinators: Coordinator) -> Any:
        """Return what an auditor finds in these runs."""
        bundles = [bundle_of_rehearsal(self.roster_path, each.run, each.terms) for each in coordinators]
        runs = sorted((run for bundle in bundles for run in bundle.manifest.runs), key=lambda run: run.run)
        return verify(replace(bundles[0], manifest=bundles[0].manifest.model_copy(update={"runs": tuple(runs)})))

    def leave(self) -> None:
        for _, one in self.opened:
            one.close()

    # A server that lies about its log.

    def note(self, leaves: Any, *, signer: Any = None, origin: str = ORIGIN, size: int | None = None) -> bytes:
        """Return a signed checkpoint over any leaves."""
        found = Checkpoint(origin=origin, size=len(leaves) if size is None else size, root=Tree(leaves).root())
        signer = signer or self.world.identity_of("log")
        return Note(text=found.to_text(), signatures=()).signed(origin, signer).to_bytes()

    def shown(self, leaves: Any, own: bytes, *, seen: int, sequence: int, truly: Any = None, **changed: Any) -> Shown:
        """Return what a server with these ``leaves`` would show to whoever saw ``seen`` of them and wrote ``own``."""
        tree, size = Tree(leaves), len(leaves)
        index = list(leaves).index(own)
        fields = {
            "checkpoint": self.note(leaves),
            "consistency": {seen: tuple(tree.consistency(min(seen, size), size))},
            "sequence": sequence,
            "index": index,
            "inclusion": tuple(tree.inclusion(index, size)),
        }
        return Shown(**(fields | changed))


def releasing(world: Any, coordinator: Coordinator, members: list[Any]) -> dict[str, Request]:
    """Return the requests of the step in which the round that is due, or open, computes."""
    return world.until(coordinator, members, "mask" if "mask" in coordinator.terms.steps else "sum")


def kinds(books: Books) -> list[str]:
    return [entry.statement.kind for entry in books.ledger.entries]


def outcomes(books: Books) -> Counter:
    return Counter(found.outcome for found in books.ledger.state.reservations.values())


def committed(books: Books) -> list[str]:
    """Return the hashes of what left."""
    return [e.statement.content_hash for e in books.ledger.entries if e.statement.kind == "committed"]


def a_round(coordinator: Coordinator, members: list[Any]) -> tuple[list[str], dict[str, bytes]]:
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
