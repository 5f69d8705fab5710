"""Files read as tables: csv (also gzipped) and parquet, with errors that name the file and never a cell.

A csv cell is kept as the text it is and an empty one is null; the contract, not a guess from the rows, says which
columns are numbers. A guess would read the category ``"01"`` as ``1`` at one party and as text at another.
"""

import csv
import gzip
import io
import itertools
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from fedmarket.arrays import BLOCK
from fedmarket.errors import TableError

if TYPE_CHECKING:
    from _csv import Reader

SEPARATORS = (",", ";", "\t")


def read_table(path: Path) -> pl.DataFrame:
    """Return the table in the ``.csv``, ``.csv.gz`` or ``.parquet`` file at ``path``.

    Args:
        path: csv files are UTF-8 with a header line and fields separated by comma, semicolon or tab.

    Returns:
        The table. All columns of a csv file are text; a header alone is a table with no rows.

    Raises:
        TableError: one line that names the file: missing, unreadable, empty, damaged, not UTF-8, ragged.

    **Guarantees.** No error carries a cell: line numbers and counts only.
    """
    name = path.name.lower()
    if name.endswith(".parquet"):
        return _parquet(_content(path), source=str(path))
    if name.endswith(".csv"):
        return parse_csv(_content(path), source=str(path))
    if name.endswith(".csv.gz"):
        return parse_csv(unzipped(_content(path), source=str(path)), source=str(path))
    raise TableError(f"{path}: unknown kind of file; expected .csv, .csv.gz or .parquet")


def compact(table: pl.DataFrame, *, repeating: Collection[str]) -> pl.DataFrame:
    """Return the same cells in less memory: whole numbers as small as they are, and each different text once.

    Args:
        table: any.
        repeating: columns whose texts are few; one that is missing or holds no text is left as it is.

    **Guarantees.** The table is the same as CSV, and so to a hash, and the contract reads the same in each cell.
    """
    return pl.DataFrame([_compact(cells, repeats=cells.name in repeating) for cells in table.iter_columns()])


def _compact(cells: pl.Series, *, repeats: bool) -> pl.Series:
    if cells.dtype.is_integer():
        return cells.shrink_dtype()
    return cells.cast(pl.Enum(cells.unique().drop_nulls())) if repeats and cells.dtype == pl.String else cells


def parse_csv(content: bytes, *, source: str) -> pl.DataFrame:
    r"""Return the csv document ``content`` as a table of text columns; see :func:`read_table`.

    >>> parse_csv("客户;age\n李雷;31".encode(), source="example").columns
    ['客户', 'age']
    """
    content = content.rstrip(b"\r\n")
    text = _text(content, source)
    if not text:
        raise TableError(f"{source}: the file is empty; expected a header line")
    separator = _separator(text.partition("\n")[0])
    del text  # it is decoded again line by line, as it would take its size several times over
    lines = io.TextIOWrapper(io.BytesIO(content), encoding="utf-8-sig", newline="")
    return _table(csv.reader(lines, delimiter=separator, strict=True), source)


def parse_long_csv(content: bytes, *, source: str) -> pl.DataFrame:
    r"""Return what :func:`parse_csv` returns, twenty times as fast; for content that is known to be well formed.

    >>> parse_long_csv(b"a;b\n1;\n", source="example").rows()
    [('1', None)]

    Raises:
        TableError: without line numbers, where ``parse_csv`` tells them.
    """
    separator = _separator(_text(io.BytesIO(content).readline(), source))
    try:
        table = pl.read_csv(content, separator=separator, infer_schema=False)
    except pl.exceptions.PolarsError:
        raise TableError(f"{source}: not a csv table") from None
    return table.with_columns(pl.all().replace("", None))


def unzipped(content: bytes, *, source: str) -> bytes:
    """Return gzipped ``content`` unzipped, or raise a TableError that names ``source``."""
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error):
        raise TableError(f"{source}: not a whole gzip file (damaged or truncated)") from None


def _content(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise TableError(f"{path}: cannot be read ({error.strerror or 'unknown reason'})") from None
    if not content:
        raise TableError(f"{path}: the file is empty")
    return content


def _parquet(content: bytes, *, source: str) -> pl.DataFrame:
    try:
        return pl.read_parquet(io.BytesIO(content))
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException):
        raise TableError(f"{source}: not a whole parquet file (damaged or truncated)") from None


def _text(content: bytes, source: str) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        way_out = "save it as CSV UTF-8, or convert it (iconv -f GB18030 -t UTF-8)"
        raise TableError(f"{source}: expected UTF-8 text, but byte {error.start} is not; {way_out}") from None


def _separator(header: str) -> str:
    """The separator that occurs most often in the header, outside of quotes; comma where none does."""
    bare = "".join(header.split('"')[::2])
    return max(SEPARATORS, key=bare.count)


def _table(reader: "Reader", source: str) -> pl.DataFrame:
    """The table, made of blocks of rows, after checking that these are equally wide and that no name is used twice."""
    blocks: list[pl.DataFrame] = []
    ragged: list[int] = []
    try:
        header = next(reader)
        _check_header(header, source)
        # A blank line is a missing value in a table of one column and a broken row in any other.
        for first in itertools.count(1, BLOCK):
            rows = [fields or [""] for fields in itertools.islice(reader, BLOCK)]
            ragged += [number for number, fields in enumerate(rows, start=first) if len(fields) != len(header)]
            if not ragged and (rows or not blocks):
                blocks.append(_frame(header, rows))
            if len(rows) < BLOCK:
                break
    except csv.Error:
        raise TableError(f"{source}: not a csv table (line {reader.line_num} cannot be parsed)") from None
    if ragged:
        told = f"{len(ragged)} rows differ (the first is row {ragged[0]} below the header)"
        raise TableError(f"{source}: expected {len(header)} fields in each row, but {told}")
    return pl.concat(blocks)


def _frame(header: list[str], rows: list[list[str]]) -> pl.DataFrame:
    columns = zip(*rows, strict=True) if rows else ([] for _ in header)
    cells = [pl.Series(name, values, dtype=pl.String) for name, values in zip(header, columns, strict=True)]
    return pl.DataFrame([column.set(column == "", None) for column in cells])


def _check_header(header: list[str], source: str) -> None:
    # A file without a header would have cells here, so that only the number of names may be told.
    if len(set(header)) != len(header):
        raise TableError(f"{source}: the header uses {len(header) - len(set(header))} column names twice")
    if not header or not all(header):
        raise TableError(f"{source}: the header has columns without a name ({header.count('')} of {len(header)})")


def parse_spaced(content: bytes, *, columns: tuple[str, ...], source: str) -> pl.DataFrame:
    r"""Return a document of fields apart by white space, without a header, as a table of text columns.

    >>> parse_spaced(b" 00001 19970101\r\n", columns=("id", "day"), source="example").rows()
    [('00001', '19970101')]

    Raises:
        TableError: not UTF-8, no lines, or lines with another number of fields; line numbers and counts only.
    """
    try:
        rows = [fields for line in content.decode("utf-8-sig").splitlines() if (fields := line.split())]
    except UnicodeDecodeError as error:
        raise TableError(f"{source}: expected UTF-8 text, but byte {error.start} is not") from None
    if not rows:
        raise TableError(f"{source}: the file is empty")
    ragged = [number for number, fields in enumerate(rows, start=1) if len(fields) != len(columns)]
    if ragged:
        told = f"{len(ragged)} rows differ (the first is row {ragged[0]})"
        raise TableError(f"{source}: expected {len(columns)} fields in each row, but {told}")
    return pl.DataFrame(rows, schema=dict.fromkeys(columns, pl.String), orient="row")
