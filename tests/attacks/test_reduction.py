import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, norm

from fedmarket.attacks.rates import Interval, advantage, scores_of, tpr_at_fpr
from fedmarket.attacks.reduction import LEAST_BASELINE, AlreadyLow, Reduction, certified_reduction
from fedmarket.errors import DataError


def interval(low, estimate, high, *, confidence=0.95):
    return Interval(estimate=estimate, low=low, high=high, confidence=confidence, method="clopper-pearson")


SHARES = st.lists(st.floats(0.0, 1.0), min_size=3, max_size=3).map(sorted).map(lambda ends: interval(*ends))


def test_what_is_left_at_most_is_compared_with_what_was_there_at_least():
    before, after = interval(0.5, 0.6, 0.7), interval(0.0, 0.03, 0.05)
    found = certified_reduction(before, after, chance=0.01)
    assert isinstance(found, Reduction)
    assert (found.certified, found.estimate, found.ceiling) == pytest.approx((0.9, 0.95, 0.98))
    assert found.confidence == 0.95


@pytest.mark.parametrize(
    ("low", "chance", "already"),
    [
        (0.0, 0.0, True),
        (-0.2, 0.0, True),
        (LEAST_BASELINE, 0.0, True),
        (LEAST_BASELINE + 1e-6, 0.0, False),
        (0.04, 0.05, True),
        (0.06, 0.05, False),
        (0.005, 0.001, True),
    ],
)
def test_a_baseline_near_zero_or_near_guessing_is_an_answer_of_its_own(low, chance, already):
    before = interval(low, 0.1, 0.2)
    found = certified_reduction(before, interval(0.0, 0.01, 0.02), chance=chance)
    assert isinstance(found, AlreadyLow) == already
    if isinstance(found, AlreadyLow):
        assert found.words.startswith("baseline already at 0.1")
        assert found.floor == max(LEAST_BASELINE, chance)


@given(before=SHARES, after=SHARES, chance=st.floats(0.0, 0.5))
def test_every_answer_is_finite_and_certifies_no_more_than_was_seen(before, after, chance):
    found = certified_reduction(before, after, chance=chance)
    if isinstance(found, Reduction):
        assert math.isfinite(found.certified)
        assert found.certified <= found.estimate <= 1
        assert 0 <= found.ceiling <= 1


@pytest.mark.statistical
def test_certified_reductions_are_rarely_above_the_truth():
    rng, runs = np.random.default_rng(10), 200
    shifts, size, fpr = (2.5, 0.3), 800, 0.05
    gaps = [2 * norm.cdf(shift / 2) - 1 for shift in shifts]
    rates = [norm.sf(norm.isf(fpr) - shift) for shift in shifts]
    truths = [1 - after / before for before, after in (gaps, rates)]
    wrong, certified = np.zeros(2), np.zeros(2)
    for _ in range(runs):
        before, after = (scores_of(rng.normal(shift, size=size), rng.normal(size=size)) for shift in shifts)
        found = (
            certified_reduction(advantage(before, confidence=0.8), advantage(after, confidence=0.8), chance=0.0),
            certified_reduction(
                *(tpr_at_fpr(one, false_positive_rate=fpr, confidence=0.8) for one in (before, after)), chance=fpr
            ),
        )
        certified += [one.certified / runs for one in found]
        wrong += [one.certified > truth for one, truth in zip(found, truths, strict=True)]
    assert max(wrong) <= binom.isf(1e-3, runs, 0.2)
    assert min(certified) > 0.6


@pytest.mark.parametrize(
    ("before", "after", "chance", "expected"),
    [
        (interval(0.1, 0.2, 0.3), interval(0.0, 0.1, 0.2, confidence=0.9), 0.0, "one confidence"),
        (interval(0.3, 0.2, 0.1), interval(0.0, 0.1, 0.2), 0.0, "before: expected low"),
        (interval(0.1, 0.2, 0.3), interval(0.0, math.nan, 0.2), 0.0, "after: expected low"),
        (interval(0.1, 0.2, 0.3), interval(0.0, 0.1, 0.2), 1.0, "chance"),
        (interval(0.1, 0.2, 0.3), interval(0.0, 0.1, 0.2), math.nan, "chance"),
    ],
)
def test_what_cannot_be_compared_is_refused(before, after, chance, expected):
    with pytest.raises(DataError, match=expected):
        certified_reduction(before, after, chance=chance)
