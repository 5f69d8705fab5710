"""What each arm says of the test rows, and the learners of other classes that stand beside it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from fedmarket.errors import ConfigError
from fedmarket.experiment.arms import arm_named, start_for
from fedmarket.experiment.market import Market, MarketKey, open_market
from fedmarket.flower.inprocess import load_apps
from fedmarket.models.objectives import objective_of
from fedmarket.models.released import predict
from fedmarket.models.state import ModelState
from fedmarket.simulation import predictions as module
from fedmarket.simulation import pretrain as pretraining
from fedmarket.simulation.predictions import (
    BUYERS,
    PAST_SPEND,
    PUBLIC_START,
    arm_prediction,
    boosted_prediction,
    past_spend_of,
    simple_predictions,
)
from fedmarket.simulation.seed import SeedResult, run_arm

ROOT = Path(__file__).parents[2]
OPEN = "aggregation.secagg=ideal"


def opened(path: Path, *changes: str) -> Market:
    return open_market(MarketKey(config=path, changes=(OPEN, *changes), seed=0))


@pytest.fixture(scope="module")
def paths(write_market, write_value_market, write_joint_market, tmp_path_factory) -> dict[str, Path]:
    writers = {"plain": write_market, "lines": write_value_market, "joint": write_joint_market}
    return {kind: write(tmp_path_factory.mktemp(kind)) for kind, write in writers.items()}


@pytest.fixture(scope="module")
def lines(paths) -> Market:
    return opened(paths["lines"])


@pytest.fixture(scope="module")
def joint(paths) -> Market:
    return opened(paths["joint"])


@pytest.fixture(scope="module")
def plain(paths) -> Market:
    return opened(paths["plain"])


# Past spend.


def test_past_spend_times_a_constant_keeps_the_sum_of_the_training_rows(joint: Market, lines: Market):
    for market in (joint, lines):
        past, values = past_spend_of(market), market.population.targets[:, -1]
        said = simple_predictions(market)[PAST_SPEND]
        assert list(said.columns) == ["value"]
        factor = said.value / past[market.test_rows]
        np.testing.assert_allclose(factor, factor[0], rtol=1e-9)
        kept = factor[0] * past[market.train_rows].sum()
        assert kept == pytest.approx(values[market.train_rows].sum(dtype=np.float64), rel=1e-6)


def test_the_constant_is_of_training_rows_alone(joint: Market):
    targets = joint.population.targets.copy()
    targets[joint.test_rows] = 0.0
    other = replace(joint, population=replace(joint.population, targets=targets))
    found = [simple_predictions(market)[PAST_SPEND].value for market in (joint, other)]
    np.testing.assert_array_equal(*found)


def test_past_spend_is_the_configured_column_or_that_of_the_transactions(joint: Market, lines: Market, plain: Market):
    np.testing.assert_array_equal(past_spend_of(joint), joint.population.table["past_spend"].to_numpy())
    np.testing.assert_array_equal(past_spend_of(lines), lines.population.table["total_spend"].to_numpy())
    assert past_spend_of(plain) is None
    assert simple_predictions(plain) == {}


def test_where_nobody_says_what_was_spent_there_is_no_such_prediction(write_joint_market, tmp_path: Path):
    market = opened(write_joint_market(tmp_path, ('past_spend = "past_spend"\n', "")))
    assert past_spend_of(market) is None
    assert simple_predictions(market) == {}


@pytest.mark.parametrize("column", ["none", "region", "days_since_contact", "responded"])
def test_a_column_that_holds_no_amounts_is_named_in_one_line(paths, column: str):
    market = opened(paths["joint"], f"evaluation.past_spend={column}")
    with pytest.raises(ConfigError) as caught:
        past_spend_of(market)
    said = f"evaluation.past_spend: expected a column of numbers from 0 on without gaps, got '{column}'"
    assert str(caught.value) == said


@pytest.mark.parametrize("cell", [float("nan"), float("inf"), -1.0])
def test_past_spend_that_is_no_amount_is_refused(joint: Market, cell: float):
    table = joint.population.table
    odd = table.with_columns(past_spend=pl.Series([cell, *table["past_spend"].to_list()[1:]]))
    market = replace(joint, population=replace(joint.population, table=odd))
    with pytest.raises(
        ConfigError, match=r"^evaluation\.past_spend: expected a column of numbers from 0 on without gaps"
    ):
        past_spend_of(market)


# Other learners.


def test_buyers_are_modelled_only_where_there_are_transactions(joint: Market, lines: Market):
    assert set(simple_predictions(joint)) == {PAST_SPEND}
    found = simple_predictions(lines)
    assert set(found) == {PAST_SPEND, BUYERS}
    value = found[BUYERS].value
    assert value.shape == lines.test_rows.shape
    assert (np.isfinite(value) & (value >= 0)).all()
    rows = lines.population.table[lines.test_rows]
    lately = (rows["days_since_last"] < 20).to_numpy() & (rows["frequency"] >= 2).to_numpy()
    long_ago = (rows["days_since_last"] > 90).to_numpy()
    assert np.median(value[lately]) > 1.5 * np.median(value[long_ago])


def test_buyers_that_the_process_does_not_fit_are_left_out(lines: Market, monkeypatch: pytest.MonkeyPatch):
    table = lines.population.table.with_columns(frequency=pl.lit(0), recency_days=pl.lit(0))
    market = replace(lines, population=replace(lines.population, table=table))
    assert set(simple_predictions(market)) == {PAST_SPEND}


def test_boosting_predicts_what_the_contract_asks_for(joint: Market, lines: Market, plain: Market):
    for market, names in ((plain, ["response"]), (joint, ["response", "value"]), (lines, ["value"])):
        said = boosted_prediction(market)
        assert list(said.columns) == names
        for values in said.columns.values():
            assert values.shape == market.test_rows.shape
            assert (np.isfinite(values) & (values >= 0)).all()


def test_boosted_values_tell_good_customers_from_others(joint: Market):
    value, spent = boosted_prediction(joint).value, joint.population.spent[joint.test_rows]
    best = value > np.quantile(value, 0.8)
    assert spent[best].mean() > 2 * spent[~best].mean()
    assert value.mean() == pytest.approx(joint.population.targets[joint.train_rows, -1].mean(), rel=0.3)


# The public start.


@pytest.fixture(scope="module")
def started(write_value_market, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a market whose start is made of a few imagined customers."""
    path = write_value_market(
        tmp_path_factory.mktemp("started"), ('output = "out"', 'output = "out"\nstart = "start.json"')
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretraining, "CUSTOMERS", 400)
        pretraining.pretrain(path)
    return path


def test_the_public_start_stands_beside_the_others_only_where_there_is_one(started: Path, lines: Market):
    assert PUBLIC_START not in simple_predictions(lines)
    assert set(simple_predictions(opened(started))) == {PAST_SPEND, BUYERS, PUBLIC_START}


def test_the_public_start_is_what_the_start_says_of_rows_as_they_are_encoded(started: Path):
    market = opened(started)
    said = simple_predictions(market)[PUBLIC_START]
    objective = objective_of(market.config.model, market.contract)
    width = market.features.shape[1]
    state = ModelState(
        centre=np.zeros(width),
        scale=np.ones(width),
        parameters=start_for(market.config, market.contract).parameters,
        calibration=objective.uncalibrated,
    )
    expected = predict(
        market.config.model, objective, state, market.features[market.test_rows], calibrated=False
    ).columns
    assert list(said.columns) == list(expected)
    for name, values in said.columns.items():
        np.testing.assert_array_equal(values, expected[name])
        assert len(np.unique(values)) > 10, name


def test_the_public_start_knows_nothing_of_the_rows(started: Path):
    """Other training rows leave it as it is, and it is not what training makes of it."""
    market = opened(started)
    said = simple_predictions(market)[PUBLIC_START].value
    targets = market.population.targets.copy()
    targets[market.train_rows] *= 3
    other = replace(market, population=replace(market.population, targets=targets))
    np.testing.assert_array_equal(simple_predictions(other)[PUBLIC_START].value, said)
    key = MarketKey(config=started, changes=(OPEN,), seed=0)
    trained = arm_prediction(market, run_arm(key, arm_named("federated"), load_apps(ROOT)).model).value
    assert np.abs(trained - said).max() > 0.01 * said.mean()


@pytest.mark.parametrize("seeds_with", [(0, 1), (0,), ()])
def test_the_public_start_is_an_arm_where_every_seed_has_it(made_up, seeds_with: tuple[int, ...]):
    def change(seed: SeedResult) -> SeedResult:
        if seed.seed not in seeds_with:
            return seed
        return replace(seed, predictions=seed.predictions | {PUBLIC_START: seed.predictions[PAST_SPEND]})

    results = made_up("ltv", change=change)
    assert ("public_start" in results["arms"]) == (len(seeds_with) == 2)
    assert set(results["loss"]) == {"pooled", "pooled_best", "past_spend"}
    if len(seeds_with) == 2:
        arm = results["arms"]["public_start"]
        assert arm["per_seed"] == results["arms"]["past_spend"]["per_seed"]
        assert "no customer was looked at" in arm["description"]


# The arms.


@pytest.mark.parametrize("kind", ["plain", "joint", "lines"])
def test_an_arm_is_asked_about_the_common_test_rows(paths, kind: str):
    market = opened(paths[kind])
    key = MarketKey(config=paths[kind], changes=(OPEN,), seed=0)
    state = run_arm(key, arm_named("federated"), load_apps(ROOT)).model
    objective = objective_of(market.config.model, market.contract)
    for calibrated in (True, False):
        everyone = predict(market.config.model, objective, state, market.features, calibrated=calibrated)
        said = arm_prediction(market, state, calibrated=calibrated)
        assert list(said.columns) == list(everyone.columns)
        for name, values in said.columns.items():
            np.testing.assert_allclose(values, everyone.columns[name][market.test_rows], rtol=1e-5)


def test_the_names_of_the_learners_are_told_apart():
    assert len({module.BOOSTED, module.PAST_SPEND, module.BUYERS, module.PUBLIC_START}) == 4
