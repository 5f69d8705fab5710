"""The encoding follows the layout, keeps its norm bound, and fits nothing."""

import math
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmarket.contract.check import find_violations
from fedmarket.contract.layout import layout_of
from fedmarket.contract.schema import CategoryColumn, Contract, Label, NumericColumn, PrivacyTerms
from fedmarket.data.encode import encode, labels_of, spent_of, targets_of
from fedmarket.errors import ConfigError, DataError

TERMS = Contract(
    format="fedmarket-contract/1",
    name="test",
    task="propensity",
    minimum_parties=1,
    label=Label(column="y", positive="yes", negative="no"),
    privacy=PrivacyTerms(unit="row", adjacency="add-or-remove-one", delta=1e-5),
    columns=(
        NumericColumn(name="age", kind="numeric", lower=0, upper=100, edges=(20, 50, 100), missing_codes=(999,)),
        CategoryColumn(name="colour", kind="category", vocabulary=("red", "blue")),
        NumericColumn(name="debt", kind="numeric", lower=-0.3, upper=0.7),
    ),
)
BINNED = layout_of(TERMS, binning=True)
PLAIN = layout_of(TERMS, binning=False)
ROWS = st.lists(
    st.tuples(
        st.none() | st.just(999.0) | st.floats(0, 100),
        st.none() | st.sampled_from(["red", "blue", "green", ""]),
        st.none() | st.floats(-0.3, 0.7),
    ),
    min_size=1,
    max_size=12,
)


def table_of(rows: list[tuple[Any, ...]]) -> pl.DataFrame:
    schema = {"age": pl.Float64, "colour": pl.String, "debt": pl.Float64}
    return pl.DataFrame(rows, schema=schema, orient="row")


def row(age: Any = 0, colour: Any = "red", debt: Any = 0.2) -> dict[str, float]:
    encoded = encode(pl.DataFrame({"age": [age], "colour": [colour], "debt": [debt]}), TERMS, BINNED)
    return {name: float(value) for name, value in zip(BINNED.names, encoded.features[0], strict=True) if value}


@given(rows=ROWS, binning=st.booleans())
def test_no_row_exceeds_the_norm_bound(rows: list[tuple[Any, ...]], binning: bool):
    layout = BINNED if binning else PLAIN
    features = encode(table_of(rows), TERMS, layout).features.astype(np.float64)
    assert np.square(features).sum(axis=1).max() <= layout.norm_bound**2 * (1 + 1e-12)


def test_the_norm_bound_is_reached():
    features = encode(table_of([(100.0, "red", 0.7)]), TERMS, BINNED).features
    assert np.linalg.norm(features) == pytest.approx(BINNED.norm_bound, rel=1e-6)


@given(rows=ROWS, binning=st.booleans())
def test_a_row_is_encoded_alike_alone_and_among_others(rows: list[tuple[Any, ...]], binning: bool):
    layout = BINNED if binning else PLAIN
    together = encode(table_of(rows), TERMS, layout).features
    alone = np.concatenate([encode(table_of([one]), TERMS, layout).features for one in rows])
    np.testing.assert_array_equal(together, alone)


@given(rows=ROWS)
@settings(max_examples=50)
def test_text_is_encoded_like_the_numbers_that_it_spells(rows: list[tuple[Any, ...]]):
    typed = table_of(rows)
    np.testing.assert_array_equal(
        encode(typed.cast(pl.String), TERMS, BINNED).features, encode(typed, TERMS, BINNED).features
    )


@given(rows=ROWS)
@settings(max_examples=50)
def test_each_category_fills_one_place_and_each_number_one_bin_unless_missing(rows: list[tuple[Any, ...]]):
    features = encode(table_of(rows), TERMS, BINNED).features
    age, colour, _ = BINNED.slots
    missing = np.array([one[0] is None or one[0] == 999.0 for one in rows])
    np.testing.assert_array_equal(features[:, colour.start : colour.stop].sum(axis=1), 1.0)
    np.testing.assert_array_equal(features[:, age.start + 1], missing)
    np.testing.assert_array_equal(features[:, age.start + 2 : age.stop].sum(axis=1), ~missing)


def test_numbers_are_scaled_from_the_public_bounds():
    assert [row(age=age).get("age", 0.0) for age in (0, 25, 50, 100)] == [-1.0, -0.5, 0.0, 1.0]


@pytest.mark.parametrize(
    ("age", "step"), [(0, "[-inf,20)"), (19.9, "[-inf,20)"), (20, "[20,50)"), (50, "[50,100)"), (100, "[100,inf)")]
)
def test_bins_hold_their_low_edge_and_not_their_high_one(age: float, step: str):
    assert [name for name in row(age=age) if name.startswith("age:")] == [f"age:{step}"]


@pytest.mark.parametrize("missing", [None, 999, "999", ""])
def test_a_missing_number_sets_its_flag_and_nothing_else(missing: Any):
    assert {name for name in row(age=missing) if name.startswith("age")} == {"age=(missing)"}


@pytest.mark.parametrize(
    ("colour", "place"),
    [("red", "red"), ("blue", "blue"), ("green", "(other)"), (None, "(missing)"), ("", "(missing)")],
)
def test_a_category_has_a_place_for_each_word_for_other_and_for_missing(colour: str | None, place: str):
    assert {name: value for name, value in row(colour=colour).items() if "colour" in name} == {f"colour={place}": 1.0}


@pytest.mark.parametrize("age", [-0.001, 100.001, math.nan, math.inf, "x", True])
def test_a_value_out_of_bounds_is_refused_and_not_told(age: Any):
    with pytest.raises(DataError, match=r"^column 'age': ") as caught:
        row(age=age)
    assert "100.001" not in str(caught.value)


def test_a_missing_column_is_refused():
    with pytest.raises(DataError, match="column 'debt': missing"):
        encode(pl.DataFrame({"age": [1], "colour": ["red"]}), TERMS, BINNED)


def test_features_are_contiguous_float32_and_an_empty_table_has_none():
    for rows in ([], [(1.0, "red", 0.0)]):
        features = encode(table_of(rows), TERMS, BINNED).features
        assert features.shape == (len(rows), BINNED.width)
        assert features.dtype == np.float32
        assert features.flags.c_contiguous


def test_labels_come_along_where_the_table_has_them_and_they_are_expected():
    table = table_of([(1.0, "red", 0.0)] * 3)
    labelled = table.with_columns(y=pl.Series(["yes", "no", "yes"]))
    assert encode(table, TERMS, PLAIN).targets is None
    assert encode(labelled, TERMS, PLAIN, label_expected=False).targets is None
    targets = encode(labelled, TERMS, PLAIN).targets
    assert targets is not None
    assert targets.tolist() == [[1.0], [0.0], [1.0]]
    assert targets.dtype == np.float32
    np.testing.assert_array_equal(targets[:, 0], labels_of(labelled, TERMS))


@pytest.mark.parametrize(
    ("cells", "positive", "negative"),
    [([True, False], "true", "false"), ([1, 0], "1", "0"), (["ja", "nein"], "ja", "nein")],
)
def test_labels_are_compared_as_text(cells: list[Any], positive: str, negative: str):
    terms = TERMS.model_copy(update={"label": Label(column="y", positive=positive, negative=negative)})
    assert labels_of(pl.DataFrame({"y": cells}), terms).tolist() == [1.0, 0.0]


@pytest.mark.parametrize("odd", [None, "", "maybe", "YES"])
def test_a_label_that_is_neither_word_is_refused_with_a_count(odd: str | None):
    with pytest.raises(DataError, match=r"^label column 'y': 2 values are neither positive nor negative$"):
        labels_of(pl.DataFrame({"y": ["yes", odd, odd, "no"]}), TERMS)


@given(rows=ROWS)
@settings(max_examples=50)
def test_what_the_check_accepts_can_be_encoded(rows: list[tuple[Any, ...]]):
    table = table_of(rows)
    assert find_violations(table, TERMS, label_expected=False) == ()
    assert np.isfinite(encode(table, TERMS, BINNED).features).all()


def with_value(task: str = "propensity-and-ltv", **changed: Any) -> Contract:
    value = {"column": "spend", "currency": "EUR", "upper": 100.0, "typical": 30.0} | changed
    label = TERMS.label if task != "ltv" else None
    return Contract.model_validate({**TERMS.model_dump(), "task": task, "label": label, "value": value})


def test_a_response_comes_before_a_value_and_a_value_is_clipped():
    table = table_of([(1.0, "red", 0.0)] * 3)
    table = table.with_columns(y=pl.Series(["yes", "no", "no"]), spend=pl.Series([0.0, 12.5, 1e300]))
    assert targets_of(table, with_value()).tolist() == [[1, 0], [0, 12.5], [0, 100]]
    assert targets_of(table, with_value("ltv")).tolist() == [[0], [12.5], [100]]
    assert spent_of(table, with_value()).tolist() == [0, 12.5, 1e300]
    encoded = encode(table, with_value(), PLAIN)
    assert encoded.targets is not None
    assert encoded.targets.dtype == np.float32
    assert encoded.targets.flags.c_contiguous
    assert encode(table.drop("y"), with_value(), PLAIN).targets is None
    assert encode(table.drop("spend"), with_value(), PLAIN).targets is None


@given(upper=st.floats(1e-3, 1e12), above=st.floats(1, 1e6))
def test_no_value_exceeds_its_bound_by_rounding(upper: float, above: float):
    table = pl.DataFrame({"spend": [upper * above, upper, str(upper)]}, strict=False)
    values = targets_of(table, with_value("ltv", upper=upper, typical=upper / 2))
    assert values.astype(np.float64).max() <= upper
    assert values.astype(np.float64).min() >= upper * (1 - 1e-6)


@pytest.mark.parametrize("odd", [None, "", "x", -0.01, math.nan, math.inf])
def test_a_value_that_is_no_number_from_0_on_is_refused_with_a_count(odd: Any):
    cells = pl.Series([1, odd, odd, 2], dtype=pl.String if isinstance(odd, str) else pl.Float64, strict=False)
    with pytest.raises(DataError, match=r"^value column 'spend': 2 values are not numbers from 0 on$"):
        targets_of(pl.DataFrame({"spend": cells}), with_value("ltv"))


def test_a_value_column_that_is_not_there_or_no_number_is_named():
    with pytest.raises(DataError, match="value column 'spend': missing"):
        targets_of(pl.DataFrame({"y": ["yes"]}), with_value("ltv"))
    with pytest.raises(DataError, match="value column 'spend': expected numbers, got Boolean"):
        targets_of(pl.DataFrame({"spend": [True]}), with_value("ltv"))


def test_what_the_contract_does_not_predict_cannot_be_asked_for():
    table = pl.DataFrame({"y": ["yes"], "spend": [1.0]})
    with pytest.raises(ConfigError, match="contract 'test': task = 'ltv' has no label"):
        labels_of(table, with_value("ltv"))
    with pytest.raises(ConfigError, match="contract 'test': task = 'propensity' has no value"):
        spent_of(table, TERMS)


def test_names_in_any_script_are_encoded():
    column = CategoryColumn(name="城市", kind="category", vocabulary=("北京", "上海"))
    terms = TERMS.model_copy(update={"columns": (column,)})
    layout = layout_of(terms, binning=False)
    features = encode(pl.DataFrame({"城市": ["上海", "广州"]}), terms, layout).features
    assert [layout.names[place] for place in features.argmax(axis=1)] == ["城市=上海", "城市=(other)"]


# Columns by their logarithm.


UNITS = st.floats(1e-6, 1e6)


def by_logarithm(unit: float | None, lower: float = 0.0, upper: float = 1000.0) -> Contract:
    column = NumericColumn(
        name="spend", kind="numeric", lower=lower, upper=upper, edges=(lower / 2 + upper / 2,), log_unit=unit
    )
    return TERMS.model_copy(update={"columns": (column,)})


def scaled(terms: Contract, cells: list[float | None]) -> list[float]:
    """Return the first place of each cell, which is its scaled value."""
    table = pl.DataFrame({"spend": cells}, schema={"spend": pl.Float64})
    return encode(table, terms, layout_of(terms, binning=False)).features[:, 0].tolist()


@given(UNITS, st.floats(-1e6, 1e6), st.floats(1e-3, 1e9))
def test_under_a_logarithm_the_bounds_are_minus_one_and_one(unit: float, lower: float, width: float):
    terms = by_logarithm(unit, lower, lower + width)
    assert scaled(terms, [lower, lower + width]) == [-1.0, 1.0]


@given(UNITS, st.lists(st.floats(0, 1000), min_size=2, max_size=20))
def test_a_logarithm_keeps_the_order_of_values(unit: float, cells: list[float]):
    found = scaled(by_logarithm(unit), sorted(cells))
    assert found == sorted(found)
    assert -1 <= found[0] <= found[-1] <= 1


def test_a_logarithm_is_that_of_the_distance_from_the_lower_bound_in_units():
    terms = by_logarithm(10.0, lower=5.0, upper=1005.0)
    cells = [5.0, 15.0, 105.0, 505.0]
    expected = 2 * np.log1p((np.array(cells) - 5.0) / 10.0) / np.log(101.0) - 1
    np.testing.assert_allclose(scaled(terms, cells), expected, rtol=1e-6)
    assert scaled(by_logarithm(1e9), [250.0]) == pytest.approx([-0.5], abs=1e-6)  # below the unit it is linear
    assert scaled(by_logarithm(None), [250.0]) == [-0.5]


@given(UNITS, st.lists(st.none() | st.floats(0, 1000), min_size=1, max_size=12), st.booleans())
def test_a_logarithm_keeps_the_norm_bound_and_looks_at_one_row(unit: float, cells: list[float | None], binning: bool):
    terms = by_logarithm(unit)
    layout = layout_of(terms, binning=binning)
    table = pl.DataFrame({"spend": cells}, schema={"spend": pl.Float64})
    features = encode(table, terms, layout).features
    assert np.square(features.astype(np.float64)).sum(axis=1).max() <= layout.norm_bound**2 * (1 + 1e-12)
    alone = np.concatenate([encode(table[place], terms, layout).features for place in range(len(cells))])
    np.testing.assert_array_equal(features, alone)


def test_a_logarithm_moves_neither_bins_nor_missing_cells():
    for unit in (None, 0.01, 100.0):
        terms = by_logarithm(unit)
        table = pl.DataFrame({"spend": [0.0, 499.0, 500.0, 1000.0, None]})
        found = encode(table, terms, layout_of(terms, binning=True)).features
        assert found[:, 1:].tolist() == [[0, 1, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1], [1, 0, 0]]
        assert found[4, 0] == 0
