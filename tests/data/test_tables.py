"""Files are read whole or refused with one line that names the file and no cell."""

import gzip
import tracemalloc
from pathlib import Path

import polars as pl
import pytest

from fedmarket.contract.cells import can_be_numbers, numbers, words
from fedmarket.data.tables import compact, parse_csv, parse_long_csv, parse_spaced, read_table
from fedmarket.errors import TableError


def written(folder: Path, content: bytes, name: str = "customers.csv") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


def parquet(folder: Path, table: pl.DataFrame) -> bytes:
    table.write_parquet(folder / "whole.parquet")
    return (folder / "whole.parquet").read_bytes()


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("other", [",", ";", "\t"])
def test_the_separator_is_found_in_the_header_outside_of_quotes(tmp_path: Path, separator: str, other: str):
    text = separator.join([f'"a{other * 3}"', "b", "c"]) + "\n" + separator.join("123")
    table = read_table(written(tmp_path, text.encode()))
    assert table.to_dict(as_series=False) == {f"a{other * 3}": ["1"], "b": ["2"], "c": ["3"]}


@pytest.mark.parametrize("content", [b"a,b\n1,2", b"a,b\n1,2\n", b"a,b\r\n1,2\r\n\r\n", b"\xef\xbb\xbfa,b\n1,2\n"])
def test_line_ends_and_byte_order_mark_do_not_matter(tmp_path: Path, content: bytes):
    assert read_table(written(tmp_path, content)).rows(named=True) == [{"a": "1", "b": "2"}]


def test_cells_stay_the_text_they_are_and_empty_ones_are_null(tmp_path: Path):
    table = read_table(written(tmp_path, b'code,note\n01,"two\nlines"\n,x\n'))
    assert table.to_dict(as_series=False) == {"code": ["01", None], "note": ["two\nlines", "x"]}


def test_names_and_cells_in_any_script_are_read(tmp_path: Path):
    table = read_table(written(tmp_path, "年龄;城市\n31;北京\n".encode(), "客户.csv"))
    assert table.to_dict(as_series=False) == {"年龄": ["31"], "城市": ["北京"]}


def test_a_quote_within_a_cell_swallows_no_line(tmp_path: Path):
    table = read_table(written(tmp_path, b'size,n\n15" screen,1\n"17"" screen",2\n19",3\n'))
    assert table.rows() == [('15" screen', "1"), ('17" screen', "2"), ('19"', "3")]


def test_a_gzipped_csv_is_read(tmp_path: Path):
    assert read_table(written(tmp_path, gzip.compress(b"a\n1\n"), "x.csv.gz"))["a"].to_list() == ["1"]


def test_a_header_alone_is_a_table_without_rows(tmp_path: Path):
    assert read_table(written(tmp_path, b"a,b\n")).shape == (0, 2)


def test_one_column_may_have_blank_lines(tmp_path: Path):
    assert read_table(written(tmp_path, b"a\n1\n\n2\n"))["a"].to_list() == ["1", None, "2"]


def test_a_parquet_file_keeps_its_types(tmp_path: Path):
    table = pl.DataFrame({"a": [1, None], "b": [True, False], "c": ["x", ""]})
    assert read_table(written(tmp_path, parquet(tmp_path, table), "t.parquet")).equals(table)


@pytest.mark.parametrize("block", [1, 3, 6, 7])
def test_a_long_document_is_read_in_blocks_as_in_one_piece(monkeypatch: pytest.MonkeyPatch, block: int):
    lines = ["a;b", *(f'{number};"x\n{number}"' for number in range(6))]
    whole = parse_csv("\r\n".join(lines).encode(), source="x")
    monkeypatch.setattr("fedmarket.data.tables.BLOCK", block)
    assert parse_csv("\r\n".join(lines).encode(), source="x").equals(whole)
    assert whole.rows() == [(str(number), f"x\n{number}") for number in range(6)]
    for place in (3, 6):
        lines[place] += ";1"
    with pytest.raises(TableError, match=r"but 2 rows differ \(the first is row 3 below the header\)$"):
        parse_csv("\n".join(lines).encode(), source="x")
    lines[6] = '"'
    with pytest.raises(TableError, match=r"not a csv table \(line 12 cannot be parsed\)$"):
        parse_csv("\n".join(lines).encode(), source="x")


def test_a_long_document_takes_no_more_than_four_times_its_size_in_text_while_it_is_read(
    monkeypatch: pytest.MonkeyPatch,
):
    """Python's own text of each cell would take several times as much; columns are not traced."""
    monkeypatch.setattr("fedmarket.data.tables.BLOCK", 1000)
    content = b"a,b,c\n" + b"12345678,12345678,12345678\n" * 50_000
    tracemalloc.start()
    try:
        assert parse_csv(content, source="x").shape == (50_000, 3)
        assert tracemalloc.get_traced_memory()[1] <= 4 * len(content)
    finally:
        tracemalloc.stop()


SECRET = b"98765"


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("t.csv", b"", "the file is empty"),
        ("t.csv", b"\n\n", "the file is empty; expected a header line"),
        ("t.csv.gz", gzip.compress(b"", mtime=0), "the file is empty; expected a header line"),
        ("t.parquet", b"", "the file is empty"),
        (
            "t.csv",
            b"a,b\n98765,\xff\n",
            "expected UTF-8 text, but byte 10 is not; save it as CSV UTF-8, or convert it (iconv -f GB18030 -t UTF-8)",
        ),
        (
            "t.csv",
            b"a,b\n1,2\n98765\n98765,2,3\n",
            "expected 2 fields in each row, but 2 rows differ (the first is row 2 below the header)",
        ),
        (
            "t.csv",
            b"a,b\n1,2\n\n3,98765\n",
            "expected 2 fields in each row, but 1 rows differ (the first is row 2 below the header)",
        ),
        ("t.csv", b'a,b\n"98765,1\n', "not a csv table (line 2 cannot be parsed)"),
        ("t.csv", b'a,b\n"98765"x,1\n', "not a csv table (line 2 cannot be parsed)"),
        ("t.csv", b"98765,98765\n1,2\n", "the header uses 1 column names twice"),
        ("t.csv", b"a,,c\n1,98765,3\n", "the header has columns without a name (1 of 3)"),
        ("t.csv.gz", gzip.compress(b"a\n98765\n", mtime=0)[:-9], "not a whole gzip file (damaged or truncated)"),
        ("t.csv.gz", b"a\n98765\n", "not a whole gzip file (damaged or truncated)"),
        ("t.parquet", b"98765" * 10, "not a whole parquet file (damaged or truncated)"),
        ("t.xlsx", b"98765", "unknown kind of file; expected .csv, .csv.gz or .parquet"),
    ],
)
def test_a_bad_file_is_refused_in_one_line_without_a_cell(tmp_path: Path, name: str, content: bytes, said: str):
    path = written(tmp_path, content, name)
    with pytest.raises(TableError) as caught:
        read_table(path)
    assert str(caught.value) == f"{path}: {said}"
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize("kept", [0.99, 0.5, 0.1])
def test_a_truncated_parquet_file_is_refused(tmp_path: Path, kept: float):
    content = parquet(tmp_path, pl.DataFrame({"a": range(5000)}))
    path = written(tmp_path, content[: int(len(content) * kept)], "cut.parquet")
    with pytest.raises(TableError, match="not a whole parquet file"):
        read_table(path)


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path):
    (tmp_path / "folder.parquet").mkdir()
    for path in (tmp_path / "none.csv", tmp_path / "folder.parquet"):
        with pytest.raises(TableError, match=f"^{path}: cannot be read"):
            read_table(path)


@pytest.mark.parametrize(
    "content",
    ["客户;age\n李雷;31\n韩;\n", 'a,b\n"x, ""y""",01\n"",1e3\n', "\ufeffa\tb\r\n1\t2\r\n", "a,b\n", "a,b\n1,2"],
)
def test_a_well_formed_document_is_read_fast_as_it_is_read_slowly(content: str):
    fast, slow = (parse(content.encode(), source="x") for parse in (parse_long_csv, parse_csv))
    assert fast.equals(slow)
    assert fast.schema == slow.schema


@pytest.mark.parametrize("content", [b"", b"a,b\n1,2,98765\n"])
def test_a_fault_that_the_fast_reader_sees_is_told_without_a_cell(content: bytes):
    with pytest.raises(TableError, match=r"^x: not a csv table$") as caught:
        parse_long_csv(content, source="x")
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the file is empty"),
        (b"1 2\n1 2 3\n", r"expected 2 fields in each row, but 1 rows differ \(the first is row 2\)"),
        (b"\xff 1", "expected UTF-8 text, but byte 0 is not"),
    ],
)
def test_a_spaced_document_with_a_fault_is_refused(content: bytes, said: str):
    with pytest.raises(TableError, match=f"^master: {said}"):
        parse_spaced(content, columns=("a", "b"), source="master")


CELLS = {
    "whole": pl.Series([1, None, -70_000, 255], dtype=pl.Int64),
    "large": pl.Series([2**40, 0, 1, None], dtype=pl.UInt64),
    "real": pl.Series([0.1, None, 1e-300, 3.0], dtype=pl.Float64),
    "colour": pl.Series(["red", None, "", 'a "b", c'], dtype=pl.String),
    "note": pl.Series(["01", "1", None, "x"], dtype=pl.String),
    "answer": pl.Series([True, None, False, True], dtype=pl.Boolean),
}


def test_a_compact_table_is_the_same_as_csv_and_to_whoever_reads_its_cells():
    table = pl.DataFrame(CELLS)
    small = compact(table, repeating=["colour", "answer", "whole", "missing"])
    assert small.write_csv() == table.write_csv()
    for name in table.columns:
        assert words(small[name]).to_list() == words(table[name]).to_list()
        assert can_be_numbers(small[name]) == (can_be_numbers(table[name]) and name != "colour")
        if can_be_numbers(small[name]):
            assert numbers(small[name]).to_list() == numbers(table[name]).to_list()
    assert small.head(0).write_csv() == compact(table.head(0), repeating=["colour"]).write_csv()
    assert [cells.dtype for cells in small[["whole", "large", "note"]]] == [pl.Int32, pl.UInt64, pl.String]
    assert small["colour"].dtype == pl.Enum
