"""The sum of clipped per-example gradients, by a closed form where there is one and by Opacus elsewhere.

Of a linear body the gradient of a row is its residuals, one for each output, times the row, so norms and the clipped
sum need no per-example gradients at all. For every other network they are Opacus'. Clipping and adding are ours in both
cases: Opacus adds in float32, where rounding moves a sum over thousands of rows by percents of the clip when one row is
taken out (Casacuberta et al. 2022), and one row that overflows makes the whole sum non-finite, so that refusing to send
it would tell that the row is there.
"""

import copy
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from opacus import GradSampleModule
from torch import nn

from fedmarket.arrays import FloatArray
from fedmarket.errors import ProtocolError
from fedmarket.models.network import Network, parameter_count
from fedmarket.models.objectives import RESPONSE, Objective

CHUNK = 4096
"""Rows that are worked on at once: the memory for their gradients stays bounded."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Rows as the network sees them.

    Attributes:
        features: (n, width) float32.
        targets: (n, targets) float32, see :class:`fedmarket.models.objectives.Objective`.
        weights: (n,) float32 by which each row's loss is multiplied; None for 1.
        customers: (n,) whose row each is, where a customer may have several; they stand together.
        objective: what is learned of the targets.
    """

    features: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor | None = None
    customers: torch.Tensor | None = None
    objective: Objective = RESPONSE

    def taken(self, rows: torch.Tensor | slice) -> "Batch":
        """Return the rows that a mask or a slice selects."""
        return Batch(
            features=self.features[rows],
            targets=self.targets[rows],
            weights=None if self.weights is None else self.weights[rows],
            customers=None if self.customers is None else self.customers[rows],
            objective=self.objective,
        )

    @cached_property
    def chunks(self) -> tuple["Batch", ...]:
        """The rows in chunks of about ``CHUNK``; no customer is cut in two."""
        chunks, start = [], 0
        while start < len(self.targets):
            stop = min(start + CHUNK, len(self.targets))
            if self.customers is not None:
                stop = int(torch.searchsorted(self.customers, self.customers[stop - 1], right=True))
            chunks.append(self.taken(slice(start, stop)))
            start = stop
        return tuple(chunks)

    @cached_property
    def exact(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The rows (n, width) and the norms (n,) of rows with the intercept's 1, in float64: the same each round."""
        rows = self.features.double()
        return rows, (torch.linalg.vector_norm(rows, dim=1) ** 2 + 1.0).sqrt()


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread, so that sums have the same bits in every process."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def clipped_gradient_sum(network: nn.Module, batch: Batch, *, clip_norm: float) -> FloatArray:
    """Return the sum over customers of the loss gradient of their rows, each scaled to norm at most ``clip_norm``.

    Args:
        network: maps features to (n, outputs), examples independent of each other.
        batch: the rows; there may be none.
        clip_norm: bound on each customer's gradient norm; ``inf`` sums the gradients as they are.

    Returns:
        (p,) float64 in the order of ``network.parameters()``.

    Raises:
        ProtocolError: if a parameter is not finite, or, without a clip, the sum; nothing must leave then.

    Guarantees:
        Adding or removing one customer, with however many rows, moves the result by at most ``clip_norm`` in Euclidean
        norm, up to the float32 rounding of gradients (Abadi et al. 2016). A customer whose gradient is not finite adds
        nothing: under a clip no row decides whether there is an answer. The result is a sum: it is never divided by
        the number of rows drawn.
    """
    if not all(bool(torch.isfinite(parameter).all()) for parameter in network.parameters()):
        raise ProtocolError("the parameters are not finite; nothing is sent")
    total = np.zeros(parameter_count(network))
    with one_thread():
        for chunk in batch.chunks:
            total += _chunk_sum(network, chunk, clip_norm)
    if not np.isfinite(total).all():
        raise ProtocolError("the gradient sum is not finite; nothing is sent")
    return total


def _chunk_sum(network: nn.Module, batch: Batch, clip_norm: float) -> FloatArray:
    """Return the clipped sum by the fastest way that is right for ``network`` and ``batch``."""
    if isinstance(network, Network) and network.linear:
        if batch.customers is None:
            return _linear_sum(network, batch, clip_norm)
        per_row = _linear_rows(network, batch)
    elif math.isinf(clip_norm):
        return _plain_sum(network, batch)
    else:
        per_row = _opacus_rows(network, batch)
    return _clipped_sum(per_row if batch.customers is None else _by_customer(per_row, batch.customers), clip_norm)


def _linear_sum(network: Network, batch: Batch, clip_norm: float) -> FloatArray:
    """Return the clipped sum of ``residuals x (row, 1)``; in float64 no product of finite float32 overflows."""
    rows, residuals = _residuals(network, batch)
    # The norm of an outer product is the product of the norms.
    norms = torch.linalg.vector_norm(residuals, dim=1) * batch.exact[1]
    finite = norms.isfinite()
    if not bool(finite.all()):
        rows, residuals, norms = rows[finite], residuals[finite], norms[finite]
    scaled = residuals * (clip_norm / norms).clamp(max=1.0)[:, None]
    return _flat([scaled.T @ rows, scaled.sum(dim=0)])


def _linear_rows(network: Network, batch: Batch) -> torch.Tensor:
    rows, residuals = _residuals(network, batch)
    return torch.cat([(residuals[:, :, None] * rows[:, None, :]).flatten(start_dim=1), residuals], dim=1)


def _residuals(network: Network, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the rows (n, width) and the weighted derivative by the body's outputs (n, outputs), float64."""
    weight, bias = (parameter.detach().double() for parameter in network.parameters())
    rows, _ = batch.exact
    scales = network.scales.double()
    residuals = batch.objective.residuals((rows @ weight.T + bias) * scales, batch.targets.double()) * scales
    return rows, residuals if batch.weights is None else residuals * batch.weights.double()[:, None]


def _losses(network: nn.Module, batch: Batch) -> torch.Tensor:
    """Return per-example losses: additive over rows, or per-example clipping would silently fail."""
    outputs, expected = network(batch.features), (len(batch.targets), len(batch.objective.scales))
    if outputs.shape != expected:
        raise ValueError(f"expected outputs of shape {expected}, got {tuple(outputs.shape)}")
    losses = batch.objective.losses(outputs, batch.targets)
    if losses.shape != expected[:1]:
        raise ValueError(f"expected one loss for each of {expected[0]} rows, got shape {tuple(losses.shape)}")
    return losses if batch.weights is None else losses * batch.weights


def _plain_sum(network: nn.Module, batch: Batch) -> FloatArray:
    gradients = torch.autograd.grad(_losses(network, batch).sum(), list(network.parameters()))
    return _flat(list(gradients))


def _opacus_rows(network: nn.Module, batch: Batch) -> torch.Tensor:
    """Return the gradient of each row's loss, (n, p) float64, computed in float64.

    In float32 what a row is rounded to depends on how many rows go through the kernels with it, and by much where
    parameters are large: taking one row out would move the others.
    """
    network = copy.deepcopy(network).double()
    batch = replace(batch, features=batch.features.double(), targets=batch.targets.double())
    with warnings.catch_warnings():
        # Opacus hooks modules whose inputs need no gradient; torch warns although that is what is wanted here.
        warnings.filterwarnings("ignore", message="Full backward hook is firing")
        wrapped = GradSampleModule(network, loss_reduction="sum")
        try:
            torch.autograd.backward(_losses(wrapped, batch).sum())
            rows = [parameter.grad_sample.flatten(start_dim=1) for parameter in wrapped.parameters()]
            return torch.cat(rows, dim=1)
        finally:
            wrapped.to_standard_module()


def _by_customer(per_row: torch.Tensor, customers: torch.Tensor) -> torch.Tensor:
    """Return the sums of the rows of each customer, (k, p); rows of one customer stand together."""
    _, place = torch.unique_consecutive(customers, return_inverse=True)
    sums = torch.zeros(int(place[-1]) + 1, per_row.shape[1], dtype=per_row.dtype)
    return sums.index_add_(0, place, per_row)


def _clipped_sum(gradients: torch.Tensor, clip_norm: float) -> FloatArray:
    """Return the sum of ``gradients`` (n, p), each clipped."""
    # In float64 the square of a finite float32 cannot overflow: the norm is finite exactly if the row is.
    norms = torch.linalg.vector_norm(gradients, dim=1)
    finite = norms.isfinite()
    if not bool(finite.all()):
        gradients, norms = gradients[finite], norms[finite]
    factors = (clip_norm / norms).clamp(max=1.0)  # a zero row has an infinite quotient, and is left as it is
    return _flat([factors @ gradients])


def _flat(tensors: list[torch.Tensor]) -> FloatArray:
    flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
    return np.asarray(flat.numpy(), dtype=np.float64)
