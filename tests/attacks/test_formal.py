import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, norm

from fedmarket.attacks.formal import (
    ADVANTAGE,
    TPR_AT_0_1_PERCENT,
    TPR_AT_1_PERCENT,
    Approximate,
    Gaussian,
    Measure,
    Profile,
    epsilon_for,
    formal_reduction,
    largest,
    profile_of,
)
from fedmarket.errors import PlanError
from fedmarket.privacy.accountant import gaussian_delta, gaussian_mu

EPSILONS = st.floats(0.0, 30.0)
DELTAS = st.floats(0.0, 0.5)
RATES = st.floats(0.0, 1.0)


def best_test(member, nonmember, rate):
    """The Neyman-Pearson lemma: outcomes by falling likelihood ratio, the last one by a coin."""
    ratio = np.divide(member, nonmember, out=np.full(member.size, math.inf), where=nonmember > 0)
    order = np.argsort(-ratio, kind="stable")
    false, true = (np.append(0.0, np.cumsum(law[order])) for law in (nonmember, member))
    return float(np.interp(rate, false, true)) if rate else float(true[false == 0].max())


def worst_case(epsilon, delta):
    """The four outcomes that dominate every (epsilon, delta)-DP mechanism (Kairouz et al. 2015, theorem 2)."""
    likely, rare = (1 - delta) / (1 + math.exp(-epsilon)), (1 - delta) / (1 + math.exp(epsilon))
    return np.array([delta, likely, rare, 0.0]), np.array([0.0, rare, likely, delta])


@given(epsilon=st.floats(0.0, 10.0), delta=DELTAS, rate=RATES)
def test_the_worst_mechanism_attains_the_limit_and_no_more(epsilon, delta, rate):
    member, nonmember = worst_case(epsilon, delta)
    limit = Approximate(epsilon=epsilon, delta=delta)
    assert limit.true_positive_rate(rate) == pytest.approx(best_test(member, nonmember, rate), abs=1e-12)
    assert limit.advantage() == pytest.approx(np.abs(member - nonmember).sum() / 2, abs=1e-12)


@given(epsilon=EPSILONS, delta=DELTAS, more=st.floats(0.0, 3.0), rate=RATES)
def test_a_weaker_guarantee_allows_no_less(epsilon, delta, more, rate):
    base = Approximate(epsilon=epsilon, delta=delta)
    for weaker in (Approximate(epsilon=epsilon + more, delta=delta), Approximate(epsilon=epsilon, delta=delta + 0.1)):
        assert weaker.advantage() >= base.advantage() - 1e-12
        assert weaker.true_positive_rate(rate) >= base.true_positive_rate(rate) - 1e-12
    assert Gaussian(mu=epsilon + more).true_positive_rate(rate) >= Gaussian(mu=epsilon).true_positive_rate(rate)


@given(epsilon=EPSILONS, delta=DELTAS, rate=RATES)
def test_no_limit_is_below_guessing_or_above_the_advantage(epsilon, delta, rate):
    for limit in (Approximate(epsilon=epsilon, delta=delta), Gaussian(mu=epsilon)):
        assert rate - 1e-12 <= limit.true_positive_rate(rate) <= min(1.0, rate + limit.advantage() + 1e-12)


@pytest.mark.parametrize("limit", [Approximate(epsilon=1.3, delta=0.01), Gaussian(mu=0.8)])
def test_the_advantage_is_the_largest_difference_of_both_rates(limit):
    rates = np.linspace(0, 1, 100_001)
    assert max(limit.true_positive_rate(rate) - rate for rate in rates) == pytest.approx(limit.advantage(), abs=1e-5)


def test_known_limits():
    assert Approximate(epsilon=math.log(3), delta=0.0).advantage() == pytest.approx(0.5)
    assert Approximate(epsilon=1.0, delta=0.0).true_positive_rate(0.01) == pytest.approx(0.01 * math.e)
    assert Approximate(epsilon=0.0, delta=0.1).true_positive_rate(0.2) == pytest.approx(0.3)
    assert Approximate(epsilon=0.0, delta=0.1).advantage() == pytest.approx(0.1)
    assert Gaussian(mu=2.0).advantage() == pytest.approx(2 * norm.cdf(1) - 1)
    assert Gaussian(mu=norm.ppf(0.99)).true_positive_rate(0.01) == pytest.approx(0.5)


@pytest.mark.parametrize("none", [Approximate(epsilon=math.inf, delta=0.0), Gaussian(mu=math.inf)])
def test_no_noise_is_no_limit(none):
    assert [none.advantage(), none.true_positive_rate(0.0), none.true_positive_rate(0.5)] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("perfect", [Approximate(epsilon=0.0, delta=0.0), Gaussian(mu=0.0)])
def test_a_release_that_depends_on_nobody_leaves_guessing(perfect):
    assert perfect.advantage() == 0
    assert perfect.true_positive_rate(0.01) == pytest.approx(0.01)
    assert Gaussian(mu=3.0).true_positive_rate(0.0) == 0
    assert Approximate(epsilon=800.0, delta=1e-6).true_positive_rate(0.0) == 1e-6


@pytest.mark.parametrize("mu", [0.25, 1.0, 3.0])
def test_the_profile_of_the_gaussian_has_its_limits(mu):
    """Dong et al. (2022), corollary 2.13: two ways to one trade-off function."""
    dense = profile_of(lambda epsilon: gaussian_delta(epsilon, mu), epsilons=np.linspace(0, 12 * mu + mu**2, 4001))
    exact = Gaussian(mu=mu)
    assert dense.advantage() == pytest.approx(exact.advantage(), abs=1e-12)
    for rate in (1e-3, 0.01, 0.2, 0.7, 0.99):
        assert exact.true_positive_rate(rate) <= dense.true_positive_rate(rate) + 1e-12
        assert exact.true_positive_rate(rate) == pytest.approx(dense.true_positive_rate(rate), rel=1e-4)


def test_a_coarse_profile_is_looser_and_one_pair_is_that_pair():
    fine, coarse, one = (
        profile_of(lambda epsilon: gaussian_delta(epsilon, 1.0), epsilons=asked)
        for asked in (np.linspace(0, 8, 801), np.linspace(0.5, 8, 6), [2.0])
    )
    pair = Approximate(epsilon=2.0, delta=gaussian_delta(2.0, 1.0))
    for measure in (ADVANTAGE, TPR_AT_1_PERCENT, TPR_AT_0_1_PERCENT):
        assert largest(fine, measure) < largest(coarse, measure) <= largest(one, measure)
        assert largest(one, measure) == largest(pair, measure)


@pytest.mark.parametrize("uses", [1, 3, 8])
def test_the_profile_of_coins_used_several_times_is_their_best_test(uses):
    """Against a mechanism that is no Gaussian: randomised response, composed exactly."""
    epsilon = 0.7
    truth = 1 / (1 + math.exp(-epsilon))
    member, nonmember = (binom.pmf(np.arange(uses + 1), uses, chance) for chance in (truth, 1 - truth))
    losses = np.abs(np.log(member / nonmember))

    def delta_of(at):
        return float(np.maximum(member - math.exp(at) * nonmember, 0).sum())

    profile = profile_of(delta_of, epsilons=np.append(0.0, losses))
    assert profile.advantage() == pytest.approx(np.abs(member - nonmember).sum() / 2)
    for rate in (0.001, 0.01, 0.3, 0.9):
        assert profile.true_positive_rate(rate) == pytest.approx(best_test(member, nonmember, rate))


@pytest.mark.parametrize(
    ("measure", "family", "expected"),
    [
        (ADVANTAGE, "approximate", math.log((1.1 - 2e-5) / 0.9)),
        (TPR_AT_1_PERCENT, "approximate", math.log((0.1 - 1e-5) / 0.01)),
        (TPR_AT_0_1_PERCENT, "approximate", math.log((0.1 - 1e-5) / 0.001)),
        (ADVANTAGE, "gaussian", 0.9317),
        (TPR_AT_1_PERCENT, "gaussian", 4.6053),
        (TPR_AT_0_1_PERCENT, "gaussian", 8.8386),
    ],
)
def test_ninety_percent_off_a_full_leak(measure, family, expected):
    found = epsilon_for(measure, reduction=0.9, delta=1e-5, family=family)
    assert found.epsilon == pytest.approx(expected, abs=5e-5)
    assert measure.words in found.words
    assert ("mu-GDP" in found.words) == (family == "gaussian")


def test_the_gaussian_reading_is_false_of_other_mechanisms():
    """At the same epsilon and delta some mechanism leaks far more than a tenth."""
    limits = []
    for measure in (ADVANTAGE, TPR_AT_1_PERCENT, TPR_AT_0_1_PERCENT):
        found = epsilon_for(measure, reduction=0.9, delta=1e-5, family="gaussian")
        limits.append(largest(Approximate(epsilon=found.epsilon, delta=1e-5), measure))
    assert limits == pytest.approx([0.4348, 0.9901, 0.9999], abs=1e-4)


MEASURES = st.one_of(st.none(), st.floats(1e-4, 0.3)).map(lambda rate: Measure(false_positive_rate=rate))


@given(measure=MEASURES, reduction=st.floats(0.05, 0.99), delta=st.floats(1e-9, 0.01))
def test_the_epsilon_found_is_the_largest_that_reaches_the_reduction(measure, reduction, delta):
    try:
        epsilon = epsilon_for(measure, reduction=reduction, delta=delta, family="approximate").epsilon
    except PlanError:
        assert formal_reduction(Approximate(epsilon=0.0, delta=delta), measure) < reduction + 1e-9
        return
    assert formal_reduction(Approximate(epsilon=epsilon, delta=delta), measure) >= reduction - 1e-9
    assert formal_reduction(Approximate(epsilon=epsilon + 1e-3, delta=delta), measure) < reduction


@given(measure=MEASURES, reduction=st.floats(0.05, 0.95))
def test_the_mu_of_the_epsilon_found_reaches_the_reduction(measure, reduction):
    if reduction > 0.99 - (measure.false_positive_rate or 0):
        return
    epsilon = epsilon_for(measure, reduction=reduction, delta=1e-6, family="gaussian").epsilon
    assert formal_reduction(Gaussian(mu=gaussian_mu(epsilon, 1e-6)), measure) == pytest.approx(reduction, abs=1e-6)


@pytest.mark.parametrize("family", ["approximate", "gaussian"])
def test_nobody_does_worse_than_guessing(family):
    with pytest.raises(PlanError, match="no epsilon"):
        epsilon_for(TPR_AT_1_PERCENT, reduction=0.995, delta=1e-5, family=family)


def test_delta_alone_may_leave_too_much():
    with pytest.raises(PlanError, match="no epsilon"):
        epsilon_for(ADVANTAGE, reduction=0.9, delta=0.2, family="approximate")


@pytest.mark.parametrize(
    "make",
    [
        lambda: Approximate(epsilon=-1.0, delta=0.0),
        lambda: Approximate(epsilon=math.nan, delta=0.0),
        lambda: Approximate(epsilon=1.0, delta=1.1),
        lambda: Gaussian(mu=math.nan),
        lambda: Gaussian(mu=1.0).true_positive_rate(1.5),
        lambda: Approximate(epsilon=1.0, delta=0.0).true_positive_rate(math.nan),
        lambda: Measure(false_positive_rate=0.0),
        lambda: Profile(epsilons=np.array([]), deltas=np.array([])),
        lambda: Profile(epsilons=np.array([1.0]), deltas=np.array([math.nan])),
        lambda: Profile(epsilons=np.array([1.0, 2.0]), deltas=np.array([0.1])),
        lambda: profile_of(lambda _: 2.0, epsilons=[1.0]),
        lambda: epsilon_for(ADVANTAGE, reduction=1.0, delta=1e-5, family="gaussian"),
        lambda: epsilon_for(ADVANTAGE, reduction=0.9, delta=math.nan, family="gaussian"),
    ],
)
def test_what_is_no_guarantee_is_refused(make):
    with pytest.raises(PlanError, match="expected"):
        make()
