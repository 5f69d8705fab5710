"""Whatever is encoded is added exactly, nothing wraps, and what does not fit is an error."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fedmarket.aggregation.fixedpoint import FixedPoint
from fedmarket.errors import BadMessage, PlanError

BITS = pytest.mark.parametrize("bits", [32, 64])


def grid(bound: float = 100.0, parties: int = 5, bits: int = 32) -> FixedPoint:
    return FixedPoint.for_bound(bound, parties=parties, modulus_bits=bits)


def summed(vectors: list[np.ndarray], grid: FixedPoint) -> np.ndarray:
    total = np.zeros(vectors[0].size, dtype=grid.word_dtype)
    for vector in vectors:
        total += grid.encode(vector)
    return grid.decode(total)


BOUNDS = st.floats(1e-6, 1e9)


@BITS
@settings(deadline=None)
@given(bound=BOUNDS, parties=st.integers(1, 1000), data=st.data())
def test_one_vector_comes_back_rounded_by_at_most_half_a_step(bits: int, bound: float, parties: int, data):
    fixed = grid(bound, parties, bits)
    vector = data.draw(arrays(np.float64, 8, elements=st.floats(-bound, bound)))
    back = fixed.decode(fixed.encode(vector))
    assert np.abs(back - vector).max() <= fixed.resolution / 2
    np.testing.assert_array_equal(back, np.rint(vector / fixed.resolution) * fixed.resolution)


@BITS
@settings(deadline=None)
@given(bound=BOUNDS, parties=st.integers(1, 12), data=st.data())
def test_the_sum_of_all_parties_is_off_by_at_most_half_a_step_for_each(bits: int, bound: float, parties: int, data):
    fixed = grid(bound, parties, bits)
    elements = st.floats(-bound, bound) | st.sampled_from([bound, -bound, 0.0])
    vectors = [data.draw(arrays(np.float64, 3, elements=elements)) for _ in range(parties)]
    exact = np.array([math.fsum(column) for column in zip(*vectors, strict=True)])
    off = np.abs(summed(vectors, fixed) - exact).max()
    assert off <= parties * fixed.resolution / 2 + 1e-12 * np.abs(exact).max()


@BITS
@pytest.mark.parametrize("bound", [0.7, 1.0, 2.0**20, 123456.789, 1e-7])
@pytest.mark.parametrize("parties", [1, 2, 3, 16, 1000, 65_536])
def test_parties_at_the_limit_do_not_wrap(bits: int, bound: float, parties: int):
    fixed = grid(bound, parties, bits)
    limit = np.array([bound, -bound, 0.0])
    total = fixed.encode(limit) * fixed.word_dtype.type(parties)
    slack = parties * fixed.resolution
    np.testing.assert_allclose(fixed.decode(total), parties * limit, rtol=1e-12, atol=slack)


@BITS
def test_a_grid_for_fewer_parties_would_wrap(bits: int):
    fixed = grid(1.0, 4, bits)
    total = fixed.encode(np.array([1.0])) * fixed.word_dtype.type(16)
    assert fixed.decode(total)[0] != pytest.approx(16.0, rel=0.1)


@BITS
def test_the_limit_itself_is_taken_and_the_next_number_refused(bits: int):
    fixed = grid(100.0, 5, bits)
    limit = np.array([100.0, -100.0])
    np.testing.assert_allclose(fixed.decode(fixed.encode(limit)), limit, atol=fixed.resolution)
    for beyond in (np.nextafter(100.0, 101), -np.nextafter(100.0, 101), 1e300):
        with pytest.raises(BadMessage, match="out of the public range"):
            fixed.encode(np.array([beyond, 1.0]))


@BITS
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_a_number_is_refused_and_not_named(bits: int, value: float):
    with pytest.raises(BadMessage, match=r"^update out of the public range$"):
        grid(bits=bits).encode(np.array([value, 0.0, value]))


@BITS
@given(bound=BOUNDS, parties=st.integers(1, 10_000))
def test_the_resolution_is_the_finest_safe_power_of_two(bits: int, bound: float, parties: int):
    fixed = grid(bound, parties, bits)
    assert math.frexp(fixed.resolution)[0] == 0.5
    reach = parties * bound / fixed.resolution
    assert 2.0 ** (bits - 3) * (1 - 1e-9) <= reach <= 2.0 ** (bits - 2) * (1 + 1e-9)


@pytest.mark.parametrize("bound", [0.0, -1.0, np.nan, np.inf])
def test_a_range_that_is_not_positive_and_finite_is_refused(bound: float):
    with pytest.raises(PlanError, match="range of an update must be positive and finite"):
        grid(bound)


@BITS
def test_words_are_unsigned_of_the_modulus_and_negatives_are_its_complement(bits: int):
    fixed = grid(bits=bits)
    words = fixed.encode(np.array([fixed.resolution, -fixed.resolution]))
    assert words.dtype == np.dtype(f"u{bits // 8}") == fixed.word_dtype
    assert [int(word) for word in words] == [1, 2**bits - 1]


def test_encoding_leaves_the_vector_alone():
    vector = np.array([1.25, -3.5])
    grid().encode(vector)
    np.testing.assert_array_equal(vector, [1.25, -3.5])
