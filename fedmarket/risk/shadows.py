"""Shadow runs: a whole federation run again and again, where some customers of one party take part by their own coins.

One set of runs gives the scores of every observer. With ``u_t`` what is seen in round t at the model that was asked
there, ``g_t`` the target's clipped gradient at that model, and noise of one size on every coordinate, the target moves
``u_t`` by ``g_t`` if it is in. Given all that came before, the rest ``r_t`` of ``u_t`` is the same in both cases, so
the logarithm of the likelihood ratio of a whole run of Gaussian mechanisms is ::

    sum_t (<u_t - r_t, g_t> - |g_t|^2 / 2) / std^2

The inner product is all that has the outcome in it (Nasr et al. 2021 attack private training so). ``r_t`` is the sum
over all other rows, and what is known of it makes the views differ:

* ``update`` and ``aggregate`` subtract nothing: ``sum_t <u_t, g_t> / sqrt(sum_t |g_t|^2)``, whose own noise has the
  same size for every target. Its mean and spread, by coin, are learned from the shadow runs;
* ``informed update`` and ``informed aggregate`` know every row but the targets, subtract their sum, and solve for all
  coins at once: with ``K`` the targets' inner products over all rounds and b those with what is left of ``u``, half of
  the targets' sum subtracted too, the linear guess of least squared error is ``1/2 + (K + 4 std^2)^-1 b``;
* ``model`` has the released model alone: Carlini et al. (2022) score the logit-scaled loss, ``log(p / (1 - p))`` of the
  label that is true; where a value is predicted, the negative loss takes its place.

Shadow runs hold all rows but the targets fixed. So every view is of an attacker who could make such runs, which is more
than a server knows; the informed ones use all of it. Not attacked: the centre and the recalibration, which are seen too
and have their own small shares of the privacy budget. Under sampling or several local steps the inner products are with
what a target adds on average and at first order; the ratio itself would be a mixture.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from fedmarket.arrays import FloatArray, RowNumbers
from fedmarket.errors import DataError, PlanError
from fedmarket.federation.party import Party
from fedmarket.federation.release import trained_on
from fedmarket.federation.rows import Rows
from fedmarket.federation.terms import Terms
from fedmarket.models.network import Network, load_vector, network_of, outputs_of
from fedmarket.models.prediction import log_odds_of
from fedmarket.models.start import Start
from fedmarket.models.state import ModelState
from fedmarket.privacy.noise import Stream
from fedmarket.risk.replica import Seen, noise_of, replica
from fedmarket.training.batch import Batch, one_thread
from fedmarket.training.gradients import Engine, Gradients, by_customer, engine_for, norms_of

View = Literal["model", "aggregate", "update", "informed aggregate", "informed update"]
VIEWS: tuple[View, ...] = get_args(View)

FEWEST_RUNS = 64
"""Shadow runs that are asked for: with fewer, Gaussians of each target's two cases are guesses."""

Flags = NDArray[np.bool_]

RunAll = Callable[[Callable[..., Any], Iterable[Any]], Iterable[Any]]
"""Like ``map``: applies a function to each of many tasks, in any process, and returns results in their order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """A federation in the open, and whose membership is in question.

    Attributes:
        terms: see :func:`fedmarket.risk.replica.in_the_open`.
        parties: all of them, under these terms.
        watched: the party that the targets are of.
        targets: (m,) numbers of customers, rising: places among the watched party's customers, which are its rows where
            each has one.
        start: the public starting parameters that the terms name.

    Raises:
        DataError: targets that do not rise, or are no customers of the watched party, or leave none beside them.
        PlanError: parties that would mask their sums.
    """

    terms: Terms
    parties: Mapping[str, Party] = field(repr=False)
    watched: str
    targets: RowNumbers = field(repr=False)
    start: Start | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Check that the targets are customers."""
        if self.terms.secagg != "ideal":
            raise PlanError("shadow runs: expected terms with sums in the open, got secure aggregation")
        if self.watched not in self.parties:
            raise DataError(f"watched: expected one of {len(self.parties)} parties, got {self.watched!r}")
        targets, customers = self.targets, int(self.places.max(initial=-1)) + 1
        if targets.ndim != 1 or not targets.size or np.any(np.diff(targets) <= 0):
            raise DataError(f"targets: expected distinct numbers in rising order, got shape {targets.shape}")
        if not (targets[0] >= 0 and targets[-1] < customers and len(targets) < customers):
            raise DataError(f"targets: expected some of {customers} customers, and not all, got {len(targets)}")

    @property
    def places(self) -> RowNumbers:
        """The customer of each row of the watched party, numbered from 0."""
        return places_of(self.parties[self.watched].rows)

    def rows(self, present: Flags) -> Rows:
        """Return the watched party's rows, of the targets those ``present`` (m,) alone."""
        return self.parties[self.watched].rows.taken(~np.isin(self.places, self.targets[~present]))

    @property
    def target_rows(self) -> Rows:
        """The rows of all targets."""
        return self.parties[self.watched].rows.taken(np.isin(self.places, self.targets))


@dataclass(frozen=True, slots=True, kw_only=True)
class Shadows:
    """What R runs with m targets gave.

    Attributes:
        coins: (R, m) who took part in which run.
        scores: for each view (R, m); larger means more likely in.

    Raises:
        DataError: fewer than :data:`FEWEST_RUNS` runs, or scores of another shape or that are no finite numbers.
    """

    coins: Flags = field(repr=False)
    scores: Mapping[View, FloatArray] = field(repr=False)

    def __post_init__(self) -> None:
        """Check shapes and numbers."""
        if self.coins.ndim != 2 or self.coins.dtype != np.bool_ or len(self.coins) < FEWEST_RUNS:
            raise DataError(f"coins: expected booleans of {FEWEST_RUNS} runs or more, got shape {self.coins.shape}")
        for view, scores in self.scores.items():
            if scores.shape != self.coins.shape or not np.isfinite(scores).all():
                raise DataError(f"{view}: expected {self.coins.shape} finite scores, got shape {scores.shape}")


def fair_coins(runs: int, targets: int, stream: Stream) -> Flags:
    """Return each target's own fair coin in each run, (runs, targets)."""
    return stream.coins(runs * targets, 0.5).reshape(runs, targets)


def shadows(watch: Watch, coins: Flags, *, run_all: RunAll = map) -> Shadows:
    """Run the federation once for each row of ``coins`` (R, m), and return the scores of every view.

    Args:
        watch: the federation and its targets.
        coins: of :func:`fair_coins`.
        run_all: how to apply a function to many tasks; ``map`` of a process pool spreads the runs, as each is alone.

    Guarantees:
        A party declares the same size in every run. Noise is new in every run, also where the plan's generator is the
        one for tests: the run's number moves its seeds.

    Raises:
        DataError: coins for other targets; fewer runs than :data:`FEWEST_RUNS`.
        FedmarketError: what would have ended a real run.
    """
    if coins.ndim != 2 or coins.shape[1] != len(watch.targets):
        raise DataError(f"coins: expected one for each of {len(watch.targets)} targets, got shape {coins.shape}")
    found = list(run_all(partial(shadow_run, watch), list(enumerate(coins))))
    return Shadows(coins=coins, scores={view: np.stack([one[view] for one in found]) for view in VIEWS})


def shadow_run(watch: Watch, task: tuple[int, Flags]) -> dict[View, FloatArray]:
    """Return every view's scores of the targets, (m,), from the run of this number with the targets that are present.

    A customer who is not present adds nothing anywhere, so with none present all scores are of other rows alone.
    """
    number, present = task
    parties = {name: replace(party, test_seed=party.test_seed + number) for name, party in watch.parties.items()}
    parties[watch.watched] = replace(parties[watch.watched], rows=watch.rows(present))
    seen = replica(watch.terms, parties, start=watch.start)
    return scores_of_run(watch, seen, others=sums_of_others(watch, parties, seen))


def scores_of_run(watch: Watch, seen: Seen, *, others: FloatArray | None = None) -> dict[View, FloatArray]:
    """Return every view's scores of the targets, (m,), from what a run showed.

    Args:
        watch: the federation and its targets.
        seen: of a run of it.
        others: the sums over all other parties' rows in each round, (T, p); where nobody took them down they are
            computed here, which takes as long as the run.
    """
    terms, count = watch.terms, len(watch.targets)
    network = network_of(terms.model, terms.width, terms.objective)
    mechanism, steps = terms.plan.mechanism("update"), terms.schedule.local_steps
    engine, gradients = engine_for(network), Gradients(network)
    targets = trained_on(terms, watch.target_rows, seen.asked[0])
    at = partial(_sum_at, gradients, mechanism.clip_norm)
    own = trained_on(terms, watch.rows(np.zeros(count, dtype=np.bool_)), seen.asked[0], lasting=True)
    if others is None:
        rest = trained_on(terms, _rows_of_others(watch), seen.asked[0], lasting=True)
        others = np.stack([at(asked, rest) for asked in seen.asked])
    part = mechanism.sample_rate * steps
    plain, informed = np.zeros((2, count)), np.zeros((2, count))
    products = np.zeros((count, count))
    for asked, update, total, other in zip(seen.asked, seen.updates[watch.watched], seen.totals, others, strict=True):
        each = clipped_gradients(engine, asked, targets, clip_norm=mechanism.clip_norm)
        known = at(asked, own) + each.sum(axis=0) / 2
        plain += np.stack([update, total]) @ each.T
        informed += np.stack([update - part * known, total - part * (known + other)]) @ each.T
        products += each @ each.T
    lengths = np.sqrt(np.maximum(np.diag(products), np.finfo(np.float64).tiny))
    variance = steps * mechanism.noise_std**2 * np.array([1, len(watch.parties)])
    return {
        "model": _said(watch, network, seen.model),
        "aggregate": plain[1] / lengths,
        "update": plain[0] / lengths,
        "informed aggregate": _solved(part**2 * products, part * informed[1], noise=variance[1]),
        "informed update": _solved(part**2 * products, part * informed[0], noise=variance[0]),
    }


def clipped_gradients(engine: Engine, asked: ModelState, batch: Batch, *, clip_norm: float) -> FloatArray:
    """Return each customer's gradient at ``asked``, clipped as its party clips it, (customers, p) float64.

    As in the sum, a gradient that is not finite is zero.
    """
    with one_thread():
        engine.load(torch.from_numpy(asked.parameters.astype(np.float32)))
        parts = engine(batch)
        parts = parts if batch.customers is None else by_customer(parts, batch.customers)
        norms = norms_of(parts)
        factors = (clip_norm / norms).clamp_(max=1.0)
        written = torch.cat([part.rows() for part in parts], dim=1) * factors[:, None]
        written[~norms.isfinite()] = 0.0
    return np.asarray(written.cpu().numpy(), dtype=np.float64)


def leverages(terms: Terms, rows: Rows, model: ModelState) -> FloatArray:
    """Return each customer's leverage among ``rows`` at ``model``, (customers,), between 0 and 1: how exposed it is.

    With G the customers' clipped gradients, (customers, p), that is the diagonal of ``G (G^T G)^+ G^T``, the hat values
    of Hoaglin and Welsch (1978) in the space of what is sent: the share of its own gradient that a customer explains
    alone, 1 where nobody else's sum could stand for it. Learners must remember such atypical examples, and these are
    the ones that attacks find (Feldman and Zhang 2020; Carlini et al. 2022).

    Args:
        terms: say how rows are scaled, weighted and clipped.
        rows: of one party.
        model: at which gradients are taken: the public start, or the released model of a run without attack.
    """
    engine = engine_for(network_of(terms.model, terms.width, terms.objective))
    clip_norm = terms.plan.mechanism("update").clip_norm
    batch = trained_on(terms, rows, model)
    each = [clipped_gradients(engine, model, chunk, clip_norm=clip_norm) for chunk in batch.chunks]
    values, vectors = np.linalg.eigh(np.sum([one.T @ one for one in each], axis=0))
    kept = values > values[-1] * 1e-10
    root = vectors[:, kept] / np.sqrt(values[kept])
    return np.concatenate([np.square(one @ root).sum(axis=1) for one in each])


def most_exposed(leverage: FloatArray, count: int) -> RowNumbers:
    """Return the places of the ``count`` largest, rising."""
    if not 0 < count <= len(leverage):
        raise DataError(f"expected between 1 and {len(leverage)} customers, got {count}")
    return np.sort(np.argsort(-leverage, kind="stable")[:count])


def places_of(rows: Rows) -> RowNumbers:
    """Return the customer of each row, numbered from 0 in the order of the rows, (n,)."""
    if rows.customers is None:
        return np.arange(len(rows.targets))
    return np.asarray(np.unique(rows.customers, return_inverse=True)[1], dtype=np.int64)


def _sum_at(gradients: Gradients, clip_norm: float, asked: ModelState, batch: Batch) -> FloatArray:
    return gradients.clipped_sum(asked.parameters, batch, clip_norm=clip_norm)


def sums_of_others(watch: Watch, parties: Mapping[str, Party], seen: Seen) -> FloatArray | None:
    """Return what the other parties sent without their noise, (T, p): the sums over their rows, as they computed them.

    None where a round is not one sum over all rows, or the noise cannot be drawn again.
    """
    terms = watch.terms
    mechanism = terms.plan.mechanism("update")
    again = terms.plan.generator == "seeded-for-tests" or not mechanism.noise_multiplier
    if mechanism.sample_rate != 1 or terms.schedule.local_steps != 1 or not again:
        return None
    others = [name for name in parties if name != watch.watched]
    noise = np.sum([noise_of(parties[name], seen) for name in others], axis=0)
    return np.asarray(seen.totals - seen.updates[watch.watched] - noise)


def _rows_of_others(watch: Watch) -> Rows:
    """Return the rows of all other parties, their customers kept apart."""
    others = [party.rows for name, party in sorted(watch.parties.items()) if name != watch.watched]
    customers, beyond = None, 0
    if watch.parties[watch.watched].rows.customers is not None:
        apart = []
        for rows in others:
            apart.append(places_of(rows) + beyond)
            beyond = int(apart[-1].max(initial=beyond - 1)) + 1
        customers = np.concatenate([*apart, np.zeros(0, dtype=np.int64)])
    none = watch.target_rows.taken(np.zeros(0, dtype=np.int64))
    return Rows(
        features=np.concatenate([rows.features[:] for rows in (none, *others)]),
        targets=np.concatenate([rows.targets for rows in (none, *others)]),
        customers=customers,
    )


def _solved(products: FloatArray, inner: FloatArray, *, noise: float) -> FloatArray:
    """Return the guess of all coins; without noise, customers who cannot be told apart share what is left."""
    ridge = 4.0 * noise + 1e-9 * float(np.trace(products)) / len(products) + np.finfo(np.float64).tiny
    return np.asarray(0.5 + np.linalg.solve(products + ridge * np.eye(len(products)), inner))


def _said(watch: Watch, network: Network, model: ModelState) -> FloatArray:
    """Return how well the released model knows each target, (m,): the mean over a customer's rows."""
    terms, rows = watch.terms, watch.target_rows
    load_vector(network, model.parameters)
    batch = trained_on(terms, rows, model)
    with one_thread():
        outputs = outputs_of(network, batch.features)
    if terms.objective.value is None:
        log_odds = log_odds_of(terms.objective, outputs, model.calibration)[:, 0]
        score = np.where(rows.targets[:, 0] > 0, log_odds, -log_odds)
    else:
        lost = terms.objective.losses(torch.from_numpy(outputs), batch.targets.double())
        score = np.asarray(-lost.numpy(), dtype=np.float64)
    place = places_of(rows)
    return np.asarray(np.bincount(place, weights=score) / np.bincount(place), dtype=np.float64)
