"""Bins of scores and values are fixed in public, cover each once, and move with the average row."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmarket.privacy.histogram import (
    BIN_MIDDLES,
    BIN_WIDTHS,
    SCORE_BINS,
    SCORE_EDGES,
    VALUE_BINS,
    VALUE_EDGES,
    VALUE_MIDDLES,
    VALUE_REACH,
    BinnedCounts,
    SegmentSums,
    score_bins,
    value_bins,
    value_caps,
)

LOG_ODDS = st.lists(st.floats(-60, 60), min_size=1, max_size=40)


@given(LOG_ODDS, st.floats(-8, 8))
def test_every_score_is_in_one_bin_and_higher_scores_in_no_lower_one(log_odds: list[float], typical: float):
    bins = score_bins(np.sort(np.array(log_odds)), typical=typical)
    assert bins.dtype == np.int64
    assert bins.shape == (len(log_odds),)
    assert bins[0] >= 0
    assert bins[-1] < SCORE_BINS
    assert (np.diff(bins) >= 0).all()


@given(st.integers(-(2**20), 2**20), st.integers(-(2**12), 2**12))
def test_a_bin_is_a_distance_from_the_average_row(distance: int, typical: int):
    """In sixteenths, which float64 adds without rounding."""
    moved = score_bins(np.array([(distance + typical) / 16]), typical=typical / 16)
    assert moved.tolist() == score_bins(np.array([distance / 16]), typical=0.0).tolist()


def test_a_score_on_an_edge_is_in_the_bin_above_it():
    assert score_bins(SCORE_EDGES, typical=0.0).tolist() == list(range(1, SCORE_BINS))
    below = np.nextafter(SCORE_EDGES, -np.inf)
    assert score_bins(below, typical=0.0).tolist() == list(range(SCORE_BINS - 1))
    assert score_bins(np.array([-math.inf, math.inf]), typical=0.3).tolist() == [0, SCORE_BINS - 1]


def test_the_middle_of_each_bin_is_in_it_and_half_its_width_from_its_edges():
    assert score_bins(BIN_MIDDLES, typical=0.0).tolist() == list(range(SCORE_BINS))
    np.testing.assert_array_equal((SCORE_EDGES[:-1] + SCORE_EDGES[1:]) / 2, BIN_MIDDLES[1:-1])
    np.testing.assert_array_equal(np.diff(SCORE_EDGES), BIN_WIDTHS[1:-1])
    assert (BIN_WIDTHS[0], BIN_WIDTHS[-1]) == (1.0, 1.0)
    assert BIN_MIDDLES.shape == BIN_WIDTHS.shape == (SCORE_BINS,)


@pytest.mark.parametrize("count", [0, 3])
def test_no_score_is_no_bin_and_counts_do_not_show(count: int):
    assert score_bins(np.zeros(count), typical=0.0).shape == (count,)
    shown = repr(BinnedCounts(counts=np.full((2, SCORE_BINS), 1234.5678), typical=0.5, noise_std=2.0))
    assert "1234" not in shown


# Bins of values.

VALUES = st.lists(st.floats(0, 1e12), min_size=1, max_size=40)


@given(VALUES, st.floats(0, 1e9))
def test_every_value_is_in_one_bin_and_higher_values_in_no_lower_one(values: list[float], typical: float):
    bins = value_bins(np.sort(np.array(values)), typical=typical)
    assert (bins.dtype, bins.shape) == (np.int64, (len(values),))
    assert bins[0] >= 0
    assert bins[-1] < VALUE_BINS
    assert (np.diff(bins) >= 0).all()


def test_the_middle_of_each_bin_of_values_is_in_it_and_half_way_between_its_edges():
    assert VALUE_MIDDLES.shape == (VALUE_BINS,)
    np.testing.assert_array_equal((VALUE_EDGES[:-1] + VALUE_EDGES[1:]) / 2, VALUE_MIDDLES[1:-1])
    for typical in (1e-3, 40.0, 1e6):
        assert value_bins(typical * np.exp(VALUE_MIDDLES), typical=typical).tolist() == list(range(VALUE_BINS))


@pytest.mark.parametrize("typical", [-3.0, 0.0, 1e-30])
def test_a_market_without_a_typical_value_has_bins_and_caps_all_the_same(typical: float):
    assert value_bins(np.array([-1.0, 0.0, 1e-9, 1e9]), typical=typical).tolist() == [5, 5, 5, VALUE_BINS - 1]
    assert (value_caps(typical=typical) > 0).all()


@given(st.floats(1e-6, 1e9))
def test_a_cap_is_a_public_multiple_of_what_its_bin_stands_for_and_never_below_that_of_the_average_row(typical: float):
    caps = value_caps(typical=typical)
    np.testing.assert_allclose(caps, VALUE_REACH * typical * np.maximum(np.exp(VALUE_MIDDLES), 1.0), rtol=1e-12)
    assert (np.diff(caps) >= 0).all()


# Sums of segments.


def test_sums_of_segments_are_read_in_natural_units_with_their_noise():
    """A row adds 1/2, half its response, and its value over eight typical ones."""
    released = np.array([[1.5, 0.5, 0.25], [0.0, 0.0, 0.0]])
    found = SegmentSums.of(released, unit=8 * 30.0, noise_std=0.3)
    np.testing.assert_allclose(found.sums, [[3.0, 0.0], [1.0, 0.0], [60.0, 0.0]])
    np.testing.assert_allclose(found.noise_stds, [0.6, 0.6, 72.0])
    assert "60" not in repr(found)
