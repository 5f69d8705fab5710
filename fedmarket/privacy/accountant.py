"""From privacy events to epsilon: two accountants that must agree, of which the larger is reported.

One is the privacy-loss distribution of dp-accounting (Koskela et al. 2020; Doroshenko et al. 2022, pessimistic). The
other, independent of it, is the exact formula where every batch is full (Balle and Wang 2018, composed after Dong et
al. 2022), and elsewhere the PRV accountant of its authors (Gopi et al. 2021, its own error bound of 0.01 included). RDP
is up to several times looser at small sample rates, and the central-limit accountant errs below the truth: neither is
used.

Each accountant alone is an upper bound. :func:`spent` asks both; :func:`weighed`, which only has a cap to keep, asks
the second only near the cap or beyond it.
"""

import math
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution, from_gaussian_mechanism, identity
from prv_accountant import GaussianMechanism, PoissonSubsampledGaussianMechanism
from prv_accountant.accountant import compute_safe_domain_size
from prv_accountant.composers import Heterogeneous
from prv_accountant.discretisers import CellCentred
from prv_accountant.domain import Domain
from scipy.optimize import brentq
from scipy.special import log_ndtr

from fedmarket.arrays import AnyArray, FloatArray
from fedmarket.errors import PlanError
from fedmarket.privacy.distributed import reduced_delta

Adjacency = Literal["add-or-remove-one", "replace-one"]
Accountant = Literal["pld", "prv", "exact"]

PRV_ERROR = 0.01
"""Error bound on epsilon that the PRV accountant is asked for, and adds to what it returns."""

FINEST_GRID = 2**23
"""Most points of the PRV accountant's grid, and a quarter of those of all its losses: more would take gigabytes."""

BLOCK = 8
"""How many uses of a sampled mechanism are composed at once in a run that goes on."""

LARGEST_MU = 1e6
"""Beyond this float64 has no digits left for an exact epsilon, which is in the hundreds of billions."""

APART, APART_SHARE = 0.02, 0.01
"""By how much two accountants may differ: so much, and so large a share of the larger epsilon."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """``count`` uses of a Gaussian mechanism on a Poisson sample; noise in units of its sensitivity."""

    noise_multiplier: float
    sample_rate: float
    count: int


Events = tuple[Event, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What was spent at ``delta``: the larger epsilon, and what each accountant that was asked found, by name."""

    epsilon: float
    delta: float
    accountants: dict[str, float]


def spent(events: Events, *, delta: float, adjacency: Adjacency, distance: float = 0.0) -> Spent:
    """Return the epsilon of all ``events`` composed.

    ``distance`` is the total variation between what really happens in the whole run and a function of the events; it is
    paid for out of delta (:func:`fedmarket.privacy.distributed.reduced_delta`).

    Raises:
        PlanError: if an event is none that the accountants know, or they differ by more than 0.02 + 1 %.
    """
    known = under(events, adjacency)
    if (bare := _without_accountants(known)) is not None:
        return Spent(epsilon=bare, delta=delta, accountants={})
    found: dict[str, float] = {name: _figure(name, known, delta, distance) for name in accountants_for(known)}
    first, second = found.values()
    if not abs(first - second) <= APART + APART_SHARE * max(first, second):
        words = ", ".join(f"{name.upper()} finds epsilon {epsilon:.4f}" for name, epsilon in found.items())
        raise PlanError(f"accountants disagree: {words}; no epsilon is claimed")
    return Spent(epsilon=max(first, second), delta=delta, accountants=found)


def weighed(events: Events, *, delta: float, adjacency: Adjacency, distance: float = 0.0, cap: float) -> Spent:
    """Return a bound on epsilon that tells whether ``cap`` is kept: by both accountants only where that takes both.

    The first one is asked always, the second unless it could be beyond the cap in a disagreement only.

    Guarantees:
        If it is not beyond the cap, :func:`spent` is not beyond it either, or refuses to say.

    Raises:
        PlanError: see :func:`spent`.
    """
    known = under(events, adjacency)
    if _without_accountants(known) is None:
        name, _ = accountants_for(known)
        first = _figure(name, known, delta, distance)
        if (first + APART) / (1 - APART_SHARE) <= cap:
            return Spent(epsilon=first, delta=delta, accountants={name: first})
    return spent(events, delta=delta, adjacency=adjacency, distance=distance)


def one_accountant(events: Events, *, delta: float, adjacency: Adjacency, distance: float = 0.0) -> float:
    """Return an upper bound on epsilon by one accountant, for searches and for statements beside a promise.

    The faster of the two, and with its error bound hardly ever the lower one: the exact formula or PRV.

    Raises:
        PlanError: if an event is none that it knows.
    """
    known = under(events, adjacency)
    if (bare := _without_accountants(known)) is not None:
        return bare
    return _figure("exact" if "exact" in accountants_for(known) else "prv", known, delta, distance)


def accountants_for(events: Events) -> tuple[Accountant, Accountant]:
    """Return the names of the two accountants of ``events``, the one that is asked first in front."""
    return ("exact", "pld") if all(event.sample_rate == 1 for event in events) else ("pld", "prv")


def _without_accountants(events: Events) -> float | None:
    """Return epsilon where nobody has to compute: nothing was released, or something without noise."""
    if not events:
        return 0.0
    return math.inf if any(event.noise_multiplier == 0 for event in events) else None


def _figure(name: Accountant, events: Events, delta: float, distance: float) -> float:
    """Return what one accountant finds; each pays for ``distance`` by its own figure."""
    whole = _figure_of(name, events, delta)
    if not distance or math.isinf(whole):
        return whole
    promised = 1.001 * whole + 0.001
    found = _figure_of(name, events, reduced_delta(delta, epsilon=promised, distance=distance))
    if not found <= promised:
        raise PlanError(f"delta {delta:g} does not pay for a distance of {distance:.3g}; a finer grid is needed")
    return found


def _figure_of(name: Accountant, events: Events, delta: float) -> float:
    try:
        match name:
            case "exact":
                return exact_epsilon(events, delta)
            case "pld":
                return pld_epsilon(events, delta)
            case "prv":
                return prv_epsilon(events, delta)
    except (ValueError, RuntimeError, ArithmeticError, AssertionError, IndexError) as failure:
        said = f"the {name.upper()} accountant failed ({type(failure).__name__}); no epsilon is claimed"
        raise PlanError(said) from None


def under(events: Events, adjacency: Adjacency) -> Events:
    """Return ``events`` checked, and rewritten for add-or-remove-one.

    Raises:
        PlanError: if an event is none that can be accounted under ``adjacency``.
    """
    return tuple(_under_add_or_remove(event, adjacency) for event in events)


def _under_add_or_remove(event: Event, adjacency: Adjacency) -> Event:
    """Check ``event`` and rewrite it for add-or-remove-one, under which both accountants work.

    Replacing a row moves a full-batch sum by at most twice the bound: a Gaussian mechanism with half the noise
    multiplier. For sampled batches that argument fails, so it is refused.
    """
    if not (event.noise_multiplier >= 0 and 0 < event.sample_rate <= 1 and event.count >= 1):
        raise PlanError(f"not an event that can be accounted: {event}")
    if adjacency == "add-or-remove-one":
        return event
    if event.sample_rate < 1:
        raise PlanError("a Poisson-sampled event cannot be accounted under replace-one")
    return Event(noise_multiplier=event.noise_multiplier / 2, sample_rate=1.0, count=event.count)


@lru_cache(maxsize=1024)
def pld_epsilon(events: Events, delta: float) -> float:
    """Return an upper bound on epsilon by dp-accounting's privacy-loss distributions."""
    parts = _parts(events)
    for end in range(100, len(parts), 100):  # so that no recursion goes deep
        _composed(parts[:end])
    return float(_composed(parts).get_epsilon_for_delta(delta))


def _parts(events: Events) -> Events:
    """Return ``events`` in parts whose losses are kept: of a run that goes on only the last one is new.

    All full batches are one Gaussian mechanism, as mu squared adds up (Dong et al. 2022, corollary 3.3).
    """
    sampled = [event for event in events if event.sample_rate < 1]
    whole = tuple(event for event in events if event.sample_rate == 1)
    one = (Event(noise_multiplier=1 / _mu(whole), sample_rate=1.0, count=1),) if whole else ()
    before, last = ((part for event in some for part in _blocks(event)) for some in (sampled[:-1], sampled[-1:]))
    return (*before, *one, *last)


def _blocks(event: Event) -> Events:
    """Return ``event`` as a multiple of BLOCK and a rest. Composition is pessimistic, so this stays a bound."""
    rest = event.count % BLOCK
    return tuple(replace(event, count=count) for count in (event.count - rest, rest) if count)


@lru_cache(maxsize=6)
def _composed(parts: Events) -> PrivacyLossDistribution:
    """Return the loss of ``parts``, one after the other."""
    return _composed(parts[:-1]).compose(_loss(parts[-1])) if parts else identity()


@lru_cache(maxsize=BLOCK + 4)
def _loss(part: Event) -> PrivacyLossDistribution:
    if part.sample_rate == 1:
        return from_gaussian_mechanism(part.noise_multiplier)
    if part.count > 1:
        return _loss(replace(part, count=1)).self_compose(part.count)
    return from_gaussian_mechanism(part.noise_multiplier, sampling_prob=part.sample_rate)


@lru_cache(maxsize=1024)
def prv_epsilon(events: Events, delta: float) -> float:
    """Return an upper bound on epsilon by the PRV accountant, on the grid of Gopi et al. (2021, theorem 5.5).

    Put together from the authors' parts, but for the mean of each loss (:class:`_Cut`).

    Raises:
        PlanError: if they need too large a grid.
    """
    counts, error = [event.count for event in events], delta / 1000
    with np.errstate(all="ignore"):
        losses = [_prv(event) for event in events]
        reach = compute_safe_domain_size(losses, counts, eps_error=PRV_ERROR, delta_error=error)
        step = PRV_ERROR / math.sqrt(sum(counts) / 2 * math.log(12 / error))
        if not 2 * reach / step * max(1, len(losses) / 4) <= FINEST_GRID:
            raise PlanError(f"the PRV accountant needs a grid of more than {FINEST_GRID} points for these events")
        grid = Domain.create_aligned(-reach, reach, step)
        cut = [_Cut(loss=loss, low=float(grid.t_min()), high=float(grid.t_max())) for loss in losses]
        composed = Heterogeneous([CellCentred().discretise(loss, grid) for loss in cut])
        return float(composed.compute_composition(counts).compute_epsilon(delta, error, PRV_ERROR)[2])


def _prv(event: Event) -> Any:
    """Return the authors' privacy-loss variable of one use; theirs is in long doubles, several times slower."""
    if event.sample_rate == 1:
        return GaussianMechanism(event.noise_multiplier)
    loss = PoissonSubsampledGaussianMechanism(event.sample_rate, event.noise_multiplier)
    loss.p, loss.sigma = event.sample_rate, event.noise_multiplier
    return loss


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cut:
    """A privacy loss within the reach of a grid, as the authors' discretiser reads it.

    Their own integrates the mean in eleven pieces that miss narrow losses, at times unnoticed. Here the pieces shrink
    towards 0 and the least loss, log(1 - sample rate), which is all that a loss can be narrow around.
    """

    loss: Any
    low: float
    high: float
    pm_inf: float = 0.0

    def probability(self, start: AnyArray, end: AnyArray) -> FloatArray:
        """Return the probability of each interval."""
        return self._cdf(end) - self._cdf(start)

    def mean(self) -> float:
        """Return the mean, by parts: what is integrated is the distribution function."""
        least = math.log1p(-float(getattr(self.loss, "p", 0.0)))
        away = np.geomspace(1e-9, self.high - self.low, 300)
        edges = np.concatenate([[self.low, 0.0, self.high], away, -away, least + away])
        edges = np.unique(np.clip(edges, self.low, self.high))
        half, middle = np.diff(edges)[:, None] / 2, (edges[1:] + edges[:-1])[:, None] / 2
        nodes, weights = np.polynomial.legendre.leggauss(10)
        return self.high - float(np.sum(half * self._cdf(middle + half * nodes) * weights))

    def _cdf(self, loss: AnyArray) -> FloatArray:
        below, most = (self.loss.cdf(np.float64(end)) for end in (self.low, self.high))
        within = np.clip(np.asarray(loss, dtype=np.float64), self.low, self.high)
        return np.asarray((self.loss.cdf(within) - below) / (most - below), dtype=np.float64)


@lru_cache(maxsize=4096)
def exact_epsilon(events: Events, delta: float) -> float:
    """Return the epsilon of full batches: of Gaussian mechanisms mu squared adds up (Dong et al. 2022, cor. 3.3)."""
    return gaussian_epsilon(_mu(events), delta)


def _mu(events: Events) -> float:
    """Return mu of full batches; no square of theirs is made, which could be beyond all numbers."""
    return math.hypot(*(math.sqrt(event.count) / event.noise_multiplier for event in events))


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Return the exact epsilon of mu-GDP at ``delta`` (Balle and Wang 2018, theorem 8; Dong et al. 2022).

    >>> round(gaussian_epsilon(1.0, 1e-5), 2)
    4.38
    """
    if not mu <= LARGEST_MU:
        return math.inf
    if gaussian_delta(0.0, mu) <= delta:
        return 0.0
    high = 1.0
    while gaussian_delta(high, mu) > delta:
        high *= 2
    return float(brentq(lambda epsilon: gaussian_delta(epsilon, mu) - delta, 0.0, high, xtol=1e-12))


def gaussian_delta(epsilon: float, mu: float) -> float:
    """Return the exact delta of mu-GDP at ``epsilon``."""
    upper = np.exp(log_ndtr(mu / 2 - epsilon / mu))
    return float(upper - np.exp(epsilon + log_ndtr(-mu / 2 - epsilon / mu)))


def gaussian_mu(epsilon: float, delta: float) -> float:
    """Return the mu whose exact epsilon at ``delta`` is ``epsilon``."""
    low, high = 1e-9, 1.0
    while gaussian_epsilon(high, delta) < epsilon:
        high *= 2
    return float(brentq(lambda mu: gaussian_epsilon(mu, delta) - epsilon, low, high, xtol=1e-12))
