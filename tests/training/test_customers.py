"""A customer with many rows is one customer: clipped once, sampled once, and never cut in two."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from fedmarket.config import LogisticModel, MlpModel
from fedmarket.federation.rows import Rows
from fedmarket.models.network import Network, load_vector, network_of, outputs_of, parameter_count, vector_of
from fedmarket.models.objectives import RESPONSE
from fedmarket.privacy.mechanism import Mechanism
from fedmarket.privacy.noise import Stream
from fedmarket.training import batch as batches
from fedmarket.training.batch import Batch
from fedmarket.training.gradients import by_customer, clipped_gradient_sum, clipped_sum
from fedmarket.training.per_example import PerExample
from fedmarket.training.sums import calibration_sum, feature_sum, held_out_sum

Model = LogisticModel | MlpModel
NetworkAt = Callable[..., Network]
MechanismOf = Callable[..., Mechanism]

EXACT = 1 + 1e-5
"""A row's own gradient is rounded to float32; the sum is not."""

WIDTH = 3
SLOW = settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])

counts_of_rows = st.lists(st.integers(1, 6), min_size=1, max_size=6)


def batch_of(
    counts: list[int], *, seed: int = 0, scale: float = 3.0, weighted: bool = False, owned: bool = True
) -> Batch:
    """Return the rows of customers who have so many each; their numbers rise, but not by one."""
    rng, n = np.random.default_rng(seed), sum(counts)
    return Batch(
        features=torch.from_numpy((scale * rng.standard_normal((n, WIDTH))).astype(np.float32)),
        targets=torch.from_numpy((rng.random((n, 1)) < 0.4).astype(np.float32)),
        weights=torch.from_numpy(rng.uniform(0.1, 4.0, n).astype(np.float32)) if weighted else None,
        customers=torch.from_numpy(np.repeat(7 * np.arange(len(counts)) - 5, counts)) if owned else None,
    )


def without(batch: Batch, customer: int) -> Batch:
    return batch.taken(torch.from_numpy(np.unique(batch.customers.numpy(), return_inverse=True)[1] != customer))


def loop(network: nn.Module, batch: Batch, clip_norm: float) -> np.ndarray:
    """Return the sum over customers, one by one: autograd over all their rows, clip, add."""
    total = np.zeros(parameter_count(network))
    owners = torch.arange(len(batch.targets)) if batch.customers is None else batch.customers
    for owner in owners.unique():
        mine = batch.taken(owners == owner)
        losses = binary_cross_entropy_with_logits(network(mine.features), mine.targets, reduction="none")[:, 0]
        loss = (losses if mine.weights is None else losses * mine.weights).sum()
        parts = torch.autograd.grad(loss, list(network.parameters()))
        gradient = np.concatenate([part.numpy().ravel() for part in parts]).astype(np.float64)
        total += gradient * min(1.0, clip_norm / max(float(np.linalg.norm(gradient)), 1e-300))
    return total


WAYS = pytest.mark.parametrize(("weighted", "owned"), [(False, False), (True, False), (False, True), (True, True)])


@WAYS
@pytest.mark.parametrize("clip_norm", [0.05, 0.8, 20.0, np.inf])
def test_the_sum_is_that_of_a_loop_over_customers(
    model: Model, clip_norm: float, weighted: bool, owned: bool, network_at: NetworkAt
):
    network = network_at(model, WIDTH)
    batch = batch_of([1, 4, 2, 1, 9, 3] * 4, weighted=weighted, owned=owned)
    found = clipped_gradient_sum(network, batch, clip_norm=clip_norm)
    np.testing.assert_allclose(found, loop(network, batch, clip_norm), rtol=1e-5, atol=1e-4)
    if clip_norm == 0.8 and owned:  # a sum that clips rows, or is blind to weights, is another
        alone = Batch(features=batch.features, targets=batch.targets, weights=batch.weights)
        assert np.linalg.norm(found - loop(network, alone, clip_norm)) > 0.5


@WAYS
@pytest.mark.parametrize("clip_norm", [0.05, 0.8, np.inf])
def test_the_closed_form_of_one_output_agrees_with_opacus(
    clip_norm: float, weighted: bool, owned: bool, network_at: NetworkAt
):
    network = network_at(LogisticModel(kind="logistic", binning=False), WIDTH)
    batch = batch_of([3, 1, 5] * 60, weighted=weighted, owned=owned)
    rows = PerExample(network)(batch)
    expected = clipped_sum(by_customer(rows, batch.customers) if owned else rows, clip_norm)
    np.testing.assert_allclose(
        clipped_gradient_sum(network, batch, clip_norm=clip_norm), expected, rtol=1e-4, atol=1e-4
    )


def test_row_weights_multiply_gradients_before_the_clip(model: Model, network_at: NetworkAt):
    network, batch = network_at(model, WIDTH), batch_of([1] * 5, owned=False)
    parts = [clipped_gradient_sum(network, batch.taken(slice(k, k + 1)), clip_norm=np.inf) for k in range(5)]
    weights = np.array([0.0, 0.5, 1.0, 2.0, 1e3])
    weighted = Batch(features=batch.features, targets=batch.targets, weights=torch.from_numpy(weights).float())
    plain = clipped_gradient_sum(network, weighted, clip_norm=np.inf)
    np.testing.assert_allclose(plain, weights @ np.stack(parts), rtol=1e-5, atol=1e-6)
    scaled = [weight * part for weight, part in zip(weights, parts, strict=True)]
    clipped = sum(part * min(1.0, 0.3 / max(np.linalg.norm(part), 1e-300)) for part in scaled)
    np.testing.assert_allclose(clipped_gradient_sum(network, weighted, clip_norm=0.3), clipped, rtol=1e-4, atol=1e-6)


@SLOW
@given(counts=counts_of_rows, seed=st.integers(0, 99), scale=st.sampled_from([0.3, 5.0, 1e4, 1e25]), data=st.data())
def test_no_customer_moves_the_sum_by_more_than_the_clip_however_many_rows_it_has(
    model: Model, network_at: NetworkAt, counts: list[int], seed: int, scale: float, data: st.DataObject
):
    network = network_at(model, WIDTH)
    batch = batch_of(counts, seed=seed, scale=scale, weighted=data.draw(st.booleans()))
    left_out = data.draw(st.integers(0, len(counts) - 1))
    for clip_norm in (1e-3, 1.0, 50.0):
        whole = clipped_gradient_sum(network, batch, clip_norm=clip_norm)
        rest = clipped_gradient_sum(network, without(batch, left_out), clip_norm=clip_norm)
        assert np.linalg.norm(whole - rest) <= clip_norm * EXACT


@pytest.mark.parametrize("k", [1, 2, 10, 200])
def test_the_bound_is_reached_and_without_customers_k_rows_would_move_the_sum_k_times_as_far(
    model: Model, k: int, network_at: NetworkAt
):
    network = network_at(model, WIDTH)
    alike = torch.full((k, WIDTH), 5.0)
    with torch.no_grad():
        targets = (network(alike) < 0).float()
    for customers, expected in ((torch.full((k,), 3), 0.5), (None, 0.5 * k)):
        batch = Batch(features=alike, targets=targets, customers=customers)
        found = clipped_gradient_sum(network, batch, clip_norm=0.5)  # without this customer it is zero
        assert np.linalg.norm(found) == pytest.approx(expected, rel=1e-5)


@given(counts=st.lists(st.integers(1, 9), max_size=9), size=st.integers(1, 12), owned=st.booleans())
def test_chunks_give_each_row_once_in_order_and_cut_no_customer(counts: list[int], size: int, owned: bool):
    batch = batch_of(counts, weighted=True, owned=owned)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "CHUNK", size)
        chunks = tuple(batch.chunks)
    for part in ("features", "targets", "weights"):
        parts = [getattr(chunk, part) for chunk in chunks]
        assert torch.equal(torch.cat(parts) if parts else getattr(batch, part)[:0], getattr(batch, part))
    assert all(len(chunk.targets) for chunk in chunks)
    assert all(len(chunk.targets) < size + (max(counts) if owned else 1) for chunk in chunks)
    assert all(len(chunk.targets) >= size for chunk in chunks[:-1])
    if owned:
        owners = [set(chunk.customers.tolist()) for chunk in chunks]
        assert sum(map(len, owners)) == len(set().union(*owners)) == len(counts)


@pytest.mark.parametrize("chunk", [1, 2, 7, 26, 1000])
def test_chunks_do_not_matter_to_the_sum(
    model: Model, chunk: int, network_at: NetworkAt, monkeypatch: pytest.MonkeyPatch
):
    network, batch = network_at(model, WIDTH), batch_of([3, 1, 7, 4, 12], weighted=True)
    whole = clipped_gradient_sum(network, batch, clip_norm=0.7)
    monkeypatch.setattr(batches, "CHUNK", chunk)
    again = replace(batch)  # a batch keeps its chunks
    np.testing.assert_allclose(clipped_gradient_sum(network, again, clip_norm=0.7), whole, rtol=1e-5, atol=1e-8)
    assert (len(tuple(again.chunks)) == 1) == (chunk >= 26)


@WAYS
def test_what_a_batch_keeps_changes_no_later_sum(model: Model, weighted: bool, owned: bool, network_at: NetworkAt):
    """A batch is used in all rounds, at other parameters in each, and parts of it are batches of their own."""
    batch = batch_of([2, 1, 5], weighted=weighted, owned=owned)
    for seed in range(3):
        network = network_at(model, WIDTH, seed=seed)
        for clip_norm in (0.3, np.inf):
            for rows in (slice(None), slice(2), torch.arange(8) > 2):
                kept = batch if rows == slice(None) else batch.taken(rows)
                fresh = replace(batch).taken(rows)
                found, expected = (clipped_gradient_sum(network, b, clip_norm=clip_norm) for b in (kept, fresh))
                np.testing.assert_array_equal(found, expected)


def test_of_a_customer_with_a_row_that_overflows_nothing_is_added(model: Model, network_at: NetworkAt):
    """One such row takes its customer's others along: else they alone would move the sum by more than the clip."""
    network = network_at(model, WIDTH)
    batch = batch_of([2, 3, 2])
    batch.features[:, 0] = 0.0
    batch.features[3] = np.inf
    whole, rest = (clipped_gradient_sum(network, rows, clip_norm=1.0) for rows in (batch, without(batch, 1)))
    assert rest.any()
    np.testing.assert_array_equal(whole, rest)


# Shares: of a customer with several rows their mean counts.


def rows_of_customers(counts: list[int], *, seed: int = 0, bound: float = 1.5) -> Rows:
    """Return rows of norm ``bound``, as far as rows can be."""
    batch = batch_of(counts, seed=seed)
    features = batch.features.numpy()
    features *= np.float32(bound) / np.linalg.norm(features, axis=1, keepdims=True)
    return Rows(features=features, targets=batch.targets.numpy(), customers=batch.customers.numpy())


def test_shares_are_one_over_the_rows_of_the_customer():
    np.testing.assert_array_equal(rows_of_customers([1, 4, 2]).shares, [1, *[0.25] * 4, 0.5, 0.5])
    assert Rows(features=np.zeros((2, 3)), targets=np.zeros((2, 1))).shares is None
    assert rows_of_customers([]).shares.shape == (0,)


def shared_sums(rows: Rows, mechanism: Mechanism, *, shares: bool = True) -> dict[str, np.ndarray]:
    """Return the exact sums with the rows' shares, or as if each row were a customer."""
    network = network_of(LogisticModel(kind="logistic", binning=False), WIDTH)
    keys = {"shares": rows.shares if shares else None, "mechanism": mechanism, "stream": Stream.seeded(1)}
    load_vector(network, np.array([2.0, -1.0, 3.0, 0.5]))
    outputs = outputs_of(network, torch.from_numpy(rows.features))
    typical = {"typical_log_odds": 0.0, "typical_value": 0.0}
    return {
        "feature": feature_sum(rows.features, **keys),
        "calibration": calibration_sum(RESPONSE, outputs, RESPONSE.uncalibrated, rows.targets, **keys),
        "scores": held_out_sum(outputs[:, 0], rows.targets[:, 0], None, None, **typical, **keys),
    }


MOST = {"feature": 1.5, "calibration": np.sqrt(2), "scores": 1.0}
"""How far a customer may move each sum: the bound on the norm of a row, and two constants."""


@given(counts=counts_of_rows, seed=st.integers(0, 99), data=st.data())
def test_no_customer_moves_a_sum_with_shares_by_more_than_one_row_could(
    counts: list[int], seed: int, data: st.DataObject
):
    rows = rows_of_customers(counts, seed=seed)
    bare = Mechanism(phase="centre", clip_norm=1.0, noise_multiplier=0.0, sample_rate=1.0, releases=1, length=1)
    left_out = data.draw(st.integers(0, len(counts) - 1))
    stay = rows.customers != 7 * left_out - 5
    rest = Rows(features=rows.features[stay], targets=rows.targets[stay], customers=rows.customers[stay])
    whole, without_it = shared_sums(rows, bare), shared_sums(rest, bare)
    for name, most in MOST.items():
        assert np.linalg.norm(whole[name] - without_it[name]) <= most * (1 + 1e-6), name
    assert np.abs(whole["scores"] - without_it["scores"]).sum() == pytest.approx(1.0)
    assert whole["scores"].sum() == pytest.approx(len(counts))


@pytest.mark.parametrize("k", [1, 3, 50])
def test_without_shares_a_customer_of_k_equal_rows_would_move_each_sum_k_times_as_far(k: int, mechanism: MechanismOf):
    one = rows_of_customers([1])
    rows = Rows(
        features=np.repeat(one.features, k, axis=0),
        targets=np.repeat(one.targets, k, axis=0),
        customers=np.zeros(k, dtype=np.int64),
    )
    bare = mechanism(noise_multiplier=0.0)
    with_shares, as_rows = shared_sums(rows, bare), shared_sums(rows, bare, shares=False)
    for name, moved in shared_sums(one, bare).items():
        np.testing.assert_allclose(with_shares[name], moved, rtol=1e-6, atol=1e-12)
        np.testing.assert_allclose(as_rows[name], k * moved, rtol=1e-6, atol=1e-12)
    assert np.linalg.norm(with_shares["feature"]) == pytest.approx(MOST["feature"], rel=1e-6)
    assert np.linalg.norm(with_shares["scores"]) == pytest.approx(MOST["scores"])


def test_an_update_of_customers_is_clipped_once_for_each(network_at: NetworkAt):
    """Two parties of the same rows, owned by few and by many, are not the same to the update."""
    network = network_at(LogisticModel(kind="logistic", binning=False), WIDTH)
    batch = batch_of([10, 10, 10], scale=20.0)
    assert np.linalg.norm(clipped_gradient_sum(network, batch, clip_norm=0.5)) <= 3 * 0.5 * EXACT
    alone = Batch(features=batch.features, targets=batch.targets)
    assert np.linalg.norm(clipped_gradient_sum(network, alone, clip_norm=0.5)) > 3 * 0.5
    assert vector_of(network).any()
