"""``fedmarket.predict``: one's own customers scored with a released model, on one's own machine."""

import warnings
from pathlib import Path

import polars as pl

from fedmarket.api.tables import opened
from fedmarket.contract.schema import load_contract
from fedmarket.models.released import load_model
from fedmarket.scoring import scores_of


def predict(table: pl.DataFrame | str | Path, *, model: str | Path, contract: str | Path) -> pl.DataFrame:
    """Return what a released model says of each customer; no row leaves this machine.

    Args:
        table: a data frame, or the path of a csv (also .gz) or parquet file; it needs neither label nor value. Under a
            contract with transactions it holds lines of sale, and each customer gets one row.
        model: path of a ``model.safetensors``.
        contract: path of the document under which it was trained.

    Returns:
        The contract's customer column, or ``row`` (from 1) where each row is a customer, and what the model predicts:
        ``response_probability``, ``purchase_probability``, ``conditional_spend``, ``expected_value``.

    Raises:
        DataError: if model or table cannot be used.
        ConfigError: if the contract cannot be read, or is not the model's.

    A model that was trained without secret noise is warned of: neither it nor its scores may be released.
    """
    agreed = load_contract(Path(contract))
    released = load_model(Path(model), agreed)
    if not released.private:
        warnings.warn("NOT PRIVATE: this model was trained without secret noise; do not release it", stacklevel=2)
    rows, source = opened(table)
    return scores_of(released, rows, agreed, source=source)
