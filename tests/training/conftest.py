"""Small networks with rows, and mechanisms, for everything that is computed over rows."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from fedmarket.config import LogisticModel, MlpModel
from fedmarket.models.network import Network, load_vector, network_of, parameter_count
from fedmarket.models.objectives import RESPONSE, Objective
from fedmarket.privacy.mechanism import Mechanism
from fedmarket.training.batch import Batch

MODELS = {
    "logistic": LogisticModel(kind="logistic", binning=False),
    "mlp": MlpModel(kind="mlp", binning=False, hidden=(5, 3)),
}


@pytest.fixture(params=MODELS, scope="session")
def model(request: pytest.FixtureRequest) -> LogisticModel | MlpModel:
    return MODELS[request.param]


@pytest.fixture(scope="session")
def network_at() -> Callable[..., Network]:
    """Give a network of ``model`` for rows of ``width``, at parameters drawn with ``seed`` and ``scale``."""

    def at(
        model: LogisticModel | MlpModel,
        width: int,
        *,
        objective: Objective = RESPONSE,
        seed: int = 0,
        scale: float = 0.7,
    ) -> Network:
        network = network_of(model, width, objective)
        load_vector(network, scale * np.random.default_rng(seed).standard_normal(parameter_count(network)))
        return network

    return at


@pytest.fixture(scope="session")
def rows_of() -> Callable[..., Batch]:
    """Give ``n`` rows of ``width`` with labels."""

    def rows(n: int, width: int, *, seed: int = 0, scale: float = 1.0) -> Batch:
        rng = np.random.default_rng(seed)
        features = (scale * rng.standard_normal((n, width))).astype(np.float32)
        targets = torch.from_numpy((rng.random((n, 1)) < 0.3).astype(np.float32))
        return Batch(features=torch.from_numpy(features), targets=targets)

    return rows


@pytest.fixture(scope="session")
def mechanism() -> Callable[..., Mechanism]:
    def build(**changes: Any) -> Mechanism:
        whole = {"phase": "update", "clip_norm": 0.5, "noise_multiplier": 3.0, "sample_rate": 1.0, "releases": 1}
        return Mechanism(**{**whole, "length": 1, **changes})

    return build
