"""One party's ledger as an auditor reads it: replayed up to the first broken rule, each announced number recomputed."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field

from fedmarket.errors import BadMessage, PlanError, ProtocolError
from fedmarket.ledger.bundle import ledger_name
from fedmarket.ledger.canonical import real
from fedmarket.ledger.entries import (
    CapChanged,
    Committed,
    DataDestroyed,
    DataReplaced,
    Entry,
    Joined,
    Opened,
    Released,
    Reserved,
    Rotated,
    Withdrawn,
)
from fedmarket.ledger.findings import Change, DataAccount, Finding, PartyAccount, Point, Question, clipped, per
from fedmarket.ledger.meter import Meter
from fedmarket.ledger.replay import State, take
from fedmarket.ledger.spending import MOST_SAMPLED, Groups, Sampled, epsilon_of, sampled_of, unsampled, uses_of
from fedmarket.privacy.accountant import Spent

TOLERANCE = 1e-6
"""By how much an announced epsilon may be another than the one recomputed: absolute, above 1 as a share."""


@dataclass(slots=True, kw_only=True)
class Reading:
    """What was read of one ledger; made by the auditor, moved on by :func:`read_ledger`.

    Attributes:
        place: of the party in the manifest.
        name: as the manifest has it, as ``public_key``.
        joined: the entry's number and statement, by run.
        reserved: the entry's number, by run and round.
        models: where it is written with which model a round's release was computed, and its hash; by run and round.
        keys: rotations: the envelope, and the key that it names.
        sampled: the sampled mechanisms that are accounted; readings of one bundle may share it.
        unaccounted: why there is no epsilon, by data set.
        broken_at: the number of the entry that broke a rule, from which on nothing was read; None where none did.
        cut: whether the log has entries of the party beyond the ledger's end; the log's reader says so.
    """

    place: int
    name: str
    public_key: bytes
    state: State = field(default_factory=State)
    meter: Meter = field(default_factory=Meter)
    points: list[Point] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    joined: dict[str, tuple[int, Joined]] = field(default_factory=dict)
    reserved: dict[tuple[str, int], int] = field(default_factory=dict)
    models: dict[tuple[str, int], tuple[int, str]] = field(default_factory=dict)
    released: list[tuple[str, str]] = field(default_factory=list)
    withdrawn: set[str] = field(default_factory=set)
    keys: list[tuple[bytes, bytes]] = field(default_factory=list)
    sampled: set[Sampled] = field(default_factory=set)
    unaccounted: dict[str, str] = field(default_factory=dict)
    broken_at: int | None = None
    cut: bool = False

    @property
    def unread(self) -> bool:
        """Whether the party may have spent more than was read: nothing there, a broken entry, or an early end."""
        return self.broken_at is not None or self.cut or not self.state.size

    def finding(
        self,
        sequence: int | None,
        question: Question,
        what: str,
        *,
        expected: str,
        found: str,
        source: str = "",
        run: str | None = None,
        round_number: int | None = None,
        place: int | None = None,
    ) -> Finding:
        """Return a finding about this ledger, or the entry ``sequence`` of it."""
        return Finding(
            question=question,
            source=source or ledger_name(self.place),
            what=what,
            expected=expected,
            found=found,
            party=self.name,
            sequence=sequence,
            run=run,
            round=round_number,
            place=place,
        )

    def key_at(self, size: int, places: dict[bytes, int]) -> bytes:
        """Return the key in force when the log had ``size`` entries, by the place of each rotation in it."""
        keys = (key for content, key in self.keys if places.get(content, size) < size)
        return [self.public_key, *keys][-1]

    def spent(self, data_set: str, *, cap: float | None = None) -> Spent:
        """Return what was spent on a data set up to here.

        Raises:
            PlanError: see :func:`fedmarket.ledger.spending.epsilon_of`, ``cap`` too.
        """
        groups, opened = self._groups(data_set)
        if not all(sampled_of(group) <= self.sampled for group in groups):
            raise PlanError(f"more than {MOST_SAMPLED} different sampled mechanisms are not accounted")
        return epsilon_of(groups, delta=real(opened.delta), adjacency=opened.adjacency, cap=cap)

    def account(self) -> PartyAccount:
        """Return what was read, for a ledger that was opened.

        Both accountants are asked for the data set in use and for the one with the most spent, the first one alone for
        others: each of hundreds may have mechanisms of its own.
        """
        _, opened = self._groups(self.state.data_set)
        known = {data_set: self._figure(data_set, cap=math.inf) for data_set in sorted(self.state.lineage)}
        for data_set in {self.state.data_set, max(known, key=lambda one: known[one].epsilon)}:
            known[data_set] = self._figure(data_set)
        data = tuple(self._data_account(data_set, found) for data_set, found in known.items())
        return PartyAccount(
            name=self.name,
            entries=self.state.size,
            unit=opened.unit,
            per=per(opened.unit),
            adjacency=opened.adjacency,
            delta=real(opened.delta),
            cap=real(self.state.cap),
            epsilon=max(account.epsilon for account in data),
            data=data,
            points=tuple(self.points),
            changes=tuple(self.changes),
            open=sum(found.outcome == "open" for found in self.state.reservations.values()),
            given_back=self.meter.given_back,
        )

    def _figure(self, data_set: str, *, cap: float | None = None) -> Spent:
        """Return what was spent on a data set; infinite where that is not accounted."""
        try:
            return self.spent(data_set, cap=cap)
        except (PlanError, ArithmeticError, ValueError) as error:
            self.unaccounted.setdefault(data_set, clipped(str(error)))
            return Spent(epsilon=math.inf, delta=0.0, accountants={})

    def _data_account(self, data_set: str, found: Spent) -> DataAccount:
        groups, opened = self._groups(data_set)
        delta, adjacency = real(opened.delta), opened.adjacency
        return DataAccount(
            data_set=data_set,
            in_use=data_set == self.state.data_set and not self.state.destroyed,
            epsilon=found.epsilon,
            accountants=found.accountants,
            unsampled=unsampled(groups, delta=delta, adjacency=adjacency),
            shared=any(mechanism.grid is not None for group in groups for mechanism in group),
            trained=uses_of(groups[0]),
            held_out=uses_of(groups[1]),
        )

    def _groups(self, data_set: str) -> tuple[Groups, Opened]:
        if self.state.opened is None:
            raise BadMessage("the ledger is not opened")
        return self.meter.groups(data_set, self.state), self.state.opened


def read_ledger(reading: Reading, ledger: tuple[bytes, ...]) -> Iterator[Finding]:
    """Move ``reading`` on through a ledger and yield what does not hold in it."""
    if not ledger:
        yield reading.finding(
            None, "completeness", "ledger", expected="the entries of every party of the roster", found="none"
        )
    for sequence, content in enumerate(ledger):
        try:
            entry = take(reading.state, content)
            _need_own(reading, entry)
        except ProtocolError as error:
            reading.broken_at = sequence
            yield reading.finding(
                sequence,
                "integrity",
                "entry",
                expected="one that follows and keeps the rules",
                found=f"{clipped(str(error))}; the {len(ledger) - sequence - 1} after it were not read",
            )
            return
        yield from _of_entry(reading, entry, content)
    for (run, number), reservation in reading.state.reservations.items():
        if reservation.outcome == "open":
            yield reading.finding(
                reading.reserved[run, number],
                "completeness",
                "outcome of a reservation",
                expected="committed or voided",
                found="none",
                run=run,
                round_number=number,
            )
    yield from _of_accounts(reading)


def _of_accounts(reading: Reading) -> Iterator[Finding]:
    """Say of each data set without epsilon why, where no reservation on it said so."""
    said = set(reading.unaccounted)
    if reading.state.opened:
        reading.account()
    for data_set, why in reading.unaccounted.items():
        if data_set not in said:
            yield reading.finding(
                None,
                "integrity",
                f"epsilon of data set {data_set[:12]}",
                expected="one that can be accounted",
                found=why,
            )


def _need_own(reading: Reading, entry: Entry) -> None:
    if entry.head.party != reading.name:
        raise BadMessage(f"party: expected the one of the manifest, got {clipped(entry.head.party)}")
    if isinstance(entry.statement, Opened) and entry.statement.public_key != reading.public_key.hex():
        raise BadMessage("public_key: not the one of the manifest")


def _of_entry(reading: Reading, entry: Entry, content: bytes) -> Iterator[Finding]:
    """Note what a good entry says, and recompute what it announces."""
    statement, sequence = entry.statement, entry.head.sequence
    reading.meter.take(statement, reading.state)
    match statement:
        case Joined():
            reading.joined[statement.run] = sequence, statement
            yield from _of_generator(reading, sequence, statement)
            yield from _of_sampled(reading, sequence, statement)
        case Reserved():
            reading.reserved[statement.run, statement.round] = sequence
            yield from _of_reserved(reading, entry, statement)
        case Committed():
            reading.models[statement.run, statement.round] = sequence, statement.model_hash
        case Released():
            reading.released.append((statement.run, statement.model_hash))
        case Withdrawn():
            reading.withdrawn.add(statement.model_hash)
        case Rotated():
            reading.keys.append((content, bytes.fromhex(statement.public_key)))
    if isinstance(statement, CapChanged | DataReplaced | DataDestroyed | Rotated):
        words = f"{_words_of(statement)}; reason: {statement.reason}"
        reading.changes.append(Change(sequence=sequence, time=entry.head.time, kind=statement.kind, words=words))


def _words_of(statement: CapChanged | DataReplaced | DataDestroyed | Rotated) -> str:
    match statement:
        case CapChanged():
            return f"cap from {statement.old} to {statement.new}"
        case DataReplaced(overlap=True):
            return "another data set, for which what was spent counts on"
        case DataReplaced():
            return "another data set, said to have no customer of the old one: what was spent does not count for it"
        case DataDestroyed():
            return "data set destroyed"
        case Rotated():
            return "another key"


def _of_generator(reading: Reading, sequence: int, statement: Joined) -> Iterator[Finding]:
    if statement.plan.generator != "operating-system":
        yield reading.finding(
            sequence,
            "promise",
            "NOT PRIVATE: generator of noise and coins",
            expected="operating-system",
            found=statement.plan.generator,
            run=statement.run,
        )


def _of_sampled(reading: Reading, sequence: int, statement: Joined) -> Iterator[Finding]:
    """Take the sampled mechanisms of a run among those that are accounted, while these are not too many."""
    together = reading.sampled | sampled_of(reading.state.runs[statement.run].mechanisms.values())
    if len(together) <= MOST_SAMPLED:
        reading.sampled |= together
        return
    yield reading.finding(
        sequence,
        "integrity",
        "different sampled mechanisms",
        expected=f"at most {MOST_SAMPLED}",
        found="more; this run's are not accounted",
        run=statement.run,
    )


def _of_reserved(reading: Reading, entry: Entry, statement: Reserved) -> Iterator[Finding]:
    sequence, cap = entry.head.sequence, real(statement.cap)

    def finding(question: Question, what: str, *, expected: str, found: str) -> Finding:
        return reading.finding(
            sequence, question, what, expected=expected, found=found, run=statement.run, round_number=statement.round
        )

    said = {figure.accountant: real(figure.epsilon) for figure in statement.figures}
    names = [figure.accountant for figure in statement.figures]
    try:
        known = reading.spent(reading.state.data_set, cap=cap)
        # A party may have asked both accountants where one was enough.
        each = known if set(said) == set(known.accountants) else reading.spent(reading.state.data_set)
    except (PlanError, ArithmeticError, ValueError) as error:
        reading.unaccounted[reading.state.data_set] = clipped(str(error))
        yield finding("integrity", "epsilon", expected="one that can be accounted", found=clipped(str(error)))
        return
    if not set(said) <= set(each.accountants) or len(said) != len(names):
        expected, found = ", ".join(sorted(each.accountants)), ", ".join(sorted(names))
        yield finding("integrity", "accountants", expected=f"one or all of {expected}", found=found)
    for name, epsilon in each.accountants.items():
        if name in said and not _near(said[name], epsilon):
            yield finding(
                "integrity", f"announced epsilon ({name})", expected=f"{epsilon:.6f}", found=f"{said[name]:.6f}"
            )
    if not (known.epsilon <= cap or _near(known.epsilon, cap)):
        yield finding(
            "promise", "epsilon beyond the cap", expected=f"at most {statement.cap}", found=f"{known.epsilon:.6f}"
        )
    reading.points.append(
        Point(
            sequence=sequence,
            time=entry.head.time,
            run=statement.run,
            round=statement.round,
            phase=statement.phase,
            count=statement.count,
            epsilon=known.epsilon,
            cap=cap,
        )
    )


def _near(found: float, known: float) -> bool:
    return abs(found - known) <= TOLERANCE * max(1.0, known)
