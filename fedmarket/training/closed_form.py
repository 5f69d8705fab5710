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
from fedmarket.training.batch import Batch, squares_of
from fedmarket.training.loss import losses
from fedmarket.training.parts import Dense, Lookup, Part
from fedmarket.training.per_example import PerExample, flattened

VECTOR = 64
"""Numbers that torch takes at once at most."""

Layers = Sequence[tuple[torch.Tensor, torch.Tensor]]
"""Weights (..., out, in) and biases (..., out) in float64, from the first layer to the last."""

Product = Callable[..., torch.Tensor]


class Stack:
    """The engine of a :class:`fedmarket.models.network.Network`: the chain rule, written out."""

    def __init__(self, network: Network) -> None:
        shapes = [parameter.shape for parameter in network.parameters()]
        self._flat = torch.nn.utils.parameters_to_vector(network.parameters()).detach().double()
        self._layers = layers_of(self._flat, shapes)
        self._scales = scales_of(network)

    def load(self, parameters: torch.Tensor) -> None:
        """See :class:`fedmarket.training.gradients.Engine`."""
        self._flat.copy_(parameters)

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


def layers_of(flat: torch.Tensor, shapes: Sequence[torch.Size]) -> Layers:
    """Return views of (..., p) parameters as layers, where each has a weight and a bias of these shapes."""
    split = torch.split(flat, [shape.numel() for shape in shapes], dim=-1)
    shaped = [part.reshape(*part.shape[:-1], *shape) for part, shape in zip(split, shapes, strict=True)]
    return list(zip(shaped[::2], shaped[1::2], strict=True))


def scales_of(network: Network) -> torch.Tensor | None:
    """Return the factors of the outputs in float64, or None where all are 1."""
    return None if bool((network.scales == 1.0).all()) else network.scales.double()


def product_of(rows: torch.Tensor, matrix: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Return (n, i) rows times one matrix (i, o), plus a bias (o,) or nothing."""
    return rows @ matrix if bias is None else torch.addmm(bias, rows, matrix)


def stacked(
    layers: Layers,
    scales: torch.Tensor | None,
    objective: Objective,
    *,
    rows: torch.Tensor,
    squares: torch.Tensor,
    targets: torch.Tensor,
    weights: torch.Tensor | None,
    product: Product = product_of,
) -> list[Dense]:
    """Return the parts of linear layers with ReLU between them; all float64.

    Args:
        layers: in the shape that ``product`` expects.
        scales: (outputs,) by which the last layer's outputs are multiplied; None for 1.
        objective: what is learned of the targets.
        rows: (n, width).
        squares: (n,) their squared norms, with the intercept's 1.
        targets: (n, targets).
        weights: (n, 1) of the rows' losses; None for 1.
        product: of rows (n, i) and matrices (..., i, o), with biases (..., o) or None added, (n, o).
    """
    inputs, norms = [rows], [squares]
    for weight, bias in layers[:-1]:
        inputs.append(product(inputs[-1], weight.mT, bias).relu_())
        norms.append(squares_of(inputs[-1]).add_(1.0))
    last, bias = layers[-1]
    outputs = product(inputs[-1], last.mT, bias)
    residuals = [_residuals(objective, outputs if scales is None else outputs.mul_(scales), targets)]
    for factor in (scales, weights):
        if factor is not None:
            residuals[0] = residuals[0] * factor
    for (weight, _), hidden in zip(reversed(layers[1:]), reversed(inputs[1:]), strict=True):
        # A unit that is off hands nothing back: the derivative of ReLU at 0 is taken as 0, as torch does.
        back = product(residuals[-1], weight, None)
        residuals.append(torch.ops.aten.threshold_backward.grad_input(back, hidden, 0.0, grad_input=back))
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
    padded = (torch.constant_pad_nd(one, (0, 0, 0, missing)) for one in (outputs, targets))
    return objective.residuals(*padded)[: len(outputs)]


class Captured:
    """The engine of any module that :func:`has_closed_form` accepts: layers' inputs and residuals as they come by.

    Where a layer turns out to be used twice, or on several vectors a row, Opacus goes on.
    """

    def __init__(self, network: nn.Module) -> None:
        # Of parameters that ask for no gradient, autograd makes the residuals and nothing else.
        self._network = copy.deepcopy(network).double().requires_grad_(False)
        self._flat = flattened(self._network)
        self._layers = [module for module in self._network.modules() if isinstance(module, CLOSED)]

    def load(self, parameters: torch.Tensor) -> None:
        """See :class:`fedmarket.training.gradients.Engine`."""
        self._flat.copy_(parameters)

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
        squares = squares_of(inputs) + float(intercept)
        return Dense(inputs=inputs, squares=squares, residuals=residuals, intercept=intercept)
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
