"""The desk of a node: the party with its books open, answering one question at a time.

What a party remembers of a run is in memory alone. After a restart it is found again from the ledger, but for the
secrets of the round that was open: that round is void for this party only, and it goes on with the next.
"""

import logging
import time
import traceback
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Self

from fedmarket.errors import FedmarketError, PlanError, ProtocolError, Refusal
from fedmarket.federation.answering import Answer, Question, answered, question_in
from fedmarket.federation.books import Books
from fedmarket.federation.identity import load_identity
from fedmarket.federation.messages import Invitation, Refused, Replies, Request, Requests
from fedmarket.federation.party import Party, PartyState
from fedmarket.federation.wire import encoded
from fedmarket.ledger.code import installed_code
from fedmarket.node.agreement import agreement_of, seat_of
from fedmarket.node.policy import PolicySection, breaches, need_allowed_now
from fedmarket.node.rows import own_rows
from fedmarket.node.settings import MarketRows, Partner
from fedmarket.privacy.budget import Spending

MOST_RUNS = 8
"""Runs whose state is in memory; of others a party knows what its ledger knows."""

ROOM_FOR_THE_REST = 1 << 20
"""Bytes of a question beside the model: keys and shares of a hundred parties, and what shows the log."""

_SHORT = 12

_log = logging.getLogger(__name__)

OpenBooks = Callable[[], Books]


@dataclass(slots=True, kw_only=True)
class Desk:
    """See the module; made by :meth:`open`.

    Attributes:
        party: who answers; its books are opened when the first question comes, and anew after a failure.
        breaches: what the terms break of the policy; while there is any, nothing is joined or entered.

    Guarantees:
        What :class:`fedmarket.federation.party.Party` guarantees holds for any questions in any order, and over
        restarts, for the state that a party goes on with is never behind its ledger. A question is answered or
        refused, and what is held does not grow with the number of questions.
    """

    party: Party
    policy: PolicySection
    breaches: tuple[str, ...]
    open_books: OpenBooks = field(repr=False)
    clock: Callable[[], datetime] = field(default=lambda: datetime.now(UTC), repr=False)
    _states: OrderedDict[bytes, PartyState] = field(default_factory=OrderedDict, repr=False)
    _one: Lock = field(default_factory=Lock, repr=False)

    @classmethod
    def open(cls, partner: Partner) -> Self:
        """Open everything that the partner's document names.

        Raises:
            FedmarketError: what cannot be used, and why.
        """
        identity = load_identity(partner.identity)
        agreement = agreement_of(partner)
        own = own_rows(partner, agreement)
        party = Party(
            name=partner.name,
            terms=agreement.terms,
            rows=own.rows,
            held_out=own.held_out,
            declared_rows=partner.section.declared_rows,
            seat=seat_of(partner, identity, agreement.terms),
            test_seed=own.test_seed,
        )

        def open_books() -> Books:
            return Books.open(
                partner.books,
                identity,
                party=partner.name,
                plan=agreement.terms.plan,
                cap=partner.section.cap,
                rows=own.hashes,
                log=partner.log,
            )

        rehearsal = isinstance(partner.section.data, MarketRows)
        found = breaches(partner.section.policy, agreement.terms, rehearsal=rehearsal)
        desk = cls(party=party, policy=partner.section.policy, breaches=found, open_books=open_books)
        desk._books()
        return desk

    @property
    def largest_question(self) -> int:
        """Bytes of the largest frame that can be a question under these terms."""
        terms = self.party.terms
        numbers = 2 * terms.width + terms.parameters + len(terms.objective.uncalibrated)
        return 8 * numbers + ROOM_FOR_THE_REST

    def answer(self, action: str, frame: bytes, *, wanted: Callable[[], bool] = lambda: True) -> bytes | None:
        """Return the frame that answers ``frame``, a refusal where there is nothing else to say.

        Args:
            action: ``join``, ``close`` or the step of a round.
            frame: from the coordinator.
            wanted: asked when it is this question's turn; if not, nothing is done for it and there is no answer.
        """
        with self._one:
            if not wanted():
                _log.info("%s: nobody waits for an answer any more", _named(action))
                return None
            began, asked = time.monotonic(), None
            try:
                asked = question_in(action, frame)
                answer = self._answered(asked)
                told, outcome = encoded(answer), _outcome(answer)
            except Exception as error:
                reason = self._reason(error)
                told, outcome = encoded(Refused(reason=reason)), f"refused: {Refused(reason=reason).line}"
            milliseconds = 1000 * (time.monotonic() - began)
            _log.info("%s %s: %s (%.0f ms)", _named(action), _about(asked), outcome, milliseconds)
            return told

    def close(self) -> None:
        """Finish the answer in progress, and give up the books."""
        with self._one:
            self._forget()

    def _answered(self, asked: Question) -> Answer:
        books = self._books()
        if isinstance(asked, Invitation):
            self._need_agreed(books, joining=True)

        def need_allowed(request: Request) -> None:
            if request.step == self.party.terms.steps[0]:
                self._need_agreed(books, joining=False)

        state = self._state(books, asked)
        return answered(asked, party=self.party, state=state, keep=self._keep, need_allowed=need_allowed)

    def _need_agreed(self, books: Books, *, joining: bool) -> None:
        """Refuse what the policy forbids before anything is written for it."""
        if self.breaches:
            raise Refusal(self.breaches[0])
        need_allowed_now(self.policy, books.ledger.entries, joining=joining, now=self.clock())

    def _state(self, books: Books, asked: Question) -> PartyState:
        run = _run_of(asked)
        state = self._states.get(run)
        if state is None:
            state = self._found_again(books, run)
        # A coordinator that was restarted asks again; the round that was entered last stays the last.
        return replace(state, run=b"") if isinstance(asked, Invitation) else state

    def _found_again(self, books: Books, run: bytes) -> PartyState:
        """Return what the ledger knows of a run: all but the secrets of an open round."""
        ledger = books.ledger.state
        found = ledger.runs.get(run.hex())
        if found is None:
            return PartyState()
        terms, seat, joined = self.party.terms, self.party.seat, found.joined
        roster_hash = seat.roster.hash.hex() if seat is not None else None
        before = (joined.terms_hash, joined.contract_hash, joined.roster_hash, joined.data_set, joined.code)
        if before != (terms.hash, terms.contract_hash, roster_hash, ledger.data_set, installed_code()):
            raise Refusal("this run was joined with other terms, roster, rows or code; this party is out of it")
        spending = Spending(**{str(phase): count for phase, count in found.used.items()})
        return PartyState(run=run, last_round=found.last_round, spending=spending)

    def _keep(self, state: PartyState) -> None:
        self._states[state.run] = state
        self._states.move_to_end(state.run)
        while len(self._states) > MOST_RUNS:
            self._states.popitem(last=False)

    def _books(self) -> Books:
        if self.party.books is None:
            self.party.books = self.open_books()
        return self.party.books

    def _forget(self) -> None:
        """Go back to what is on disk."""
        self._states.clear()
        books, self.party.books = self.party.books, None
        if books is not None:
            with suppress(OSError):
                books.close()

    def _reason(self, error: Exception) -> str:
        """Return what the operator may read of an error; what is not about messages stays in this node's log.

        After such an error nobody knows what is in memory, so all is read from disk again: what it costs is a round.
        """
        if isinstance(error, ProtocolError):
            return str(error)
        self._forget()
        if isinstance(error, FedmarketError):
            _log.error("%s", error)
        else:  # its words may quote a cell
            last = traceback.extract_tb(error.__traceback__)[-1]
            _log.error("%s at %s:%s", type(error).__name__, Path(last.filename).name, last.lineno)
        return str(error) if isinstance(error, PlanError) else f"failed: {type(error).__name__}"


def _run_of(asked: Question) -> bytes:
    return asked.requests[0].run if isinstance(asked, Requests) else asked.run


def _outcome(answer: Answer) -> str:
    replies = answer.replies if isinstance(answer, Replies) else ()
    refused = [reply.line for reply in replies if isinstance(reply, Refused)]
    return f"refused: {'; '.join(refused)}" if refused else "answered"


def _about(asked: Question | None) -> str:
    if asked is None:
        return "-"
    run = _run_of(asked).hex()[:_SHORT] or "-"
    if not isinstance(asked, Requests):
        return run
    first, *others = asked.requests  # the action is the step of the first
    return ", ".join(
        [f"{run} round {first.round_number}", *(f"{other.step} round {other.round_number}" for other in others)]
    )


def _named(action: str) -> str:
    return action if action.isidentifier() else "?"
