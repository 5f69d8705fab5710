"""What party and coordinator say to each other, as values; :mod:`fedmarket.flower.codec` carries them."""

from dataclasses import dataclass, field

from fedmarket.aggregation.steps import Step
from fedmarket.models.released import ModelState
from fedmarket.privacy.mechanism import Phase


@dataclass(frozen=True, slots=True, kw_only=True)
class Invitation:
    """Coordinator to party: who are you, and do you hold the same terms and the same roster?

    Attributes:
        run: 16 bytes that no other run has.
        roster_hash: empty where sums are in the open.
    """

    run: bytes
    terms_hash: str
    roster_hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Acceptance:
    """Party to coordinator: my name, the public size that I declare, and the hash of my terms."""

    party: str
    declared_rows: int
    terms_hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Coordinator to party: answer this step of this round.

    Attributes:
        model_hash: of the model so far, 32 bytes; all keys and masks of the round are bound to it.
        model: the model itself, in the steps in which the party computes on its rows.
        packet: what the aggregation has to say to this party.
    """

    round_number: int
    phase: Phase
    step: Step
    model_hash: bytes = field(repr=False)
    model: ModelState | None = field(repr=False)
    packet: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """Party to coordinator: its answer to a step; nothing but what the aggregation defines travels with it."""

    party: str
    round_number: int
    step: Step
    content: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """A message that was not used, or a party that did not answer: said by name. ``step`` is ``join`` at the start."""

    round_number: int
    step: str
    party: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VoidRound:
    """A round that gave no sum; the model stayed as it was, and what the parties spent on it stays spent."""

    round_number: int
    reason: str
