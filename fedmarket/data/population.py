"""All rows of an experiment, and how one seed deals them to parties for training and test.

A simulation owns every row; a deployed party owns one table and needs none of this. Dealing takes its randomness from
the seed alone, so that every arm of an experiment sees the same rows.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from fedmarket.config import ColumnPartition, DataSection, OwnFile, SyntheticMarket
from fedmarket.contract.cells import words
from fedmarket.contract.check import check_table
from fedmarket.contract.columns import CategoryColumn
from fedmarket.contract.schema import Contract, Target
from fedmarket.data.encode import spent_of, targets_of
from fedmarket.data.partition import Indices, by_name, partition
from fedmarket.data.public import public_set
from fedmarket.data.segments import segments_of
from fedmarket.data.synthetic import synthetic_market
from fedmarket.data.tables import compact, read_table
from fedmarket.data.transactions import Counts, Customers, customers_with_counts
from fedmarket.errors import DataError

FEWEST_TRAINING_ROWS = 20
_DEAL = 1
"""Keeps the dealer's random stream apart from other streams of the same seed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Population:
    """All rows of an experiment.

    Attributes:
        table: n rows that keep the contract; with transactions, one for each customer that these tell of.
        target_names: the contract's ``targets``.
        targets: what is to be predicted, shape (n, T), in that order; values are clipped at the contract's bound.
        spent: what each customer really spent, however much that is, shape (n,), where the contract has a value.
        source: what to call the data in a report.
        truth: the true response probabilities, shape (n,), where they are known.
        expected_value: the true expectation of what a customer will spend, shape (n,), where it is known.
        party: the company of each row, shape (n,), where the source comes with its parties.
        customers: a number for each row's customer, shape (n,), where a column identifies them and they may have
            several rows.
        first_days: the day of each customer's first purchase, shape (n,), with transactions.
        segments: the number of each row's segment, shape (n,), where the contract has segments.
        counts: what became of the lines, with transactions.
    """

    table: pl.DataFrame
    target_names: tuple[Target, ...]
    targets: npt.NDArray[np.float32]
    spent: npt.NDArray[np.float64] | None
    source: str
    truth: npt.NDArray[np.float64] | None
    expected_value: npt.NDArray[np.float64] | None
    party: npt.NDArray[np.str_] | None
    customers: Indices | None
    first_days: npt.NDArray[np.datetime64] | None
    segments: Indices | None
    counts: Counts | None

    @property
    def labels(self) -> npt.NDArray[np.float32]:
        """The response column of the targets: 1 for positive, 0 for negative, shape (n,).

        Raises:
            DataError: if there is none.
        """
        if "response" not in self.target_names:
            raise DataError(f"{self.source}: expected a contract with a label, got one without")
        return self.targets[:, self.target_names.index("response")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Deal:
    """Row numbers of each party's training and test rows; both have the same parties in sorted order."""

    train: dict[str, Indices]
    test: dict[str, Indices]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rows:
    table: pl.DataFrame
    source: str
    truth: npt.NDArray[np.float64] | None = None
    expected_value: npt.NDArray[np.float64] | None = None
    party: npt.NDArray[np.str_] | None = None


def load_population(data: DataSection, contract: Contract) -> Population:
    """Return all rows of the source in ``data``, held against ``contract``; its transactions become customers here.

    Raises:
        TableError: if a file cannot be read or is not the one it should be.
        ContractViolation: if the table breaks the contract.
        ConfigError: if the public set is unknown.
    """
    rows = _rows(data)
    made = _from_lines(rows, contract)
    table = made.table if made else rows.table
    check_table(table, contract, source=rows.source)
    return Population(
        table=compact(table, repeating=_repeating(data, contract)),
        target_names=contract.targets,
        targets=targets_of(table, contract),
        spent=made.spent if made else spent_of(table, contract) if contract.value else None,
        source=rows.source,
        truth=rows.truth,
        expected_value=rows.expected_value,
        party=rows.party,
        customers=None if made else _customers(table, contract),
        first_days=made.first_days if made else None,
        segments=segments_of(table, contract),
        counts=made.counts if made else None,
    )


def deal(population: Population, data: DataSection, *, seed: int) -> Deal:
    """Return each party's training and test rows: first the partition, then a random split inside each party.

    Args:
        population: all rows.
        data: says how to partition (unless the source comes with its parties) and how much to keep for the test.
        seed: data randomness.

    Raises:
        DataError: if the partition is impossible, or a party has fewer than 20 training rows or, where a response is
            to be predicted, only one class in them.

    **Guarantees.** Every row is in exactly one party and there either in training or in test; both have rows.
    """
    rng = np.random.default_rng([seed, _DEAL])
    train: dict[str, Indices] = {}
    test: dict[str, Indices] = {}
    for name, rows in _hands(population, data, rng).items():
        train[name], test[name] = _split(rows, population.customers, data.test_share, rng)
        _check_training(name, train[name], _labels(population))
    return Deal(train=train, test=test)


def _rows(data: DataSection) -> _Rows:
    source = data.source
    if isinstance(source, SyntheticMarket):
        market = synthetic_market(customers=source.customers, parties=source.parties, seed=source.seed)
        name = f"synthetic market (seed {source.seed})"
        return _Rows(
            table=market.table,
            source=name,
            truth=market.response_probability,
            expected_value=market.expected_value,
            party=market.party,
        )
    if isinstance(source, OwnFile):
        path = Path(source.path)
        # The file's name alone: a report must not tell the folders of the machine that made it.
        return _Rows(table=read_table(path), source=path.name)
    return _Rows(table=public_set(source.name), source=f"public set {source.name}")


def _from_lines(rows: _Rows, contract: Contract) -> Customers | None:
    if contract.transactions is None:
        return None
    if rows.party is not None:
        raise DataError(f"{rows.source}: has customers and no transactions, which contract {contract.name!r} is about")
    return customers_with_counts(rows.table, contract.transactions, source=rows.source)


def _repeating(data: DataSection, contract: Contract) -> list[str]:
    """Return the columns with few different words: categories, the label, and what parties are told apart by."""
    partition_ = None if isinstance(data.source, SyntheticMarket) else data.source.partition
    names = [column.name for column in contract.columns if isinstance(column, CategoryColumn)]
    names += [contract.label.column] if contract.label else []
    return names + ([partition_.column] if isinstance(partition_, ColumnPartition) else [])


def _labels(population: Population) -> npt.NDArray[np.float32] | None:
    return population.labels if "response" in population.target_names else None


def _hands(population: Population, data: DataSection, rng: np.random.Generator) -> dict[str, Indices]:
    if population.party is not None:
        return by_name(pl.Series(population.party))
    if isinstance(data.source, SyntheticMarket):
        raise DataError("synthetic market: expected a party for each row, got none")
    how, days = data.source.partition, population.first_days
    return partition(population.table, _labels(population), how, rng, first_days=days)


def _split(
    rows: Indices, customers: Indices | None, test_share: float, rng: np.random.Generator
) -> tuple[Indices, Indices]:
    """Training and test rows; where there are two customers, neither empty.

    Each is ascending or, where customers have several rows, sorted by customer; none has rows in both.
    """
    if customers is None:
        kept = _kept(rows.size, test_share)
        shuffled = rng.permutation(rows)
        return np.sort(shuffled[kept:]), np.sort(shuffled[:kept])
    rows = rows[np.argsort(customers[rows], kind="stable")]
    everyone = np.unique(customers[rows])
    held_out = np.isin(customers[rows], rng.permutation(everyone)[: _kept(everyone.size, test_share)])
    return rows[~held_out], rows[held_out]


def _kept(count: int, test_share: float) -> int:
    return min(max(round(count * test_share), 1), max(count - 1, 1))


def _customers(table: pl.DataFrame, contract: Contract) -> Indices | None:
    column = contract.privacy.customer_column
    if column is None:
        return None
    return words(table[column]).rank("dense").to_numpy().astype(np.int64)


def _check_training(party: str, rows: Indices, labels: npt.NDArray[np.float32] | None) -> None:
    if rows.size < FEWEST_TRAINING_ROWS:
        raise DataError(f"party {party!r}: expected {FEWEST_TRAINING_ROWS} training rows or more, got {rows.size}")
    positives = None if labels is None else int(labels[rows].sum())
    if positives in (0, rows.size):
        raise DataError(f"party {party!r}: expected both classes in training, got {positives} of {rows.size} positive")
