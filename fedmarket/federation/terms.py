"""The terms of a run: everything both sides must agree on before a round, computed by each for itself.

Party and coordinator each derive the terms from their own copy of contract and configuration, and compare hashes when
they join. Nothing in them comes from private rows, and no later message can change them.
"""

import json
import math
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Literal

from fedmarket.aggregation.fixedpoint import FixedPoint
from fedmarket.aggregation.scaling import Scaling
from fedmarket.aggregation.secagg.context import RoundContext
from fedmarket.aggregation.secagg.roster import Roster
from fedmarket.aggregation.steps import IN_THE_OPEN, PREPARING, SECURE, Step
from fedmarket.config import Model, Schedule
from fedmarket.errors import BadMessage, PlanError
from fedmarket.files import sha256_of
from fedmarket.models.objectives import Objective
from fedmarket.privacy.mechanism import Phase
from fedmarket.privacy.plan import PrivacyPlan

UNCLIPPED_NORM = 1000.0
"""Range given to a row's gradient where baselines do not clip it."""

AFTERWARDS: tuple[Phase, ...] = ("calibrate", "level", "segment", "evaluate")
"""The phases after training, in their order; each has as many rounds as the plan has releases."""


@dataclass(frozen=True, kw_only=True)
class Terms:
    """The terms of one run; see the module.

    Attributes:
        objective: what the model's outputs mean and how they are learned.
        width: places in an encoded row.
        parameters: numbers that the network learns.
        segments: how many segments customers are counted in; 0 for none.
        initial_seed: public seed of the starting parameters.
        start_hash: of the public starting parameters; empty where they follow from ``initial_seed``.
        secagg: whether updates are masked, or summed in the open.
        minimum_survivors: parties whose updates a sum needs; with fewer the round is void.
    """

    contract_hash: str
    model: Model
    objective: Objective
    width: int
    parameters: int
    segments: int
    initial_seed: int
    start_hash: str
    schedule: Schedule
    scaling: Scaling
    plan: PrivacyPlan
    modulus_bits: Literal[32, 64]
    secagg: Literal["secure", "ideal"]
    max_parties: int
    max_party_rows: int
    minimum_survivors: int

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the terms' canonical JSON, as hexadecimal."""
        document = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"), default=_plain)
        return sha256_of(document.encode())

    @cached_property
    def phases(self) -> tuple[Phase, ...]:
        """What is released in each round: the centre, the updates, and then what is left of :data:`AFTERWARDS`."""
        training: tuple[Phase, ...] = tuple("update" for _ in range(self.schedule.rounds))
        later = tuple(phase for phase in AFTERWARDS for _ in range(self.plan.releases_of(phase)))
        return ("centre", *training, *later)

    @property
    def rounds(self) -> int:
        """Number of rounds in the run."""
        return len(self.phases)

    @property
    def steps(self) -> tuple[Step, ...]:
        """The steps of every round."""
        return SECURE if self.secagg == "secure" else IN_THE_OPEN

    @property
    def exchanges(self) -> int:
        """How many exchanges each round after the first takes: the first steps go along with the round before."""
        return sum(step not in PREPARING for step in self.steps)

    def phase_of(self, round_number: int) -> Phase:
        """Return what is released in round ``round_number``, counted from 0.

        Raises:
            BadMessage: if the run has no such round.
        """
        if not 0 <= round_number < self.rounds:
            raise BadMessage(f"round {round_number}: the run has {self.rounds}")
        return self.phases[round_number]

    def releases_in(self, phase: Phase) -> int:
        """Return how often the phase's mechanism runs in one round."""
        return self.schedule.local_steps if phase == "update" else 1

    def length_of(self, phase: Phase) -> int:
        """Return how many coordinates are released in a round of ``phase``."""
        return self.plan.mechanism(phase).length

    def grid_of(self, phase: Phase) -> FixedPoint:
        """Return the integer grid of ``phase``, sized by public bounds so that the sum cannot wrap.

        Raises:
            PlanError: if noise that parties share does not fit the words.
        """
        mechanism = self.plan.mechanism(phase)
        if math.isinf(mechanism.clip_norm):
            mechanism = replace(mechanism, clip_norm=UNCLIPPED_NORM)
        return FixedPoint.for_mechanism(
            mechanism,
            parties=self.max_parties,
            party_rows=self.max_party_rows,
            modulus_bits=self.modulus_bits,
            releases=self.releases_in(phase),
        )

    def need_fitting(self, roster: Roster) -> None:
        """Refuse a roster that was not made for these terms.

        Raises:
            PlanError: if it is too large for the integer range, or asks for another number of survivors.
            ConfigError: if it has too few members for secure aggregation.
        """
        roster.need_maskable()
        if len(roster.members) > self.max_parties:
            raise PlanError(
                f"federation.max_parties: the roster has {len(roster.members)} members, got {self.max_parties}"
            )
        if roster.minimum_survivors != self.minimum_survivors:
            raise PlanError(
                f"federation.minimum_survivors: the roster says {roster.minimum_survivors}, "
                f"got {self.minimum_survivors}"
            )

    def context_of(self, round_number: int, *, run: bytes, roster: Roster) -> RoundContext:
        """Return what a round of secure aggregation is about, but for its inputs, which are not known yet.

        Raises:
            BadMessage: if the run has no such round.
            Refusal: if another field is out of its range.
        """
        phase = self.phase_of(round_number)
        return RoundContext(
            run=run,
            round_number=round_number,
            phase=phase,
            length=self.length_of(phase),
            modulus_bits=self.modulus_bits,
            terms_hash=bytes.fromhex(self.hash),
            roster=roster,
        )


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json")
