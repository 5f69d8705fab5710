"""Bundles made up from nothing: parties with keys, a plan, rounds, a server's log, checkpoints and cosignatures.

Run by path (``runpy``) from the tests that need one. Keys are public functions of names: they protect nothing.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fedmarket.aggregation.secagg.roster import Member, Roster, threshold_for
from fedmarket.federation.identity import Identity
from fedmarket.files import sha256_of
from fedmarket.ledger.bundle import Bundle, Manifest
from fedmarket.ledger.entries import GENESIS, KINDS, Entry, Head
from fedmarket.ledger.envelope import seal
from fedmarket.ledger.log import witness_key
from fedmarket.ledger.merkle import Tree
from fedmarket.ledger.note import Checkpoint, Note, VerifierKey
from fedmarket.ledger.planned import planned
from fedmarket.ledger.replay import State, take
from fedmarket.ledger.store import figures_of
from fedmarket.ledger.verify import verify
from fedmarket.privacy.mechanism import Grid, Mechanism
from fedmarket.privacy.plan import PrivacyPlan

ORIGIN = "ledger.example/market"
RUN = "1" * 32
NAMES = ("Alpha Bank", "Beta Insurance", "Gamma Travel", "Ñandú Shops")
Change = Callable[[int, int, dict[str, Any]], dict[str, Any]]
"""Party, number of the entry, its statement: what is said instead."""


def hashed(label: str) -> str:
    return hashlib.sha256(label.encode()).hexdigest()


def identity_of(name: str) -> Identity:
    return Identity(Ed25519PrivateKey.from_private_bytes(bytes.fromhex(hashed(f"identity of {name}"))))


def mechanism(phase: str, noise_multiplier: float, releases: int, **changed: Any) -> Mechanism:
    known = {"clip_norm": 1.0, "sample_rate": 1.0, "length": 61} | changed
    return Mechanism(phase=phase, noise_multiplier=noise_multiplier, releases=releases, **known)


def plan_of(*, rounds: int = 3, kind: str = "own", generator: str = "operating-system") -> PrivacyPlan:
    """Return a plan with noise of each party's own, ``shared``, or on a ``sampled`` batch."""
    update = mechanism("update", 6.0, rounds)
    if kind == "sampled":
        update = replace(update, sample_rate=0.1, noise_multiplier=1.5)
    found = [mechanism("centre", 9.0, 1), update, mechanism("evaluate", 4.0, 1)]
    if kind == "shared":
        found = [replace(each, grid=Grid(resolution=2.0**-20, shares=2, slack=1.1e-6)) for each in found]
    return PrivacyPlan(
        unit="column:customer", adjacency="add-or-remove-one", delta=1e-5, generator=generator, mechanisms=tuple(found)
    )


@dataclass
class Party:
    """One party's ledger while it is written."""

    place: int
    name: str
    signer: Identity
    change: Change
    envelopes: list[bytes] = field(default_factory=list)
    state: State = field(default_factory=State)
    replayed: bool = True

    def say(self, kind: str, **statement: Any) -> None:
        number = len(self.envelopes)
        said = self.change(self.place, number, {"kind": kind} | statement)
        previous = sha256_of(self.envelopes[-1]) if self.envelopes else GENESIS
        time = f"2026-02-{1 + number // 1440:02}T{number // 60 % 24:02}:{number % 60:02}:00Z"
        head = Head(party=self.name, sequence=number, previous=previous, time=time)
        self.envelopes.append(seal(Entry(head=head, statement=KINDS[kind].model_validate(said)).payload(), self.signer))
        if self.replayed:
            take(self.state, self.envelopes[-1])


@dataclass
class Market:
    """What a federation's ledgers, log and checkpoints would be; :meth:`bundle` gives them to an auditor."""

    names: tuple[str, ...] = NAMES
    plan: PrivacyPlan = field(default_factory=plan_of)
    cap: str = "4.0"
    change: Change = lambda _place, _number, statement: statement
    parties: list[Party] = field(default_factory=list)
    log: list[bytes] = field(default_factory=list)
    checkpoints: list[bytes] = field(default_factory=list)
    auditor: str = "auditor"
    cosigners: int | None = None
    _figures: dict[Any, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.parties = [
            Party(place=place, name=name, signer=identity_of(name), change=self.change)
            for place, name in enumerate(self.names)
        ]

    @property
    def roster(self) -> Roster:
        members = tuple(Member(name=name, public_key=identity_of(name).public_key) for name in self.names)
        least = threshold_for(len(members))
        return Roster(members=members, threshold=least, minimum_survivors=least)

    def opened(self) -> "Market":
        plan, code = self.plan, {"version": "0.1.0", "hash": hashed("code")}
        for party in self.parties:
            party.say(
                "opened", public_key=party.signer.public_hex, data_set=hashed(f"data of {party.name}"), unit=plan.unit,
                adjacency=plan.adjacency, delta="1e-05", cap=self.cap, code=code,
            )  # fmt: skip
        return self.logged()

    def joined(self, run: str = RUN) -> "Market":
        code = {"version": "0.1.0", "hash": hashed("code")}
        for party in self.parties:
            party.say(
                "joined", run=run, data_set=party.state.data_set, terms_hash=hashed("terms"),
                contract_hash=hashed("contract"), roster_hash=self.roster.hash.hex(), code=code,
                plan=planned(self.plan, assumed_colluders=1, minimum_survivors=3).model_dump(),
            )  # fmt: skip
        return self.logged()

    def rounds(self, run: str = RUN) -> "Market":
        """Use the whole plan, a release a round."""
        number = 0
        for each in self.plan.mechanisms:
            for _ in range(each.releases):
                self.reserved(run, number, each.phase)
                self.all(
                    "committed", run=run, round=number, model_hash=hashed(f"model {number}"),
                    content_hash=hashed(f"sum {number}"),
                )  # fmt: skip
                self.logged()
                number += 1
        return self

    def reserved(self, run: str, number: int, phase: str) -> None:
        for party in self.parties:
            party.say(
                "reserved", run=run, round=number, phase=phase, count=1,
                figures=self._figures_of(party, run, number, phase), cap=party.state.cap,
            )  # fmt: skip

    def _figures_of(self, party: Party, run: str, number: int, phase: str) -> list[dict[str, Any]]:
        """Return the figures that are due, once for equal ledgers; a cap that is passed is for others to find."""
        counts = Counter((found.mechanism, found.count) for found in party.state.counting())
        key = (tuple(counts.items()), phase, party.state.data_set if len(party.state.lineage) > 1 else "")
        if key not in self._figures:
            cap, party.state.cap = party.state.cap, "1000.0"
            found = figures_of(party.state.after(run, number, phase=phase, count=1))
            party.state.cap = cap
            self._figures[key] = [figure.model_dump() for figure in found]
        return self._figures[key]

    def all(self, kind: str, **statement: Any) -> "Market":
        for party in self.parties:
            party.say(kind, **statement)
        return self

    def logged(self) -> "Market":
        """Take what is new into the log, and have it signed and cosigned."""
        there = set(self.log)
        self.log += [each for party in self.parties for each in party.envelopes if each not in there]
        self.checkpoints.append(self.checkpoint(self.log))
        return self

    def checkpoint(self, log: list[bytes], *, cosigners: int | None = None) -> bytes:
        server = identity_of("server")
        found = Checkpoint(origin=ORIGIN, size=len(log), root=Tree(log).root())
        note = Note(text=found.to_text(), signatures=()).signed(ORIGIN, server)
        most = cosigners or self.cosigners or len(self.parties)
        signers = [party.signer for party in self.parties][:most]
        for signer in (*signers, *([identity_of(self.auditor)] if self.auditor else [])):
            key = witness_key(signer.public_key)
            note = note.with_line(note.cosignature(key.name, signer, time=1_770_000_000 + len(log)))
        return note.to_bytes()

    def manifest(self, **changed: Any) -> Manifest:
        roster = self.roster
        document = {
            "format": "fedmarket-bundle/1",
            "suite": roster.suite,
            "threshold": roster.threshold,
            "minimum_survivors": roster.minimum_survivors,
            "roster_hash": roster.hash.hex(),
            "parties": [{"name": each.name, "public_key": each.public_key.hex()} for each in roster.members],
            "log_key": str(VerifierKey(name=ORIGIN, public_key=identity_of("server").public_key)),
            "auditors": [identity_of(self.auditor).public_hex] if self.auditor else [],
            "runs": [
                {"run": run, "assumed_colluders": 1, "minimum_survivors": 3}
                for run in sorted({run for party in self.parties for run in party.state.runs})
            ],
        }
        return Manifest.model_validate(document | changed)

    def bundle(self, **changed: Any) -> Bundle:
        return Bundle(
            manifest=self.manifest(**changed),
            ledgers=tuple(tuple(party.envelopes) for party in self.parties),
            log=tuple(self.log),
            checkpoints=tuple(self.checkpoints),
        )


def whole(**changed: Any) -> Market:
    """Return a market whose run was finished and whose model was released."""
    market = Market(**changed).opened().joined().rounds()
    return market.all("released", run=RUN, model_hash=hashed("model of the run")).logged()


def found(bundle: Bundle, **known: Any) -> list[str]:
    return [str(finding) for finding in verify(bundle, **known).findings]


def with_ledger(bundle: Bundle, place: int, ledger: Iterable[bytes]) -> Bundle:
    ledgers = tuple(tuple(ledger) if at == place else known for at, known in enumerate(bundle.ledgers))
    return replace(bundle, ledgers=ledgers)
