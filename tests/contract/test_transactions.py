"""Terms for transactions: wrong keys are named in one line, and columns follow from the terms alone."""

import json
import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmarket.contract.layout import layout_of
from fedmarket.contract.schema import Contract
from fedmarket.contract.transactions import TransactionTerms, columns_of, value_of
from fedmarket.documents import parse_document
from fedmarket.errors import ConfigError

DOCUMENT = """
customer = "CustomerID"
time = "InvoiceDate"
time_format = "%Y-%m-%d %H:%M:%S"
amount = "UnitPrice"
amount_is = "unit-price"
currency = "GBP"
quantity = "Quantity"
order = "InvoiceNo"
without_customer = "drop"
seasonality = "quarter"
start = 2009-12-01
cut = "2011-06-10"
end = 2011-12-10
max_transactions = 100
max_amount = 5000
max_value = 20000.0
typical_value = 900
[category]
column = "Country"
vocabulary = ["United Kingdom", "France"]
[cancellations]
kind = "prefix"
column = "InvoiceNo"
prefix = "C"
treatment = "net"
"""


def terms(**changed: Any) -> TransactionTerms:
    document = {**tomllib.loads(DOCUMENT), **changed}
    document = {key: value for key, value in document.items() if value is not None}
    return parse_document(TransactionTerms, document, source="terms")


def test_a_document_is_read_with_dates_as_toml_writes_them_or_as_text():
    read = terms()
    assert (read.start.isoformat(), read.cut.isoformat(), read.calibration_days) == ("2009-12-01", "2011-06-10", 556)
    assert read.used_columns == ("CustomerID", "InvoiceDate", "UnitPrice", "Quantity", "InvoiceNo", "Country")


def test_a_document_survives_its_canonical_json():
    read = terms()
    assert TransactionTerms.model_validate(json.loads(json.dumps(read.model_dump(mode="json")))) == read


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"colour": 1}, "colour: unknown key"),
        ({"amount": None}, "amount: missing"),
        ({"max_transactions": None}, "max_transactions: missing"),
        ({"max_amount": None}, "max_amount: missing"),
        ({"max_value": None}, "max_value: missing"),
        ({"max_transactions": 1}, "max_transactions: .* greater than or equal to 2, got 1"),
        ({"max_transactions": 2.0}, "max_transactions: .*integer"),
        ({"max_amount": 0}, "max_amount: .* greater"),
        ({"max_amount": float("nan")}, "max_amount: "),
        ({"max_value": float("inf")}, "max_value: "),
        ({"max_value": "9"}, "max_value: .*number, got '9'"),
        ({"typical_value": None}, "typical_value: missing"),
        ({"typical_value": 0}, "typical_value: .* greater than 0, got 0"),
        ({"typical_value": 20_000}, "typical_value must be below max_value"),
        ({"weights": {"frequency": 0}}, "weights.frequency: .* greater than 0, got 0"),
        ({"weights": {"frequency": 10.5}}, "weights.frequency: .* less than or equal to 10, got 10.5"),
        ({"weights": {"fun": 2, "age": 1}}, "weights: unknown features age, fun; expected some of transactions, freq"),
        ({"start": "1.12.2009"}, "start: expected a date such as 1997-10-01, got '1.12.2009'"),
        ({"start": tomllib.loads("x = 2009-12-01T00:00:00")["x"]}, "start: expected a date .* without a time"),
        ({"start": 20091201}, "start: "),
        ({"cut": "2009-12-02"}, "cut must be two days or more after start"),
        ({"end": "2011-06-10"}, "end must be after cut"),
        ({"amount_is": "price"}, "amount_is: "),
        ({"quantity": None}, "quantity is missing, but amount_is = 'unit-price' needs it"),
        ({"amount_is": "total"}, "quantity serves amount_is"),
        ({"order": "CustomerID"}, "order must not be the column of customer, 'CustomerID'"),
        ({"customer": "frequency"}, "customer must not be named as a feature or target is, 'frequency'"),
        ({"customer": "future_spend"}, "customer must not be named as a feature"),
        ({"category": {"column": "c", "vocabulary": []}}, "category.vocabulary: "),
        ({"category": {"column": "c", "vocabulary": ["a", "a"]}}, "category: vocabulary repeats a word in column 'c'"),
        ({"category": {"column": "c", "vocabulary": ["(other)"]}}, "category: vocabulary must not hold"),
        ({"cancellations": {"kind": "prefix", "treatment": "net"}}, "cancellations.prefix.column: missing"),
        ({"cancellations": {"kind": "negative", "treatment": "ignore"}}, "cancellations.negative.treatment: "),
        ({"cancellations": {"kind": "none"}}, "cancellations: "),
        ({"without_customer": "keep"}, "without_customer: "),
        ({"seasonality": "week"}, "seasonality: "),
    ],
)
def test_a_wrong_key_is_named_in_one_line(changed: dict[str, Any], said: str):
    with pytest.raises(ConfigError, match=f"^terms: .*{said}") as caught:
        terms(**changed)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "said",
    ["%Y%m%d", "%F", "%FT%T", "%F %T%.f", "%d/%m/%Y %H:%M", "%d %b %Y %I:%M %p", "unix-seconds", "unix-milliseconds"],
)
def test_times_with_a_whole_day_are_known(said: str):
    assert terms(time_format=said).time_format == said


@pytest.mark.parametrize(
    "said", ["", "%Y", "%Y-%m", "%H:%M", "%F %H", "%F %M", "%F %z", "%F %T %Z", "%Y%Y%m%d", "%y%m%d", "%s", "%", "iso"]
)
def test_times_without_a_whole_day_or_with_a_zone_are_refused(said: str):
    with pytest.raises(ConfigError, match="time_format: expected a day such as"):
        terms(time_format=said)


def test_quantity_may_tell_cancellations_alone():
    negative = {"kind": "negative", "treatment": "drop"}
    assert terms(amount_is="total", cancellations=negative).quantity == "Quantity"


@given(
    most=st.integers(2, 100_000),
    amount=st.floats(0.01, 1e9),
    days=st.integers(2, 4000),
    seasonality=st.sampled_from(["none", "quarter", "month"]),
)
def test_columns_are_a_contract_under_any_terms(most: int, amount: float, days: int, seasonality: str):
    start = terms().cut.fromordinal(terms().cut.toordinal() - days)
    made = terms(max_transactions=most, max_amount=amount, start=start, seasonality=seasonality)
    columns = columns_of(made)
    contract = Contract.model_validate(
        {
            "format": "fedmarket-contract/1",
            "name": "ltv",
            "task": "ltv",
            "minimum_parties": 1,
            "value": value_of(made).model_dump(),
            "privacy": {"unit": "column:CustomerID", "adjacency": "add-or-remove-one", "delta": 1e-6},
            "transactions": made.model_dump(mode="json"),
            "columns": [column.model_dump() for column in columns],
        }
    )
    assert layout_of(contract, binning=True).width >= 3 * len(columns) - 1
    assert len(columns) == 12 + {"none": 0, "quarter": 4, "month": 12}[seasonality] + 3
    assert columns_of(made) == columns


def test_bounds_and_edges_are_those_of_windows_and_limits():
    columns = {column.name: column for column in columns_of(terms())}
    assert columns["transactions"].upper == 100
    assert columns["frequency"].upper == 99
    assert columns["recency_days"].upper == columns["tenure_days"].upper == columns["days_since_last"].upper == 555
    assert columns["gap_std_days"].upper == 277.5
    assert columns["total_spend"].upper == 500_000
    assert columns["average_spend"].edges == (50, 100, 250, 500, 1000, 2500, 5000)
    assert columns["Country:France"].edges == (1, 2, 3, 4, 6, 10, 15, 20, 30, 50, 100)
    assert [name for name in columns if name.startswith("spend_share")] == [f"spend_share_q{i}" for i in (1, 2, 3, 4)]
    short = {column.name: column for column in columns_of(terms(start="2011-06-01"))}
    assert short["frequency"].upper == short["recency_days"].upper == 8


def test_the_value_is_the_future_spend_up_to_its_public_bound():
    value = value_of(terms())
    assert (value.column, value.currency, value.upper, value.typical) == ("future_spend", "GBP", 20_000, 900)


def test_weights_are_those_of_the_columns_and_1_where_they_are_silent():
    told = {column.name: column.weight for column in columns_of(terms(weights={"frequency": 3, "Country:France": 0.5}))}
    assert told.pop("frequency") == 3
    assert told.pop("Country:France") == 0.5
    assert set(told.values()) == {1.0}


def test_equal_terms_have_equal_hashes_in_whatever_order_the_weights_came():
    one, same = (terms(weights=dict(order)) for order in ([("frequency", 3), ("recency_days", 2)],) * 2)
    assert one == same
    assert hash(one) == hash(terms(weights={"recency_days": 2, "frequency": 3}))
    assert len({one, terms(), terms(max_value=1000)}) == 3
