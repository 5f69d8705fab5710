"""Attribute inference: one column of a customer, guessed from all others, with and without what a run showed.

The attacker knows all other columns and the targets of a customer who is known to take part. What it would guess from
the population alone, by the conditional distribution of the column (imputation), is the baseline: most of what looks
like a leak is this, and a model's part is what is right beyond it (Jayaraman and Evans 2022). Three views add to it:

* ``model``: the released model, by its likelihood of the targets under each candidate (Fredrikson et al. 2014), times a
  distribution of the column given the other columns alone;
* ``informed update`` and ``informed aggregate``: an attacker who knows all other rows subtracts their sum in every
  round, and takes each candidate's gradient for what is left, with noise of the size that the terms say. The logarithm
  of the likelihood is ``sum_t (<r_t, g_t> - |g_t|^2 / 2) / std^2`` (:mod:`fedmarket.risk.shadows`), and is added to
  that of the imputation. No attacker on the updates knows more; what a server knows is less.

Intervals are for customers like the targets, drawn at random from the party, and given the run that was seen: the noise
of one run is in all of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fedmarket.arrays import FeatureArray, FloatArray, RowNumbers
from fedmarket.attacks.rates import Interval, rates_at, scores_of
from fedmarket.contract.layout import Layout, Slots
from fedmarket.errors import DataError
from fedmarket.federation.party import Party
from fedmarket.federation.release import trained_on
from fedmarket.federation.rows import Rows
from fedmarket.models.network import load_vector, network_of, outputs_of
from fedmarket.risk.cells import FAINT, is_category
from fedmarket.risk.means import mean_of
from fedmarket.risk.replica import Seen
from fedmarket.risk.shadows import clipped_gradients
from fedmarket.training.batch import one_thread
from fedmarket.training.gradients import Gradients, engine_for

AttributeView = Literal["model", "informed aggregate", "informed update"]
ATTRIBUTE_VIEWS: tuple[AttributeView, ...] = get_args(AttributeView)


@dataclass(frozen=True, slots=True, kw_only=True)
class Guesses:
    """The share of targets whose cell is guessed, and by how much more than from the population.

    Attributes:
        imputed: right from the population alone, given all other columns and the targets.
        frequent: right if everybody has the most frequent word.
        found: right with each view.
        gain: right with each view less right without, of the same customers, from -1 to 1.
    """

    column: str
    targets: int
    imputed: Interval
    frequent: Interval
    found: Mapping[AttributeView, Interval]
    gain: Mapping[AttributeView, Interval]


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret:
    """Whose cell of which column is guessed.

    Attributes:
        layout: of the encoded rows.
        column: the name of a column of words.
        reference: rows of the population that the attacker has, none of them of the party.
        targets: (m,) rows of the watched party, drawn at random.
    """

    layout: Layout
    column: str
    reference: Rows = field(repr=False)
    targets: RowNumbers = field(repr=False)

    @property
    def slots(self) -> Slots:
        """Where the column is.

        Raises:
            DataError: if there is no such column of words.
        """
        for slots in self.layout.slots:
            if slots.column.name == self.column and is_category(slots):
                return slots
        raise DataError(f"column {self.column!r}: expected a column of words of the contract")


def attribute_inference(
    secret: Secret, seen: Seen, parties: Mapping[str, Party], *, watched: str, confidence: float
) -> Guesses:
    """Return how often the secret column of the targets is guessed after the run of ``parties`` that was ``seen``.

    Raises:
        DataError: no such column, targets that are no rows of the watched party, customers with several rows, or a
            reference in which everybody has the same word.
    """
    slots, rows = secret.slots, parties[watched].rows
    _need_usable(secret, rows)
    owned = np.isin(np.arange(len(rows.targets)), secret.targets)
    own = rows.taken(owned)
    true = own.features[:][:, slots.start : slots.stop].argmax(axis=1)
    inferred = _imputed(secret, own, told=True)
    logarithms = {
        "model": _imputed(secret, own, told=False) + _by_model(secret, seen, own),
        **{view: inferred + found for view, found in _by_updates(secret, seen, parties, watched, own).items()},
    }
    right = {view: logarithms[view].argmax(axis=1) == true for view in ATTRIBUTE_VIEWS}
    alone = inferred.argmax(axis=1) == true
    frequent = int(secret.reference.features[:][:, slots.start : slots.stop].sum(axis=0).argmax())
    return Guesses(
        column=secret.column,
        targets=len(true),
        imputed=_share(alone, confidence),
        frequent=_share(true == frequent, confidence),
        found={view: _share(right[view], confidence) for view in ATTRIBUTE_VIEWS},
        gain={
            view: mean_of(right[view] * 1.0 - alone, lower=-1.0, upper=1.0, confidence=confidence)
            for view in ATTRIBUTE_VIEWS
        },
    )


def _imputed(secret: Secret, own: Rows, *, told: bool) -> FloatArray:
    """Return the logarithm of each word's probability, (m, words), given the other columns, and the targets if told."""
    slots = secret.slots
    known = [_others(rows, slots, told=told) for rows in (secret.reference, own)]
    words = secret.reference.features[:][:, slots.start : slots.stop].argmax(axis=1)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000)).fit(known[0], words)
    found = np.full((len(own.targets), slots.stop - slots.start), FAINT)
    found[:, model.classes_] += model.predict_proba(known[1])
    return np.asarray(np.log(found))


def _others(rows: Rows, slots: Slots, *, told: bool) -> FeatureArray:
    parts = [rows.features[:][:, : slots.start], rows.features[:][:, slots.stop :]]
    return np.concatenate([*parts, np.log1p(rows.targets)] if told else parts, axis=1)


def _candidates(secret: Secret, own: Rows) -> Rows:
    """Return each target with each word, (m * words) rows."""
    slots = secret.slots
    words = slots.stop - slots.start
    features = np.repeat(own.features[:], words, axis=0)
    features[:, slots.start : slots.stop] = np.tile(np.eye(words, dtype=np.float32), (len(own.targets), 1))
    return Rows(features=features, targets=np.repeat(own.targets, words, axis=0))


def _by_model(secret: Secret, seen: Seen, own: Rows) -> FloatArray:
    """Return the logarithm of the likelihood of the targets under each word, (m, words)."""
    terms = seen.terms
    network = network_of(terms.model, terms.width, terms.objective)
    load_vector(network, seen.model.parameters)
    batch = trained_on(terms, _candidates(secret, own), seen.model)
    with one_thread():
        outputs = torch.from_numpy(outputs_of(network, batch.features))
        lost = terms.objective.losses(outputs, batch.targets.double())
    return -np.asarray(lost.numpy(), dtype=np.float64).reshape(len(own.targets), -1)


def _by_updates(
    secret: Secret, seen: Seen, parties: Mapping[str, Party], watched: str, own: Rows
) -> dict[AttributeView, FloatArray]:
    """Return the logarithms of the likelihoods of the party's updates and of the totals, (m, words) each."""
    terms, first = seen.terms, seen.asked[0]
    mechanism, steps = terms.plan.mechanism("update"), terms.schedule.local_steps
    network, part = network_of(terms.model, terms.width, terms.objective), mechanism.sample_rate * steps
    engine, gradients = engine_for(network), Gradients(network)
    batches = {name: trained_on(terms, party.rows, first, lasting=True) for name, party in parties.items()}
    each = trained_on(terms, _candidates(secret, own), first)
    truth = trained_on(terms, own, first)
    count = len(own.targets)
    inner, energy = np.zeros((2, count, len(each.targets) // count)), np.zeros((count, len(each.targets) // count))
    for asked, update, total in zip(seen.asked, seen.updates[watched], seen.totals, strict=True):
        sums = {
            name: gradients.clipped_sum(asked.parameters, batch, clip_norm=mechanism.clip_norm)
            for name, batch in batches.items()
        }
        found = clipped_gradients(engine, asked, each, clip_norm=mechanism.clip_norm).reshape(count, -1, len(update))
        true = clipped_gradients(engine, asked, truth, clip_norm=mechanism.clip_norm)
        left = np.stack([update - part * sums[watched], total - part * np.sum(list(sums.values()), axis=0)])
        # What is left when all rows but the target's own are subtracted.
        inner += part * np.einsum("omp,mwp->omw", left[:, None] + part * true, found)
        energy += part**2 * np.square(found).sum(axis=2)
    floor = 1e-6 * float(energy.mean()) / len(seen.asked) + np.finfo(np.float64).tiny
    variances = [max(steps * mechanism.noise_std**2 * noises, floor) for noises in (1, len(parties))]
    return {
        "informed update": (inner[0] - energy / 2) / variances[0],
        "informed aggregate": (inner[1] - energy / 2) / variances[1],
    }


def _share(right: np.ndarray[tuple[int, ...], np.dtype[np.bool_]], confidence: float) -> Interval:
    """Return the share of customers, with the exact binomial interval."""
    counted = scores_of(right * 1.0, right * 1.0)
    return rates_at(counted, threshold=0.5, confidence=confidence).true_positive_rate


def _need_usable(secret: Secret, rows: Rows) -> None:
    targets, slots = secret.targets, secret.slots
    if rows.customers is not None:
        raise DataError("attribute inference: expected one row of each customer")
    if not targets.size or len(np.unique(targets)) < len(targets) or targets.min() < 0:
        raise DataError(f"targets: expected distinct rows, got {targets.size}")
    if targets.max() >= len(rows.targets):
        raise DataError(f"targets: expected some of {len(rows.targets)} rows, got others")
    if (secret.reference.features[:][:, slots.start : slots.stop].sum(axis=0) > 0).sum() < 2:
        raise DataError(f"column {secret.column!r}: expected two words or more in the reference")
