"""The party's own ledger on its own disk: spend, then speak.

The file is ``ledger.jsonl``, one envelope a line (:mod:`fedmarket.ledger.lines` says what a crash does to it). Opening
replays all of it; after that the state is kept and moved on by each entry.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Self

from fedmarket.aggregation.secagg.suite import Signer
from fedmarket.errors import BadMessage, DataError, ProtocolError, Refusal, UsageError
from fedmarket.files import sha256_of
from fedmarket.ledger.canonical import decimal, real
from fedmarket.ledger.entries import Entry, Figure, Head, Reserved, Statement, moment
from fedmarket.ledger.envelope import read_envelope, seal
from fedmarket.ledger.fields import Accountant
from fedmarket.ledger.lines import Lines
from fedmarket.ledger.replay import State, take
from fedmarket.privacy.accountant import Spent
from fedmarket.privacy.mechanism import Phase

PACKAGES: dict[Accountant, str] = {"pld": "dp-accounting", "prv": "prv-accountant", "exact": "fedmarket"}
"""Where each accountant comes from, for the versions in figures."""

Clock = Callable[[], datetime]


def _now() -> datetime:
    return datetime.now(UTC)


class Ledger:
    """One party's ledger; made by :meth:`open`, good until :meth:`close` or an append that failed.

    Guarantees:
        When :meth:`append` or :meth:`reserve` return, the entry is signed and on disk. No second process can hold the
        folder meanwhile. An entry that breaks a rule of :mod:`fedmarket.ledger.replay` is never written.
    """

    def __init__(self, lines: Lines, *, identity: Signer, party: str, clock: Clock) -> None:
        """Replay ``lines``; see :meth:`open`."""
        self._lines, self._identity, self._party, self._clock = lines, identity, party, clock
        self._state, self._entries = State(), list[Entry]()
        for number, line in enumerate(lines.content, start=1):
            try:
                self._entries.append(take(self._state, line))
            except ProtocolError as error:
                raise DataError(f"{lines.path}: line {number}: {error}") from None
        if self._state.size and self._state.party != party:
            raise UsageError(f"{lines.path}: the ledger of another party")
        self._need_own_key()

    @classmethod
    def open(cls, folder: Path, identity: Signer, *, party: str, clock: Clock = _now) -> Self:
        """Open or make the ledger in ``folder``; an empty one takes an ``opened`` entry first.

        Raises:
            UsageError: if another process holds it, the folder cannot be used, or it is of another party or key.
            DataError: one line that names the damaged line or the broken rule.
        """
        lines = Lines(folder, "ledger", whole=is_envelope)
        try:
            return cls(lines, identity=identity, party=party, clock=clock)
        except BaseException:
            lines.close()
            raise

    @property
    def state(self) -> State:
        """What the ledger means now; to be read, not changed."""
        return self._state

    @property
    def entries(self) -> tuple[Entry, ...]:
        """All entries."""
        return tuple(self._entries)

    @property
    def envelopes(self) -> tuple[bytes, ...]:
        """All envelopes, as they go to the server's log."""
        return tuple(self._lines.content)

    @property
    def torn(self) -> Path | None:
        """Where a torn last line was moved to when the ledger was opened; None where there was none."""
        return self._lines.torn

    def append(self, statement: Statement) -> bytes:
        """Sign ``statement`` as the next entry, and return its envelope when it is on disk.

        Raises:
            BadMessage: if it does not follow; nothing is written then.
            Refusal: if it reserves more than the plan or, by its own figures, the cap allows; nothing is written.
            UsageError: if it cannot be written; the ledger must be opened again.
        """
        self._lines.need_open()
        self._need_own_key()
        if isinstance(statement, Reserved) and not max(map(_epsilon, statement.figures)) <= real(statement.cap):
            raise Refusal(f"budget: what is reserved is beyond the cap of {statement.cap}")
        head = Head(party=self._party, sequence=self._state.size, previous=self._state.last, time=moment(self._clock()))
        entry = Entry(head=head, statement=statement)
        envelope = seal(entry.payload(), self._identity)
        # State first: it refuses what must not be written. If writing fails the ledger is closed, and so is the state.
        self._state.add(entry, digest=sha256_of(envelope))
        self._lines.append([envelope])
        self._entries.append(entry)
        return envelope

    def reserve(self, run: str, round_number: int, *, phase: Phase, count: int) -> bytes:
        """Reserve ``count`` releases of ``phase``; only when this returns, the envelope on disk, may they leave.

        Raises:
            BadMessage: if the run is not joined with the data set in use, or the round is not after the last.
            Refusal: if the plan or the cap forbid it; nothing is written then.
            PlanError: if the accountants do not agree, or it is beyond what they can account.
            UsageError: if it cannot be written.
        """
        found = self._state.after(run, round_number, phase=phase, count=count)
        reserved = Reserved(
            run=run,
            round=round_number,
            phase=phase,
            count=count,
            figures=figures_of(found),
            cap=self._state.cap,
        )
        return self.append(reserved)

    def close(self) -> None:
        """Give up the file and its lock."""
        self._lines.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _need_own_key(self) -> None:
        if self._state.size and self._state.public_key != self._identity.public_key:
            key = self._state.public_key.hex()[:12]
            raise UsageError(f"{self._lines.path}: another key signs this ledger, {key}; open it with that identity")


def is_envelope(line: bytes) -> bool:
    """Return whether ``line`` is an envelope in its one form, whoever signed it."""
    try:
        read_envelope(line)
    except BadMessage:
        return False
    return True


def figures_of(found: Spent) -> tuple[Figure, ...]:
    """Return what each accountant that was asked found, as an entry writes it."""
    known: tuple[Accountant, ...] = ("pld", "prv", "exact")
    return tuple(
        Figure(accountant=name, version=_version_of(PACKAGES[name]), epsilon=decimal(found.accountants[name]))
        for name in known
        if name in found.accountants
    )


@lru_cache
def _version_of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def _epsilon(figure: Figure) -> float:
    return real(figure.epsilon)
