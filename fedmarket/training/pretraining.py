"""Training on rows that belong to nobody: the pooled model of imagined customers, without privacy or federation."""

import numpy as np
import torch

from fedmarket.arrays import FeatureArray, FloatArray
from fedmarket.config import Model
from fedmarket.models.network import first_units, initial_vector, network_of
from fedmarket.models.objectives import Objective
from fedmarket.models.start import placed
from fedmarket.training.batch import Batch
from fedmarket.training.gradients import Gradients

STEPS = 300
LEARNING_RATE = 0.3
MOMENTUM = 0.9


def pretrained(
    model: Model, objective: Objective, features: FeatureArray, targets: FeatureArray, *, seed: int
) -> FloatArray:
    """Return the parameters, (p,), that full-batch gradient descent finds, for rows as they are encoded.

    Args:
        model: what is trained.
        objective: what of the targets is learned.
        features: (n, width) encoded rows of imagined customers.
        targets: (n, targets).
        seed: of the starting parameters of hidden layers.
    """
    width = features.shape[1]
    gradients = Gradients(network_of(model, width, objective))
    centre = features.mean(axis=0, dtype=np.float64)
    batch = Batch(
        features=torch.from_numpy((features - centre).astype(np.float32)),
        targets=torch.from_numpy(targets),
        objective=objective,
        lasting=True,
    )
    parameters = initial_vector(model, width, objective, seed=seed)
    velocity = np.zeros_like(parameters)
    for _ in range(STEPS):
        velocity = MOMENTUM * velocity + gradients.clipped_sum(parameters, batch, clip_norm=np.inf) / len(features)
        parameters = parameters - LEARNING_RATE * velocity
    return placed(parameters, units=first_units(model, objective), centre=-centre, scale=np.ones(width))
