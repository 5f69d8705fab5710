"""The simulated market of one seed: every party's encoded rows, dealt once and used by all arms."""

import hashlib
import math
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import polars as pl
import torch

from fedmarket.arrays import RowNumbers, blocks_of
from fedmarket.config import DataSection, ExperimentConfig, load_config
from fedmarket.contract.layout import Layout
from fedmarket.contract.schema import Contract, load_contract
from fedmarket.data.coded import Coded
from fedmarket.data.encode import coded
from fedmarket.data.population import Deal, Population, deal, load_population
from fedmarket.errors import ConfigError
from fedmarket.experiment.arms import Arm, layout_for, terms_of
from fedmarket.federation.party import Party
from fedmarket.federation.rehearsal import need_rehearsable
from fedmarket.federation.rows import Rows
from fedmarket.federation.seat import Seat
from fedmarket.federation.terms import Terms


@dataclass(frozen=True, slots=True, kw_only=True)
class MarketKey:
    """Which market: an experiment's document, the changes to it, and the seed of the deal."""

    config: Path
    changes: tuple[str, ...]
    seed: int


POOL = "all rows in one place"
"""Name of the single party of the pooled arms."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Market:
    """All rows of an experiment, encoded, and one seed's deal of them; two are equal if they are the same object."""

    config: ExperimentConfig
    contract: Contract
    layout: Layout
    population: Population = field(repr=False)
    features: Coded = field(repr=False)
    deal: Deal = field(repr=False)
    seed: int

    @property
    def names(self) -> tuple[str, ...]:
        """The parties, sorted."""
        return tuple(sorted(self.deal.train))

    @property
    def test_rows(self) -> RowNumbers:
        """Row numbers of the common test set, all parties' together."""
        return np.concatenate([self.deal.test[name] for name in self.names])

    @property
    def train_rows(self) -> RowNumbers:
        """Row numbers of all parties' training rows."""
        return np.concatenate([self.deal.train[name] for name in self.names])

    def holders(self, arm: Arm, *, alone: str) -> tuple[str, ...]:
        """Return who takes part in ``arm``; ``alone`` names the party where each is on its own."""
        if arm.holders == "parties":
            return self.names
        return (POOL,) if arm.holders == "pooled" else (alone,)

    def party(self, arm: Arm, name: str, *, seat: Seat | None = None, terms: Terms | None = None) -> Party:
        """Return the party called ``name`` with its training rows, under the terms of ``arm`` where none are given.

        Raises:
            ConfigError: if there is no such party.
        """
        members = self.names if name == POOL else (name,)
        if not set(members) <= set(self.names):
            raise ConfigError(f"party: expected one of {', '.join(self.names)}, got {name!r}")
        return Party(
            name=name,
            terms=terms or terms_of(arm, self.config, self.contract, seed=self.seed),
            rows=self._rows(self.deal.train, members),
            held_out=self._rows(self._held_out(members), members),
            declared_rows=sum(declared_rows(self.customers_in(self.deal.train[member])) for member in members),
            seat=seat,
            device=self.config.device,
            test_seed=self.seed,
        )

    def row_hashes(self, name: str) -> tuple[str, str]:
        """Return what a party's ledger commits to: hashes of its training rows and of its test rows.

        Each is SHA-256 of the contract's columns of these rows as CSV, in their order.
        """
        table = self.population.table
        return _hash_of(table, self.deal.train[name]), _hash_of(table, self.deal.test[name])

    def _held_out(self, members: tuple[str, ...]) -> dict[str, RowNumbers]:
        """Return the test rows of ``members``, without customers whom another of them trains on."""
        customers = self.population.customers
        if customers is None or len(members) == 1:
            return self.deal.test
        trained = np.concatenate([customers[self.deal.train[member]] for member in members])
        return {name: rows[~np.isin(customers[rows], trained)] for name, rows in self.deal.test.items()}

    def _rows(self, dealt: dict[str, RowNumbers], members: tuple[str, ...]) -> Rows:
        numbers = np.concatenate([dealt[member] for member in members])
        customers, segments = self.population.customers, self.population.segments
        if customers is not None:
            # Pooled rows come from several parties: a customer of two of them is one customer here.
            numbers = numbers[np.argsort(customers[numbers], kind="stable")]
        return Rows(
            features=self.features.taken(numbers),
            targets=self.population.targets[numbers],
            segments=None if segments is None else segments[numbers],
            customers=None if customers is None else customers[numbers],
        )

    def customers_in(self, rows: RowNumbers) -> int:
        """Return how many customers ``rows`` belong to."""
        customers = self.population.customers
        return len(rows) if customers is None else len(np.unique(customers[rows]))

    def check(self, arm: Arm) -> None:
        """Find now what would keep a party out of ``arm``: during a run it would be rejected and the others go on.

        Raises:
            UsageError: if configuration or contract do not fit the number and the sizes of the parties.
            DataError: if a party's rows cannot be used.
        """
        federation = self.config.federation
        parties, most, least = len(self.names), federation.max_parties, federation.minimum_survivors
        if parties > most:
            raise ConfigError(f"federation.max_parties: the data has {parties} parties, got {most}")
        if parties < least:
            raise ConfigError(f"federation.minimum_survivors: the data has {parties} parties, got {least}")
        if self.config.device == "cuda" and not torch.cuda.is_available():
            raise ConfigError('device: this machine has no CUDA that torch can use; set device = "cpu"')
        if self.config.aggregation.secagg == "secure":
            need_rehearsable(self.names, minimum_survivors=least)
        for name in self.names:
            self.party(arm, name)


def declared_rows(rows: int) -> int:
    """Return the public size that a simulated party declares: its rows to two significant digits, and to tens at least.

    A size is a business fact that partners tell each other before a run. It is not covered by epsilon: the guarantee is
    for neighbouring tables of the same declared size, and at a rounding edge one row can tip it.

    >>> declared_rows(8337), declared_rows(264), declared_rows(27)
    (8300, 260, 30)
    """
    step = int(10 ** max(int(math.log10(rows)) - 1, 1))
    return max(step, round(rows / step) * step)


def _hash_of(table: pl.DataFrame, rows: RowNumbers) -> str:
    """Return the SHA-256 of some rows as CSV, of which a block at a time is there as text."""
    digest = hashlib.sha256()
    for block in blocks_of(len(rows)):
        digest.update(table[rows[block]].write_csv(include_header=block.start == 0).encode())
    return digest.hexdigest()


def forget_markets() -> None:
    """Read documents and table anew the next time: they may have changed since."""
    for cached in (_population, _features, open_market):
        cached.cache_clear()


@lru_cache(maxsize=1)
def _population(data: DataSection, contract: Contract) -> Population:
    return load_population(data, contract)


@lru_cache(maxsize=1)
def _features(data: DataSection, contract: Contract, layout: Layout) -> Coded:
    return coded(_population(data, contract).table, layout)


@lru_cache(maxsize=2)
def open_market(key: MarketKey) -> Market:
    """Return the market of ``key``; its table is read and encoded once a process.

    Raises:
        FedmarketError: what the configuration, the contract or the data got wrong, by name.
    """
    config = load_config(key.config, changes=key.changes)
    contract = load_contract(Path(config.data.contract))
    layout = layout_for(config, contract)
    population = _population(config.data, contract)
    features = _features(config.data, contract, layout)
    return Market(
        config=config,
        contract=contract,
        layout=layout,
        population=population,
        features=features,
        deal=deal(population, config.data, seed=key.seed),
        seed=key.seed,
    )
