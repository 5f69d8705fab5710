"""What the sum of many parties' discrete Gaussian shares is worth: sensitivity, distance and two ways to account it.

Every party rounds its own sum to the grid and adds N_Z(0, share_std^2) to each coordinate; secure aggregation shows
only the total. All lengths here are in steps of the grid. The derivation, line by line, is
``docs/explanation/distributed-noise.md``.

- **Tight**: the total is, up to a total variation distance of about 2 ** -80 a coordinate, computed from a *continuous*
  Gaussian mechanism of almost the same noise. So the accountants of :mod:`fedmarket.privacy.accountant` apply, Poisson
  sampling included, at a delta that :func:`reduced_delta` makes smaller by what the distance costs.
- **Published**: the theorem of Kairouz, Liu and Steinke (2021) in concentrated differential privacy. It needs no
  distance to a continuous law, but is looser and knows no sampling. It is here as the second opinion.
"""

import math
from dataclasses import dataclass
from typing import Self

from scipy.optimize import minimize_scalar

from fedmarket.errors import PlanError
from fedmarket.privacy.discrete import DiscreteGaussian, ripple, sum_distance

SMOOTHING = 4.0
"""Variance, in squared steps, that the continuous Gaussian of the tight way has less than the discrete total."""


def rounded_sensitivity(clip_norm: float, *, resolution: float, length: int) -> float:
    """Return how far, in steps and Euclidean norm, one row moves a sum of ``length`` coordinates that is then rounded.

    ``clip_norm`` bounds what the row moves the sum before rounding; ``resolution`` is one step of the grid. In each
    coordinate abs(round(a) - round(b)) <= abs(a - b) + 1, since rounding moves each by at most 1/2; the triangle
    inequality for the norm gives clip_norm / resolution + sqrt(length).

    Under replace-one the sum moves by up to ``2 * clip_norm``; accounting with half the noise multiplier is enough, as
    twice the result is more than the result for twice the norm.

    Raises:
        PlanError: if an argument is not positive and finite.

    >>> rounded_sensitivity(1.0, resolution=2.0**-10, length=100)
    1034.0
    """
    if not (0 < clip_norm < math.inf and 0 < resolution < math.inf and length >= 1):
        raise PlanError(
            "a rounded sum needs a positive clip norm, resolution and length, "
            f"got {clip_norm:g}, {resolution:g} and {length}"
        )
    return clip_norm / resolution + math.sqrt(length)


@dataclass(frozen=True, slots=True, kw_only=True)
class SummedNoise:
    """The sum of ``shares`` independent N_Z(0, share_std^2), on every coordinate of one release.

    Attributes:
        share_std: parameter of each party's noise, in steps of the grid, at least 0.5.
        shares: how many shares an observer is sure not to know: those of the fewest parties that a round may end with,
            less those of colluding parties. Further shares are independent of all data, so adding them is
            post-processing, and epsilon is no larger with them. With ``shares=1`` this is what one party is left with
            if secure aggregation is broken.

    Raises:
        PlanError: if ``share_std`` cannot be drawn, or there is no share.
    """

    share_std: float
    shares: int

    def __post_init__(self) -> None:
        DiscreteGaussian(self.share_std)
        if not self.shares >= 1:
            raise PlanError(
                f"distributed noise needs at least one share that the observer does not know: {self.shares}"
            )

    @classmethod
    def for_multiplier(cls, noise_multiplier: float, *, sensitivity: float, shares: int) -> Self:
        """Return the least noise whose :meth:`noise_multiplier` is ``noise_multiplier``, rounded up.

        Raises:
            PlanError: if the noise is too small or too large for this grid.
        """
        if not (noise_multiplier > 0 and sensitivity > 0 and shares >= 1):
            raise PlanError(
                "shares of noise need a positive multiplier, sensitivity and number, "
                f"got {noise_multiplier:g}, {sensitivity:g} and {shares}"
            )
        exact = math.sqrt(((noise_multiplier * sensitivity) ** 2 + SMOOTHING) / shares)
        return cls(share_std=exact * (1.0 + 2.0**-40), shares=shares)

    @property
    def share(self) -> DiscreteGaussian:
        """The law that each party draws from."""
        return DiscreteGaussian(self.share_std)

    def noise_multiplier(self, sensitivity: float) -> float:
        """Return the noise multiplier of the continuous Gaussian mechanism that stands in for this noise.

        Guarantees:
            Any number of releases, each on a Poisson sample or on all rows and each chosen after the earlier ones, is
            within ``distance`` x coordinates x releases in total variation of a function of Gaussian mechanisms with
            this multiplier.

        Raises:
            PlanError: if the total has no more variance than ``SMOOTHING`` (the grid is too coarse), or the sensitivity
                is not positive.
        """
        variance = self.shares * self.share_std**2
        if not (variance > SMOOTHING and sensitivity > 0):
            raise PlanError(
                f"expected noise of more than {math.sqrt(SMOOTHING):g} steps and a positive sensitivity, "
                f"got {math.sqrt(variance):.3g} and {sensitivity:g}: the grid may be too coarse"
            )
        return math.sqrt(variance - SMOOTHING) / sensitivity

    @property
    def distance(self) -> float:
        """Upper bound on the distance from the stand-in that each coordinate of each release adds.

        In three steps, each replacing one law by the next (triangle inequality): the drawn shares by exact ones, their
        sum by the discrete Gaussian of its variance, and that by the image of the continuous one.
        """
        return (
            self.shares * self.share.distance
            + convolution_distance(self.share_std, self.shares)
            + gaussian_distance(math.sqrt(self.shares) * self.share_std)
        )

    def concentrated_rho(self, sensitivity: float, *, length: int) -> float:
        """Return rho of zero-concentrated differential privacy for one release of ``length`` coordinates.

        Rho adds up over releases (Bun and Steinke 2016, lemma 2.3). The bound is Kairouz, Liu and Steinke (2021),
        proposition 14, whose

            alpha x^2 / 2 + tau d    and    (alpha / 2) (x^2 + 2 x_1 tau + tau^2 d)

        bound the Renyi divergence of every order alpha > 1, with x and x_1 the Euclidean and the absolute sensitivity
        over the total's standard deviation. As alpha > 1, the first is at most (alpha / 2) (x^2 + 2 tau d). Their
        third bound, (alpha / 2) (x + tau sqrt(d))^2, is never below the second. Here d is ``length``.

        Holds for exact draws: the distance of the sampler must be paid for by :func:`reduced_delta`.

        Raises:
            PlanError: if the sensitivity is not positive or there is no coordinate.
        """
        if not (sensitivity > 0 and length >= 1):
            raise PlanError(f"a release needs a positive sensitivity and length, got {sensitivity:g} and {length}")
        std = math.sqrt(self.shares) * self.share_std
        x, tau = sensitivity / std, self.tau
        # Of integers, abs(v) <= v^2; of any numbers, Cauchy and Schwarz.
        x_1 = sensitivity * min(sensitivity, math.sqrt(length)) / std
        return min(x**2 + 2.0 * tau * length, x**2 + 2.0 * x_1 * tau + tau**2 * length) / 2.0

    @property
    def tau(self) -> float:
        """How far the total is from one discrete Gaussian (Kairouz, Liu and Steinke 2021, theorem 1, std >= 1/2)."""
        exponent = -2.0 * (math.pi * self.share_std) ** 2
        return 10.0 * math.fsum(math.exp(exponent * k / (k + 1)) for k in range(1, self.shares))


def convolution_distance(share_std: float, shares: int) -> float:
    """Return a bound on the total variation between the sum of ``shares`` N_Z(0, share_std^2) and N_Z of its variance.

    Replace the sum of the first k + 1 shares, where the first k are already one discrete Gaussian of variance k s^2, by
    one of variance (k + 1) s^2: :func:`fedmarket.privacy.discrete.sum_distance` bounds what that costs, with smoothness
    s^2 k / (k + 1). Adding the remaining shares cannot enlarge a distance, so the steps add up. Kairouz, Liu and
    Steinke (2021) bound the same sum, with the same exponents, in the largest log-ratio of probabilities.
    """
    return math.fsum(sum_distance(share_std**2 * k / (k + 1)) for k in range(1, shares))


def gaussian_distance(std: float) -> float:
    """Return a bound on the total variation between N_Z(q, std^2) and the image of N(q, std^2 - SMOOTHING).

    Here q is an integer: the coordinate of the rounded sum. The image of a real y is an integer z drawn with a
    probability in proportion to exp(-(z - y)^2 / (2 SMOOTHING)) (Peikert 2010); no data enters, so this is
    post-processing. The sum that makes these into probabilities is sqrt(2 pi SMOOTHING), times 1 - r to 1 + r with
    r = ripple(SMOOTHING), whatever y is. Without that ripple, z would have exactly the density of N(q, std^2) as its
    probability; with it, at least the density over 1 + r. And N_Z(q, std^2)(z) is at most the density, since the
    densities at all integers add up to 1 or more. So no probability under N_Z exceeds that of the image by more than
    the share 1 - 1 / (1 + r) <= r of itself, and the total variation is at most r.

    Rounding N(q, std^2) to the nearest integer instead is off by 0.02 / std^2, which over a million coordinates can be
    more than delta bears.

    Guarantees:
        1, which is always true, where std^2 < SMOOTHING.
    """
    return ripple(SMOOTHING) if std**2 >= SMOOTHING else 1.0


def added_delta(epsilon: float, distance: float) -> float:
    """Return by how much delta grows at ``epsilon`` when a mechanism is replaced by one within ``distance`` of it.

    If M is within eta of M' in total variation on every data set and M' is (epsilon, delta')-private, then for
    neighbours D, E and any set S of outputs

        P(M(D) in S) <= P(M'(D) in S) + eta <= e^epsilon P(M'(E) in S) + delta' + eta
                     <= e^epsilon (P(M(E) in S) + eta) + delta' + eta.

    >>> added_delta(0.0, 1e-12)
    2e-12
    """
    return distance * (1.0 + math.exp(epsilon)) if epsilon < 700 else math.inf


def reduced_delta(delta: float, *, epsilon: float, distance: float) -> float:
    """Return the delta at which the stand-in must be ``epsilon``-private for the real mechanism to be so at ``delta``.

    ``distance`` is that of the whole run: distances add up over coordinates and releases, also when a release is chosen
    after the earlier ones were seen (replace one release after the other by its stand-in; each replacement changes the
    rest of the run by no more than its own distance, because the rest is computed from it).

    Raises:
        PlanError: if nothing of ``delta`` is left.
    """
    left = delta - added_delta(epsilon, distance)
    if not 0 < left < 1:
        raise PlanError(f"delta {delta:g} does not pay for a distance of {distance:.3g} at epsilon {epsilon:g}")
    return left


def concentrated_epsilon(rho: float, delta: float) -> float:
    """Return epsilon at ``delta`` of rho-zCDP, at the best Renyi order.

    Canonne, Kamath and Steinke (2020), proposition 12, with the divergence rho alpha of Bun and Steinke (2016). Every
    order gives a true bound, so one that is found only nearly costs tightness and not truth.

    Raises:
        PlanError: if rho is negative or delta is not between 0 and 1.

    >>> round(concentrated_epsilon(0.5, 1e-5), 2)
    4.73
    """
    if not (0 <= rho < math.inf and 0 < delta < 1):
        raise PlanError(f"zCDP needs rho of 0 or more and delta between 0 and 1, got {rho:g} and {delta:g}")
    if rho == 0:
        return 0.0

    def bound(log_excess: float) -> float:
        excess = math.exp(log_excess)  # the order less one
        return rho * (1 + excess) - math.log(delta * (1 + excess)) / excess - math.log1p(1 / excess)

    guess = math.log(-math.log(delta) / rho) / 2
    return max(0.0, float(minimize_scalar(bound, bounds=(guess - 6, guess + 6), method="bounded").fun))
