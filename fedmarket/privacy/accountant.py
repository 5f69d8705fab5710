"""From privacy events to epsilon: two accountants that must agree, of which the larger is reported.

One is the privacy-loss distribution of dp-accounting (Koskela et al. 2020; Doroshenko et al. 2022, pessimistic). The
other, independent of it, is the exact formula where every batch is full (Balle and Wang 2018, composed after Dong et
al. 2022), and elsewhere Opacus' PRV accountant (Gopi et al. 2021, its own error bound of 0.01 included). RDP is up to
several times looser at small sample rates, and the central-limit accountant errs below the truth: neither is used.
"""

import math
import warnings
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np
from dp_accounting import dp_event
from dp_accounting.pld.pld_privacy_accountant import PLDAccountant
from scipy.optimize import brentq
from scipy.special import log_ndtr

from fedmarket.errors import PlanError
from fedmarket.privacy.distributed import reduced_delta

Adjacency = Literal["add-or-remove-one", "replace-one"]

PRV_ERROR = 0.01
"""Error bound on epsilon that the PRV accountant is asked for, and adds to what it returns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """``count`` uses of a Gaussian mechanism on a Poisson sample; noise in units of its sensitivity."""

    noise_multiplier: float
    sample_rate: float
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What was spent at ``delta``: the larger epsilon, and what each accountant found, by name."""

    epsilon: float
    delta: float
    accountants: dict[str, float]


def spent(events: tuple[Event, ...], *, delta: float, adjacency: Adjacency, distance: float = 0.0) -> Spent:
    """Return the epsilon of all ``events`` composed.

    ``distance`` is the total variation between what really happens in the whole run and a function of the events; it is
    paid for out of delta (:func:`fedmarket.privacy.distributed.reduced_delta`).

    Raises:
        PlanError: if an event is none that the accountants know, or they differ by more than 0.02 + 1 %.
    """
    whole = _spent(events, delta, adjacency)
    if not distance or math.isinf(whole.epsilon):
        return whole
    promised = 1.001 * whole.epsilon + 0.001
    found = _spent(events, reduced_delta(delta, epsilon=promised, distance=distance), adjacency)
    if not found.epsilon <= promised:
        raise PlanError(f"delta {delta:g} does not pay for a distance of {distance:.3g}; a finer grid is needed")
    return replace(found, delta=delta)


def one_accountant(events: tuple[Event, ...], *, delta: float, adjacency: Adjacency) -> float:
    """Return an upper bound on epsilon by privacy-loss distributions alone, for statements beside a promise."""
    return pld_epsilon(under(events, adjacency), delta)


def _spent(events: tuple[Event, ...], delta: float, adjacency: Adjacency) -> Spent:
    if not events:
        return Spent(epsilon=0.0, delta=delta, accountants={})
    known = under(events, adjacency)
    if any(event.noise_multiplier == 0 for event in known):
        return Spent(epsilon=math.inf, delta=delta, accountants={})
    full_batch = all(event.sample_rate == 1 for event in known)
    name, second = ("exact", exact_epsilon(known, delta)) if full_batch else ("prv", prv_epsilon(known, delta))
    pld = pld_epsilon(known, delta)
    if not abs(pld - second) <= 0.02 + 0.01 * max(pld, second):
        raise PlanError(
            f"accountants disagree: PLD finds epsilon {pld:.4f}, {name.upper()} {second:.4f}; no epsilon is claimed"
        )
    return Spent(epsilon=max(pld, second), delta=delta, accountants={"pld": pld, name: second})


def under(events: tuple[Event, ...], adjacency: Adjacency) -> tuple[Event, ...]:
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
def pld_epsilon(events: tuple[Event, ...], delta: float) -> float:
    """Return an upper bound on epsilon by dp-accounting's privacy-loss distributions."""
    accountant = PLDAccountant()
    for event in events:
        gaussian = dp_event.GaussianDpEvent(event.noise_multiplier)
        step = gaussian if event.sample_rate == 1 else dp_event.PoissonSampledDpEvent(event.sample_rate, gaussian)
        accountant.compose(step, event.count)
    return float(accountant.get_epsilon(delta))


@lru_cache(maxsize=1024)
def prv_epsilon(events: tuple[Event, ...], delta: float) -> float:
    """Return an upper bound on epsilon by Opacus' PRV accountant; needs the ``train`` extra.

    Raises:
        PlanError: if Opacus is not installed or its accountant fails on these events.
    """
    try:
        from opacus.accountants import PRVAccountant  # noqa: PLC0415 - torch must not load for a light install
    except ImportError:
        raise PlanError("the second accountant needs Opacus: pip install 'fedmarket[train]'") from None
    accountant = PRVAccountant()
    accountant.history = [(event.noise_multiplier, event.sample_rate, event.count) for event in events]
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            return float(accountant.get_epsilon(delta, eps_error=PRV_ERROR))
    except (ValueError, RuntimeError, FloatingPointError) as error:
        raise PlanError(f"the PRV accountant failed ({type(error).__name__}); no epsilon is claimed") from None


def exact_epsilon(events: tuple[Event, ...], delta: float) -> float:
    """Return the epsilon of full batches: of Gaussian mechanisms mu squared adds up (Dong et al. 2022, cor. 3.3)."""
    return gaussian_epsilon(math.sqrt(sum(event.count / event.noise_multiplier**2 for event in events)), delta)


def gaussian_epsilon(mu: float, delta: float) -> float:
    """Return the exact epsilon of mu-GDP at ``delta`` (Balle and Wang 2018, theorem 8; Dong et al. 2022).

    >>> round(gaussian_epsilon(1.0, 1e-5), 2)
    4.38
    """
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
