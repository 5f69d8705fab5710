"""Customers from transactions: a slow reference, and the laws of windows, bounds and cancellations."""

import math
import random
import runpy
from collections.abc import Sequence
from datetime import date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from fedmarket.contract.check import check_table
from fedmarket.contract.layout import layout_of
from fedmarket.contract.schema import Contract
from fedmarket.contract.transactions import TARGETS, TransactionTerms, columns_of, value_of
from fedmarket.data.encode import encode
from fedmarket.data.transactions import customers_of, customers_with_counts
from fedmarket.errors import ContractViolation, TableError

slow_customers = runpy.run_path(str(Path(__file__).with_name("slow_customers.py")))["slow_customers"]

SECRET = "987654321.5"
BASE: dict[str, Any] = {
    "customer": "id",
    "time": "time",
    "time_format": "%Y-%m-%d %H:%M",
    "amount": "price",
    "amount_is": "total",
    "currency": "EUR",
    "seasonality": "quarter",
    "start": "2020-01-10",
    "cut": "2020-03-10",
    "end": "2020-05-10",
    "max_transactions": 3,
    "max_amount": 50.0,
    "max_value": 80.0,
    "typical_value": 20.0,
}
ORDERS = {"order": "order"}
PRICES = {"amount_is": "unit-price", "quantity": "items"}
CATEGORY = {"category": {"column": "kind", "vocabulary": ["book", "disc"]}}
NEGATIVE = {"kind": "negative", "treatment": "net"}
PREFIX = {"kind": "prefix", "column": "order", "prefix": "C", "treatment": "net"}
COLUMNS = ("id", "time", "price", "items", "order", "kind")

Line = tuple[str, str, str, str, str, str | None]


def terms(*parts: dict[str, Any], **changed: Any) -> TransactionTerms:
    document = dict(BASE)
    for part in (*parts, changed):
        document |= part
    return TransactionTerms.model_validate(document)


def table_of(lines: Sequence[Line]) -> pl.DataFrame:
    return pl.DataFrame(lines, schema=dict.fromkeys(COLUMNS, pl.String), orient="row")


def line(
    customer: str = "a",
    when: str = "2020-02-01",
    price: float = 10,
    items: int = 1,
    order: str = "1",
    kind: str | None = "book",
) -> Line:
    return (customer, when if ":" in when else f"{when} 12:00", str(price), str(items), order, kind)


def row_of(lines: Sequence[Line], *parts: dict[str, Any], customer: str = "a", **changed: Any) -> dict[str, Any]:
    rows = customers_of(table_of(lines), terms(*parts, **changed)).to_dicts()
    return next(row for row in rows if row["id"] == customer)


def assert_same(found: pl.DataFrame, expected: list[dict[str, Any]]) -> None:
    assert found["id"].to_list() == [row["id"] for row in expected]
    for told, row in zip(found.to_dicts(), expected, strict=True):
        assert list(told) == list(row)
        for name, value in row.items():
            close = value if not isinstance(value, float) else pytest.approx(value, rel=1e-9, abs=1e-9)
            assert told[name] == close, name


DAYS = ["2020-01-09", "2020-01-10", "2020-01-11", "2020-02-29", "2020-03-09", "2020-03-10", "2020-05-09", "2020-05-10"]
LINES = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "c"]),
        st.builds("{} {}".format, st.sampled_from(DAYS), st.sampled_from(["00:00", "12:30", "23:59"])),
        st.sampled_from(["0", "0.1", "0.2", "19.99", "30", "70", "1e7"]),
        st.sampled_from(["0", "1", "3"]),
        st.sampled_from(["1", "2", "3", "C4", "C5"]),
        st.sampled_from(["book", "disc", "tape", "", None]),
    ),
    max_size=25,
)
SIGNS = st.lists(st.sampled_from([1, 1, 1, -1]), min_size=25, max_size=25)
TERMS = st.sampled_from(
    [
        terms(),
        terms(PRICES, CATEGORY, seasonality="none"),
        terms(ORDERS, CATEGORY),
        terms(ORDERS, PRICES, CATEGORY, cancellations=PREFIX),
        terms(cancellations=PREFIX),
        terms(cancellations=PREFIX | {"treatment": "drop"}, max_transactions=2),
        terms(PRICES, CATEGORY, cancellations=NEGATIVE),
        terms(ORDERS, cancellations=NEGATIVE),
        terms(ORDERS, PRICES, cancellations=NEGATIVE | {"treatment": "drop"}),
    ]
)


def signed(lines: Sequence[Line], signs: Sequence[int], made: TransactionTerms) -> list[Line]:
    """Some amounts turned below zero, where the terms have a rule for that."""
    if made.cancellations is None or made.cancellations.kind == "prefix":
        return list(lines)
    turned = [str(sign * float(one[2])) for one, sign in zip(lines, signs, strict=False)]
    return [(*one[:2], price, *one[3:]) for one, price in zip(lines, turned, strict=True)]


@given(lines=LINES, signs=SIGNS, made=TERMS)
def test_customers_are_those_of_the_slow_reference(lines: list[Line], signs: list[int], made: TransactionTerms):
    lines = signed(lines, signs, made)
    assert_same(customers_of(table_of(lines), made), slow_customers(lines, made))


@given(lines=LINES, signs=SIGNS, made=TERMS, shuffler=st.randoms(use_true_random=False))
def test_the_order_of_lines_is_of_no_consequence(
    lines: list[Line], signs: list[int], made: TransactionTerms, shuffler: random.Random
):
    lines = signed(lines, signs, made)
    shuffled = shuffler.sample(lines, len(lines))
    one, other = (customers_with_counts(table_of(some), made) for some in (lines, shuffled))
    assert_frame_equal(one.table, other.table, check_exact=True)
    assert one.counts == other.counts


@given(lines=LINES, signs=SIGNS, made=TERMS)
def test_a_customers_row_depends_on_no_other_customers_lines(
    lines: list[Line], signs: list[int], made: TransactionTerms
):
    lines = signed(lines, signs, made)
    together = customers_of(table_of(lines), made)
    for name in ("a", "b", "c"):
        alone = customers_of(table_of([one for one in lines if one[0] == name]), made)
        assert_frame_equal(together.filter(pl.col("id") == name), alone, check_exact=True)


@given(lines=LINES, signs=SIGNS, made=TERMS)
def test_every_feature_and_target_is_within_its_public_bounds(
    lines: list[Line], signs: list[int], made: TransactionTerms
):
    table = customers_of(table_of(signed(lines, signs, made)), made)
    columns = columns_of(made)
    assert table.columns == ["id", *(column.name for column in columns), *TARGETS]
    for column in columns:
        assert table[column.name].drop_nulls().is_between(column.lower, column.upper).all()
    assert table["future_spend"].is_between(0, made.max_value).all()
    assert (table["bought_again"] == (table["future_spend"] > 0)).all()


@given(lines=LINES, signs=SIGNS, made=TERMS)
def test_every_line_is_counted_once(lines: list[Line], signs: list[int], made: TransactionTerms):
    found = customers_with_counts(table_of(signed(lines, signs, made)), made)
    counts = found.counts
    windows = counts.calibration + counts.prediction
    assert counts.lines == len(lines) == counts.before_start + counts.after_end + windows
    assert len({one[0] for one in lines}) == counts.customers + counts.only_later + counts.without_purchase
    assert counts.transactions - counts.over_limit == found.table["transactions"].sum()


@given(lines=LINES, extra=LINES, made=TERMS)
def test_what_happens_from_the_cut_on_touches_no_feature(lines: list[Line], extra: list[Line], made: TransactionTerms):
    later = [one for one in extra if one[1] >= made.cut.isoformat()]
    one, other = (customers_of(table_of(some), made).drop(TARGETS) for some in (lines, lines + later))
    assert_frame_equal(one, other, check_exact=True)


def test_windows_are_half_open_to_the_minute():
    times = ["2020-01-09 23:59", "2020-01-10 00:00", "2020-03-09 23:59", "2020-03-10 00:00", "2020-05-09 23:59"]
    lines = [line(when=when, price=10 + place) for place, when in enumerate([*times, "2020-05-10 00:00"])]
    found = customers_with_counts(table_of(lines), terms())
    assert found.table["total_spend"].to_list() == [11 + 12]
    assert found.table["future_spend"].to_list() == [13 + 14]
    assert (found.counts.before_start, found.counts.after_end) == (1, 1)
    assert found.table["tenure_days"].to_list() == [59]
    assert found.table["days_since_last"].to_list() == [0]


def test_the_latest_purchases_are_kept_and_the_larger_of_those_at_one_time():
    lines = [line(when=f"2020-02-0{day}", price=day) for day in (1, 2, 3, 4)]
    assert row_of(lines)["total_spend"] == 2 + 3 + 4
    lines = [line(when="2020-02-02", price=price) for price in (5, 9, 7, 8)] + [line(when="2020-02-01", price=50)]
    assert row_of(lines)["total_spend"] == 9 + 8 + 7
    assert row_of(lines)["last_spend"] == 9
    later_words = [line(kind=kind) for kind in ("book", "book", "disc", "tape")]
    assert {name: row_of(later_words, CATEGORY)[f"kind:{name}"] for name in ("book", "disc", "(other)")} == {
        "book": 1,
        "disc": 1,
        "(other)": 1,
    }


def test_each_amount_is_clipped_and_the_target_once():
    lines = [line(price=1e300), line(price=3), line(when="2020-04-01", price=70), line(when="2020-04-02", price=70)]
    row = row_of(lines)
    assert (row["total_spend"], row["last_spend"], row["future_spend"]) == (53, 50, 80)
    found = customers_with_counts(table_of(lines), terms())
    assert (found.counts.clipped_amounts, found.counts.clipped_values) == (1, 1)
    assert found.spent.tolist() == [140]


@given(lines=LINES, signs=SIGNS, made=TERMS)
def test_what_was_really_spent_is_the_target_before_it_is_clipped(
    lines: list[Line], signs: list[int], made: TransactionTerms
):
    found = customers_with_counts(table_of(signed(lines, signs, made)), made)
    unbound = customers_of(table_of(signed(lines, signs, made)), made.model_copy(update={"max_value": 1e12}))
    assert found.spent.tolist() == unbound["future_spend"].to_list()
    assert np.minimum(found.spent, made.max_value).tolist() == found.table["future_spend"].to_list()
    assert found.first_days.shape == found.spent.shape == (found.table.height,)


def test_the_first_day_is_that_of_the_first_purchase_that_stands_and_no_line_limit_moves_it():
    lines = [line(when=f"2020-02-0{day}", price=day) for day in (2, 3, 4, 5)] + [line("b", when="2020-03-01")]
    taken_back = [line(when="2020-01-12", price=7), line(when="2020-01-13", price=-7), line(when="2020-01-01")]
    found = customers_with_counts(table_of(lines + taken_back), terms(cancellations=NEGATIVE))
    assert found.first_days.astype(str).tolist() == ["2020-02-02", "2020-03-01"]
    assert found.table["tenure_days"].to_list() == [35, 8]


def test_lines_of_an_order_are_one_transaction_and_without_orders_each_is_one():
    lines = [line(price=4), line(price=5, kind="disc"), line(price=6, order="2", when="2020-02-03")]
    merged = row_of(lines, ORDERS, CATEGORY)
    assert (merged["transactions"], merged["average_spend"], merged["kind:book"], merged["kind:disc"]) == (2, 7.5, 2, 1)
    assert row_of(lines)["transactions"] == 3


def test_purchases_on_one_day_are_no_repeat():
    row = row_of([line(when="2020-02-01 08:00"), line(when="2020-02-01 20:00")])
    assert (row["transactions"], row["frequency"], row["recency_days"]) == (2, 0, 0)
    assert row["gap_mean_days"] is row["gap_std_days"] is None


def test_a_cancellation_takes_back_the_latest_purchases_that_came_before_it():
    lines = [
        line(when="2020-02-01", price=10),
        line(when="2020-02-02", price=20),
        line(when="2020-02-03", price=-25),
        line(when="2020-02-04", price=8),
    ]
    netted, dropped = (row_of(lines, cancellations=NEGATIVE | {"treatment": how}) for how in ("net", "drop"))
    assert (netted["total_spend"], netted["transactions"], netted["recency_days"]) == (5 + 8, 2, 3)
    assert (dropped["total_spend"], dropped["transactions"]) == (38, 3)


def test_amounts_are_netted_before_they_are_clipped():
    assert row_of([line(price=90), line(price=-60)], cancellations=NEGATIVE)["total_spend"] == 30


def test_a_customer_who_cancels_everything_has_no_row_and_is_counted():
    lines = [line(price=0.1), line(price=0.2), line(when="2020-02-02", price=-0.3), line("b", price=5)]
    found = customers_with_counts(table_of(lines), terms(cancellations=NEGATIVE))
    assert found.table["id"].to_list() == ["b"]
    assert (found.counts.cancelled, found.counts.unmatched_cancellations, found.counts.without_purchase) == (1, 0, 1)


def test_a_cancellation_reaches_neither_over_the_cut_nor_forward():
    lines = [
        line(when="2020-02-01", price=-5),
        line(when="2020-02-02", price=10),
        line(when="2020-03-10", price=-10),
        line(when="2020-03-11", price=7),
    ]
    row = row_of(lines, cancellations=NEGATIVE)
    assert (row["total_spend"], row["future_spend"]) == (10, 7)
    assert customers_with_counts(table_of(lines), terms(cancellations=NEGATIVE)).counts.unmatched_cancellations == 2


def test_a_free_purchase_is_a_purchase_but_not_a_spend():
    row = row_of([line(price=0), line(when="2020-02-05", price=0), line(when="2020-04-01", price=0)])
    assert (row["frequency"], row["total_spend"], row["bought_again"]) == (1, 0, False)
    assert row["spend_share_q1"] is None


def test_a_customer_of_the_prediction_window_alone_has_no_row_and_is_counted():
    found = customers_with_counts(table_of([line(when="2020-04-01")]), terms())
    assert found.table.height == 0
    assert found.table.columns == ["id", *(column.name for column in columns_of(terms())), *TARGETS]
    assert found.counts.only_later == 1


def test_an_empty_table_gives_no_rows():
    assert customers_of(table_of([]), terms(ORDERS, PRICES, CATEGORY, cancellations=PREFIX)).height == 0


def test_duplicates_are_lines_alike_in_every_column_and_dropped_only_where_the_terms_say_so():
    lines = [line(price=4), line(price=4), line(price=4, kind="disc")]
    assert row_of(lines)["total_spend"] == 12
    assert row_of(lines, duplicates="drop")["total_spend"] == 8
    assert customers_with_counts(table_of(lines), terms(duplicates="drop")).counts.duplicates == 1


def test_lines_without_a_customer_are_refused_or_dropped_whatever_else_they_hold():
    lines = [line(), line(""), line("", price="x"), line("", when="never")]
    with pytest.raises(ContractViolation, match="'id': 3 lines without a customer"):
        customers_of(table_of(lines), terms())
    found = customers_with_counts(table_of(lines), terms(without_customer="drop"))
    assert (found.table.height, found.counts.without_customer, found.counts.lines) == (1, 3, 4)
    floats = pl.DataFrame({"id": [1.0, math.nan], "time": [date(2020, 2, 1)] * 2, "price": [1.0, 2.0]})
    assert customers_of(floats, terms(without_customer="drop"))["id"].to_list() == ["1.0"]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"when": f"{SECRET}:"}, "time column 'time': 1 values are not times of the form '%Y-%m-%d %H:%M'"),
        ({"when": "2020-02-30 12:00"}, "time column 'time': 1 values are not times"),
        ({"price": f"x{SECRET}"}, "column 'price': expected numbers, 1 values are not"),
        ({"price": ""}, "column 'price': 1 values are missing"),
        ({"price": "nan"}, "column 'price': 1 values are NaN"),
        ({"price": "-inf"}, "column 'price': 1 values are infinite"),
        ({"items": "inf"}, "column 'items': 1 values are infinite"),
        ({"price": f"-{SECRET}"}, "column 'price': 1 lines are below zero, but no rule makes them cancellations"),
        ({"items": "-1"}, "column 'price': 1 lines are below zero"),
        ({"order": ""}, "order column 'order': 1 values are missing"),
    ],
)
def test_a_bad_cell_is_counted_by_column_and_never_told(changed: dict[str, Any], said: str):
    with pytest.raises(ContractViolation) as caught:
        customers_of(table_of([line(), line(**changed)]), terms(ORDERS, PRICES), source="party 7")
    assert any(rule.startswith(said) for rule in caught.value.broken), caught.value.broken
    assert str(caught.value).startswith("party 7: ")
    assert "987654321" not in "".join(caught.value.broken)


def test_all_broken_rules_come_at_once():
    lines = [line(""), line(price="x"), line(when="0:0"), line(price="nan")]
    with pytest.raises(ContractViolation) as caught:
        customers_of(table_of(lines), terms())
    assert len(caught.value.broken) == 4
    with pytest.raises(ContractViolation) as caught:
        customers_of(table_of(lines).drop("price", "time"), terms())
    assert caught.value.broken == ("column 'time': missing", "column 'price': missing")


def test_columns_of_the_wrong_kind_are_named():
    table = pl.DataFrame({"id": [[1]], "time": [True], "price": [date(2020, 2, 1)]})
    with pytest.raises(ContractViolation) as caught:
        customers_of(table, terms())
    assert caught.value.broken == (
        "column 'id': expected words, got List",
        "time column 'time': expected times, got Boolean",
        "column 'price': expected numbers, got Date",
    )


def test_times_may_be_texts_whole_numbers_dates_clocks_or_seconds():
    when = datetime(2020, 2, 29)
    clock = pl.Series([when])
    unix = int((when - datetime(1970, 1, 1)).total_seconds())
    for times, said in (
        (pl.Series(["29.02.2020"]), "%d.%m.%Y"),
        (pl.Series([20200229]), "%Y%m%d"),
        (clock, "%F"),
        (clock.cast(pl.Date), "%F"),
        (clock.cast(pl.Datetime("ns")), "%F"),
        (clock.dt.replace_time_zone("Europe/Berlin"), "%F"),
        (pl.Series([unix]), "unix-seconds"),
        (pl.Series([str(unix)]), "unix-seconds"),
        (pl.Series([unix * 1000]), "unix-milliseconds"),
        (pl.Series(["2020-02-29 00:00"]), "%F %R"),
        (pl.Series(["2020-02-29T00:00:00.123"]), "%FT%T%.f"),
        (pl.Series(["29 Feb 2020 12:00:00 AM"]), "%d %b %Y %I:%M:%S %p"),
    ):
        table = pl.DataFrame({"id": [1], "time": times, "price": [1]})
        assert customers_of(table, terms(time_format=said))["days_since_last"].to_list() == [9], said
    with pytest.raises(ContractViolation, match="1 values are not times of the form 'unix-seconds'"):
        customers_of(table.with_columns(time=pl.lit(1e300)), terms(time_format="unix-seconds"))


def test_a_lazy_file_is_read_for_the_columns_that_the_terms_name(tmp_path: Path):
    table = table_of([line(), line(when="2020-02-03")])
    table.write_parquet(tmp_path / "t.parquet")
    assert_frame_equal(customers_of(pl.scan_parquet(tmp_path / "t.parquet"), terms()), customers_of(table, terms()))


def test_an_error_of_a_lazy_file_tells_no_cell(tmp_path: Path):
    (tmp_path / "t.csv").write_text(f"id,time,price\na,2020-02-01 00:00,1\na,2020-02-01 00:00,x{SECRET}\n")
    scan = pl.scan_csv(tmp_path / "t.csv", schema_overrides={"price": pl.Float64})
    with pytest.raises(TableError, match=r"^shop: cannot be read as a table$") as caught:
        customers_of(scan, terms(), source="shop")
    assert caught.value.__suppress_context__
    with pytest.raises(TableError, match="shop: cannot be read as a table"):
        customers_of(pl.scan_csv(tmp_path / "none.csv"), terms(), source="shop")


def test_customers_keep_the_contract_of_their_columns_and_are_encoded():
    lines = [line(name, when=f"2020-0{month}-01") for name, month in (("a", 2), ("a", 3), ("a", 4), ("b", 3))]
    made = terms(CATEGORY)
    contract = Contract.model_validate(
        {
            "format": "fedmarket-contract/1",
            "name": "ltv",
            "task": "ltv",
            "minimum_parties": 1,
            "value": value_of(made),
            "privacy": {"unit": "column:id", "adjacency": "add-or-remove-one", "delta": 1e-5},
            "transactions": made,
            "columns": columns_of(made),
        }
    )
    table = customers_of(table_of(lines), made)
    profile = check_table(table, contract, source="party")
    assert (profile.rows, profile.buyers, profile.ignored) == (2, 1, ())
    encoded = encode(table, contract, layout_of(contract, binning=True))
    assert encoded.targets is not None
    assert encoded.targets.tolist() == [[10], [0]]
    first_time = customers_of(table_of([line("a"), line("b")]), made)
    assert first_time["gap_mean_days"].null_count() == 2
    assert check_table(first_time, contract, source="nobody came back yet").buyers == 0
