import json

import numpy as np
import pytest
from sklearn import metrics as reference

from fedmarket.errors import DataError
from fedmarket.evaluation import curves
from fedmarket.evaluation.metrics import propensity_metrics

MONEY = {"contact_cost": 5.0, "response_margin": 60.0}


@pytest.fixture
def market():
    rng = np.random.default_rng(3)
    chance = rng.beta(1.0, 6.0, size=5000)
    return (rng.random(5000) < chance).astype(int), np.round(chance, 3)


def test_curves_are_small_and_survive_json(market):
    found = {
        "roc": curves.roc(*market),
        "gains": curves.gains(*market),
        "calibration": curves.calibration(*market),
        "profit": curves.profit(*market, **MONEY),
    }
    assert json.loads(json.dumps(found)) == found
    for curve in found.values():
        lengths = {len(values) for values in curve.values()}
        assert len(lengths) == 1
        assert max(lengths) <= 120


def test_roc_lies_on_scikit_learns_roc_and_keeps_its_area(market):
    labels, probabilities = market
    curve = curves.roc(labels, probabilities)
    false_positives, true_positives, _ = reference.roc_curve(labels, probabilities, drop_intermediate=False)
    at = np.array(curve["false_positive_rate"])
    lowest, highest = (np.interp(at + step, false_positives, true_positives) for step in (-1e-6, 1e-6))
    assert (lowest - 1e-4 <= curve["true_positive_rate"]).all()
    assert (curve["true_positive_rate"] <= highest + 1e-4).all()
    area = np.trapezoid(curve["true_positive_rate"], curve["false_positive_rate"])
    assert area == pytest.approx(reference.roc_auc_score(labels, probabilities), abs=1e-3)


def test_gains_pass_through_the_captured_metrics(market):
    values = propensity_metrics(*market, **MONEY)
    curve = curves.gains(*market)
    for percent in (5, 10, 20):
        at = curve["contacted"].index(percent / 100)
        assert curve["captured"][at] == pytest.approx(values[f"captured_{percent}"], abs=1e-6)
    assert (curve["captured"][0], curve["captured"][-1]) == (0, 1)


def test_profit_peaks_at_the_best_profit(market):
    values = propensity_metrics(*market, **MONEY)
    curve = curves.profit(*market, **MONEY)
    best = int(np.argmax(curve["profit"]))
    assert curve["profit"][best] == pytest.approx(values["profit_best"], rel=0.02)
    assert curve["profit"][best] <= values["profit_best"] + 1e-6
    assert curve["contacted"][best] == pytest.approx(values["profit_best_share"], abs=0.05)
    assert curve["profit"][-1] == pytest.approx(60 * market[0].mean() - 5, abs=1e-6)


def test_calibration_bins_hold_every_customer_and_every_response(market):
    labels, probabilities = market
    curve = curves.calibration(labels, probabilities)
    count = np.array(curve["count"])
    assert count.sum() == labels.size
    assert count.max() - count.min() <= 1
    assert count @ curve["observed"] == pytest.approx(labels.sum(), abs=0.01)
    assert count @ curve["predicted"] == pytest.approx(probabilities.sum(), abs=0.01)
    assert curve["predicted"] == sorted(curve["predicted"])


def test_fewer_customers_than_bins_leave_no_empty_bin():
    curve = curves.calibration([0, 1, 0], [0.1, 0.9, 0.3])
    assert curve == {"predicted": [0.1, 0.3, 0.9], "observed": [0.0, 0.0, 1.0], "count": [1.0, 1.0, 1.0]}


def test_a_curve_of_one_class_is_refused():
    with pytest.raises(DataError, match="both classes"):
        curves.roc([1, 1], [0.1, 0.2])
