"""Propensity networks, and the flat vector in which their parameters travel.

Only layers whose per-example gradients are exact and whose examples do not mix (no batch normalisation) are used.
"""

import itertools

import numpy as np
import torch
from torch import nn

from fedmarket.arrays import FloatArray
from fedmarket.config import LogisticModel, MlpModel


class PropensityNetwork(nn.Module):
    """Linear layers with ReLU between them; ``forward`` maps (n, width) features to (n,) logits."""

    def __init__(self, width: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        sizes = (width, *hidden)
        layers: list[nn.Module] = []
        for size, following in itertools.pairwise(sizes):
            layers += [nn.Linear(size, following), nn.ReLU()]
        self.body = nn.Sequential(*layers, nn.Linear(sizes[-1], 1))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return the logits, of shape (n,)."""
        return self.body(features).squeeze(-1)  # type: ignore[no-any-return]


def network_of(model: LogisticModel | MlpModel, width: int) -> PropensityNetwork:
    """Return the network that ``model`` describes, for encoded rows of ``width``; its parameters are unset."""
    return PropensityNetwork(width, model.hidden if isinstance(model, MlpModel) else ())


def initial_vector(model: LogisticModel | MlpModel, width: int, *, seed: int) -> FloatArray:
    """Return public starting parameters: zeros for logistic regression, He et al. (2015) for the MLP.

    ``seed`` is public: the start of training is known to everyone and protects nothing.
    """
    network = network_of(model, width)
    generator = torch.Generator().manual_seed(seed)
    *hidden, last = [layer for layer in network.body if isinstance(layer, nn.Linear)]
    with torch.no_grad():
        for layer in hidden:
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu", generator=generator)
            layer.bias.zero_()
        last.weight.zero_()
        last.bias.zero_()
    return vector_of(network)


def vector_of(network: nn.Module) -> FloatArray:
    """Return the parameters as one float64 vector, in the order of ``network.parameters()``."""
    flat = torch.nn.utils.parameters_to_vector(network.parameters())
    return np.asarray(flat.detach().numpy(), dtype=np.float64)


def load_vector(network: nn.Module, vector: FloatArray) -> None:
    """Write ``vector`` into the parameters, rounded to float32.

    Raises:
        ValueError: if the length is not the number of parameters.
    """
    size = parameter_count(network)
    if vector.shape != (size,):
        raise ValueError(f"expected {size} parameters, got an array of shape {vector.shape}")
    flat = torch.from_numpy(np.asarray(vector, dtype=np.float32))
    torch.nn.utils.vector_to_parameters(flat, network.parameters())


def parameter_count(network: nn.Module) -> int:
    """Return how many numbers the network learns."""
    return sum(parameter.numel() for parameter in network.parameters())


def logits(network: nn.Module, features: torch.Tensor) -> FloatArray:
    """Return the logits of ``features`` (n, width) as float64 (n,), without gradients."""
    with torch.no_grad():
        return np.asarray(network(features).numpy(), dtype=np.float64)
