"""What party and coordinator say to each other, as values; :mod:`fedmarket.flower.codec` carries them."""

from dataclasses import dataclass, field

from fedmarket.arrays import AnyArray
from fedmarket.models.released import ModelState
from fedmarket.privacy.plan import Phase


@dataclass(frozen=True, slots=True, kw_only=True)
class Invitation:
    """Coordinator to party: who are you, and do you hold the same terms?"""

    terms_hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Acceptance:
    """Party to coordinator: my name, the public size that I declare, and the hash of my terms."""

    party: str
    declared_rows: int
    terms_hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """Coordinator to party: the model so far, for the release of this round."""

    round_number: int
    phase: Phase
    model: ModelState = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """Party to coordinator: the release of this round as residues; nothing else travels with it."""

    party: str
    round_number: int
    words: AnyArray = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """A message that was not used, or a party that did not answer: said by name."""

    round_number: int
    party: str
    reason: str
