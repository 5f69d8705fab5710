"""What party and coordinator say to each other, as values; :mod:`fedmarket.federation.wire` makes bytes of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pydantic import ConfigDict, InstanceOf, StrictBytes, StrictInt, StrictStr, with_config

from fedmarket.aggregation.steps import Step
from fedmarket.models.state import ModelState
from fedmarket.privacy.mechanism import Phase

CLOSED = ConfigDict(extra="forbid")
"""A message that came over a wire has no other fields; strict types of fields are never made from others."""

LONGEST_REASON = 300
"""Characters of a refusal that the other side reads."""


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
        model_hash: of the model so far, 32 bytes; all keys and masks of the round are bound to it.
        model: the model itself, in the steps in which the party computes on its rows.
        packet: what the aggregation has to say to this party.
        shown: the log, in the steps in which the party computes on its rows.
    """

    run: StrictBytes
    round_number: StrictInt
    phase: Phase
    step: Step
    model_hash: StrictBytes = field(repr=False)
    model: InstanceOf[ModelState] | None = field(repr=False)
    packet: StrictBytes = field(repr=False)
    shown: Shown | None = None


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
class Closing:
    """Coordinator to party when the rounds are over; it answers with what it :class:`Told`.

    First comes the hash of the model that is handed on, then the log that has everybody's last entries.
    """

    run: StrictBytes
    model_hash: StrictBytes = b""
    shown: Shown | None = None


@with_config(CLOSED)
@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """Party to coordinator: no answer, and why."""

    reason: StrictStr

    @property
    def line(self) -> str:
        """The reason as one short line."""
        return " ".join(self.reason.split())[:LONGEST_REASON]


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
