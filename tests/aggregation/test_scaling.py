"""Scales bring a typical row to the agreed norm, whatever the noise made of the centre, and rare words up."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmarket.aggregation.scaling import NUMERIC_SHARE, NUMERIC_VARIANCE, RAREST, Scaling

ONE_HOT = (False, True, True, False, True)
WEIGHTS = (1.0, 2.0, 0.5, 3.0, 1.0)


def scaling(**changed: object) -> Scaling:
    return Scaling(**({"row_norm": 3.5, "exponent": 0.35, "one_hot": ONE_HOT, "weights": WEIGHTS} | changed))


def variances(centre: np.ndarray) -> np.ndarray:
    return np.where(ONE_HOT, centre * (1 - centre), NUMERIC_VARIANCE)


numbers = st.floats(-1e9, 1e9) | st.sampled_from([0.0, 1.0, -1.0, 1e300, -1e300, 5e-324])
noisy_centres = st.lists(numbers, min_size=5, max_size=5).map(np.array)
exponents = st.floats(0, 1)
row_norms = st.floats(1.001, 100)


@given(centre=noisy_centres)
def test_a_projected_centre_is_where_means_can_be_and_stays_there(centre: np.ndarray):
    projected = scaling().projected(centre)
    one_hot = np.array(ONE_HOT)
    assert ((projected >= np.where(one_hot, 0.0, -1.0)) & (projected <= 1.0)).all()
    np.testing.assert_array_equal(scaling().projected(projected), projected)
    inside = (centre >= np.where(one_hot, 0.0, -1.0)) & (centre <= 1.0)
    np.testing.assert_array_equal(projected[inside], centre[inside])


@given(centre=noisy_centres, other=st.lists(st.floats(0, 1), min_size=5, max_size=5).map(np.array))
def test_no_mean_of_rows_is_farther_from_the_projected_centre_than_from_the_noisy_one(
    centre: np.ndarray, other: np.ndarray
):
    assert (np.abs(scaling().projected(centre) - other) <= np.abs(centre - other)).all()


def test_numbers_may_have_a_negative_mean_and_words_may_not():
    found = scaling().projected(np.array([-0.4, -0.4, 1.4, -1.4, 0.4]))
    np.testing.assert_array_equal(found, [-0.4, 0.0, 1.0, -1.0, 0.4])


@given(centre=noisy_centres, exponent=exponents, row_norm=row_norms)
def test_a_typical_row_has_the_agreed_norm_with_the_one_of_the_intercept(
    centre: np.ndarray, exponent: float, row_norm: float
):
    """The mean of the squared norm of scaled and centred rows, and 1; not of no variance at all, or hardly any."""
    projected = scaling().projected(centre)
    scale = scaling(exponent=exponent, row_norm=row_norm).of(projected)
    assert 1 + np.sum(scale**2 * variances(projected)) == pytest.approx(row_norm**2, rel=1e-9)


def test_the_typical_norm_is_that_of_rows_of_words():
    """On rows with one word each in the columns of words, and numbers of the variance that is assumed."""
    rng = np.random.default_rng(0)
    rows = np.zeros((200_000, 5))
    rows[:, [0, 3]] = np.sqrt(3 * NUMERIC_VARIANCE) * rng.uniform(-1, 1, (len(rows), 2))
    words = rng.choice(3, size=len(rows), p=[0.7, 0.25, 0.05])
    rows[np.arange(len(rows)), np.array([1, 2, 4])[words]] = 1.0
    centre = rows.mean(axis=0)
    scale = scaling().of(scaling().projected(centre))
    squared = 1 + np.sum(((rows - centre) * scale) ** 2, axis=1)
    assert np.sqrt(squared.mean()) == pytest.approx(3.5, rel=0.01)


@given(centre=noisy_centres, factor=st.floats(1e-3, 1e3), exponent=exponents)
def test_a_common_factor_of_all_weights_changes_nothing(centre: np.ndarray, factor: float, exponent: float):
    projected = scaling().projected(centre)
    plain = scaling(exponent=exponent).of(projected)
    heavy = scaling(exponent=exponent, weights=tuple(factor * weight for weight in WEIGHTS)).of(projected)
    np.testing.assert_allclose(heavy, plain, rtol=1e-9)


@given(centre=noisy_centres, exponent=exponents, row_norm=row_norms)
def test_every_scale_is_finite_and_positive_whatever_the_noise(centre: np.ndarray, exponent: float, row_norm: float):
    found = scaling(exponent=exponent, row_norm=row_norm).of(scaling().projected(centre))
    assert np.isfinite(found).all()
    assert (found > 0).all()


@pytest.mark.parametrize("edge", [0.0, 1.0])
@pytest.mark.parametrize("exponent", [0.0, 0.35, 1.0])
def test_words_that_nobody_or_everybody_has_are_scaled_by_finite_numbers(edge: float, exponent: float):
    only_words = scaling(one_hot=(True,) * 5, exponent=exponent)
    found = only_words.of(np.full(5, edge))  # a typical row is then nowhere but in its centre
    assert np.isfinite(found).all()
    assert np.isfinite((np.ones((3, 5), dtype=np.float32) - np.float32(edge)) * found.astype(np.float32)).all()


@given(centre=noisy_centres, exponent=exponents)
def test_scales_are_in_proportion_to_weight_times_share_to_the_power(centre: np.ndarray, exponent: float):
    projected = scaling().projected(centre)
    found = scaling(exponent=exponent).of(projected)
    shares = np.where(ONE_HOT, projected + RAREST, NUMERIC_SHARE)
    ratio = found / (np.array(WEIGHTS) * shares**-exponent)
    np.testing.assert_allclose(ratio, np.full(5, ratio[0]), rtol=1e-9)


def test_a_rare_word_is_scaled_up_and_by_how_much_the_exponent_says():
    centre = np.array([0.0, 0.49, 0.04, 0.0, 0.09])
    equal = {"weights": (1.0,) * 5}
    even, half, whole = (scaling(exponent=exponent, **equal).of(centre) for exponent in (0.0, 0.5, 1.0))
    np.testing.assert_allclose(even, np.full(5, even[0]))
    assert half[2] / half[1] == pytest.approx(np.sqrt(10))
    assert whole[2] / whole[1] == pytest.approx(10)
    assert half[0] == half[3]  # numbers are all as good as a word of a share of 0.3
    assert half[0] / half[4] == pytest.approx(np.sqrt(0.10 / NUMERIC_SHARE))


def test_a_column_of_twice_the_weight_is_heard_twice_as_well():
    centre = np.array([0.1, 0.3, 0.3, -0.5, 0.3])
    found = scaling().of(centre)
    assert found[1] / found[4] == pytest.approx(2.0)
    assert found[2] / found[4] == pytest.approx(0.5)
    assert found[3] / found[0] == pytest.approx(3.0)


@given(centre=noisy_centres, row_norm=row_norms, factor=st.floats(1.0, 50.0))
def test_the_length_of_scales_is_that_of_the_row_norm_less_the_intercept(
    centre: np.ndarray, row_norm: float, factor: float
):
    projected = scaling().projected(centre)
    one, other = (scaling(row_norm=norm).of(projected) for norm in (row_norm, factor * row_norm))
    expected = np.sqrt(((factor * row_norm) ** 2 - 1) / (row_norm**2 - 1))
    np.testing.assert_allclose(other, expected * one, rtol=1e-9)


def test_by_hand():
    """One word of a share of one half has a standard deviation of 1 / 2: its scale is 2 sqrt(row norm^2 - 1)."""
    one = Scaling(row_norm=2.0, exponent=1.0, one_hot=(True,), weights=(7.0,))
    np.testing.assert_allclose(one.of(np.array([0.5])), [2 * np.sqrt(3)])
