import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as reference

from fedmarket.errors import DataError
from fedmarket.evaluation.metrics import propensity_metrics

MONEY = {"contact_cost": 5.0, "response_margin": 60.0}
KEYS = [
    *("auc", "average_precision", "log_loss", "lift_5", "lift_10", "lift_20"),
    *("captured_5", "captured_10", "captured_20", "ks", "calibration_error", "calibration_ratio"),
    *("profit_best", "profit_best_share"),
]


@st.composite
def tables(draw):
    size = draw(st.integers(2, 40))
    labels = draw(st.lists(st.integers(0, 1), min_size=size, max_size=size))
    labels[0], labels[-1] = 0, 1
    coarse = st.integers(0, 16).map(lambda step: step / 16)
    return np.array(labels), np.array(draw(st.lists(coarse, min_size=size, max_size=size)))


def market(rows=3000, *, decimals=2, seed=7):
    rng = np.random.default_rng(seed)
    chance = rng.beta(1.0, 6.0, size=rows)
    return (rng.random(rows) < chance).astype(int), np.round(chance, decimals)


def test_every_promised_metric_is_there_and_finite():
    values = propensity_metrics(*market(), **MONEY)
    assert list(values) == KEYS
    assert all(isinstance(value, float) and math.isfinite(value) for value in values.values())


@pytest.mark.parametrize("decimals", [1, 2, 15])
def test_values_agree_with_scikit_learn_and_scipy(decimals):
    labels, probabilities = market(decimals=decimals)
    values = propensity_metrics(labels, probabilities, **MONEY)
    assert values["auc"] == pytest.approx(reference.roc_auc_score(labels, probabilities), abs=1e-12)
    assert values["average_precision"] == pytest.approx(
        reference.average_precision_score(labels, probabilities), abs=1e-12
    )
    assert values["log_loss"] == pytest.approx(reference.log_loss(labels, probabilities), abs=1e-12)
    distance = stats.ks_2samp(probabilities[labels == 1], probabilities[labels == 0]).statistic
    assert values["ks"] == pytest.approx(distance, abs=1e-12)
    assert values["calibration_ratio"] == pytest.approx(probabilities.mean() / labels.mean(), abs=1e-12)


@given(tables())
def test_small_tables_with_ties_agree_with_scikit_learn(table):
    labels, probabilities = table
    values = propensity_metrics(labels, probabilities, **MONEY)
    assert values["auc"] == pytest.approx(reference.roc_auc_score(labels, probabilities), abs=1e-12)
    assert values["average_precision"] == pytest.approx(
        reference.average_precision_score(labels, probabilities), abs=1e-12
    )
    assert values["log_loss"] == pytest.approx(reference.log_loss(labels, probabilities, labels=[0, 1]), abs=1e-9)


def test_the_kolmogorov_smirnov_distance_has_no_direction():
    labels, probabilities = market()
    there = propensity_metrics(labels, probabilities, **MONEY)["ks"]
    assert propensity_metrics(labels, 1 - probabilities, **MONEY)["ks"] == pytest.approx(there)


def test_auc_uses_mid_ranks():
    labels, probabilities = market(decimals=1)
    ranks = stats.rankdata(probabilities, method="average")
    responders = labels.sum()
    won = ranks[labels == 1].sum() - responders * (responders + 1) / 2
    expected = won / (responders * (labels.size - responders))
    assert propensity_metrics(labels, probabilities, **MONEY)["auc"] == pytest.approx(expected, abs=1e-12)


@given(tables())
def test_an_increasing_transform_changes_no_ranking_metric(table):
    labels, probabilities = table
    before = propensity_metrics(labels, probabilities, **MONEY)
    after = propensity_metrics(labels, 0.9 * probabilities**2 + 0.05, **MONEY)
    for key in set(KEYS) - {"log_loss", "calibration_error", "calibration_ratio"}:
        assert after[key] == pytest.approx(before[key], abs=1e-12), key


@given(tables())
def test_the_opposite_ranking_has_the_opposite_auc(table):
    labels, probabilities = table
    there = propensity_metrics(labels, probabilities, **MONEY)["auc"]
    back = propensity_metrics(labels, 1 - probabilities, **MONEY)["auc"]
    assert there + back == pytest.approx(1)


@given(tables(), st.randoms(use_true_random=False))
def test_no_metric_depends_on_the_order_of_rows(table, random):
    labels, probabilities = table
    order = list(range(labels.size))
    random.shuffle(order)
    before = propensity_metrics(labels, probabilities, **MONEY)
    after = propensity_metrics(labels[order], probabilities[order], **MONEY)
    assert after == pytest.approx(before, abs=1e-12)


@given(tables())
def test_repeating_the_table_changes_no_metric(table):
    labels, probabilities = table
    before = propensity_metrics(labels, probabilities, **MONEY)
    after = propensity_metrics(np.tile(labels, 10), np.tile(probabilities, 10), **MONEY)
    for key in set(KEYS) - {"calibration_error"}:
        assert after[key] == pytest.approx(before[key], abs=1e-9), key


def test_a_cut_off_inside_a_tie_is_the_mean_over_random_orders():
    labels = np.array([1, 1, 0, 0, 0, 1, 0, 0, 0, 0])
    probabilities = np.array([0.9, 0.5, 0.5, 0.5, 0.5, 0.5, 0.1, 0.1, 0.1, 0.1])
    values = propensity_metrics(labels, probabilities, **MONEY)
    assert values["captured_10"] == pytest.approx(1 / 3)
    assert values["captured_20"] == pytest.approx((1 + 2 / 5) / 3)
    assert values["lift_20"] == pytest.approx((1 + 2 / 5) / 3 / 0.2)
    assert values["captured_5"] == pytest.approx(1 / 6)


def test_scores_without_information_have_lift_one_and_auc_one_half():
    values = propensity_metrics([1, 0, 0, 0, 1, 0, 0, 0], [0.25] * 8, **MONEY)
    assert [values[key] for key in ("auc", "lift_5", "lift_10", "lift_20", "ks")] == pytest.approx([0.5, 1, 1, 1, 0])
    assert values["calibration_error"] == pytest.approx(0)


def test_profit_is_best_where_a_contact_still_pays():
    labels, probabilities = [1, 1, 0, 0, 1, 0, 0, 0], [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2]
    values = propensity_metrics(labels, probabilities, contact_cost=1.0, response_margin=4.0)
    assert values["profit_best"] == pytest.approx((3 * 4 - 5) / 8)
    assert values["profit_best_share"] == pytest.approx(5 / 8)
    dear = propensity_metrics(labels, probabilities, contact_cost=5.0, response_margin=4.0)
    assert (dear["profit_best"], dear["profit_best_share"]) == (0, 0)


def test_calibration_error_is_the_mean_gap_over_equal_bins():
    probabilities = np.repeat([0.2, 0.6], 50)
    labels = np.concatenate([np.tile([1, 0, 0, 0, 0], 10), np.tile([1, 0], 25)])
    values = propensity_metrics(labels, probabilities, **MONEY)
    assert values["calibration_error"] == pytest.approx((0 + 0.1) / 2)
    assert values["calibration_ratio"] == pytest.approx(0.4 / 0.35)


def test_log_loss_stays_finite_when_certainty_is_wrong():
    values = propensity_metrics([0, 1, 1], [1.0, 0.0, 1.0], **MONEY)
    assert values["log_loss"] == pytest.approx(reference.log_loss([0, 1, 1], [1.0, 0.0, 1.0]))


@pytest.mark.parametrize(
    ("labels", "probabilities", "expected"),
    [
        ([1, 1, 1], [0.1, 0.2, 0.3], "both classes"),
        ([0, 0], [0.1, 0.2], "both classes"),
        ([], [], "both classes"),
        ([0, 1], [0.1, math.nan], "finite"),
        ([0, 1], [0.1, math.inf], "finite"),
        ([0, 1], [0.1, 1.5], r"\[0, 1\]"),
        ([0, 1], [-0.1, 0.5], r"\[0, 1\]"),
        ([0, 1, 1], [0.1, 0.2], "3 labels, got 2"),
        ([0, 2], [0.1, 0.2], "0 and 1"),
        ([0, math.nan], [0.1, 0.2], "0 and 1"),
        ([[0, 1]], [[0.1, 0.2]], "one dimension"),
        (["no", "yes"], [0.1, 0.2], "numbers"),
    ],
)
def test_unusable_rows_are_refused_in_one_line(labels, probabilities, expected):
    with pytest.raises(DataError, match=expected) as refused:
        propensity_metrics(labels, probabilities, **MONEY)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("money", [(0.0, 1.0), (1.0, -2.0), (math.nan, 1.0), (1.0, math.inf)])
def test_costs_and_margins_not_above_zero_are_refused(money):
    with pytest.raises(DataError, match="above 0"):
        propensity_metrics([0, 1], [0.1, 0.2], contact_cost=money[0], response_margin=money[1])
