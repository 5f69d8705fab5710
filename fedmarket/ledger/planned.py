"""A run's privacy plan as a ledger writes it: everything that epsilon follows from, and nothing that follows."""

from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from fedmarket.documents import Section
from fedmarket.ledger.canonical import decimal, real
from fedmarket.ledger.fields import (
    Adjacency,
    Count,
    NonNegativeReal,
    Parties,
    PositiveReal,
    Probability,
    Rate,
    Sampling,
    Unit,
    parsed,
)
from fedmarket.privacy.mechanism import Grid, Mechanism, Phase
from fedmarket.privacy.plan import Generator, PrivacyPlan


class PlannedGrid(Section):
    """See :class:`fedmarket.privacy.mechanism.Grid`."""

    resolution: PositiveReal
    shares: Parties
    slack: NonNegativeReal

    def grid(self) -> Grid:
        """Return the grid that trainer and accountants read."""
        return Grid(resolution=real(self.resolution), shares=self.shares, slack=real(self.slack))


class PlannedMechanism(Section):
    """See :class:`fedmarket.privacy.mechanism.Mechanism`; ``sampling`` is what the trainer really does."""

    phase: Phase
    clip_norm: PositiveReal
    noise_multiplier: PositiveReal
    sample_rate: Rate
    sampling: Sampling
    releases: Count
    length: Count
    grid: PlannedGrid | None

    @model_validator(mode="after")
    def _same_sampling(self) -> Self:
        if (self.sampling == "all-rows") != (real(self.sample_rate) == 1):
            raise ValueError("sampling is all-rows exactly where sample_rate is 1.0")
        return self

    def mechanism(self) -> Mechanism:
        """Return the mechanism that trainer and accountants read."""
        return Mechanism(
            phase=self.phase,
            clip_norm=real(self.clip_norm),
            noise_multiplier=real(self.noise_multiplier),
            sample_rate=real(self.sample_rate),
            releases=self.releases,
            length=self.length,
            grid=self.grid.grid() if self.grid else None,
        )


class Plan(Section):
    """All that a run may release, and against whom it is protected.

    Where noise is shared (every mechanism then has a grid), it is sized for the ``minimum_survivors`` of a round less
    the ``assumed_colluders``: the noise that is left after the worst allowed drop-out.
    """

    unit: Unit
    adjacency: Adjacency
    delta: Probability
    generator: Generator
    assumed_colluders: Annotated[int, Field(ge=0, le=1000)]
    minimum_survivors: Parties
    mechanisms: Annotated[tuple[PlannedMechanism, ...], Field(strict=False, min_length=1, max_length=16)]

    @model_validator(mode="after")
    def _whole(self) -> Self:
        phases = [mechanism.phase for mechanism in self.mechanisms]
        if len(set(phases)) < len(phases):
            raise ValueError("expected one mechanism for a phase")
        shares = {mechanism.grid and mechanism.grid.shares for mechanism in self.mechanisms}
        if shares not in ({None}, {self.minimum_survivors - self.assumed_colluders}):
            raise ValueError("shares of noise must be minimum_survivors less assumed_colluders, for all phases or none")
        return self


def planned(plan: PrivacyPlan, *, assumed_colluders: int, minimum_survivors: int) -> Plan:
    """Return ``plan`` as a ledger writes it.

    Raises:
        BadMessage: if it is one that no ledger can hold: without noise, not clipped, or shared among another number.
    """
    return parsed(
        Plan,
        {
            "unit": plan.unit,
            "adjacency": plan.adjacency,
            "delta": decimal(plan.delta),
            "generator": plan.generator,
            "assumed_colluders": assumed_colluders,
            "minimum_survivors": minimum_survivors,
            "mechanisms": [_planned(mechanism) for mechanism in plan.mechanisms],
        },
    )


def _planned(mechanism: Mechanism) -> dict[str, Any]:
    grid = mechanism.grid and {
        "resolution": decimal(mechanism.grid.resolution),
        "shares": mechanism.grid.shares,
        "slack": decimal(mechanism.grid.slack),
    }
    return {
        "phase": mechanism.phase,
        "clip_norm": decimal(mechanism.clip_norm),
        "noise_multiplier": decimal(mechanism.noise_multiplier),
        "sample_rate": decimal(mechanism.sample_rate),
        "sampling": "all-rows" if mechanism.sample_rate == 1 else "poisson",
        "releases": mechanism.releases,
        "length": mechanism.length,
        "grid": grid,
    }
