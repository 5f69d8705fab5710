"""From a network's outputs to what is said of a customer: response, purchase, spend and value, recalibrated.

A calibration is one vector: ``intercept, slope, pivot`` for each probability of the objective, in its order, and then,
where there is a value, the ``level`` by which all values are multiplied. Neither changes who ranks above whom by the
same probability, nor by the same raw value but for what the purchase probability moves.
"""

from dataclasses import dataclass, field

import numpy as np
from scipy.special import expit

from fedmarket.arrays import FloatArray
from fedmarket.models.objectives import Objective

REACH = 8.0
"""Recalibration follows the raw logit up to about this distance from the pivot, and flattens beyond."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What a model says of n customers; each is (n,) or None where the model does not speak of it.

    Attributes:
        response: probability of a response.
        purchase: probability of a purchase in the prediction window.
        conditional: expected spend of a customer who buys.
        value: expected spend, ``purchase`` times ``conditional``.
    """

    response: FloatArray | None = field(default=None, repr=False)
    purchase: FloatArray | None = field(default=None, repr=False)
    conditional: FloatArray | None = field(default=None, repr=False)
    value: FloatArray | None = field(default=None, repr=False)

    @property
    def value_or_zero(self) -> float:
        """The first customer's value, 0 where the model does not speak of it."""
        return 0.0 if self.value is None else float(self.value[0])

    @property
    def columns(self) -> dict[str, FloatArray]:
        """What is there, by name, in this order."""
        named = {"response": self.response, "purchase": self.purchase}
        named |= {"conditional": self.conditional, "value": self.value}
        return {name: values for name, values in named.items() if values is not None}


def reach_of(raw: FloatArray, pivot: float) -> FloatArray:
    """Return the raw logits' distance from the pivot, squashed into (-1, 1): ``tanh((raw - pivot) / REACH)``.

    Bounded, so that its sums can be private, and rising, so that the order of customers stays.
    """
    return np.asarray(np.tanh((raw - pivot) / REACH), dtype=np.float64)


def recalibrated(raw: FloatArray, calibration: FloatArray) -> FloatArray:
    """Return the released logits of raw ones: ``intercept + slope * REACH * reach_of(raw, pivot)`` (after Platt 1999).

    Near the pivot that is Platt's straight line; far from it extreme logits, which clipped training exaggerates, are
    drawn in. Slopes are positive: who ranks above whom never changes.
    """
    intercept, slope, pivot = calibration
    return np.asarray(intercept + slope * REACH * reach_of(raw, pivot), dtype=np.float64)


def log_odds_of(objective: Objective, outputs: FloatArray, calibration: FloatArray | None) -> FloatArray:
    """Return the log-odds of each probability, (n, probabilities): recalibrated, or raw without a ``calibration``."""
    raw = outputs[:, : objective.probabilities]
    if calibration is None:
        return raw
    parts = [recalibrated(raw[:, head], calibration[3 * head : 3 * head + 3]) for head in range(raw.shape[1])]
    return np.stack(parts, axis=1) if parts else raw


def prediction_of(objective: Objective, outputs: FloatArray, calibration: FloatArray | None) -> Prediction:
    """Return what (n, outputs) say of n customers.

    Args:
        objective: what the outputs mean.
        outputs: of :func:`fedmarket.models.network.outputs_of`.
        calibration: see the module; None for the network's own word.

    Guarantees:
        Probabilities are in [0, 1], values finite, not negative, and at most the contract's ``upper``.
    """
    probabilities = expit(log_odds_of(objective, outputs, calibration))
    response = probabilities[:, 0] if objective.response else None
    if objective.value is None:
        return Prediction(response=response)
    level = 1.0 if calibration is None else float(calibration[-1])
    conditional = objective.value.conditional(outputs[:, int(objective.response) :])
    conditional = np.clip(level * conditional, 0.0, objective.value.upper)  # a level that was sent may be negative
    if not objective.value.purchase:
        return Prediction(response=response, value=conditional)
    purchase = probabilities[:, -1]
    return Prediction(
        response=response, purchase=purchase, conditional=conditional, value=np.asarray(purchase * conditional)
    )
