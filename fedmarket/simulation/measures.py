"""What an experiment is judged by: how well the response is ranked, and how well the value is."""

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from fedmarket.arrays import AnyArray, FloatArray, RowNumbers
from fedmarket.config import EvaluationSection, ExperimentConfig
from fedmarket.contract.schema import Contract
from fedmarket.errors import ConfigError, DataError
from fedmarket.evaluation.comparison import bootstrap_aucs, bootstrap_ginis
from fedmarket.evaluation.metrics import propensity_metrics
from fedmarket.evaluation.value import value_metrics
from fedmarket.models.prediction import Prediction
from fedmarket.simulation.seed import SeedResult

Metrics = dict[str, float]
_BOOTSTRAP = 2
"""Keeps the bootstrap's random stream apart from other streams of the same seed."""


class Measure(Protocol):
    """A target, and the metric by which arms are compared on it."""

    @property
    def metric(self) -> str:
        """The key of the metric among the others."""

    def metrics(self, seed: SeedResult, prediction: Prediction) -> Metrics:
        """Return all metrics on the common test rows."""

    def replicates(self, seed: SeedResult, predictions: Mapping[str, Prediction]) -> dict[str, FloatArray]:
        """Return the metric of every arm on the same resampled test rows, (replicates,) each."""

    def on_own(self, seed: SeedResult, prediction: Prediction, rows: RowNumbers) -> float | None:
        """Return the metric on some of the test rows; None where they do not define it."""

    def best_possible(self, seed: SeedResult) -> float | None:
        """Return the metric of the truth, where that is known."""


class ResponseMeasure:
    """Probabilities of a response against what happened, compared by AUC."""

    metric = "auc"

    def __init__(self, evaluation: EvaluationSection) -> None:
        self.prices = prices_of(evaluation, "contact_cost", "response_margin")
        self._replicates = evaluation.bootstrap_replicates

    def metrics(self, seed: SeedResult, prediction: Prediction) -> Metrics:
        """See :class:`Measure`."""
        return propensity_metrics(there(seed.labels), there(prediction.response), **self.prices)

    def replicates(self, seed: SeedResult, predictions: Mapping[str, Prediction]) -> dict[str, FloatArray]:
        """See :class:`Measure`."""
        scores = {name: there(found.response) for name, found in predictions.items() if found.response is not None}
        return bootstrap_aucs(
            there(seed.labels), scores, replicates=self._replicates, rng=np.random.default_rng([seed.seed, _BOOTSTRAP])
        )

    def on_own(self, seed: SeedResult, prediction: Prediction, rows: RowNumbers) -> float | None:
        """See :class:`Measure`."""
        labels = there(seed.labels)[rows]
        if len(np.unique(labels)) < 2:
            return None
        return float(propensity_metrics(labels, there(prediction.response)[rows], **self.prices)[self.metric])

    def best_possible(self, seed: SeedResult) -> float | None:
        """See :class:`Measure`."""
        if seed.truth is None:
            return None
        return float(propensity_metrics(there(seed.labels), seed.truth, **self.prices)[self.metric])


class ValueMeasure:
    """Expected values against what was really spent, compared by the normalised Gini."""

    metric = "gini"

    def __init__(self, evaluation: EvaluationSection) -> None:
        self._replicates = evaluation.bootstrap_replicates

    def metrics(self, seed: SeedResult, prediction: Prediction) -> Metrics:
        """See :class:`Measure`."""
        return value_metrics(there(seed.spent), there(prediction.value), purchase_probability=prediction.purchase)

    def replicates(self, seed: SeedResult, predictions: Mapping[str, Prediction]) -> dict[str, FloatArray]:
        """See :class:`Measure`."""
        values = {name: there(found.value) for name, found in predictions.items() if found.value is not None}
        return bootstrap_ginis(
            there(seed.spent), values, replicates=self._replicates, rng=np.random.default_rng([seed.seed, _BOOTSTRAP])
        )

    def on_own(self, seed: SeedResult, prediction: Prediction, rows: RowNumbers) -> float | None:
        """See :class:`Measure`."""
        try:
            return float(value_metrics(there(seed.spent)[rows], there(prediction.value)[rows])[self.metric])
        except DataError:  # nobody of them spent anything, or all did
            return None

    def best_possible(self, seed: SeedResult) -> float | None:
        """See :class:`Measure`."""
        if seed.expected_value is None:
            return None
        return float(value_metrics(there(seed.spent), seed.expected_value)[self.metric])


def measures_of(config: ExperimentConfig, contract: Contract) -> tuple[Measure, ...]:
    """Return the measures of the contract's targets, in their order; the first is the experiment's headline.

    Raises:
        ConfigError: if the evaluation lacks what a target needs.
    """
    measures: list[Measure] = []
    if contract.label is not None:
        measures.append(ResponseMeasure(config.evaluation))
    if contract.value is not None:
        measures.append(ValueMeasure(config.evaluation))
    if len(measures) == 2:
        prices_of(config.evaluation, "value_margin")
        if config.evaluation.past_spend is None:
            raise ConfigError("evaluation.past_spend: missing, but the contract has label and value")
    return tuple(measures)


def prices_of(evaluation: EvaluationSection, *names: str) -> dict[str, float]:
    """Return the named prices of a campaign.

    Raises:
        ConfigError: if one is missing: what a campaign earns is never made up.
    """
    if missing := [name for name in names if getattr(evaluation, name) is None]:
        raise ConfigError(f"evaluation.{missing[0]}: missing, but the contract has a label")
    return {name: getattr(evaluation, name) for name in names}


def there(values: AnyArray | None) -> FloatArray:
    """Return ``values`` as float64.

    Raises:
        DataError: if there are none: an arm is measured by what it does not predict.
    """
    if values is None:
        raise DataError("results: an arm does not predict what it is measured by")
    return np.asarray(values, dtype=np.float64)
