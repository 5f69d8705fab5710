"""One noisy sum: how a row is bounded, which noise is drawn, and which privacy event that is.

Trainer and accountant read the same :class:`Mechanism`, so what is accounted is what is drawn. Noise is either each
party's own, continuous and enough alone, or a share on the integer grid of a sum that only secure aggregation reveals
(``docs/explanation/distributed-noise.md``).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from fedmarket.arrays import FloatArray
from fedmarket.errors import PlanError
from fedmarket.privacy.accountant import Event
from fedmarket.privacy.distributed import SummedNoise, rounded_sensitivity
from fedmarket.privacy.noise import Stream, normals_of

Phase = Literal["centre", "update", "calibrate", "level", "segment", "evaluate"]
PHASES: tuple[Phase, ...] = get_args(Phase)

MECHANISM_WORDS: dict[str, str] = {
    "centre": "noisy sum of the encoded rows, to centre features",
    "update": "noisy sum of clipped gradients",
    "calibrate": "noisy sums for the recalibration of probabilities",
    "level": "noisy sums of what was spent and what was expected, for the level of all values",
    "segment": "noisy sums of customers, responses and predicted value in each segment",
    "evaluate": "noisy counts of held-out customers by score or predicted value, and outcome",
}
"""What is released in each phase."""

NOISE_REACH = 16.0
"""Standard deviations of noise that the integer range holds; more has probability below 1e-56."""

ROW_TOLERANCE = 1e-6
"""By which share of itself an encoded row's norm may be beyond its bound: rows are float32."""


def finest_step(bound: float, *, parties: int, modulus_bits: int, no_finer_than: float = 0.0) -> float:
    """Return the least power of two in whose steps ``parties`` values within ``bound`` add up without wrapping.

    The half of the modulus is left unused: rounding can then never carry a sum across the edge.

    Raises:
        PlanError: if the bound is not positive and finite.

    >>> finest_step(1.0, parties=4, modulus_bits=32) == 2.0**-28
    True
    """
    if not (bound > 0 and math.isfinite(bound)):
        raise PlanError(f"the range of an update must be positive and finite, got {bound:g}")
    return 2.0 ** math.ceil(math.log2(max(parties * bound / 2.0 ** (modulus_bits - 2), no_finer_than)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """The integer grid on which shares of noise are drawn and added.

    Attributes:
        resolution: one step.
        shares: how many parties' noise together is sized to be enough.
        slack: by which share of itself a row may move a sum more than the clip, because float64 is not exact.
    """

    resolution: float
    shares: int
    slack: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Mechanism:
    """A Gaussian mechanism over Poisson-sampled rows, used ``releases`` times in a run.

    Attributes:
        clip_norm: Euclidean bound on what one row adds to the sum; ``inf`` without privacy.
        noise_multiplier: standard deviation of the noise over ``sensitivity``; 0 without privacy. Where noise is
            shared, that of ``grid.shares`` parties together.
        sample_rate: probability with which each row takes part, on its own coin; 1 is the full batch.
        releases: how often the mechanism may run in the whole run.
        length: coordinates of a release.
        grid: where parties share the noise; None where each one's is enough alone.
    """

    phase: Phase
    clip_norm: float
    noise_multiplier: float
    sample_rate: float
    releases: int
    length: int
    grid: Grid | None = None

    @property
    def sensitivity(self) -> float:
        """How far one row moves what is released: the clip, and on a grid what float64 and rounding add to it."""
        if self.grid is None:
            return self.clip_norm
        clip_norm = self.clip_norm * (1.0 + self.grid.slack)
        steps = rounded_sensitivity(clip_norm, resolution=self.grid.resolution, length=self.length)
        return steps * self.grid.resolution

    @property
    def noise_std(self) -> float:
        """Standard deviation of the noise that one party puts on each coordinate of its sum."""
        if not self.noise_multiplier:
            return 0.0
        if self.grid is None:
            return self.noise_multiplier * self.clip_norm
        return self._summed().share_std * self.grid.resolution

    @property
    def noise_reach(self) -> float:
        """No noise of a party is beyond this, but with a probability below 1e-56 where it is not on a grid."""
        if self.grid is None or not self.noise_multiplier:
            return NOISE_REACH * self.noise_std
        return self._summed().share.largest * self.grid.resolution

    @property
    def distance(self) -> float:
        """Total variation between one release and a function of the Gaussian mechanism that is accounted."""
        return self._summed().distance * self.length if self.grid and self.noise_multiplier else 0.0

    def noisy(self, exact: FloatArray, stream: Stream) -> FloatArray:
        """Return ``exact`` (d,) with one party's noise; on a grid rounded to it, in whole steps that float64 holds."""
        return self.noisy_each(exact[None], [stream])[0] if self.noise_multiplier else exact

    def noisy_each(self, exact: FloatArray, streams: Sequence[Stream]) -> FloatArray:
        """Return the sums of several parties, (parties, d), each with its own noise from its own stream."""
        if not self.noise_multiplier:
            return exact
        if self.grid is None:
            return np.asarray(exact + self.noise_std * normals_of(streams, exact.shape[1]))
        noise = np.stack([self._summed().share.draw(stream, exact.shape[1]) for stream in streams])
        return np.asarray((np.rint(exact / self.grid.resolution) + noise) * self.grid.resolution, dtype=np.float64)

    def event(self, releases: int | None = None, *, shares: int | None = None) -> Event:
        """Return the privacy event of ``releases`` uses (by default of all), seen by one who misses ``shares``."""
        noise_multiplier = self.noise_multiplier
        if self.grid is not None and self.noise_multiplier and shares is not None:
            known = SummedNoise(share_std=self._summed().share_std, shares=shares)
            noise_multiplier = known.noise_multiplier(self.sensitivity / self.grid.resolution)
        return Event(
            noise_multiplier=noise_multiplier,
            sample_rate=self.sample_rate,
            count=self.releases if releases is None else releases,
        )

    def _summed(self) -> SummedNoise:
        if self.grid is None:
            raise PlanError(f"the noise of {self.phase} is not shared")
        steps = self.sensitivity / self.grid.resolution
        return SummedNoise.for_multiplier(self.noise_multiplier, sensitivity=steps, shares=self.grid.shares)
