"""Lines of sale are checked, and customers scored by a value model, on one machine and without a word about a cell."""

from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from fedmarket.config import load_config
from fedmarket.contract.layout import layout_of
from fedmarket.contract.schema import load_contract
from fedmarket.data.synthetic import synthetic_market
from fedmarket.models.network import network_of, parameter_count
from fedmarket.models.objectives import objective_of
from fedmarket.models.released import load_model, save_model
from fedmarket.models.state import ModelState

WORD = "Quxville"
SAID = ["purchase_probability", "conditional_spend", "expected_value"]


@pytest.fixture
def lines(write_value_market, tmp_path: Path) -> Path:
    """Return the folder of the tiny market of lines of sale."""
    return write_value_market(tmp_path).parent


@pytest.fixture
def joint(write_joint_market, tmp_path: Path) -> Path:
    return write_joint_market(tmp_path).parent


def model_in(folder: Path, *changes: str) -> Path:
    """Write a model that fits the folder's contract, with parameters that were never trained."""
    model, contract = (
        load_config(folder / "config.toml", changes=changes).model,
        load_contract(folder / "contract.toml"),
    )
    width, objective = layout_of(contract, binning=model.binning).width, objective_of(model, contract)
    rng = np.random.default_rng(3)
    state = ModelState(
        centre=rng.uniform(-0.2, 0.2, width),
        scale=np.ones(width),
        parameters=rng.normal(0.0, 0.3, parameter_count(network_of(model, width, objective))),
        calibration=objective.uncalibrated,
    )
    save_model(folder / "model.safetensors", state, model=model, contract=contract, private=True)
    return folder / "model.safetensors"


def predict(fedmarket: Callable, folder: Path, *, data: str = "lines.csv", output: str = "scores.csv"):
    return fedmarket(
        "predict", "--model", folder / "model.safetensors", "--contract", folder / "contract.toml",
        "--data", folder / data, "--output", folder / output,
    )  # fmt: skip


def check(fedmarket: Callable, folder: Path, *, data: str = "lines.csv"):
    return fedmarket("check", "--contract", folder / "contract.toml", "--data", folder / data)


def bought_before_the_cut(folder: Path) -> list[str]:
    bought = pl.read_csv(folder / "lines.csv", try_parse_dates=True)
    inside = bought.filter(pl.col("day").is_between(date(2024, 1, 1), date(2024, 6, 30)))
    return inside["id"].unique().sort().to_list()


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_each_customer_of_the_lines_gets_one_row(fedmarket: Callable, lines: Path, kind: str):
    model_in(lines)
    ran = predict(fedmarket, lines, output=f"scores.{kind}")
    assert (ran.code, ran.err) == (0, "")
    assert "300 customers scored" in ran.out
    path = lines / f"scores.{kind}"
    scores = pl.read_csv(path) if kind == "csv" else pl.read_parquet(path)
    assert scores.columns == ["id", *SAID]
    assert scores["id"].to_list() == bought_before_the_cut(lines)
    assert scores["purchase_probability"].is_between(0, 1, closed="none").all()
    assert scores["conditional_spend"].is_between(0, 2000).all()
    np.testing.assert_allclose(
        scores["expected_value"], scores["purchase_probability"] * scores["conditional_spend"], rtol=1e-12
    )
    assert scores["expected_value"].n_unique() > 50


def test_under_a_joint_contract_the_response_comes_first(fedmarket: Callable, joint: Path):
    table = synthetic_market(customers=200, parties=4, seed=8).table
    table.drop("responded", "spend_next_year").write_csv(joint / "customers.csv")
    model_in(joint)
    ran = predict(fedmarket, joint, data="customers.csv")
    assert (ran.code, ran.err) == (0, "")
    scores = pl.read_csv(joint / "scores.csv")
    assert scores.columns == ["row", "response_probability", *SAID]
    assert scores["row"].to_list() == list(range(1, 201))
    np.testing.assert_allclose(
        scores["expected_value"], scores["purchase_probability"] * scores["conditional_spend"], rtol=1e-12
    )


def test_a_model_of_one_mean_tells_the_expected_value_alone(fedmarket: Callable, lines: Path):
    model_in(lines, 'model={kind="tweedie",binning=false,hidden=[],power=1.5}')
    assert predict(fedmarket, lines).code == 0
    scores = pl.read_csv(lines / "scores.csv")
    assert scores.columns == ["id", "expected_value"]
    assert scores["expected_value"].is_between(0, 2000).all()


def test_what_a_customer_bought_after_the_cut_changes_no_score(fedmarket: Callable, lines: Path):
    model_in(lines)
    predict(fedmarket, lines)
    scores = pl.read_csv(lines / "scores.csv")
    everything = pl.read_csv(lines / "lines.csv", try_parse_dates=True)
    everything.filter(pl.col("day") < date(2024, 7, 1)).write_csv(lines / "lines.csv")
    predict(fedmarket, lines)
    assert pl.read_csv(lines / "scores.csv").equals(scores)


def test_the_level_multiplies_what_is_spent_and_no_probability(fedmarket: Callable, lines: Path):
    path, contract = model_in(lines), load_contract(lines / "contract.toml")
    predict(fedmarket, lines)
    before, found = pl.read_csv(lines / "scores.csv"), load_model(path, contract)
    state = replace(found.state, calibration=np.append(found.state.calibration[:-1], 2.0))
    save_model(path, state, model=found.model, contract=contract, private=True)
    predict(fedmarket, lines)
    after = pl.read_csv(lines / "scores.csv")
    assert after["purchase_probability"].equals(before["purchase_probability"])
    expected = np.minimum(2 * before["conditional_spend"].to_numpy(), 2000)
    np.testing.assert_allclose(after["conditional_spend"], expected, rtol=1e-12)


def no_lines(folder: Path) -> str:
    (folder / "lines.csv").write_text("id,day,paid\n")
    return "lines.csv: empty table"


def nobody_before_the_cut(folder: Path) -> str:
    (folder / "lines.csv").write_text("id,day,paid\na,2024-08-01,1234\n")
    return "lines.csv: empty table: expected at least one row, got 0"


def without_amounts(folder: Path) -> str:
    pl.read_csv(folder / "lines.csv").drop("paid").write_csv(folder / "lines.csv")
    return "lines.csv: column 'paid': missing"


def dirty_lines(folder: Path) -> str:
    (folder / "lines.csv").write_text(f"id,day,paid\na,2024-02-01,{WORD}\nb,2024-02-01,1234\n")
    return "lines.csv: column 'paid': expected numbers, 1 values are not"


def odd_days(folder: Path) -> str:
    (folder / "lines.csv").write_text(f"id,day,paid\na,{WORD},1\nb,2024-02-01,1234\n")
    return "lines.csv: time column 'day': 1 values are not times of the form '%Y-%m-%d'"


def another_typical_value(folder: Path) -> str:
    contract = folder / "contract.toml"
    contract.write_text(contract.read_text().replace("typical_value = 60", "typical_value = 61"))
    return "trained under contract"


BAD = [no_lines, nobody_before_the_cut, without_amounts, dirty_lines, odd_days, another_typical_value]


@pytest.mark.parametrize("spoil", BAD)
def test_lines_that_cannot_be_scored_are_named_in_one_line(fedmarket: Callable, lines: Path, spoil):
    model_in(lines)
    said = spoil(lines)
    ran = predict(fedmarket, lines)
    assert said in ran.error
    assert ran.code == (2 if spoil is another_typical_value else 1)
    assert not (lines / "scores.csv").exists()


@pytest.mark.parametrize("spoil", BAD[:-1])
def test_lines_that_break_the_contract_are_told_as_rules(fedmarket: Callable, lines: Path, spoil):
    said = spoil(lines).removeprefix("lines.csv: ")
    ran = check(fedmarket, lines)
    ran.tells_no_cell()
    assert (ran.code, ran.out) == (1, "")
    assert "lines.csv breaks 1 rule(s) of tiny-ltv:" in " ".join(ran.err.split())
    assert said in ran.err


def test_lines_that_keep_the_contract_are_counted_in_words(fedmarket: Callable, lines: Path):
    ran = check(fedmarket, lines)
    assert (ran.code, ran.err) == (0, "")
    ran.tells_no_cell()
    words = " ".join(ran.out.split())
    assert "300 rows, 105 buyers, 0 clipped values" in words
    assert "1615 lines: 1123 in the calibration window, 490 in the prediction window" in words
    assert "lines left out: 1 before the windows, 1 after the windows" in words
    assert "also: 1 amounts above max_amount, 1 customers of the prediction window alone" in words
    assert "duplicates" not in words


def test_values_above_the_bound_are_counted_before_they_are_clipped(fedmarket: Callable, lines: Path):
    contract = lines / "contract.toml"
    contract.write_text(contract.read_text().replace("max_value = 2000", "max_value = 200"))
    bought = pl.read_csv(lines / "lines.csv", try_parse_dates=True)
    later = bought.filter(pl.col("day").is_between(date(2024, 7, 1), date(2024, 12, 31)) & (pl.col("id") != "new"))
    above = later.group_by("id").agg(pl.col("paid").sum()).filter(pl.col("paid") > 200).height
    assert above > 10
    assert f"105 buyers, {above} clipped values" in " ".join(check(fedmarket, lines).out.split())


def test_duplicates_cancellations_and_lines_of_nobody_are_counted(fedmarket: Callable, lines: Path):
    contract = lines / "contract.toml"
    rules = 'duplicates = "drop"\nwithout_customer = "drop"\ncancellations = { kind = "negative", treatment = "net" }\n'
    contract.write_text(contract.read_text().replace("start = 2024", f"{rules}start = 2024"))
    days = ("2024-02-01", "2024-02-01", "2024-03-01", "2024-02-02", "2024-03-03", "2024-02-01")
    people, paid = ("a", "a", "a", "b", "b", ""), (5, 5, 7, 5, -9, 5)
    pl.DataFrame({"id": people, "day": days, "paid": paid}).write_csv(lines / "lines.csv")
    words = " ".join(check(fedmarket, lines).out.split())
    assert "6 lines: 4 in the calibration window, 0 in the prediction window" in words
    assert "lines left out: 1 dropped duplicates, 1 without a customer" in words
    assert "also: 1 cancelling lines, 1 cancellations without enough to take back, 1 customers without a" in words


def test_a_table_of_customers_is_told_nothing_of_lines(fedmarket: Callable, shop):
    assert "lines" not in fedmarket("check", "--contract", shop.contract, "--data", shop.csv).out


def test_simulate_says_in_one_line_what_a_value_misses(fedmarket: Callable, lines: Path, no_training):
    ran = fedmarket("simulate", lines / "config.toml", "--set", 'model={kind="logistic",binning=true}')
    assert "model.kind: contract tiny-ltv has a value to predict, expected ziln, two-part or tweedie" in ran.error
    assert ran.code == 2
    ran = fedmarket("simulate", lines / "config.toml", "--set", "privacy.value.level_share=0")
    assert "privacy.value.level_share: Input should be greater than 0" in ran.error
    assert not (lines / "out").exists()
