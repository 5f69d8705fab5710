import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest, norm
from sklearn.metrics import roc_auc_score, roc_curve

from fedmarket.attacks.rates import (
    advantage,
    advantage_at,
    auc,
    best_threshold,
    bootstrap_auc,
    rates_at,
    roc,
    scores_of,
    threshold_for,
    tpr_at_fpr,
)
from fedmarket.errors import DataError

SHIFT = 1.5
SAMPLES = st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=30)
CONFIDENCES = st.floats(0.05, 0.99)


def attack(rng, *, members=300, nonmembers=500, shift=SHIFT, decimals=12):
    draws = (rng.normal(mean, size=size) for mean, size in ((shift, members), (0.0, nonmembers)))
    return scores_of(*(np.round(scores, decimals) for scores in draws))


@given(members=SAMPLES, nonmembers=SAMPLES)
def test_curve_and_area_agree_with_scikit_learn(members, nonmembers):
    labels, scores = [1] * len(members) + [0] * len(nonmembers), members + nonmembers
    found = scores_of(members, nonmembers)
    false, true, _ = roc_curve(labels, scores, drop_intermediate=False)
    curve = roc(found)
    assert curve.false_positive_rate == pytest.approx(false)
    assert curve.true_positive_rate == pytest.approx(true)
    assert auc(found, confidence=0.9).estimate == pytest.approx(roc_auc_score(labels, scores))
    best = advantage(found, confidence=0.9).estimate
    assert best == pytest.approx(max(true - false))
    measured = rates_at(found, threshold=best_threshold(found), confidence=0.9)
    assert measured.true_positive_rate.estimate - measured.false_positive_rate.estimate == pytest.approx(best)


@given(members=SAMPLES, nonmembers=SAMPLES, confidence=CONFIDENCES, rate=st.floats(0.001, 0.9))
def test_estimates_lie_in_their_intervals_and_more_confidence_is_wider(members, nonmembers, confidence, rate):
    found = scores_of(members, nonmembers)
    for measure in (
        lambda level: auc(found, confidence=level),
        lambda level: advantage(found, confidence=level),
        lambda level: advantage_at(found, threshold=0.0, confidence=level),
        lambda level: tpr_at_fpr(found, false_positive_rate=rate, confidence=level),
        lambda level: rates_at(found, threshold=0.0, confidence=level).true_positive_rate,
        lambda level: rates_at(found, threshold=0.0, confidence=level).false_positive_rate,
    ):
        narrow, wide = measure(confidence), measure((1 + confidence) / 2)
        assert wide.low <= narrow.low <= narrow.estimate <= narrow.high <= wide.high


@given(members=SAMPLES, nonmembers=SAMPLES, rate=st.floats(0.001, 0.9))
def test_scores_count_by_their_order_alone(members, nonmembers, rate):
    one, other = scores_of(members, nonmembers), scores_of(np.exp(members), np.exp(nonmembers))
    for measure in (
        lambda found: auc(found, confidence=0.9),
        lambda found: advantage(found, confidence=0.9),
        lambda found: tpr_at_fpr(found, false_positive_rate=rate, confidence=0.9),
    ):
        assert measure(one) == measure(other)


def test_no_threshold_flags_more_non_members_than_allowed():
    found = scores_of([5.0, 4.0, 3.0, 2.0], [4.0, 3.0, 3.0, 1.0])
    for rate, expected in ((0.1, 0.25), (0.25, 0.5), (0.5, 0.5), (0.75, 1.0), (0.8, 1.0)):
        assert tpr_at_fpr(found, false_positive_rate=rate, confidence=0.9).estimate == expected
    for rate, expected in ((0.1, math.inf), (0.25, 4.0), (0.5, 4.0), (0.75, 3.0)):
        assert threshold_for(found.nonmembers, false_positive_rate=rate) == expected


def test_rates_at_a_threshold_have_exact_intervals():
    found = scores_of(np.arange(40.0), np.arange(100.0) - 95)
    measured = rates_at(found, threshold=37.0, confidence=0.95)
    for interval, count, size in (
        (measured.true_positive_rate, 3, 40),
        (measured.false_positive_rate, 0, 100),
    ):
        exact = binomtest(count, size).proportion_ci(0.95, method="exact")
        assert (interval.low, interval.high) == pytest.approx((exact.low, exact.high))
        assert interval.estimate == count / size
    assert measured.false_positive_rate.high == pytest.approx(1 - 0.025 ** (1 / 100))
    assert rates_at(found, threshold=-100.0, confidence=0.95).true_positive_rate.high == 1.0


def test_the_difference_at_a_threshold_has_a_quarter_of_the_error_for_each_bound():
    found = scores_of(np.arange(40.0), np.arange(100.0) - 70)
    exact = [binomtest(count, size).proportion_ci(0.975, method="exact") for count, size in ((30, 40), (20, 100))]
    interval = advantage_at(found, threshold=10.0, confidence=0.95)
    assert interval.estimate == pytest.approx(0.75 - 0.2)
    assert interval.low == pytest.approx(exact[0].low - exact[1].high)
    assert interval.high == pytest.approx(exact[0].high - exact[1].low)


def test_the_area_is_bounded_by_the_smaller_sample():
    found = scores_of(np.full(800, 0.5), np.arange(1000) % 2)
    interval = auc(found, confidence=0.95)
    margin = math.sqrt(math.log(40) / 1600)
    assert (interval.low, interval.estimate, interval.high) == pytest.approx((0.5 - margin, 0.5, 0.5 + margin))


def test_tied_non_members_leave_the_threshold_between_two_scores():
    """Of 1000 non-members 100 score 1 and none above: at 5 % only scores above 1 are called, at 20 % those above 0."""
    found = scores_of([2.0] * 30 + [1.0] * 30 + [0.0] * 40, np.append(np.ones(100), np.zeros(900)))
    for rate, called in ((0.05, 30), (0.2, 60)):
        interval = tpr_at_fpr(found, false_positive_rate=rate, confidence=0.9)
        exact = binomtest(called, 100).proportion_ci(0.95, method="exact")
        assert (interval.low, interval.estimate, interval.high) == pytest.approx((exact.low, called / 100, exact.high))


def test_bands_are_those_of_dvoretzky_kiefer_wolfowitz():
    found = scores_of(np.full(5000, 1.0), np.append(np.full(7000, 0.0), np.full(3000, 1.0)))
    margin = math.sqrt(math.log(80) / 10_000) + math.sqrt(math.log(80) / 20_000)
    interval = advantage(found, confidence=0.95)
    assert (interval.low, interval.high) == pytest.approx((0.7 - margin, 0.7 + margin))


def test_a_low_false_positive_rate_takes_enough_non_members():
    """Without them no threshold is known to be high enough, and nothing is certified."""
    members = np.full(1000, 10.0)
    needed = math.log(0.0125) / math.log1p(-0.001)
    few, enough = (scores_of(members, np.zeros(math.floor(needed) + more)) for more in (0, 1))
    assert tpr_at_fpr(few, false_positive_rate=0.001, confidence=0.95).low == 0
    assert tpr_at_fpr(enough, false_positive_rate=0.001, confidence=0.95).low == pytest.approx(0.0125 ** (1 / 1000))
    assert tpr_at_fpr(few, false_positive_rate=0.001, confidence=0.95).high == 1


def errors_of(measure, truth, *, runs, seed, **attacked):
    """Return how often the truth was below the interval, and above it, and the mean width."""
    rng = np.random.default_rng(seed)
    found = [measure(attack(rng, **attacked)) for _ in range(runs)]
    below = sum(truth < interval.low for interval in found)
    return below, sum(truth > interval.high for interval in found), np.mean([one.high - one.low for one in found])


def at_most(runs, chance):
    return binom.isf(1e-3, runs, chance)


def true_rate(fpr, *, shift=SHIFT, decimals=12):
    """The rate of the lowest threshold on the grid of rounded scores that flags no more than ``fpr``."""
    step = 10.0**-decimals
    threshold = norm.isf(fpr) if decimals > 6 else math.ceil((norm.isf(fpr) + step / 2) / step) * step - step / 2
    return norm.sf(threshold - shift)


@pytest.mark.statistical
@pytest.mark.parametrize("decimals", [12, 0])
@pytest.mark.parametrize("fpr", [0.01, 0.1])
def test_intervals_of_the_rate_at_a_rate_hold_for_new_customers(fpr, decimals):
    runs, truth = 400, true_rate(fpr, decimals=decimals)
    for confidence in (0.8, 0.95):
        below, above, width = errors_of(
            lambda found, level=confidence: tpr_at_fpr(found, false_positive_rate=fpr, confidence=level),
            truth, runs=runs, seed=6, decimals=decimals,
        )  # fmt: skip
        assert max(below, above) <= at_most(runs, (1 - confidence) / 2)
        assert width < 0.65


@pytest.mark.statistical
def test_an_interval_that_takes_the_observed_threshold_for_the_true_one_does_not_hold():
    def naive(found):
        threshold = threshold_for(found.nonmembers, false_positive_rate=0.01)
        return rates_at(found, threshold=threshold, confidence=0.8).true_positive_rate

    below, above, _ = errors_of(naive, true_rate(0.01), runs=400, seed=6)
    assert max(below, above) > at_most(400, 0.1)


@pytest.mark.statistical
def test_intervals_of_the_advantage_hold_for_new_customers():
    runs, truth = 400, 2 * norm.cdf(SHIFT / 2) - 1
    best = errors_of(lambda found: advantage(found, confidence=0.8), truth, runs=runs, seed=7)
    fixed = errors_of(lambda found: advantage_at(found, threshold=SHIFT / 2, confidence=0.8), truth, runs=runs, seed=7)
    for below, above, width in (best, fixed):
        assert max(below, above) <= at_most(runs, 0.1)
        assert width < 0.35


@pytest.mark.statistical
def test_where_there_is_nothing_to_see_the_best_threshold_is_not_believed():
    """The observed advantage of scores that mean nothing is well above 0; half of them measure it honestly."""
    rng, runs = np.random.default_rng(8), 300
    believed = measured = naive = 0
    for _ in range(runs):
        found = attack(rng, shift=0.0, members=100, nonmembers=100)
        believed += advantage(found, confidence=0.8).low > 0
        chosen, held = found.halves(rng)
        measured += advantage_at(held, threshold=best_threshold(chosen), confidence=0.8).low > 0
        naive += advantage_at(found, threshold=best_threshold(found), confidence=0.8).low > 0
    assert max(believed, measured) <= at_most(runs, 0.1)
    assert naive > measured


@pytest.mark.statistical
def test_intervals_of_the_area_hold_for_new_customers():
    rng, runs, truth = np.random.default_rng(9), 200, norm.cdf(SHIFT / math.sqrt(2))
    bounds = errors_of(lambda found: auc(found, confidence=0.8), truth, runs=runs, seed=9)
    replicated = errors_of(
        lambda found: bootstrap_auc(found, confidence=0.8, replicates=100, rng=rng), truth, runs=runs, seed=9
    )
    assert max(bounds[:2]) <= at_most(runs, 0.1)
    assert 0.05 * runs < sum(replicated[:2]) < 0.35 * runs
    assert replicated[2] < bounds[2]


def test_each_interval_says_how_it_was_made():
    found = attack(np.random.default_rng(0))
    methods = {
        auc(found, confidence=0.9).method,
        bootstrap_auc(found, confidence=0.9, replicates=10, rng=np.random.default_rng(0)).method,
        advantage(found, confidence=0.9).method,
        advantage_at(found, threshold=0.0, confidence=0.9).method,
        tpr_at_fpr(found, false_positive_rate=0.1, confidence=0.9).method,
    }
    assert methods == {"hoeffding", "bootstrap", "dvoretzky-kiefer-wolfowitz", "clopper-pearson", "order-statistics"}


def test_a_subset_of_customers_is_measured_by_itself():
    found = scores_of([9.0, 8.0, 0.0, 0.0], [1.0, 0.0, 5.0])
    exposed = found.among(members=[True, True, False, False], nonmembers=[True, True, False])
    assert advantage(exposed, confidence=0.9).estimate == 1.0
    assert advantage(found, confidence=0.9).estimate == 0.5


def test_halves_share_nobody():
    found = scores_of(np.arange(7.0), np.arange(10.0, 15.0))
    first, second = found.halves(np.random.default_rng(0))
    assert sorted([*first.members, *second.members]) == found.members.tolist()
    assert sorted([*first.nonmembers, *second.nonmembers]) == found.nonmembers.tolist()
    assert (first.members.size, first.nonmembers.size) == (3, 2)


FOUND = scores_of([1.0, 2.0], [0.0, 1.0])


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: scores_of([], [1.0]), "members: expected scores"),
        (lambda: scores_of([1.0], [[1.0]]), "nonmembers: expected scores"),
        (lambda: scores_of([math.nan], [1.0]), "members: expected finite"),
        (lambda: scores_of([1.0], [math.inf]), "nonmembers: expected finite"),
        (lambda: scores_of(["a"], [1.0]), "members: expected numbers"),
        (lambda: FOUND.among(members=[True], nonmembers=[True, True]), "expected 2 booleans"),
        (lambda: FOUND.among(members=[0, 1], nonmembers=[True, True]), "expected 2 booleans"),
        (lambda: FOUND.among(members=[True, True], nonmembers=[False, False]), "got none of 2"),
        (lambda: scores_of([1.0], [0.0, 1.0]).halves(np.random.default_rng(0)), "two members"),
        (lambda: tpr_at_fpr(FOUND, false_positive_rate=0.0, confidence=0.9), "false_positive_rate"),
        (lambda: tpr_at_fpr(FOUND, false_positive_rate=0.1, confidence=1.0), "expected a number"),
        (lambda: advantage(FOUND, confidence=math.nan), "expected a number"),
        (lambda: advantage_at(FOUND, threshold=math.nan, confidence=0.9), "threshold"),
        (lambda: threshold_for([math.nan], false_positive_rate=0.1), "finite"),
        (lambda: bootstrap_auc(FOUND, confidence=0.9, replicates=0, rng=np.random.default_rng(0)), "replicates"),
    ],
)
def test_unusable_scores_are_refused(make, expected):
    with pytest.raises(DataError, match=expected):
        make()
