"""The sum of clipped per-example gradients: this module promises, engines compute.

An engine says what each layer has of the gradients of many rows (:mod:`fedmarket.training.parts`); clipping and adding
are here, for all of them, in float64. Opacus adds in float32, where rounding moves a sum over thousands of rows by
percents of the clip when one row is taken out (Casacuberta et al. 2022), and one row that overflows makes the whole sum
non-finite, so that refusing to send it would tell that the row is there.
"""

import copy
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fedmarket.arrays import FloatArray
from fedmarket.errors import ProtocolError, UsageError
from fedmarket.models.network import Network, vector_of
from fedmarket.training.batch import Batch, one_thread
from fedmarket.training.closed_form import Captured, Stack, has_closed_form
from fedmarket.training.parts import Part, Written
from fedmarket.training.per_example import PerExample


class Engine(Protocol):
    """Says what the layers of one network have of the gradients of many rows."""

    def load(self, parameters: torch.Tensor) -> None:
        """Take other parameters, (p,) float64 in the order of ``network.parameters()``."""

    def __call__(self, batch: Batch) -> Sequence[Part]:
        """Return the parts of the batch's rows, in the order of ``network.parameters()``."""


class Gradients:
    """Sums of clipped gradients of one network, at whatever parameters."""

    def __init__(self, network: nn.Module, *, device: torch.device | str = "cpu") -> None:
        """Choose the engine, for rows that are on ``device``.

        Raises:
            UsageError: if the network mixes rows.
        """
        self._engine = engine_for(network if str(device) == "cpu" else copy.deepcopy(network).to(device))

    def clipped_sum(self, parameters: FloatArray, batch: Batch, *, clip_norm: float) -> FloatArray:
        """Return the sum over customers of the loss gradient of their rows, each scaled to norm at most ``clip_norm``.

        Args:
            parameters: (p,) in the order of ``network.parameters()``; they are rounded to float32.
            batch: the rows, examples independent of each other; there may be none.
            clip_norm: bound on each customer's gradient norm; ``inf`` sums the gradients as they are.

        Returns:
            (p,) float64 in the order of ``network.parameters()``.

        Raises:
            ProtocolError: if a parameter is not finite; nothing must leave then.

        Guarantees:
            Adding or removing one customer, with however many rows, moves the result by at most ``clip_norm`` in
            Euclidean norm, up to the float64 rounding of gradients (Abadi et al. 2016). A customer whose gradient is
            not finite adds nothing: no row decides whether there is an answer. The result is a sum: it is never divided
            by the number of rows drawn.
        """
        rounded = parameters.astype(np.float32)
        if not np.isfinite(rounded).all():
            raise ProtocolError("the parameters are not finite; nothing is sent")
        total = np.zeros(len(parameters))
        with one_thread():
            self._engine.load(torch.from_numpy(rounded))
            for chunk in batch.chunks:
                parts = self._engine(chunk)
                total += clipped_sum(
                    parts if chunk.customers is None else by_customer(parts, chunk.customers), clip_norm
                )
        return total


def clipped_gradient_sum(network: nn.Module, batch: Batch, *, clip_norm: float) -> FloatArray:
    """Return :meth:`Gradients.clipped_sum` at the network's own parameters."""
    return Gradients(network, device=batch.features.device).clipped_sum(vector_of(network), batch, clip_norm=clip_norm)


def engine_for(network: nn.Module) -> Engine:
    """Return the fastest engine that is right for ``network``; what it gives is the same for all of them.

    Raises:
        UsageError: if none is.
    """
    if isinstance(network, Network):
        return Stack(network)
    for module in network.modules():
        if isinstance(module, _BatchNorm):
            raise UsageError(f"{type(module).__name__} mixes rows, so that no row's part is bounded; use LayerNorm")
        if getattr(module, "scale_grad_by_freq", False):
            raise UsageError(f"{type(module).__name__} mixes rows by scale_grad_by_freq; set it to False")
    return Captured(network) if has_closed_form(network) else PerExample(network)


def by_customer(parts: Sequence[Part], customers: torch.Tensor) -> list[Part]:
    """Return the sums over the rows of each customer; ``customers`` (n,) stand together."""
    per_row = torch.cat([part.rows() for part in parts], dim=1)
    _, place = torch.unique_consecutive(customers, return_inverse=True)
    sums = per_row.new_zeros(int(place[-1]) + 1, per_row.shape[1])
    return [Written(sums.index_add_(0, place, per_row))]


def clipped_sum(parts: Sequence[Part], clip_norm: float) -> FloatArray:
    """Return the sum of the gradients, each clipped."""
    norms = norms_of(parts)
    if not np.isfinite(norms.cpu().numpy()).all():
        finite = norms.isfinite()
        parts, norms = [part.taken(finite) for part in parts], norms[finite]
    factors = (clip_norm / norms).clamp_(max=1.0)  # a zero row has an infinite quotient, and is left as it is
    return np.asarray(torch.cat([part.weighted_sum(factors) for part in parts]).cpu().numpy(), dtype=np.float64)


def norms_of(parts: Sequence[Part]) -> torch.Tensor:
    """Return the norms of whole gradients, over all layers, (n,)."""
    total = parts[0].squared_norms()
    for part in parts[1:]:
        total = total + part.squared_norms()
    return total.sqrt_()
