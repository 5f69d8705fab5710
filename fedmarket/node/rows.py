"""The partner's rows as its party trains on them, with the hashes that its ledger commits to.

Who is held out follows from a secret key beside the ledger and from each customer alone
(:func:`fedmarket.data.commitment.held_out`), so the split stays as it is however often the table is read.
"""

import secrets
from dataclasses import dataclass, field
from itertools import compress
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from fedmarket.arrays import RowNumbers
from fedmarket.contract.cells import words
from fedmarket.contract.check import Profile, check_table
from fedmarket.contract.layout import Layout
from fedmarket.contract.schema import Contract
from fedmarket.data.commitment import KEY_SIZE, canonical_lines, contents_hash, held_out, units_of
from fedmarket.data.encode import coded, targets_of
from fedmarket.data.segments import segments_of
from fedmarket.data.sources import read_source
from fedmarket.data.transactions import customers_with_counts
from fedmarket.errors import ConfigError, DataError, UsageError
from fedmarket.experiment.arms import layout_for
from fedmarket.experiment.market import MarketKey, open_market
from fedmarket.federation.rows import Rows
from fedmarket.files import appearing, read_private
from fedmarket.node.agreement import ARM, Agreement
from fedmarket.node.settings import Partner, TableRows

SPLIT = "split"
"""File with the key of the split, in the ledger's folder."""

MOST_LINES = 50_000_000
"""Lines of sale that are read; of customers, what ``federation.max_party_rows`` says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnRows:
    """What the party trains and tests on.

    Attributes:
        hashes: of the rows trained on and of those held out, as the ledger's commitment takes them.
        profile: counts of the whole table, for its owner's eyes; None for a simulated market's.
        test_seed: where a rehearsal's reproducible noise starts.
    """

    rows: Rows = field(repr=False)
    held_out: Rows = field(repr=False)
    hashes: tuple[str, str] = field(repr=False)
    profile: Profile | None = field(default=None, repr=False)
    test_seed: int = 0


def own_rows(partner: Partner, agreement: Agreement) -> OwnRows:
    """Return the partner's rows, encoded and split.

    Raises:
        ConfigError: if the source's settings or secrets cannot be used.
        DataError: if the table cannot be read, breaks the contract, or a side of the split is empty; counts only.
    """
    data = partner.section.data
    if isinstance(data, TableRows):
        return _of_table(partner, data, agreement)
    market = open_market(MarketKey(config=partner.federation, changes=(), seed=agreement.config.seeds[0]))
    party = market.party(ARM, partner.name)
    return OwnRows(
        rows=party.rows,
        held_out=party.held_out,
        hashes=market.row_hashes(partner.name),
        test_seed=party.test_seed,
    )


def _of_table(partner: Partner, data: TableRows, agreement: Agreement) -> OwnRows:
    contract, most = agreement.contract, agreement.terms.max_party_rows
    terms, said = contract.transactions, f"party {partner.name}"
    read = read_source(data.source, folder=partner.folder, most_rows=MOST_LINES if terms else most)
    table = customers_with_counts(read, terms, source=said).table if terms else read
    profile = check_table(table, contract, source=said)
    key = _split_key(partner.books)
    hashes, kept = _committed(read, contract, share=data.held_out_share, key=key)
    if terms:
        kept = held_out(units_of(table, contract), share=data.held_out_share, key=key)
    if not (kept.any() and not kept.all()):
        raise DataError(
            f"{said}: expected rows to train on and rows held out, got {kept.sum()} of {len(kept)} held out"
        )
    layout = layout_for(agreement.config, contract)
    train, test = (_encoded(table.filter(side), contract, layout) for side in (pl.Series(~kept), pl.Series(kept)))
    return OwnRows(rows=train, held_out=test, hashes=hashes, profile=profile)


def _committed(
    read: pl.DataFrame, contract: Contract, *, share: float, key: bytes
) -> tuple[tuple[str, str], npt.NDArray[np.bool_]]:
    """Return the hashes of what is trained on and of what is held out, and which lines of ``read`` are the latter."""
    lines = canonical_lines(read, contract)
    alone = contract.privacy.customer_column is None  # then a customer is a line, and there is no second list of them
    kept = held_out(lines if alone else units_of(read, contract), share=share, key=key)
    return (contents_hash(list(compress(lines, ~kept))), contents_hash(list(compress(lines, kept)))), kept


def _encoded(table: pl.DataFrame, contract: Contract, layout: Layout) -> Rows:
    customers = _customers(table, contract)
    if customers is not None:
        order = np.argsort(customers, kind="stable")
        table, customers = table[order], customers[order]
    return Rows(
        features=coded(table, layout),
        targets=targets_of(table, contract),
        segments=segments_of(table, contract),
        customers=customers,
    )


def _customers(table: pl.DataFrame, contract: Contract) -> RowNumbers | None:
    """A number for each row's customer, where a customer may have several rows."""
    column = contract.privacy.customer_column
    if column is None or contract.transactions is not None:
        return None
    found: npt.NDArray[np.int64] = words(table[column]).rank("dense").to_numpy().astype(np.int64)
    return found


def _split_key(books: Path) -> bytes:
    """Return the secret key of the split, made when there is none."""
    path = books / SPLIT
    try:
        if not path.exists():
            books.mkdir(parents=True, exist_ok=True, mode=0o700)
            with appearing(path, mode=0o600) as temporary:
                temporary.write_bytes(secrets.token_bytes(KEY_SIZE))
    except OSError as error:
        raise UsageError(f"{path}: cannot be used ({error.strerror or error})") from None
    key = read_private(path, what="key of the split", largest=KEY_SIZE + 1)
    if len(key) != KEY_SIZE:
        raise ConfigError(f"{path}: expected {KEY_SIZE} bytes, got {len(key)}; another key is another split")
    return key
