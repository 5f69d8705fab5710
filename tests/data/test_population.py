"""One seed deals every row once; a party that cannot train is refused by name."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from fedmarket.config import DataSection, load_config
from fedmarket.contract.schema import Contract, load_contract
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


def test_the_bank_experiment_loads_and_deals_twelve_parties():
    if locate(PUBLIC_FILES[0]) is None:
        pytest.skip("no data folder has this file")
    config = load_config(EXPERIMENTS / "bank-marketing" / "config.toml")
    rows = load_population(config.data, load_contract(Path(config.data.contract)))
    assert rows.labels.sum() == 4640
    assert len(deal(rows, config.data, seed=0).train) == 12
