"""Buy till you die: customer value from four numbers of each customer, pooled and without privacy, as a reference.

How often: BG/NBD (Fader, Hardie and Lee 2005, "Counting Your Customers" the Easy Way). While active, a customer buys as
a Poisson process with a rate from a gamma law, and after each purchase becomes inactive with a probability from a beta
law. How much: Gamma-Gamma (Fader and Hardie 2013, The Gamma-Gamma Model of Monetary Value). What is spent on one day is
gamma distributed around a mean that differs between customers, whatever their rate.

Both are fitted by maximum likelihood over the logarithms of their parameters. Time is in weeks. A purchase is a day on
which the customer bought, as in :mod:`fedmarket.data.transactions`, so the average is over such days; the first day is
one of them, whereas the note and the usual software leave it out.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import betaln, gammaln, hyp2f1

from fedmarket.arrays import FloatArray
from fedmarket.errors import DataError

_FURTHEST = 6.0
"""How far the logarithm of a parameter may be from where the search starts.

Where customers do not differ, the likelihood rises without end towards a law without spread; 400 times the start is
flat for every purpose, and the hypergeometric function still has an answer.
"""

_TINY = 1e-7


@dataclass(frozen=True, slots=True, kw_only=True)
class PurchaseModel:
    """BG/NBD: rates from a gamma law (``r``, ``alpha`` in weeks), drop-out from a beta law (``a``, ``b``)."""

    r: float
    alpha: float
    a: float
    b: float

    def log_likelihood(self, *, frequency: FloatArray, recency: FloatArray, tenure: FloatArray) -> FloatArray:
        """Return each customer's log-likelihood, (n,): Fader, Hardie and Lee (2005), equation 6."""
        r, alpha, a, b, x = self.r, self.alpha, self.a, self.b, frequency
        common = gammaln(r + x) - gammaln(r) + r * np.log(alpha) + betaln(a, b + x) - betaln(a, b)
        active = -(r + x) * np.log(alpha + tenure)
        dropped = np.log(a) - np.log(b + np.maximum(x, 1) - 1) - (r + x) * np.log(alpha + recency)
        return np.asarray(common + np.where(x > 0, np.logaddexp(active, dropped), active), dtype=np.float64)

    def expected_purchases(
        self, *, frequency: FloatArray, recency: FloatArray, tenure: FloatArray, weeks: float
    ) -> FloatArray:
        """Return the expected purchase days in the next ``weeks``, (n,): Fader, Hardie and Lee (2005), equation 10.

        Euler's transformation of the hypergeometric function leaves factors near one, so that nothing overflows for
        customers who bought thousands of times. Where the formula divides zero by zero (``a`` or ``a + b + x`` is 1)
        that parameter is moved by 1e-7.

        Raises:
            DataError: as :func:`fit_purchases`, weeks not above zero, or parameters too extreme for float64.

        >>> model = PurchaseModel(r=0.243, alpha=4.414, a=0.793, b=2.426)
        >>> history = {"frequency": np.array([2.0]), "recency": np.array([30.43]), "tenure": np.array([38.86])}
        >>> round(float(model.expected_purchases(**history, weeks=39.0)[0]), 3)
        1.226
        """
        if not 0 < weeks < np.inf:
            raise DataError(f"weeks: expected above 0, got {weeks}")
        x, last, whole = _checked_history(frequency, recency, tenure)
        r, alpha, b = self.r, self.alpha, self.b
        a = self.a if abs(self.a - 1) > _TINY else 1 + _TINY
        order = a + b + x - 1
        order = np.where(np.abs(order) > _TINY, order, _TINY)
        ahead = weeks / (alpha + whole + weeks)
        with np.errstate(over="ignore", invalid="ignore"):
            kept = np.exp((a - 1) * np.log1p(-ahead)) * hyp2f1(a + b - 1 - r, a - 1, order, ahead)
        lost = int((~np.isfinite(kept)).sum())
        if lost:
            raise DataError(f"expected_purchases: expected finite numbers, got {lost} that are not")
        log_odds = np.log(a) - np.log(b + np.maximum(x, 1) - 1) + (r + x) * np.log((alpha + whole) / (alpha + last))
        dropped = np.where(x > 0, log_odds, -np.inf)
        return np.asarray(order / (a - 1) * (1 - kept) * np.exp(-np.logaddexp(0.0, dropped)), dtype=np.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpendModel:
    """Gamma-Gamma: a day's spend has shape ``p``, and its inverse scale shape ``q`` and inverse scale ``gamma``."""

    p: float
    q: float
    gamma: float

    def log_likelihood(self, *, purchases: FloatArray, average_spend: FloatArray) -> FloatArray:
        """Return each customer's log-likelihood, (n,): the density of an average in Fader and Hardie (2013)."""
        p, q, gamma, x, z = self.p, self.q, self.gamma, purchases, average_spend
        shapes = gammaln(p * x + q) - gammaln(p * x) - gammaln(q)
        powers = q * np.log(gamma) + (p * x - 1) * np.log(z) + p * x * np.log(x) - (p * x + q) * np.log(gamma + x * z)
        return np.asarray(shapes + powers, dtype=np.float64)

    def expected_average(self, *, purchases: FloatArray, average_spend: FloatArray) -> FloatArray:
        """Return the expected spend of a purchase, (n,): the posterior mean in Fader and Hardie (2013).

        Raises:
            DataError: lengths differ, a number not finite or below zero, or few purchases under a law without a mean.

        >>> model = SpendModel(p=6.25, q=3.74, gamma=15.44)
        >>> float(model.expected_average(purchases=np.array([2.0]), average_spend=np.array([22.35])).round(2)[0])
        24.66
        """
        x, z = _checked(purchases=purchases, average_spend=average_spend)
        weight = self.p * x + self.q - 1
        if not (weight > 0).all():
            raise DataError(f"average_spend: no finite mean for {int((~(weight > 0)).sum())} customers")
        return self.p * (self.gamma + x * z) / weight


@dataclass(frozen=True, slots=True, kw_only=True)
class Buyers:
    """Both models together: how often, and how much."""

    purchases: PurchaseModel
    spend: SpendModel

    def expected_spend(
        self, *, frequency: FloatArray, recency: FloatArray, tenure: FloatArray, total_spend: FloatArray, weeks: float
    ) -> FloatArray:
        """Return what each customer is expected to spend in the next ``weeks``, (n,), in money without discount.

        Arguments and errors are those of :func:`fit_buyers`; any number of customers will do.
        """
        history = {"frequency": frequency, "recency": recency, "tenure": tenure}
        days, average = _days_and_average(frequency, total_spend)
        often = self.purchases.expected_purchases(**history, weeks=weeks)
        return often * self.spend.expected_average(purchases=days, average_spend=average)


def fit_buyers(*, frequency: FloatArray, recency: FloatArray, tenure: FloatArray, total_spend: FloatArray) -> Buyers:
    """Fit both models to customers of all parties.

    Args:
        frequency: distinct days with a purchase, less the first, (n,).
        recency: weeks from the first purchase to the last, (n,).
        tenure: weeks from the first purchase to the end of the window, (n,).
        total_spend: on all purchase days in money, (n,).

    Raises:
        DataError: as :func:`fit_purchases` and :func:`fit_spend`.

    Guarantees:
        The spend model sees only customers who bought on more than one day and spent something.
    """
    purchases = fit_purchases(frequency=frequency, recency=recency, tenure=tenure)
    days, average = _days_and_average(frequency, total_spend)
    usable = (days > 1) & (average > 0)
    return Buyers(purchases=purchases, spend=fit_spend(purchases=days[usable], average_spend=average[usable]))


def fit_purchases(*, frequency: FloatArray, recency: FloatArray, tenure: FloatArray) -> PurchaseModel:
    """Fit BG/NBD; arguments as :func:`fit_buyers`.

    Raises:
        DataError: lengths differ, a number not finite or below zero, recency beyond tenure, a recency without repeat
            purchases or the other way round, nobody who bought again, or a search that does not end.
    """
    x, last, whole = _checked_history(frequency, recency, tenure)
    if not (x > 0).any():
        raise DataError(f"frequency: expected customers who bought again, got none of {x.size}")

    def loss(logs: FloatArray) -> float:
        r, alpha, a, b = np.exp(logs).tolist()
        model = PurchaseModel(r=r, alpha=alpha, a=a, b=b)
        return -float(np.mean(model.log_likelihood(frequency=x, recency=last, tenure=whole)))

    r, alpha, a, b = _lowest(loss, start=[1.0, float(whole.mean()), 1.0, 1.0], name="BG/NBD")
    return PurchaseModel(r=r, alpha=alpha, a=a, b=b)


def fit_spend(*, purchases: FloatArray, average_spend: FloatArray) -> SpendModel:
    """Fit Gamma-Gamma.

    Args:
        purchases: over which each average is taken, at least 1, (n,).
        average_spend: of a purchase in money, above 0, (n,).

    Raises:
        DataError: lengths differ, a number not finite or not above zero, fewer than two averages that differ, or a
            search that does not end.
    """
    x, z = _checked(purchases=purchases, average_spend=average_spend)
    if not (x.min() > 0 and z.min() > 0):
        raise DataError(f"average_spend: expected purchases above 0, got {int(((x <= 0) | (z <= 0)).sum())} customers")
    if z.min() == z.max():
        raise DataError(f"average_spend: expected customers who differ, got {z.size} alike")

    def loss(logs: FloatArray) -> float:
        p, q, gamma = np.exp(logs).tolist()
        model = SpendModel(p=p, q=q, gamma=gamma)
        return -float(np.mean(model.log_likelihood(purchases=x, average_spend=z)))

    p, q, gamma = _lowest(loss, start=[1.0, 2.0, float(z.mean())], name="Gamma-Gamma")
    return SpendModel(p=p, q=q, gamma=gamma)


def _lowest(loss: Callable[[FloatArray], float], *, start: list[float], name: str) -> list[float]:
    """The parameters above zero with the least loss, searched on their logarithms."""
    logs = np.log(start)
    bounds = [(log - _FURTHEST, log + _FURTHEST) for log in logs]
    options = {"ftol": 1e-13, "gtol": 1e-7, "maxiter": 500}
    found = minimize(loss, logs, method="L-BFGS-B", jac="3-point", bounds=bounds, options=options)
    if not (found.success and np.isfinite(found.fun)):
        raise DataError(f"{name}: the search for its parameters did not end after {found.nit} steps")
    parameters: list[float] = np.exp(found.x).tolist()
    return parameters


def _days_and_average(frequency: FloatArray, total_spend: FloatArray) -> tuple[FloatArray, FloatArray]:
    repeats, total = _checked(frequency=frequency, total_spend=total_spend)
    return repeats + 1, total / (repeats + 1)


def _checked_history(
    frequency: FloatArray, recency: FloatArray, tenure: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    x, last, whole = _checked(frequency=frequency, recency=recency, tenure=tenure)
    late = int((last > whole).sum())
    if late:
        raise DataError(f"recency: expected at most the tenure, got more for {late} customers")
    torn = int(((x > 0) != (last > 0)).sum())
    if torn:
        raise DataError(f"recency: expected above 0 exactly where frequency is, got {torn} customers otherwise")
    return x, last, whole


def _checked(**columns: FloatArray) -> list[FloatArray]:
    """The columns as float64, (n,) each, if they are of one length and hold finite numbers of at least 0."""
    try:
        vectors = [np.asarray(column, dtype=np.float64) for column in columns.values()]
    except (TypeError, ValueError):
        raise DataError(f"{', '.join(columns)}: expected numbers") from None
    shapes = {vector.shape for vector in vectors}
    if len(shapes) > 1 or vectors[0].ndim != 1 or vectors[0].size == 0:
        raise DataError(f"{', '.join(columns)}: expected (n,) each, got {', '.join(map(str, sorted(shapes)))}")
    for name, vector in zip(columns, vectors, strict=True):
        wrong = int((~(np.isfinite(vector) & (vector >= 0))).sum())
        if wrong:
            raise DataError(f"{name}: expected finite numbers of at least 0, got {wrong} others")
    return vectors
