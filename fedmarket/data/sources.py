"""Where a partner's own table comes from: a file, or one query to its PostgreSQL database.

A source is a section of the partner's document. What is read is a table as a file would hold it, so that the
contract's check, the encoding and the commitment do not depend on the source.
"""

from pathlib import Path
from typing import Annotated, Literal

import polars as pl
from pydantic import Field

from fedmarket.data.postgresql import PostgresqlSource, read_postgresql
from fedmarket.data.tables import read_table
from fedmarket.documents import Name, Section
from fedmarket.errors import TableError

__all__ = ["FileSource", "PostgresqlSource", "Source", "read_source"]


class FileSource(Section):
    """A ``.csv``, ``.csv.gz`` or ``.parquet`` file; its path is relative to the document."""

    kind: Literal["file"]
    path: Name


Source = Annotated[FileSource | PostgresqlSource, Field(discriminator="kind")]


def read_source(source: FileSource | PostgresqlSource, *, folder: Path, most_rows: int) -> pl.DataFrame:
    """Return the table that ``source`` names.

    Args:
        source: a section of a partner's document.
        folder: where the document is; paths in it are relative to this.
        most_rows: a table with more rows is refused; of a query at most one batch more is ever held.

    Returns:
        The table. Of a query: whole numbers as int64, ``real`` and ``double precision`` as float64, ``numeric``,
        text, enums and uuids as text, truth values, dates, timestamps in microseconds, those with a time zone in UTC.
        Of a parquet file decimals are text and short floats float64 with the same digits, as csv would tell them.

    Raises:
        ConfigError: if the password cannot be had, or nothing says which certificates to trust.
        UsageError: if psycopg is not installed.
        TableError: one line that names the file, or host and database: it cannot be reached or read, the query fails
            or takes too long, a column's type has no place in a table, there are no rows or too many.

    **Guarantees.** No error carries a password or a cell.
    """
    if isinstance(source, FileSource):
        path = folder / source.path
        table = _as_csv_would_tell(read_table(path))
        if table.height > most_rows:
            raise TableError(f"{path}: expected at most {most_rows} rows, got more")
        return table
    return read_postgresql(source, folder=folder, most_rows=most_rows)


def _as_csv_would_tell(table: pl.DataFrame) -> pl.DataFrame:
    """Decimals keep their digits as text; 0.1 in half or single precision is 0.1, and not what is nearest to it."""
    short = pl.col(pl.Float16, pl.Float32)
    return table.with_columns(pl.col(pl.Decimal).cast(pl.String), short.cast(pl.String).cast(pl.Float64))
