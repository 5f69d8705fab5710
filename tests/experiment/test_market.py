"""One deal serves all arms, a changed document is read anew, and what does not fit is found before a round."""

import hashlib
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from fedmarket.data.synthetic import synthetic_market
from fedmarket.data.tables import read_table
from fedmarket.errors import ConfigError, UsageError
from fedmarket.experiment.arms import ARMS, arm_named, terms_of
from fedmarket.experiment.market import POOL, Market, MarketKey, declared_rows, forget_markets, open_market

JOINT = arm_named("federated_dp")


def opened(path: Path, *changes: str, seed: int = 0) -> Market:
    return open_market(MarketKey(config=path, changes=changes, seed=seed))


@pytest.fixture(scope="module")
def path(write_market, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_market(tmp_path_factory.mktemp("market"))


def test_the_pool_holds_every_partys_rows_once_and_declares_their_sizes(path: Path):
    market = opened(path)
    parties = [market.party(JOINT, name) for name in market.names]
    pool = market.party(arm_named("pooled_dp"), POOL)
    for part in ("rows", "held_out"):
        each = [getattr(party, part) for party in parties]
        np.testing.assert_array_equal(getattr(pool, part).features, np.concatenate([rows.features for rows in each]))
        np.testing.assert_array_equal(getattr(pool, part).targets, np.concatenate([rows.targets for rows in each]))
    assert pool.declared_rows == sum(party.declared_rows for party in parties)
    assert len(market.names) == 4


def test_no_test_row_is_a_training_row(path: Path):
    market = opened(path)
    train = np.concatenate(list(market.deal.train.values()))
    assert not set(train) & set(market.test_rows)
    assert len(train) + len(market.test_rows) == 1500


def test_a_declared_size_has_two_digits_and_is_never_finer_than_tens():
    assert [declared_rows(rows) for rows in (1, 24, 99, 104, 105, 12_345)] == [10, 20, 100, 100, 100, 12_000]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_a_device_that_is_not_there_is_named_before_the_first_round(path: Path):
    market = opened(path, "device=cuda")
    with pytest.raises(ConfigError, match="device: this machine has no CUDA"):
        market.check(JOINT)


def test_terms_come_from_documents_and_not_from_rows(path: Path):
    """Two seeds deal other rows to the parties; the plan stays."""
    one, two = opened(path, seed=0), opened(path, seed=1)
    assert one.deal.train["bank"].tolist() != two.deal.train["bank"].tolist()
    terms = [terms_of(JOINT, market.config, market.contract, seed=0).hash for market in (one, two)]
    assert terms[0] == terms[1]


def test_every_arm_but_the_noisy_ones_is_without_noise(path: Path):
    market = opened(path)
    for arm in ARMS:
        plan = terms_of(arm, market.config, market.contract, seed=0).plan
        assert all(bool(m.noise_multiplier) == arm.noisy for m in plan.mechanisms), arm.name
        assert (plan.spent().epsilon <= 1.0) == arm.noisy


def test_an_unknown_arm_is_named():
    with pytest.raises(ConfigError, match=r"arm: expected one of pooled, .*, got 'best'"):
        arm_named("best")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("federation.max_parties=3", "federation.max_parties: the data has 4 parties, got 3"),
        ("federation.max_party_rows=100", r"party \w+: declares \d+ rows, expected at most federation.max_party_rows"),
        ("data.source.parties=2", "federation.minimum_survivors: the data has 2 parties, got 3"),
        ("data.source.parties=3", r"aggregation.secagg: .*; change that, or .*aggregation.secagg=ideal$"),
        ("federation.minimum_survivors=5", "federation.minimum_survivors: the data has 4 parties, got 5"),
        ("federation.minimum_survivors=2", r"aggregation.secagg: .*minimum_survivors: expected 3 .*to 4, got 2"),
    ],
)
def test_what_would_keep_a_party_out_is_found_before_the_first_round(path: Path, change: str, said: str):
    with pytest.raises(UsageError, match=said):
        opened(path, change).check(JOINT)
    opened(path).check(JOINT)


def test_no_terms_let_a_sum_have_fewer_parties_than_the_contract_says(path: Path):
    said = r"^federation\.minimum_survivors: contract demo needs at least 2 parties in a sum, got 1$"
    for mode in ("secure", "ideal"):
        market = opened(path, "federation.minimum_survivors=1", f"aggregation.secagg={mode}")
        with pytest.raises(ConfigError, match=said):
            terms_of(JOINT, market.config, market.contract, seed=0)


def test_only_the_private_arm_of_many_parties_is_masked(path: Path):
    market = opened(path)
    terms = {arm.name: terms_of(arm, market.config, market.contract, seed=0) for arm in ARMS}
    assert {name for name, one in terms.items() if one.secagg == "secure"} == {"federated_dp"}
    assert {one.minimum_survivors for name, one in terms.items() if name.startswith("federated")} == {3}
    assert {one.minimum_survivors for name, one in terms.items() if not name.startswith("federated")} == {1}


def test_fewer_than_four_parties_may_sum_in_the_open(path: Path):
    opened(path, "data.source.parties=2", "federation.minimum_survivors=2", "aggregation.secagg=ideal").check(JOINT)


def test_a_document_that_changed_is_read_anew(write_market, tmp_path: Path):
    path = write_market(tmp_path)
    before = opened(path)
    assert opened(path) is before
    write_market(tmp_path, ("customers = 1500", "customers = 1600"))
    forget_markets()
    assert opened(path).population.labels.size == 1600


def test_a_partys_rows_carry_values_and_segments_of_their_customers(write_value_market, write_joint_market, tmp_path):
    for write, targets in ((write_value_market, 1), (write_joint_market, 2)):
        market = opened(write(tmp_path / str(targets)))
        for name in market.names:
            party = market.party(JOINT, name)
            for rows, numbers in ((party.rows, market.deal.train[name]), (party.held_out, market.deal.test[name])):
                assert rows.targets.shape == (len(numbers), targets)
                np.testing.assert_array_equal(rows.targets, market.population.targets[numbers])
                np.testing.assert_array_equal(rows.segments, market.population.segments[numbers])
        pool = market.party(arm_named("pooled"), POOL).rows
        np.testing.assert_array_equal(pool.segments, market.population.segments[market.train_rows])


@pytest.mark.parametrize("block", [7, 100_000])
def test_a_ledger_commits_to_the_table_as_it_was_read_however_it_is_kept(
    path: Path, clients: Path, monkeypatch: pytest.MonkeyPatch, block: int
):
    """The hash is of the party's rows as CSV in one piece: of the table of the market, or of the file."""
    monkeypatch.setattr("fedmarket.arrays.BLOCK", block)
    made = synthetic_market(customers=1500, parties=4, seed=7).table
    for document, table in ((path, made), (clients, read_table(clients.parent / "clients.csv"))):
        market = opened(document)
        for name in market.names:
            dealt = (market.deal.train[name], market.deal.test[name])
            hashes = tuple(hashlib.sha256(table[rows].write_csv().encode()).hexdigest() for rows in dealt)
            assert market.row_hashes(name) == hashes


# Customers with several rows.


CUSTOMER_UNIT = ('unit = "row"', 'unit = "column:client"')
OWN_FILE = (
    'kind = "synthetic-market"\ncustomers = 1500\nparties = 4\nseed = 7',
    'kind = "file"\npath = "clients.csv"\npartition = { kind = "column", column = "company" }',
)


@pytest.fixture(scope="module")
def clients(write_market, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four companies with 60 customers each, of three rows each; ten customers are of two companies."""
    path = write_market(tmp_path_factory.mktemp("clients"), OWN_FILE)
    contract = path.parent / "contract.toml"
    contract.write_text(contract.read_text(encoding="utf-8").replace(*CUSTOMER_UNIT), encoding="utf-8")
    source = synthetic_market(customers=800, parties=4, seed=7).table[:720]
    places = np.random.default_rng(1).permutation(720)
    customer = [place // 3 if place < 690 else (place - 690) // 3 for place in range(720)]
    table = source.with_columns(
        company=pl.Series([f"company-{place // 180}" for place in range(720)]),
        client=pl.Series([f"client-{number}" for number in customer]),
    )
    table[places].write_csv(path.parent / "clients.csv")
    return path


def test_declared_sizes_count_customers_and_not_their_rows(clients: Path):
    market = opened(clients)
    for name in market.names:
        party = market.party(JOINT, name)
        assert len(party.rows.targets) == 3 * 48
        assert market.customers_in(market.deal.train[name]) == 48
        assert party.declared_rows == declared_rows(48) == 50
    assert market.customers_in(market.test_rows) < len(market.test_rows) == 4 * 3 * 12


def test_a_party_knows_whose_row_each_is_and_the_rows_stand_together(clients: Path):
    market = opened(clients)
    names = market.population.table["client"].to_numpy()
    for name in market.names:
        party = market.party(JOINT, name)
        for rows, numbers in ((party.rows, market.deal.train[name]), (party.held_out, market.deal.test[name])):
            assert (np.diff(rows.customers) >= 0).all()
            assert rows.shares.tolist() == [1 / 3] * len(rows.targets)
            whose = {number: set(names[numbers][rows.customers == number]) for number in set(rows.customers)}
            assert all(len(clients_) == 1 for clients_ in whose.values())
            np.testing.assert_array_equal(rows.features, market.features[numbers])


def test_in_the_pool_a_customer_of_two_companies_is_one(clients: Path):
    market = opened(clients)
    pool = market.party(arm_named("pooled_dp"), POOL)
    each = [market.party(JOINT, name) for name in market.names]
    assert len(pool.rows.targets) == sum(len(party.rows.targets) for party in each)
    assert (np.diff(pool.rows.customers) >= 0).all()
    apart = sum(len(np.unique(party.rows.customers)) for party in each)
    assert len(np.unique(pool.rows.customers)) < apart == 4 * 48
    assert pool.rows.shares.min() == pytest.approx(1 / 6)
    assert pool.rows.shares.sum() == pytest.approx(len(np.unique(pool.rows.customers)))


def test_where_each_row_is_a_customer_no_rows_are_shared(path: Path):
    market = opened(path)
    party = market.party(JOINT, "bank")
    assert party.rows.customers is party.rows.shares is party.held_out.customers is None
    assert market.customers_in(market.test_rows) == len(market.test_rows)
