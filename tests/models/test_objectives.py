"""Losses are what they say they are, their residuals are their derivatives, and no outputs or values break them."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats
from scipy.optimize import minimize_scalar
from scipy.special import log_expit
from sklearn.metrics import mean_tweedie_deviance

from fedmarket.config import LogisticModel, Model, TweedieModel, ValueModel
from fedmarket.contract.schema import Contract, Label, NumericColumn, PrivacyTerms, Value
from fedmarket.errors import ConfigError
from fedmarket.models.objectives import (
    LARGEST_EXPONENT,
    RESPONSE,
    SMALLEST_SHARE,
    SMALLEST_SPREAD,
    SPREAD_OFFSET,
    Objective,
    Tweedie,
    TwoPart,
    ZeroInflatedLognormal,
    objective_of,
)

TYPICAL, UPPER = 30.0, 2000.0
MONEY: dict[str, Any] = {"typical": TYPICAL, "upper": UPPER}
ZILN, TWO_PART = ZeroInflatedLognormal(**MONEY), TwoPart(**MONEY)
POWERS = (1.01, 1.3, 1.5, 1.9, 1.99)
VALUES = {"ziln": ZILN, "two-part": TWO_PART} | {
    f"tweedie {power:g}": Tweedie(**MONEY, power=power) for power in POWERS
}
OBJECTIVES = {
    "response": RESPONSE,
    **{name: Objective(response=False, value=value) for name, value in VALUES.items()},
    **{f"response and {name}": Objective(response=True, value=value) for name, value in VALUES.items()},
}
EACH = pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
EACH_VALUE = pytest.mark.parametrize("loss", VALUES.values(), ids=VALUES)

SPENDS = st.sampled_from([0.0, 1e-12, 1e-3, TYPICAL, UPPER, 2 * UPPER, 1e30]) | st.floats(0, UPPER)
HUGE = float(np.finfo(np.float32).max)


def rows(data: st.DataObject, objective: Objective, *, outputs: st.SearchStrategy[float]) -> tuple[torch.Tensor, ...]:
    """Return float64 outputs and targets of a few rows."""
    n = data.draw(st.integers(1, 6))
    found = data.draw(arrays(np.float64, (n, len(objective.scales)), elements=outputs))
    targets = np.zeros((n, objective.targets))
    if objective.response:
        targets[:, 0] = data.draw(arrays(np.float64, n, elements=st.sampled_from([0.0, 1.0])))
    if objective.value:
        targets[:, -1] = data.draw(arrays(np.float64, n, elements=SPENDS))
    return torch.from_numpy(found), torch.from_numpy(targets)


# Derivatives.


@EACH
@given(data=st.data())
def test_residuals_are_the_derivatives_of_the_losses(objective: Objective, data: st.DataObject):
    outputs, targets = rows(data, objective, outputs=st.floats(-12, 12))
    outputs.requires_grad_()
    (expected,) = torch.autograd.grad(objective.losses(outputs, targets).sum(), outputs)
    found = objective.residuals(outputs.detach(), targets)
    assert (found.shape, found.dtype) == (outputs.shape, torch.float64)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)


@EACH
@given(data=st.data())
def test_losses_are_one_number_a_row_and_a_row_has_the_same_alone(objective: Objective, data: st.DataObject):
    outputs, targets = rows(data, objective, outputs=st.floats(-12, 12))
    for function in (objective.losses, objective.residuals):
        whole = function(outputs, targets)
        assert whole.shape[0] == len(targets)
        alone = [function(outputs[row : row + 1], targets[row : row + 1]) for row in range(len(targets))]
        np.testing.assert_allclose(whole, torch.cat(alone), rtol=1e-12, atol=1e-15)
    assert objective.losses(outputs, targets).shape == (len(targets),)
    assert objective.losses(outputs[:0], targets[:0]).shape == (0,)
    assert objective.residuals(outputs[:0], targets[:0]).shape == (0, len(objective.scales))


@EACH
@pytest.mark.parametrize("size", [1e30, HUGE])
def test_residuals_of_extreme_outputs_are_finite(objective: Objective, size: float):
    """In float64, in which they are used."""
    spends, k = torch.tensor([0.0, 1e-12, TYPICAL, UPPER], dtype=torch.float64), len(objective.scales)
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)] * k).reshape(-1, k)
    targets = torch.ones(len(spends) * len(signs), objective.targets, dtype=torch.float64)
    if objective.value:
        targets[:, -1] = spends.repeat_interleave(len(signs))
    assert objective.residuals((size * signs).repeat(len(spends), 1), targets).isfinite().all()


# What the losses are.


OUTPUT = st.floats(-6, 6)


@given(log_odds=OUTPUT, mean=OUTPUT, raw=OUTPUT, share=st.floats(1e-3, UPPER / TYPICAL))
def test_zilns_loss_is_the_negative_log_likelihood_of_the_zero_inflated_lognormal(
    log_odds: float, mean: float, raw: float, share: float
):
    """But for what the value alone decides: the constant of the density, and the logarithm of the value itself."""
    spread = np.log1p(np.exp(raw + SPREAD_OFFSET)) + SMALLEST_SPREAD
    law = stats.lognorm(s=spread, scale=np.exp(mean))
    bought = log_expit(log_odds) + law.logpdf(share) + math.log(share) + 0.5 * math.log(2 * math.pi)
    outputs = torch.tensor([[log_odds, mean, raw]] * 2, dtype=torch.float64)
    found = ZILN.losses(outputs, torch.tensor([TYPICAL * share, 0.0], dtype=torch.float64))
    np.testing.assert_allclose(found, [-bought, -log_expit(-log_odds)], rtol=1e-9, atol=1e-9)


@given(mean=st.floats(-3, 2), raw=st.floats(-3, 1))
def test_ziln_expects_the_mean_of_its_lognormal(mean: float, raw: float):
    spread = np.log1p(np.exp(raw + SPREAD_OFFSET)) + SMALLEST_SPREAD
    found = ZILN.conditional(np.array([[0.0, mean, raw]]))
    expected = TYPICAL * stats.lognorm(s=spread, scale=np.exp(mean)).mean()
    np.testing.assert_allclose(found, [min(expected, UPPER)], rtol=1e-9)


def test_an_output_of_zero_has_the_spread_of_one_market():
    outputs = np.zeros((1, 3))
    spread = math.sqrt(2 * math.log(ZILN.conditional(outputs)[0] / TYPICAL))
    assert spread == pytest.approx(1.1, abs=0.01)


@given(spends=arrays(np.float64, st.integers(1, 20), elements=st.floats(TYPICAL * SMALLEST_SHARE, UPPER)))
def test_two_parts_conditional_loss_is_least_at_the_mean(spends: np.ndarray):
    def loss(output: float) -> float:
        outputs = torch.tensor([[0.0, output]] * len(spends), dtype=torch.float64)
        return float(TWO_PART.losses(outputs, torch.from_numpy(spends)).mean())

    best = minimize_scalar(loss, bounds=(-12, 8), method="bounded", options={"xatol": 1e-10}).x
    assert TWO_PART.conditional(np.array([[0.0, best]]))[0] == pytest.approx(spends.mean(), rel=1e-4)
    at_mean = torch.tensor([[0.0, math.log(spends.mean() / TYPICAL)]] * len(spends), dtype=torch.float64)
    residual = TWO_PART.residuals(at_mean, torch.from_numpy(spends))[:, 1].mean()
    assert float(residual) == pytest.approx(0.0, abs=1e-9)


def test_two_parts_conditional_loss_is_half_the_gamma_deviance_up_to_the_value_itself():
    spends, means = np.array([3.0, 40.0, 700.0]), np.array([30.0, 10.0, 900.0])
    outputs = torch.from_numpy(np.stack([np.zeros(3), np.log(means / TYPICAL)], axis=1))
    found = TWO_PART.losses(outputs, torch.from_numpy(spends)).numpy() - math.log(2)
    deviances = [mean_tweedie_deviance([y], [mean], power=2) for y, mean in zip(spends, means, strict=True)]
    np.testing.assert_allclose(found, np.array(deviances) / 2 + np.log(spends / TYPICAL) + 1, rtol=1e-12)


@pytest.mark.parametrize("power", POWERS)
@given(spends=st.lists(st.floats(0, UPPER), min_size=1, max_size=9), data=st.data())
def test_tweedies_loss_is_half_the_deviance_up_to_terms_without_the_output(
    power: float, spends: list[float], data: st.DataObject
):
    """Both are compared between two outputs for the same values: what depends on the value alone cancels."""
    loss, shares = Tweedie(**MONEY, power=power), np.array(spends) / TYPICAL
    here, there = (data.draw(arrays(np.float64, len(spends), elements=st.floats(-3, 3))) for _ in range(2))

    def found(outputs: np.ndarray) -> float:
        return float(loss.losses(torch.from_numpy(outputs)[:, None], torch.tensor(spends, dtype=torch.float64)).mean())

    deviances = [mean_tweedie_deviance(shares, np.exp(outputs), power=power) for outputs in (here, there)]
    size = max(1.0, abs(found(here)), abs(found(there)))
    assert found(here) - found(there) == pytest.approx((deviances[0] - deviances[1]) / 2, abs=1e-9 * size)


@pytest.mark.parametrize("power", POWERS)
def test_tweedies_loss_is_least_at_the_mean_of_all_customers(power: float):
    spends = np.array([0.0, 0.0, 0.0, 12.0, 600.0])
    loss = Tweedie(**MONEY, power=power)
    output = np.full((5, 1), math.log(spends.mean() / TYPICAL))
    residuals = loss.residuals(torch.from_numpy(output), torch.from_numpy(spends))
    assert float(residuals.sum()) == pytest.approx(0.0, abs=1e-9)
    np.testing.assert_allclose(loss.conditional(output), spends.mean(), rtol=1e-12)


# Money is bounded.


@EACH_VALUE
def test_a_value_beyond_the_contracts_bound_counts_as_the_bound_and_a_tiny_purchase_is_still_one(loss: Any):
    outputs = torch.full((2, loss.heads), 0.3, dtype=torch.float64)
    for function in (loss.losses, loss.residuals):
        beyond, at = function(outputs, torch.tensor([1e30, UPPER], dtype=torch.float64))
        np.testing.assert_array_equal(beyond, at)
    if loss.purchase:
        tiny, nothing = loss.residuals(outputs, torch.tensor([1e-12, 0.0], dtype=torch.float64))
        assert tiny[0] < 0 < nothing[0]
        assert not nothing[1:].any()
        floor = loss.residuals(outputs, torch.full((2,), TYPICAL * SMALLEST_SHARE, dtype=torch.float64))[0]
        np.testing.assert_allclose(tiny, floor, rtol=1e-12)


@EACH_VALUE
@given(data=st.data())
def test_what_is_expected_is_money_between_zero_and_the_bound(loss: Any, data: st.DataObject):
    extreme = st.sampled_from([-HUGE, -1e30, 0.0, 1e30, HUGE]) | st.floats(-100, 100)
    found = loss.conditional(data.draw(arrays(np.float64, (4, loss.heads), elements=extreme)))
    assert found.shape == (4,)
    assert np.isfinite(found).all()
    assert ((found >= TYPICAL * math.exp(-LARGEST_EXPONENT) * (1 - 1e-12)) & (found <= UPPER)).all()


# Objectives.


@EACH
def test_an_objective_puts_the_response_first_and_the_value_last(objective: Objective):
    value = objective.value
    assert objective.targets == objective.response + (value is not None)
    assert len(objective.scales) == objective.response + (value.heads if value else 0)
    assert objective.probabilities == objective.response + (value is not None and value.purchase)
    expected = [0.0, 1.0, 0.0] * objective.probabilities + [1.0] * (value is not None)
    np.testing.assert_array_equal(objective.uncalibrated, expected)


def test_labels_are_the_response_and_then_who_bought():
    targets = np.array([[1, 0], [0, 5], [1, 1e-12], [0, 0]], dtype=np.float32)
    joint = Objective(response=True, value=ZILN).labels(targets)
    np.testing.assert_array_equal(joint, [[1, 0], [0, 1], [1, 1], [0, 0]])
    assert joint.dtype == np.float64
    np.testing.assert_array_equal(RESPONSE.labels(targets[:, :1]), joint[:, :1])
    np.testing.assert_array_equal(Objective(response=False, value=TWO_PART).labels(targets[:, 1:]), joint[:, 1:])
    tweedie = VALUES["tweedie 1.5"]
    np.testing.assert_array_equal(Objective(response=True, value=tweedie).labels(targets), joint[:, :1])
    assert Objective(response=False, value=tweedie).labels(targets[:, 1:]).shape == (4, 0)


def contract(*, label: bool, value: bool) -> Contract:
    return Contract(
        format="fedmarket-contract/1",
        name="test",
        task={(True, False): "propensity", (False, True): "ltv", (True, True): "propensity-and-ltv"}[label, value],
        minimum_parties=1,
        label=Label(column="y", positive="yes", negative="no") if label else None,
        value=Value(column="spend", currency="EUR", upper=UPPER, typical=TYPICAL) if value else None,
        privacy=PrivacyTerms(unit="row", adjacency="add-or-remove-one", delta=1e-5),
        columns=(NumericColumn(name="age", kind="numeric", lower=0, upper=100),),
    )


LOGISTIC = LogisticModel(kind="logistic", binning=False)
MODELS: dict[str, tuple[Model, Any]] = {
    "ziln": (ValueModel(kind="ziln", binning=False, hidden=()), ZILN),
    "two-part": (ValueModel(kind="two-part", binning=False, hidden=(4,)), TWO_PART),
    "tweedie": (TweedieModel(kind="tweedie", binning=False, hidden=(), power=1.3), Tweedie(**MONEY, power=1.3)),
}


@pytest.mark.parametrize("label", [False, True])
@pytest.mark.parametrize(("model", "loss"), MODELS.values(), ids=MODELS)
def test_a_model_of_a_value_learns_it_in_the_contracts_money_and_the_response_where_there_is_one(
    model: Model, loss: Any, label: bool
):
    assert objective_of(model, contract(label=label, value=True)) == Objective(response=label, value=loss)


@pytest.mark.parametrize(("model", "loss"), MODELS.values(), ids=MODELS)
def test_a_model_that_does_not_fit_the_contracts_task_is_refused_in_one_line(model: Model, loss: Any):
    assert objective_of(LOGISTIC, contract(label=True, value=False)) == RESPONSE
    with pytest.raises(ConfigError, match=rf"^model\.kind: contract test has no value to predict, got '{model.kind}'$"):
        objective_of(model, contract(label=True, value=False))
    with pytest.raises(ConfigError, match=r"^model\.kind: contract test has a value to predict, .* got 'logistic'$"):
        objective_of(LOGISTIC, contract(label=True, value=True))
