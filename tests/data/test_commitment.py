"""One form for each row, whatever its source and order; and a split that depends on each customer alone."""

import gzip
import hashlib
import hmac
import json
import math
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from fedmarket.contract.cells import numbers, words
from fedmarket.contract.check import check_table
from fedmarket.contract.schema import Contract
from fedmarket.contract.transactions import TransactionTerms, columns_of, value_of
from fedmarket.data import commitment
from fedmarket.data.commitment import canonical_lines, contents_hash, held_out, units_of
from fedmarket.data.sources import FileSource, read_source
from fedmarket.data.transactions import customers_of
from fedmarket.errors import DataError, UsageError
from fedmarket.ledger.canonical import canonical, decimal

KEY = bytes(range(32))

PROPENSITY = {
    "format": "fedmarket-contract/1",
    "name": "four sources",
    "task": "propensity",
    "minimum_parties": 2,
    "label": {"column": "y", "positive": "true", "negative": "false"},
    "privacy": {"unit": "column:id", "adjacency": "add-or-remove-one", "delta": 1e-5},
    "columns": [
        {"name": "age", "kind": "numeric", "lower": 0, "upper": 120},
        {"name": "balance", "kind": "numeric", "lower": -1e9, "upper": 1e9, "missing_codes": [999]},
        {"name": "job", "kind": "category", "vocabulary": ["admin.", "ñandú", '"quoted"']},
        {"name": "member", "kind": "category", "vocabulary": ["true", "false"]},
    ],
}
VALUE = {
    "task": "ltv",
    "label": None,
    "value": {"column": "spend", "currency": "EUR", "upper": 500, "typical": 50},
}
LINES = {
    "format": "fedmarket-contract/1",
    "name": "four sources of lines",
    "task": "ltv",
    "minimum_parties": 2,
    "privacy": {"unit": "column:id", "adjacency": "add-or-remove-one", "delta": 1e-5},
    "transactions": {
        **{"customer": "id", "time": "at", "time_format": "%Y-%m-%d %H:%M:%S", "amount": "price", "quantity": "items"},
        **{"amount_is": "unit-price", "currency": "EUR", "order": "invoice", "start": "2024-01-01"},
        **{"cut": "2024-07-01", "end": "2025-01-01", "max_transactions": 30, "max_amount": 500, "max_value": 2000},
        **{"typical_value": 60, "without_customer": "drop", "seasonality": "quarter"},
        **{"category": {"column": "shop", "vocabulary": ["a", "b"]}},
        **{"cancellations": {"kind": "prefix", "column": "invoice", "prefix": "C", "treatment": "net"}},
    },
}


def contract_of(document: dict[str, Any]) -> Contract:
    if "transactions" in document:
        terms = TransactionTerms.model_validate(document["transactions"])
        document = document | {"transactions": terms, "columns": columns_of(terms), "value": value_of(terms)}
    return Contract.model_validate(document)


def customers() -> pl.DataFrame:
    """Rows as parquet would hold them: whole numbers, decimals, truth values, odd words, what is missing."""
    jobs = ["admin.", "ñandú", '"quoted"', "a,b;\n\t\\", None, "other"]
    return pl.DataFrame(
        {
            "age": [None if number % 7 == 0 else number % 90 for number in range(60)],
            "balance": pl.Series([f"{number * 37 % 1000 - 300}.{number:02}" for number in range(60)]).str.to_decimal(
                scale=2
            ),
            "job": [jobs[number % 6] for number in range(60)],
            "member": [None if number % 11 == 0 else number % 3 == 0 for number in range(60)],
            "id": [1_000_000_000_000 + number // 2 for number in range(60)],
            "y": [number % 4 == 0 for number in range(60)],
            "spend": pl.Series([number / 8 for number in range(60)], dtype=pl.Float32),
            "unused": range(60),
        }
    )


def lines() -> pl.DataFrame:
    start = datetime(2023, 12, 1, 8, 30)
    return pl.DataFrame(
        {
            "id": [None if number % 10 == 0 else number % 9 for number in range(80)],
            "at": [start + timedelta(days=4 * number, seconds=number) for number in range(80)],
            "price": pl.Series([f"{number % 20}.{number % 10}0" for number in range(80)]).str.to_decimal(scale=2),
            "items": [1 + number % 3 for number in range(80)],
            "invoice": [f"C{number // 2}" if number % 9 == 0 else str(number // 2) for number in range(80)],
            "shop": [("a", "b", "c", None)[number % 4] for number in range(80)],
        }
    )


def everywhere(server: Any, folder: Path, table: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """The table through each source, in another order each time."""
    shuffled = [table.sample(fraction=1, shuffle=True, seed=seed) for seed in range(4)]
    told = shuffled[0].write_csv(datetime_format="%Y-%m-%d %H:%M:%S").encode()
    (folder / "t.csv").write_bytes(told)
    more = shuffled[1].write_csv(datetime_format="%Y-%m-%d %H:%M:%S", separator=";", quote_style="always").encode()
    (folder / "t.csv.gz").write_bytes(gzip.compress(more))
    shuffled[2].write_parquet(folder / "t.parquet")
    names = ("t.csv", "t.csv.gz", "t.parquet")
    read = {name: read_source(FileSource(kind="file", path=name), folder=folder, most_rows=100) for name in names}
    server.keep("same", shuffled[3])
    return read | {"postgresql": server.read("select * from same")}


@pytest.mark.parametrize(
    ("document", "table"),
    [(PROPENSITY, customers()), (PROPENSITY | VALUE, customers()), (LINES, lines())],
    ids=["propensity", "value", "transactions"],
)
def test_the_commitment_and_the_split_are_the_same_whatever_the_source(
    server: Any, tmp_path: Path, document: dict[str, Any], table: pl.DataFrame
):
    contract = contract_of(document)
    read = everywhere(server, tmp_path, table)
    hashes, splits, made = set(), set(), set()
    for rows in read.values():
        said = canonical_lines(rows, contract)
        out = held_out(units_of(rows, contract), share=0.3, key=b"k" * 32)
        sides = [[line for line, held in zip(said, out, strict=True) if held is side] for side in (True, False)]
        hashes.add(contents_hash(said))
        splits.add(tuple(contents_hash(side) for side in sides))
        if contract.transactions is None:
            check_table(rows, contract, source="rows")
        else:
            people = customers_of(rows, contract.transactions)
            made.add(contents_hash(canonical_lines(people, contract.model_copy(update={"transactions": None}))))
            # Who is held out is the same of customers as of their lines.
            whole = dict(zip(units_of(rows, contract), out, strict=True))
            units = units_of(people, contract)
            assert held_out(units, share=0.3, key=b"k" * 32).tolist() == [whole[unit] for unit in units]
    assert len(read) == 4
    assert len(hashes) == len(splits) == 1
    assert len(made) == (contract.transactions is not None)
    changed = table.with_row_index().with_columns(
        pl.when(pl.col("index") > 0).then(pl.col("id")).otherwise(5).alias("id")
    )
    assert contents_hash(canonical_lines(changed, contract)) not in hashes


# Cells ------------------------------------------------------------------------------------------------------------


def small(unit: str = "row", **changed: Any) -> Contract:
    columns = [
        {"name": "n", "kind": "numeric", "lower": -1, "upper": 1, "missing_codes": [999]},
        {"name": "w", "kind": "category", "vocabulary": ["a"]},
    ]
    document = PROPENSITY | {"columns": columns, "privacy": PROPENSITY["privacy"] | {"unit": unit}} | changed
    return contract_of(document)


def line_of(n: Any, w: Any, y: Any = "yes") -> Any:
    (line,) = canonical_lines(pl.DataFrame({"n": [n], "w": [w], "y": [y]}, strict=False), small())
    return json.loads(line)


@pytest.mark.parametrize("cell", ["1", "1.0", "1.00", "+1", "1e0", 1, 1.0, np.float32(1)])
def test_a_number_is_one_number_however_it_is_written(cell: Any):
    assert line_of(cell, "a") == ["1.0", "a", "yes"]


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        (None, None),
        ("", None),
        ("0", "0.0"),
        ("-0", "0.0"),
        (-0.0, "0.0"),
        ("999", "999.0"),
        (2**53 + 1, "9007199254740992.0"),
        ("9007199254740993", "9007199254740992.0"),
        (1e16, "1e+16"),
        ("0.00001", "1e-05"),
        (0.1 + 0.2, "0.30000000000000004"),
        ("NaN", "nan"),
        (math.nan, "nan"),
        ("-Infinity", "-inf"),
        ("two", "two"),
        (True, "true"),
    ],
)
def test_a_numeric_cell_is_the_shortest_decimal_or_stays_text(cell: Any, said: str | None):
    assert line_of(cell, "a")[0] == said


@given(st.lists(st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False)), min_size=1, max_size=40))
def test_numbers_are_the_ledgers_decimals_from_text_and_from_floats(cells: list[float | None]):
    table = pl.DataFrame({"n": pl.Series(cells, dtype=pl.Float64), "w": "a", "y": "yes"})
    as_text = table.with_columns(pl.Series("n", [None if cell is None else f"{cell:.17g}" for cell in cells]))
    expected = [canonical([None if cell is None else decimal(cell), "a", "yes"]) for cell in cells]
    assert canonical_lines(table, small()) == expected
    assert canonical_lines(as_text, small()) == expected


@given(st.lists(st.one_of(st.none(), st.text()), min_size=1, max_size=20))
def test_words_are_those_of_the_contract_in_the_ledgers_json(cells: list[str | None]):
    table = pl.DataFrame({"n": [1] * len(cells), "w": pl.Series(cells, dtype=pl.String), "y": "yes"})
    expected = [canonical(["1.0", word, "yes"]) for word in words(table["w"]).to_list()]
    assert canonical_lines(table, small()) == expected
    assert not any(b"\n" in line for line in expected)


NUMBERS = st.sampled_from(["1", "1.0", "2", "x", "", "nan"])
ROWS = st.lists(st.tuples(NUMBERS, st.text(max_size=3), st.sampled_from("01")), max_size=9)


def table_of(rows: list[tuple[str, str, str]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=dict.fromkeys("nwy", pl.String), orient="row")


def readings(table: pl.DataFrame) -> list[Any]:
    """The rows as the contract reads them, in order of their text; NaN, which equals nothing, by its name."""
    plain = table.with_columns(words(table["w"]), words(table["n"]).alias("n"))
    said = numbers(table["n"]).to_list()
    read = [
        (str(number) if number is not None else row[0], *row[1:])
        for number, row in zip(said, plain.rows(), strict=True)
    ]
    return sorted(read, key=repr)


@given(ROWS, st.randoms(use_true_random=False))
def test_the_hash_does_not_depend_on_the_order(rows: list[tuple[str, str, str]], shuffle: Any):
    lines = canonical_lines(table_of(rows), small())
    again = shuffle.sample(lines, len(lines))
    assert contents_hash(again) == contents_hash(lines)


@given(ROWS, ROWS)
def test_the_hash_differs_exactly_where_the_contract_reads_other_rows(left: Any, right: Any):
    one, other = table_of(left), table_of(right)
    same = contents_hash(canonical_lines(one, small())) == contents_hash(canonical_lines(other, small()))
    assert same == (readings(one) == readings(other))


def test_the_hash_is_the_documented_one():
    table = pl.DataFrame(
        {"id": [7, 12], "n": ["1.50", None], "w": ['say "a"', "b"], "y": ["yes", "no"], "more": [1, 2]}
    )
    lines = canonical_lines(table, small("column:id"))
    assert lines == [b'["7","1.5","say \\"a\\"","yes"]', b'["12",null,"b","no"]']
    content = b"fedmarket rows/1\n2\n" + lines[1] + b"\n" + lines[0] + b"\n"
    assert contents_hash(lines) == hashlib.sha256(content).hexdigest()
    assert contents_hash(lines) == "10c4f80aaaa4309a19ab74262205aefd33e08a0bda8f59c7c58e40e2e4d83105"
    assert contents_hash([]) == hashlib.sha256(b"fedmarket rows/1\n0\n").hexdigest()
    assert contents_hash(lines) != contents_hash([*lines, lines[0]])


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch):
    whole = canonical_lines(customers(), contract_of(PROPENSITY))
    monkeypatch.setattr(commitment, "_BLOCK", 7)
    assert canonical_lines(customers(), contract_of(PROPENSITY)) == whole


def test_times_have_one_form():
    days = pl.Series([date(2024, 1, 31)])
    moments = (
        (pl.Series(["2024-01-31 00:00:00"]), {}),
        (days, {}),
        (days.cast(pl.Datetime("ms")), {}),
        (days.cast(pl.Datetime("us")).dt.replace_time_zone("UTC"), {}),
        (pl.Series(["31/01/2024 12:00 AM"]), {"time_format": "%d/%m/%Y %I:%M %p"}),
        (pl.Series([1_706_659_200]), {"time_format": "unix-seconds"}),
        (pl.Series(["1706659200000"]), {"time_format": "unix-milliseconds"}),
    )
    for cells, changed in moments:
        contract = contract_of(LINES | {"transactions": LINES["transactions"] | changed})
        (line,) = canonical_lines(lines()[:1].with_columns(cells.alias("at")), contract)
        assert json.loads(line)[1] == "2024-01-31T00:00:00.000000"
    (line,) = canonical_lines(lines()[:1].with_columns(pl.lit("soon").alias("at")), contract_of(LINES))
    assert json.loads(line)[1] == "soon"


def test_dropped_duplicates_never_were_there():
    contract = contract_of(LINES | {"transactions": LINES["transactions"] | {"duplicates": "drop"}})
    twice = pl.concat([lines(), lines()[:5]])
    assert canonical_lines(twice, contract) == canonical_lines(lines(), contract)
    assert units_of(twice, contract) == units_of(lines(), contract)
    assert len(canonical_lines(twice, contract_of(LINES))) == 85


def test_a_column_that_is_missing_or_no_cell_is_named():
    table = pl.DataFrame({"n": [1], "w": ["98765"], "y": ["yes"]})
    with pytest.raises(DataError, match=r"^column 'w': missing$"):
        canonical_lines(table.drop("w"), small())
    with pytest.raises(DataError, match=r"^column 'w': expected words or numbers, got List$"):
        canonical_lines(table.with_columns(pl.col("w").implode()), small())
    with pytest.raises(DataError, match=r"^column 'id': missing$"):
        units_of(table, small("column:id"))


# The split --------------------------------------------------------------------------------------------------------


def test_the_split_is_the_documented_one():
    units = [b'"7"', b'"12"', b"null"]
    drawn = [hmac.new(KEY, b"fedmarket held out/1\n" + unit, "sha256").digest()[:8] for unit in units]
    places = [int.from_bytes(one, "big") / 2**64 for one in drawn]
    for share in (0.1, 0.5, 0.9):
        assert held_out(units, share=share, key=KEY).tolist() == [place < share for place in places]


@given(st.lists(st.integers(0, 50), max_size=30), st.integers(0, 50))
def test_a_customer_more_moves_nobody_else(ids: list[int], new: int):
    def split(numbers_: list[int]) -> list[bool]:
        table = pl.DataFrame({"id": numbers_}, schema={"id": pl.Int64})
        return held_out(units_of(table, small("column:id")), share=0.4, key=KEY).tolist()

    before, after = split(ids), split([*ids, new])
    assert after[:-1] == before
    assert split(ids[::-1]) == before[::-1]
    assert all(after[-1] is side for one, side in zip(ids, before, strict=True) if one == new)


def test_where_each_row_is_a_customer_equal_rows_go_together():
    table = pl.DataFrame({"n": ["1", "1.0"] * 40, "w": "a", "y": ["yes", "yes", "no", "no"] * 20})
    units = units_of(table, small())
    assert units == canonical_lines(table, small())
    sides = held_out(units, share=0.5, key=KEY)
    assert len({(unit, bool(side)) for unit, side in zip(units, sides, strict=True)}) == 2


@pytest.mark.statistical
def test_about_the_share_is_held_out_and_another_key_holds_out_others():
    units = units_of(pl.DataFrame({"id": range(20_000)}), small("column:id"))
    one, other = (held_out(units, share=0.2, key=key) for key in (KEY, KEY[::-1]))
    assert binomtest(int(one.sum()), len(units), 0.2).pvalue > 1e-6
    assert binomtest(int(one.sum()), len(units), 0.22).pvalue < 1e-6
    # Independent of each other: 0.2 * 0.2 are in both.
    assert binomtest(int((one & other).sum()), len(units), 0.04).pvalue > 1e-6


def test_a_short_key_and_no_share_are_refused():
    with pytest.raises(UsageError, match="expected 32 bytes or more, got 31"):
        held_out([], share=0.5, key=bytes(31))
    for share in (0.0, 1.0, math.nan, -1.0):
        with pytest.raises(UsageError, match="expected a number between 0 and 1"):
            held_out([], share=share, key=KEY)
