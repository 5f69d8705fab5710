"""Scoring a partner's own table with a released model, on the partner's own machine."""

from pathlib import Path

import polars as pl

from fedmarket.contract.check import check_table
from fedmarket.contract.schema import Contract
from fedmarket.data.encode import encode
from fedmarket.data.tables import read_table
from fedmarket.errors import UsageError
from fedmarket.files import appearing
from fedmarket.models.released import load_model, predict

PROBABILITY = "response_probability"


def score_file(model_path: Path, *, contract: Contract, data: Path, output: Path) -> int:
    """Write each customer's response probability to ``output`` and return how many were scored.

    The first column is the contract's customer column, or ``row`` (from 1, the header not counted) where each row is a
    customer.

    Raises:
        UsageError: if ``output`` is neither csv nor parquet.
        DataError: if model or table cannot be used; nothing is written then.
    """
    if output.suffix not in (".csv", ".parquet"):
        raise UsageError(f"{output}: expected a name that ends in .csv or .parquet")
    model, state, layout = load_model(model_path, contract)
    table = read_table(data)
    check_table(table, contract, source=str(data), label_expected=False)
    features = encode(table, contract, layout, label_expected=False).features
    scores = pl.DataFrame({PROBABILITY: predict(model, state, features)})
    scores = scores.insert_column(0, _customers(table, contract))
    with appearing(output) as temporary:
        if output.suffix == ".csv":
            scores.write_csv(temporary)
        else:
            scores.write_parquet(temporary)
    return scores.height


def _customers(table: pl.DataFrame, contract: Contract) -> pl.Series:
    column = contract.privacy.customer_column
    if column is not None and column in table.columns:
        return table[column]
    return pl.Series("row", range(1, table.height + 1), dtype=pl.Int64)
