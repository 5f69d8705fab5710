"""Parameters travel as one vector, start in public, and examples never mix in a network."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import nn

from fedmarket.config import LogisticModel, MlpModel, Model, ValueModel
from fedmarket.models.network import (
    initial_vector,
    load_vector,
    network_of,
    outputs_of,
    parameter_count,
    vector_of,
)
from fedmarket.models.objectives import Objective, ZeroInflatedLognormal

MODELS = {
    "logistic": LogisticModel(kind="logistic", binning=False),
    "mlp": MlpModel(kind="mlp", binning=True, hidden=(4,)),
    "deep mlp": MlpModel(kind="mlp", binning=False, hidden=(5, 3)),
}
COUNTS = {"logistic": 7, "mlp": 4 * 7 + 5, "deep mlp": 5 * 7 + 3 * 6 + 4}
EACH = pytest.mark.parametrize("name", MODELS)


@EACH
def test_the_vector_has_the_parameters_of_all_layers(name: str):
    network = network_of(MODELS[name], 6)
    assert parameter_count(network) == COUNTS[name] == vector_of(network).size
    assert vector_of(network).dtype == np.float64


@EACH
@given(data=st.data())
def test_a_vector_comes_back_rounded_to_float32(name: str, data: st.DataObject):
    network = network_of(MODELS[name], 6)
    vector = data.draw(arrays(np.float64, COUNTS[name], elements=st.floats(-1e30, 1e30)))
    load_vector(network, vector)
    np.testing.assert_array_equal(vector_of(network), vector.astype(np.float32).astype(np.float64))


@EACH
def test_loading_copies(name: str):
    network, vector = network_of(MODELS[name], 6), np.ones(COUNTS[name])
    load_vector(network, vector)
    vector[:] = 5
    vector_of(network)[:] = 7
    np.testing.assert_array_equal(vector_of(network), np.ones(COUNTS[name]))


@EACH
@pytest.mark.parametrize("off", [-1, 1])
def test_a_vector_of_another_length_is_refused(name: str, off: int):
    expected = rf"expected {COUNTS[name]} parameters, got an array of shape \({COUNTS[name] + off},\)"
    with pytest.raises(ValueError, match=expected):
        load_vector(network_of(MODELS[name], 6), np.zeros(COUNTS[name] + off))


def test_the_order_is_that_of_weights_and_bias():
    network = network_of(MODELS["logistic"], 3)
    load_vector(network, np.array([1.0, 10.0, 100.0, 0.5]))
    assert outputs_of(network, torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]])).tolist() == [[321.5], [0.5]]


@EACH
def test_the_start_is_determined_by_the_public_seed_alone(name: str):
    torch.manual_seed(1)
    first = initial_vector(MODELS[name], 6, seed=3)
    torch.manual_seed(2)
    np.testing.assert_array_equal(initial_vector(MODELS[name], 6, seed=3), first)
    other = initial_vector(MODELS[name], 6, seed=4)
    assert np.array_equal(other, first) == (name == "logistic")


@EACH
def test_at_the_start_every_customer_has_the_same_chance(name: str):
    network = network_of(MODELS[name], 6)
    load_vector(network, initial_vector(MODELS[name], 6, seed=0))
    rows = torch.randn(5, 6, generator=torch.manual_seed(0))
    np.testing.assert_array_equal(outputs_of(network, rows), np.zeros((5, 1)))


def test_hidden_layers_start_with_he_variance():
    vector = initial_vector(MlpModel(kind="mlp", binning=False, hidden=(400,)), 50, seed=0)
    weights = vector[: 400 * 50]
    assert weights.var() == pytest.approx(2 / 50, rel=0.03)
    assert not vector[400 * 50 :].any()


@EACH
def test_examples_do_not_mix(name: str):
    network = network_of(MODELS[name], 6)
    load_vector(network, np.random.default_rng(0).standard_normal(COUNTS[name]))
    rows = torch.randn(8, 6, generator=torch.manual_seed(0))
    alone = np.concatenate([outputs_of(network, row.unsqueeze(0)) for row in rows])
    np.testing.assert_allclose(outputs_of(network, rows), alone, rtol=1e-5, atol=1e-6)
    rows[0] = torch.nan
    np.testing.assert_allclose(outputs_of(network, rows)[1:], alone[1:], rtol=1e-5, atol=1e-6)
    layers = [module for module in network.modules() if not list(module.children())]
    assert {type(layer) for layer in layers} <= {nn.Linear, nn.ReLU}


@EACH
def test_outputs_are_float64_and_carry_no_gradient(name: str):
    found = outputs_of(network_of(MODELS[name], 6), torch.zeros(1, 6))
    assert (found.shape, found.dtype) == ((1, 1), np.float64)
    assert outputs_of(network_of(MODELS[name], 6), torch.zeros(0, 6)).shape == (0, 1)


# Several outputs.

JOINT = Objective(response=True, value=ZeroInflatedLognormal(typical=30.0, upper=2000.0))
HEADED: dict[str, Model] = {
    "linear": ValueModel(kind="ziln", binning=False, hidden=()),
    "hidden": ValueModel(kind="ziln", binning=False, hidden=(5,)),
}
EACH_HEADED = pytest.mark.parametrize("name", HEADED)


@EACH_HEADED
def test_a_network_has_as_many_outputs_as_its_objective_each_times_its_scale(name: str):
    network = network_of(HEADED[name], 6, JOINT)
    assert (len(network.layers) == 1) == (name == "linear")
    assert parameter_count(network) == {"linear": 7 * 4, "hidden": 7 * 5 + 6 * 4}[name]
    load_vector(network, np.random.default_rng(0).standard_normal(parameter_count(network)))
    rows = torch.randn(5, 6, generator=torch.manual_seed(0))
    plain = network.body(rows).detach().numpy()
    np.testing.assert_allclose(outputs_of(network, rows), plain * np.array([1.0, 1.0, 0.6, 0.35]), rtol=1e-6)
    assert outputs_of(network, rows[:0]).shape == (0, 4)


@EACH_HEADED
def test_scales_are_no_parameters(name: str):
    network = network_of(HEADED[name], 6, JOINT)
    assert not any("scales" in entry for entry in network.state_dict())
    assert all(parameter is not network.scales for parameter in network.parameters())


@EACH_HEADED
def test_at_the_start_all_customers_are_alike_whatever_is_predicted(name: str):
    network = network_of(HEADED[name], 6, JOINT)
    load_vector(network, initial_vector(HEADED[name], 6, JOINT, seed=0))
    rows = torch.randn(5, 6, generator=torch.manual_seed(0))
    np.testing.assert_array_equal(outputs_of(network, rows), np.zeros((5, 4)))


@EACH_HEADED
def test_outputs_that_overflow_are_large_but_finite(name: str):
    network = network_of(HEADED[name], 6, JOINT)
    load_vector(network, np.full(parameter_count(network), 3e38))
    rows = torch.tensor([[3e38] * 6, [-3e38] * 6, [3e38, -3e38] * 3])
    with torch.no_grad():
        assert not network(rows).isfinite().all()
    assert np.isfinite(outputs_of(network, rows)).all()
