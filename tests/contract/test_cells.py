"""The one reading of cells that check and encoding share."""

import polars as pl
import pytest

from fedmarket.contract.cells import misspelt, numbers, words
from fedmarket.contract.schema import NumericColumn

COLUMN = NumericColumn(name="x", kind="numeric", lower=0, upper=1, missing_codes=(-1, 999))


@pytest.mark.parametrize(
    ("cells", "read"),
    [
        (pl.Series(["a", "", None]), ["a", None, None]),
        (pl.Series([1, None]), ["1", None]),
        (pl.Series([True, False]), ["true", "false"]),
        (pl.Series(["a", "", None], dtype=pl.Categorical), ["a", None, None]),
        (pl.Series([None, None], dtype=pl.Null), [None, None]),
        (pl.Series([], dtype=pl.String), []),
    ],
)
def test_words_are_text_and_empty_text_is_missing(cells: pl.Series, read: list[str | None]):
    assert words(cells).to_list() == read


@pytest.mark.parametrize(
    ("cells", "read", "wrong"),
    [
        (pl.Series(["1", "-1", "999.0", "", None, "x"]), [1.0, None, None, None, None, None], 1),
        (pl.Series([1, -1, 999, None]), [1.0, None, None, None], 0),
        (pl.Series([None], dtype=pl.Null), [None], 0),
    ],
)
def test_codes_and_empty_cells_are_missing_and_other_text_is_misspelt(
    cells: pl.Series, read: list[float | None], wrong: int
):
    assert numbers(cells, COLUMN).to_list() == read
    assert misspelt(cells) == wrong
