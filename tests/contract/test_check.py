"""The check finds every broken rule, tells none of the cells, and accepts what the contract allows."""

import math
from typing import Any

import polars as pl
import pytest

from fedmarket.contract.check import ColumnProfile, check_table, find_violations
from fedmarket.contract.schema import Contract
from fedmarket.errors import ContractViolation

SECRET = 987654321.5


def contract(*columns: dict[str, Any], unit: str = "row", delta: float = 1e-5, task: str = "propensity") -> Contract:
    label = {"column": "y", "positive": "yes", "negative": "no"}
    value = {"column": "spend", "currency": "EUR", "upper": 100, "typical": 30}
    return Contract.model_validate(
        {
            "format": "fedmarket-contract/1",
            "name": "test",
            "task": task,
            "minimum_parties": 2,
            "label": label if task != "ltv" else None,
            "value": value if task != "propensity" else None,
            "privacy": {"unit": unit, "adjacency": "add-or-remove-one", "delta": delta},
            "columns": columns or (AGE,),
        }
    )


AGE = {"name": "age", "kind": "numeric", "lower": 0, "upper": 100, "missing_codes": [999]}
COLOUR = {"name": "colour", "kind": "category", "vocabulary": ["red", "blue"]}
GOOD = {"age": [1, 2, 3, 4], "y": ["yes", "no", "no", "no"]}


def broken(terms: Contract | None = None, **columns: Any) -> tuple[str, ...]:
    return find_violations(pl.DataFrame({**GOOD, **columns}, strict=False), terms or contract())


def test_a_table_that_keeps_the_contract_has_a_profile():
    table = pl.DataFrame(
        {**GOOD, "age": ["1", "", None, "999"], "colour": ["red", "green", None, "blue"], "extra": [0] * 4}
    )
    profile = check_table(table, contract(AGE, COLOUR), source="party")
    assert (profile.rows, profile.positives, profile.ignored) == (4, 1, ("extra",))
    assert profile.columns == (
        ColumnProfile(name="age", missing=3, other=0),
        ColumnProfile(name="colour", missing=1, other=1),
    )


def test_all_broken_rules_are_collected_and_the_error_names_the_source():
    table = pl.DataFrame({"age": [-1, 101, 5], "y": ["yes", "yes", "yes"]})
    with pytest.raises(
        ContractViolation, match=r"^party 7: column 'age': 2 values outside the bounds 0 to 100 \(and 2"
    ):
        check_table(table, contract(AGE, COLOUR), source="party 7")
    assert find_violations(table, contract(AGE, COLOUR)) == (
        "column 'age': 2 values outside the bounds 0 to 100",
        "column 'colour': missing",
        "label column 'y': only one class (no negative among 3 rows)",
    )


@pytest.mark.parametrize(
    ("ages", "said"),
    [
        (["1", "x", " 2", "1,5"], "column 'age': expected numbers, 3 values are not"),
        ([True, False, True, True], "column 'age': expected numbers, got Boolean"),
        ([[1], [2], [3], [4]], "column 'age': expected numbers, got List"),
        ([1.0, math.nan, 2.0, 3.0], "column 'age': 1 values are NaN (a missing value must be left empty)"),
        (["1", "nan", "2", "3"], "column 'age': 1 values are NaN (a missing value must be left empty)"),
        ([1.0, math.inf, -math.inf, 3.0], "column 'age': 2 values are infinite"),
        ([0, 100, 100.001, 50], "column 'age': 1 values outside the bounds 0 to 100"),
        ([None, None, None, None], "column 'age': all 4 values are missing"),
    ],
)
def test_a_bad_numeric_column_is_named_with_its_rule_and_count(ages: list[Any], said: str):
    assert broken(age=ages) == (said,)


def test_a_column_full_of_missing_codes_is_not_an_empty_column():
    assert broken(age=[999, 999, None, 999]) == ()


@pytest.mark.parametrize("ages", [[0, 100, 50, 999], ["0", "1e2", "", "999"], [None, 1.5, 999.0, 0.0]])
def test_bounds_are_inclusive_and_missing_is_allowed(ages: list[Any]):
    assert broken(age=ages) == ()


def test_missing_cells_break_a_required_column_only():
    numeric, words = {**AGE, "required": True}, {**COLOUR, "required": True}
    said = broken(contract(numeric, words), age=[1, 999, None, 2], colour=["red", None, "", "blue"])
    assert said == (
        "column 'age': required, but 2 values are missing",
        "column 'colour': required, but 2 values are missing",
    )


def test_only_a_closed_vocabulary_can_be_broken():
    colours = ["red", "green", "grey", None]
    assert broken(contract(COLOUR), colour=colours) == ()
    assert broken(contract({**COLOUR, "closed": True}), colour=colours) == (
        "column 'colour': 2 values outside the closed vocabulary of 2 words",
    )


def test_a_category_of_lists_is_refused():
    assert broken(contract(COLOUR), colour=[["red"], [], [], []]) == ("column 'colour': expected words, got List",)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (["yes", "no", "Yes", "maybe"], "label column 'y': 2 values are neither 'yes' nor 'no'"),
        (["yes", "no", None, ""], "label column 'y': 2 values are missing"),
        (["yes"] * 4, "label column 'y': only one class (no negative among 4 rows)"),
        (["no"] * 4, "label column 'y': only one class (no positive among 4 rows)"),
    ],
)
def test_a_bad_label_column_is_named_with_its_rule_and_count(labels: list[Any], said: str):
    assert broken(y=labels) == (said,)


@pytest.mark.parametrize("task", ["ltv", "propensity-and-ltv"])
@pytest.mark.parametrize(
    ("spend", "said"),
    [
        (["1", "x", "", "y"], ("2 values are not numbers", "1 values are missing")),
        ([1.0, math.nan, None, 3.0], ("1 values are missing", "1 values are NaN")),
        ([1.0, math.inf, -math.inf, SECRET], ("2 values are infinite",)),
        (["-0.01", "-1e300", "0", "nan"], ("1 values are NaN", "2 values are below zero")),
        ([True, False, True, True], ("expected numbers, got Boolean",)),
        ([None, None, None, None], ("4 values are missing",)),
    ],
)
def test_a_bad_value_column_is_named_with_its_rules_and_counts(task: str, spend: list[Any], said: tuple[str, ...]):
    assert broken(contract(task=task), spend=spend) == tuple(f"value column 'spend': {rule}" for rule in said)


def test_a_value_may_be_zero_for_all_or_above_its_bound_and_both_are_counted():
    for spend, buyers, clipped in (([0, 0, 0, 0], 0, 0), (["0", "100", "100.01", "1e300"], 3, 2)):
        table = pl.DataFrame({**GOOD, "spend": spend})
        profile = check_table(table, contract(task="propensity-and-ltv"), source="party")
        assert (profile.positives, profile.buyers, profile.clipped_values) == (1, buyers, clipped)
        profile = check_table(table.drop("y"), contract(task="ltv"), source="party")
        assert (profile.positives, profile.buyers, profile.clipped_values) == (None, buyers, clipped)
        assert profile.ignored == ()


def test_a_training_table_needs_a_value_and_a_scoring_table_does_not():
    table = pl.DataFrame({"age": [1, 2]})
    assert find_violations(table, contract(task="ltv")) == ("value column 'spend': missing",)
    profile = check_table(table, contract(task="ltv"), source="scores", label_expected=False)
    assert (profile.positives, profile.buyers, profile.clipped_values) == (None, None, None)


def test_a_training_table_needs_a_label_and_a_scoring_table_does_not():
    table = pl.DataFrame({"age": [None, 2]})
    assert find_violations(table, contract()) == ("label column 'y': missing",)
    profile = check_table(table, contract(), source="scores", label_expected=False)
    assert profile.positives is None


def test_one_row_with_a_missing_value_can_be_scored():
    table = pl.DataFrame({"age": [999]})
    assert find_violations(table, contract(delta=0.5, unit="column:id"), label_expected=False) == ()


def test_a_scoring_table_still_keeps_the_bounds():
    assert find_violations(pl.DataFrame({"age": [101]}), contract(), label_expected=False)


@pytest.mark.parametrize("dtype", [pl.Boolean, pl.Int8, pl.String])
def test_labels_are_compared_as_text(dtype: Any):
    words = {pl.Boolean: ("true", "false"), pl.Int8: ("1", "0"), pl.String: ("1", "0")}[dtype]
    terms = contract().model_copy(
        update={"label": contract().label.model_copy(update={"positive": words[0], "negative": words[1]})}
    )
    labels = pl.Series([1, 0, 0, 1], dtype=pl.Int8).cast(dtype)
    assert broken(terms, y=labels) == ()


def test_an_empty_table_is_refused():
    table = pl.DataFrame(schema={"age": pl.String, "y": pl.String})
    assert find_violations(table, contract()) == ("empty table: expected at least one row, got 0",)


@pytest.mark.parametrize(("delta", "holds"), [(0.25, False), (0.26, False), (0.2499, True)])
def test_delta_must_be_below_one_over_rows(delta: float, holds: bool):
    said = () if holds else (f"privacy.delta {delta:g} must be below 1/rows (4 rows)",)
    assert broken(contract(delta=delta)) == said


@pytest.mark.parametrize("unit", ["row", "column:id"])
@pytest.mark.parametrize("ids", [["a", "a", "b", "c"], ["a"] * 4, [1, 2, 3, 4]])
def test_customers_may_have_one_row_or_several(unit: str, ids: list[Any]):
    assert broken(contract(unit=unit), id=ids) == ()


def test_a_row_without_a_customer_is_refused_and_so_is_a_table_without_the_column():
    assert broken(contract(unit="column:id"), id=["a", None, "", "c"]) == (
        "customer column 'id': 2 rows without a customer",
    )
    assert broken(contract(unit="column:id")) == ("customer column 'id': missing",)


def test_no_cell_is_told():
    said = broken(
        contract({**AGE, "required": True}, {**COLOUR, "closed": True}, unit="column:id", delta=0.5),
        age=[SECRET, math.inf, math.nan, None],
        colour=[str(SECRET)] * 4,
        y=[str(SECRET)] * 4,
        id=[str(SECRET), "", None, str(SECRET)],
    )
    assert len(said) == 10
    assert any(line.startswith("customer column 'id'") for line in said)
    assert "98765" not in " ".join(said)


def test_names_in_any_script_work():
    terms = contract({"name": "年龄", "kind": "numeric", "lower": 0, "upper": 1})
    assert find_violations(pl.DataFrame({"年龄": [0, 2], "y": ["yes", "no"]}), terms) == (
        "column '年龄': 1 values outside the bounds 0 to 1",
    )
