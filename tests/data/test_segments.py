"""Every row is in one segment, by that row alone and by public cuts."""

from itertools import product
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmarket.contract.schema import Contract
from fedmarket.contract.segments import segment_count, segment_names
from fedmarket.data.segments import segments_of

CONTRACT = Contract.model_validate(
    {
        "format": "fedmarket-contract/1",
        "name": "test",
        "task": "ltv",
        "minimum_parties": 2,
        "value": {"column": "spend", "currency": "EUR", "upper": 100, "typical": 30},
        "privacy": {"unit": "row", "adjacency": "add-or-remove-one", "delta": 1e-5},
        "segments": [{"column": "days", "cuts": [30, 90]}, {"column": "orders", "cuts": [2]}],
        "columns": [
            {"name": "days", "kind": "numeric", "lower": -10, "upper": 365, "missing_codes": [999]},
            {"name": "orders", "kind": "numeric", "lower": 0, "upper": 50},
        ],
    }
)
DAYS = st.none() | st.just(999.0) | st.sampled_from([30.0, 90.0]) | st.floats(-10, 365)
ORDERS = st.none() | st.just(2.0) | st.floats(0, 50)


def numbered(days: list[Any], orders: list[Any]) -> list[int]:
    found = segments_of(pl.DataFrame({"days": days, "orders": orders}, strict=False), CONTRACT)
    assert found is not None
    assert found.dtype == np.int64
    return found.tolist()


def test_a_tier_begins_at_its_cut():
    days = [-10, 29.999, 30, 89.999, 90, 365]
    assert numbered(days, [0] * 6) == [0, 0, 2, 2, 4, 4]
    assert numbered([0] * 3, [1.999, 2, 50]) == [0, 1, 1]


@pytest.mark.parametrize("missing", [None, "", 999, "999"])
def test_a_missing_cell_counts_as_the_first_tier(missing: Any):
    assert numbered([missing, "100"], ["3", "3"]) == [1, 5]


def test_the_numbers_are_the_places_of_the_names():
    names = segment_names(CONTRACT.segments)
    for place, (days, orders) in enumerate(product([0, 30, 90], [0, 2])):
        (number,) = numbered([days], [orders])
        assert number == place
        assert names[number][0].startswith(("days below", "days 30 to", "days 90")[place // 2])
        assert names[number][1].startswith(("orders below", "orders 2 or")[place % 2])


@given(st.lists(st.tuples(DAYS, ORDERS), min_size=1, max_size=20))
def test_each_row_is_in_one_segment_alone_and_among_others(rows: list[tuple[float | None, float | None]]):
    together = numbered(*(list(column) for column in zip(*rows, strict=True)))
    assert all(0 <= number < segment_count(CONTRACT.segments) for number in together)
    assert np.bincount(together, minlength=6).sum() == len(rows)
    assert together == [numbered([days], [orders])[0] for days, orders in rows]


def test_a_contract_without_segments_numbers_none():
    plain = CONTRACT.model_copy(update={"segments": None})
    assert segments_of(pl.DataFrame({"days": [1], "orders": [1]}), plain) is None


def test_a_table_without_rows_has_no_numbers():
    empty = pl.DataFrame({"days": [], "orders": []}, schema={"days": pl.Float64, "orders": pl.Float64})
    found = segments_of(empty, CONTRACT)
    assert found is not None
    assert found.shape == (0,)
