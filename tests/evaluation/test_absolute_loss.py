"""A loss in points is bounded as a relative one is, and takes references of any sign."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from fedmarket.errors import DataError
from fedmarket.evaluation.comparison import Loss, absolute_loss, relative_loss


def points_of(reference, arm, reference_replicates, arm_replicates) -> Loss:
    return absolute_loss(
        reference,
        arm,
        reference_replicates=reference_replicates,
        arm_replicates=arm_replicates,
        rng=np.random.default_rng(0),
    )


def share_of(reference, arm, reference_replicates, arm_replicates) -> Loss:
    return relative_loss(
        reference,
        arm,
        reference_replicates=reference_replicates,
        arm_replicates=arm_replicates,
        rng=np.random.default_rng(0),
    )


def test_a_loss_in_points_is_the_difference_of_each_seed():
    loss = points_of([0.5, -0.1], [0.45, -0.3], np.full((2, 10), 0.2), np.full((2, 10), 0.1))
    assert loss.per_seed == pytest.approx((0.05, 0.2))
    assert loss.mean == pytest.approx(0.125)


def test_a_gain_is_below_zero_and_so_is_its_bound_where_it_is_sure():
    loss = points_of([0.3] * 3, [0.4, 0.41, 0.42], np.full((3, 10), 0.3), np.full((3, 10), 0.41))
    assert loss.mean == pytest.approx(-0.11)
    assert loss.mean < loss.upper_95 < 0


@given(seed=st.integers(0, 99), seeds=st.integers(1, 6), reference=st.floats(0.1, 0.9))
def test_of_a_constant_reference_it_is_the_reference_times_the_relative_loss(seed: int, seeds: int, reference: float):
    """The same rows and seeds are drawn for both, so that bounds agree and not means alone."""
    rng = np.random.default_rng(seed)
    arm, replicates = rng.uniform(-0.2, 1.0, seeds), rng.uniform(-0.2, 1.0, (seeds, 30))
    given_to_both = (np.full(seeds, reference), arm, np.full((seeds, 30), reference), replicates)
    points, share = points_of(*given_to_both), share_of(*given_to_both)
    assert points.mean == pytest.approx(reference * share.mean, abs=1e-12)
    assert points.upper_95 == pytest.approx(reference * share.upper_95, abs=1e-12)
    assert points.per_seed == pytest.approx(tuple(reference * loss for loss in share.per_seed), abs=1e-12)


def test_pairing_cancels_what_the_rows_do_to_both_arms():
    replicates = np.random.default_rng(1).normal(0.0, 0.3, size=(2, 500))
    loss = points_of([0.1, 0.1], [0.06, 0.06], replicates, replicates - 0.04)
    assert loss.upper_95 == pytest.approx(0.04)
    shuffled = points_of([0.1, 0.1], [0.06, 0.06], replicates, replicates[:, ::-1] - 0.04)
    assert shuffled.upper_95 > 0.2


def test_seeds_that_differ_are_bounded_by_student_t():
    arm = np.array([-0.04, 0.02, -0.1])
    loss = points_of([0.0] * 3, arm, np.zeros((3, 10)), np.tile(arm[:, None], 10))
    expected = -arm.mean() + stats.t.ppf(0.95, 2) * arm.std(ddof=1) / math.sqrt(3)
    assert loss.upper_95 == pytest.approx(expected)


def test_one_seed_is_bounded_by_its_test_rows():
    loss = points_of([-0.1], [-0.15], np.full((1, 1001), -0.1), np.linspace(-0.2, -0.1, 1001)[None])
    assert loss.upper_95 == pytest.approx(0.095, abs=0.002)


def test_swapping_the_two_turns_the_sign():
    rng = np.random.default_rng(2)
    one, other, a, b = rng.normal(size=3), rng.normal(size=3), rng.normal(size=(3, 9)), rng.normal(size=(3, 9))
    forth, back = points_of(one, other, a, b), points_of(other, one, b, a)
    assert forth.mean == pytest.approx(-back.mean)
    assert forth.upper_95 >= forth.mean
    assert back.upper_95 >= back.mean


@pytest.mark.parametrize(
    ("reference", "arm", "replicates", "expected"),
    [
        ([0.8, 0.8], [0.7], (2, 5), "expected"),
        ([0.8], [0.7], (2, 5), r"\(seeds,\)"),
        ([math.nan], [0.7], (1, 5), "finite"),
        ([0.8], [math.inf], (1, 5), "finite"),
        ([], [], (0, 5), "expected"),
        ([0.8], [0.7], (1, 0), "expected"),
    ],
)
def test_metrics_that_cannot_be_compared_are_refused_as_for_a_share(reference, arm, replicates, expected):
    for loss in (points_of, share_of):
        with pytest.raises(DataError, match=expected):
            loss(reference, arm, np.full(replicates, 0.8), np.full(replicates, 0.7))
    with pytest.raises(DataError, match="replicates: expected the same shape"):
        points_of([0.8], [0.7], np.full((1, 5), 0.8), np.full((1, 6), 0.7))


@pytest.mark.parametrize("reference", [0.0, -0.2])
def test_a_reference_that_has_no_share_to_lose_has_points_to_lose(reference: float):
    known = ([reference], [-0.3], np.full((1, 5), reference), np.full((1, 5), -0.3))
    assert points_of(*known).mean == pytest.approx(reference + 0.3)
    with pytest.raises(DataError, match="above 0"):
        share_of(*known)
