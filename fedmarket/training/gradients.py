"""The sum of clipped per-example gradients, by a closed form where there is one and by Opacus elsewhere.

Of a linear model the gradient of a row is its residual times the row, so norms and the clipped sum need no per-example
gradients at all. For every other network they are Opacus'. Clipping and adding are ours in both cases: Opacus adds in
float32, where rounding moves a sum over thousands of rows by percents of the clip when one row is taken out
(Casacuberta et al. 2022), and one row that overflows makes the whole sum non-finite, so that refusing to send it would
tell that the row is there.
"""

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from opacus import GradSampleModule
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from fedmarket.arrays import FloatArray
from fedmarket.errors import ProtocolError
from fedmarket.models.propensity import PropensityNetwork, parameter_count

CHUNK = 4096
"""Rows that are worked on at once: the memory for their gradients or their float64 copies stays bounded."""


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread, so that sums have the same bits in every process."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def clipped_gradient_sum(
    network: nn.Module, features: torch.Tensor, labels: torch.Tensor, *, clip_norm: float
) -> FloatArray:
    """Return the sum over rows of the log-loss gradient, each scaled to norm at most ``clip_norm``.

    Args:
        network: maps features to logits (n,), examples independent of each other.
        features: (n, width) float32; n may be 0.
        labels: (n,) float32, 0 or 1.
        clip_norm: bound on each row's gradient norm; ``inf`` sums the gradients as they are.

    Returns:
        (p,) float64 in the order of ``network.parameters()``.

    Raises:
        ProtocolError: if a parameter is not finite, or, without a clip, the sum; nothing must leave then.

    Guarantees:
        Adding or removing one row moves the result by at most ``clip_norm`` in Euclidean norm, up to the float32
        rounding of gradients (Abadi et al. 2016). A row whose gradient is not finite adds nothing:
        under a clip no row decides whether there is an answer. The result is a sum: it is never divided by the number
        of rows drawn.
    """
    if not all(bool(torch.isfinite(parameter).all()) for parameter in network.parameters()):
        raise ProtocolError("the parameters are not finite; nothing is sent")
    total = np.zeros(parameter_count(network))
    gradient_sum = _engine(network, clip_norm)
    with one_thread():
        for rows, targets in zip(torch.split(features, CHUNK), torch.split(labels, CHUNK), strict=True):
            if len(rows):
                total += gradient_sum(network, rows, targets, clip_norm)
    if not np.isfinite(total).all():
        raise ProtocolError("the gradient sum is not finite; nothing is sent")
    return total


GradientSum = Callable[[nn.Module, torch.Tensor, torch.Tensor, float], FloatArray]


def _engine(network: nn.Module, clip_norm: float) -> GradientSum:
    """Return the fastest way to the sum that is right for ``network``."""
    if isinstance(network, PropensityNetwork) and len(network.body) == 1:
        return _linear_sum
    return _plain_sum if math.isinf(clip_norm) else _opacus_sum


def _linear_sum(network: nn.Module, features: torch.Tensor, labels: torch.Tensor, clip_norm: float) -> FloatArray:
    """Return the clipped sum of ``residual * (row, 1)``; in float64 no product of finite float32 overflows."""
    weight, bias = (parameter.detach().double().reshape(-1) for parameter in network.parameters())
    rows = features.double()
    residuals = torch.sigmoid(rows @ weight + bias) - labels.double()
    norms = residuals.abs() * (torch.linalg.vector_norm(rows, dim=1) ** 2 + 1.0).sqrt()
    finite = norms.isfinite()
    if not bool(finite.all()):
        rows, residuals, norms = rows[finite], residuals[finite], norms[finite]
    scaled = residuals * (clip_norm / norms).clamp(max=1.0)
    return _flat([scaled @ rows, scaled.sum()])


def _losses(network: nn.Module, features: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return per-example losses: additive over rows, or per-example clipping would silently fail."""
    raw = network(features)
    if raw.shape != labels.shape:
        raise ValueError(f"expected logits of shape {tuple(labels.shape)}, got {tuple(raw.shape)}")
    return binary_cross_entropy_with_logits(raw, labels, reduction="none")


def _plain_sum(network: nn.Module, features: torch.Tensor, labels: torch.Tensor, _: float) -> FloatArray:
    gradients = torch.autograd.grad(_losses(network, features, labels).sum(), list(network.parameters()))
    return _flat(list(gradients))


def _opacus_sum(network: nn.Module, features: torch.Tensor, labels: torch.Tensor, clip_norm: float) -> FloatArray:
    parameters = list(network.parameters())
    with warnings.catch_warnings():
        # Opacus hooks modules whose inputs need no gradient; torch warns although that is what is wanted here.
        warnings.filterwarnings("ignore", message="Full backward hook is firing")
        wrapped = GradSampleModule(network, loss_reduction="sum")
        try:
            torch.autograd.backward(_losses(wrapped, features, labels).sum())
            return _clipped_sum([parameter.grad_sample for parameter in wrapped.parameters()], clip_norm)
        finally:
            wrapped.to_standard_module()
            for parameter in parameters:
                parameter.grad = None


def _clipped_sum(per_example: list[torch.Tensor], clip_norm: float) -> FloatArray:
    """Return the sum of the rows, clipped; rows of ``per_example`` (n, ...) belong together across tensors."""
    # In float64 the square of a finite float32 cannot overflow: the norm is finite exactly if the row is.
    rows = [tensor.flatten(start_dim=1).double() for tensor in per_example]
    norms = torch.stack([torch.linalg.vector_norm(row, dim=1) for row in rows]).norm(dim=0)
    finite = norms.isfinite()
    if not bool(finite.all()):
        rows, norms = [row[finite] for row in rows], norms[finite]
    factors = (clip_norm / norms).clamp(max=1.0)  # a zero row has an infinite quotient, and is left as it is
    return _flat([factors @ row for row in rows])


def _flat(tensors: list[torch.Tensor]) -> FloatArray:
    flat = torch.cat([tensor.detach().reshape(-1) for tensor in tensors])
    return np.asarray(flat.numpy(), dtype=np.float64)
