"""The model as it is released: private centre, network parameters, private recalibration; on disk as safetensors."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from pydantic import TypeAdapter
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from fedmarket.arrays import FeatureArray, Features, FloatArray, blocks_of
from fedmarket.config import Model
from fedmarket.contract.layout import Layout, layout_of
from fedmarket.contract.schema import Contract
from fedmarket.errors import ConfigError, TableError
from fedmarket.files import appearing
from fedmarket.models.network import Network, load_vector, network_of, outputs_of, parameter_count
from fedmarket.models.objectives import Objective, objective_of
from fedmarket.models.prediction import Prediction, prediction_of
from fedmarket.models.state import ModelState

FORMAT = "fedmarket-model/1"
PRIVATE = "differentially private"
NOT_PRIVATE = "NOT PRIVATE"
_SPEC: TypeAdapter[Model] = TypeAdapter(Model)


def seen(features: FeatureArray, state: ModelState) -> torch.Tensor:
    """Return the rows as the network sees them, ``(features - centre) * scale``, (n, width) float32."""
    with np.errstate(over="ignore", invalid="ignore"):  # rows that overflow add nothing, and no warning tells of them
        rows = features - state.centre.astype(np.float32)
        rows *= state.scale.astype(np.float32)
    return torch.from_numpy(rows)


def outputs_at(network: Network, state: ModelState, features: Features) -> FloatArray:
    """Return the outputs of ``network`` for encoded rows (n, width), a block of them at a time, (n, outputs)."""
    blocks = blocks_of(len(features), wide=True)
    return np.concatenate([outputs_of(network, seen(features[block], state)) for block in blocks])


def predict(
    model: Model, objective: Objective, state: ModelState, features: Features, *, calibrated: bool = True
) -> Prediction:
    """Return what the model says of each encoded row of (n, width); without ``calibrated``, the network's own word."""
    network = network_of(model, features.shape[1], objective)
    load_vector(network, state.parameters)
    outputs = outputs_at(network, state, features)
    return prediction_of(objective, outputs, state.calibration if calibrated else None)


def typical_customer(model: Model, objective: Objective, state: ModelState) -> Prediction:
    """Return what the model says of the average row, (1,): rows are centred before the network sees them."""
    network = network_of(model, len(state.centre), objective)
    load_vector(network, state.parameters)
    return prediction_of(objective, outputs_of(network, torch.zeros(1, len(state.centre))), state.calibration)


def save_model(path: Path, state: ModelState, *, model: Model, contract: Contract, private: bool) -> None:
    """Write the model as safetensors, appearing by rename, bound to the contract by its hash.

    ``private`` says whether every release behind it was protected by secret noise; the file says so too.
    """
    metadata = {
        "format": FORMAT,
        "model": model.model_dump_json(),
        "contract": contract.hash,
        "privacy": PRIVATE if private else NOT_PRIVATE,
    }
    tensors = {
        "centre": np.ascontiguousarray(state.centre),
        "scale": np.ascontiguousarray(state.scale),
        "parameters": np.ascontiguousarray(state.parameters),
        "calibration": np.ascontiguousarray(state.calibration),
    }
    with appearing(path) as temporary:
        save_file(tensors, temporary, metadata=metadata)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleasedModel:
    """A model from disk: what it is, its numbers, the layout of its rows, and whether it was trained with privacy."""

    model: Model
    objective: Objective
    state: ModelState
    layout: Layout
    private: bool


def load_model(path: Path, contract: Contract) -> ReleasedModel:
    """Return the model at ``path``; one that does not say that it is private is not.

    Raises:
        TableError: if the file cannot be read or is not a fedmarket model.
        ConfigError: if the model was trained under another contract.
    """
    try:
        with safe_open(path, framework="numpy") as document:
            metadata = document.metadata() or {}
            tensors = {name: document.get_tensor(name) for name in document.keys()}  # noqa: SIM118
        if metadata.get("format") != FORMAT:
            raise TableError(f"{path}: expected a {FORMAT} file")
        model = _SPEC.validate_python(json.loads(metadata["model"]))
        state = ModelState(**tensors)
    except OSError as error:
        raise TableError(f"{path}: cannot be read ({error.strerror or 'no such file'})") from None
    except (SafetensorError, ValueError, KeyError, TypeError):
        raise TableError(f"{path}: expected a {FORMAT} file, found something truncated or different") from None
    if metadata.get("contract") != contract.hash:
        raise ConfigError(
            f"{path}: trained under contract {metadata.get('contract', '')[:12]}, not {contract.hash[:12]}; "
            "give the contract of its run"
        )
    layout, objective = layout_of(contract, binning=model.binning), objective_of(model, contract)
    if not _fits(state, model, objective, layout.width):
        raise TableError(f"{path}: the model's numbers do not fit the contract")
    private = metadata.get("privacy") == PRIVATE
    return ReleasedModel(model=model, objective=objective, state=state, layout=layout, private=private)


def _fits(state: ModelState, model: Model, objective: Objective, width: int) -> bool:
    """Return whether all numbers are finite float64, as many as rows of ``width`` need."""
    parameters = parameter_count(network_of(model, width, objective))
    calibration = objective.uncalibrated.shape
    shapes = {"centre": (width,), "scale": (width,), "parameters": (parameters,), "calibration": calibration}
    vectors = {name: getattr(state, name) for name in shapes}
    return all(
        vector.dtype == np.float64 and vector.shape == shapes[name] and bool(np.isfinite(vector).all())
        for name, vector in vectors.items()
    )
