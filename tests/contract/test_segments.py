"""Segments are cells of a public grid of cuts, named in words, and part of what parties agree on."""

from typing import Any

import pytest

from fedmarket.contract.schema import Contract
from fedmarket.contract.segments import MOST_SEGMENTS, SegmentAxis, segment_count, segment_names
from fedmarket.documents import parse_document
from fedmarket.errors import ConfigError

NUMERIC = {"kind": "numeric", "lower": 0, "upper": 100}
DOCUMENT: dict[str, Any] = {
    "format": "fedmarket-contract/1",
    "name": "test",
    "task": "ltv",
    "minimum_parties": 2,
    "value": {"column": "spend", "currency": "EUR", "upper": 100, "typical": 30},
    "privacy": {"unit": "column:id", "adjacency": "add-or-remove-one", "delta": 1e-5},
    "segments": [{"column": "days", "cuts": [30, 90]}, {"column": "orders", "cuts": [2]}],
    "columns": [
        NUMERIC | {"name": "days"},
        NUMERIC | {"name": "orders"},
        {"name": "town", "kind": "category", "vocabulary": ["Oslo"]},
    ],
}


def contract(**changed: Any) -> Contract:
    return parse_document(Contract, DOCUMENT | changed, source="contract")


def axes_of(*tiers: int) -> list[dict[str, Any]]:
    return [{"column": f"c{place}", "cuts": list(range(1, count))} for place, count in enumerate(tiers)]


def test_the_last_axis_runs_fastest():
    axes = contract().segments
    assert axes is not None
    assert segment_count(axes) == 6
    assert segment_names(axes) == (
        ("days below 30", "orders below 2"),
        ("days below 30", "orders 2 or more"),
        ("days 30 to below 90", "orders below 2"),
        ("days 30 to below 90", "orders 2 or more"),
        ("days 90 or more", "orders below 2"),
        ("days 90 or more", "orders 2 or more"),
    )


def test_without_axes_there_is_no_segment():
    assert segment_count(None) == segment_count(()) == 0
    assert contract(segments=None).segments is None


def test_cuts_are_told_as_short_as_they_are():
    assert SegmentAxis(column="a", cuts=(0.5, 1e6)).tiers == ("a below 0.5", "a 0.5 to below 1e+06", "a 1e+06 or more")


def test_as_many_segments_as_noise_allows_and_no_more():
    for tiers, fits in (((8, 8), True), ((64,), True), ((65,), False), ((13, 5), False), ((2, 4, 9), False)):
        axes = axes_of(*tiers)
        columns = [NUMERIC | {"name": axis["column"]} for axis in axes]
        if fits:
            assert segment_count(contract(segments=axes, columns=columns).segments) == MOST_SEGMENTS
        else:
            with pytest.raises(ConfigError, match=r"segments: expected at most 64 in all, got \d\d$"):
                contract(segments=axes, columns=columns)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"segments": []}, "segments: .* at least 1 item"),
        ({"segments": [{"column": "days", "cuts": []}]}, r"segments\.0\.cuts: .* at least 1 item"),
        ({"segments": [{"column": "days"}]}, r"segments\.0\.cuts: missing"),
        ({"segments": [{"column": "days", "cuts": [1], "name": "x"}]}, r"segments\.0\.name: unknown key"),
        ({"segments": [{"column": "days", "cuts": [90, 30]}]}, "cuts must rise strictly in segments of column 'days'"),
        ({"segments": [{"column": "days", "cuts": [30, 30]}]}, "cuts must rise strictly in segments of column 'days'"),
        ({"segments": [{"column": "days", "cuts": [float("nan")]}]}, r"segments\.0\.cuts\.0: .*finite"),
        ({"segments": [{"column": "days", "cuts": [float("inf")]}]}, r"segments\.0\.cuts\.0: .*finite"),
        ({"segments": [{"column": "days", "cuts": ["30"]}]}, r"segments\.0\.cuts\.0: .*number"),
        ({"segments": [{"column": "town", "cuts": [1]}]}, "segments: 'town' is no numeric column of the contract"),
        ({"segments": [{"column": "spend", "cuts": [1]}]}, "segments: 'spend' is no numeric column of the contract"),
        ({"segments": [{"column": "none", "cuts": [1]}]}, "segments: 'none' is no numeric column of the contract"),
        (
            {"segments": [{"column": "days", "cuts": [1]}, {"column": "days", "cuts": [2]}]},
            "segments: a column is used twice",
        ),
        (
            {"task": "propensity", "value": None, "label": {"column": "y", "positive": "1", "negative": "0"}},
            "segments: are for contracts with a value, got task = 'propensity'",
        ),
    ],
)
def test_a_broken_rule_is_told_in_one_line(changed: dict[str, Any], said: str):
    with pytest.raises(ConfigError, match=f"^contract: .*{said}") as caught:
        contract(**changed)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "segments",
    [
        None,
        [{"column": "days", "cuts": [30, 90]}],
        [{"column": "days", "cuts": [30, 91]}, {"column": "orders", "cuts": [2]}],
        [{"column": "orders", "cuts": [2]}, {"column": "days", "cuts": [30, 90]}],
        [{"column": "days", "cuts": [30, 90]}, {"column": "orders", "cuts": [2, 3]}],
    ],
)
def test_other_segments_are_another_contract(segments: list[dict[str, Any]] | None):
    assert contract(segments=segments).hash != contract().hash


def test_a_unit_of_the_logarithm_is_part_of_the_contract_and_its_absence_changes_no_hash():
    plain = contract()
    hashes = {plain.hash}
    for unit in (None, 0.5, 1.0):
        first, *rest = DOCUMENT["columns"]
        hashes.add(contract(columns=[first | {"log_unit": unit}, *rest]).hash)
    assert len(hashes) == 3  # None says what silence says


@pytest.mark.parametrize("unit", [0, -1, float("nan"), float("inf"), "1"])
def test_a_unit_of_the_logarithm_is_above_zero(unit: Any):
    first, *rest = DOCUMENT["columns"]
    with pytest.raises(ConfigError, match=r"^contract: columns\.0\.numeric\.log_unit: "):
        contract(columns=[first | {"log_unit": unit}, *rest])
