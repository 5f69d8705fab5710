"""Networks, and the flat vector in which their parameters travel.

Only layers whose per-example gradients are exact and whose examples do not mix (no batch normalisation) are used.
"""

import itertools

import numpy as np
import torch
from torch import nn

from fedmarket.arrays import FloatArray
from fedmarket.config import LogisticModel, Model
from fedmarket.models.objectives import RESPONSE, Objective


class Network(nn.Module):
    """Linear layers with ReLU between them; ``forward`` maps (n, width) features to (n, outputs).

    Attributes:
        scales: (outputs,) by which the last layer's outputs are multiplied.
    """

    scales: torch.Tensor

    def __init__(self, width: int, hidden: tuple[int, ...], scales: tuple[float, ...]) -> None:
        super().__init__()
        sizes = (width, *hidden)
        layers: list[nn.Module] = []
        for size, following in itertools.pairwise(sizes):
            layers += [nn.Linear(size, following), nn.ReLU()]
        self.body = nn.Sequential(*layers, nn.Linear(sizes[-1], len(scales)))
        self.register_buffer("scales", torch.tensor(scales, dtype=torch.float64).float(), persistent=False)

    @property
    def layers(self) -> list[nn.Linear]:
        """The linear layers, from the first to the last."""
        return [layer for layer in self.body if isinstance(layer, nn.Linear)]

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return the outputs, of shape (n, outputs)."""
        return self.body(features) * self.scales  # type: ignore[no-any-return]


def network_of(model: Model, width: int, objective: Objective = RESPONSE) -> Network:
    """Return the network that ``model`` describes, for encoded rows of ``width``; its parameters are unset."""
    return Network(width, () if isinstance(model, LogisticModel) else model.hidden, objective.scales)


def initial_vector(model: Model, width: int, objective: Objective = RESPONSE, *, seed: int) -> FloatArray:
    """Return public starting parameters: zeros for a linear body, He et al. (2015) for hidden layers.

    ``seed`` is public: the start of training is known to everyone and protects nothing.
    """
    network = network_of(model, width, objective)
    generator = torch.Generator().manual_seed(seed)
    *hidden, last = network.layers
    with torch.no_grad():
        for layer in hidden:
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu", generator=generator)
            layer.bias.zero_()
        last.weight.zero_()
        last.bias.zero_()
    return vector_of(network)


def first_units(model: Model, objective: Objective) -> int:
    """Return how many outputs the first layer has."""
    return len(objective.scales) if isinstance(model, LogisticModel) or not model.hidden else model.hidden[0]


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


def outputs_of(network: nn.Module, features: torch.Tensor) -> FloatArray:
    """Return the outputs for ``features`` (n, width) as float64 (n, outputs), without gradients.

    Where a row overflows its outputs are large but finite: it must not make a sum unsendable.
    """
    largest = float(np.finfo(np.float32).max)
    with torch.no_grad():
        found = np.asarray(network(features).numpy(), dtype=np.float64)
    return np.asarray(np.nan_to_num(found, posinf=largest, neginf=-largest))
