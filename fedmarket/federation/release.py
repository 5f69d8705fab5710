"""What a party computes on its rows in each phase of a run: one noisy sum, by the plan's clip and noise."""

from dataclasses import dataclass, field
from typing import TypedDict

import numpy as np
import torch

from fedmarket.arrays import FloatArray, blocks_of
from fedmarket.errors import DataError
from fedmarket.federation.rows import Rows
from fedmarket.federation.terms import Terms
from fedmarket.models.network import Network, load_vector, network_of, outputs_of
from fedmarket.models.prediction import log_odds_of, prediction_of
from fedmarket.models.released import outputs_at, seen, typical_customer
from fedmarket.models.state import ModelState
from fedmarket.privacy.mechanism import Mechanism, Phase
from fedmarket.privacy.noise import Stream
from fedmarket.training.batch import Batch, one_thread
from fedmarket.training.gradients import Gradients
from fedmarket.training.sums import (
    calibration_sum,
    feature_sum,
    held_out_sum,
    level_sum,
    segment_sum,
    update_sum,
)


class NoiseOf(TypedDict):
    """The keywords of every noisy sum."""

    mechanism: Mechanism
    stream: Stream


@dataclass(slots=True, kw_only=True)
class Releases:
    """The noisy sums over one party's rows; see :class:`fedmarket.federation.party.Party` for when each may be made."""

    terms: Terms
    rows: Rows
    held_out: Rows
    declared_rows: int
    device: str = "cpu"
    _network: Network = field(init=False, repr=False)
    _gradients: Gradients = field(init=False, repr=False)
    _seen: tuple[bytes, Batch] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Make network and engine once; each release loads its parameters."""
        self._network = network_of(self.terms.model, self.terms.width, self.terms.objective)
        self._gradients = Gradients(self._network, device=self.device)

    def of(self, phase: Phase, model: ModelState, stream: Stream) -> FloatArray:
        """Return the release of ``phase`` at ``model``, of that phase's length, with noise from ``stream``."""
        noise: NoiseOf = {"mechanism": self.terms.plan.mechanism(phase), "stream": stream}
        if phase == "centre":
            return feature_sum(self.rows.features, shares=self.rows.shares, **noise)
        if phase == "update":
            return self._update(model, noise)
        if phase == "evaluate":
            return self._held_out(model, noise)
        rows, objective = self.rows, self.terms.objective
        outputs = self._outputs(model)
        if phase == "calibrate":
            return calibration_sum(objective, outputs, model.calibration, rows.targets, shares=rows.shares, **noise)
        prediction = prediction_of(objective, outputs, model.calibration)
        if phase == "level":
            return level_sum(prediction, _spent(rows), shares=rows.shares, **noise)
        if rows.segments is None or prediction.value is None:
            raise DataError("segments: this party's rows have none")
        return segment_sum(
            rows.segments,
            self.terms.segments,
            (rows.targets[:, 0] > 0).astype(np.float64),
            prediction.value,
            typical=typical_customer(self.terms.model, objective, model).value_or_zero,
            shares=rows.shares,
            **noise,
        )

    def _update(self, model: ModelState, noise: NoiseOf) -> FloatArray:
        return update_sum(
            self._gradients,
            model.parameters,
            self._batch(model),
            steps=self.terms.schedule.local_steps,
            learning_rate=self.terms.schedule.local_learning_rate,
            declared_rows=self.declared_rows,
            **noise,
        )

    def _held_out(self, model: ModelState, noise: NoiseOf) -> FloatArray:
        rows, objective = self.held_out, self.terms.objective
        load_vector(self._network, model.parameters)
        with one_thread():
            outputs = outputs_at(self._network, model, rows.features)
        log_odds = log_odds_of(objective, outputs, model.calibration)
        return held_out_sum(
            log_odds[:, 0] if objective.response else None,
            rows.targets[:, 0].astype(np.float64) if objective.response else None,
            prediction_of(objective, outputs, model.calibration).value,
            _spent(rows) if objective.value else None,
            typical_log_odds=float(model.calibration[0]),
            typical_value=typical_customer(self.terms.model, objective, model).value_or_zero,
            shares=rows.shares,
            **noise,
        )

    def _outputs(self, model: ModelState) -> FloatArray:
        """Return the network's outputs for the training rows, (n, outputs)."""
        features = self._batch(model).features
        load_vector(self._network, model.parameters)
        with one_thread():
            return np.concatenate(
                [outputs_of(self._network, features[rows].cpu()) for rows in blocks_of(len(features))]
            )

    def _batch(self, model: ModelState) -> Batch:
        """Return the training rows as the network sees them; that is the same in all rounds but the first."""
        key = model.centre.tobytes() + model.scale.tobytes()
        if self._seen is None or self._seen[0] != key:
            self._seen = None  # what was seen before goes first: there is room for one
            self._seen = (key, self._batch_at(model))
        return self._seen[1]

    def _batch_at(self, model: ModelState) -> Batch:
        return trained_on(self.terms, self.rows, model, lasting=True).on(self.device)


def trained_on(terms: Terms, rows: Rows, model: ModelState, *, lasting: bool = False) -> Batch:
    """Return ``rows`` as updates at ``model`` are computed on them: centred, scaled, and weighted by the schedule."""
    features = torch.empty(rows.features.shape)
    weights = torch.empty(len(features)) if terms.schedule.scaled else None
    for block in blocks_of(len(features), wide=True):
        features[block] = seen(rows.features[block], model)
        if weights is not None:
            norms = (torch.linalg.vector_norm(features[block].double(), dim=1) ** 2 + 1.0).sqrt()
            weights[block] = terms.scaling.row_norm / norms
    return Batch(
        features=features,
        targets=torch.from_numpy(rows.targets),
        weights=weights,
        customers=None if rows.customers is None else torch.from_numpy(rows.customers),
        objective=terms.objective,
        lasting=lasting,
    )


def _spent(rows: Rows) -> FloatArray:
    """Return what each row's customer spent, (n,)."""
    return rows.targets[:, -1].astype(np.float64)
