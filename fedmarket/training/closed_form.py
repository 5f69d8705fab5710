"""Engines by closed forms: for our own networks by hand, and for modules whose parameters are all in known layers.

The first need no automatic differentiation. Known layers are linear ones and embeddings.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from fedmarket.models.network import Network
from fedmarket.models.objectives import Objective
from fedmarket.training.batch import Batch, squares_of, with_intercept
from fedmarket.training.loss import losses
from fedmarket.training.parts import Dense, Lookup, Part
from fedmarket.training.per_example import PerExample

VECTOR = 64
"""Numbers that torch takes at once at most."""

Layers = Sequence[torch.Tensor]
"""Of each layer from the first to the last: (..., out, in + 1) weights and biases, see :func:`layers_of`."""


def layers_of(parameters: Sequence[torch.Tensor]) -> Layers:
    """Return layers made of weights (..., out, in) and biases (..., out), in turns.

    All but the last have one output more, which is 1 for rows whose last input is: the next layer's intercept.
    """
    layers = []
    for place in range(0, len(parameters), 2):
        layer = torch.cat([parameters[place], parameters[place + 1][..., None]], dim=-1)
        if place + 2 < len(parameters):
            one = torch.zeros_like(layer[..., :1, :])
            one[..., -1] = 1.0
            layer = torch.cat([layer, one], dim=-2)
        layers.append(layer)
    return layers


class Stack:
    """The engine of a :class:`fedmarket.models.network.Network`: the chain rule, written out."""

    def __init__(self, network: Network) -> None:
        self._layers = layers_of([parameter.detach().double() for parameter in network.parameters()])
        self._scales = network.scales.double()

    def __call__(self, batch: Batch) -> list[Dense]:
        """Return the parts of the batch's rows, in the order of ``network.parameters()``."""
        exact = batch.exact
        return stacked(
            self._layers,
            self._scales,
            batch.objective,
            rows=exact.rows,
            squares=exact.squares,
            targets=exact.targets,
            weights=exact.weights,
        )


def stacked(
    layers: Layers,
    scales: torch.Tensor,
    objective: Objective,
    *,
    rows: torch.Tensor,
    squares: torch.Tensor,
    targets: torch.Tensor,
    weights: torch.Tensor | None,
    product: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = torch.matmul,
) -> list[Dense]:
    """Return the parts of linear layers with ReLU between them; all float64.

    Args:
        layers: by :func:`layers_of`, in the shape that ``product`` expects.
        scales: (outputs,) by which the last layer's outputs are multiplied.
        objective: what is learned of the targets.
        rows: (n, width + 1), the last of each 1.
        squares: (n,) their squared norms.
        targets: (n, targets).
        weights: (n, 1) of the rows' losses; None for 1.
        product: of rows (n, i) and a transposed layer (..., i, o), (n, o).
    """
    inputs, norms = [rows], [squares]
    for layer in layers[:-1]:
        inputs.append(product(inputs[-1], layer.mT).clamp_(min=0.0))
        norms.append(squares_of(inputs[-1]))
    outputs = product(inputs[-1], layers[-1].mT) * scales
    residuals = [_residuals(objective, outputs, targets) * (scales if weights is None else scales * weights)]
    for layer, hidden in zip(reversed(layers[1:]), reversed(inputs[1:]), strict=True):
        # A unit that is off hands nothing back: the derivative of ReLU at 0 is taken as 0, as torch does.
        back = product(residuals[-1], layer[..., : residuals[-1].shape[-1], :-1])
        residuals.append(torch.ops.aten.threshold_backward(back, hidden[:, :-1], 0.0))
    return [
        Dense(inputs=one, squares=norm, residuals=by)
        for one, norm, by in zip(inputs, norms, reversed(residuals), strict=True)
    ]


def _residuals(objective: Objective, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the derivative of each row's loss by its outputs, (n, outputs), with bits that its place does not change.

    Torch takes whole vectors of numbers by other code for exp and log than the few that are left over at the end.
    """
    missing = -len(outputs) % VECTOR
    if not missing:
        return objective.residuals(outputs, targets)
    padded = (torch.nn.functional.pad(one, (0, 0, 0, missing)) for one in (outputs, targets))
    return objective.residuals(*padded)[: len(outputs)]


class Captured:
    """The engine of any module that :func:`has_closed_form` accepts: layers' inputs and residuals as they come by.

    Where a layer turns out to be used twice, or on several vectors a row, Opacus goes on.
    """

    def __init__(self, network: nn.Module) -> None:
        # Of parameters that ask for no gradient, autograd makes the residuals and nothing else.
        self._network = copy.deepcopy(network).double().requires_grad_(False)
        self._layers = [module for module in self._network.modules() if isinstance(module, CLOSED)]

    def __call__(self, batch: Batch) -> list[Part]:
        """Return the parts of the batch's rows, in the order of ``network.parameters()``."""
        with self._watched() as seen:
            total = losses(self._network, batch).sum()
        if sorted(use.place for use in seen) != list(range(len(self._layers))) or any(use.misfit for use in seen):
            return PerExample(self._network.requires_grad_())(batch)
        by_outputs = torch.autograd.grad(total, [use.outputs for use in seen], materialize_grads=True)
        found = {
            use.place: _part(self._layers[use.place], use.inputs[0].detach(), residuals)
            for use, residuals in zip(seen, by_outputs, strict=True)
        }
        return [found[place] for place in range(len(self._layers))]

    @contextmanager
    def _watched(self) -> Iterator[list["_Use"]]:
        seen: list[_Use] = []

        def watching(place: int) -> Callable[..., torch.Tensor]:
            def watch(_: nn.Module, inputs: tuple[torch.Tensor, ...], outputs: torch.Tensor) -> torch.Tensor:
                if not outputs.requires_grad:
                    outputs.requires_grad_()
                seen.append(_Use(place, self._layers[place], inputs, outputs))
                return outputs.clone()  # which the module may change in place

            return watch

        with ExitStack() as hooks, torch.enable_grad():
            for place, layer in enumerate(self._layers):
                hooks.callback(layer.register_forward_hook(watching(place)).remove)
            yield seen


@dataclass(frozen=True, slots=True)
class _Use:
    """One call of a layer, by its place among the layers."""

    place: int
    layer: nn.Module
    inputs: tuple[torch.Tensor, ...]
    outputs: torch.Tensor

    @property
    def misfit(self) -> bool:
        """Whether the layer has no closed form for such inputs."""
        if len(self.inputs) != 1:
            return True
        dimensions = self.inputs[0].ndim
        return dimensions not in (1, 2) if isinstance(self.layer, nn.Embedding) else dimensions != 2


CLOSED = (nn.Linear, nn.Embedding, nn.EmbeddingBag)
"""Layers with a closed form."""


def has_closed_form(network: nn.Module) -> bool:
    """Return whether all parameters are in linear layers and embeddings, none in two of them.

    An embedding counts that looks its vectors up and no more: not one that shortens or rescales them on the way, nor a
    bag of their maxima.
    """
    owners = [module for module in network.modules() if next(module.parameters(recurse=False), None) is not None]
    held = [id(parameter) for module in owners for parameter in module.parameters(recurse=False)]
    return all(type(module) in CLOSED and is_plain(module) for module in owners) and len(held) == len(set(held))


def is_plain(layer: nn.Module) -> bool:
    """Return whether a layer is linear in its parameters and keeps rows apart, as far as its settings tell."""
    if not isinstance(layer, nn.Embedding | nn.EmbeddingBag):
        return True
    return layer.max_norm is None and not layer.scale_grad_by_freq and getattr(layer, "mode", "") != "max"


def _part(module: Any, inputs: torch.Tensor, residuals: torch.Tensor) -> Part:
    if isinstance(module, nn.Linear):
        intercept = module.bias is not None
        inputs = with_intercept(inputs) if intercept else inputs
        return Dense(inputs=inputs, squares=squares_of(inputs), residuals=residuals, intercept=intercept)
    ids = inputs if inputs.ndim == 2 else inputs[:, None]
    padding, size = module.padding_idx, module.num_embeddings
    if isinstance(module, nn.Embedding):
        residuals = residuals.reshape(*ids.shape, module.embedding_dim)
    else:
        kept = torch.ones_like(ids) if padding is None else ids != padding
        share = 1.0 if module.mode == "sum" else 1.0 / kept.sum(dim=1).clamp(min=1)[:, None, None]
        residuals = (residuals[:, None, :] * share).expand(-1, ids.shape[1], -1)
    if padding is not None:  # torch learns nothing there
        residuals = residuals * (ids != padding)[:, :, None]
    return Lookup(ids=ids, residuals=residuals, size=size)
