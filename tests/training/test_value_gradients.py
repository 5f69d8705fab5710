"""Gradients of several outputs: the closed form is Opacus', and whatever is learned no customer counts twice."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from fedmarket.config import LogisticModel, MlpModel
from fedmarket.models.network import Network, load_vector, parameter_count
from fedmarket.models.objectives import Objective, Tweedie, TwoPart, ZeroInflatedLognormal
from fedmarket.training.batch import Batch
from fedmarket.training.gradients import by_customer, clipped_gradient_sum, clipped_sum
from fedmarket.training.per_example import PerExample

Model = LogisticModel | MlpModel
NetworkAt = Callable[..., Network]

MONEY: dict[str, Any] = {"typical": 30.0, "upper": 2000.0}
ZILN = ZeroInflatedLognormal(**MONEY)
OBJECTIVES = {
    "ziln": Objective(response=False, value=ZILN),
    "two-part": Objective(response=False, value=TwoPart(**MONEY)),
    "tweedie 1.1": Objective(response=False, value=Tweedie(**MONEY, power=1.1)),
    "tweedie 1.9": Objective(response=False, value=Tweedie(**MONEY, power=1.9)),
    "response and ziln": Objective(response=True, value=ZILN),
    "response and tweedie": Objective(response=True, value=Tweedie(**MONEY, power=1.5)),
}
EACH = pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
LINEAR = LogisticModel(kind="logistic", binning=False)
EXACT = 1 + 1e-5
"""A row's own gradient is rounded to float32; the sum is not."""

WIDTH = 3
SLOW = settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


def batch_of(
    objective: Objective, counts: list[int], *, seed: int = 0, scale: float = 1.0, weighted: bool = False,
    owned: bool = True, spends: tuple[float, ...] = (0.0, 0.0, 1e-12, 0.5, 30.0, 400.0, 2000.0),
) -> Batch:  # fmt: skip
    """Return the rows of customers who have so many each."""
    rng, n = np.random.default_rng(seed), sum(counts)
    targets = np.zeros((n, objective.targets), dtype=np.float32)
    targets[:, 0] = rng.random(n) < 0.4
    targets[:, -1] = rng.choice(spends, n)
    return Batch(
        features=torch.from_numpy((scale * rng.standard_normal((n, WIDTH))).astype(np.float32)),
        targets=torch.from_numpy(targets),
        weights=torch.from_numpy(rng.uniform(0.1, 4.0, n).astype(np.float32)) if weighted else None,
        customers=torch.from_numpy(np.repeat(5 * np.arange(len(counts)) + 2, counts)) if owned else None,
        objective=objective,
    )


def without(batch: Batch, customer: int) -> Batch:
    return batch.taken(torch.from_numpy(np.unique(batch.customers.numpy(), return_inverse=True)[1] != customer))


def loop(network: nn.Module, batch: Batch, clip_norm: float) -> np.ndarray:
    """Return the sum over customers, one by one: autograd over all their rows, clip, add."""
    total = np.zeros(parameter_count(network))
    owners = torch.arange(len(batch.targets)) if batch.customers is None else batch.customers
    for owner in owners.unique():
        mine = batch.taken(owners == owner)
        losses = mine.objective.losses(network(mine.features), mine.targets)
        loss = (losses if mine.weights is None else losses * mine.weights).sum()
        parts = torch.autograd.grad(loss, list(network.parameters()))
        gradient = np.concatenate([part.numpy().ravel() for part in parts]).astype(np.float64)
        total += gradient * min(1.0, clip_norm / max(float(np.linalg.norm(gradient)), 1e-300))
    return total


WAYS = pytest.mark.parametrize(("weighted", "owned"), [(False, False), (True, False), (False, True), (True, True)])


@EACH
@WAYS
@pytest.mark.parametrize("clip_norm", [0.05, 0.8, np.inf])
def test_the_sum_is_that_of_a_loop_over_customers(
    model: Model, objective: Objective, clip_norm: float, weighted: bool, owned: bool, network_at: NetworkAt
):
    network = network_at(model, WIDTH, objective=objective)
    batch = batch_of(objective, [1, 4, 2, 1, 9, 3], weighted=weighted, owned=owned)
    expected = loop(network, batch, clip_norm)
    found = clipped_gradient_sum(network, batch, clip_norm=clip_norm)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())


@EACH
@WAYS
@pytest.mark.parametrize("clip_norm", [0.05, 0.8, np.inf])
def test_the_closed_form_of_several_outputs_is_opacus_in_float64(
    objective: Objective,
    clip_norm: float,
    weighted: bool,
    owned: bool,
    network_at: NetworkAt,
):
    network = network_at(LINEAR, WIDTH, objective=objective)
    batch = batch_of(objective, [3, 1, 5] * 20, weighted=weighted, owned=owned)
    rows = PerExample(network)(batch)
    expected = clipped_sum(by_customer(rows, batch.customers) if owned else rows, clip_norm)
    found = clipped_gradient_sum(network, batch, clip_norm=clip_norm)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9 * np.abs(expected).max())


@EACH
def test_scales_are_part_of_the_gradient(objective: Objective, network_at: NetworkAt):
    """A head whose outputs are shrunk learns slower, and weighs less in the clip."""
    network, batch = network_at(LINEAR, WIDTH, objective=objective, scale=0.0), batch_of(objective, [1] * 9)
    found = clipped_gradient_sum(network, batch, clip_norm=np.inf).reshape(-1)
    outputs = len(objective.scales)
    weight = found[: outputs * WIDTH].reshape(outputs, WIDTH)
    residuals = objective.residuals(torch.zeros(9, outputs, dtype=torch.float64), batch.targets.double()).numpy()
    expected = (residuals.T @ batch.features.double().numpy()) * np.array(objective.scales)[:, None]
    np.testing.assert_allclose(weight, expected, rtol=1e-6)
    np.testing.assert_allclose(found[outputs * WIDTH :], residuals.sum(axis=0) * np.array(objective.scales), rtol=1e-6)


@EACH
@SLOW
@given(
    counts=st.lists(st.integers(1, 5), min_size=1, max_size=5), seed=st.integers(0, 99), data=st.data(),
    scale=st.sampled_from([0.1, 3.0, 1e3]), weighted=st.booleans(),
)  # fmt: skip
def test_no_customer_moves_the_sum_by_more_than_the_clip(
    model: Model, objective: Objective, network_at: NetworkAt, counts: list[int], seed: int, data: st.DataObject,
    scale: float, weighted: bool,
):  # fmt: skip
    network = network_at(model, WIDTH, objective=objective, seed=seed)
    batch = batch_of(objective, counts, seed=seed, scale=scale, weighted=weighted)
    left_out = data.draw(st.integers(0, len(counts) - 1))
    for clip_norm in (1e-3, 1.0, 50.0):
        whole = clipped_gradient_sum(network, batch, clip_norm=clip_norm)
        rest = clipped_gradient_sum(network, without(batch, left_out), clip_norm=clip_norm)
        assert np.linalg.norm(whole - rest) <= clip_norm * EXACT


@EACH
def test_the_bound_is_reached_and_k_rows_of_k_customers_move_the_sum_k_times_as_far(
    model: Model, objective: Objective, network_at: NetworkAt
):
    network = network_at(model, WIDTH, objective=objective)
    one = batch_of(objective, [1], scale=20.0, spends=(2000.0,))
    alike = Batch(
        features=one.features.repeat(8, 1), targets=one.targets.repeat(8, 1), objective=objective,
        customers=torch.full((8,), 3),
    )  # fmt: skip
    for batch, expected in ((alike, 0.01), (replace(alike, customers=None), 0.08)):
        found = clipped_gradient_sum(network, batch, clip_norm=0.01)
        assert np.linalg.norm(found) == pytest.approx(expected, rel=1e-4)


LARGEST = float(np.finfo(np.float32).max)


@EACH
@pytest.mark.parametrize("owned", [False, True])
@pytest.mark.parametrize("size", [1e30, LARGEST])
@pytest.mark.parametrize("signs", [(1, 1, 1, 1), (-1, -1, -1, -1), (1, -1, 1, -1), (-1, 1, -1, 1), (0, 1, 0, -1)])
def test_extreme_outputs_and_values_leave_a_sum_within_the_clips(
    model: Model, objective: Objective, signs: tuple[int, ...], size: float, owned: bool, network_at: NetworkAt
):
    """The biases are as large as a coordinator may send them; spends are nothing, next to nothing, and the bound."""
    network = network_at(model, WIDTH, objective=objective, scale=0.0)
    vector, outputs = np.zeros(parameter_count(network)), len(objective.scales)
    vector[-outputs:] = size * np.array(signs[:outputs])
    load_vector(network, vector)
    batch = batch_of(objective, [1] * 30, owned=owned, spends=(0.0, 1e-12, 30.0, 2000.0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = clipped_gradient_sum(network, batch, clip_norm=0.5)
    assert np.isfinite(found).all()
    assert np.linalg.norm(found) <= 30 * 0.5 * EXACT


@EACH
def test_a_linear_body_hears_every_row_however_extreme_its_outputs(objective: Objective, network_at: NetworkAt):
    """In float64 no finite float32 overflows: nobody is left out, each is clipped."""
    network = network_at(LINEAR, WIDTH, objective=objective, scale=1e37)
    batch = batch_of(objective, [1] * 12, scale=1e30, owned=False)
    whole = clipped_gradient_sum(network, batch, clip_norm=1.0)
    assert np.isfinite(whole).all()
    for row in range(12):
        rest = clipped_gradient_sum(network, batch.taken(torch.arange(12) != row), clip_norm=1.0)
        alone = clipped_gradient_sum(network, batch.taken(slice(row, row + 1)), clip_norm=1.0)
        assert np.linalg.norm(alone) <= EXACT
        np.testing.assert_allclose(whole - rest, alone, atol=1e-9)
