"""Engines give the same parts of the same rows: what a loop of plain autograd over single rows gives."""

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedmarket.errors import UsageError
from fedmarket.models.network import Network
from fedmarket.models.objectives import RESPONSE, Objective, Tweedie, TwoPart, ZeroInflatedLognormal
from fedmarket.training.batch import Batch
from fedmarket.training.closed_form import Captured, Stack, has_closed_form
from fedmarket.training.gradients import clipped_gradient_sum, clipped_sum, engine_for, norms_of
from fedmarket.training.per_example import PerExample

MONEY = {"typical": 50.0, "upper": 5000.0}
OBJECTIVES = (
    RESPONSE,
    Objective(response=False, value=ZeroInflatedLognormal(**MONEY)),
    Objective(response=True, value=TwoPart(**MONEY)),
    Objective(response=False, value=Tweedie(**MONEY, power=1.5)),
)
ACTIVATIONS = (nn.ReLU, nn.Tanh, nn.GELU, nn.Softplus, lambda: nn.LeakyReLU(0.1, inplace=True), nn.Identity)
IN_PLACE = 4
IDS, SIZE = 3, 6
"""How many ids a row has, and of how many."""


def loop(network: nn.Module, batch: Batch) -> np.ndarray:
    """Return each row's gradient by plain autograd on that row alone, (n, p) float64."""
    network = network.double()
    rows = []
    for place in range(len(batch.targets)):
        one = batch.taken(slice(place, place + 1))
        loss = batch.objective.losses(network(one.features.double()), one.targets.double()).sum()
        if one.weights is not None:
            loss = loss * float(one.weights[0])
        found = torch.autograd.grad(loss, list(network.parameters()), allow_unused=True, materialize_grads=True)
        rows.append(torch.cat([part.flatten() for part in found]).numpy())
    size = sum(parameter.numel() for parameter in network.parameters())
    return np.array(rows).reshape(len(batch.targets), size)


def need_equal(engine: Callable[..., object], network: nn.Module, batch: Batch, *, tolerance: float = 1e-9) -> None:
    """Hold an engine's parts, their norms and their weighted and clipped sums to the loop."""
    expected, parts = loop(network, batch), engine(batch)
    scale = max(1.0, float(np.abs(expected).max(initial=0.0)))
    rows = torch.cat([part.rows() for part in parts], dim=1).numpy()
    np.testing.assert_allclose(rows, expected, atol=tolerance * scale)
    norms = np.linalg.norm(expected, axis=1)
    np.testing.assert_allclose(norms_of(parts).numpy(), norms, atol=math.sqrt(tolerance) * 1e-3 * scale, rtol=1e-6)
    factors = np.random.default_rng(0).random(len(expected))
    weighted = torch.cat([part.weighted_sum(torch.from_numpy(factors)) for part in parts]).numpy()
    np.testing.assert_allclose(weighted, factors @ expected, atol=len(expected) * tolerance * scale)
    clip = 0.7 * float(np.median(norms)) if len(norms) and norms.any() else 1.0
    clipped = expected * np.minimum(1.0, clip / np.maximum(norms, 1e-300))[:, None]
    np.testing.assert_allclose(clipped_sum(parts, clip), clipped.sum(axis=0), rtol=1e-6, atol=1e-6 * clip)


def targets_of(objective: Objective, rng: np.random.Generator, count: int) -> torch.Tensor:
    responses = (rng.random((count, int(objective.response))) < 0.4).astype(np.float32)
    values = (rng.random((count, int(objective.value is not None))) < 0.6) * rng.lognormal(3.0, 1.0, (count, 1))
    return torch.from_numpy(np.hstack([responses, values]).astype(np.float32))


def batch_of(objective: Objective, seed: int, count: int, width: int, *, weighted: bool = False) -> Batch:
    rng = np.random.default_rng(seed)
    return Batch(
        features=torch.from_numpy(rng.standard_normal((count, width)).astype(np.float32)),
        targets=targets_of(objective, rng, count),
        weights=torch.from_numpy(rng.random(count).astype(np.float32)) if weighted else None,
        objective=objective,
    )


def drawn(network: nn.Module, seed: int, *, scale: float = 0.6) -> nn.Module:
    """Return the network with parameters drawn from a seed; some units are off for all rows."""
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.from_numpy(scale * rng.standard_normal(tuple(parameter.shape))))
    return network


SHAPES = st.tuples(
    st.integers(0, 9),  # rows
    st.integers(1, 6),  # width
    st.lists(st.integers(1, 5), max_size=3),  # hidden layers
    st.sampled_from(OBJECTIVES),
    st.booleans(),  # weighted
    st.integers(0, 99),  # seed
)


@settings(max_examples=80, deadline=None)
@given(shape=SHAPES)
def test_our_networks_are_a_loop_over_rows(shape):
    count, width, hidden, objective, weighted, seed = shape
    network = drawn(Network(width, tuple(hidden), objective.scales), seed)
    batch = batch_of(objective, seed, count, width, weighted=weighted)
    need_equal(Stack(network), network, batch)
    need_equal(Captured(network), network, batch)
    need_equal(PerExample(network), network, batch, tolerance=1e-7) if count else None


class Tabular(nn.Module):
    """Ids in the first features, through an embedding or a bag, beside the other features, through any stack."""

    def __init__(
        self, width: int, hidden: list[int], activation: int, outputs: int, *, table: nn.Module, apart: bool = False
    ) -> None:
        super().__init__()
        self.apart = apart
        self.table = table
        sizes = [width - IDS + (table.embedding_dim * (1 if isinstance(table, nn.EmbeddingBag) else IDS)), *hidden]
        layers: list[nn.Module] = []
        for place, (size, following) in enumerate(pairwise(sizes)):
            layers += [nn.Linear(size, following, bias=place % 2 == 0), ACTIVATIONS[activation]()]
        self.body = nn.Sequential(*layers, nn.Linear(sizes[-1], outputs))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        ids = features[:, :IDS].abs().mul(2).long() % SIZE  # some repeat in a row
        if self.apart:
            ids = ids % 2 + 2 * torch.arange(IDS)
        return self.body(torch.cat([self.table(ids).flatten(start_dim=1), features[:, IDS:]], dim=1))


TABLES = {
    "embedding": lambda: nn.Embedding(SIZE, 2),
    "embedding with padding": lambda: nn.Embedding(SIZE, 2, padding_idx=1),
    "sums": lambda: nn.EmbeddingBag(SIZE, 3, mode="sum"),
    "means": lambda: nn.EmbeddingBag(SIZE, 3, mode="mean"),
    "means with padding": lambda: nn.EmbeddingBag(SIZE, 3, mode="mean", padding_idx=0),
}


@settings(max_examples=120, deadline=None)
@given(
    shape=SHAPES,
    table=st.sampled_from(sorted(TABLES)),
    apart=st.booleans(),
    activation=st.integers(0, len(ACTIVATIONS) - 1),
)
def test_embeddings_and_any_activation_are_a_loop_over_rows(shape, table, apart, activation):
    count, width, hidden, objective, weighted, seed = shape
    made = Tabular(width + IDS, hidden, activation, len(objective.scales), table=TABLES[table](), apart=apart)
    network = drawn(made, seed)
    assert has_closed_form(network)
    batch = batch_of(objective, seed, count, width + IDS, weighted=weighted)
    need_equal(engine_for(network), network, batch)
    if table == "embedding" and count and activation != IN_PLACE:  # Opacus fails there
        need_equal(PerExample(network), network, batch, tolerance=1e-7)


def test_ids_that_repeat_in_a_row_are_tried_above():
    rows = batch_of(RESPONSE, 0, 50, IDS).features.abs().mul(2).long() % SIZE
    assert any(len(set(row)) < IDS for row in rows.tolist())


def test_a_row_without_gradient_is_left_as_it_is_and_one_that_is_not_finite_adds_nothing():
    network = drawn(Network(3, (4,), (1.0,)), 5)
    with torch.no_grad():
        network.layers[-1].weight.zero_()
        network.layers[-1].bias.fill_(-800.0)  # sigmoid is 0 in float64: no residual where the label is 0
    batch = batch_of(RESPONSE, 0, 4, 3)
    batch.targets.zero_()
    for engine in (Stack, Captured, PerExample):
        assert not clipped_sum(engine(network)(batch), 0.5).any()
    batch.targets[0] = 1.0
    features = torch.cat([batch.features, torch.full((2, 3), math.nan), torch.full((1, 3), math.inf)])
    more = Batch(features=features, targets=torch.ones(7, 1))
    some = Batch(features=batch.features, targets=torch.ones(4, 1))
    for engine in (Stack, Captured, PerExample):
        np.testing.assert_array_equal(clipped_sum(engine(network)(more), 0.5), clipped_sum(engine(network)(some), 0.5))


class Twice(nn.Module):
    """One layer, used twice: the gradient of a row is not an outer product."""

    def __init__(self) -> None:
        super().__init__()
        self.once, self.last = nn.Linear(3, 3), nn.Linear(3, 1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.last(torch.tanh(self.once(torch.tanh(self.once(features)))))


class Sequence(nn.Module):
    """A layer on two vectors of each row."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.layer(features.reshape(len(features), 2, 2))).sum(dim=1)


class Unused(nn.Module):
    """A layer that no row goes through."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.other = nn.Linear(4, 1), nn.Embedding(4, 2)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.layer(features) + 0.0 * self.other(torch.zeros(len(features), dtype=torch.long)).sum(dim=1)[:, None]


class Tied(nn.Module):
    """Two layers with the same weight."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other, self.last = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 1)
        self.other.weight = self.one.weight

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.last(torch.tanh(self.other(torch.tanh(self.one(features)))))


NORMED = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Tanh(), nn.Linear(4, 1))


@pytest.mark.parametrize(
    ("network", "width", "closed"),
    [(Twice(), 3, True), (Sequence(), 4, True), (Unused(), 4, True), (NORMED, 3, False)],
    ids=["twice", "sequence", "unused", "layer norm"],
)
def test_what_has_no_closed_form_is_still_right(network: nn.Module, width: int, closed: bool):
    network, batch = drawn(network, 3), batch_of(RESPONSE, 1, 6, width, weighted=True)
    assert has_closed_form(network) == closed
    need_equal(engine_for(network), network, batch, tolerance=1e-7)


def test_tied_weights_have_no_closed_form():
    assert not has_closed_form(Tied())


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        (nn.BatchNorm1d(3), "BatchNorm1d mixes rows"),
        (nn.BatchNorm1d(3, affine=False), "BatchNorm1d mixes rows"),
        (nn.Embedding(4, 2, scale_grad_by_freq=True), "scale_grad_by_freq"),
        (nn.EmbeddingBag(4, 2, mode="max"), "EmbeddingBag: expected"),
        (nn.Embedding(4, 2, max_norm=1.0), "Embedding: expected neither"),
        (nn.Sequential(nn.Embedding(4, 2, padding_idx=0), nn.LayerNorm(2)), "Embedding: expected neither"),
    ],
)
def test_what_would_be_wrong_is_refused(layer: nn.Module, said: str):
    network = nn.Sequential(nn.Linear(3, 3), layer, nn.Linear(3, 1))
    with pytest.raises(UsageError, match=said):
        clipped_gradient_sum(network, batch_of(RESPONSE, 0, 2, 3), clip_norm=1.0)


def test_the_module_is_left_as_it_was():
    network = drawn(Tabular(5, [4], 0, 1, table=nn.Embedding(SIZE, 2)), 0)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    first = clipped_gradient_sum(network, batch_of(RESPONSE, 0, 9, 5), clip_norm=0.5)
    np.testing.assert_array_equal(clipped_gradient_sum(network, batch_of(RESPONSE, 0, 9, 5), clip_norm=0.5), first)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in network.parameters())
    assert not any(module._forward_hooks for module in network.modules())


needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA")


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_cuda)])
@pytest.mark.parametrize("kind", ["ours", "any module"])
def test_a_device_gives_the_same_sums(device: str, kind: str):
    objective = OBJECTIVES[2]
    made = Network(6, (5,), objective.scales) if kind == "ours" else Tabular(6, [4], 0, 3, table=nn.Embedding(SIZE, 2))
    network, batch = drawn(made, 4), batch_of(objective, 4, 300, 6, weighted=True)
    before = [parameter.device for parameter in network.parameters()]
    found = clipped_gradient_sum(network, batch.on(device), clip_norm=0.5)
    np.testing.assert_allclose(found, clipped_gradient_sum(network, batch, clip_norm=0.5), rtol=1e-9, atol=1e-9)
    assert before == [parameter.device for parameter in network.parameters()]


def test_norms_without_gradients_written_out_cost_no_memory_for_them():
    """The gradients of these rows would take 8 GB."""
    network = drawn(Network(1000, (1000,), (1.0,)), 0, scale=0.01)
    batch = batch_of(RESPONSE, 0, 1000, 1000)
    parts = Stack(network)(batch)
    held = sum(t.numel() for part in parts for t in (part.inputs, part.residuals, part.squares))
    assert held <= 3 * 1000 * 1000 + 5 * 1000
    assert np.isfinite(clipped_sum(parts, 1.0)).all()
