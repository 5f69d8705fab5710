"""Every row goes to exactly one party, no party is empty, and the generator alone decides."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmarket.config import AcquisitionPartition, ColumnPartition, HashPartition, IidPartition, SkewPartition
from fedmarket.data.partition import partition
from fedmarket.errors import DataError

HOW = st.one_of(
    st.just(ColumnPartition(kind="column", column="job")),
    st.integers(1, 6).map(lambda parties: IidPartition(kind="iid", parties=parties)),
    st.integers(1, 3).map(lambda parties: HashPartition(kind="hash", column="name", parties=parties)),
    st.sampled_from(["month", "quarter"]).map(lambda period: AcquisitionPartition(kind="acquisition", period=period)),
    st.builds(
        SkewPartition,
        kind=st.sampled_from(["label-skew", "quantity-skew"]),
        parties=st.integers(1, 6),
        alpha=st.floats(1.0, 100.0),
    ),
)


def rows(count: int, seed: int = 0) -> tuple[pl.DataFrame, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = (rng.random(count) < 0.2).astype(np.float32)
    names = [f"客户 {place}" for place in range(count)]
    return pl.DataFrame({"job": rng.choice(["admin", "服务", "retired"], count), "name": names}), labels


def days(count: int) -> np.ndarray:
    return np.datetime64("2009-12-30") + np.arange(count)


@given(how=HOW, count=st.integers(60, 200), seed=st.integers(0, 1000))
@settings(max_examples=80)
def test_every_row_is_in_exactly_one_party_and_no_party_is_empty(how, count: int, seed: int):
    table, labels = rows(count, seed)
    hands = partition(table, labels, how, np.random.default_rng(seed), first_days=days(count))
    np.testing.assert_array_equal(np.sort(np.concatenate(list(hands.values()))), np.arange(count))
    assert all(hand.size and (np.diff(hand) > 0).all() for hand in hands.values())
    assert list(hands) == sorted(hands)


@given(how=HOW, seed=st.integers(0, 1000))
@settings(max_examples=30)
def test_the_generator_decides_and_nothing_else(how, seed: int):
    table, labels = rows(100)
    one, same = (partition(table, labels, how, np.random.default_rng(seed), first_days=days(100)) for _ in range(2))
    assert {name: hand.tolist() for name, hand in one.items()} == {name: hand.tolist() for name, hand in same.items()}


def test_another_seed_deals_other_hands():
    table, labels = rows(100)
    how = IidPartition(kind="iid", parties=2)
    one, other = (partition(table, labels, how, np.random.default_rng(seed)) for seed in (0, 1))
    assert one["party-1"].tolist() != other["party-1"].tolist()


@pytest.mark.parametrize(("cells", "names"), [(["b", "甲", "b"], ["b", "甲"]), ([2, 10, 2], ["10", "2"])])
def test_a_column_makes_one_party_of_each_value(cells, names: list[str]):
    how = ColumnPartition(kind="column", column="job")
    hands = partition(pl.DataFrame({"job": cells}), np.zeros(3, np.float32), how, np.random.default_rng(0))
    assert list(hands) == names
    assert sorted(hand.tolist() for hand in hands.values()) == [[0, 2], [1]]


def test_iid_parties_are_equal_in_size_and_sorted_by_number():
    table, labels = rows(103)
    hands = partition(table, labels, IidPartition(kind="iid", parties=10), np.random.default_rng(0))
    assert {hand.size for hand in hands.values()} == {10, 11}
    assert list(hands)[::9] == ["party-01", "party-10"]


def spread(kind: str, alpha: float) -> tuple[float, float]:
    """How much sizes and positive rates vary between parties (relative standard deviations)."""
    table, labels = rows(20_000)
    how = SkewPartition(kind=kind, parties=5, alpha=alpha)
    hands = partition(table, labels, how, np.random.default_rng(3)).values()
    sizes = np.array([hand.size for hand in hands])
    rates = np.array([labels[hand].mean() for hand in hands])
    return float(sizes.std() / sizes.mean()), float(rates.std() / rates.mean())


@pytest.mark.parametrize("kind", ["label-skew", "quantity-skew"])
def test_a_smaller_alpha_skews_more(kind: str):
    which = 0 if kind == "quantity-skew" else 1
    assert spread(kind, 0.5)[which] > 0.3 > 0.1 > spread(kind, 1000.0)[which]


def test_quantity_skew_leaves_the_rates_alone_and_label_skew_does_not():
    assert spread("quantity-skew", 1.0)[1] < 0.1 < 0.3 < spread("label-skew", 1.0)[1]


def test_missing_parties_are_counted_and_refused():
    table = pl.DataFrame({"job": ["a", None, ""]})
    with pytest.raises(DataError, match="partition column 'job': expected a party in each row, 2 are missing"):
        partition(
            table, np.zeros(3, np.float32), ColumnPartition(kind="column", column="job"), np.random.default_rng(0)
        )


def test_an_unknown_partition_column_is_refused():
    how = ColumnPartition(kind="column", column="town")
    with pytest.raises(DataError, match="partition column 'town': missing"):
        partition(*rows(3), how, np.random.default_rng(0))


@pytest.mark.parametrize(
    "how",
    [IidPartition(kind="iid", parties=4), SkewPartition(kind="quantity-skew", parties=4, alpha=1.0)],
)
def test_more_parties_than_rows_are_refused(how):
    with pytest.raises(DataError, match="got 3 rows, 4 parties"):
        partition(*rows(3), how, np.random.default_rng(0))


def test_a_skew_that_always_leaves_a_party_empty_is_refused_after_bounded_draws():
    how = SkewPartition(kind="quantity-skew", parties=20, alpha=0.01)
    with pytest.raises(DataError, match="100 draws left one of 20 parties empty"):
        partition(*rows(50), how, np.random.default_rng(0))


def hashed(cells: list[object], parties: int, seed: int = 0) -> dict[str, list[int]]:
    how = HashPartition(kind="hash", column="id", parties=parties)
    table = pl.DataFrame({"id": cells})
    return {name: hand.tolist() for name, hand in partition(table, None, how, np.random.default_rng(seed)).items()}


def test_a_hash_deals_equal_cells_to_one_party_in_every_table_whatever_the_seed():
    names = [f"c{place}" for place in range(50)]
    party_of = {names[row]: name for name, hand in hashed(names, 3).items() for row in hand}
    for seed in (1, 2):
        shuffled = [*reversed(names), *names]
        for name, hand in hashed(shuffled, 3, seed).items():
            assert {party_of[shuffled[row]] for row in hand} == {name}


def test_a_hash_is_sha_256_of_the_text_modulo_the_parties():
    """FIPS 180-4: the hash of "abc" ends in ...f20015ad, so that 13 parties put it where the remainder says."""
    digest = int("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", 16)
    cells = ["abc", *map(str, range(200))]
    assert 0 in hashed(cells, 13)[f"party-{digest % 13 + 1:02}"]
    assert hashed([*range(20)], 2) == hashed([*map(str, range(20))], 2)


def test_a_hash_that_leaves_a_party_empty_is_refused_with_counts():
    with pytest.raises(DataError, match="partition hash: 1 different cells leave 3 of 4 parties empty"):
        hashed(["a"] * 5, 4)
    with pytest.raises(DataError, match="partition column 'id': expected a party in each row, 1 are missing"):
        hashed(["a", "", "b", "c", "d"], 2)


@pytest.mark.parametrize(
    ("period", "expected"),
    [
        ("month", {"1969-12": [3], "1997-01": [0, 1], "2010-09": [2]}),
        ("quarter", {"1969-Q4": [3], "1997-Q1": [0, 1], "2010-Q3": [2]}),
    ],
)
def test_parties_are_named_after_the_time_of_the_first_purchase(period: str, expected: dict[str, list[int]]):
    first_days = np.array(["1997-01-01", "1997-01-31", "2010-09-30", "1969-12-31"], dtype="datetime64[D]")
    how = AcquisitionPartition(kind="acquisition", period=period)
    table = pl.DataFrame({"id": [1, 2, 3, 4]})
    hands = partition(table, None, how, np.random.default_rng(0), first_days=first_days)
    assert {name: hand.tolist() for name, hand in hands.items()} == expected


def test_what_is_not_known_is_not_dealt_by():
    table, _ = rows(20)
    by_first_purchase = AcquisitionPartition(kind="acquisition", period="month")
    with pytest.raises(DataError, match="partition acquisition: expected a contract with transactions"):
        partition(table, None, by_first_purchase, np.random.default_rng(0))
    by_label = SkewPartition(kind="label-skew", parties=2, alpha=1.0)
    with pytest.raises(DataError, match="partition label-skew: expected a contract with a label, got none"):
        partition(table, None, by_label, np.random.default_rng(0))
