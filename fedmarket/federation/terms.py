"""The terms of a run: everything both sides must agree on before a round, computed by each for itself.

Party and coordinator each derive the terms from their own copy of contract and configuration, and compare hashes when
they join. Nothing in them comes from private rows, and no later message can change them.
"""

import json
import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from fedmarket.aggregation.fixedpoint import FixedPoint
from fedmarket.config import LogisticModel, MlpModel, Schedule
from fedmarket.files import sha256_of
from fedmarket.privacy.plan import Phase, PrivacyPlan

UNCLIPPED_NORM = 1000.0
"""Range given to a row's gradient where baselines do not clip it."""

NOISE_REACH = 16.0
"""Standard deviations of noise that the integer range holds; more has probability below 1e-56."""

FINEST_STEP = 2.0**-20
"""Least step of the grid in standard deviations of noise: too small to matter, too large to see its last bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """The terms of one run; see the module.

    Attributes:
        width: places in an encoded row.
        parameters: numbers that the network learns.
        initial_seed: public seed of the starting parameters.
    """

    contract_hash: str
    model: LogisticModel | MlpModel
    width: int
    parameters: int
    initial_seed: int
    schedule: Schedule
    plan: PrivacyPlan
    modulus_bits: Literal[32, 64]
    max_parties: int
    max_party_rows: int
    minimum_parties: int

    @property
    def hash(self) -> str:
        """SHA-256 of the terms' canonical JSON, as hexadecimal."""
        document = json.dumps(asdict(self), sort_keys=True, separators=(",", ":"), default=_plain)
        return sha256_of(document.encode())

    @property
    def rounds(self) -> int:
        """Number of rounds in the run: one for the centre, the updates, the calibration."""
        return 1 + self.schedule.rounds + self.plan.mechanism("calibrate").releases

    def phase_of(self, round_number: int) -> Phase:
        """Return what is released in round ``round_number``, counted from 0."""
        if round_number == 0:
            return "centre"
        return "update" if round_number <= self.schedule.rounds else "calibrate"

    def releases_in(self, phase: Phase) -> int:
        """Return how often the phase's mechanism runs in one round."""
        return self.schedule.local_steps if phase == "update" else 1

    def length_of(self, phase: Phase) -> int:
        """Return how many coordinates are released in a round of ``phase``."""
        return {"centre": self.width, "update": self.parameters, "calibrate": 5}[phase]

    def grid_of(self, phase: Phase) -> FixedPoint:
        """Return the integer grid of ``phase``, sized by public bounds so that the sum cannot wrap."""
        mechanism = self.plan.mechanism(phase)
        row = UNCLIPPED_NORM if math.isinf(mechanism.clip_norm) else mechanism.clip_norm
        once = row * self.max_party_rows + NOISE_REACH * mechanism.noise_std
        return FixedPoint.for_bound(
            self.releases_in(phase) * once,
            parties=self.max_parties,
            modulus_bits=self.modulus_bits,
            no_finer_than=mechanism.noise_std * FINEST_STEP,
        )


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json")
