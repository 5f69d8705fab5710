"""The party's side of a run: checks each request against its own terms and budget, then releases one noisy sum.

A round is one step where sums are in the open, five under secure aggregation; the first two of a round, which need
neither rows nor model, may come while the round before it ends. Its rules, in this order:

1. check the request: known round, not entered before, right phase; reserve its release in the ledger, or refuse;
2. check the step that is due, the model, the server's log; bind the round's masks to both;
3. charge the run's plan and keep the new state, or refuse;
4. compute the sum over the own rows, clip and noise as the own plan says;
5. round to integers, or refuse if out of range;
6. under secure aggregation mask them, and keep what is needed to unmask the sum;
7. write its hash in the ledger; only then it leaves.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from fedmarket.aggregation.fixedpoint import words_to_bytes
from fedmarket.aggregation.secagg.context import RUN_SIZE
from fedmarket.aggregation.secagg.suite import HASH_SIZE
from fedmarket.aggregation.steps import RELEASING
from fedmarket.arrays import AnyArray, WordArray
from fedmarket.errors import BadMessage, ConfigError, PlanError, Refusal
from fedmarket.federation.books import Books
from fedmarket.federation.messages import Acceptance, Closing, Invitation, Request, Told, Update
from fedmarket.federation.release import Releases
from fedmarket.federation.rows import Rows
from fedmarket.federation.seat import Seat
from fedmarket.federation.terms import Terms
from fedmarket.models.state import ModelState
from fedmarket.privacy.budget import Spending
from fedmarket.privacy.noise import Stream


@dataclass(frozen=True, slots=True, kw_only=True)
class PartyState:
    """What a party must remember between messages.

    Attributes:
        run: the run that it joined, 16 bytes; empty before.
        last_round: the last round that it entered.
        last_masked: the last round of which its masked words left.
        open: what secure aggregation remembers of each open round, SECRETS IN CLEAR: of ``last_round``, and of
            ``last_masked`` until that is unmasked.
    """

    run: bytes = b""
    last_round: int = -1
    last_masked: int = -1
    spending: Spending = field(default_factory=Spending)
    open: Mapping[int, bytes] = field(default_factory=dict, repr=False)

    def entering(self, number: int) -> "PartyState":
        """Return the state in a new round; an earlier one goes on only if masked words of it left."""
        open_ = {of: memory for of, memory in self.open.items() if of == self.last_masked}
        return replace(self, last_round=number, open=open_)

    def remembering(self, number: int, memory: bytes) -> "PartyState":
        """Return the state with ``memory`` of an open round; nothing is remembered of a round without."""
        others = {of: kept for of, kept in self.open.items() if of != number}
        return replace(self, open=others | ({number: memory} if memory else {}))


LARGEST_NUMBER = 1e4
"""No number of a model is larger; honest ones are below a hundred.

With huge ones float32 overflows, or big terms cancel, and then what a row's gradient is rounded to depends on how many
rows are worked on with it: leaving one customer out would move the others' gradients too, which no clip bounds.
"""

Keep = Callable[[PartyState], None]
"""Stores a state before anything that depends on it leaves the party."""


@dataclass(slots=True, kw_only=True)
class Party:
    """One party with its own encoded rows.

    Attributes:
        rows: what it trains on.
        held_out: what it tests on; no row is in both.
        declared_rows: the size that the party makes public; sampling and step sizes use it, never ``len(rows)``.
        seat: the party's place in secure aggregation, where the terms ask for it.
        books: its ledger; None only where a simulation makes a baseline to compare with.
        device: where it computes gradients, ``cpu`` or ``cuda``.
        test_seed: with the plan's generator ``seeded-for-tests``, where reproducible noise starts.

    Guarantees:
        Whatever the coordinator sends, over any number of messages, the party releases at most what its own plan
        allows, each release with the plan's clip and noise, and one release for each round number; under terms with
        secure aggregation only masked. With books, over all runs and servers it spends at most its ledger's cap, and no
        release leaves before its reservation is on disk and, under secure aggregation, in a log that continues the
        one seen before.
    """

    name: str
    terms: Terms
    rows: Rows
    held_out: Rows
    declared_rows: int
    seat: Seat | None = field(default=None, repr=False)
    books: Books | None = field(default=None, repr=False)
    device: str = "cpu"
    test_seed: int = 0
    _releases: Releases = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Refuse rows that would break the guarantee, and sizes that the terms do not allow."""
        most = self.terms.max_party_rows
        if not 0 < self.declared_rows <= most:
            raise PlanError(
                f"party {self.name}: declares {self.declared_rows} rows, "
                f"expected at most federation.max_party_rows = {most}"
            )
        norm_bound = self.terms.plan.mechanism("centre").clip_norm
        for rows in (self.rows, self.held_out):
            rows.need_usable(
                party=self.name,
                width=self.terms.width,
                objective=self.terms.objective,
                segments=self.terms.segments,
                norm_bound=norm_bound,
                most=most,
            )
        if self.seat is not None and self.seat.name != self.name:
            raise ConfigError(f"party {self.name}: the roster knows its key as {self.seat.name}")
        rate = self.terms.plan.mechanism("update").sample_rate
        if rate * self.declared_rows < 1:
            raise PlanError(
                f"party {self.name}: privacy.sample_rate {rate:g} of {self.declared_rows} declared rows "
                "is less than one row a step"
            )
        self._releases = Releases(
            terms=self.terms,
            rows=self.rows,
            held_out=self.held_out,
            declared_rows=self.declared_rows,
            device=self.device,
        )

    def join(self, state: PartyState, invitation: Invitation, *, keep: Keep) -> Acceptance:
        """Answer an invitation; the run is kept, and every key of the party's rounds is bound to it.

        Raises:
            BadMessage: if the coordinator holds other terms or another roster, or the party has joined a run already.
            Refusal: if the whole run would pass the cap of the party's ledger.
            UsageError: if the terms ask for secure aggregation and the party has no seat, or one of other terms.
        """
        if invitation.terms_hash != self.terms.hash:
            raise BadMessage(
                f"terms differ: the coordinator holds {invitation.terms_hash[:12]}, this party {self.terms.hash[:12]}"
            )
        own = ""
        if self.terms.secagg == "secure":
            roster = self._seat().roster
            self.terms.need_fitting(roster)
            own = roster.hash.hex()
        if invitation.roster_hash != own:
            raise BadMessage(
                f"rosters differ: the coordinator holds {invitation.roster_hash[:12] or 'none'}, "
                f"this party {own[:12] or 'none'}"
            )
        if state.run:
            raise BadMessage("this party has joined a run already")
        if len(invitation.run) != RUN_SIZE:
            raise BadMessage(f"expected a run of {RUN_SIZE} bytes, got {len(invitation.run)}")
        if self.books:
            self.books.join(invitation.run, self.terms, roster_hash=own)
        keep(replace(state, run=invitation.run))
        return Acceptance(
            party=self.name, declared_rows=self.declared_rows, terms_hash=self.terms.hash, told=self._told()
        )

    def answer(self, state: PartyState, request: Request, *, keep: Keep) -> Update:
        """Return the answer to one step of a round, after ``keep`` has stored the state that it leads to.

        A release is paid for before anything is computed: what fails afterwards is spent, and cannot be asked for
        again. A step that fails under secure aggregation ends the round for this party: its secrets are forgotten.

        Raises:
            BadMessage: if the request is malformed, repeated, or out of order, or the result out of range.
            Refusal: if the budget does not allow the release, or an answer could reveal more than the sum.
        """
        self._need_in(state, request.run)
        if request.step not in self.terms.steps:
            raise BadMessage(f"step: expected one of {', '.join(self.terms.steps)}, got {request.step!r}")
        first = request.step == self.terms.steps[0]
        if first:
            self._check_entry(state, request)
            if self.books:
                self.books.enter(state.run, request.round_number, terms=self.terms)
            state = state.entering(request.round_number)
        elif request.round_number not in state.open:
            raise Refusal(f"round {request.round_number}: this party is not in it; last entered {state.last_round}")
        if request.step == "sum":
            _, words = self._paid_words(state, request, keep)
            content = words_to_bytes(words)
        else:
            content = self._sealed(state, request, keep)
        releasing = request.step in RELEASING
        if self.books and releasing:
            model = self._check_model(request.model)
            self.books.commit(state.run, request.round_number, content, model_hash=model.hash)
        return Update(
            party=self.name,
            round_number=request.round_number,
            step=request.step,
            content=content,
            told=self._told() if first or releasing else None,
        )

    def close(self, state: PartyState, closing: Closing) -> Told:
        """Return what is new in the ledger at the end of the run, or the cosignature of the log that has it all.

        Raises:
            BadMessage: if the closing says neither, or the log's proofs do not hold.
            Refusal: if the party is not in this run or keeps no books, or the log contradicts what was seen.
        """
        self._need_in(state, closing.run)
        if not self.books:
            raise Refusal("this party keeps no books")
        if closing.shown is not None:
            self.books.see(closing.shown)
        elif len(closing.model_hash) == HASH_SIZE:
            self.books.release(state.run, closing.model_hash)
        else:
            raise BadMessage(f"model_hash: expected {HASH_SIZE} bytes, got {len(closing.model_hash)}")
        return self.books.told()

    @staticmethod
    def _need_in(state: PartyState, run: bytes) -> None:
        if not state.run:
            raise Refusal("this party has not joined a run")
        if run != state.run:
            raise Refusal("this party has joined another run")

    def _told(self) -> Told | None:
        return self.books.told() if self.books else None

    def _sealed(self, state: PartyState, request: Request, keep: Keep) -> bytes:
        seat, number = self._seat(), request.round_number
        context = self.terms.context_of(number, run=state.run, roster=seat.roster)
        held = state.remembering(number, b"")
        keep(held)  # a second answer to the same step, or one after a failure, would find nothing
        if request.step == "advertise":
            memory, content = seat.enter(context)
        else:
            resumed = seat.resume(context, request.step, state.open[number])
            if request.step == "mask":
                self._check_model(request.model)
                resumed = resumed.bound_to(request.inputs)
                held = replace(held, last_masked=number, open={})

            def paid() -> WordArray:
                nonlocal held
                held, words = self._paid_words(held, request, keep)
                return words

            memory, content = seat.follow(resumed, request.step, packet=request.packet, words=paid)
        keep(held.remembering(number, memory))
        return content

    def _paid_words(self, state: PartyState, request: Request, keep: Keep) -> tuple[PartyState, WordArray]:
        """Return the charged state, which is kept, and the residues that it pays for."""
        phase = self.terms.phase_of(request.round_number)
        model = self._check_model(request.model)
        if self.books:
            self._see_log(self.books, state.run, request)
        spending = state.spending.charged(self.terms.plan, phase, self.terms.releases_in(phase))
        state = replace(state, spending=spending)
        keep(state)
        try:
            released = self._releases.of(phase, model, self.stream_of(request.round_number))
            return state, self.terms.grid_of(phase).encode(released)
        except Exception:
            if self.books:  # that it failed may say something of the rows, and is seen
                self.books.lose(state.run, request.round_number)
            raise

    def _see_log(self, books: Books, run: bytes, request: Request) -> None:
        """Look at the log; masked sums are released only if their reservation is in it.

        In the open a round is one step, so the reservation travels with the sum and is in the log after it.
        """
        number = request.round_number
        books.need_reserved(run, number)
        books.see(request.shown, reserved_in=(run, number) if self.terms.secagg == "secure" else None)

    def _check_entry(self, state: PartyState, request: Request) -> None:
        if not state.last_round < request.round_number < self.terms.rounds:
            raise BadMessage(
                f"round {request.round_number} is not open: last entered {state.last_round}, "
                f"the run has {self.terms.rounds}"
            )
        expected = self.terms.phase_of(request.round_number)
        if request.phase != expected:
            raise BadMessage(f"round {request.round_number}: expected phase {expected}, got {request.phase!r}")

    def _check_model(self, model: ModelState | None) -> ModelState:
        if model is None:
            raise BadMessage("model: expected one in this step, got none")
        _check_vector("centre", model.centre, self.terms.width)
        _check_vector("scale", model.scale, self.terms.width)
        _check_vector("parameters", model.parameters, self.terms.parameters)
        _check_vector("calibration", model.calibration, len(self.terms.objective.uncalibrated))
        return model

    def _seat(self) -> Seat:
        if self.seat is None:
            raise ConfigError(f"party {self.name}: the terms ask for secure aggregation, but it has no identity")
        return self.seat

    def stream_of(self, round_number: int) -> Stream:
        """Return where a round's noise and coins come from: a new secret, or in tests what the seed gives each time."""
        if self.terms.plan.generator == "seeded-for-tests":
            return Stream.seeded(self.test_seed, self.name, str(round_number))
        return Stream.secret()


def _check_vector(name: str, vector: AnyArray, length: int) -> None:
    if vector.dtype != np.float64 or vector.shape != (length,):
        raise BadMessage(f"{name}: expected float64 of shape ({length},), got {vector.dtype} of shape {vector.shape}")
    if not np.all(np.abs(vector) <= LARGEST_NUMBER):
        raise BadMessage(f"{name}: expected finite numbers of at most {LARGEST_NUMBER:g} in size")
