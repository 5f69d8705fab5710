"""What a network's outputs mean and how they are learned: a response, a value, or both on one body.

A value is learned as a zero-inflated lognormal (Wang, Liu and Miao 2019), in two parts (propensity times conditional
spend under the gamma deviance), or by the Tweedie deviance (Joergensen 1987). Losses are additive over rows. Each comes
with its derivative by the outputs, so that linear bodies need no automatic differentiation; tests hold the two
together. Money is measured in the contract's public ``typical`` value and bounded by its public ``upper``, so that no
target is extreme; what a row may add to a gradient is bounded by clipping alone.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

from fedmarket.arrays import FeatureArray, FloatArray
from fedmarket.config import LogisticModel, Model, TweedieModel
from fedmarket.contract.schema import Contract
from fedmarket.errors import ConfigError

SMALLEST_SPREAD = 0.1
"""Least standard deviation of log spend: below it one row's gradient would be all that counts."""

SPREAD_OFFSET = 0.55
"""Makes the spread of an output of 0 about 1.1, which is what spends of one market have."""

SMALLEST_SHARE = 1e-4
"""A purchase below this share of the typical value counts as this much, so that its logarithm is bounded."""

LARGEST_EXPONENT = 30.0
"""Outputs that are logarithms count as this much at most: exp stays finite in float32 too."""


class ValueLoss(Protocol):
    """How the outputs of the value heads are read and learned; ``outputs`` are (n, heads), ``value`` is (n,)."""

    @property
    def heads(self) -> int:
        """How many outputs there are."""

    @property
    def scales(self) -> tuple[float, ...]:
        """The factor of each output of the body: how fast a head learns, and how much it weighs in a clip."""

    @property
    def purchase(self) -> bool:
        """Whether the first output is the log-odds of a purchase."""

    def losses(self, outputs: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """Return each row's loss, (n,)."""

    def residuals(self, outputs: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """Return the derivative of each row's loss by its outputs, (n, heads)."""

    def conditional(self, outputs: FloatArray) -> FloatArray:
        """Return the expected value of a customer who buys (of any customer where ``purchase`` is False), (n,)."""


@dataclass(frozen=True, kw_only=True)
class ZeroInflatedLognormal:
    """Log-odds of a purchase, and mean and spread of the logarithm of what is spent (Wang, Liu and Miao 2019)."""

    typical: float
    upper: float
    heads: int = 3
    scales: tuple[float, ...] = (1.0, 0.6, 0.35)
    purchase: bool = True

    def losses(self, outputs: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """See :class:`ValueLoss`; the constant of the normal density is left out."""
        buys, logarithm = _purchases(value, self.typical, self.upper)
        spread = softplus(outputs[:, 2] + SPREAD_OFFSET) + SMALLEST_SPREAD
        distance = (logarithm - outputs[:, 1]) / spread
        spend = torch.where(buys, spread.log() + distance**2 / 2, 0.0)
        return _log_loss(outputs[:, 0], buys) + spend

    def residuals(self, outputs: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """See :class:`ValueLoss`."""
        buys, logarithm = _purchases(value, self.typical, self.upper)
        spread = softplus(outputs[:, 2] + SPREAD_OFFSET) + SMALLEST_SPREAD
        distance = (logarithm - outputs[:, 1]) / spread
        steepness = torch.sigmoid(outputs[:, 2] + SPREAD_OFFSET)
        by_mean = torch.where(buys, -distance / spread, 0.0)
        by_spread = torch.where(buys, (1.0 - distance**2) / spread * steepness, 0.0)
        return torch.stack([_log_loss_residual(outputs[:, 0], buys), by_mean, by_spread], dim=1)

    def conditional(self, outputs: FloatArray) -> FloatArray:
        """Return exp(mean + spread^2 / 2), at most ``upper``."""
        spread = np.logaddexp(0.0, outputs[:, 2] + SPREAD_OFFSET) + SMALLEST_SPREAD
        return _money(outputs[:, 1] + spread**2 / 2, self.typical, self.upper)


@dataclass(frozen=True, kw_only=True)
class TwoPart:
    """Log-odds of a purchase, and the logarithm of the mean of what is spent, by the gamma deviance."""

    typical: float
    upper: float
    heads: int = 2
    scales: tuple[float, ...] = (1.0, 0.6)
    purchase: bool = True

    def losses(self, outputs: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """See :class:`ValueLoss`."""
        buys, logarithm = _purchases(value, self.typical, self.upper)
        spend = outputs[:, 1] + _exp(logarithm - outputs[:, 1])
        return _log_loss(outputs[:, 0], buys) + torch.where(buys, spend, 0.0)

    def residuals(self, outputs: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """See :class:`ValueLoss`."""
        buys, logarithm = _purchases(value, self.typical, self.upper)
        exponent = logarithm - outputs[:, 1]
        by_mean = 1.0 - _exp(exponent) * (exponent < LARGEST_EXPONENT)
        return torch.stack([_log_loss_residual(outputs[:, 0], buys), torch.where(buys, by_mean, 0.0)], dim=1)

    def conditional(self, outputs: FloatArray) -> FloatArray:
        """Return the mean, at most ``upper``."""
        return _money(outputs[:, 1], self.typical, self.upper)


@dataclass(frozen=True, kw_only=True)
class Tweedie:
    """The logarithm of the mean value of all customers, zeros included, by the Tweedie deviance of ``power`` 1 to 2."""

    typical: float
    upper: float
    power: float
    heads: int = 1
    scales: tuple[float, ...] = (1.0,)
    purchase: bool = False

    def losses(self, outputs: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """See :class:`ValueLoss`; terms without the output are left out."""
        less, more = 1.0 - self.power, 2.0 - self.power
        spent = value.clamp(max=self.upper) / self.typical
        return _exp(more * outputs[:, 0]) / more - spent * _exp(less * outputs[:, 0]) / less

    def residuals(self, outputs: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """See :class:`ValueLoss`."""
        less, more = 1.0 - self.power, 2.0 - self.power
        spent = value.clamp(max=self.upper) / self.typical
        up, down = more * outputs[:, 0], less * outputs[:, 0]
        rising = _exp(up) * (up < LARGEST_EXPONENT)
        falling = spent * _exp(down) * (down < LARGEST_EXPONENT)
        return (rising - falling)[:, None]

    def conditional(self, outputs: FloatArray) -> FloatArray:
        """Return the mean over all customers, at most ``upper``."""
        return _money(outputs[:, 0], self.typical, self.upper)


@dataclass(frozen=True, kw_only=True)
class Objective:
    """All outputs of a network: first the log-odds of a response, where there is one, then the heads of the value.

    Targets are (n, targets) in the contract's order: the response (0 or 1), then the value (money, not negative).
    """

    response: bool
    value: ZeroInflatedLognormal | TwoPart | Tweedie | None

    @property
    def targets(self) -> int:
        """How many targets a row has."""
        return int(self.response) + int(self.value is not None)

    @property
    def scales(self) -> tuple[float, ...]:
        """The factor of each output, (outputs,)."""
        return (1.0,) * self.response + (self.value.scales if self.value else ())

    @property
    def probabilities(self) -> int:
        """How many of the first outputs are log-odds: of a response, of a purchase."""
        return int(self.response) + int(self.value is not None and self.value.purchase)

    @property
    def uncalibrated(self) -> FloatArray:
        """The calibration before the first calibration round: 0, 1, 0 for each probability, and a level of 1."""
        return np.array([0.0, 1.0, 0.0] * self.probabilities + [1.0] * (self.value is not None))

    def losses(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return each row's loss, (n,), from outputs (n, outputs) and targets (n, targets)."""
        total = torch.zeros_like(outputs[:, 0])
        if self.response:
            total = total + _log_loss(outputs[:, 0], targets[:, 0] > 0)
        if self.value:
            total = total + self.value.losses(outputs[:, int(self.response) :], targets[:, -1])
        return total

    def residuals(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the derivative of each row's loss by its outputs, (n, outputs)."""
        parts = [_log_loss_residual(outputs[:, 0], targets[:, 0] > 0)[:, None]] if self.response else []
        if self.value:
            parts.append(self.value.residuals(outputs[:, int(self.response) :], targets[:, -1]))
        return torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]

    def labels(self, targets: FeatureArray) -> FloatArray:
        """Return what the probabilities are of, (n, probabilities): 1 where it came true."""
        columns = [targets[:, 0] > 0] if self.response else []
        if self.value is not None and self.value.purchase:
            columns.append(targets[:, -1] > 0)
        return np.stack(columns, axis=1).astype(np.float64) if columns else np.zeros((len(targets), 0))


RESPONSE = Objective(response=True, value=None)
"""A propensity model."""


def objective_of(model: Model, contract: Contract) -> Objective:
    """Return what ``model`` learns under ``contract``.

    Raises:
        ConfigError: if the model's kind does not fit the contract's task.
    """
    agreed = contract.value
    if agreed is None:
        if not isinstance(model, LogisticModel) and model.kind != "mlp":
            raise ConfigError(f"model.kind: contract {contract.name} has no value to predict, got {model.kind!r}")
        return RESPONSE
    typical, upper, response = agreed.typical, agreed.upper, contract.label is not None
    if isinstance(model, TweedieModel):
        return Objective(response=response, value=Tweedie(typical=typical, upper=upper, power=model.power))
    if model.kind == "ziln":
        return Objective(response=response, value=ZeroInflatedLognormal(typical=typical, upper=upper))
    if model.kind == "two-part":
        return Objective(response=response, value=TwoPart(typical=typical, upper=upper))
    raise ConfigError(
        f"model.kind: contract {contract.name} has a value to predict, expected ziln, two-part or tweedie, "
        f"got {model.kind!r}"
    )


def _purchases(value: torch.Tensor, typical: float, upper: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Return who bought, (n,), and the logarithm of the bounded value over the typical one, finite for all."""
    return value > 0, (value / typical).clamp(min=SMALLEST_SHARE, max=upper / typical).log()


def _log_loss(log_odds: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    return binary_cross_entropy_with_logits(log_odds, true.to(log_odds.dtype), reduction="none")


def _log_loss_residual(log_odds: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    return torch.sigmoid(log_odds) - true.to(log_odds.dtype)


def _exp(exponent: torch.Tensor) -> torch.Tensor:
    return exponent.clamp(max=LARGEST_EXPONENT).exp()


def _money(logarithm: FloatArray, typical: float, upper: float) -> FloatArray:
    found = typical * np.exp(np.clip(logarithm, -LARGEST_EXPONENT, math.log(upper / typical)))
    return np.asarray(np.minimum(found, upper))
