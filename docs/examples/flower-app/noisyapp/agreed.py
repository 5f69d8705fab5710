"""What both sides hold before a run: the model, the privacy plan, the integers of a sum. No row has a part in it."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import nn

from fedmarket.aggregation.fixedpoint import FixedPoint
from fedmarket.aggregation.secagg.context import RoundContext
from fedmarket.aggregation.secagg.roster import Roster
from fedmarket.contract.schema import PrivacyTerms
from fedmarket.federation.roster import load_roster
from fedmarket.models.network import parameter_count, vector_of
from fedmarket.privacy.mechanism import Mechanism
from fedmarket.privacy.plan import PrivacyPlan, Sharing, gradient_plan

PARTIES = ("atlas", "birch", "cedar", "delta", "ember")
MINIMUM_SURVIVORS = 4
COLLUDERS = 1
ROWS = 1500
"""What each party has said that it holds, roughly; the server divides by it, and never by the true number."""

MOST_ROWS = 2000
"""Public bound on a party's rows, so that no sum can wrap."""

FEATURES = 8
CLIP_NORM = 1.0
MODULUS_BITS = 64
TERMS = PrivacyTerms(unit="row", adjacency="add-or-remove-one", delta=1e-5)


def network() -> nn.Module:
    """Return the model at its public start. Any module whose examples do not mix will do: no batch normalisation."""
    generator = torch.Generator().manual_seed(0)
    found = nn.Sequential(nn.Linear(FEATURES, 16), nn.Tanh(), nn.Linear(16, 1))
    with torch.no_grad():
        for layer in (found[0], found[2]):
            nn.init.xavier_uniform_(layer.weight, generator=generator)
            layer.bias.zero_()
    return found


@dataclass(frozen=True)
class Agreement:
    """The terms of a run. Each side computes them for itself; masks of sides that differ do not cancel."""

    masked: bool
    epsilon: float
    rounds: int
    roster: Roster | None

    @classmethod
    def of(cls, config: Mapping[str, object]) -> Self:
        """Return what a Flower run configuration says."""
        masked = bool(config["masked"])
        roster = load_roster(Path(str(config["roster"]))) if masked else None
        return cls(masked, float(str(config["epsilon"])), int(str(config["rounds"])), roster)

    @cached_property
    def plan(self) -> PrivacyPlan:
        """Clip, noise and privacy events of the whole run.

        In the open each party's noise is enough alone. Under a mask parties share it: it is sized for the fewest that
        a sum may have, less those who might tell their own share.
        """
        sharing = Sharing(
            shares=MINIMUM_SURVIVORS - COLLUDERS, parties=len(PARTIES), party_rows=MOST_ROWS, modulus_bits=MODULUS_BITS
        )
        return gradient_plan(
            TERMS,
            epsilon=self.epsilon,
            clip_norm=CLIP_NORM,
            sample_rate=1.0,
            releases=self.rounds,
            length=parameter_count(network()),
            sharing=sharing if self.masked else None,
        )

    @property
    def update(self) -> Mechanism:
        """How one noisy sum of clipped gradients is made."""
        return self.plan.mechanism("update")

    @cached_property
    def words(self) -> FixedPoint:
        """The integers in which noisy sums travel and are added."""
        return FixedPoint.for_mechanism(
            self.update, parties=len(PARTIES), party_rows=MOST_ROWS, modulus_bits=MODULUS_BITS
        )

    def round(self, run: bytes, number: int) -> RoundContext:
        """Return what every key and signature of a masked round is bound to."""
        if self.roster is None:
            raise ValueError("nothing is masked in the open")
        terms = hashlib.sha256(json.dumps(asdict(self.plan), sort_keys=True).encode()).digest()
        return RoundContext(
            run=run,
            round_number=number,
            phase="update",
            length=self.update.length,
            modulus_bits=MODULUS_BITS,
            terms_hash=terms,
            roster=self.roster,
        )


def start() -> np.ndarray:
    """Return the parameters before the first round, (p,) float64."""
    return vector_of(network())


def hash_of(parameters: np.ndarray) -> bytes:
    """Return what a round is bound to once it is known: the model that gradients are taken at."""
    return hashlib.sha256(parameters.tobytes()).digest()
