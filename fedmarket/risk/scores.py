"""How likely each canary took part, as different attackers would say; higher means likelier.

Each score is a function of what was seen and of public facts, never of the coins. Without noise all are certain or
nearly so, which :mod:`fedmarket.risk.gate` asks of them before it believes that they found nothing.

* ``updates``: the likelihood ratio of a Gaussian mechanism on a Poisson sample. Each round's noisy sum in the canary's
  own places is weighted by what the canary would add there, and the rounds' log-ratios add up. Seen is a party's own
  update where its noise is to be enough alone, and else the sum of as many parties' updates as the plan counts on:
  other shares of noise are presumed known to whoever looks.
* ``model``: what the canary's own parameters moved in the released model, by the gradient that it has there.
* ``again``: the same ratio of the difference to a second run without canaries. Where noise follows from a seed that
  somebody knows or that comes back, it is gone from the difference.
* ``rounds``: the same ratio of the difference of those two rounds that differ least. Where noise is used twice it is
  gone there. A canary tells itself by this only if it adds something else in one round than in the other: where batches
  are sampled, or its gradient turns. Of a linear model on full batches its clipped gradient stays as it was; the noise
  of such rounds is then one noise, and hides as much as it hides once.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import logsumexp

from fedmarket.arrays import FloatArray
from fedmarket.models.state import ModelState
from fedmarket.risk.canaries import Twin
from fedmarket.risk.replica import Seen

SCORES = {
    "updates": "every round's noisy sum",
    "model": "the released model alone",
    "again": "every round's noisy sum, less that of a second run",
    "rounds": "the difference of the two rounds that are nearest to each other",
}
"""The scores, and what their attacker looks at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What there is to see in the canaries' own places: T rounds, first-layer units, m canaries.

    Attributes:
        seen: noisy sums, (T, units, m).
        expected: what each canary would add if it took part, (T, units, m).
        variance: of the noise on each number that the plan promises to whoever sees this.
        sample_rate: with which an included canary takes part in a round.
        moved: what the released model's parameters moved in training, (units, m).
        pull: gradients of the canaries at the released model, (units, m).
    """

    seen: FloatArray
    expected: FloatArray
    variance: float
    sample_rate: float
    moved: FloatArray
    pull: FloatArray


def look_at(twin: Twin, seen: Seen) -> Look:
    """Return what the observer whom the plan promises its epsilon against sees of a run of ``twin``."""
    mechanism, names = twin.terms.plan.mechanism("update"), [twin.watched]
    if mechanism.grid is not None:
        others = [name for name in sorted(seen.updates) if name != twin.watched]
        names += others[: mechanism.grid.shares - 1]
    sums = np.sum([seen.updates[name] for name in names], axis=0)
    expected = twin.expected((*seen.asked, seen.model))
    start: ModelState = seen.asked[0]
    return Look(
        seen=np.stack([twin.own(one, model) for one, model in zip(sums, seen.asked, strict=True)]),
        expected=expected[:-1],
        variance=len(names) * mechanism.noise_std**2 * twin.terms.releases_in("update"),
        sample_rate=mechanism.sample_rate,
        moved=twin.own(seen.model.parameters - start.parameters, seen.model),
        pull=expected[-1],
    )


def scores_of(look: Look, *, other: Look) -> dict[str, FloatArray]:
    """Return each score of all canaries, (m,), by the names of :data:`SCORES`.

    ``other`` is a look at a second run, in which no canary took part. A single round has no second one to differ from.
    """
    found = {
        "updates": _ratio(look.seen, look),
        "model": -np.sum(look.pull * look.moved, axis=0),
        "again": _ratio(look.seen - other.seen, look),
    }
    return found | ({"rounds": _nearest(look)} if len(look.seen) > 1 else {})


def _ratio(seen: FloatArray, look: Look) -> FloatArray:
    """Return the sum over rounds of log(1 - q + q exp(<seen, expected> - |expected|^2 / 2)), in units of the noise."""
    exponents = np.sum(look.expected * (seen - look.expected / 2), axis=1) / look.variance
    return np.asarray(_mixed([np.zeros_like(exponents), exponents], _chances(look.sample_rate)).sum(axis=0))


def _nearest(look: Look) -> FloatArray:
    """Return the log-ratio of the difference of two rounds: in neither, in one, in the other, in both.

    Its noise is taken to be no more than what is seen: promised noise that is gone would hide what it no longer hides.
    """
    first, second = _nearest_pair(look.seen)
    difference, one, other = look.seen[first] - look.seen[second], look.expected[first], look.expected[second]
    adds = (np.zeros_like(one), one, -other, one - other)
    variance = max(min(2 * look.variance, float(np.mean(difference**2))), 1e-6 * look.variance)
    exponents = [np.sum(added * (difference - added / 2), axis=0) / variance for added in adds]
    out, into = _chances(look.sample_rate)
    return _mixed(exponents, (out * out, into * out, out * into, into * into))


def _nearest_pair(seen: FloatArray) -> tuple[int, int]:
    """Return the two rounds with the least squared distance."""
    flat = seen.reshape(len(seen), -1)
    norms = np.sum(flat**2, axis=1)
    distances = norms[:, None] + norms[None] - 2 * flat @ flat.T
    distances[np.tril_indices(len(seen))] = np.inf
    first, second = np.unravel_index(int(np.argmin(distances)), distances.shape)
    return int(first), int(second)


def _chances(sample_rate: float) -> tuple[float, float]:
    return 1.0 - sample_rate, sample_rate


def _mixed(exponents: list[FloatArray], chances: tuple[float, ...]) -> FloatArray:
    """Return log(sum of chance times exp(exponent))."""
    weights = np.reshape(chances, (-1, *(1,) * exponents[0].ndim))
    return np.asarray(logsumexp(np.stack(exponents), axis=0, b=weights))
