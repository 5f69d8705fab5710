"""What party and coordinator say to each other, as values; :mod:`fedmarket.federation.wire` makes bytes of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from pydantic import ConfigDict, Field, InstanceOf, StrictBytes, StrictInt, StrictStr, with_config

from fedmarket.aggregation.secagg.suite import sha256
from fedmarket.aggregation.steps import Step
from fedmarket.models.state import ModelState
from fedmarket.privacy.mechanism import Phase

CLOSED = ConfigDict(extra="forbid")
"""A message that came over a wire has no other fields; strict types of fields are never made from others."""

LABEL_INPUTS = b"fedmarket round inputs/1"

LONGEST_REASON = 300
"""Characters of a refusal that the other side reads."""

MOST_REQUESTS = 2
"""In one exchange: for the round that ends, and for the one that begins."""


@with_config(CLOSED)
@dataclass(frozen=True, slots=True, kw_only=True)
class Invitation:
    """Coordinator to party: who are you, and do you hold the same terms and the same roster?

    Attributes:
        run: 16 bytes that no other run has.
        roster_hash: empty where sums are in the open.
    """

    run: StrictBytes
    terms_hash: StrictStr
    roster_hash: StrictStr


@with_config(CLOSED)
@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """Party to coordinator, beside an answer: what is new in its ledger.

    Attributes:
        seen: the size of the log that it saw last; from there it asks to be shown that the log continues.
        envelopes: its entries that it has not seen in the log, in their order.
        cosignature: time and signature under the checkpoint that it was shown, 72 bytes; empty where none was.
    """

    seen: StrictInt
    envelopes: tuple[StrictBytes, ...] = field(repr=False)
    cosignature: StrictBytes = field(repr=False)


@with_config(CLOSED)
@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """Coordinator to party, beside a request: the log as it is.

    Attributes:
        checkpoint: the signed note.
        consistency: for each size of the log that the party may have seen last, the hashes that prove that the log
            continues it; the coordinator does not know which it was where an answer was lost.
        sequence: number of the party's newest entry in the log; -1 where it has none.
        index: place of that entry.
        inclusion: hashes that prove that it is there.
    """

    checkpoint: StrictBytes = field(repr=False)
    consistency: Mapping[StrictInt, tuple[StrictBytes, ...]] = field(repr=False)
    sequence: StrictInt
    index: StrictInt
    inclusion: tuple[StrictBytes, ...] = field(repr=False)


@with_config(CLOSED)
@dataclass(frozen=True, slots=True, kw_only=True)
class Acceptance:
    """Party to coordinator: my name, the public size that I declare, and the hash of my terms."""

    party: StrictStr
    declared_rows: StrictInt
    terms_hash: StrictStr
    told: Told | None = None


@with_config(CLOSED)
@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Coordinator to party: answer this step of this round.

    Attributes:
        run: as in the invitation.
        model: in the steps in which the party computes on its rows; the round's masks are bound to it.
        packet: what the aggregation has to say to this party.
        shown: the log, in the steps in which the party computes on its rows; masks are bound to its checkpoint.
    """

    run: StrictBytes
    round_number: StrictInt
    phase: Phase
    step: Step
    model: InstanceOf[ModelState] | None = field(repr=False)
    packet: StrictBytes = field(repr=False)
    shown: Shown | None = None

    @property
    def inputs(self) -> bytes:
        """What the round's masks are bound to: SHA-256 over model and checkpoint, 32 bytes; empty without a model."""
        if self.model is None:
            return b""
        return sha256(LABEL_INPUTS, self.model.hash, self.shown.checkpoint if self.shown else b"")


@with_config(CLOSED)
@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """Party to coordinator: its answer to a step; nothing but what aggregation and ledger define travels with it."""

    party: StrictStr
    round_number: StrictInt
    step: Step
    content: StrictBytes = field(repr=False)
    told: Told | None = None


@with_config(CLOSED)
@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """Party to coordinator: no answer, and why."""

    reason: StrictStr

    @property
    def line(self) -> str:
        """The reason as one short line."""
        return " ".join(self.reason.split())[:LONGEST_REASON]


@with_config(CLOSED)
@dataclass(frozen=True, slots=True, kw_only=True)
class Requests:
    """Coordinator to party: what is asked in one exchange, to be answered in this order.

    While a round ends the keys of the next one are agreed, so there are at most two.
    """

    requests: Annotated[tuple[Request, ...], Field(min_length=1, max_length=MOST_REQUESTS)]


@with_config(CLOSED)
@dataclass(frozen=True, slots=True, kw_only=True)
class Replies:
    """Party to coordinator: to each request its update, or why there is none."""

    replies: Annotated[tuple[Update | Refused, ...], Field(max_length=MOST_REQUESTS)]


@with_config(CLOSED)
@dataclass(frozen=True, slots=True, kw_only=True)
class Closing:
    """Coordinator to party when the rounds are over; it answers with what it :class:`Told`.

    First comes the hash of the model that is handed on, then the log that has everybody's last entries.
    """

    run: StrictBytes
    model_hash: StrictBytes = b""
    shown: Shown | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """A message that was not used, or a party that did not answer: said by name.

    ``step`` is ``join`` before the first round and ``close`` after the last.
    """

    round_number: int
    step: str
    party: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VoidRound:
    """A round that gave no sum; the model stayed as it was, and what the parties spent on it stays spent."""

    round_number: int
    reason: str
