"""Sums of levels, segments and values: no customer moves them beyond the plan's bound, and they tell the truth."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fedmarket.aggregation.calibration import level_step
from fedmarket.federation.rows import Rows
from fedmarket.models.objectives import Objective, Tweedie, TwoPart, ZeroInflatedLognormal
from fedmarket.models.prediction import Prediction, log_odds_of, prediction_of
from fedmarket.privacy.histogram import SCORE_BINS, VALUE_BINS, VALUE_EDGES, value_caps
from fedmarket.privacy.mechanism import Mechanism, Phase
from fedmarket.privacy.noise import Stream
from fedmarket.privacy.shape import LEVEL_REACH, SEGMENT_REACH, Shape
from fedmarket.training.sums import calibration_sum, held_out_sum, level_sum, segment_sum

MechanismOf = Callable[..., Mechanism]

UPPER, SEGMENTS = 2000.0, 4
MONEY: dict[str, Any] = {"typical": 30.0, "upper": UPPER}
VALUES = {
    "ziln": ZeroInflatedLognormal(**MONEY),
    "two-part": TwoPart(**MONEY),
    "tweedie": Tweedie(**MONEY, power=1.5),
}
OBJECTIVES = {
    **{name: Objective(response=False, value=value) for name, value in VALUES.items()},
    **{f"response and {name}": Objective(response=True, value=value) for name, value in VALUES.items()},
}
EACH = pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
LARGEST = float(np.finfo(np.float32).max)
NO_NOISE = Mechanism(phase="level", clip_norm=1.0, noise_multiplier=0.0, sample_rate=1.0, releases=1, length=1)
BARE: dict[str, Any] = {"mechanism": NO_NOISE, "stream": Stream.seeded(0)}


def shape_of(objective: Objective) -> Shape:
    purchase = objective.value is not None and objective.value.purchase
    return Shape(
        width=3, norm_bound=1.0, parameters=4, response=objective.response, purchase=purchase, value=True,
        segments=SEGMENTS,
    )  # fmt: skip


def sums_of(
    objective: Objective, outputs: np.ndarray, calibration: np.ndarray, rows: Rows, *, typical: float
) -> dict[Phase, np.ndarray]:
    """Return the exact sums of the phases after training, as a party makes them at a model that was sent."""
    prediction, shares = prediction_of(objective, outputs, calibration), {"shares": rows.shares}
    spent, answered = rows.targets[:, -1].astype(np.float64), (rows.targets[:, 0] > 0).astype(np.float64)
    odds = log_odds_of(objective, outputs, calibration)
    return {
        "calibrate": calibration_sum(objective, outputs, calibration, rows.targets, **shares, **BARE)
        if objective.probabilities else np.zeros(0),
        "level": level_sum(prediction, spent, **shares, **BARE),
        "segment": segment_sum(rows.segments, SEGMENTS, answered, prediction.value, typical=typical, **shares, **BARE),
        "evaluate": held_out_sum(
            odds[:, 0] if objective.response else None, answered if objective.response else None, prediction.value,
            spent, typical_log_odds=float(calibration[0]), typical_value=typical, **shares, **BARE,
        ),
    }  # fmt: skip


EXTREME = st.sampled_from([-LARGEST, -1e30, -1.0, 0.0, 1e-30, 1e30, LARGEST]) | st.floats(-50, 50)
SPENDS = st.sampled_from([0.0, 1e-12, UPPER]) | st.floats(0, UPPER, width=32)
COUNTS = st.lists(st.integers(1, 4), min_size=1, max_size=4)


@EACH
@given(data=st.data(), counts=COUNTS, owned=st.booleans(), typical=EXTREME)
def test_no_customer_moves_a_sum_beyond_the_plans_bound_whatever_the_coordinator_sent(
    objective: Objective, data: st.DataObject, counts: list[int], owned: bool, typical: float
):
    """Outputs follow from the parameters that were sent, and any of them, or of the calibration, may be hostile."""
    counts = counts if owned else [1] * len(counts)
    n = sum(counts)
    outputs = data.draw(arrays(np.float64, (n, len(objective.scales)), elements=EXTREME))
    calibration = data.draw(arrays(np.float64, objective.uncalibrated.shape, elements=EXTREME))
    targets = data.draw(arrays(np.float32, (n, objective.targets), elements=SPENDS))
    if objective.response:
        targets[:, 0] = targets[:, 0] > 1
    segments = data.draw(arrays(np.int64, n, elements=st.integers(0, SEGMENTS - 1)))
    owners = np.repeat(np.arange(len(counts)), counts)
    left_out = data.draw(st.integers(0, len(counts) - 1))

    def released(kept: np.ndarray) -> dict[Phase, np.ndarray]:
        rows = Rows(
            features=np.zeros((int(kept.sum()), 3), dtype=np.float32), targets=targets[kept], segments=segments[kept],
            customers=owners[kept] if owned else None,
        )  # fmt: skip
        return sums_of(objective, outputs[kept], calibration, rows, typical=typical)

    whole, rest = released(np.ones(n, dtype=bool)), released(owners != left_out)
    shape = shape_of(objective)
    for phase in ("calibrate", "level", "segment", "evaluate"):
        assert whole[phase].shape == (shape.length_of(phase),)
        moved = float(np.linalg.norm(whole[phase] - rest[phase]))
        assert moved <= shape.sensitivity_of(phase) * (1 + 1e-9), phase


@EACH
def test_the_bounds_are_nearly_reached(objective: Objective):
    """A lower bound would be broken: one row that a hostile model makes as far off as it can."""
    k = len(objective.scales)
    outputs = np.full((1, k), 1e6)
    if objective.value.purchase:
        outputs[:, -(k - objective.response - 1) :] = -50.0  # sure to buy, next to nothing
    else:
        outputs[:, -1] = -50.0
    calibration = objective.uncalibrated * np.array([1.0, 50.0, 1.0] * objective.probabilities + [1.0])
    answered = np.array([[1.0] * objective.response + [UPPER]], dtype=np.float32)
    rows = Rows(features=np.zeros((1, 3), dtype=np.float32), targets=answered, segments=np.array([2]))
    shape, reached = shape_of(objective), sums_of(objective, outputs, calibration, rows, typical=1e-30)
    for phase in ("level", "segment", "evaluate"):
        assert np.linalg.norm(reached[phase]) == pytest.approx(shape.sensitivity_of(phase), rel=1e-6), phase
    silent = Rows(features=np.zeros((1, 3), dtype=np.float32), targets=0 * answered, segments=np.array([2]))
    found = sums_of(objective, outputs, calibration, silent, typical=1.0)["calibrate"]
    assert np.linalg.norm(found) == pytest.approx(shape.sensitivity_of("calibrate"), rel=1e-6)


def test_without_shares_a_customer_of_many_rows_would_break_the_bounds(mechanism: MechanismOf):
    money = np.full(9, 50.0)
    prediction = Prediction(purchase=np.ones(9), conditional=money / 10, value=money / 10)
    shares = np.full(9, 1 / 9)
    for given_shares, most in ((shares, math.sqrt(1.25)), (None, 9 * math.sqrt(1.25))):
        assert np.linalg.norm(level_sum(prediction, money, shares=given_shares, **BARE)) == pytest.approx(most)
    whole = segment_sum(np.arange(9) % SEGMENTS, SEGMENTS, np.ones(9), money, typical=1.0, shares=shares, **BARE)
    assert 0.5 < np.linalg.norm(whole) < math.sqrt(1.5)  # a customer in several segments moves it less


# What is summed.


def test_calibration_statistics_of_each_probability_stand_one_after_the_other():
    objective = Objective(response=True, value=VALUES["ziln"])
    rng = np.random.default_rng(0)
    outputs = rng.standard_normal((40, 4))
    targets = np.stack([rng.random(40) < 0.3, 50 * (rng.random(40) < 0.5)], axis=1).astype(np.float32)
    calibration, expected = np.array([-0.4, 1.3, 0.2, 0.6, 0.7, -1.0, 3.0]), []
    for head in range(2):
        intercept, slope, pivot = calibration[3 * head : 3 * head + 3]
        t = np.tanh((outputs[:, head] - pivot) / 8)
        p = 1 / (1 + np.exp(-(intercept + slope * 8 * t)))
        r, h = (targets[:, head] > 0) - p, p * (1 - p)
        expected += [r.sum(), (r * t).sum(), h.sum(), (h * t).sum(), (h * t**2).sum()]
    np.testing.assert_allclose(calibration_sum(objective, outputs, calibration, targets, **BARE), expected, rtol=1e-12)


@given(data=st.data(), n=st.integers(0, 30), shared=st.booleans())
def test_each_row_is_summed_in_its_own_segment_and_in_no_other(data: st.DataObject, n: int, shared: bool):
    segments = data.draw(arrays(np.int64, n, elements=st.integers(0, SEGMENTS - 1)))
    responded = data.draw(arrays(np.float64, n, elements=st.sampled_from([0.0, 1.0])))
    values = data.draw(arrays(np.float64, n, elements=st.floats(0, UPPER)))
    shares = data.draw(arrays(np.float64, n, elements=st.sampled_from([1.0, 0.5, 0.25]))) if shared else None
    expected = np.zeros((SEGMENTS, 3))
    for row in range(n):
        part = np.array([0.5, responded[row] / 2, min(values[row] / 30.0, SEGMENT_REACH) / SEGMENT_REACH])
        expected[segments[row]] += part * (1.0 if shares is None else shares[row])
    found = segment_sum(segments, SEGMENTS, responded, values, typical=30.0, shares=shares, **BARE)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found.reshape(SEGMENTS, 3), expected, rtol=1e-9, atol=1e-12)


@given(data=st.data(), n=st.integers(0, 30), shared=st.booleans())
def test_held_out_rows_are_counted_by_score_and_then_by_value(data: st.DataObject, n: int, shared: bool):
    log_odds = data.draw(arrays(np.float64, n, elements=st.floats(-6, 6)))
    responded = data.draw(arrays(np.float64, n, elements=st.sampled_from([0.0, 1.0])))
    values = data.draw(arrays(np.float64, n, elements=st.floats(0, UPPER)))
    spends = data.draw(arrays(np.float64, n, elements=st.sampled_from([0.0, 0.0, 5.0, UPPER])))
    shares = data.draw(arrays(np.float64, n, elements=st.sampled_from([1.0, 0.5]))) if shared else None
    typical = {"typical_log_odds": 0.3, "typical_value": 25.0}
    expected = np.zeros((3, VALUE_BINS))
    for row in range(n):
        place = sum(math.log(max(values[row], 1e-9)) - math.log(25.0) >= edge for edge in VALUE_EDGES)
        paid = min(spends[row] / value_caps(typical=25.0)[place], 1.0)
        expected[:, place] += np.array([1.0, spends[row] > 0, paid]) * (1.0 if shares is None else shares[row])
    keys = {**typical, "shares": shares, **BARE}
    found = held_out_sum(log_odds, responded, values, spends, **keys)
    np.testing.assert_allclose(found[2 * SCORE_BINS :].reshape(3, VALUE_BINS), expected, rtol=1e-9)
    np.testing.assert_array_equal(held_out_sum(log_odds, responded, None, None, **keys), found[: 2 * SCORE_BINS])
    np.testing.assert_array_equal(held_out_sum(None, None, values, spends, **keys), found[2 * SCORE_BINS :])


# The level.


def lognormal_market(n: int, *, spread: float, level: float = 1.0) -> tuple[Prediction, np.ndarray]:
    """Return true probabilities and expected spends of customers, and spends that are ``level`` times as large."""
    rng = np.random.default_rng(0)
    purchase, conditional = rng.uniform(0.02, 0.6, n), np.exp(rng.normal(3.0, 1.0, n))
    drawn = conditional * np.exp(spread * rng.standard_normal(n) - spread**2 / 2)
    spent = level * drawn * (rng.random(n) < purchase)
    return Prediction(purchase=purchase, conditional=conditional, value=purchase * conditional), spent


@pytest.mark.statistical
@pytest.mark.parametrize("spread", [0.3, 1.0])
def test_the_statistics_of_a_calibrated_market_say_that_the_level_is_right(spread: float):
    prediction, spent = lognormal_market(400_000, spread=spread)
    observed, expected = level_sum(prediction, spent, **BARE)
    assert observed / expected == pytest.approx(2 / LEVEL_REACH, rel=0.02)
    assert level_step(np.array([observed, expected]), reach=LEVEL_REACH, noise_std=0.0) == pytest.approx(1.0, abs=0.02)


@pytest.mark.statistical
@pytest.mark.parametrize("level", [0.5, 0.8, 1.5])
def test_a_level_that_is_off_is_found(level: float):
    prediction, spent = lognormal_market(400_000, spread=0.8, level=level)
    found = level_step(level_sum(prediction, spent, **BARE), reach=LEVEL_REACH, noise_std=5.0)
    assert found == pytest.approx(level, rel=0.03)


@pytest.mark.statistical
def test_the_level_of_a_mean_over_all_customers_is_found_too():
    told, spent = lognormal_market(400_000, spread=0.5)
    found = level_step(level_sum(Prediction(value=2 * told.value), spent, **BARE), reach=LEVEL_REACH, noise_std=0.0)
    assert found == pytest.approx(0.5, rel=0.1)  # who buys rarely spends many times what is expected, and is cut


def test_nobody_has_no_level():
    np.testing.assert_array_equal(level_sum(Prediction(value=np.zeros(0)), np.zeros(0), **BARE), np.zeros(2))
