"""Baselines that are no federation: they rank and they keep the level, in whatever unit money is counted."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from fedmarket.training.baselines import boosted_probabilities, boosted_values, scaled_past_spend


def market(n: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return features, true expected values and spends, most of which are nothing."""
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((n, 3)).astype(np.float32)
    purchase = 1 / (1 + np.exp(1.0 - features[:, 0]))
    spend = 40 * np.exp(0.8 * features[:, 1])
    drawn = spend * np.exp(0.5 * rng.standard_normal(n) - 0.125) * (rng.random(n) < purchase)
    return features, purchase * spend, drawn.astype(np.float32)


@pytest.fixture(scope="module")
def boosted() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Give what boosting expects of unseen customers, their truth, and what they spent."""
    features, _, spends = market(6000)
    unseen, truth, later = market(4000, seed=1)
    return boosted_values(features, spends, unseen, seed=0), truth, later


def test_boosting_ranks_unseen_customers_by_what_they_are_worth(boosted: tuple[np.ndarray, np.ndarray, np.ndarray]):
    found, truth, _ = boosted
    assert (found.shape, found.dtype) == ((4000,), np.float64)
    assert stats.spearmanr(found, truth).statistic > 0.9


def test_boosting_expects_in_sum_what_is_spent(boosted: tuple[np.ndarray, np.ndarray, np.ndarray]):
    found, truth, later = boosted
    assert (found > 0).all()
    assert found.sum() == pytest.approx(truth.sum(), rel=0.06)
    assert found.sum() == pytest.approx(later.sum(), rel=0.1)


@pytest.mark.parametrize("unit", [1e-3, 100.0])
def test_boosting_is_free_of_the_unit_of_money(unit: float):
    features, _, spends = market(2000)
    plain, scaled = (boosted_values(features, factor * spends, features[:50], seed=0) for factor in (1.0, unit))
    np.testing.assert_allclose(scaled, unit * plain, rtol=1e-4)


def test_boosting_repeats_with_its_seed():
    features, _, spends = market(1500)
    first, again, other = (boosted_values(features, spends, features[:99], seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    labels = (spends > 0).astype(np.float32)
    found = boosted_probabilities(features, labels, features[:99], seed=1)
    assert ((found > 0) & (found < 1)).all()


MONEY = arrays(np.float64, st.integers(1, 12), elements=st.just(0.0) | st.floats(0.01, 1e6))


@given(past=MONEY, factor=st.floats(0.01, 10.0))
def test_past_spend_is_scaled_so_that_training_customers_sum_to_what_they_spent(past: np.ndarray, factor: float):
    values = (factor * past[::-1]).astype(np.float32)  # others than those who spent before spend now
    found = scaled_past_spend(past, values, past)
    if past.any():
        assert found.sum() == pytest.approx(float(values.sum(dtype=np.float64)), rel=1e-9)
    np.testing.assert_allclose(scaled_past_spend(past, values, 2 * past), 2 * found, rtol=1e-12)


def test_the_constant_comes_from_training_customers_alone():
    found = scaled_past_spend(np.array([10.0, 30.0]), np.array([0.0, 20.0], dtype=np.float32), np.array([7.0, 0.0]))
    np.testing.assert_allclose(found, [3.5, 0.0])


def test_who_spent_nothing_before_is_expected_to_spend_nothing():
    nothing = np.zeros(3)
    np.testing.assert_array_equal(scaled_past_spend(nothing, np.ones(3, dtype=np.float32), nothing), nothing)
