"""``fedmarket.check``: a table held against a contract, without torch."""

from pathlib import Path

import polars as pl

from fedmarket.contract.check import Profile, check_table
from fedmarket.contract.schema import load_contract
from fedmarket.data.tables import read_table
from fedmarket.data.transactions import customers_of


def check(table: pl.DataFrame | str | Path, *, contract: str | Path) -> Profile:
    """Return the profile of ``table``, which keeps every rule of the contract; it stays on this machine.

    Args:
        table: a data frame, or the path of a csv (also .gz) or parquet file. Under a contract with transactions it
            holds lines of sale.
        contract: path of the document.

    Raises:
        ContractViolation: with every broken rule, by column and count, and no cell (``violation.broken``).
        TableError: if the file cannot be read.
        ConfigError: if the contract cannot be read.
    """
    agreed, (rows, source) = load_contract(Path(contract)), opened(table)
    if agreed.transactions is not None:
        rows = customers_of(rows, agreed.transactions, source=source)
    return check_table(rows, agreed, source=source)


def opened(table: pl.DataFrame | str | Path) -> tuple[pl.DataFrame, str]:
    """Return a table that was given or named, and what to call it in an error."""
    if isinstance(table, pl.DataFrame):
        return table, "table"
    return read_table(Path(table)), str(table)
