"""Rows are kept small, and written out they are what the layout says, whoever takes which of them."""

import math
import tracemalloc
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmarket.contract.layout import Layout, layout_of
from fedmarket.contract.schema import CategoryColumn, Contract, Label, NumericColumn, PrivacyTerms, load_contract
from fedmarket.data.encode import coded, encode
from fedmarket.data.synthetic import synthetic_market

DEMO = load_contract(Path(__file__).parents[2] / "experiments" / "demo" / "contract.toml")
TERMS = Contract(
    format="fedmarket-contract/1",
    name="test",
    task="propensity",
    minimum_parties=1,
    label=Label(column="y", positive="yes", negative="no"),
    privacy=PrivacyTerms(unit="row", adjacency="add-or-remove-one", delta=1e-5),
    columns=(
        CategoryColumn(name="town", kind="category", vocabulary=tuple(f"town {place}" for place in range(300))),
        NumericColumn(name="age", kind="numeric", lower=0, upper=100, edges=(20, 50, 100), missing_codes=(999,)),
        NumericColumn(name="spent", kind="numeric", lower=0, upper=1000, log_unit=10.0),
        CategoryColumn(name="colour", kind="category", vocabulary=("red", "blue")),
    ),
)
ROWS = st.lists(
    st.tuples(
        st.none() | st.integers(0, 310).map("town {}".format),
        st.none() | st.just(999.0) | st.floats(0, 100),
        st.none() | st.floats(0, 1000),
        st.none() | st.sampled_from(["red", "blue", "green", ""]),
    ),
    min_size=1,
    max_size=12,
)


def table_of(rows: list[tuple]) -> pl.DataFrame:
    schema = {"town": pl.String, "age": pl.Float64, "spent": pl.Float64, "colour": pl.String}
    return pl.DataFrame(rows, schema=schema, orient="row")


def cell_by_cell(table: pl.DataFrame, layout: Layout) -> np.ndarray:
    """Return the features, (n, width), with nothing in common with the code under test."""
    features = np.zeros((table.height, layout.width), dtype=np.float32)
    for slots in layout.slots:
        for row, cell in zip(features, table[slots.column.name].to_list(), strict=True):
            _fill(row[slots.start : slots.stop], cell, slots.column, binned=slots.binned)
    return features


def _fill(places: np.ndarray, cell, column, *, binned: bool) -> None:
    if isinstance(column, CategoryColumn):
        words = [*column.vocabulary, None]
        places[-1 if cell in (None, "") else words.index(cell) if cell in column.vocabulary else -2] = 1.0
    elif cell is None or cell in column.missing_codes:
        places[1] = 1.0
    else:
        share = (cell - column.lower) / (column.upper - column.lower)
        if column.log_unit is not None:
            share = np.log1p(cell / column.log_unit) / math.log1p(column.upper / column.log_unit)
        places[0] = 2.0 * share - 1.0
        if binned:
            places[2 + sum(cell >= edge for edge in column.edges)] = 1.0


@given(rows=ROWS, binning=st.booleans())
def test_rows_written_out_are_what_the_layout_says_of_each_cell(rows: list[tuple], binning: bool):
    table, layout = table_of(rows), layout_of(TERMS, binning=binning)
    np.testing.assert_array_equal(coded(table, layout)[:], cell_by_cell(table, layout))
    np.testing.assert_array_equal(encode(table, TERMS, layout).features, cell_by_cell(table, layout))


@given(rows=ROWS, data=st.data())
def test_rows_that_are_taken_are_those_rows_in_that_order(rows: list[tuple], data: st.DataObject):
    layout = layout_of(TERMS, binning=True)
    whole = coded(table_of(rows), layout)
    written, numbers = (
        whole[:],
        st.lists(st.integers(0, len(rows) - 1), max_size=8).map(lambda some: np.array(some, int)),
    )
    some = data.draw(numbers)
    taken = whole.taken(some)
    assert taken.shape == (len(taken), layout.width) == (len(some), layout.width)
    np.testing.assert_array_equal(taken, written[some])
    np.testing.assert_array_equal(taken[1:3], written[some][1:3])
    again = np.arange(len(some))[::-1]
    np.testing.assert_array_equal(taken.taken(again)[:], written[some][again])
    assert np.asarray(taken, dtype=np.float64).dtype == np.float64


def test_rows_written_out_are_contiguous_float32_and_of_none_there_are_none():
    layout = layout_of(TERMS, binning=True)
    for rows in ([], [("town 1", 1.0, 2.0, "red")]):
        features = coded(table_of(rows), layout)[:]
        assert features.shape == (len(rows), layout.width)
        assert features.dtype == np.float32
        assert features.flags.c_contiguous


@pytest.fixture(scope="module")
def customers() -> pl.DataFrame:
    return synthetic_market(customers=50_000, parties=4, seed=7).table


def peak_of(work) -> float:
    """Return how many bytes ``work`` held at most, of what is traced: NumPy's and Python's."""
    tracemalloc.start()
    try:
        kept = work()
        del kept
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_encoding_takes_a_tenth_of_the_rows_written_out_and_at_most_a_fifth_while_it_works(customers: pl.DataFrame):
    """The demo's rows are 111 numbers, 444 bytes; written out, they are there once."""
    layout = layout_of(DEMO, binning=True)
    wide = 4 * layout.width * customers.height
    kept = coded(customers, layout)
    assert kept.ones.nbytes + kept.numbers.nbytes <= wide / 10
    assert peak_of(lambda: coded(customers, layout)) <= wide / 5
    assert wide <= peak_of(lambda: encode(customers, DEMO, layout)) <= 1.5 * wide
