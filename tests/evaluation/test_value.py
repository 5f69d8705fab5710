import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score

from fedmarket.errors import DataError
from fedmarket.evaluation.value import deciles, value_gains, value_metrics

KEYS = [
    *("gini", "spearman", "mae", "rmse", "value_ratio", "decile_error"),
    *("captured_10", "captured_20", "auc"),
]


@st.composite
def tables(draw):
    size = draw(st.integers(2, 40))
    money = st.lists(st.integers(0, 8).map(float), min_size=size, max_size=size)
    actual, predicted = np.array(draw(money)), np.array(draw(money))
    actual[0], actual[-1] = 0.0, 5.0
    return actual, predicted


def market(rows=3000, *, seed=7, decimals=2):
    """A table where one of three buys, for a lognormal amount, and the true expected value is the prediction."""
    rng = np.random.default_rng(seed)
    chance, typical = rng.beta(1.0, 2.0, size=rows), np.exp(rng.normal(3.0, 0.8, size=rows))
    spend = (rng.random(rows) < chance) * typical * np.exp(rng.normal(-0.125, 0.5, size=rows))
    return spend, np.round(chance * typical, decimals)


def test_every_promised_metric_is_there_and_finite():
    values = value_metrics(*market())
    assert list(values) == KEYS
    assert all(isinstance(value, float) and math.isfinite(value) for value in values.values())


def test_values_by_hand():
    actual, predicted = [0.0, 60.0, 0.0, 20.0, 20.0], [5.0, 30.0, 15.0, 20.0, 0.0]
    values = value_metrics(actual, predicted)
    # In the predicted order 60, 20, 0, 0, 20; in the best one 60, 20, 20, 0, 0. Trapezoids of width one fifth.
    area, best = (0.3 + 0.7 + 0.8 + 0.8 + 0.9) / 5, (0.3 + 0.7 + 0.9 + 1.0 + 1.0) / 5
    assert values["gini"] == pytest.approx((area - 0.5) / (best - 0.5))
    assert values["mae"] == pytest.approx((5 + 30 + 15 + 0 + 20) / 5)
    assert values["rmse"] == pytest.approx(math.sqrt((25 + 900 + 225 + 400) / 5))
    assert values["value_ratio"] == pytest.approx(0.7)
    assert values["decile_error"] == pytest.approx((5 + 30 + 15 + 0 + 20) / 5 / 20)
    assert (values["captured_10"], values["captured_20"]) == pytest.approx((0.3, 0.6))
    assert values["auc"] == pytest.approx(4 / 6)


@given(tables())
def test_small_tables_with_ties_agree_with_scipy_and_scikit_learn(table):
    actual, predicted = table
    values = value_metrics(actual, predicted)
    assert values["auc"] == pytest.approx(roc_auc_score(actual > 0, predicted), abs=1e-12)
    if predicted.min() < predicted.max():
        assert values["spearman"] == pytest.approx(stats.spearmanr(actual, predicted).statistic, abs=1e-12)


@given(tables())
def test_the_gini_of_ties_is_the_mean_over_both_ways_to_break_them(table):
    """The mean over an order of the rows and its reverse is the mean over all orders: each pair is seen both ways."""
    actual, predicted = table
    step = np.arange(actual.size) / 1000
    ways = [value_metrics(actual, predicted + broken)["gini"] for broken in (step, step[::-1])]
    assert value_metrics(actual, predicted)["gini"] == pytest.approx(np.mean(ways), abs=1e-12)


@given(tables())
def test_the_best_order_has_gini_one_and_the_opposite_order_the_opposite_gini(table):
    actual, predicted = table
    assert value_metrics(actual, 2 * actual + 1)["gini"] == pytest.approx(1)
    assert value_metrics(actual, 8 - actual)["gini"] == pytest.approx(-1)
    there, back = (value_metrics(actual, one) for one in (predicted, 8 - predicted))
    assert abs(there["gini"]) <= 1 + 1e-12
    assert there["gini"] + back["gini"] == pytest.approx(0, abs=1e-12)
    assert there["spearman"] + back["spearman"] == pytest.approx(0, abs=1e-12)


def test_predictions_without_information_rank_nobody():
    values = value_metrics([30.0, 0.0, 0.0, 10.0, 0.0], [8.0] * 5)
    ranks = [values[key] for key in ("gini", "spearman", "captured_10", "captured_20", "auc")]
    assert ranks == pytest.approx([0, 0, 0.1, 0.2, 0.5])
    assert (values["value_ratio"], values["decile_error"]) == pytest.approx((1, 0))


@given(tables(), st.randoms(use_true_random=False))
def test_no_metric_depends_on_the_order_of_rows(table, random):
    actual, predicted = table
    order = list(range(actual.size))
    random.shuffle(order)
    before, after = value_metrics(actual, predicted), value_metrics(actual[order], predicted[order])
    assert after == pytest.approx(before, abs=1e-12)


@given(tables())
def test_another_currency_changes_only_the_errors_in_money(table):
    actual, predicted = table
    before, after = value_metrics(actual, predicted), value_metrics(100 * actual, 100 * predicted)
    for key in KEYS:
        assert after[key] == pytest.approx((100 if key in ("mae", "rmse") else 1) * before[key], abs=1e-9), key


@pytest.mark.statistical
def test_the_truth_is_calibrated_in_deciles_and_a_wrong_level_is_not():
    spend, truth = market(200_000, decimals=4)
    values, double = value_metrics(spend, truth), value_metrics(spend, 2 * truth)
    assert values["value_ratio"] == pytest.approx(1, abs=0.02)
    assert values["decile_error"] < 0.03
    assert (double["value_ratio"], double["decile_error"]) == pytest.approx((2, 1), abs=0.05)
    flat = value_metrics(spend, np.full(spend.size, spend.mean()))
    assert flat["value_ratio"] == pytest.approx(1)
    tilted = value_metrics(spend, truth**0.5 * spend.mean() / np.mean(truth**0.5))
    assert tilted["decile_error"] > 0.2
    assert tilted["gini"] == pytest.approx(values["gini"])


def test_a_purchase_probability_moves_the_auc_alone():
    spend, value = market()
    chance = np.linspace(0.0, 1.0, spend.size)
    with_chance, without = value_metrics(spend, value, purchase_probability=chance), value_metrics(spend, value)
    assert with_chance["auc"] == pytest.approx(roc_auc_score(spend > 0, chance), abs=1e-12)
    assert {**with_chance, "auc": 0} == {**without, "auc": 0}


def test_deciles_hold_every_customer_and_all_money():
    spend, value = market(3007)
    found = deciles(spend, value)
    count = np.array(found["count"])
    assert (len(count), count.sum()) == (10, 3007)
    assert count.max() - count.min() <= 1
    assert count @ found["actual"] == pytest.approx(spend.sum(), rel=1e-6)
    assert count @ found["predicted"] == pytest.approx(value.sum(), rel=1e-6)
    assert count @ found["bought"] == pytest.approx((spend > 0).sum(), abs=0.01)
    assert found["predicted"] == sorted(found["predicted"], reverse=True)
    assert found["actual"][0] > 5 * found["actual"][-1]
    error = np.abs(np.subtract(found["predicted"], found["actual"])).mean() / spend.mean()
    assert error == pytest.approx(value_metrics(spend, value)["decile_error"], abs=1e-6)


def test_a_decile_shares_a_tie_with_the_next():
    found = deciles([40.0, 0.0, 0.0, 20.0] * 5, [1.0] * 20)
    assert found == {"predicted": [1.0] * 10, "actual": [15.0] * 10, "count": [2.0] * 10, "bought": [0.5] * 10}


def test_gains_pass_through_the_captured_metrics_and_rise_from_nothing_to_all():
    spend, value = market()
    values, curve = value_metrics(spend, value), value_gains(spend, value)
    for percent in (10, 20):
        assert curve["captured"][percent] == pytest.approx(values[f"captured_{percent}"], abs=1e-6)
    assert (len(curve["contacted"]), curve["captured"][0], curve["captured"][-1]) == (101, 0, 1)
    assert curve["captured"] == sorted(curve["captured"])


def test_tables_and_curves_survive_json():
    found = [deciles(*market()), value_gains(*market()), value_metrics(*market())]
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize("metric", [value_metrics, deciles, value_gains])
@pytest.mark.parametrize(
    ("actual", "predicted", "expected"),
    [
        ([], [], "nobody in 0 rows"),
        ([0.0, 0.0], [1.0, 2.0], "nobody in 2 rows"),
        ([1.0, -2.0, -3.0], [1.0, 2.0, 3.0], "^actual: .*got 2 others"),
        ([1.0, math.nan], [1.0, 2.0], "^actual: .*got 1 others"),
        ([0.0, 1.0], [1.0, math.inf], "^predicted: .*got 1 others"),
        ([0.0, 1.0], [1.0, -2.0], "^predicted: .*got 1 others"),
        ([0.0, 1.0, 2.0], [1.0, 2.0], "^predicted: expected one for each of 3 customers, got 2"),
        ([[0.0, 1.0]], [[0.0, 1.0]], "one dimension, got 2"),
        (["no", "yes"], [0.0, 1.0], "expected numbers"),
    ],
)
def test_unusable_rows_are_refused_in_one_line(metric, actual, predicted, expected):
    with pytest.raises(DataError, match=expected) as refused:
        metric(actual, predicted)
    assert "\n" not in str(refused.value)


def test_who_buys_has_no_auc_where_everybody_does_but_there_are_deciles():
    with pytest.raises(DataError, match="nobody in 2 rows"):
        value_metrics([1.0, 2.0], [1.0, 2.0])
    assert deciles([1.0, 2.0], [1.0, 2.0])["bought"] == [1.0, 1.0]


@pytest.mark.parametrize("chance", [[0.5, 1.5], [0.5], [math.nan, 0.5]])
def test_a_purchase_probability_that_is_none_is_refused(chance):
    with pytest.raises(DataError, match="purchase_probability"):
        value_metrics([0.0, 1.0], [0.0, 1.0], purchase_probability=chance)
