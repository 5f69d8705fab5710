import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit
from scipy.stats import binom, norm

from fedmarket.attacks.one_run import (
    Ends,
    Guessed,
    audit,
    epsilon_bound,
    guessed,
    mu_bound,
    p_value,
    refuted,
)
from fedmarket.errors import DataError
from fedmarket.privacy.accountant import gaussian_epsilon, gaussian_mu

TRUE_EPSILON, TRUE_MU = 1.0, 1.0


def counts(canaries, guesses, correct):
    return Guessed(canaries=canaries, guesses=guesses, correct=correct)


def gaussian(mu):
    return lambda rate: float(norm.cdf(norm.ppf(rate) - mu))


def pure(epsilon):
    """The least false-positive rate under epsilon-DP: the higher one of its two lines, turned round."""
    return lambda rate: max(rate * math.exp(-epsilon), 1 - math.exp(epsilon) * (1 - rate), 0.0)


# The first bound


@given(
    abstained=st.integers(0, 30),
    wrong=st.integers(0, 30),
    correct=st.integers(0, 30),
    epsilon=st.floats(0.0, 4.0),
    delta=st.sampled_from([0.0, 1e-6, 1e-3, 0.02, 1.0]),
)
def test_a_p_value_is_the_sum_that_the_paper_writes(abstained, wrong, correct, epsilon, delta):
    guesses = wrong + correct
    chances = binom.pmf(np.arange(guesses + 1), guesses, expit(epsilon))
    most = max((chances[max(correct - i, 0) : correct].sum() / i for i in range(1, guesses + 1)), default=0.0)
    expected = min(chances[correct:].sum() + 2 * (guesses + abstained) * delta * most, 1.0)
    found = p_value(counts(guesses + abstained, guesses, correct), epsilon=epsilon, delta=delta)
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-14)


def test_one_canary_in_closed_form():
    """Of one guess the chance is q + 2 delta (1 - q); the worst mechanism's own is q + delta (1 - q)."""
    for epsilon in (0.0, 0.5, 3.0):
        chance = expit(epsilon)
        found = p_value(counts(1, 1, 1), epsilon=epsilon, delta=0.01)
        assert found == pytest.approx(chance + 2 * 0.01 * (1 - chance))


def test_tails_of_many_guesses_are_exact():
    ways = sum(math.comb(2000, count) for count in range(1300, 2001))
    assert p_value(counts(2000, 2000, 1300), epsilon=0.0, delta=0.0) == pytest.approx(
        float(Fraction(ways, 2**2000)), rel=1e-10
    )
    many = 100_000
    for epsilon in (5.0, 12.0, 30.0):
        exact = math.exp(-many * math.log1p(math.exp(-epsilon)))
        assert p_value(counts(many, many, many), epsilon=epsilon, delta=0.0) == pytest.approx(exact, rel=1e-9)


@pytest.mark.parametrize("correct", [0, 49_000, 50_300, 52_000, 73_106, 73_500, 99_999, 100_000])
def test_a_hundred_thousand_canaries_are_audited(correct):
    many = 100_000
    for delta in (0.0, 1e-7, 1e-5):
        bound = epsilon_bound(counts(many, many, correct), delta=delta, significance=0.05)
        assert 0 <= bound < 11
        for epsilon, below in ((bound, True), (bound + 1e-4, False)):
            if bound > 0 or not below:
                assert (p_value(counts(many, many, correct), epsilon=epsilon, delta=delta) < 0.05) == below
    assert epsilon_bound(counts(many, many, 73_106), delta=0.0, significance=0.05) == pytest.approx(
        1.0 - norm.ppf(0.95) / math.sqrt(many * expit(1) * expit(-1)), abs=2e-4
    )


@given(
    guesses=st.integers(1, 300),
    share=st.floats(0.0, 1.0),
    abstained=st.integers(0, 100),
    delta=st.sampled_from([0.0, 1e-6, 1e-4]),
)
def test_bounds_rise_with_correct_guesses_and_fall_with_abstentions_and_delta(guesses, share, abstained, delta):
    correct = int(share * (guesses - 1))
    fewer, more = (counts(guesses + abstained, guesses, right) for right in (correct, correct + 1))
    level = 0.05
    base = epsilon_bound(fewer, delta=delta, significance=level)
    assert epsilon_bound(more, delta=delta, significance=level) >= base
    assert epsilon_bound(fewer, delta=delta + 1e-5, significance=level) <= base
    assert epsilon_bound(fewer, delta=delta, significance=level / 2) <= base
    idle = counts(guesses + abstained + 50, guesses, correct)
    assert epsilon_bound(idle, delta=delta, significance=level) <= base
    assert mu_bound(more, significance=level) >= mu_bound(fewer, significance=level)
    assert mu_bound(fewer, significance=level / 2) <= mu_bound(fewer, significance=level)
    assert mu_bound(idle, significance=level) <= mu_bound(fewer, significance=level) + 2e-6


@pytest.mark.parametrize("level", [0.05, 0.01])
@pytest.mark.parametrize("guesses", [200, 1000])
def test_randomised_response_is_refuted_as_often_as_promised_and_hardly_less(guesses, level):
    """Exactly: the chance of all counts whose bound is above the truth. One count off would show at either end."""
    usual = int(guesses * expit(TRUE_EPSILON))
    bounds = {
        count: epsilon_bound(counts(guesses, guesses, count), delta=0.0, significance=level)
        for count in range(usual, usual + guesses // 7)
    }
    first = min(count for count, bound in bounds.items() if bound > TRUE_EPSILON)
    chance = binom.sf([first - 1, first - 2], guesses, expit(TRUE_EPSILON))
    assert chance[0] <= level < chance[1]


def leaky_response(rng, *, coins, epsilon, delta):
    """Scores of (epsilon, delta)-DP at its worst: a canary is shown with chance delta, and else answers noisily."""
    told = np.where(rng.random(coins.shape) < expit(epsilon), coins, ~coins)
    return np.where(rng.random(coins.shape) < delta, np.where(coins, 2.0, -2.0), np.where(told, 1.0, -1.0))


def noisy_response(rng, *, coins, mu):
    """Scores of mu-GDP: each canary by itself, at its worst."""
    return coins * mu + rng.normal(size=coins.shape)


def mixed_response(rng, *, coins, mu, dimension):
    """Scores of mu-GDP by interference: unit vectors of the included canaries, summed, with noise 1 / mu."""
    vectors = rng.normal(size=(coins.size, dimension))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors @ (coins @ vectors + rng.normal(size=dimension) / mu)


def bounds_of(respond, *, ends, bound, delta, runs, canaries, seed):
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(runs):
        coins = rng.random(canaries) < 0.5
        scores = respond(rng, coins=coins)
        one = audit(scores, coins, ends=ends, delta=delta, significance=0.05, bound=bound, rng=rng)
        found.append(one.epsilon if bound == "approximate" else one.mu)
    return np.array(found)


def at_most(runs, chance=0.05):
    """So many of ``runs`` may err; more has a chance below one in a thousand."""
    return binom.isf(1e-3, runs, chance)


@pytest.mark.statistical
@pytest.mark.parametrize(
    ("delta", "epsilon", "ends"),
    [
        (0.05, 0.1, [Ends(top=4, bottom=4)]),
        (1e-4, 1.0, [Ends(top=10, bottom=10), Ends(top=100, bottom=100)]),
    ],
)
def test_the_first_bound_is_rarely_above_the_truth(delta, epsilon, ends):
    runs = 300
    bounds = bounds_of(
        lambda rng, *, coins: leaky_response(rng, coins=coins, epsilon=epsilon, delta=delta),
        ends=ends, bound="approximate", delta=delta, runs=runs, canaries=200, seed=1,
    )  # fmt: skip
    assert (bounds > epsilon).sum() <= at_most(runs)
    without = bounds_of(
        lambda rng, *, coins: leaky_response(rng, coins=coins, epsilon=epsilon, delta=delta),
        ends=ends, bound="approximate", delta=0.0, runs=runs, canaries=200, seed=1,
    )  # fmt: skip
    assert ((without > epsilon).sum() > at_most(runs)) == (delta == 0.05)  # shown canaries void a bound without delta
    if delta < 0.05:
        assert np.median(bounds) > 0.5 * epsilon


# The second bound


@pytest.mark.statistical
@pytest.mark.parametrize("mu", [0.5, TRUE_MU, 3.0])
def test_the_second_bound_is_rarely_above_the_truth(mu):
    runs, ends = 200, [Ends(top=size, bottom=size) for size in (5, 50, 250)]
    bounds = bounds_of(
        lambda rng, *, coins: noisy_response(rng, coins=coins, mu=mu),
        ends=ends, bound="gaussian", delta=1e-5, runs=runs, canaries=500, seed=2,
    )  # fmt: skip
    assert (bounds > mu).sum() <= at_most(runs)
    assert np.median(bounds) > 0.2 * mu


@pytest.mark.statistical
def test_interference_lowers_the_second_bound_and_does_not_void_it():
    runs, ends = 100, [Ends(top=50, bottom=50)]
    bounds = bounds_of(
        lambda rng, *, coins: mixed_response(rng, coins=coins, mu=2.0, dimension=2000),
        ends=ends, bound="gaussian", delta=1e-5, runs=runs, canaries=200, seed=3,
    )  # fmt: skip
    assert (bounds > 2.0).sum() <= at_most(runs)
    assert bounds.max() > 0.2


@pytest.mark.statistical
@pytest.mark.parametrize(("canaries", "guesses"), [(1, 1), (3, 1), (3, 3), (6, 2), (6, 5), (20, 4)])
def test_no_true_chance_is_called_impossible(canaries, guesses):
    """All chances of a true mechanism, large ones too, where the second bound is near the truth."""
    rng, runs = np.random.default_rng(4), 200_000
    coins = rng.random((runs, canaries)) < 0.5
    scores = noisy_response(rng, coins=coins, mu=TRUE_MU) - TRUE_MU / 2
    surest = np.argsort(-np.abs(scores), axis=1)[:, :guesses]
    right = np.take_along_axis((scores > 0) == coins, surest, axis=1).sum(axis=1)
    for correct in range(1, guesses + 1):
        chance = (right >= correct).mean()
        slack = 4 * math.sqrt(chance * (1 - chance) / runs)
        if chance > slack:
            found = counts(canaries, guesses, correct)
            assert not refuted(found, significance=chance - slack, inverse=gaussian(TRUE_MU))


@pytest.mark.parametrize("chance", [0.55, 0.8, 0.95])
def test_of_one_canary_the_second_bound_is_exact(chance):
    """One guess is right with chance Phi(mu / 2) at most."""
    assert mu_bound(counts(1, 1, 1), significance=chance) == pytest.approx(2 * norm.ppf(chance), abs=2e-6)


@pytest.mark.parametrize("guesses", [1, 2, 5, 40])
@pytest.mark.parametrize("epsilon", [0.0, 0.5, 2.0])
def test_the_recursion_never_refutes_what_randomised_response_does(guesses, epsilon):
    for correct in range(1, guesses + 1):
        chance = binom.sf(correct - 1, guesses, expit(epsilon))
        found = counts(guesses, guesses, correct)
        assert not refuted(found, significance=chance * (1 - 1e-9), inverse=pure(epsilon))
        if guesses == 1 and chance < 0.999:
            assert refuted(found, significance=chance + 1e-6, inverse=pure(epsilon))


def test_the_expected_share_of_correct_guesses_bounds_the_last_tail():
    """With every guess made, some right guess is as likely as the recursion says for two canaries, by hand."""
    tail = 0.7  # t_2; then t_1 >= t_2 + 2 b^-1(t_2), and t_0 >= (t_1 + t_2 + 2 b^-1((t_1 + t_2) / 2)) / 2
    for mu in (0.5, 1.0, 2.0, 3.0):
        least = gaussian(mu)
        first = tail + 2 * least(tail)
        both = (first + tail + 2 * least(min((first + tail) / 2, 1.0))) / 2
        assert refuted(counts(2, 2, 2), significance=tail, inverse=least) == (first > 1 or both > 1)


@given(canaries=st.integers(1, 200), share=st.floats(0.0, 1.0), right=st.floats(0.0, 1.0))
def test_nothing_is_refuted_by_guesses_that_are_mostly_wrong(canaries, share, right):
    guesses = max(1, int(share * canaries))
    correct = int(right * guesses / 2)
    assert mu_bound(counts(canaries, guesses, correct), significance=0.05) == 0
    assert epsilon_bound(counts(canaries, guesses, correct), delta=1e-6, significance=0.05) == 0


# Published values


def upper_hull(points):
    """The points that no chord of others passes above."""
    kept = []
    for x, y in points:
        while len(kept) > 1:
            (x1, y1), (x0, y0) = kept[-1], kept[-2]
            if (y1 - y0) * (x - x1) > (y - y1) * (x1 - x0):
                break
            kept.pop()
        kept.append((x, y))
    return kept


@pytest.mark.parametrize(
    ("shift", "approximate", "f_dp"),
    [(1, 1.13346, 2.164749), (2, 2.311945, 4.7218075), (4, 4.395568, 9.133752)],
)
def test_bounds_agree_with_jax_privacy(shift, approximate, f_dp):
    """Values expected by test_epsilon_one_run_close of jax_privacy (google-deepmind, tests/auditing_test.py).

    10 000 canaries in and out at normal quantiles, ``shift`` apart; delta 1e-6, significance 0.05; guessed in are those
    above a threshold; thresholds are the corners of the counts' hull, and each has its share of the significance.
    """
    size, delta = 10_000, 1e-6
    outside = norm.ppf((np.arange(size) + 0.5) / size)
    inside = outside + shift
    thresholds = np.append(np.union1d(inside, outside), np.inf)
    below = zip(
        np.searchsorted(inside, thresholds).tolist(), np.searchsorted(outside, thresholds).tolist(), strict=True
    )
    corners = upper_hull(below)
    level = 0.05 / len(corners)
    tried = [counts(2 * size, 2 * size - false - true, size - false) for false, true in corners]
    for off, some in ((-1e-5, True), (1e-5, False)):
        at = approximate * (1 + off)
        assert any(p_value(one, epsilon=at, delta=delta) < level for one in tried) == some
        at = gaussian(gaussian_mu(f_dp * (1 + off), delta))
        assert any(refuted(one, significance=level, inverse=at) for one in tried) == some


# Guesses and the audit of them


def test_guesses_are_counted_at_both_ends():
    scores = [5.0, 4.0, 3.0, 2.0, 1.0, 0.0]
    coins = np.array([True, False, True, False, True, False])
    ends = [Ends(top=1, bottom=0), Ends(top=2, bottom=1), Ends(top=3, bottom=3), Ends(top=0, bottom=2)]
    found = guessed(scores, coins, ends=ends, rng=np.random.default_rng(0))
    assert [(one.canaries, one.guesses, one.correct) for one in found] == [(6, 1, 1), (6, 3, 2), (6, 6, 4), (6, 2, 1)]


def test_tied_scores_tell_nothing_whatever_the_order_of_the_canaries():
    coins = np.arange(2000) < 1000
    for order in (coins, ~coins):
        found = guessed(np.zeros(2000), order, ends=[Ends(top=500, bottom=500)], rng=np.random.default_rng(0))
        assert 430 < found[0].correct < 570


def test_each_number_of_guesses_pays_its_share():
    rng = np.random.default_rng(5)
    coins = rng.random(1000) < 0.5
    scores = noisy_response(rng, coins=coins, mu=2.0)
    ends = [Ends(top=size, bottom=size) for size in (20, 100, 400)]
    singles = guessed(scores, coins, ends=ends, rng=np.random.default_rng(0))
    first, second = (
        audit(scores, coins, ends=ends, delta=1e-6, significance=0.06, bound=bound, rng=np.random.default_rng(0))
        for bound in ("approximate", "gaussian")
    )
    assert first.epsilon == max(epsilon_bound(one, delta=1e-6, significance=0.02) for one in singles)
    assert second.mu == max(mu_bound(one, significance=0.02) for one in singles)
    assert second.epsilon == gaussian_epsilon(second.mu, 1e-6) > first.epsilon
    assert (first.tried, first.mu, first.best in singles) == (3, None, True)


def test_scores_of_nothing_bound_nothing():
    coins = np.arange(100) % 2 == 0
    for bound in ("approximate", "gaussian"):
        found = audit(
            np.zeros(100), coins, ends=[Ends(top=10, bottom=10)], delta=1e-5, significance=0.05, bound=bound,
            rng=np.random.default_rng(1),
        )  # fmt: skip
        assert found.epsilon == 0


COINS = np.array([True, False])


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"scores": [0.1]}, "a score and a coin"),
        ({"scores": [0.1, math.nan]}, "finite"),
        ({"scores": ["a", "b"]}, "numbers"),
        ({"scores": [[0.1, 0.2]]}, "a score and a coin"),
        ({"included": [1, 0]}, "booleans"),
        ({"ends": []}, "got none"),
        ({"ends": [Ends(top=2, bottom=1)]}, "1 to 2 guesses"),
        ({"ends": [Ends(top=0, bottom=0)]}, "1 to 2 guesses"),
        ({"ends": [Ends(top=3, bottom=-1)]}, "1 to 2 guesses"),
        ({"significance": 0.0}, "significance"),
        ({"significance": math.nan}, "significance"),
        ({"delta": 1.5}, "delta"),
        ({"delta": 0.0, "bound": "gaussian"}, "delta"),
    ],
)
def test_unusable_audits_are_refused(changes, expected):
    usable = {
        "scores": [0.1, 0.2], "included": COINS, "ends": [Ends(top=1, bottom=0)], "delta": 1e-5,
        "significance": 0.05, "bound": "approximate", "rng": np.random.default_rng(0),
    }  # fmt: skip
    audit(**usable)
    with pytest.raises(DataError, match=expected):
        audit(**usable | changes)


@pytest.mark.parametrize("wrong", [(1, 2, 1), (2, 1, 2), (2, 2, -1)])
def test_impossible_counts_are_refused(wrong):
    with pytest.raises(DataError, match="rising order"):
        counts(*wrong)
