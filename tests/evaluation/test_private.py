"""Metrics from counts are near those of the scores, and the interval is as wide as the noise moves them."""

import math
from dataclasses import replace
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats
from scipy.special import expit, logit

from fedmarket.errors import DataError
from fedmarket.evaluation.metrics import propensity_metrics
from fedmarket.evaluation.private import private_metrics
from fedmarket.privacy.histogram import SCORE_BINS, BinnedCounts, score_bins

KEYS = ["auc", "lift_10", "calibration_ratio", "log_loss", "response_rate"]
DOUBT = 1e-7
RATES = (0.02, 0.1, 0.3, 0.5)


def counted(labels: np.ndarray, log_odds: np.ndarray, *, typical: float, noise_std: float = 0.0) -> BinnedCounts:
    bins = score_bins(log_odds, typical=typical)
    counts = [np.bincount(bins[labels == label], minlength=SCORE_BINS) for label in (0, 1)]
    return BinnedCounts(counts=np.array(counts, dtype=np.float64), typical=typical, noise_std=noise_std)


def market(
    *, rate: float, spread: float, customers: int = 100_000, seed: int = 3
) -> tuple[BinnedCounts, dict[str, float]]:
    """Return counts of calibrated scores, without noise, and the metrics of the scores themselves."""
    rng = np.random.default_rng(seed)
    typical = float(logit(rate))
    log_odds = typical + spread * rng.standard_normal(customers)
    labels = (rng.random(customers) < expit(log_odds)).astype(int)
    exact = propensity_metrics(labels, expit(log_odds), contact_cost=5.0, response_margin=60.0)
    return counted(labels, log_odds, typical=typical), exact | {"response_rate": float(labels.mean())}


def values_of(scores: BinnedCounts, seed: int = 0) -> dict[str, float]:
    return {name: found["value"] for name, found in private_metrics(scores, rng=np.random.default_rng(seed)).items()}


def widths_of(scores: BinnedCounts, seed: int = 0) -> dict[str, float]:
    found = private_metrics(scores, rng=np.random.default_rng(seed))
    return {name: one["high"] - one["low"] for name, one in found.items()}


# Without noise: what the bins cost.


@pytest.mark.parametrize("spread", [0.3, 0.6, 1.0, 1.4, 1.8])
@pytest.mark.parametrize("rate", RATES)
def test_exact_counts_give_nearly_the_metrics_of_the_scores(rate: float, spread: float):
    """A bin of width w hides at most p (1 - p) w^2 / 24 nats: 0.0026 at width 1/2, 0.01 at the outer two's width 1.

    Ranks inside a bin are right to first order in w, so that what is left of the AUC is of order w^2 times the share
    of pairs that share a bin. Lift ranks nothing inside a bin: it is never above the truth by more than the bins'
    edges, and below it by what the best tenth gains from being ranked.
    """
    scores, exact = market(rate=rate, spread=spread)
    values = values_of(scores)
    assert list(values) == KEYS
    assert values["response_rate"] == pytest.approx(exact["response_rate"], abs=1e-12)
    assert values["auc"] == pytest.approx(exact["auc"], abs=0.004)
    assert values["calibration_ratio"] == pytest.approx(exact["calibration_ratio"], rel=0.05)
    assert exact["log_loss"] - 0.0005 < values["log_loss"] < exact["log_loss"] + 0.006
    assert values["lift_10"] == pytest.approx(exact["lift_10"], rel=0.04)


def test_scores_in_one_bin_are_ranked_as_a_calibrated_model_would_rank_them():
    labels = np.tile([0, 0, 0, 1], 1000)
    scores = counted(labels, np.full(4000, logit(0.25) - 1e-9), typical=float(logit(0.25)))
    values = values_of(scores)
    middle = expit(logit(0.25) - 0.25)  # the first tenth of a bin of width 1/2, as a calibrated model would order it
    assert values["lift_10"] == pytest.approx(1.0 + 0.9 * (1 - middle) * 0.25)
    assert values["auc"] == pytest.approx(0.5 + 0.5 / 12)  # in a bin of width 1/2 a calibrated model would rank so much
    rates = np.array([[300.0, 200.0], [100.0, 50.0]])
    apart = np.zeros((2, SCORE_BINS))
    apart[:, [2, 8]] = rates
    below = 200 / 500 * (0.5 + 0.5 / 12) * 50 / 150 + 300 / 500 * 50 / 150 + 300 / 500 * (0.5 + 0.5 / 12) * 100 / 150
    by_hand = BinnedCounts(counts=apart, typical=0.0, noise_std=0.0)
    assert values_of(by_hand)["auc"] == pytest.approx(below)


def test_values_by_hand():
    counts = np.zeros((2, SCORE_BINS))
    counts[0, 4], counts[1, 4], counts[0, 6], counts[1, 6] = 60.0, 20.0, 5.0, 15.0
    values = values_of(BinnedCounts(counts=counts, typical=-1.0, noise_std=0.0))
    low, high = expit(-1.25), expit(-0.25)
    assert values["response_rate"] == pytest.approx(0.35)
    assert values["calibration_ratio"] == pytest.approx((80 * low + 20 * high) / 35)
    loss = 20 * math.log(low) + 60 * math.log(1 - low) + 15 * math.log(high) + 5 * math.log(1 - high)
    assert values["log_loss"] == pytest.approx(-loss / 100)
    half = 0.5 + 0.5 * 0.5 * (1 - high) * 0.25  # ten of the twenty in the upper bin
    assert values["lift_10"] == pytest.approx(half * 15 / 35 / 0.1)
    inside = 0.5 + 0.5 / 12
    assert values["auc"] == pytest.approx((15 * 60 + 15 * 5 * inside + 20 * 60 * inside) / (35 * 65))


@given(arrays(np.float64, (2, SCORE_BINS), elements=st.integers(1, 1000).map(float)), st.floats(-4, 2))
@settings(max_examples=40)
def test_metrics_of_whole_counts_are_in_their_ranges_and_do_not_depend_on_how_many_there_are(counts, typical: float):
    scores = BinnedCounts(counts=counts, typical=typical, noise_std=0.0)
    values = values_of(scores)
    assert 0 < values["auc"] < 1
    assert 0 < values["lift_10"] <= 10
    assert 0 < values["response_rate"] < 1
    assert values["log_loss"] > 0
    assert values["calibration_ratio"] > 0
    assert values_of(replace(scores, counts=7 * counts)) == pytest.approx(values)


# With noise: what the interval says.


def noisy(scores: BinnedCounts, noise_std: float, rng: np.random.Generator) -> BinnedCounts:
    moved = scores.counts + noise_std * rng.standard_normal(scores.counts.shape)
    return replace(scores, counts=moved, noise_std=noise_std)


TRIALS = 1000


@cache
def trials(noise_std: float) -> tuple[dict[str, float], list[dict[str, dict[str, float]]]]:
    """Return the metrics of counts without noise, and what as many draws of the noise make of them."""
    scores, _ = market(rate=0.1, spread=1.0, customers=8000)
    rng = np.random.default_rng(11)
    return values_of(scores), [private_metrics(noisy(scores, noise_std, rng), rng=rng) for _ in range(TRIALS)]


def complaints(covered: np.ndarray) -> list[float]:
    """Return the chances that reject a coverage of 95 %, allowing for its own error of two percent points."""
    hits = int(covered.sum())
    chances = (stats.binom.cdf(hits, covered.size, 0.93), stats.binom.sf(hits - 1, covered.size, 0.97))
    return [float(chance) for chance in chances if chance < DOUBT]


@pytest.mark.statistical
@pytest.mark.parametrize("noise_std", [2.0, 12.0])
@pytest.mark.parametrize("name", KEYS)
def test_the_interval_covers_the_metrics_of_noiseless_counts_19_times_of_20(name: str, noise_std: float):
    truth, found = trials(noise_std)
    off = np.array([abs(one[name]["value"] - truth[name]) for one in found])
    half_width = np.array([(one[name]["high"] - one[name]["low"]) / 2 for one in found])
    assert complaints(off <= half_width) == []
    assert complaints(off <= half_width / 2) != []
    assert complaints(off <= 2 * half_width) != []


def test_an_interval_is_around_its_value_and_twice_as_wide_for_twice_the_noise():
    scores, _ = market(rate=0.1, spread=1.0, customers=8000)
    found = private_metrics(replace(scores, noise_std=5.0), rng=np.random.default_rng(0))
    for one in found.values():
        assert one["low"] < one["value"] < one["high"]
        assert one["value"] - one["low"] == pytest.approx(one["high"] - one["value"])
    widths = [widths_of(replace(scores, noise_std=noise_std)) for noise_std in (1.0, 2.0, 4.0, 8.0)]
    for name in KEYS:
        of_name = [width[name] for width in widths]
        assert all(1.7 < later / earlier < 2.3 for earlier, later in pairwise(of_name)), name


def test_exact_counts_have_no_interval_to_speak_of():
    scores, _ = market(rate=0.1, spread=1.0, customers=8000)
    assert max(widths_of(scores).values()) < 1e-12


def test_the_value_does_not_depend_on_the_replicates_and_the_interval_repeats_with_its_generator():
    scores = replace(market(rate=0.1, spread=1.0, customers=8000)[0], noise_std=5.0)
    assert values_of(scores, seed=1) == values_of(scores, seed=2)
    assert widths_of(scores, seed=1) == widths_of(scores, seed=1) != widths_of(scores, seed=2)


# Counts that noise has spoilt.


@pytest.mark.parametrize("outcome", [0, 1])
@pytest.mark.parametrize("left", [0.0, -3.0])
def test_counts_without_one_of_the_classes_are_refused_in_one_line(outcome: int, left: float):
    scores, _ = market(rate=0.3, spread=1.0, customers=8000)
    counts = scores.counts.copy()
    counts[outcome] = 0.0
    counts[outcome, 5] = left
    with pytest.raises(DataError, match=r"^private evaluation: the noise leaves no rows of one class$"):
        private_metrics(replace(scores, counts=counts, noise_std=1.0), rng=np.random.default_rng(0))


def test_counts_that_are_negative_in_some_bins_are_used_as_they_are():
    """Cutting them at 0 would add rows where there are none: noise would no longer cancel."""
    scores, _ = market(rate=0.1, spread=0.6, customers=8000)
    rng = np.random.default_rng(5)
    found = [noisy(scores, 20.0, rng) for _ in range(200)]
    assert all((one.counts < 0).any() for one in found)
    rates = [values_of(one)["response_rate"] for one in found]
    truth = values_of(scores)["response_rate"]
    assert abs(np.mean(rates) - truth) < 5 * np.std(rates) / math.sqrt(len(rates))
    cut = [values_of(replace(one, counts=one.counts.clip(0.0)))["response_rate"] for one in found]
    assert np.mean(cut) - truth > 5 * np.std(cut) / math.sqrt(len(cut))
    for one in found:
        assert all(
            math.isfinite(number) for metric in private_metrics(one, rng=rng).values() for number in metric.values()
        )


def test_noise_that_leaves_no_class_in_some_replicates_still_gives_an_interval():
    counts = np.full((2, SCORE_BINS), 3.0)
    found = private_metrics(BinnedCounts(counts=counts, typical=0.0, noise_std=20.0), rng=np.random.default_rng(0))
    assert all(math.isfinite(number) for metric in found.values() for number in metric.values())
    assert all(metric["high"] > metric["low"] for metric in found.values())
