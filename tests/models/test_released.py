"""A released model survives the disk, is bound to its contract, and says whether it was trained with privacy."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from scipy.special import expit

from fedmarket.config import LogisticModel, MlpModel, Model, TweedieModel, ValueModel
from fedmarket.contract.layout import layout_of
from fedmarket.contract.schema import CategoryColumn, Contract, Label, NumericColumn, PrivacyTerms, Value
from fedmarket.errors import ConfigError, TableError
from fedmarket.models.network import network_of, parameter_count
from fedmarket.models.objectives import RESPONSE, objective_of
from fedmarket.models.prediction import REACH
from fedmarket.models.released import FORMAT, load_model, predict, save_model, seen, typical_customer
from fedmarket.models.state import ModelState

CONTRACT = Contract(
    format="fedmarket-contract/1",
    name="test",
    task="propensity",
    minimum_parties=1,
    label=Label(column="y", positive="yes", negative="no"),
    privacy=PrivacyTerms(unit="row", adjacency="add-or-remove-one", delta=1e-5),
    columns=(
        NumericColumn(name="age", kind="numeric", lower=0, upper=100, edges=(20, 50)),
        CategoryColumn(name="colour", kind="category", vocabulary=("red", "blue")),
    ),
)
MODELS = {
    "logistic": LogisticModel(kind="logistic", binning=False),
    "binned": LogisticModel(kind="logistic", binning=True),
    "mlp": MlpModel(kind="mlp", binning=True, hidden=(4, 2)),
}
EACH = pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)


def state_of(model: LogisticModel | MlpModel, seed: int = 0) -> ModelState:
    rng = np.random.default_rng(seed)
    width = layout_of(CONTRACT, binning=model.binning).width
    parameters = rng.standard_normal(parameter_count(network_of(model, width)))
    return ModelState(
        centre=rng.random(width),
        scale=0.5 + rng.random(width),
        parameters=parameters,
        calibration=np.array([-1.0, 0.8, 0.3]),
    )


def responses(model: LogisticModel | MlpModel, state: ModelState, features: np.ndarray, **keys: bool) -> np.ndarray:
    prediction = predict(model, RESPONSE, state, features, **keys)
    assert list(prediction.columns) == ["response"]
    return prediction.columns["response"]


@EACH
def test_a_model_comes_back_as_it_was_saved(model: LogisticModel | MlpModel, tmp_path: Path):
    state, path = state_of(model), tmp_path / "deep" / "model.safetensors"
    save_model(path, state, model=model, contract=CONTRACT, private=True)
    found = load_model(path, CONTRACT)
    loaded_model, loaded, layout = found.model, found.state, found.layout
    assert loaded_model == model
    assert found.objective == RESPONSE
    assert layout == layout_of(CONTRACT, binning=model.binning)
    for name in ("centre", "scale", "parameters", "calibration"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(state, name))
        assert getattr(loaded, name).dtype == np.float64
    assert [entry.name for entry in path.parent.iterdir()] == ["model.safetensors"]
    features = np.random.default_rng(1).random((6, layout.width), dtype=np.float32)
    np.testing.assert_array_equal(responses(loaded_model, loaded, features), responses(model, state, features))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_model(path, state_of(MODELS["logistic"]), model=MODELS["logistic"], contract=CONTRACT, private=True)
    return path


def test_a_model_is_refused_under_another_contract_and_both_are_named(saved: Path):
    other = Contract.model_validate({**CONTRACT.model_dump(), "name": "other"})
    with pytest.raises(ConfigError, match=rf"trained under contract {CONTRACT.hash[:12]}, not {other.hash[:12]}"):
        load_model(saved, other)


@pytest.mark.parametrize("kept", [0, 4, 8, 100, -1, -40])
def test_a_truncated_file_is_refused(saved: Path, kept: int):
    saved.write_bytes(saved.read_bytes()[:kept])
    with pytest.raises(TableError, match="truncated or different"):
        load_model(saved, CONTRACT)


@pytest.mark.parametrize("content", [b"age;colour\n30;red\n" * 50, b"\x80\x04\x95.", b"\xff" * 64, b"{}" * 8])
def test_another_kind_of_file_is_refused(saved: Path, content: bytes):
    saved.write_bytes(content)
    with pytest.raises(TableError, match="truncated or different"):
        load_model(saved, CONTRACT)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path):
    with pytest.raises(TableError, match=r"none\.safetensors: cannot be read"):
        load_model(tmp_path / "none.safetensors", CONTRACT)


def write(path: Path, *, tensors: dict[str, object] | None = None, metadata: dict[str, object] | None = None) -> None:
    """Write a good model with some tensors and metadata changed; None takes one out."""
    state, model = state_of(MODELS["logistic"]), MODELS["logistic"]
    whole = {name: getattr(state, name) for name in ("centre", "scale", "parameters", "calibration")}
    words = {"format": FORMAT, "model": model.model_dump_json(), "contract": CONTRACT.hash}
    kept = {name: value for name, value in {**whole, **(tensors or {})}.items() if value is not None}
    said = {name: value for name, value in {**words, **(metadata or {})}.items() if value is not None}
    save_file(kept, path, metadata=said)


def test_the_file_that_the_bad_ones_are_made_from_is_good(tmp_path: Path):
    write(tmp_path / "model")
    assert load_model(tmp_path / "model", CONTRACT).model == MODELS["logistic"]


BAD = {
    "another format": {"metadata": {"format": "fedmarket-model/2"}},
    "no format": {"metadata": {"format": None}},
    "no model": {"metadata": {"model": None}},
    "model is no JSON": {"metadata": {"model": "logistic"}},
    "unknown model": {"metadata": {"model": json.dumps({"kind": "forest", "binning": False})}},
    "unknown key": {"metadata": {"model": json.dumps({"kind": "logistic", "binning": False, "extra": 1})}},
    "no parameters": {"tensors": {"parameters": None}},
    "no scale": {"tensors": {"scale": None}},
    "one tensor more": {"tensors": {"more": np.zeros(1)}},
    "parameters too short": {"tensors": {"parameters": np.zeros(3)}},
    "parameters of another shape": {"tensors": {"parameters": np.zeros((7, 1))}},
    "parameters not finite": {"tensors": {"parameters": np.full(7, np.nan)}},
    "centre too long": {"tensors": {"centre": np.zeros(9)}},
    "scale too short": {"tensors": {"scale": np.ones(5)}},
    "scale not finite": {"tensors": {"scale": np.full(6, np.inf)}},
    "scale of float32": {"tensors": {"scale": np.ones(6, dtype=np.float32)}},
    "centre of integers": {"tensors": {"centre": np.zeros(6, dtype=np.int64)}},
    "calibration too long": {"tensors": {"calibration": np.zeros(4)}},
    "calibration infinite": {"tensors": {"calibration": np.array([0.0, np.inf, 0.0])}},
}


@pytest.mark.parametrize("changes", BAD.values(), ids=BAD)
def test_a_document_that_does_not_fit_is_refused_when_loaded(tmp_path: Path, changes: dict[str, dict[str, object]]):
    assert parameter_count(network_of(MODELS["logistic"], layout_of(CONTRACT, binning=False).width)) == 7
    write(tmp_path / "model", **changes)
    with pytest.raises(TableError, match=r"expected a fedmarket-model/1 file|do not fit the contract"):
        load_model(tmp_path / "model", CONTRACT)


def test_a_file_without_a_contract_is_refused(tmp_path: Path):
    write(tmp_path / "model", metadata={"contract": None})
    with pytest.raises(ConfigError, match="trained under contract"):
        load_model(tmp_path / "model", CONTRACT)


def test_predicting_rows_of_another_width_is_refused():
    features = np.zeros((3, 5), dtype=np.float32)
    with pytest.raises(ValueError, match=r"expected 6 parameters, got an array of shape \(7,\)"):
        responses(MODELS["logistic"], state_of(MODELS["logistic"]), features)


def test_a_prediction_is_the_recalibrated_network_of_the_centred_and_scaled_row():
    state = state_of(MODELS["logistic"])
    features = np.random.default_rng(2).random((4, 6), dtype=np.float32)
    raw = (features - state.centre) * state.scale @ state.parameters[:6] + state.parameters[6]
    shown = -1.0 + 0.8 * REACH * np.tanh((raw - 0.3) / REACH)
    np.testing.assert_allclose(responses(MODELS["logistic"], state, features), expit(shown), rtol=1e-5)
    np.testing.assert_allclose(responses(MODELS["logistic"], state, features, calibrated=False), expit(raw), rtol=1e-5)
    assert responses(MODELS["logistic"], state, features[:0]).shape == (0,)


def test_scaling_a_place_up_and_its_parameter_down_changes_no_prediction():
    state, model = state_of(MODELS["logistic"]), MODELS["logistic"]
    features = np.random.default_rng(2).random((4, 6), dtype=np.float32)
    factors = np.array([1.0, 2.0, 0.5, 4.0, 1.0, 0.25])
    moved = replace(state, scale=state.scale * factors, parameters=state.parameters / np.append(factors, 1.0))
    np.testing.assert_allclose(responses(model, moved, features), responses(model, state, features), rtol=1e-6)
    unmoved = replace(moved, scale=state.scale)
    assert np.abs(responses(model, unmoved, features) - responses(model, state, features)).max() > 1e-3


def test_rows_are_seen_as_float32_and_left_as_they_were():
    state, features = state_of(MODELS["logistic"]), np.random.default_rng(2).random((4, 6), dtype=np.float32)
    before = features.copy()
    rows = seen(features, state)
    assert rows.dtype == torch.float32
    np.testing.assert_allclose(rows.numpy(), (before - state.centre) * state.scale, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(features, before)


@pytest.mark.parametrize("vector", ["centre", "scale", "parameters", "calibration"])
def test_the_hash_of_a_model_is_that_of_every_vector_in_its_place(vector: str):
    state = state_of(MODELS["logistic"])
    changed = getattr(state, vector).copy()
    changed[-1] = np.nextafter(changed[-1], np.inf)
    assert replace(state, **{vector: changed}).hash != state.hash == replace(state).hash
    assert replace(state, centre=state.scale, scale=state.centre).hash != state.hash


@pytest.mark.parametrize("private", [True, False])
def test_a_model_says_whether_it_was_trained_with_secret_noise(tmp_path: Path, private: bool):
    path = tmp_path / "model.safetensors"
    save_model(path, state_of(MODELS["logistic"]), model=MODELS["logistic"], contract=CONTRACT, private=private)
    assert load_model(path, CONTRACT).private is private
    assert (b"NOT PRIVATE" in path.read_bytes()) is not private


# Models of a value.

VALUE = Value(column="spend", currency="EUR", upper=2000, typical=30)
VALUED = {
    "value": CONTRACT.model_copy(update={"task": "ltv", "label": None, "value": VALUE}),
    "response and value": CONTRACT.model_copy(update={"task": "propensity-and-ltv", "value": VALUE}),
}
VALUE_MODELS: dict[str, Model] = {
    "ziln": ValueModel(kind="ziln", binning=False, hidden=()),
    "deep ziln": ValueModel(kind="ziln", binning=True, hidden=(4, 2)),
    "two-part": ValueModel(kind="two-part", binning=False, hidden=(3,)),
    "tweedie": TweedieModel(kind="tweedie", binning=True, hidden=(), power=1.4),
}
EACH_VALUED = pytest.mark.parametrize("contract", VALUED.values(), ids=VALUED)
EACH_VALUE_MODEL = pytest.mark.parametrize("model", VALUE_MODELS.values(), ids=VALUE_MODELS)


def value_state(model: Model, contract: Contract) -> ModelState:
    rng, objective = np.random.default_rng(3), objective_of(model, contract)
    width = layout_of(contract, binning=model.binning).width
    return ModelState(
        centre=rng.random(width),
        scale=0.5 + rng.random(width),
        parameters=rng.standard_normal(parameter_count(network_of(model, width, objective))),
        calibration=objective.uncalibrated + 0.1 * rng.random(objective.uncalibrated.size),
    )


@EACH_VALUED
@EACH_VALUE_MODEL
def test_a_model_of_a_value_comes_back_as_it_was_saved(model: Model, contract: Contract, tmp_path: Path):
    state, objective, path = value_state(model, contract), objective_of(model, contract), tmp_path / "model"
    save_model(path, state, model=model, contract=contract, private=True)
    found = load_model(path, contract)
    assert (found.model, found.objective, found.private) == (model, objective, True)
    assert found.state.hash == state.hash
    features = np.random.default_rng(1).random((6, len(state.centre)), dtype=np.float32)
    before, after = (
        predict(model, objective, state, features).columns,
        predict(found.model, found.objective, found.state, features).columns,
    )
    assert list(before) == list(after)
    for name, values in before.items():
        assert values.shape == (6,)
        np.testing.assert_array_equal(after[name], values)


@EACH_VALUED
@EACH_VALUE_MODEL
@pytest.mark.parametrize("off", [-1, 1])
def test_a_calibration_of_another_length_is_refused_in_one_line(
    model: Model, contract: Contract, off: int, tmp_path: Path
):
    state = value_state(model, contract)
    calibration = np.ones(state.calibration.size + off)
    save_model(tmp_path / "m", replace(state, calibration=calibration), model=model, contract=contract, private=True)
    with pytest.raises(TableError, match=r"^\S+/m: the model's numbers do not fit the contract$"):
        load_model(tmp_path / "m", contract)


@EACH_VALUE_MODEL
def test_a_model_of_a_value_is_refused_under_a_contract_without_one(model: Model, tmp_path: Path):
    contract = VALUED["value"]
    save_model(tmp_path / "m", value_state(model, contract), model=model, contract=contract, private=True)
    with pytest.raises(ConfigError, match="trained under contract"):
        load_model(tmp_path / "m", CONTRACT)


@EACH_VALUED
@EACH_VALUE_MODEL
def test_the_typical_customer_is_the_row_at_the_centre(model: Model, contract: Contract):
    state, objective = value_state(model, contract), objective_of(model, contract)
    at_centre = predict(model, objective, state, state.centre[None].astype(np.float32)).columns
    found = typical_customer(model, objective, state)
    assert list(found.columns) == list(at_centre)
    for name, values in found.columns.items():
        np.testing.assert_allclose(values, at_centre[name], rtol=1e-5)
    assert found.value_or_zero == found.columns["value"][0] > 0
