"""The loss of each row, for engines that differentiate it."""

import torch
from torch import nn

from fedmarket.training.batch import Batch


def losses(network: nn.Module, batch: Batch) -> torch.Tensor:
    """Return the weighted loss of each row, (n,) float64, of a float64 ``network``.

    In float32 what a row is rounded to depends on how many rows go through the kernels with it, and by much where
    parameters are large: taking one row out would move the others.

    Raises:
        ValueError: if outputs or losses have another shape: losses that are not additive over rows would silently
            not be clipped one by one.
    """
    exact = batch.exact
    outputs, expected = network(exact.rows), (len(exact.targets), len(batch.objective.scales))
    if outputs.shape != expected:
        raise ValueError(f"expected outputs of shape {expected}, got {tuple(outputs.shape)}")
    found = batch.objective.losses(outputs, exact.targets)
    if found.shape != expected[:1]:
        raise ValueError(f"expected one loss for each of {expected[0]} rows, got shape {tuple(found.shape)}")
    return found if exact.weights is None else found * exact.weights[:, 0]
