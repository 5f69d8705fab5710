"""A start says the same of centred rows as of encoded ones, and its document is taken whole or refused in one line."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fedmarket.config import LogisticModel, MlpModel, Model, ValueModel
from fedmarket.contract.schema import Contract, load_contract
from fedmarket.errors import ConfigError
from fedmarket.models.network import first_units, load_vector, network_of, outputs_of, parameter_count
from fedmarket.models.objectives import RESPONSE, Objective, ZeroInflatedLognormal
from fedmarket.models.start import FORMAT, Start, load_start, placed, save_start

WIDTH = 5
VALUE = Objective(response=False, value=ZeroInflatedLognormal(typical=60.0, upper=2000.0))
NETWORKS: dict[str, tuple[Model, Objective]] = {
    "linear": (LogisticModel(kind="logistic", binning=False), RESPONSE),
    "linear value": (ValueModel(kind="ziln", binning=False, hidden=()), VALUE),
    "hidden": (MlpModel(kind="mlp", binning=False, hidden=(4,)), RESPONSE),
    "deep value": (ValueModel(kind="ziln", binning=False, hidden=(6, 3)), VALUE),
}
EACH = pytest.mark.parametrize("name", NETWORKS)
NUMBERS = st.floats(-2.0, 2.0)


@st.composite
def moves(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    centre = draw(arrays(np.float64, WIDTH, elements=NUMBERS))
    return centre, draw(arrays(np.float64, WIDTH, elements=st.floats(0.05, 20.0)))


def vector_for(name: str, seed: int) -> tuple[np.ndarray, int]:
    """Return parameters of the network, and the outputs of its first layer."""
    model, objective = NETWORKS[name]
    count = parameter_count(network_of(model, WIDTH, objective))
    return np.random.default_rng(seed).normal(0.0, 0.7, count), first_units(model, objective)


def first_layer(vector: np.ndarray, units: int, rows: np.ndarray) -> np.ndarray:
    weights = vector[: units * WIDTH].reshape(units, WIDTH)
    return rows @ weights.T + vector[units * WIDTH : units * (WIDTH + 1)]


@EACH
@given(move=moves(), seed=st.integers(0, 50))
def test_a_placed_first_layer_says_the_same_of_rows_that_were_moved(name: str, move, seed: int):
    (vector, units), (centre, scale) = vector_for(name, seed), move
    rows = np.random.default_rng(seed).normal(size=(7, WIDTH))
    there = placed(vector, units=units, centre=centre, scale=scale)
    expected = first_layer(vector, units, rows)
    np.testing.assert_allclose(first_layer(there, units, (rows - centre) * scale), expected, rtol=1e-9, atol=1e-9)
    np.testing.assert_array_equal(there[units * (WIDTH + 1) :], vector[units * (WIDTH + 1) :])


@EACH
@given(move=moves(), seed=st.integers(0, 50))
def test_a_placed_network_says_the_same_of_rows_that_were_moved(name: str, move, seed: int):
    (vector, units), (centre, scale) = vector_for(name, seed), move
    model, objective = NETWORKS[name]
    rows = np.random.default_rng(seed).normal(size=(7, WIDTH))
    said = []
    for parameters, seen in (
        (vector, rows),
        (placed(vector, units=units, centre=centre, scale=scale), (rows - centre) * scale),
    ):
        network = network_of(model, WIDTH, objective)
        load_vector(network, parameters)
        said.append(outputs_of(network, torch.from_numpy(seen.astype(np.float32))))
    np.testing.assert_allclose(said[1], said[0], rtol=1e-4, atol=1e-4)


@EACH
@given(first=moves(), second=moves())
def test_two_moves_are_one(name: str, first, second):
    vector, units = vector_for(name, 0)
    (c, s), (d, t) = first, second
    twice = placed(placed(vector, units=units, centre=c, scale=s), units=units, centre=d, scale=t)
    once = placed(vector, units=units, centre=c + d / s, scale=s * t)
    np.testing.assert_allclose(twice, once, rtol=1e-9, atol=1e-9)


@EACH
@given(move=moves())
def test_the_inverse_move_gives_the_parameters_back(name: str, move):
    (vector, units), (centre, scale) = vector_for(name, 0), move
    there = placed(vector, units=units, centre=centre, scale=scale)
    back = placed(there, units=units, centre=-centre * scale, scale=1 / scale)
    np.testing.assert_allclose(back, vector, rtol=1e-9, atol=1e-9)


def test_placing_leaves_its_argument_alone():
    vector, units = vector_for("hidden", 0)
    before = vector.copy()
    placed(vector, units=units, centre=np.ones(WIDTH), scale=np.full(WIDTH, 2.0))
    np.testing.assert_array_equal(vector, before)


# The document.


@pytest.fixture(scope="module")
def contract(write_value_market, tmp_path_factory: pytest.TempPathFactory) -> Contract:
    return load_contract(write_value_market(tmp_path_factory.mktemp("market")).parent / "contract.toml")


@given(parameters=arrays(np.float64, 4, elements=st.floats(allow_nan=False, allow_infinity=False)))
def test_parameters_come_back_to_the_last_bit(contract: Contract, tmp_path_factory, parameters: np.ndarray):
    path = tmp_path_factory.mktemp("start") / "start.json"
    start = Start(parameters=parameters, made_by="a test, in words: \N{PLUS-MINUS SIGN} \"'")
    save_start(path, start, contract)
    found = load_start(path, contract, parameters=4)
    assert found.parameters.tobytes() == parameters.tobytes()
    assert (found.made_by, found.hash) == (start.made_by, start.hash)


def test_the_hash_is_of_every_bit_of_the_parameters_and_of_nothing_else():
    start = Start(parameters=np.array([0.0, 1.0]), made_by="one")
    assert start.hash == Start(parameters=np.array([0.0, 1.0]), made_by="another").hash
    others = ([0.0, np.nextafter(1.0, 2.0)], [-0.0, 1.0], [1.0, 0.0], [0.0, 1.0, 0.0])
    assert len({start.hash, *(Start(parameters=np.array(one), made_by="").hash for one in others)}) == 5


def test_a_document_holds_no_path_and_nothing_that_is_not_said(contract: Contract, tmp_path: Path):
    save_start(tmp_path / "start.json", Start(parameters=np.array([0.5]), made_by="a test"), contract)
    text = (tmp_path / "start.json").read_text(encoding="utf-8")
    document = {"format": FORMAT, "contract": contract.hash, "made_by": "a test", "parameters": [0.5]}
    assert json.loads(text) == document
    assert str(tmp_path) not in text
    assert [path.name for path in tmp_path.iterdir()] == ["start.json"]


def document(agreed: Contract, **changed: Any) -> str:
    whole = {"format": FORMAT, "contract": agreed.hash, "made_by": "x", "parameters": [0.5, 1]} | changed
    return json.dumps({key: value for key, value in whole.items() if value is not None})


BAD: dict[str, tuple[dict[str, Any] | str, str]] = {
    "another format": ({"format": "fedmarket-start/2"}, f"expected a {FORMAT} document"),
    "no format": ({"format": None}, f"expected a {FORMAT} document"),
    "another contract": ({"contract": "0" * 64}, "made for contract 000000000000, not "),
    "too many": ({"parameters": [1.0, 2.0, 3.0]}, "the model has 2 parameters, got 3"),
    "none": ({"parameters": []}, "the model has 2 parameters, got 0"),
    "no parameters": ({"parameters": None}, "parameters: missing"),
    "a number for a list": ({"parameters": 5}, "parameters: "),
    "a word for a list": ({"parameters": "12"}, "parameters: "),
    "a table for a list": ({"parameters": {"0": 1.0, "1": 2.0}}, "parameters: "),
    "words for numbers": ({"parameters": ["0.5", "1"]}, "parameters.0: "),
    "truth for a number": ({"parameters": [True, 1.0]}, "parameters.0: "),
    "lists in the list": ({"parameters": [[1.0], 1.0]}, "parameters.0: "),
    "nothing in the list": ({"parameters": [None, 1.0]}, "parameters.0: "),
    "NaN": ({"parameters": [float("nan"), 1.0]}, "parameters.0: Input should be a finite number"),
    "Infinity": ({"parameters": [1.0, float("inf")]}, "parameters.1: Input should be a finite number"),
    "-Infinity": ({"parameters": [1.0, float("-inf")]}, "parameters.1: Input should be a finite number"),
    "too large a number": ({"parameters": [10**400, 1.0]}, "parameters.0: "),
    "an unknown key": ({"colour": 1}, "colour: unknown key"),
    "no maker": ({"made_by": None}, "made_by: missing"),
    "not JSON": ("{", "not a JSON document"),
    "nothing": ("", "not a JSON document"),
    "a list": ("[]", f"expected a {FORMAT} document"),
    "a number": ("7", f"expected a {FORMAT} document"),
    "huge nesting": ("[" * 200_000, "not a JSON document"),
    "huge digits": ("9" * 10_000, "not a JSON document"),
    "not UTF-8": ("\udcff", "not a JSON document"),
}


@pytest.mark.parametrize(("changed", "said"), BAD.values(), ids=BAD)
def test_a_bad_document_is_one_line_with_its_name_and_what_to_do(
    contract: Contract, tmp_path: Path, changed: dict[str, Any] | str, said: str
):
    path = tmp_path / "start.json"
    text = changed if isinstance(changed, str) else document(contract, **changed)
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ConfigError) as caught:
        load_start(path, contract, parameters=2)
    line = str(caught.value)
    assert line.startswith(f"{path}: {said}")
    assert line.endswith("make it anew with fedmarket pretrain")
    assert "\n" not in line


def test_a_good_document_is_taken(contract: Contract, tmp_path: Path):
    (tmp_path / "start.json").write_text(document(contract), encoding="utf-8")
    assert load_start(tmp_path / "start.json", contract, parameters=2).parameters.tolist() == [0.5, 1.0]


def test_a_file_that_is_not_there_is_one_line(contract: Contract, tmp_path: Path):
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(ConfigError, match=r"cannot be read \(.*\); make it with fedmarket pretrain$"):
            load_start(path, contract, parameters=2)
