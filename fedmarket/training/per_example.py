"""The engine for modules without a closed form: each row's gradient written out, by Opacus."""

import copy
import warnings

import torch
from torch import nn

from fedmarket.errors import UsageError
from fedmarket.training.batch import Batch
from fedmarket.training.loss import losses
from fedmarket.training.parts import Part, Written


class PerExample:
    """The engine of any module that Opacus differentiates row by row.

    Raises:
        UsageError: if the module has an embedding that Opacus 1.6 differentiates wrongly.
    """

    def __init__(self, network: nn.Module) -> None:
        from opacus import GradSampleModule  # noqa: PLC0415 - seconds that most runs do not need

        for module in network.modules():
            if isinstance(module, nn.EmbeddingBag):
                raise UsageError(
                    "EmbeddingBag: expected ids of shape (n, k) and the mode sum or mean; or use Embedding"
                )
            if isinstance(module, nn.Embedding) and not (module.padding_idx is None and module.max_norm is None):
                raise UsageError("Embedding: expected neither padding_idx nor max_norm beside layers of other kinds")
        self._network = GradSampleModule(copy.deepcopy(network).double(), loss_reduction="sum")
        self._flat = flattened(self._network)

    def load(self, parameters: torch.Tensor) -> None:
        """See :class:`fedmarket.training.gradients.Engine`."""
        self._flat.copy_(parameters)

    def __call__(self, batch: Batch) -> list[Part]:
        """Return the parts of the batch's rows: all parameters in one."""
        with warnings.catch_warnings():
            # Opacus hooks modules whose inputs need no gradient; torch warns although that is what is wanted here.
            warnings.filterwarnings("ignore", message="Full backward hook is firing")
            self._network.zero_grad()
            torch.autograd.backward(losses(self._network, batch).sum())
        rows = [parameter.grad_sample.flatten(start_dim=1) for parameter in self._network.parameters()]
        return [Written(torch.cat(rows, dim=1).detach())]


def flattened(network: nn.Module) -> torch.Tensor:
    """Put all parameters into one flat tensor, of which each is a view from now on, and return it."""
    flat = torch.nn.utils.parameters_to_vector(network.parameters()).detach()
    torch.nn.utils.vector_to_parameters(flat, network.parameters())
    return flat
