"""The mean of bounded numbers with an interval that holds for few of them: one number for each run or trial.

What an attack attains on many customers of one run is one observation: they share that run's noise and its model, so
counting each of them would promise too much. Runs are independent, and nothing else is assumed of their law.
"""

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import logsumexp

from fedmarket.arrays import FloatArray
from fedmarket.attacks.rates import Interval
from fedmarket.errors import DataError

BETS = (np.arange(200) + 0.5) / 200
"""Shares of the capital that are bet, all of them at once in equal parts."""


def mean_of(values: ArrayLike, *, lower: float, upper: float, confidence: float) -> Interval:
    """Return the mean of independent numbers of one law in [``lower``, ``upper``], (n,), with a betting interval.

    A gambler who bets the share b of his capital on numbers above m in each of n fair games has a capital of
    ``prod(1 - b + b x_i / m)``, of expectation 1 if the mean is m and less if it is below. By Markov's inequality
    it passes ``1 / error`` with probability ``error`` at most, for a mixture of shares too: every m at which it does is
    ruled out from below, and by the same game on ``1 - x`` from above (Waudby-Smith and Ramdas 2024; a uniform mixture
    of constant bets is Cover's universal portfolio, Orabona and Jun 2024). The capital falls in m, so what is left is
    an interval. It narrows with the spread of the numbers, which Hoeffding's does not.

    Guarantees:
        Each end errs with probability ``(1 - confidence) / 2`` at most, for every n and every law within the bounds. It
        does not depend on the order of the numbers.

    Raises:
        DataError: no numbers, or some that are not within the bounds, or a confidence outside (0, 1).

    >>> found = mean_of([1.0] * 64, lower=0.0, upper=1.0, confidence=0.95)
    >>> round(found.low, 2), found.high
    (0.92, 1.0)
    """
    found = np.asarray(values, dtype=np.float64)
    if found.ndim != 1 or not found.size:
        raise DataError(f"expected numbers in one dimension, got shape {found.shape}")
    if not (0 < confidence < 1 and lower < upper):
        raise DataError(f"expected a confidence in (0, 1) and lower < upper, got {confidence}, {lower} and {upper}")
    if beyond := int((~((found >= lower) & (found <= upper))).sum()):
        raise DataError(f"expected numbers in [{lower:g}, {upper:g}], got {beyond} that are not")
    width, each = upper - lower, (1 - confidence) / 2
    shares = (found - lower) / width
    low, high = _least(shares, each), 1.0 - _least(1.0 - shares, each)
    mean = float(shares.mean())
    return Interval(
        estimate=lower + width * mean,
        low=lower + width * min(low, mean),
        high=lower + width * max(high, mean),
        confidence=confidence,
        method="betting",
    )


def _least(shares: FloatArray, error: float) -> float:
    """Return the least mean that is not ruled out from below."""
    mean = float(shares.mean())
    if not mean > 1e-12:
        return 0.0

    def excess(logarithm: float) -> float:
        ratios = shares[:, None] * math.exp(-logarithm) - 1.0
        return float(logsumexp(np.log1p(BETS * ratios).sum(axis=0))) - math.log(len(BETS) / error)

    most, least = math.log(mean), math.log(mean) - 100.0
    return math.exp(brentq(excess, least, most, xtol=1e-9)) if excess(least) > 0 else 0.0
