"""A contract says what is predicted and nothing twice; whoever broke a rule reads it in one line."""

from pathlib import Path
from typing import Any

import pytest

from fedmarket.contract.schema import Contract, load_contract
from fedmarket.contract.transactions import columns_of, value_of
from fedmarket.documents import parse_document
from fedmarket.errors import ConfigError

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
LABEL = {"column": "y", "positive": "yes", "negative": "no"}
VALUE = {"column": "spend", "currency": "EUR", "upper": 100, "typical": 30}
PROPENSITY: dict[str, Any] = {
    "format": "fedmarket-contract/1",
    "name": "test",
    "task": "propensity",
    "minimum_parties": 2,
    "label": LABEL,
    "privacy": {"unit": "column:id", "adjacency": "add-or-remove-one", "delta": 1e-5},
    "columns": [{"name": "age", "kind": "numeric", "lower": 0, "upper": 100}],
}
LTV = PROPENSITY | {"task": "ltv", "label": None, "value": VALUE}
BOTH = PROPENSITY | {"task": "propensity-and-ltv", "value": VALUE}

DOCUMENT = """
format = "fedmarket-contract/1"
name = "shops"
task = "ltv"
minimum_parties = 2
[privacy]
unit = "column:id"
adjacency = "add-or-remove-one"
delta = 1e-5
[transactions]
customer = "id"
time = "day"
time_format = "%Y%m%d"
amount = "dollars"
amount_is = "total"
currency = "USD"
start = 1997-01-01
cut = 1997-10-01
end = 1998-07-01
max_transactions = 40
max_amount = 500
max_value = 2000
typical_value = 60
[transactions.weights]
frequency = 2.5
"""


def contract(document: dict[str, Any], **changed: Any) -> Contract:
    return parse_document(Contract, document | changed, source="contract")


def loaded(folder: Path, *changed: tuple[str, str]) -> Contract:
    text = DOCUMENT
    for old, new in changed:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    (folder / "contract.toml").write_text(text, encoding="utf-8")
    return load_contract(folder / "contract.toml")


def test_the_targets_are_response_and_value_in_that_order():
    assert contract(PROPENSITY).targets == ("response",)
    assert contract(LTV).targets == ("value",)
    assert contract(BOTH).targets == ("response", "value")


@pytest.mark.parametrize(
    ("document", "changed", "said"),
    [
        (PROPENSITY, {"label": None}, "label: missing, but task = 'propensity' needs it"),
        (PROPENSITY, {"value": VALUE}, "value: task = 'propensity' has none; leave it out"),
        (LTV, {"value": None}, "value: missing, but task = 'ltv' needs it"),
        (LTV, {"label": LABEL}, "label: task = 'ltv' has none; leave it out"),
        (BOTH, {"label": None}, "label: missing, but task = 'propensity-and-ltv' needs it"),
        (BOTH, {"value": None}, "value: missing, but task = 'propensity-and-ltv' needs it"),
        (LTV, {"task": "churn"}, "task: "),
        (LTV, {"value": VALUE | {"upper": 0}}, "value.upper: .* greater than 0, got 0"),
        (LTV, {"value": VALUE | {"upper": 1e13}}, "value.upper: .* less than or equal to 1000000000000"),
        (LTV, {"value": VALUE | {"typical": 0}}, "value.typical: .* greater than 0, got 0"),
        (LTV, {"value": VALUE | {"typical": 100}}, "value: typical must be below upper in column 'spend'"),
        (LTV, {"value": {"column": "spend"}}, "value.currency: missing; value.upper: missing; value.typical: missing"),
        (LTV, {"value": VALUE | {"column": "age"}}, "columns: the value column 'age' must not be a feature"),
        (LTV, {"value": VALUE | {"column": "id"}}, "value.column: must be neither the label column nor the customer"),
        (BOTH, {"value": VALUE | {"column": "y"}}, "value.column: must be neither the label column nor the customer"),
        (BOTH, {"label": LABEL | {"column": "age"}}, "columns: the label column 'age' must not be a feature"),
    ],
)
def test_a_broken_rule_is_told_in_one_line(document: dict[str, Any], changed: dict[str, Any], said: str):
    with pytest.raises(ConfigError, match=f"^contract: .*{said}") as caught:
        contract(document, **changed)
    assert "\n" not in str(caught.value)


def test_columns_and_value_follow_from_transactions(tmp_path: Path):
    read = loaded(tmp_path)
    assert read.transactions is not None
    assert read.columns == columns_of(read.transactions)
    assert read.value == value_of(read.transactions)
    assert (read.targets, read.privacy.customer_column) == (("value",), "id")
    assert {column.name: column.weight for column in read.columns}["frequency"] == 2.5


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (("[privacy]", '[value]\ncolumn = "spend"\n[privacy]'), "value: follows from [transactions]; leave it out"),
        (("[privacy]", '[[column]]\nname = "age"\n[privacy]'), "column: follows from [transactions]; leave it out"),
        (("typical_value = 60\n", ""), "transactions.typical_value: missing"),
        (("1997-10-01", "1996-10-01"), "transactions: cut must be two days or more after start"),
        (
            ("frequency = 2.5", "fun = 2.5"),
            "transactions: weights: unknown features fun; expected some of transactions",
        ),
        (("currency", "colour"), "transactions.currency: missing; transactions.colour: unknown key"),
        (('task = "ltv"', 'task = "propensity"'), "document: label: missing, but task = 'propensity' needs it"),
        (
            ("column:id", "column:name"),
            "document: privacy.unit: expected 'column:id', the customer of the transactions",
        ),
        (('"column:id"', '"row"'), "document: privacy.unit: expected 'column:id'"),
        (('name = "shops"\n', ""), "name: missing"),
    ],
)
def test_a_contract_of_transactions_says_nothing_twice(tmp_path: Path, changed: tuple[str, str], said: str):
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, changed)
    assert str(caught.value).startswith(f"{tmp_path / 'contract.toml'}: {said}")
    assert "\n" not in str(caught.value)


def test_a_value_or_columns_that_do_not_follow_from_transactions_are_refused(tmp_path: Path):
    read = loaded(tmp_path).model_dump()
    assert contract(read) == loaded(tmp_path)
    for key, other in (("value", read["value"] | {"upper": 1e6}), ("columns", read["columns"][:-1])):
        with pytest.raises(ConfigError, match=f"document: {key}: must be .* from transactions; leave"):
            contract(read, **{key: other})
    with pytest.raises(ConfigError, match="transactions: task = 'ltv' has them alone"):
        contract(read, task="propensity-and-ltv", label=LABEL)


def test_contracts_can_be_told_apart_by_hash_and_kept_in_a_set(tmp_path: Path):
    first, same = loaded(tmp_path), loaded(tmp_path)
    other = loaded(tmp_path, ("frequency = 2.5", "frequency = 3"))
    assert first.hash == same.hash != other.hash
    assert len({first, same, other}) == 2
    assert len({contract(one).hash for one in (PROPENSITY, LTV, BOTH)}) == 3


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("demo", "4f587755ec026bacf883249ad97bba503f953d1386b92217d3167867de933b14"),
        ("bank-marketing", "40c411bee64a369cc1bdcdcd782ff483007cd039f5c4d5d183162b264ced85cb"),
    ],
)
def test_what_a_contract_does_not_say_is_not_in_its_hash(path: str, expected: str):
    """The published experiments name these hashes; a key that was added since must not move them."""
    assert load_contract(EXPERIMENTS / path / "contract.toml").hash == expected
