"""What outputs say of customers is bounded whatever they are, and recalibration keeps the order."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import expit

from fedmarket.models.objectives import RESPONSE, Objective, Tweedie, TwoPart, ZeroInflatedLognormal
from fedmarket.models.prediction import REACH, Prediction, log_odds_of, prediction_of, reach_of, recalibrated

MONEY: dict[str, Any] = {"typical": 30.0, "upper": 2000.0}
VALUES = {
    "ziln": ZeroInflatedLognormal(**MONEY),
    "two-part": TwoPart(**MONEY),
    "tweedie": Tweedie(**MONEY, power=1.5),
}
OBJECTIVES = {
    "response": RESPONSE,
    **{name: Objective(response=False, value=value) for name, value in VALUES.items()},
    **{f"response and {name}": Objective(response=True, value=value) for name, value in VALUES.items()},
}
EACH = pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
HUGE = float(np.finfo(np.float32).max)

LOGITS = st.lists(st.floats(-60, 60), min_size=2, max_size=30)


@given(raws=LOGITS, intercept=st.floats(-10, 10), slope=st.floats(0.05, 10), pivot=st.floats(-10, 10))
def test_recalibration_keeps_the_order(raws: list[float], intercept: float, slope: float, pivot: float):
    raw = np.sort(np.array(raws))
    assert (np.diff(recalibrated(raw, np.array([intercept, slope, pivot]))) >= 0).all()
    near = np.unique(np.round(np.clip(raw, pivot - 20, pivot + 20), 3))
    assert (np.diff(recalibrated(near, np.array([intercept, slope, pivot]))) > 0).all()
    turned = recalibrated(near, np.array([intercept, -slope, pivot]))
    assert (np.diff(turned) < 0).all()


@given(raws=LOGITS, pivot=st.floats(-10, 10))
def test_the_reach_is_bounded_and_near_the_pivot_the_identity_changes_little(raws: list[float], pivot: float):
    raw = np.array(raws)
    assert (np.abs(reach_of(raw, pivot)) <= 1).all()
    unchanged = recalibrated(raw, np.array([pivot, 1.0, pivot]))
    assert (np.abs(unchanged - pivot) <= REACH).all()
    near = np.abs(raw - pivot) < 1
    np.testing.assert_allclose(unchanged[near], raw[near], atol=1 / (3 * REACH**2) + 1e-12)


@EACH
def test_before_calibration_probabilities_at_the_pivot_and_all_values_are_as_the_network_says(objective: Objective):
    outputs = np.zeros((2, len(objective.scales)))
    raw, shown = (prediction_of(objective, outputs, said) for said in (None, objective.uncalibrated))
    for name, values in raw.columns.items():
        np.testing.assert_array_equal(values, shown.columns[name])
    assert recalibrated(np.array([0.0]), RESPONSE.uncalibrated)[0] == 0.0


EXTREME = st.sampled_from([-HUGE, -1e30, 0.0, 1e30, HUGE]) | st.floats(-50, 50)


@EACH
@given(data=st.data())
def test_probabilities_are_shares_and_values_finite_money_whatever_the_outputs_and_the_calibration(
    objective: Objective, data: st.DataObject
):
    """Both are what a coordinator sent: a level below 0, or none too large, must not carry a sum beyond its bound."""
    outputs = data.draw(arrays(np.float64, (4, len(objective.scales)), elements=EXTREME))
    calibration = data.draw(st.none() | arrays(np.float64, objective.uncalibrated.shape, elements=EXTREME))
    found = prediction_of(objective, outputs, calibration)
    for name, values in found.columns.items():
        most = 2000.0 if name in ("conditional", "value") else 1.0
        assert values.shape == (4,)
        assert np.isfinite(values).all()
        assert ((values >= 0) & (values <= most)).all(), name


@EACH
def test_columns_are_what_the_model_speaks_of_in_one_order(objective: Objective):
    found = prediction_of(objective, np.zeros((3, len(objective.scales))), objective.uncalibrated)
    purchase = objective.value is not None and objective.value.purchase
    expected = ["response"] * objective.response + ["purchase", "conditional"] * purchase
    assert list(found.columns) == expected + ["value"] * (objective.value is not None)
    assert all(values.shape == (3,) for values in found.columns.values())
    assert (found.value_or_zero > 0) == (objective.value is not None)


def test_a_prediction_that_says_nothing_has_no_columns_and_shows_no_customer():
    assert (Prediction().columns, Prediction().value_or_zero) == ({}, 0.0)
    assert "1234" not in repr(Prediction(response=np.array([1234.5]), value=np.array([1234.5])))


@pytest.mark.parametrize("name", ["ziln", "two-part"])
def test_a_value_is_the_recalibrated_purchase_times_the_levelled_spend(name: str):
    objective = Objective(response=True, value=VALUES[name])
    outputs = np.random.default_rng(0).standard_normal((5, len(objective.scales)))
    calibration = np.array([-1.0, 0.8, 0.3, 0.5, 1.2, -0.4, 1.5])
    found = prediction_of(objective, outputs, calibration)
    np.testing.assert_allclose(found.response, expit(-1.0 + 0.8 * 8 * np.tanh((outputs[:, 0] - 0.3) / 8)))
    np.testing.assert_allclose(found.purchase, expit(0.5 + 1.2 * 8 * np.tanh((outputs[:, 1] + 0.4) / 8)))
    np.testing.assert_allclose(found.conditional, 1.5 * VALUES[name].conditional(outputs[:, 1:]))
    np.testing.assert_array_equal(found.value, found.purchase * found.conditional)
    odds = log_odds_of(objective, outputs, calibration)
    np.testing.assert_allclose(expit(odds), np.stack([found.response, found.purchase], axis=1))
    np.testing.assert_array_equal(log_odds_of(objective, outputs, None), outputs[:, :2])


def test_one_mean_has_no_purchase_and_only_its_level_is_recalibrated():
    objective = Objective(response=False, value=VALUES["tweedie"])
    outputs = np.array([[0.0], [math.log(2.0)], [50.0]])
    found = prediction_of(objective, outputs, np.array([0.5]))
    np.testing.assert_allclose(found.value, [15.0, 30.0, 1000.0])
    assert found.purchase is found.conditional is found.response is None
    assert log_odds_of(objective, outputs, np.array([0.5])).shape == (3, 0)


@EACH
def test_nobody_is_predicted_nothing(objective: Objective):
    found = prediction_of(objective, np.zeros((0, len(objective.scales))), objective.uncalibrated)
    assert {values.shape for values in found.columns.values()} == {(0,)}
