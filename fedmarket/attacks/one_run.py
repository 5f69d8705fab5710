"""Lower bounds on epsilon from one training run with canaries, each in or out by a coin of its own.

Two bounds. The first holds for every (epsilon, delta)-DP mechanism and keeps the delta term (the main theorem of
Steinke et al. 2023). The second asks whether the mechanism can be mu-GDP and is tighter where it is (Mahloujifar et
al. 2025); its epsilon is the one that mu implies.

What both need, or the bound is void: m canaries, each included by its own fair coin (not exactly half of them),
guesses made from the release alone, numbers of guesses fixed beforehand, and a guarantee whose neighbours differ in one
canary's presence. Abstaining is free; several numbers of guesses are paid for by Bonferroni.

The second bound, in our words. Let ``C`` be the number of correct among exactly ``r`` guesses and ``t_j = P(C >= j)``.
Flip canary i's coin: the event "canary i is guessed as its old coin, and at least j - 1 others are guessed right" turns
from *right with C >= j* to *wrong with C >= j - 1*, and f-DP bounds the first chance by the blow-up ``b = 1 - f`` of
the second. Averaged over coins and canaries (b is concave)::

    E[C; C >= j] / m  <=  b(E[r - C; C >= j - 1] / m)        for every j from 1 to r

With ``E[C; C >= j] = j t_j + sum_{i > j} t_i`` this bounds each tail by those above it::

    t_{j-1}  >=  (sum_{i >= j} t_i + m b^-1((j t_j + sum_{i > j} t_i) / m)) / (r - j + 1)

The right side grows in every t above. So from ``t_v = level`` and zeros beyond, the recursion is a lower bound of each
tail whenever ``P(C >= v) >= level``; if it passes 1, then ``P(C >= v) < level``, and seeing v correct refutes mu-GDP.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import betaincc, expit, ndtr, ndtri

from fedmarket.arrays import AnyArray, FloatArray
from fedmarket.errors import DataError
from fedmarket.privacy.accountant import gaussian_epsilon

Bound = Literal["approximate", "gaussian"]
"""What the mechanism is presumed to be: (epsilon, delta)-DP, or mu-GDP."""

TOLERANCE = 1e-6
"""How far a bound may lie below the largest parameter that is refuted."""

LARGEST = 1e4
"""Search ends here: no number of canaries refutes an epsilon or a mu as large."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Guessed:
    """``correct`` of ``guesses`` about ``canaries`` coins; for the others the auditor abstained."""

    canaries: int
    guesses: int
    correct: int

    def __post_init__(self) -> None:
        if not 0 <= self.correct <= self.guesses <= self.canaries:
            counts = f"{self.correct} of {self.guesses} about {self.canaries}"
            raise DataError(f"guesses: expected correct of guesses about canaries in rising order, got {counts}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ends:
    """How many canaries with the highest scores are guessed to be in, and with the lowest ones to be out."""

    top: int
    bottom: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """A lower bound on epsilon at ``delta`` that is false with probability ``significance`` at most.

    Attributes:
        mu: lower bound on mu, if that was asked; epsilon then is what this mu implies, and bounds the epsilon of no
            mechanism that is not mu-GDP.
        best: the guesses that gave the bound.
        tried: among how many numbers of guesses; each had ``significance / tried``.
    """

    bound: Bound
    epsilon: float
    delta: float
    mu: float | None
    significance: float
    best: Guessed
    tried: int


def audit(
    scores: ArrayLike,
    included: ArrayLike,
    *,
    ends: Sequence[Ends],
    delta: float,
    significance: float,
    bound: Bound,
    rng: np.random.Generator,
) -> Audit:
    """Return the best lower bound among several numbers of guesses.

    Args:
        scores: one for each canary, (m,); higher means more likely in. Computed without looking at ``included``.
        included: the coins, (m,), booleans.
        ends: the numbers of guesses to try, chosen before any coin was looked at.
        delta: at which epsilon is bounded.
        significance: chance of a bound above the truth, 0.05 for 95 %.
        bound: "approximate" is valid for any mechanism, "gaussian" refutes mu-GDP only.
        rng: data randomness, for the order of tied scores.

    Raises:
        DataError: lengths differ, a score that is not finite, coins other than booleans, no number of guesses to try
            or more guesses than canaries, or a delta or significance outside (0, 1); delta 0 is allowed for
            "approximate".

    Guarantees:
        If the mechanism is what ``bound`` presumes, then over coins and mechanism the bound is above the truth with
        probability ``significance`` at most.
    """
    if bound == "gaussian":
        _checked_share(delta, name="delta")
    found = guessed(scores, included, ends=ends, rng=rng)
    each = _checked_share(significance, name="significance") / len(found)
    if bound == "gaussian":
        mus = [mu_bound(one, significance=each) for one in found]
        best, mu = int(np.argmax(mus)), max(mus)
        epsilon = gaussian_epsilon(mu, delta) if mu > 0 else 0.0
    else:
        epsilons = [epsilon_bound(one, delta=delta, significance=each) for one in found]
        best, mu, epsilon = int(np.argmax(epsilons)), None, max(epsilons)
    return Audit(
        bound=bound,
        epsilon=epsilon,
        delta=delta,
        mu=mu,
        significance=significance,
        best=found[best],
        tried=len(found),
    )


def guessed(scores: ArrayLike, included: ArrayLike, *, ends: Sequence[Ends], rng: np.random.Generator) -> list[Guessed]:
    """Return how many guesses were correct for each of ``ends``; tied scores are in random order.

    Raises:
        DataError: see :func:`audit`.
    """
    values, coins = _checked(scores, included)
    if not ends:
        raise DataError("ends: expected a number of guesses to try, got none")
    for end in ends:
        if not (end.top >= 0 and end.bottom >= 0 and 0 < end.top + end.bottom <= values.size):
            raise DataError(f"ends: expected 1 to {values.size} guesses, got {end.top} and {end.bottom}")
    shuffled = rng.permutation(values.size)  # ties must not be in an order that knows the coins
    falling = coins[shuffled[np.argsort(-values[shuffled], kind="stable")]]
    ins = np.append(0, np.cumsum(falling))
    size = values.size
    return [
        Guessed(
            canaries=size,
            guesses=end.top + end.bottom,
            correct=int(ins[end.top] + end.bottom - (ins[size] - ins[size - end.bottom])),
        )
        for end in ends
    ]


def p_value(guesses: Guessed, *, epsilon: float, delta: float) -> float:
    """Return the largest chance of so many correct guesses under (epsilon, delta)-DP.

    It is ``P(W >= v) + 2 m delta max_i P(v > W >= v - i) / i`` with ``W`` binomial of r guesses, each correct with
    ``e^eps / (1 + e^eps)`` (Steinke et al. 2023), and 1 at most.

    Raises:
        DataError: if epsilon is below 0 or delta outside [0, 1].

    >>> round(p_value(Guessed(canaries=10, guesses=3, correct=3), epsilon=0.0, delta=0.0), 6)
    0.125
    >>> round(p_value(Guessed(canaries=10, guesses=3, correct=3), epsilon=0.0, delta=0.001), 6)
    0.1325
    """
    if not (epsilon >= 0 and 0 <= delta <= 1):
        raise DataError(f"expected epsilon >= 0 and delta in [0, 1], got {epsilon} and {delta}")
    tails = _tails(guesses.guesses, guesses.correct, epsilon)
    lost = tails[1:] - tails[0]  # P(v > W >= v - i) for i = 1, 2, ...
    most = float(np.max(lost / np.arange(1, lost.size + 1), initial=0.0))
    return min(float(tails[0]) + 2 * guesses.canaries * delta * most, 1.0)


def _tails(guesses: int, correct: int, epsilon: float) -> FloatArray:
    """Return P(W >= v), P(W >= v - 1), ... until it is 1 to the last bit: beyond, what is asked for only falls."""
    wrong_rate = float(expit(-epsilon))
    spread = math.sqrt(guesses * wrong_rate * (1 - wrong_rate))
    low = math.floor(guesses * (1 - wrong_rate) - 9 * spread - 40)
    least = np.arange(correct, max(min(low, correct - 1), 0) - 1, -1, dtype=np.float64)
    tails = np.ones(least.size)
    some = least > 0
    tails[some] = betaincc(guesses - least[some] + 1, least[some], wrong_rate)  # exact also where epsilon is large
    return tails


def epsilon_bound(guesses: Guessed, *, delta: float, significance: float) -> float:
    """Return a lower bound on epsilon at ``delta``: the largest with a p-value below ``significance``, or 0.

    Guarantees:
        For one number of guesses, fixed beforehand, the bound is above the true epsilon with probability
        ``significance`` at most. It is rounded down, by :data:`TOLERANCE` at most.

    Raises:
        DataError: if delta is outside [0, 1] or significance outside (0, 1).

    >>> round(epsilon_bound(Guessed(canaries=100, guesses=100, correct=100), delta=0.0, significance=0.05), 3)
    3.493
    """
    level = _checked_share(significance, name="significance")
    return _largest(lambda epsilon: p_value(guesses, epsilon=epsilon, delta=delta) < level)


def mu_bound(guesses: Guessed, *, significance: float) -> float:
    """Return a lower bound on mu: the largest for which mu-GDP is refuted, or 0.

    The recursion is in the module's docstring; Mahloujifar et al. (2025) derive the same from their inequality for an
    adversary who abstains.

    Guarantees:
        For one number of guesses, fixed beforehand, and a mechanism that is mu-GDP, the bound is above mu with
        probability ``significance`` at most. It is rounded down, by :data:`TOLERANCE` at most. Of a mechanism that is
        mu-GDP for no mu it says only that it is not mu-GDP below the bound.

    Raises:
        DataError: if significance is outside (0, 1).

    >>> round(mu_bound(Guessed(canaries=1, guesses=1, correct=1), significance=0.8), 4)  # 2 Phi^-1(0.8)
    1.6832
    """
    level = _checked_share(significance, name="significance")
    return _largest(lambda mu: refuted(guesses, significance=level, inverse=lambda rate: _gaussian_inverse(rate, mu)))


def _gaussian_inverse(rate: float, mu: float) -> float:
    """Return the least false-positive rate of a test of mu-GDP with true-positive rate ``rate``."""
    return float(ndtr(ndtri(rate) - mu))


def refuted(guesses: Guessed, *, significance: float, inverse: Callable[[float], float]) -> bool:
    """Return whether so many correct guesses have a chance below ``significance`` under an f-DP guarantee.

    Args:
        guesses: counts of one number of guesses, fixed beforehand.
        significance: in (0, 1).
        inverse: of ``1 - f``: the least false-positive rate at a true-positive rate in [0, 1], for a symmetric f.
    """
    level = _checked_share(significance, name="significance")
    number, size = guesses.guesses, guesses.canaries
    tail, above = level, 0.0  # t_j, and the sum of t_i over i > j
    for at in range(guesses.correct, 0, -1):
        right = at * tail + above
        above += tail
        reached = (above + size * inverse(min(right / size, 1.0))) / (number - at + 1)
        if reached > 1:
            return True
        if reached <= tail:
            return False  # the wrong guesses suffice already; nothing below changes
        tail = reached
    return False


def _largest(refutes: Callable[[float], bool]) -> float:
    """Return the end of the parameters from 0 upwards that are refuted, rounded down; 0 if 0 is not."""
    if not refutes(0.0):
        return 0.0
    low, high = 0.0, 1.0
    while high < LARGEST and refutes(high):
        low, high = high, 2 * high
    while high - low > TOLERANCE:
        middle = (low + high) / 2
        low, high = (middle, high) if refutes(middle) else (low, middle)
    return low


def _checked(scores: ArrayLike, included: ArrayLike) -> tuple[FloatArray, AnyArray]:
    try:
        values = np.asarray(scores, dtype=np.float64)
    except (TypeError, ValueError):
        raise DataError("scores: expected numbers") from None
    coins = np.asarray(included)
    if values.ndim != 1 or values.shape != coins.shape or not values.size:
        raise DataError(f"expected a score and a coin for each canary, got {values.shape} and {coins.shape}")
    if coins.dtype != np.bool_:
        raise DataError(f"included: expected booleans, got {coins.dtype}")
    if not np.isfinite(values).all():
        raise DataError(f"scores: expected finite numbers, got {int((~np.isfinite(values)).sum())} that are not")
    return values, coins


def _checked_share(value: float, *, name: str) -> float:
    if not 0 < value < 1:
        raise DataError(f"{name}: expected a number between 0 and 1, got {value}")
    return value
