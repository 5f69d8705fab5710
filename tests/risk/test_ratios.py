"""Likelihood ratios and their figures, on scores that are made up: who is judged by whom, and what intervals cover."""

import numpy as np
import pytest
from scipy import stats

from fedmarket.attacks.rates import rates_at, scores_of
from fedmarket.errors import DataError
from fedmarket.privacy.noise import Stream
from fedmarket.risk.membership import figures, likelihood_ratios
from fedmarket.risk.shadows import fair_coins

RUNS = 64


def toy(rng: np.random.Generator, *, runs: int = RUNS, targets: int = 60, shared: float = 1.0):
    """Return coins and scores of runs that shift all their targets' scores alike."""
    coins = rng.random((runs, targets)) < 0.5
    noise = rng.normal(size=(runs, targets)) + shared * rng.normal(size=(runs, 1))
    return coins, coins * 1.5 + noise + rng.normal(size=targets)


@pytest.mark.parametrize("variance", ["global", "per-target"])
def test_gaussians_come_from_all_other_runs_and_from_no_more(variance: str):
    coins, scores = toy(np.random.default_rng(3), runs=RUNS, targets=5)
    ratios = likelihood_ratios(coins, scores, variance=variance)
    for run in (0, 17):
        others, said = np.delete(scores, run, axis=0), np.delete(coins, run, axis=0)
        parts = []
        for mask in (said, ~said):
            own = [others[mask[:, place], place] for place in range(5)]
            means, spreads = np.array([x.mean() for x in own]), np.array([x.var(ddof=1) for x in own])
            spreads = np.full(5, spreads.mean()) if variance == "global" else spreads
            parts.append(stats.norm.logpdf(scores[run], means, np.sqrt(spreads)))
        np.testing.assert_allclose(ratios[run], parts[0] - parts[1], rtol=1e-9)


@pytest.mark.statistical
def test_intervals_of_runs_cover_where_those_of_pairs_do_not():
    rng = np.random.default_rng(4)
    drawn, pairs = [], []
    for _ in range(120):
        coins, scores = toy(rng, shared=2.0)
        ratios = likelihood_ratios(coins, scores, variance="global")
        drawn.append(figures(coins, ratios, confidence=0.9))
        told = rates_at(scores_of(ratios[coins], ratios[~coins]), threshold=0.0, confidence=0.9)
        pairs.append(told.true_positive_rate)

    def coverage(intervals, truth: float) -> float:
        return float(np.mean([one.low <= truth <= one.high for one in intervals]))

    for kind in (lambda f: f.auc, lambda f: f.advantage, lambda f: f.at_rates[0].true_positive_rate):
        intervals = [kind(one) for one in drawn]
        truth = float(np.mean([one.estimate for one in intervals]))
        assert coverage(intervals, truth) >= 0.9
        assert max(one.high - one.low for one in intervals) < 0.4
    assert coverage(pairs, float(np.mean([one.estimate for one in pairs]))) < 0.7


@pytest.mark.statistical
def test_thresholds_from_other_runs_keep_the_rate_that_was_asked():
    rng = np.random.default_rng(5)
    held = []
    for _ in range(20):
        coins, scores = toy(rng, shared=0.0)
        found = figures(coins, likelihood_ratios(coins, scores, variance="global"), confidence=0.9)
        held.append([at.false_positive_rate.estimate for at in found.at_rates])
    often, seldom = np.mean(held, axis=0)
    assert often == pytest.approx(0.0105, abs=0.001)
    assert seldom == pytest.approx(0.0015, abs=0.0005)


@pytest.mark.parametrize("error", [0.0, 1e-5])
def test_scores_that_say_all_find_all_and_accuse_nobody(error: float):
    rng = np.random.default_rng(6)
    coins = fair_coins(RUNS, 30, Stream.seeded(2, "coins"))
    scores = coins + error * rng.normal(size=coins.shape) * rng.exponential(size=(RUNS, 1))
    found = figures(coins, likelihood_ratios(coins, scores, variance="global"), confidence=0.95)
    for at in found.at_rates:
        assert at.true_positive_rate.estimate == 1.0
        assert at.false_positive_rate.estimate == 0.0


def test_scores_that_say_nothing_give_a_ratio_of_one():
    coins = fair_coins(RUNS, 4, Stream.seeded(1, "coins"))
    ratios = likelihood_ratios(coins, np.full((RUNS, 4), 0.3), variance="per-target")
    np.testing.assert_array_equal(ratios, 0.0)
    found = figures(coins, ratios, confidence=0.95)
    assert found.auc.estimate == 0.5
    assert found.advantage.estimate == 0.0


def test_a_target_that_was_always_in_is_refused():
    always = fair_coins(RUNS, 4, Stream.seeded(1, "coins"))
    always[:, 0] = True
    with pytest.raises(DataError, match="in, and out"):
        likelihood_ratios(always, np.zeros((RUNS, 4)), variance="global")
