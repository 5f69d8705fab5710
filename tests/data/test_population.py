"""One seed deals every row once; a party that cannot train is refused by name."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from fedmarket.config import DataSection, load_config
from fedmarket.contract.schema import Contract, load_contract
from fedmarket.contract.transactions import TransactionTerms, columns_of, value_of
from fedmarket.data import population as module
from fedmarket.data.population import Population, deal, load_population
from fedmarket.data.public import PUBLIC_FILES, locate
from fedmarket.errors import ContractViolation, DataError, TableError

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
DEMO = load_contract(EXPERIMENTS / "demo" / "contract.toml")
TERMS = Contract.model_validate(
    {
        "format": "fedmarket-contract/1",
        "name": "test",
        "task": "propensity",
        "minimum_parties": 2,
        "label": {"column": "购买", "positive": "是", "negative": "否"},
        "privacy": {"unit": "row", "adjacency": "add-or-remove-one", "delta": 1e-5},
        "columns": [{"name": "年龄", "kind": "numeric", "lower": 0, "upper": 100}],
    }
)


def market(**changes: int) -> DataSection:
    source = {"kind": "synthetic-market", "customers": 1500, "parties": 4, "seed": 7} | changes
    return DataSection.model_validate({"contract": "contract.toml", "test_share": 0.25, "source": source})


def own_file(path: Path, partition: dict[str, object] | None = None) -> DataSection:
    source = {"kind": "file", "path": str(path), "partition": partition or {"kind": "iid", "parties": 2}}
    return DataSection.model_validate({"contract": "contract.toml", "test_share": 0.2, "source": source})


def written(folder: Path, *, town: list[str], labels: list[str]) -> Path:
    path = folder / "客户.csv"
    pl.DataFrame({"年龄": [30] * len(town), "town": town, "购买": labels}).write_csv(path)
    return path


@pytest.fixture(scope="module")
def population() -> Population:
    return load_population(market(), DEMO)


def test_the_market_comes_with_its_truth_and_its_parties(population: Population):
    assert population.source == "synthetic market (seed 7)"
    assert population.truth is not None
    assert population.party is not None
    assert population.truth.shape == population.party.shape == population.labels.shape == (1500,)
    assert population.labels.tolist() == (population.table["responded"] == "yes").cast(pl.Float32).to_list()
    assert population.targets.tolist() == population.labels[:, None].tolist()
    assert population.expected_value is not None
    assert population.expected_value.shape == (1500,)
    assert (population.spent, population.first_days, population.counts) == (None, None, None)


def test_every_row_is_dealt_once_and_stays_with_its_company(population: Population):
    dealt = deal(population, market(), seed=0)
    everyone = np.concatenate([*dealt.train.values(), *dealt.test.values()])
    np.testing.assert_array_equal(np.sort(everyone), np.arange(1500))
    assert population.party is not None
    for name in dealt.train:
        assert set(population.party[dealt.train[name]]) == set(population.party[dealt.test[name]]) == {name}


def test_each_party_keeps_the_share_for_its_test(population: Population):
    dealt = deal(population, market(), seed=0)
    for name, rows in dealt.test.items():
        assert rows.size == round(0.25 * (rows.size + dealt.train[name].size))


def test_the_seed_decides_the_deal(population: Population):
    one, same, other = (deal(population, market(), seed=seed) for seed in (0, 0, 1))
    assert all((one.test[name] == same.test[name]).all() for name in one.test)
    assert any((one.test[name] != other.test[name]).any() for name in one.test)


def test_parties_are_sorted_and_the_same_in_training_and_test(population: Population):
    dealt = deal(population, market(), seed=0)
    assert list(dealt.train) == list(dealt.test) == sorted(dealt.train)


def test_a_split_keeps_a_row_on_both_sides_even_of_two():
    for share in (0.01, 0.99):
        kept = [part.size for part in module._split(np.array([4, 7]), None, share, np.random.default_rng(0))]
        assert kept == [1, 1]


# Customers with several rows.


BY_CUSTOMER = TERMS.model_copy(update={"privacy": TERMS.privacy.model_copy(update={"unit": "column:客户"})})


def with_customers(folder: Path, *, customers: int = 60, rows: tuple[int, ...] = (1, 2, 5)) -> Path:
    """Write ``customers`` customers with in turn so many rows, all at random places in the file."""
    names = [f"c{place}" for place in range(customers) for _ in range(rows[place % len(rows)])]
    order = np.random.default_rng(4).permutation(len(names))
    path = folder / "客户.csv"
    table = {
        "年龄": [30] * len(names),
        "town": ["甲" if int(name[1:]) % 2 else "乙" for name in names],
        "购买": ["是" if place % 3 else "否" for place in range(len(names))],
        "客户": names,
    }
    pl.DataFrame(table)[order].write_csv(path)
    return path


BY_TOWN = {"kind": "column", "column": "town"}


def test_customers_are_numbered_where_a_column_names_them_and_nowhere_else(tmp_path: Path):
    path = with_customers(tmp_path)
    assert load_population(own_file(path), TERMS).customers is None
    rows = load_population(own_file(path), BY_CUSTOMER)
    assert rows.customers is not None
    assert rows.customers.dtype == np.int64
    named = dict(zip(rows.customers.tolist(), rows.table["客户"].to_list(), strict=True))
    assert len(named) == rows.table["客户"].n_unique() == 60
    assert [named[number] for number in rows.customers] == rows.table["客户"].to_list()


@pytest.mark.parametrize("seed", range(5))
def test_no_customer_has_rows_in_training_and_in_test(tmp_path: Path, seed: int):
    data = own_file(with_customers(tmp_path), BY_TOWN)
    rows = load_population(data, BY_CUSTOMER)
    dealt = deal(rows, data, seed=seed)
    everyone = np.concatenate([*dealt.train.values(), *dealt.test.values()])
    np.testing.assert_array_equal(np.sort(everyone), np.arange(rows.labels.size))
    for name in dealt.train:
        train, test = (rows.customers[part[name]] for part in (dealt.train, dealt.test))
        assert not set(train) & set(test)
        assert len(set(test)) == round(0.2 * 30)
        assert len(set(train)) == 30 - round(0.2 * 30)


def test_a_split_by_rows_would_tear_customers_apart(tmp_path: Path):
    data = own_file(with_customers(tmp_path), BY_TOWN)
    rows = load_population(data, BY_CUSTOMER)
    torn = deal(replace(rows, customers=None), data, seed=0)
    assert any(set(rows.customers[torn.train[name]]) & set(rows.customers[torn.test[name]]) for name in torn.train)


def test_the_rows_of_a_customer_are_dealt_together_in_rising_order(tmp_path: Path):
    data = own_file(with_customers(tmp_path), BY_TOWN)
    rows = load_population(data, BY_CUSTOMER)
    dealt = deal(rows, data, seed=0)
    for part in (*dealt.train.values(), *dealt.test.values()):
        assert (np.diff(rows.customers[part]) >= 0).all()


@pytest.mark.parametrize("share", [0.01, 0.99])
def test_a_split_keeps_a_customer_on_both_sides_even_of_two(share: float):
    customers = np.array([5, 3, 5, 5, 3])
    train, test = module._split(np.arange(5), customers, share, np.random.default_rng(0))
    assert {len(set(customers[part])) for part in (train, test)} == {1}
    assert sorted([*train, *test]) == [0, 1, 2, 3, 4]


def test_an_own_file_is_known_by_its_name_alone_and_dealt_by_its_column(tmp_path: Path):
    path = written(tmp_path, town=["甲", "乙"] * 30, labels=["是", "是", "否"] * 20)
    data = own_file(path, {"kind": "column", "column": "town"})
    rows = load_population(data, TERMS)
    assert (rows.source, rows.truth, rows.party) == ("客户.csv", None, None)
    assert {name: part.size for name, part in deal(rows, data, seed=0).train.items()} == {"乙": 24, "甲": 24}


def test_a_party_with_few_training_rows_is_refused_by_name_and_count(tmp_path: Path):
    path = written(tmp_path, town=["big"] * 50 + ["small"] * 20, labels=["是", "否"] * 35)
    data = own_file(path, {"kind": "column", "column": "town"})
    with pytest.raises(DataError, match="party 'small': expected 20 training rows or more, got 16"):
        deal(load_population(data, TERMS), data, seed=0)


@pytest.mark.parametrize(("label", "count"), [("否", 0), ("是", 32)])
def test_a_party_with_one_class_in_training_is_refused_by_name_and_count(tmp_path: Path, label: str, count: int):
    path = written(tmp_path, town=["a"] * 40 + ["b"] * 40, labels=["是", "否"] * 20 + [label] * 40)
    data = own_file(path, {"kind": "column", "column": "town"})
    with pytest.raises(DataError, match=f"party 'b': expected both classes in training, got {count} of 32 positive"):
        deal(load_population(data, TERMS), data, seed=0)


def test_a_party_of_one_row_is_refused_and_does_not_crash(tmp_path: Path):
    path = written(tmp_path, town=["a"] * 40 + ["b"], labels=["是", "否"] * 20 + ["是"])
    data = own_file(path, {"kind": "column", "column": "town"})
    with pytest.raises(DataError, match="party 'b': expected 20 training rows or more, got 0"):
        deal(load_population(data, TERMS), data, seed=0)


def test_a_table_that_breaks_the_contract_is_refused(tmp_path: Path):
    path = written(tmp_path, town=["a"] * 2, labels=["是", "yes"])
    with pytest.raises(ContractViolation, match=r"^客户\.csv: label column '购买': 1 values are neither"):
        load_population(own_file(path), TERMS)


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(TableError, match=r"none\.csv: cannot be read"):
        load_population(own_file(tmp_path / "none.csv"), TERMS)


# Lifetime value: customers from lines of sale, or a table that has a value.


SHOPS: dict[str, object] = {
    "customer": "客户",
    "time": "day",
    "time_format": "%F",
    "amount": "paid",
    "amount_is": "total",
    "currency": "EUR",
    "start": "2020-01-01",
    "cut": "2020-07-01",
    "end": "2021-01-01",
    "max_transactions": 2,
    "max_amount": 50,
    "max_value": 80,
    "typical_value": 20,
}


def with_transactions(**changed: object) -> Contract:
    terms = TransactionTerms.model_validate(SHOPS | changed)
    parts = {"transactions": terms, "columns": columns_of(terms), "value": value_of(terms), "label": None}
    privacy = TERMS.privacy.model_copy(update={"unit": "column:客户"})
    return Contract.model_validate(TERMS.model_dump() | parts | {"task": "ltv", "privacy": privacy})


def sales(folder: Path, *, customers: int = 90) -> Path:
    """Write for each customer four purchases from the day of one of three months on, and for every third a late one."""
    lines = [
        {"客户": f"c{place:02}", "day": f"2020-0{1 + place % 3}-{day:02}", "paid": 10 * day}
        for place in range(customers)
        for day in (2, 3, 4, 5)
    ]
    lines += [{"客户": f"c{place:02}", "day": "2020-08-01", "paid": 60 + place} for place in range(0, customers, 3)]
    lines.append({"客户": "c00", "day": "2021-01-01", "paid": 1})
    path = folder / "sales.csv"
    pl.DataFrame(lines)[np.random.default_rng(4).permutation(len(lines))].write_csv(path)
    return path


def test_lines_of_sale_become_customers_with_what_they_really_spent(tmp_path: Path):
    rows = load_population(own_file(sales(tmp_path)), with_transactions())
    assert rows.table["客户"].to_list() == [f"c{place:02}" for place in range(90)]
    later = np.array([60.0 + place if place % 3 == 0 else 0.0 for place in range(90)])
    assert rows.spent is not None
    np.testing.assert_array_equal(rows.spent, later)
    np.testing.assert_array_equal(rows.targets, np.minimum(later, 80)[:, None])
    assert rows.targets.dtype == np.float32
    assert (rows.target_names, rows.customers, rows.truth, rows.expected_value) == (("value",), None, None, None)
    assert rows.counts is not None
    assert (rows.counts.lines, rows.counts.after_end, rows.counts.over_limit) == (391, 1, 180)


def test_parties_by_first_purchase_know_it_before_the_limit_of_purchases(tmp_path: Path):
    data = own_file(sales(tmp_path), {"kind": "acquisition", "period": "month"})
    rows = load_population(data, with_transactions())
    dealt = deal(rows, data, seed=0)
    assert {name: part.size for name, part in dealt.train.items()} == {"2020-01": 24, "2020-02": 24, "2020-03": 24}
    assert rows.first_days is not None
    assert set(rows.first_days[dealt.train["2020-02"]].astype(str)) == {"2020-02-02"}


def test_a_value_needs_no_buyer_in_training_but_enough_rows(tmp_path: Path):
    data = own_file(sales(tmp_path, customers=60), {"kind": "acquisition", "period": "month"})
    with pytest.raises(DataError, match="party '2020-01': expected 20 training rows or more, got 16"):
        deal(load_population(data, with_transactions()), data, seed=0)
    data = own_file(sales(tmp_path), {"kind": "acquisition", "period": "month"})
    rows = load_population(data, with_transactions())
    assert rows.targets[deal(rows, data, seed=0).train["2020-02"]].max() == 0


@pytest.mark.parametrize("partition", [{"kind": "hash", "column": "客户", "parties": 2}, {"kind": "iid", "parties": 3}])
def test_customers_made_from_lines_are_dealt_in_other_ways_too(tmp_path: Path, partition: dict[str, object]):
    data = own_file(sales(tmp_path), partition)
    dealt = deal(load_population(data, with_transactions()), data, seed=0)
    assert np.sort(np.concatenate([*dealt.train.values(), *dealt.test.values()])).tolist() == list(range(90))


def test_without_transactions_there_is_no_first_purchase_and_without_a_label_no_label(tmp_path: Path):
    data = own_file(with_customers(tmp_path), {"kind": "acquisition", "period": "quarter"})
    with pytest.raises(DataError, match="partition acquisition: expected a contract with transactions"):
        deal(load_population(data, TERMS), data, seed=0)
    data = own_file(sales(tmp_path), {"kind": "label-skew", "parties": 2, "alpha": 1.0})
    rows = load_population(data, with_transactions())
    with pytest.raises(DataError, match="partition label-skew: expected a contract with a label"):
        deal(rows, data, seed=0)
    with pytest.raises(DataError, match=r"sales\.csv: expected a contract with a label, got one without"):
        _ = rows.labels


def test_lines_that_break_the_terms_are_refused(tmp_path: Path):
    with pytest.raises(ContractViolation, match=r"^客户\.csv: column 'day': missing"):
        load_population(own_file(with_customers(tmp_path)), with_transactions())
    with pytest.raises(DataError, match=r"synthetic market \(seed 7\): has customers and no transactions"):
        load_population(market(), with_transactions())


@pytest.mark.parametrize(("task", "targets"), [("ltv", 1), ("propensity-and-ltv", 2)])
def test_the_market_has_a_value_whose_expectation_is_known(task: str, targets: int):
    value = {"column": "spend_next_year", "currency": "EUR", "upper": 500, "typical": 150}
    changed = {"task": task, "value": value} | ({"label": None} if task == "ltv" else {})
    rows = load_population(market(), Contract.model_validate(DEMO.model_dump() | changed))
    assert rows.targets.shape == (1500, targets)
    assert rows.spent is not None
    assert rows.expected_value is not None
    assert rows.spent.tolist() == rows.table["spend_next_year"].to_list()
    assert rows.targets[:, -1].max() == 500 < rows.spent.max()
    assert rows.spent.mean() == pytest.approx(rows.expected_value.mean(), rel=0.15)
    assert np.concatenate(list(deal(rows, market(), seed=0).train.values())).size == 1125
    if task == "propensity-and-ltv":
        assert rows.labels.tolist() == rows.targets[:, 0].tolist()


RETAIL = {
    "customer": "CustomerID",
    "time": "InvoiceDate",
    "time_format": "%F %T",
    "amount": "UnitPrice",
    "amount_is": "unit-price",
    "currency": "GBP",
    "quantity": "Quantity",
    "order": "InvoiceNo",
    "cancellations": {"kind": "prefix", "column": "InvoiceNo", "prefix": "C", "treatment": "net"},
    "without_customer": "drop",
    "start": "2009-12-01",
    "cut": "2011-06-10",
    "end": "2011-12-10",
    "max_transactions": 100,
    "max_amount": 5000,
    "max_value": 20_000,
    "typical_value": 900,
}


def test_a_public_set_of_lines_loads_and_deals_its_cohorts():
    if all(locate(public) is None for public in PUBLIC_FILES if public.name == "online-retail-ii"):
        pytest.skip("no data folder has this file")
    source = {"kind": "public", "name": "online-retail-ii", "partition": {"kind": "acquisition", "period": "quarter"}}
    data = DataSection.model_validate({"contract": "contract.toml", "test_share": 0.2, "source": source})
    read = TransactionTerms.model_validate(RETAIL)
    parts = {"transactions": read, "columns": columns_of(read), "value": value_of(read), "label": None, "task": "ltv"}
    privacy = TERMS.privacy.model_copy(update={"unit": f"column:{read.customer}"})
    rows = load_population(data, Contract.model_validate(TERMS.model_dump() | parts | {"privacy": privacy}))
    assert rows.counts is not None
    assert rows.counts.without_customer == 235_287
    assert list(deal(rows, data, seed=0).train)[:2] == ["2009-Q4", "2010-Q1"]
    assert len(deal(rows, data, seed=0).train) == 7


def test_the_bank_experiment_loads_and_deals_twelve_parties():
    if locate(PUBLIC_FILES[0]) is None:
        pytest.skip("no data folder has this file")
    config = load_config(EXPERIMENTS / "bank-marketing" / "config.toml")
    rows = load_population(config.data, load_contract(Path(config.data.contract)))
    assert rows.labels.sum() == 4640
    assert len(deal(rows, config.data, seed=0).train) == 12
