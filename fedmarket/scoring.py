"""Scoring a partner's own table with a released model, on the partner's own machine."""

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from fedmarket.contract.check import check_table
from fedmarket.contract.schema import Contract
from fedmarket.data.encode import coded
from fedmarket.data.tables import read_table
from fedmarket.data.transactions import customers_of
from fedmarket.errors import UsageError
from fedmarket.files import appearing
from fedmarket.models.released import ReleasedModel, load_model, predict

COLUMNS = {
    "response": "response_probability",
    "purchase": "purchase_probability",
    "conditional": "conditional_spend",
    "value": "expected_value",
}
"""What the columns of scores are called, by what the model predicts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scored:
    """How many customers were scored, and whether the model was trained with privacy."""

    customers: int
    private: bool


def score_file(model_path: Path, *, contract: Contract, data: Path, output: Path) -> Scored:
    """Write what the model says of each customer to ``output``: probabilities, and spend in the contract's currency.

    Under a contract with transactions ``data`` holds lines of sale, and each customer with a purchase has a row.

    The first column is the contract's customer column, or ``row`` (from 1, the header not counted) where each row is a
    customer.

    Raises:
        UsageError: if ``output`` is neither csv nor parquet.
        DataError: if model or table cannot be used; nothing is written then.
    """
    if output.suffix.lower() not in (".csv", ".parquet"):
        raise UsageError(f"{output}: expected a name that ends in .csv or .parquet")
    if any(output.resolve() == given.resolve() for given in (data, model_path)):
        raise UsageError(f"{output}: is an input of this command; scores must go into a file of their own")
    released = load_model(model_path, contract)
    scores = scores_of(released, read_table(data), contract, source=str(data))
    with appearing(output) as temporary:
        if output.suffix.lower() == ".csv":
            scores.write_csv(temporary)
        else:
            scores.write_parquet(temporary)
    return Scored(customers=scores.height, private=released.private)


def scores_of(released: ReleasedModel, table: pl.DataFrame, contract: Contract, *, source: str) -> pl.DataFrame:
    """Return what the model says of each customer of ``table``; see :func:`score_file`, and ``source`` in errors."""
    if contract.transactions is not None:
        table = customers_of(table, contract.transactions, source=source)
    check_table(table, contract, source=source, label_expected=False)
    prediction = predict(released.model, released.objective, released.state, coded(table, released.layout))
    scores = pl.DataFrame({COLUMNS[name]: values for name, values in prediction.columns.items()})
    return scores.insert_column(0, _customers(table, contract))


def _customers(table: pl.DataFrame, contract: Contract) -> pl.Series:
    column = contract.privacy.customer_column
    if column is not None and column in table.columns:
        return table[column]
    return pl.Series("row", range(1, table.height + 1), dtype=pl.Int64)
