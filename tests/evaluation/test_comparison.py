import math
import time

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from fedmarket.errors import DataError
from fedmarket.evaluation.comparison import bootstrap_aucs, bootstrap_ginis, mean_interval, relative_loss
from fedmarket.evaluation.value import value_metrics


def market(rows, *, seed=0, rate=0.11):
    rng = np.random.default_rng(seed)
    labels = (rng.random(rows) < rate).astype(int)
    return labels, labels + rng.normal(size=rows), rng


class Replayed:
    """A generator whose draws of rows are known."""

    def __init__(self, draws):
        self.draws = list(draws)

    def integers(self, high, *, size):
        drawn = np.array(self.draws.pop(0))
        assert drawn.size == size
        return drawn


def test_a_replicate_is_the_auc_of_the_drawn_rows():
    labels, scores, rng = market(200)
    scores = np.round(scores, 1)
    draws = rng.integers(200, size=(30, 200))
    found = bootstrap_aucs(labels, {"arm": scores}, replicates=30, rng=Replayed(draws))["arm"]
    expected = [roc_auc_score(labels[drawn], scores[drawn]) for drawn in draws]
    assert found == pytest.approx(expected, abs=1e-12)


def test_all_arms_see_the_same_rows():
    labels, scores, _ = market(500)
    found = bootstrap_aucs(
        labels,
        {"arm": scores, "shifted": 3 * scores + 1, "opposite": -scores},
        replicates=50,
        rng=np.random.default_rng(1),
    )
    assert found["shifted"] == pytest.approx(found["arm"], abs=1e-12)
    assert found["opposite"] == pytest.approx(1 - found["arm"], abs=1e-12)
    alone = bootstrap_aucs(labels, {"arm": scores}, replicates=50, rng=np.random.default_rng(1))
    assert (alone["arm"] == found["arm"]).all()


def test_replicates_do_not_depend_on_how_many_are_made_at_once(monkeypatch):
    labels, scores, _ = market(300)
    whole = bootstrap_aucs(labels, {"arm": scores}, replicates=20, rng=np.random.default_rng(1))
    monkeypatch.setattr("fedmarket.evaluation.comparison._CELLS_AT_ONCE", 1000)
    parts = bootstrap_aucs(labels, {"arm": scores}, replicates=20, rng=np.random.default_rng(1))
    assert (parts["arm"] == whole["arm"]).all()


def test_a_resample_of_one_class_is_drawn_again():
    labels, scores = [0, 0, 1], [0.1, 0.5, 0.3]
    found = bootstrap_aucs(labels, {"arm": scores}, replicates=1, rng=Replayed([[0, 1, 1], [0, 1, 2]]))["arm"]
    assert found == pytest.approx([0.5])


def test_twelve_arms_take_seconds():
    labels, scores, rng = market(8000)
    arms = {f"arm {index}": scores + rng.normal(size=8000) for index in range(12)}
    start = time.perf_counter()
    found = bootstrap_aucs(labels, arms, replicates=1000, rng=rng)
    assert time.perf_counter() - start < 8
    assert {values.shape for values in found.values()} == {(1000,)}


def test_the_spread_of_replicates_is_the_standard_error_of_the_auc():
    aucs = [roc_auc_score(*market(600, seed=seed, rate=0.3)[:2]) for seed in range(300)]
    labels, scores, rng = market(600, seed=1000, rate=0.3)
    spread = bootstrap_aucs(labels, {"arm": scores}, replicates=1000, rng=rng)["arm"].std()
    assert 0.8 < spread / np.std(aucs) < 1.25


@pytest.mark.parametrize(
    ("labels", "scores", "expected"),
    [([1, 1], [0.1, 0.2], "both classes"), ([0, 1], [0.1, math.nan], "finite"), ([0, 1], [0.1], "2 labels, got 1")],
)
def test_unusable_rows_are_refused(labels, scores, expected):
    with pytest.raises(DataError, match=expected):
        bootstrap_aucs(labels, {"arm": scores}, replicates=10, rng=np.random.default_rng(0))


def spenders(rows, *, seed=0, rate=0.3):
    rng = np.random.default_rng(seed)
    spend = np.round((rng.random(rows) < rate) * np.exp(rng.normal(3.0, 1.0, size=rows)), 2)
    return spend, np.round(np.exp(np.log1p(spend) / 3 + rng.normal(size=rows)), 1), rng


def test_a_replicate_is_the_gini_of_the_drawn_rows():
    spend, values, rng = spenders(200)
    draws = rng.integers(200, size=(30, 200))
    found = bootstrap_ginis(spend, {"arm": values}, replicates=30, rng=Replayed(draws))["arm"]
    expected = [value_metrics(spend[drawn], values[drawn])["gini"] for drawn in draws]
    assert found == pytest.approx(expected, abs=1e-12)


def test_all_arms_see_the_same_spend():
    spend, values, _ = spenders(500)
    found = bootstrap_ginis(
        spend,
        {"arm": values, "shifted": 3 * values + 1, "opposite": values.max() - values, "best": spend},
        replicates=50,
        rng=np.random.default_rng(1),
    )
    assert found["shifted"] == pytest.approx(found["arm"], abs=1e-12)
    assert found["opposite"] == pytest.approx(-found["arm"], abs=1e-12)
    assert found["best"] == pytest.approx(np.ones(50), abs=1e-12)
    alone = bootstrap_ginis(spend, {"arm": values}, replicates=50, rng=np.random.default_rng(1))
    assert (alone["arm"] == found["arm"]).all()


def test_aucs_and_ginis_of_one_generator_are_of_the_same_rows():
    """Where all buyers spend alike, the normalised Gini is twice the AUC less one."""
    labels, scores, _ = market(300)
    aucs = bootstrap_aucs(labels, {"arm": scores}, replicates=20, rng=np.random.default_rng(1))["arm"]
    values = scores - scores.min()
    ginis = bootstrap_ginis(25.0 * labels, {"arm": values}, replicates=20, rng=np.random.default_rng(1))["arm"]
    assert ginis == pytest.approx(2 * aucs - 1, abs=1e-12)


def test_ginis_do_not_depend_on_how_many_are_made_at_once(monkeypatch):
    spend, values, _ = spenders(300)
    whole = bootstrap_ginis(spend, {"arm": values}, replicates=20, rng=np.random.default_rng(1))
    monkeypatch.setattr("fedmarket.evaluation.comparison._CELLS_AT_ONCE", 1000)
    parts = bootstrap_ginis(spend, {"arm": values}, replicates=20, rng=np.random.default_rng(1))
    assert (parts["arm"] == whole["arm"]).all()


def test_a_resample_of_one_spend_is_drawn_again():
    spend, values = [0.0, 0.0, 8.0], [1.0, 5.0, 3.0]
    found = bootstrap_ginis(spend, {"arm": values}, replicates=1, rng=Replayed([[0, 1, 1], [0, 1, 2]]))["arm"]
    assert found == pytest.approx([0.0], abs=1e-12)


def test_the_ginis_of_ten_arms_take_seconds():
    spend, values, rng = spenders(5000)
    arms = {f"arm {index}": values * np.exp(rng.normal(size=5000)) for index in range(10)}
    start = time.perf_counter()
    found = bootstrap_ginis(spend, arms, replicates=1000, rng=rng)
    assert time.perf_counter() - start < 8
    assert {ginis.shape for ginis in found.values()} == {(1000,)}


def test_the_spread_of_replicates_is_the_standard_error_of_the_gini():
    ginis = [value_metrics(*spenders(600, seed=seed)[:2])["gini"] for seed in range(300)]
    spend, values, rng = spenders(600, seed=1000)
    spread = bootstrap_ginis(spend, {"arm": values}, replicates=1000, rng=rng)["arm"].std()
    assert 0.75 < spread / np.std(ginis) < 1.3


@pytest.mark.parametrize(
    ("spend", "values", "expected"),
    [
        ([0.0, 0.0], [1.0, 2.0], "nobody in 2 rows"),
        ([3.0, 3.0], [1.0, 2.0], "customers who differ, got one spend in 2 rows"),
        ([0.0, 1.0], [1.0, math.nan], "predicted"),
        ([0.0, 1.0], [1.0], "2 customers, got 1"),
    ],
)
def test_unusable_spend_is_refused(spend, values, expected):
    with pytest.raises(DataError, match=expected):
        bootstrap_ginis(spend, {"arm": values}, replicates=10, rng=np.random.default_rng(0))


def loss_of(reference, arm, reference_replicates, arm_replicates):
    return relative_loss(
        reference,
        arm,
        reference_replicates=reference_replicates,
        arm_replicates=arm_replicates,
        rng=np.random.default_rng(0),
    )


def test_loss_is_relative_and_per_seed():
    loss = loss_of([0.8, 0.5], [0.76, 0.5], np.full((2, 10), 0.8), np.full((2, 10), 0.76))
    assert loss.per_seed == pytest.approx((0.05, 0.0))
    assert loss.mean == pytest.approx(0.025)


def test_seeds_that_differ_are_bounded_by_student_t():
    arm = np.array([0.76, 0.78, 0.70])
    replicates = np.full((3, 10), 0.8)
    loss = loss_of([0.8] * 3, arm, replicates, np.tile(arm[:, None], 10))
    losses = 1 - arm / 0.8
    expected = losses.mean() + stats.t.ppf(0.95, 2) * losses.std(ddof=1) / math.sqrt(3)
    assert loss.upper_95 == pytest.approx(expected)


def test_seeds_that_agree_are_bounded_by_their_test_rows():
    rng = np.random.default_rng(1)
    arm_replicates = rng.normal(0.76, 0.02, size=(3, 4000))
    loss = loss_of([0.8] * 3, [0.76] * 3, np.full((3, 4000), 0.8), arm_replicates)
    assert loss.upper_95 == pytest.approx(0.05 + 1.645 * 0.025 / math.sqrt(3), abs=0.002)


def test_one_bad_seed_of_forty_is_bounded_by_resampling_seeds():
    """The bad seed is drawn about Poisson(1) times, at most 3 times with 95 %; Student's t would say 0.067."""
    arm = np.array([0.4] + [0.8] * 39)
    loss = loss_of([0.8] * 40, arm, np.full((40, 10), 0.8), np.tile(arm[:, None], 10))
    assert loss.upper_95 == pytest.approx(0.5 * 3 / 40)


def test_one_seed_is_bounded_by_its_test_rows():
    arm_replicates = np.linspace(0.7, 0.8, 1001)[None]
    loss = loss_of([0.8], [0.75], np.full((1, 1001), 0.8), arm_replicates)
    assert loss.upper_95 == pytest.approx(1 - 0.705 / 0.8, abs=0.002)


def test_pairing_cancels_what_the_rows_do_to_both_arms():
    rng = np.random.default_rng(1)
    replicates = rng.normal(0.8, 0.05, size=(2, 500))
    loss = loss_of([0.8, 0.8], [0.76, 0.76], replicates, 0.95 * replicates)
    assert loss.upper_95 == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("reference", "arm", "replicates", "expected"),
    [
        ([0.8, 0.8], [0.7], (2, 5), "expected"),
        ([0.8], [0.7], (2, 5), r"\(seeds,\)"),
        ([0.0], [0.7], (1, 5), "above 0"),
        ([math.nan], [0.7], (1, 5), "finite"),
        ([], [], (0, 5), "expected"),
        ([0.8], [0.7], (1, 0), "expected"),
    ],
)
def test_metrics_that_cannot_be_compared_are_refused(reference, arm, replicates, expected):
    with pytest.raises(DataError, match=expected):
        loss_of(reference, arm, np.full(replicates, 0.8), np.full(replicates, 0.7))


def test_an_interval_lies_around_the_mean_and_is_the_outer_of_both_laws():
    values = np.array([0.76, 0.78, 0.70, 0.75])
    low, high = mean_interval(values, np.tile(values[:, None], 10), rng=np.random.default_rng(0))
    margin = stats.t.ppf(0.975, 3) * values.std(ddof=1) / 2
    assert (low, high) == pytest.approx((values.mean() - margin, values.mean() + margin))
    one = mean_interval([0.75], np.linspace(0.7, 0.8, 1001)[None], rng=np.random.default_rng(0))
    assert one == pytest.approx((0.7025, 0.7975), abs=0.002)


@pytest.mark.statistical
def test_bounds_cover_a_known_loss_and_smaller_bounds_would_not():
    """200 experiments of 4 seeds, where seeds move the arm and 200 test rows move both arms."""
    rng = np.random.default_rng(20)
    experiments, seeds, rows, replicates = 200, 4, 200, 80
    shifts = 0.9 + 0.15 * rng.normal(size=(experiments, seeds))
    reference_truth = stats.norm.cdf(1.2 / math.sqrt(2))
    many = 0.9 + 0.15 * rng.normal(size=200_000)
    truth = 1 - stats.norm.cdf(many / math.sqrt(2)).mean() / reference_truth
    covered = halved = intervals = 0
    for experiment in range(experiments):
        found = [_one_seed(shift, rows=rows, replicates=replicates, rng=rng) for shift in shifts[experiment]]
        reference, arm, reference_replicates, arm_replicates = map(np.array, zip(*found, strict=True))
        loss = relative_loss(
            reference, arm, reference_replicates=reference_replicates, arm_replicates=arm_replicates, rng=rng
        )
        covered += truth <= loss.upper_95
        halved += truth <= loss.mean + (loss.upper_95 - loss.mean) / 2
        low, high = mean_interval(arm, arm_replicates, rng=rng)
        intervals += low <= (1 - truth) * reference_truth <= high
    least = 0.95 - 3 * math.sqrt(0.95 * 0.05 / experiments)
    assert covered / experiments >= least
    assert intervals / experiments >= least
    assert halved / experiments < least


def _one_seed(shift, *, rows, replicates, rng):
    """AUCs and replicates of a reference and an arm that see correlated scores of the same rows."""
    labels = (np.arange(rows) < rows // 3).astype(int)
    shared = rng.normal(size=rows)
    scores = {
        "reference": 1.2 * labels + 0.9 * shared + math.sqrt(1 - 0.81) * rng.normal(size=rows),
        "arm": shift * labels + 0.9 * shared + math.sqrt(1 - 0.81) * rng.normal(size=rows),
    }
    found = bootstrap_aucs(labels, scores, replicates=replicates, rng=rng)
    aucs = [roc_auc_score(labels, scores[name]) for name in ("reference", "arm")]
    return (*aucs, found["reference"], found["arm"])
