"""The discrete Gaussian on the integers, drawn from a ChaCha20 stream, with a proven distance from the exact law.

N_Z(0, s^2) gives the integer k a probability in proportion to exp(-k^2 / (2 s^2)) (Canonne, Kamath and Steinke 2020).
Noise on integers has no floating-point pattern to read a sum from (Mironov 2012), and it can be added under secure
aggregation. How a draw is made:

1. A small law is a table of integer weights that add up to 2 ** 128, read by Walker's (1977) alias method. The first
   word of a draw decides but for one case in about 2 ** 50, in which a second word does.
2. A wide law is a sum: with Y ~ N_Z(0, (s^2 - f^2) / a^2) and X ~ N_Z(0, f^2) independent, X + a Y is N_Z(0, s^2) to
   within :func:`sum_distance` (Peikert 2010; Micciancio and Walter 2017). Y is drawn in the same way.

Nothing here runs in constant time: a table is read where secret words point, so whoever can watch the cache of the
machine may learn of the noise.
"""

import math
from dataclasses import dataclass
from decimal import Context, Decimal, localcontext
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fedmarket.errors import PlanError
from fedmarket.privacy.noise import Stream

SMALLEST_STD = 0.5
LARGEST_STD = 2.0**40

_STEP = 128  # a
_FINE_STD = 256  # f
_WIDEST_TABLE = 512
_REACH = 12  # a table ends at this many standard deviations
_WEIGHT_BITS = 128
_CHUNK = 1 << 15  # draws made at a time: what is worked on stays in the cache

_DIGITS = Context(prec=60)
_DECIMAL_ERROR = 2.0**-120
"""Generous: :func:`_masses` multiplies 6144 times, a ratio that has itself been multiplied as often. With sixty digits
that, and the rounding of the variance, leaves each probability a relative error below 10 ** -50."""


@dataclass(frozen=True, slots=True)
class DiscreteGaussian:
    """N_Z(0, std^2), with ``std`` from 0.5 to 2 ** 40 in units of the grid.

    Raises:
        PlanError: if ``std`` is out of range or not a number.

    >>> DiscreteGaussian(1000.0).draw(Stream.seeded(1), 3).dtype
    dtype('int64')
    >>> DiscreteGaussian(1000.0).distance < 2.0**-80
    True

    Guarantees:
        Draws are independent, symmetric around zero, never beyond ``largest``, and each is within ``distance`` of the
        exact law in total variation, if the words of the stream are uniform.
    """

    std: float

    def __post_init__(self) -> None:
        if not SMALLEST_STD <= self.std <= LARGEST_STD:
            raise PlanError(f"discrete noise needs a standard deviation of 0.5 to 2**40 steps, got {self.std:g}")

    def draw(self, stream: Stream, count: int) -> NDArray[np.int64]:
        """Return ``count`` independent draws (count,) in units of the grid."""
        coarse, fine_layers, _ = _layers(float(self.std))
        draws = np.empty(count, dtype=np.int64)
        for start in range(0, count, _CHUNK):
            part = draws[start : start + _CHUNK]
            part[:] = coarse.draw(stream, part.size)
            for _ in range(fine_layers):
                part *= _STEP
                part += _fine().draw(stream, part.size)
        return draws

    @property
    def distance(self) -> float:
        """Upper bound on the total variation distance of one draw from N_Z(0, std^2).

        Replacing each table by the exact law it stands for, one after the other, costs the distance of that table,
        because adding an independent integer cannot enlarge a distance. Replacing the exact sum by the wide law costs
        :func:`sum_distance`. All of this adds up by the triangle inequality.
        """
        return _layers(float(self.std))[2]

    @property
    def largest(self) -> int:
        """No draw is larger than this in absolute value: 12 to 18 times ``std``."""
        coarse, fine_layers, _ = _layers(float(self.std))
        reach = coarse.half_width
        for _ in range(fine_layers):
            reach = reach * _STEP + _fine().half_width
        return reach


def ripple(variance: float) -> float:
    """Return r such that theta(u) / sqrt(2 pi variance) is within 1 - r and 1 + r for every real u.

    Here theta(u) is the sum of exp(-(k - u)^2 / (2 variance)) over all integers k. Poisson summation makes it

        sqrt(2 pi variance) (1 + 2 sum over j >= 1 of exp(-2 pi^2 variance j^2) cos(2 pi j u)),

    and as j^2 >= 1 + 3 (j - 1), the sum without its cosines is at most that of a geometric series. This one bound
    carries all that is said about sums, here and in :mod:`fedmarket.privacy.distributed`.
    """
    # The factor covers the rounding of exp, the summand its underflow: what is returned is never below the truth.
    first = math.exp(-2.0 * math.pi**2 * variance) * (1.0 + 2.0**-20) + 2.0**-1000
    return 2.0 * first / (1.0 - first**3)


def sum_distance(smoothness: float) -> float:
    """Return a bound on the total variation distance between X + a Y and the discrete Gaussian of its variance.

    X ~ N_Z(0, v) and Y ~ N_Z(0, w) are independent, a >= 1 is an integer, smoothness = v w / (v + a^2 w). Completing
    the square in the sum over Y = y,

        y^2 / w + (z - a y)^2 / v  =  z^2 / (v + a^2 w) + (y - u)^2 / smoothness,   u = a w z / (v + a^2 w),

    so P(X + a Y = z) is N_Z(0, v + a^2 w)(z) times theta(u) over the mean of theta(u) under N_Z(0, v + a^2 w). In units
    of sqrt(2 pi smoothness), theta lies in an interval of length 2 r. A variable in such an interval is away from its
    mean by r on average at the most, and its mean is at least 1 - r. Half of r / (1 - r) is the total variation.

    Guarantees:
        1, which is always true, where the bound says nothing (r >= 2/3).
    """
    r = ripple(smoothness)
    return 0.5 * r / (1.0 - r) if r < 2.0 / 3.0 else 1.0


@dataclass(frozen=True, slots=True, eq=False)
class _Table:
    """Alias table over the integers -half_width .. half_width: each column keeps its own or passes to ``other``.

    A column is chosen by the first bits of a word. The rest of the word and, in a tie, another word are one number; the
    column is kept if that number is below ``kept_high * 2**64 + kept_low``.
    """

    half_width: int
    bits: int
    kept_high: NDArray[np.uint64]
    kept_low: NDArray[np.uint64]
    other: NDArray[np.int64]
    distance: float

    def draw(self, stream: Stream, count: int) -> NDArray[np.int64]:
        words = stream.words(count)
        column = (words >> np.uint64(64 - self.bits)).view(np.int64)
        rest = words & np.uint64(2 ** (64 - self.bits) - 1)
        kept_high = self.kept_high[column]
        kept = rest < kept_high
        ties = np.flatnonzero(rest == kept_high)
        if ties.size:
            kept[ties] = stream.words(ties.size) < self.kept_low[column[ties]]
        return np.where(kept, column, self.other[column]) - self.half_width


@lru_cache(maxsize=32)
def _layers(std: float) -> tuple[_Table, int, float]:
    """Return the coarse table, how many fine layers are added to it, and the distance of the whole."""
    with localcontext(_DIGITS):
        variance, fine_layers, distance = Decimal(std) ** 2, 0, 0.0
        while variance > _WIDEST_TABLE**2:
            rest = (variance - _FINE_STD**2) / _STEP**2
            # At least (f / a)^2 * 3 / 4 = 3, because variance > 4 f^2.
            distance += sum_distance(float(_FINE_STD**2 * rest / variance)) + _fine().distance
            variance, fine_layers = rest, fine_layers + 1
        coarse = _table(variance)
    return coarse, fine_layers, distance + coarse.distance


@lru_cache(maxsize=1)
def _fine() -> _Table:
    return _table(Decimal(_FINE_STD**2))


def _table(variance: Decimal) -> _Table:
    """Return the table of N_Z(0, variance)."""
    with localcontext(_DIGITS):
        half_width = math.ceil(_REACH * variance.sqrt())
        masses = _masses(variance, half_width)
        whole = 2 * sum(masses) - masses[0]
        side = [int(mass * 2**_WEIGHT_BITS / whole) for mass in masses[1:]]
    weights = [*reversed(side), 2**_WEIGHT_BITS - 2 * sum(side), *side]
    bits = (len(weights) - 1).bit_length()
    kept, other = _alias(weights, bits)
    return _Table(
        half_width=half_width,
        bits=bits,
        kept_high=np.array([threshold >> 64 for threshold in kept], dtype=np.uint64),
        kept_low=np.array([threshold & (2**64 - 1) for threshold in kept], dtype=np.uint64),
        other=np.array(other, dtype=np.int64),
        # Every weight but that of zero is rounded down, by less than 2 ** -128, and zero gets what is missing.
        distance=_tail(float(variance), half_width) + len(weights) * 2.0**-_WEIGHT_BITS + _DECIMAL_ERROR,
    )


def _masses(variance: Decimal, half_width: int) -> list[Decimal]:
    """Return exp(-k^2 / (2 variance)) for k from 0 to ``half_width``, each from the last by two multiplications."""
    mass, ratio, fall = Decimal(1), (-1 / (2 * variance)).exp(), (-1 / variance).exp()
    masses = [mass]
    for _ in range(half_width):
        mass, ratio = mass * ratio, ratio * fall
        masses.append(mass)
    return masses


def _tail(variance: float, half_width: int) -> float:
    """Return a bound on the probability beyond ``half_width``, which is the distance that cutting it off costs.

    One side's sum is at most the integral of exp(-x^2 / (2 v)) from h on, which is at most v / h exp(-h^2 / (2 v)); all
    masses together are at least sqrt(2 pi v), by the Poisson summation of :func:`ripple` at u = 0.
    """
    beyond = variance / half_width * math.exp(-(half_width**2) / (2.0 * variance))
    return 2.0 * beyond / math.sqrt(2.0 * math.pi * variance) * (1.0 + 2.0**-20)


def _alias(weights: list[int], bits: int) -> tuple[list[int], list[int]]:
    """Return thresholds and other columns (Walker 1977; Vose 1991), in integers and so without any error.

    Each of the 2 ** bits columns holds 2 ** (128 - bits): less of its own than that, and the rest of one other.
    """
    capacity = 2 ** (_WEIGHT_BITS - bits)
    left = weights + [0] * (2**bits - len(weights))
    kept, other = [capacity] * len(left), list(range(len(left)))
    poor = [column for column, weight in enumerate(left) if weight < capacity]
    rich = [column for column, weight in enumerate(left) if weight >= capacity]
    while poor:
        column, donor = poor.pop(), rich[-1]
        kept[column], other[column] = left[column], donor
        left[donor] -= capacity - left[column]
        if left[donor] < capacity:
            poor.append(rich.pop())
    return kept, other
