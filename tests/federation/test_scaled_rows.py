"""Scaled and weighted rows: no gradient is larger than the agreed row norm, so a clip there cuts nobody."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmarket.errors import DataError
from fedmarket.federation.rows import Rows
from fedmarket.models.network import load_vector, network_of
from fedmarket.models.state import ModelState
from fedmarket.training.gradients import clipped_gradient_sum

ROW_NORM = 3.5

vectors = {
    "centre": st.lists(st.floats(-1, 1), min_size=4, max_size=4).map(np.array),
    "scale": st.lists(st.floats(0.01, 1e4), min_size=4, max_size=4).map(np.array),
    "parameters": st.lists(st.floats(-50, 50), min_size=5, max_size=5).map(np.array),
}


def gradients(party, model: ModelState) -> np.ndarray:
    """Return the unclipped gradient of each of the party's rows, (n, p)."""
    network = network_of(party.terms.model, party.terms.width)
    load_vector(network, model.parameters)
    batch = party._releases._batch(model)
    places = range(len(batch.targets))
    alone = (batch.taken(slice(place, place + 1)) for place in places)
    return np.stack([clipped_gradient_sum(network, row, clip_norm=np.inf) for row in alone])


@settings(max_examples=60)
@given(state=st.fixed_dictionaries(vectors), seed=st.integers(0, 20))
def test_no_gradient_is_larger_than_the_row_norm_before_clipping(world, state: dict, seed: int):
    party = world.party("a", world.terms(secagg="ideal"), rows=8, seed=seed)
    assert party.terms.scaling.row_norm == ROW_NORM
    norms = np.linalg.norm(gradients(party, world.model(party.terms, **state)), axis=1)
    assert (norms <= ROW_NORM * (1 + 1e-6)).all()


def test_the_bound_is_reached_and_without_scaling_it_is_not_one(world):
    """Rows with the labels that are expected least have gradients of just that norm; unweighted ones of their own."""
    state = {"scale": np.full(4, 40.0), "parameters": np.array([0.0, 0.0, 0.0, 0.0, 30.0])}
    for arm, weighted in (("federated_schedule", True), ("federated", False)):
        party = world.party("a", world.terms(arm), rows=20)
        party.rows.targets[:] = 0.0
        norms = np.linalg.norm(gradients(party, world.model(party.terms, **state)), axis=1)
        if weighted:
            np.testing.assert_allclose(norms, np.full(20, ROW_NORM), rtol=1e-6)
        else:
            expected = np.sqrt(np.sum((40.0 * party.rows.features.astype(float)) ** 2, axis=1) + 1)
            np.testing.assert_allclose(norms, expected, rtol=1e-5)
            assert norms.max() > 5 * ROW_NORM


def test_the_weight_of_a_row_is_the_row_norm_over_its_own(world):
    party = world.party("a", world.terms(secagg="ideal"), rows=20)
    centre, scale = np.array([0.1, 0.0, -0.2, 0.0]), np.array([3.0, 1.0, 0.5, 1.0])
    batch = party._releases._batch(world.model(party.terms, centre=centre, scale=scale))
    seen = (party.rows.features - centre) * scale
    np.testing.assert_allclose(batch.features, seen, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(batch.weights, ROW_NORM / np.sqrt(np.sum(seen**2, axis=1) + 1), rtol=1e-5)
    assert world.party("a", world.terms("federated"))._releases._batch(world.model(party.terms)).weights is None


def test_a_party_hands_its_customers_on_to_every_sum(world):
    """With one customer for all rows, each release is bounded by what one row may move."""
    everyone = world.rows(40, customers=np.full(40, 5))
    everyone.features[:] = [0.9, 0.0, 0.9, 0.0]
    terms = world.terms("federated_clipped")
    for number, most in ((0, terms.plan.mechanism("centre").clip_norm), (1, 2.0), (4, np.sqrt(2)), (7, 1.0)):
        member, rows = (
            world.member("a", arm="federated_clipped", rows=own, held_out=own)
            for own in (everyone, Rows(features=everyone.features, targets=everyone.targets))
        )
        grid = terms.grid_of(terms.phase_of(number))
        one, many = (grid.decode(world.released(m, number, scale=np.full(4, 4.0))) for m in (member, rows))
        assert np.linalg.norm(one) <= most * (1 + 1e-5)
        assert np.linalg.norm(many) > 5 * most


@pytest.mark.parametrize("place", ["rows", "held_out"])
def test_a_party_samples_and_counts_customers_that_stand_together_only(world, place: str):
    for customers in ([0, 1, 0], [2, 1, 1], [0, 0], np.zeros((3, 1), dtype=np.int64)):
        torn = world.rows(3, customers=np.asarray(customers))
        with pytest.raises(DataError, match="party a: expected the rows of each customer to stand together"):
            world.party("a", world.terms(), declared_rows=40, **{place: torn})
    world.party("a", world.terms(), declared_rows=40, **{place: world.rows(3, customers=np.array([-4, 7, 7]))})


def test_the_rows_of_a_customer_reach_the_network_with_their_owner(world):
    party = world.party("a", world.terms(secagg="ideal"), rows=world.rows(4, customers=np.array([1, 1, 3, 9])))
    batch = party._releases._batch(world.model(party.terms))
    assert torch.equal(batch.customers, torch.tensor([1, 1, 3, 9]))
