"""What a guarantee allows an attacker at most, and which epsilon allows a given share of it.

The attacker sees the release and tells a run with one customer from the run without: a test of two hypotheses. Every
test's true-positive rate is bounded by its false-positive rate through the trade-off function (Wasserman and Zhou 2010;
Kairouz et al. 2015; Dong et al. 2022). It holds for every attacker, also one who knows all other customers, and for the
neighbouring relation and the privacy unit of the guarantee only.

Three guarantees are read: one pair of epsilon and delta, mu-GDP, and a whole privacy profile, which is the tightest.
The same epsilon at the same delta means different limits under each, so a claim has to name its reading. For 90 % off
an attacker who had everything (advantage 1, true-positive rate 1), at delta 1e-5, epsilon may be

======================================  ==============  ==========
what is cut to 0.1                      (eps, delta)    mu-GDP
======================================  ==============  ==========
membership advantage                    0.2007          0.93
true-positive rate at 1 % false         2.30            4.61
true-positive rate at 0.1 % false       4.61            8.84
======================================  ==============  ==========

The left column holds for every mechanism with that epsilon at that delta. The right one holds only where the mechanism
is mu-GDP, as full batches with Gaussian noise are; of another mechanism with the same epsilon it may be false, and its
own profile has to be asked. The left 4.61 is ln(100) and the right one is not: they meet by chance.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import expit, ndtr, ndtri

from fedmarket.arrays import FloatArray
from fedmarket.errors import PlanError
from fedmarket.privacy.accountant import gaussian_epsilon

Family = Literal["approximate", "gaussian"]
"""What is known of a mechanism beside epsilon at one delta: nothing, or that it is mu-GDP."""


class Guarantee(Protocol):
    """A symmetric bound on every test that tells a run with one customer from the run without."""

    def advantage(self) -> float:
        """Return the largest difference of true- and false-positive rate."""
        ...

    def true_positive_rate(self, false_positive_rate: float) -> float:
        """Return the largest true-positive rate of an attack with that false-positive rate."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Approximate:
    """(epsilon, delta)-DP in both directions, and nothing else known; an infinite epsilon is no guarantee.

    >>> round(Approximate(epsilon=1.0, delta=0.0).advantage(), 4)
    0.4621
    """

    epsilon: float
    delta: float

    def __post_init__(self) -> None:
        if not (self.epsilon >= 0 and 0 <= self.delta <= 1):
            raise PlanError(f"expected epsilon >= 0 and delta in [0, 1], got {self.epsilon} and {self.delta}")

    def advantage(self) -> float:
        """Return ``(e^eps - 1 + 2 delta) / (e^eps + 1)`` (Kairouz et al. 2015; Humphries et al. 2023)."""
        return math.tanh(self.epsilon / 2) + 2 * self.delta * float(expit(-self.epsilon))

    def true_positive_rate(self, false_positive_rate: float) -> float:
        """Return ``1 - f`` of the trade-off function of Kairouz et al. (2015): the lower one of its two lines."""
        fpr = _checked_rate(false_positive_rate)
        if math.isinf(self.epsilon):
            return 1.0
        steep = math.exp(min(self.epsilon + math.log(fpr), 1.0)) + self.delta if fpr else self.delta
        flat = 1 - math.exp(-self.epsilon) * (1 - self.delta - fpr)
        return min(steep, flat, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gaussian:
    """mu-GDP: no test does better than on one draw of N(0, 1) against N(mu, 1) (Dong et al. 2022, definition 2.6).

    >>> round(Gaussian(mu=1.0).true_positive_rate(0.01), 4)
    0.0924
    """

    mu: float

    def __post_init__(self) -> None:
        if not self.mu >= 0:
            raise PlanError(f"expected mu >= 0, got {self.mu}")

    def advantage(self) -> float:
        """Return ``2 Phi(mu / 2) - 1``, attained midway between the two means."""
        return float(2 * ndtr(self.mu / 2) - 1)

    def true_positive_rate(self, false_positive_rate: float) -> float:
        """Return ``Phi(Phi^-1(fpr) + mu)``, and without any false positive nothing, unless mu is infinite."""
        fpr = _checked_rate(false_positive_rate)
        return 1.0 if math.isinf(self.mu) else float(ndtr(ndtri(fpr) + self.mu))


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A privacy profile: (epsilon, delta)-DP for every one of these pairs at once, in both directions.

    Attributes:
        epsilons: at least 0, (n,), in any order; infinity is allowed.
        deltas: an upper bound on delta at each epsilon, (n,).

    Guarantees:
        Each pair bounds every test, so every choice of pairs gives limits that hold, and more pairs lower ones (Dong
        et al. 2022, proposition 2.12: all pairs together are the trade-off function). With a pair at epsilon 0 the
        advantage is at most its delta, which is exact: both are the total variation distance.
    """

    epsilons: FloatArray
    deltas: FloatArray

    def __post_init__(self) -> None:
        if self.epsilons.ndim != 1 or self.epsilons.shape != self.deltas.shape or not self.epsilons.size:
            shapes = f"{self.epsilons.shape} and {self.deltas.shape}"
            raise PlanError(f"profile: expected as many deltas as epsilons in one dimension, got {shapes}")
        if not ((self.epsilons >= 0).all() and ((self.deltas >= 0) & (self.deltas <= 1)).all()):
            raise PlanError("profile: expected epsilons >= 0 and deltas in [0, 1], got others")

    def advantage(self) -> float:
        """Return the least advantage of any pair.

        It is the limit of all pairs together too: each pair's bound on the true-positive rate is symmetric about the
        line ``tpr = 1 - fpr`` and concave, so all of them exceed the false-positive rate most on that line.
        """
        return min(pair.advantage() for pair in self._pairs())

    def true_positive_rate(self, false_positive_rate: float) -> float:
        """Return the least limit of any pair."""
        return min(pair.true_positive_rate(false_positive_rate) for pair in self._pairs())

    def _pairs(self) -> list[Approximate]:
        pairs = zip(self.epsilons.tolist(), self.deltas.tolist(), strict=True)
        return [Approximate(epsilon=epsilon, delta=delta) for epsilon, delta in pairs]


def profile_of(delta_of: Callable[[float], float], *, epsilons: ArrayLike) -> Profile:
    """Return the profile that ``delta_of`` gives at ``epsilons``, (n,); a delta that rounding moved below 0 is 0.

    Args:
        delta_of: an upper bound on delta at an epsilon, the larger one of both directions.
        epsilons: where it is asked; what lies between is bounded by these, so a coarse grid is loose and never wrong.

    Raises:
        PlanError: if an epsilon is below 0, or a delta is no number or above 1.
    """
    asked = np.asarray(epsilons, dtype=np.float64)
    return Profile(epsilons=asked, deltas=np.array([max(delta_of(epsilon), 0.0) for epsilon in asked.ravel().tolist()]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """What is counted as success: the true-positive rate at a false-positive rate or, without one, the advantage.

    >>> Measure(false_positive_rate=0.001).words
    'true-positive rate at a false-positive rate of 0.1 %'
    """

    false_positive_rate: float | None

    def __post_init__(self) -> None:
        if self.false_positive_rate is not None and not 0 < self.false_positive_rate < 1:
            raise PlanError(f"expected a false-positive rate between 0 and 1, got {self.false_positive_rate}")

    @property
    def words(self) -> str:
        """The measure, for a sentence."""
        if self.false_positive_rate is None:
            return "membership advantage"
        return f"true-positive rate at a false-positive rate of {100 * self.false_positive_rate:g} %"


ADVANTAGE = Measure(false_positive_rate=None)
TPR_AT_1_PERCENT = Measure(false_positive_rate=0.01)
TPR_AT_0_1_PERCENT = Measure(false_positive_rate=0.001)


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """The largest epsilon at ``delta`` that takes ``reduction`` off a full leak, read as ``family`` allows."""

    epsilon: float
    delta: float
    measure: Measure
    reduction: float
    family: Family

    @property
    def words(self) -> str:
        """The whole claim, with what it presumes."""
        presumed = {"approximate": "any mechanism", "gaussian": "a mechanism that is mu-GDP, and no other"}
        return (
            f"{self.measure.words} of at most {1 - self.reduction:g} instead of 1: epsilon {self.epsilon:.4g} "
            f"at delta {self.delta:g}, for {presumed[self.family]}"
        )


def largest(guarantee: Guarantee, measure: Measure) -> float:
    """Return the most that an attacker attains in ``measure`` under ``guarantee``, in [0, 1]."""
    if measure.false_positive_rate is None:
        return guarantee.advantage()
    return guarantee.true_positive_rate(measure.false_positive_rate)


def formal_reduction(guarantee: Guarantee, measure: Measure) -> float:
    """Return the share that ``guarantee`` takes off a full leak: ``1 - largest / 1``.

    The comparison is with an attacker who had everything, advantage 1 or true-positive rate 1. How much an attack on a
    given model attains without the guarantee is not asked; for that see :mod:`fedmarket.attacks.rates`. A true-positive
    rate cannot be cut below the false-positive rate, which guessing attains.

    >>> round(formal_reduction(Approximate(epsilon=2.0, delta=1e-5), TPR_AT_1_PERCENT), 3)
    0.926
    """
    return 1 - largest(guarantee, measure)


def epsilon_for(measure: Measure, *, reduction: float, delta: float, family: Family) -> Requirement:
    """Return the largest epsilon at ``delta`` under which :func:`formal_reduction` is at least ``reduction``.

    Args:
        measure: what is to be reduced.
        reduction: the share taken off a full leak, in (0, 1).
        delta: at which epsilon is stated, in (0, 1).
        family: "approximate" holds for every mechanism; "gaussian" returns the exact epsilon of the mu that reaches
            the reduction (Balle and Wang 2018), and holds for mu-GDP mechanisms only.

    Raises:
        PlanError: if no epsilon reaches the reduction: it asks for less than guessing or delta alone attain.

    >>> print(epsilon_for(ADVANTAGE, reduction=0.9, delta=1e-5, family="gaussian").words)
    membership advantage of at most 0.1 instead of 1: epsilon 0.9317 at delta 1e-05, for a mechanism that is mu-GDP, and no other
    >>> print(epsilon_for(ADVANTAGE, reduction=0.9, delta=1e-5, family="approximate").words)
    membership advantage of at most 0.1 instead of 1: epsilon 0.2007 at delta 1e-05, for any mechanism
    """  # noqa: E501
    if not (0 < reduction < 1 and 0 < delta < 1):
        raise PlanError(f"expected reduction and delta between 0 and 1, got {reduction} and {delta}")
    allowed = 1 - reduction
    if family == "gaussian":
        mu = _mu_for(measure.false_positive_rate, allowed)
        epsilon = gaussian_epsilon(mu, delta) if mu >= 0 else -1.0
    else:
        epsilon = _epsilon_for(measure.false_positive_rate, allowed, delta)
    if not epsilon >= 0:
        raise PlanError(f"no epsilon keeps the {measure.words} at {allowed:g} or below at delta {delta:g}")
    return Requirement(epsilon=epsilon, delta=delta, measure=measure, reduction=reduction, family=family)


def _mu_for(fpr: float | None, allowed: float) -> float:
    """Return the mu at which the limit is ``allowed``; below 0 if guessing attains more."""
    return float(2 * ndtri((1 + allowed) / 2) if fpr is None else ndtri(allowed) - ndtri(fpr))


def _epsilon_for(fpr: float | None, allowed: float, delta: float) -> float:
    """Return the largest epsilon at which the limit is at most ``allowed``; below 0 if there is none."""
    if fpr is None:
        return math.log((1 + allowed - 2 * delta) / (1 - allowed)) if allowed > delta else -1.0
    if not allowed >= fpr + delta:
        return -1.0
    steep = math.log((allowed - delta) / fpr)
    flat = math.log((1 - delta - fpr) / (1 - allowed))
    return max(steep, flat)


def _checked_rate(rate: float) -> float:
    if not 0 <= rate <= 1:
        raise PlanError(f"expected a false-positive rate in [0, 1], got {rate}")
    return rate
