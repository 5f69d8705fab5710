"""The clipped sum is what a loop over single rows gives, and no row moves it by more than the clip."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from opacus import GradSampleModule
from opacus.optimizers import DPOptimizer
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from fedmarket.config import LogisticModel, MlpModel
from fedmarket.errors import ProtocolError
from fedmarket.models.network import Network, load_vector, network_of, parameter_count, vector_of
from fedmarket.training import batch as batches
from fedmarket.training.batch import Batch
from fedmarket.training.gradients import clipped_gradient_sum

Model = LogisticModel | MlpModel
NetworkAt = Callable[..., Network]
RowsOf = Callable[..., Batch]

EXACT = 1 + 1e-5
"""A row's own gradient is rounded to float32; the sum is not."""


def gradient_of(network: nn.Module, features: torch.Tensor, target: torch.Tensor) -> np.ndarray:
    loss = binary_cross_entropy_with_logits(network(features.unsqueeze(0)), target.unsqueeze(0), reduction="sum")
    parts = torch.autograd.grad(loss, list(network.parameters()))
    return np.concatenate([part.numpy().ravel() for part in parts]).astype(np.float64)


def loop(network: nn.Module, rows: Batch, clip_norm: float) -> np.ndarray:
    """Return the sum over rows, one by one: autograd, weigh, clip, add."""
    total = np.zeros(parameter_count(network))
    weights = torch.ones(len(rows.targets)) if rows.weights is None else rows.weights
    for row, target, weight in zip(rows.features, rows.targets, weights, strict=True):
        gradient = float(weight) * gradient_of(network, row, target)
        total += gradient * min(1.0, clip_norm / max(float(np.linalg.norm(gradient)), 1e-300))
    return total


@pytest.mark.parametrize("clip_norm", [0.05, 0.8, 5.0, np.inf])
def test_the_sum_is_that_of_a_loop_over_rows(model: Model, clip_norm: float, network_at: NetworkAt, rows_of: RowsOf):
    network, rows = network_at(model, 4), rows_of(60, 4, scale=2.0)
    expected = loop(network, rows, clip_norm)
    found = clipped_gradient_sum(network, rows, clip_norm=clip_norm)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    if clip_norm < 1:  # the rows are large enough that a sum without clipping, or clipped as a whole, is another
        plain = loop(network, rows, np.inf)
        assert np.linalg.norm(found - plain) > 0.5
        assert np.linalg.norm(found - plain * min(1, clip_norm / np.linalg.norm(plain))) > 0.01


def test_the_sum_is_opacus_own_up_to_its_float32(model: Model, network_at: NetworkAt, rows_of: RowsOf):
    network, rows = network_at(model, 4), rows_of(200, 4)
    wrapped = GradSampleModule(network_at(model, 4), loss_reduction="sum")
    optimizer = DPOptimizer(
        torch.optim.SGD(wrapped.parameters(), lr=1.0),
        noise_multiplier=0.0,
        max_grad_norm=0.3,
        expected_batch_size=None,
        loss_reduction="sum",
    )
    features = rows.features.clone().requires_grad_()
    binary_cross_entropy_with_logits(wrapped(features), rows.targets, reduction="sum").backward()
    optimizer.clip_and_accumulate()
    opacus = torch.cat([parameter.summed_grad.reshape(-1) for parameter in optimizer.params]).detach().numpy()
    np.testing.assert_allclose(clipped_gradient_sum(network, rows, clip_norm=0.3), opacus, rtol=1e-4, atol=1e-4)


ANY_FEATURES = arrays(
    np.float32,
    st.tuples(st.integers(1, 7), st.just(3)),
    elements=st.floats(-4, 4, width=32) | st.sampled_from([0.0, 1e-30, 1e6, -1e15, 1e25, 3e38, -3e38]),
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(features=ANY_FEATURES, bits=st.integers(0, 127), clip_norm=st.sampled_from([1e-3, 1.0, 50.0]), data=st.data())
def test_no_row_moves_the_sum_by_more_than_the_clip(
    model: Model, network_at: NetworkAt, features: np.ndarray, bits: int, clip_norm: float, data: st.DataObject
):
    network = network_at(model, 3)
    targets = torch.tensor([[float(bits >> place & 1)] for place in range(len(features))])
    rows = Batch(features=torch.from_numpy(features), targets=targets)
    left_out = data.draw(st.integers(0, len(targets) - 1))
    whole = clipped_gradient_sum(network, rows, clip_norm=clip_norm)
    without = clipped_gradient_sum(network, rows.taken(torch.arange(len(targets)) != left_out), clip_norm=clip_norm)
    assert np.linalg.norm(whole - without) <= clip_norm * EXACT


def all_wrong(network: nn.Module, features: torch.Tensor) -> Batch:
    """Return rows with the labels that the network expects least: gradients are large."""
    with torch.no_grad():
        return Batch(features=features, targets=(network(features) < 0).float())


def test_the_bound_is_reached_and_broken_without_the_clip(model: Model, network_at: NetworkAt, rows_of: RowsOf):
    network = network_at(model, 4)
    rows = all_wrong(network, rows_of(30, 4, scale=20.0).features)

    def largest_move(clip_norm: float) -> float:
        sums = [clipped_gradient_sum(network, rows.taken(slice(k, None)), clip_norm=clip_norm) for k in range(31)]
        return float(np.linalg.norm(np.diff(sums, axis=0), axis=1).max())

    assert largest_move(0.5) == pytest.approx(0.5, rel=1e-5)
    assert largest_move(np.inf) > 5


def test_the_bound_holds_among_thousands_of_rows_that_pull_the_same_way(model: Model, network_at: NetworkAt):
    """Float32 sums miss it: rounding depends on all the other rows (Casacuberta et al. 2022)."""
    network, n, clip_norm = network_at(model, 6, seed=3), 9000, 0.1
    rng = np.random.default_rng(1)
    aligned = 3 * rng.standard_normal((1, 6)) + 0.01 * rng.standard_normal((n, 6))
    rows = all_wrong(network, torch.from_numpy(aligned.astype(np.float32)))
    one, whole, without = (
        clipped_gradient_sum(network, rows.taken(part), clip_norm=clip_norm)
        for part in (slice(1), slice(None), slice(1, None))
    )
    assert np.linalg.norm(one) == pytest.approx(clip_norm, rel=1e-6)
    assert np.linalg.norm(whole - without) <= clip_norm * EXACT
    assert np.linalg.norm(whole - without - one) <= clip_norm * 1e-5
    in_float32 = np.float32(whole) - np.float32(without)
    assert np.linalg.norm(in_float32 - one) > clip_norm * 1e-5


@pytest.mark.parametrize("clip_norm", [0.5, np.inf])
def test_no_rows_give_zeros(model: Model, clip_norm: float, network_at: NetworkAt, rows_of: RowsOf):
    found = clipped_gradient_sum(network_at(model, 4), rows_of(0, 4), clip_norm=clip_norm)
    np.testing.assert_array_equal(found, np.zeros(parameter_count(network_at(model, 4))))


@pytest.mark.parametrize("clip_norm", [0.5, np.inf])
def test_chunks_do_not_matter(
    model: Model, clip_norm: float, network_at: NetworkAt, rows_of: RowsOf, monkeypatch: pytest.MonkeyPatch
):
    network, rows = network_at(model, 4), rows_of(23, 4)
    whole = clipped_gradient_sum(network, rows, clip_norm=clip_norm)
    for chunk in (1, 5, 22, 23, 24):
        monkeypatch.setattr(batches, "CHUNK", chunk)
        again = replace(rows)  # a batch keeps its chunks
        np.testing.assert_allclose(clipped_gradient_sum(network, again, clip_norm=clip_norm), whole, rtol=1e-5)
        assert len(tuple(again.chunks)) == -(-23 // chunk)


class Misshapen(nn.Module):
    """Outputs of shape (n,), which a loss would silently spread over all pairs of rows, or with one too many."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(4, outputs)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.linear(features).squeeze(1)


@pytest.mark.parametrize("clip_norm", [0.01, np.inf])
@pytest.mark.parametrize(("outputs", "shape"), [(1, r"\(7,\)"), (2, r"\(7, 2\)")])
def test_outputs_of_another_shape_are_refused(outputs: int, shape: str, clip_norm: float, rows_of: RowsOf):
    network = Misshapen(outputs)
    with pytest.raises(ValueError, match=rf"expected outputs of shape \(7, 1\), got {shape}"):
        clipped_gradient_sum(network, rows_of(7, 4), clip_norm=clip_norm)
    assert_untouched(network)


@pytest.mark.parametrize("clip_norm", [0.5, np.inf])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("rows", [0, 3])
def test_parameters_that_are_not_finite_are_refused_whatever_the_rows(
    model: Model, clip_norm: float, value: float, rows: int, network_at: NetworkAt, rows_of: RowsOf
):
    network = network_at(model, 4)
    vector = vector_of(network)
    vector[-1] = value
    load_vector(network, vector)
    with pytest.raises(ProtocolError, match="the parameters are not finite"):
        clipped_gradient_sum(network, rows_of(rows, 4), clip_norm=clip_norm)


def hostile_network() -> Network:
    """Return a network of finite parameters that overflows only on a row with the first two features set."""
    network = network_of(MlpModel(kind="mlp", binning=False, hidden=(2,)), 3)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        network.body[0].weight[0, :2] = 3e38
    return network


@pytest.mark.parametrize("customers", [None, torch.tensor([4, 4, 9])], ids=["rows", "customers"])
@pytest.mark.parametrize("weights", [None, torch.tensor([0.5, 2.0, 3.0])], ids=["plain", "weighted"])
def test_no_row_decides_whether_there_is_an_answer(weights: torch.Tensor | None, customers: torch.Tensor | None):
    """A coordinator that chooses the parameters must not learn from a refusal that such a row is there."""
    network = hostile_network()
    features = torch.tensor([[1.0, 0.0, 0.5], [0.0, 1.0, 0.5], [1.0, 1.0, 0.5]])
    rows = Batch(features=features, targets=torch.ones(3, 1), weights=weights, customers=customers)
    plain, marked = rows.taken(slice(2)), rows.taken(slice(2, None))
    with torch.no_grad():
        assert network(marked.features).isnan().all()  # in float32; the gradients are float64, which holds them
        assert network(plain.features).isfinite().all()
    without = clipped_gradient_sum(network, plain, clip_norm=1.0)
    whole = clipped_gradient_sum(network, rows, clip_norm=1.0)
    assert np.linalg.norm(without) > 0.2
    assert 0.2 < np.linalg.norm(whole - without) <= 1.0 + 1e-9
    marked.features[0, 0] = np.inf
    with_infinite = replace(rows, features=torch.cat([plain.features, marked.features]))
    np.testing.assert_array_equal(clipped_gradient_sum(network, with_infinite, clip_norm=1.0), without)
    assert not clipped_gradient_sum(network, marked, clip_norm=np.inf).any()


def assert_untouched(network: nn.Module) -> None:
    """Check that neither hooks nor gradients are left behind."""
    for module in network.modules():
        hooks = (module._forward_hooks, module._backward_hooks, module._forward_pre_hooks, module._backward_pre_hooks)
        assert not any(hooks)
        assert not hasattr(module, "autograd_grad_sample_hooks")
    for parameter in network.parameters():
        assert parameter.grad is None
        assert getattr(parameter, "grad_sample", None) is None
        assert parameter.requires_grad


@pytest.mark.parametrize("clip_norm", [0.5, np.inf])
def test_the_network_is_left_as_it_was(model: Model, clip_norm: float, network_at: NetworkAt, rows_of: RowsOf):
    network, rows = network_at(model, 4), rows_of(9, 4)
    before = vector_of(network)
    first = clipped_gradient_sum(network, rows, clip_norm=clip_norm)
    assert_untouched(network)
    np.testing.assert_array_equal(vector_of(network), before)
    np.testing.assert_array_equal(clipped_gradient_sum(network, rows, clip_norm=clip_norm), first)


def test_threads_are_given_back(network_at: NetworkAt, rows_of: RowsOf, model: Model):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        clipped_gradient_sum(network_at(model, 4), rows_of(3, 4), clip_norm=1.0)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
