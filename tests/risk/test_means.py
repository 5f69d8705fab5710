"""The mean of few bounded numbers is within its interval as often as promised, whatever their law."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmarket.errors import DataError
from fedmarket.risk.means import mean_of

LAWS = {
    "rare": (lambda rng, size: rng.binomial(1, 0.02, size) * 1.0, 0.02),
    "even": (lambda rng, size: rng.binomial(1, 0.5, size) * 1.0, 0.5),
    "narrow": (lambda rng, size: rng.binomial(100, 0.5, size) / 100, 0.5),
    "skewed": (lambda rng, size: rng.beta(0.05, 1.0, size), 0.05 / 1.05),
}


@pytest.mark.statistical
@pytest.mark.parametrize("law", LAWS)
def test_each_end_errs_no_more_often_than_promised(law: str):
    draw, mean = LAWS[law]
    rng = np.random.default_rng(0)
    found = [mean_of(draw(rng, 64), lower=0.0, upper=1.0, confidence=0.8) for _ in range(400)]
    # 400 draws of an end that errs with 0.1 give more than 0.145 with probability 0.002.
    assert np.mean([one.low > mean for one in found]) <= 0.145
    assert np.mean([one.high < mean for one in found]) <= 0.145
    assert np.mean([one.low > mean * 1.3 + 0.1 or one.high < mean * 0.7 - 0.1 for one in found]) == 0


@pytest.mark.statistical
def test_it_rules_out_a_wrong_mean_and_narrows_where_numbers_agree():
    rng = np.random.default_rng(1)
    narrow = mean_of(rng.binomial(100, 0.5, 64) / 100, lower=0.0, upper=1.0, confidence=0.95)
    assert narrow.low > 0.44
    assert narrow.high < 0.56
    wide = mean_of(rng.binomial(1, 0.5, 64) * 1.0, lower=0.0, upper=1.0, confidence=0.95)
    assert wide.high - wide.low > 2.5 * (narrow.high - narrow.low)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=80), st.sampled_from([0.5, 0.95, 0.999]))
def test_it_holds_the_mean_and_both_ends_swap_with_the_sign(values: list[float], confidence: float):
    found = mean_of(values, lower=0.0, upper=1.0, confidence=confidence)
    mirrored = mean_of([-value for value in values], lower=-1.0, upper=0.0, confidence=confidence)
    assert 0 <= found.low <= found.estimate <= found.high <= 1
    assert np.allclose([mirrored.low, mirrored.high], [-found.high, -found.low], atol=1e-6)


@pytest.mark.parametrize("values", [[], [[0.5]], [1.1], [float("nan")]])
def test_numbers_beyond_the_bounds_are_refused(values: list):
    with pytest.raises(DataError):
        mean_of(values, lower=0.0, upper=1.0, confidence=0.95)
