"""From entries to what they mean: one pass that checks every rule and finds what was spent on each data set.

Party and auditor read a ledger with the same code. Nothing of an entry's own figures is believed: epsilon follows from
the mechanisms' parameters. A reservation counts from the moment it is written, until a later entry says that nothing
of it had left. What left is never given back.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Literal

from fedmarket.errors import BadMessage, PlanError, ProtocolError, Refusal
from fedmarket.files import sha256_of
from fedmarket.ledger.canonical import real
from fedmarket.ledger.entries import (
    GENESIS,
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
    Statement,
    Voided,
    Withdrawn,
    read_entry,
)
from fedmarket.ledger.envelope import read_envelope
from fedmarket.ledger.fields import Adjacency
from fedmarket.ledger.planned import Plan
from fedmarket.ledger.spending import epsilon_of, grouped
from fedmarket.privacy.accountant import Spent
from fedmarket.privacy.mechanism import Mechanism, Phase

Outcome = Literal["open", "committed", "given-back", "lost"]

MOST_DATA_SETS = 256
"""In one ledger: what counts for each is kept, and each may count for all that come after it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """Releases that were reserved; ``lost`` is void although something had left."""

    run: str
    round: int
    data_set: str
    mechanism: Mechanism
    count: int
    outcome: Outcome = "open"

    @property
    def counts(self) -> bool:
        """Whether it is spent."""
        return self.outcome != "given-back"


@dataclass(slots=True, kw_only=True)
class Run:
    """A run as joined, with what was reserved in it so far."""

    joined: Joined
    mechanisms: dict[Phase, Mechanism]
    last_round: int = -1
    used: Counter[Phase] = field(default_factory=Counter)

    @property
    def left(self) -> dict[Phase, int]:
        """How many releases of each phase the plan still allows."""
        return {phase: mechanism.releases - self.used[phase] for phase, mechanism in self.mechanisms.items()}


@dataclass(slots=True, kw_only=True)
class State:
    """A ledger up to some entry; made by :func:`replay`, moved on by :meth:`add`.

    Attributes:
        opened: the first entry; None before.
        party: whose ledger it is.
        public_key: the key that signs the next entry.
        size: number of entries.
        last: hash of the last envelope.
        cap: on epsilon, as decimal text.
        data_set: the one in use.
        destroyed: whether the data set is gone.
        runs: by id.
        reservations: by run and round.
        lineage: for each data set, those whose spending counts for it, itself included.
        released: hashes of models that were released and not withdrawn, with their run.
    """

    opened: Opened | None = None
    party: str = ""
    public_key: bytes = b""
    size: int = 0
    last: str = GENESIS
    cap: str = ""
    data_set: str = ""
    destroyed: bool = False
    runs: dict[str, Run] = field(default_factory=dict)
    reservations: dict[tuple[str, int], Reservation] = field(default_factory=dict)
    lineage: dict[str, set[str]] = field(default_factory=dict)
    released: dict[str, str] = field(default_factory=dict)

    def add(self, entry: Entry, *, digest: str) -> None:
        """Take the next entry, whose envelope has the hash ``digest`` and a signature that was checked.

        Raises:
            BadMessage: if it does not follow, or says what cannot be.
            Refusal: if it reserves more than the plan allows.

        Guarantees:
            An entry is taken whole, or the state is as it was.
        """
        head = entry.head
        if head.sequence != self.size:
            raise BadMessage(f"sequence: expected {self.size}, got {head.sequence}")
        if head.previous != self.last:
            raise BadMessage("previous: not the hash of the entry before")
        if self.size and head.party != self.party:
            raise BadMessage("party: not the one that opened the ledger")
        self._take(entry.statement)
        self.party, self.size, self.last = head.party, self.size + 1, digest

    def _take(self, statement: Statement) -> None:
        if isinstance(statement, Opened) != (self.size == 0):
            raise BadMessage("a ledger is opened by its first entry and no other")
        if self.destroyed and not isinstance(statement, Committed | Voided | Released | Withdrawn | Rotated):
            raise BadMessage(f"the data set is destroyed: nothing is {statement.kind} any more")
        match statement:
            case Opened():
                self._open(statement)
            case CapChanged():
                self._need_same("old", statement.old, self.cap)
                self.cap = statement.new
            case DataReplaced():
                self._replace_data(statement)
            case DataDestroyed():
                self._need_same("data_set", statement.data_set, self.data_set)
                self.destroyed = True
            case Rotated():
                self.public_key = bytes.fromhex(statement.public_key)
            case _:
                self._take_of_run(statement)

    def _take_of_run(self, statement: Statement) -> None:
        match statement:
            case Joined():
                self._join(statement)
            case Reserved():
                self._need_same("cap", statement.cap, self.cap)
                self._reserve(
                    self._reservation(statement.run, statement.round, phase=statement.phase, count=statement.count)
                )
            case Committed():
                self._settle(statement.run, statement.round, "committed")
            case Voided():
                self._settle(statement.run, statement.round, "lost" if statement.left else "given-back")
            case Released():
                self._release(statement)
            case Withdrawn():
                if self.released.pop(statement.model_hash, None) is None:
                    raise BadMessage("withdrawn: no such model is released")

    @staticmethod
    def _need_same(key: str, said: str, known: str) -> None:
        if said != known:
            raise BadMessage(f"{key}: not the one in force")

    def _open(self, statement: Opened) -> None:
        self.opened = statement
        self.public_key = bytes.fromhex(statement.public_key)
        self.cap, self.data_set = statement.cap, statement.data_set
        self.lineage[statement.data_set] = {statement.data_set}

    def _replace_data(self, statement: DataReplaced) -> None:
        self._need_same("old", statement.old, self.data_set)
        if statement.new == statement.old:
            raise BadMessage("new: the data set is the same")
        if statement.new not in self.lineage and len(self.lineage) >= MOST_DATA_SETS:
            raise BadMessage(f"new: expected at most {MOST_DATA_SETS} data sets in a ledger")
        # A data set that comes back has what it had, so that nothing is reset by going away for a while.
        counting = self.lineage.setdefault(statement.new, {statement.new})
        if statement.overlap:
            counting |= self.lineage[statement.old]
        self.data_set = statement.new

    def _join(self, statement: Joined) -> None:
        self._need_same("data_set", statement.data_set, self.data_set)
        mechanisms = self._mechanisms_of(statement.plan)
        if statement.run in self.runs:
            raise BadMessage("run: joined before")
        self.runs[statement.run] = Run(joined=statement, mechanisms=mechanisms)

    def _mechanisms_of(self, plan: Plan) -> dict[Phase, Mechanism]:
        """Return the mechanisms of a plan that can be joined, or raise."""
        opened = self._opened()
        if (plan.unit, plan.adjacency) != (opened.unit, opened.adjacency):
            raise BadMessage("plan: unit and adjacency must be those that the ledger was opened with")
        mechanisms: dict[Phase, Mechanism] = {found.phase: found.mechanism() for found in plan.mechanisms}
        for mechanism in mechanisms.values():
            _need_accountable(mechanism, opened.adjacency)
        return mechanisms

    def _reserve(self, reservation: Reservation) -> None:
        run = self.runs[reservation.run]
        run.last_round = reservation.round
        run.used[reservation.mechanism.phase] += reservation.count
        self.reservations[reservation.run, reservation.round] = reservation

    def _reservation(self, run_id: str, round_number: int, *, phase: Phase, count: int) -> Reservation:
        """Return the reservation asked for, or raise if run, round or plan forbid it; the cap is another matter."""
        run = self.runs.get(run_id)
        if run is None:
            raise BadMessage("run: not joined")
        if run.joined.data_set != self.data_set or self.destroyed:
            raise BadMessage("run: joined with a data set that is no longer in use")
        if round_number <= run.last_round:
            raise BadMessage(f"round: expected one after {run.last_round}, got {round_number}")
        if phase not in run.mechanisms:
            raise Refusal(f"budget: the run's plan releases nothing in the phase {phase}")
        left, allowed = run.left[phase], run.mechanisms[phase].releases
        if not 1 <= count <= left:
            raise Refusal(f"budget: {count} more release(s) of {phase} asked, {left} left of {allowed}")
        return Reservation(
            run=run_id, round=round_number, data_set=self.data_set, mechanism=run.mechanisms[phase], count=count
        )

    def _settle(self, run_id: str, round_number: int, outcome: Outcome) -> None:
        reservation = self.reservations.get((run_id, round_number))
        if reservation is None:
            raise BadMessage(f"round {round_number}: nothing was reserved")
        if reservation.outcome != "open":
            raise BadMessage(f"round {round_number}: has an outcome already")
        self.reservations[run_id, round_number] = replace(reservation, outcome=outcome)
        if outcome == "given-back":
            self.runs[run_id].used[reservation.mechanism.phase] -= reservation.count

    def _release(self, statement: Released) -> None:
        if statement.run not in self.runs:
            raise BadMessage("run: not joined")
        if statement.model_hash in self.released:
            raise BadMessage("released: this model is released already")
        self.released[statement.model_hash] = statement.run

    def _opened(self) -> Opened:
        if self.opened is None:
            raise BadMessage("the ledger is not opened")
        return self.opened

    def counting(self, data_set: str | None = None) -> tuple[Reservation, ...]:
        """Return the reservations that are spent on a data set, by default the one in use, in their order."""
        lineage = self.lineage.get(data_set or self.data_set, set())
        return tuple(found for found in self.reservations.values() if found.data_set in lineage and found.counts)

    def spent(self, delta: float | None = None, *, data_set: str | None = None) -> Spent:
        """Return epsilon at ``delta`` (by default the ledger's) of all that counts for a data set, over all its runs.

        Guarantees:
            All runs are composed together. As in :meth:`fedmarket.privacy.plan.PrivacyPlan.spent`, rows trained on and
            rows held out pay each for their own; which they are is part of the data set. What counts from another data
            set counts for both, as its rows may have been either.

        Raises:
            PlanError: if the accountants do not agree, or it is beyond what they can account.
        """
        return self._epsilon_of(self._used(self.counting(data_set), data_set or self.data_set), delta=delta)

    def after(self, run: str, round_number: int, *, phase: Phase, count: int) -> Spent:
        """Return what will be spent on the data set in use after one more reservation; nothing is changed.

        It is what the reservation says: a bound, by both accountants where the cap is near
        (:func:`fedmarket.privacy.accountant.weighed`).

        Raises:
            BadMessage: if the run is not joined with this data set, or the round is not after the last.
            Refusal: if the run's plan or the cap forbid it.
            PlanError: see :meth:`spent`.
        """
        asked = self._reservation(run, round_number, phase=phase, count=count)
        used = self._used((*self.counting(), asked), self.data_set)
        found = self._epsilon_of(used, cap=real(self.cap))
        return self._need_within_cap(f"{count} release(s) of {phase}", found)

    def need_affordable(self, plan: Plan) -> Spent:
        """Return what will be spent on the data set in use after all releases of ``plan``; nothing is changed.

        To be asked before the plan's run is joined: once it is, what it reserved counts already.

        Raises:
            BadMessage: if the plan is none that can be joined.
            Refusal: if the cap forbids it.
            PlanError: see :meth:`spent`.
        """
        mechanisms = self._mechanisms_of(plan)
        known = self._used(self.counting(), self.data_set)
        whole = ((mechanism, mechanism.releases, False) for mechanism in mechanisms.values())
        return self._need_within_cap("this run", self._epsilon_of(chain(known, whole)))

    def _need_within_cap(self, what: str, found: Spent) -> Spent:
        cap = real(self.cap)
        if not found.epsilon <= cap:
            before = self.spent().epsilon
            raise Refusal(
                f"budget: {what} would bring epsilon from {before:.4f} to {found.epsilon:.4f}; "
                f"the cap is {self.cap}, {max(0.0, cap - before):.4f} left"
            )
        return found

    def _epsilon_of(
        self, used: Iterable[tuple[Mechanism, int, bool]], *, delta: float | None = None, cap: float | None = None
    ) -> Spent:
        opened = self._opened()
        at = real(opened.delta) if delta is None else delta
        return epsilon_of(grouped(used), delta=at, adjacency=opened.adjacency, cap=cap)

    @staticmethod
    def _used(reservations: Iterable[Reservation], data_set: str) -> Iterator[tuple[Mechanism, int, bool]]:
        """Give mechanism and count of each reservation, and whether it is carried over from another data set."""
        return ((found.mechanism, found.count, found.data_set != data_set) for found in reservations)


def _need_accountable(mechanism: Mechanism, adjacency: Adjacency) -> None:
    """Refuse a mechanism whose noise cannot be drawn or accounted, before anything is reserved for it."""
    try:
        fits = mechanism.distance < 1 and mechanism.noise_std < math.inf
    except (PlanError, ArithmeticError, ValueError):
        fits = False
    if not fits or (adjacency == "replace-one" and mechanism.sample_rate < 1):
        raise BadMessage(f"plan: the mechanism of {mechanism.phase} cannot be accounted")


def replay(envelopes: Iterable[bytes]) -> State:
    """Return what a whole ledger means: every signature, link and rule checked.

    Whose key opened it is for the caller to check: :attr:`State.opened` says it.

    Raises:
        BadMessage: one line that names the entry, counted from 0, and the rule that it breaks.
    """
    state = State()
    for place, content in enumerate(envelopes):
        try:
            take(state, content)
        except ProtocolError as error:
            raise BadMessage(f"entry {place}: {error}") from None
    return state


def take(state: State, content: bytes) -> Entry:
    """Move ``state`` on by one envelope and return its entry; see :func:`replay`."""
    envelope = read_envelope(content)
    entry = read_entry(envelope.payload)
    first = entry.statement
    key = bytes.fromhex(first.public_key) if state.size == 0 and isinstance(first, Opened) else state.public_key
    envelope.need_signed_by(key)
    state.add(entry, digest=sha256_of(content))
    return entry
