"""A partner's table comes from a file or from a real PostgreSQL server; errors tell neither password nor cell."""

import os
import re
import sys
import tomllib
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from fedmarket.data import postgresql
from fedmarket.data.sources import FileSource, PostgresqlSource, Source, read_source
from fedmarket.documents import Section, parse_document
from fedmarket.errors import ConfigError, TableError, UsageError

SECRET, CELL = "s3cret-9f2b", "987654321"
"""Those of the server's fixture."""


class Document(Section):
    source: Source


def source_of(text: str) -> FileSource | PostgresqlSource:
    return parse_document(Document, tomllib.loads(text), source="partner.toml").source


# What a document may say ------------------------------------------------------------------------------------------

BASE = 'kind = "postgresql"\nhost = "db.example"\ndatabase = "sales"\nuser = "reader"\nquery = "select 1"\n'


def test_a_document_names_a_file_or_a_query():
    found = source_of(f"[source]\n{BASE}password_env = 'PGSECRET'")
    assert isinstance(found, PostgresqlSource)
    assert (found.port, found.timeout_seconds, found.tls) == (5432, 600.0, "verify-full")
    assert source_of("[source]\nkind = 'file'\npath = 'a.csv'") == FileSource(kind="file", path="a.csv")


@pytest.mark.parametrize(
    ("host", "tls"),
    [
        *((here, "prefer") for here in ("localhost", "127.9.9.9", "::1", "/run/postgresql")),
        *((there, "verify-full") for there in ("10.0.0.1", "localhost.example", "127.0.0.1.example", "::ffff:1.2.3.4")),
    ],
)
def test_only_on_this_machine_may_a_line_be_unverified_unasked(host: str, tls: str):
    assert source_of(f"[source]\n{BASE}".replace("db.example", host)).tls == tls


@pytest.mark.parametrize(
    "query", ["SELECT 1", " with a as (select 1) select * from a", "-- why\n/* *** a */ select\n1;", "select*from t"]
)
def test_a_query_is_a_select(query: str):
    text = f"[source]\n{BASE}".replace('"select 1"', "'''" + query + "'''")
    assert source_of(text).query == query


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("select 1", "delete from t"), "expected one select or with"),
        (("select 1", "-- select 1"), "expected one select or with"),
        (("select 1", "selection"), "expected one select or with"),
        (("select 1", "set transaction read write"), "expected one select or with"),
        (("select 1", "/**/" * 5000), "expected one select or with"),
        (("db.example", f"postgresql://reader:{SECRET}@db.example/sales"), "host: seems to hold a password"),
        (('"sales"', f"\"sales password='{SECRET}'\""), "database: seems to hold a password"),
        (('"sales"', f'"postgresql://:{SECRET}@db/sales"'), "database: seems to hold a password"),
        (("select 1", f"select * from dblink('host=a password={SECRET}', 'b')"), "query: seems to hold a password"),
        (("db.example", "a.example,b.example"), "host: expected one name"),
        (('"reader"', '"reader sslmode=disable"'), "user: expected one name"),
        (('"reader"\n', f'"reader"\npassword = "{SECRET}"\n'), "password: unknown key"),
        (('"reader"\n', '"reader"\npassword_file = "a"\npassword_env = "B"\n'), "expected one of them or none"),
        (('"reader"\n', '"reader"\nsslmode = "prefer"\n'), "sslmode"),
        (('"reader"\n', '"reader"\ntimeout_seconds = 0\n'), "timeout_seconds"),
        (('"reader"\n', '"reader"\nport = 0\n'), "port"),
    ],
)
def test_a_document_that_holds_a_secret_or_no_query_is_refused(change: tuple[str, str], said: str):
    text = f"[source]\n{BASE}".replace(*change)
    with pytest.raises(ConfigError, match=re.escape(said)) as caught:
        source_of(text)
    assert SECRET not in str(caught.value)
    assert "\n" not in str(caught.value)


# The password -----------------------------------------------------------------------------------------------------


def password_of(folder: Path, **said: str) -> str | None:
    found = source_of(f"[source]\n{BASE}" + "".join(f"{key} = '{value}'\n" for key, value in said.items()))
    assert isinstance(found, PostgresqlSource)
    return postgresql._password(found, folder)


@pytest.mark.parametrize("content", [SECRET, f"{SECRET}\n", f"{SECRET}\r\n"])
def test_a_password_is_the_one_line_of_its_owners_file(tmp_path: Path, content: str):
    path = tmp_path / "password"
    path.write_bytes(content.encode())
    path.chmod(0o600)
    assert password_of(tmp_path, password_file="password") == SECRET


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_password_that_others_may_read_is_refused(tmp_path: Path, mode: int):
    path = tmp_path / "password"
    path.write_text(SECRET)
    path.chmod(mode)
    with pytest.raises(ConfigError, match="open to group or others; run chmod 600"):
        password_of(tmp_path, password_file="password")


@pytest.mark.parametrize("content", [b"", b"\n", b"a\nb\n", b"a\x00b", b"\xff", b"a" * 5000])
def test_a_password_file_that_is_not_one_line_is_refused(tmp_path: Path, content: bytes):
    path = tmp_path / "password"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="expected the password in one line"):
        password_of(tmp_path, password_file="password")


def test_a_password_behind_a_link_or_a_pipe_or_nowhere_is_refused(tmp_path: Path):
    (tmp_path / "real").write_text(SECRET)
    (tmp_path / "real").chmod(0o600)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name, said in (("link", "cannot be read"), ("none", "cannot be read"), ("pipe", "regular file")):
        with pytest.raises(ConfigError, match=said):
            password_of(tmp_path, password_file=name)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_password_of_another_user_is_refused(tmp_path: Path):
    path = tmp_path / "password"
    path.write_text(SECRET)
    path.chmod(0o600)
    os.chown(path, 65534, 65534)
    with pytest.raises(ConfigError, match="belongs to another user"):
        password_of(tmp_path, password_file="password")


def test_a_password_comes_from_the_environment_if_it_is_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("PGSECRET", SECRET)
    assert password_of(tmp_path, password_env="PGSECRET") == SECRET
    monkeypatch.setenv("PGSECRET", "")
    with pytest.raises(ConfigError, match="environment variable 'PGSECRET' is empty or not set"):
        password_of(tmp_path, password_env="PGSECRET")


# Files ------------------------------------------------------------------------------------------------------------


def test_a_file_is_found_beside_the_document_and_bounded(tmp_path: Path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "t.csv").write_text("a\n1\n2\n")
    file = FileSource(kind="file", path="data/t.csv")
    assert read_source(file, folder=tmp_path, most_rows=2)["a"].to_list() == ["1", "2"]
    with pytest.raises(TableError, match=r"t\.csv: expected at most 1 rows, got more"):
        read_source(file, folder=tmp_path, most_rows=1)


def test_short_floats_and_decimals_of_a_parquet_file_keep_their_digits(tmp_path: Path):
    table = pl.DataFrame(
        [pl.Series("f", [0.1, None], dtype=pl.Float32), pl.Series("d", ["1.10", None]).str.to_decimal(scale=2)]
    )
    table.write_parquet(tmp_path / "t.parquet")
    read = read_source(FileSource(kind="file", path="t.parquet"), folder=tmp_path, most_rows=9)
    assert read.to_dict(as_series=False) == {"f": [0.1, None], "d": ["1.10", None]}


# Queries ----------------------------------------------------------------------------------------------------------

TYPES = """
select * from (values
  (1, 12345678901234567890.10::numeric, true, 0.1::real, 0.30000000000000004::float8, 'ñandú "x"\n\t|,;'::text,
   date '2024-02-29', timestamp '2024-02-29 12:00:00.25', timestamptz '2024-02-29 12:00:00+02',
   3::bigint, 'ab'::char(3), '6a658e6d-0000-4000-8000-000000000001'::uuid),
  (null, null, null, null, null, '', null, null, null, null, null, null),
  (-2, 'NaN', false, 'Infinity', '-0', '客户 \x7f', '0001-01-01', '9999-12-31 23:59:59.999999', '2024-01-01 00:00:00Z',
   -9223372036854775808, '', null)
) as t (i, n, b, f, d, s, day, at, tz, big, padded, id)"""


def test_every_type_is_read_as_a_file_would_hold_it(server: Any):
    table = server.read(TYPES)
    assert table.schema == pl.Schema(
        {
            "i": pl.Int64,
            "n": pl.String,
            "b": pl.Boolean,
            "f": pl.Float64,
            "d": pl.Float64,
            "s": pl.String,
            "day": pl.Date,
            "at": pl.Datetime("us"),
            "tz": pl.Datetime("us", "UTC"),
            "big": pl.Int64,
            "padded": pl.String,
            "id": pl.String,
        }
    )
    assert table.row(1) == (None, None, None, None, None, "", None, None, None, None, None, None)
    first, last = table.row(0, named=True), table.row(2, named=True)
    assert (first["i"], first["n"], first["b"], first["f"]) == (1, "12345678901234567890.10", True, 0.1)
    assert (first["d"], first["s"], first["day"]) == (0.1 + 0.2, 'ñandú "x"\n\t|,;', date(2024, 2, 29))
    assert first["at"] == datetime(2024, 2, 29, 12, 0, 0, 250_000)
    assert first["tz"] == datetime(2024, 2, 29, 10, 0, tzinfo=UTC)
    assert (first["padded"], first["id"]) == ("ab ", "6a658e6d-0000-4000-8000-000000000001")
    assert (last["n"], last["f"], last["big"], last["s"]) == ("NaN", float("inf"), -(2**63), "客户 \x7f")
    assert (last["day"], last["at"]) == (date(1, 1, 1), datetime(9999, 12, 31, 23, 59, 59, 999_999))


def test_enums_and_domains_are_read_as_what_they_are_made_of(server: Any):
    server.owner("create type size as enum ('s', 'm')", "create domain cents as int", "create domain fit as size")
    table = server.read("select 's'::size as a, 5::cents as b, 'm'::fit as c")
    assert table.to_dict(as_series=False) == {"a": ["s"], "b": [5], "c": ["m"]}


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        (f"array[{CELL}]", "type int4[] has no place"),
        ("array['a']", "type text[] has no place"),
        (f"jsonb '{CELL}'", "type jsonb has no place"),
        (f"'{CELL}'::bytea", "type bytea has no place"),
        ("interval '1 day'", "type interval has no place"),
        ("money '5'", "type money has no place"),
        ("int4range(1, 2)", "has no place"),
        ("(1, 2)", "has no place"),
        ("array['a'::size_of]", "a type of the database's own has no place"),
        ("date 'infinity'", "1 values are not within the years 1 to 9999"),
        ("timestamp '0044-03-15 BC'", "1 values are not within the years 1 to 9999"),
        ("timestamptz '12024-01-01 00:00Z'", "1 values are not within the years 1 to 9999"),
    ],
)
def test_a_column_that_has_no_place_in_a_table_is_named(server: Any, cell: str, said: str):
    if "size_of" in cell:
        server.owner("drop type if exists size_of", "create type size_of as enum ('a')")
    assert said in (told := server.refused(f"select 1 as a, {cell} as odd"))
    assert told.startswith("column 'odd': ")


def test_columns_need_names_of_their_own_and_a_table_needs_rows(server: Any):
    assert server.refused("select 1 as a, 2 as a, 3 as b") == (
        "the query returns 3 columns, 1 of them with the name of another; give each its own with `as`"
    )
    assert server.refused("select from wide").startswith("the query returns 0 columns")
    assert server.refused("select n from wide where n < 0") == "the query returns no rows"


def test_rows_are_read_in_batches_and_bounded(server: Any):
    table = server.read("select n, c from wide order by n", most_rows=25_000)
    assert table["n"].to_list() == list(range(1, 25_001))
    assert server.refused("select n, c from wide", most_rows=24_999) == "expected at most 24999 rows, got more"
    # Without end: read no further than the bound.
    forever = "with recursive r (n) as (select 1 union all select n from r) select n from r"
    assert server.refused(forever, most_rows=1) == "expected at most 1 rows, got more"


def test_an_old_library_reads_row_by_row(server: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(postgresql, "_streams_batches", lambda: False)
    assert server.read("select n from wide order by n limit 10001")["n"].to_list() == list(range(1, 10_002))


@pytest.mark.parametrize(
    "query",
    [
        "with gone as (delete from wide returning n) select n from gone",
        "select nextval('counter')",
        "select 1 as a into copied",
        "select n from wide for update",
        "select set_config('transaction_read_only', 'off', true), nextval('counter')",
        "select 1 as a; delete from wide",
        "select 1 as a; commit; delete from wide",
    ],
)
def test_nothing_is_ever_written(server: Any, query: str):
    server.owner("create sequence if not exists counter", "grant all on counter, wide to reader")
    try:
        said = server.refused(query)
    finally:
        server.owner("revoke insert, update, delete, truncate on wide from reader")
    assert "would write" in said or "not one well-formed select" in said or "the query failed" in said
    assert server.owner("select count(*), (select is_called from counter) from wide") == [(25_000, False)]


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("select a from nowhere", "the query names a table that does not exist or is not in the user's search path"),
        ("select nothing from wide", "the query names a column that does not exist, at character 8 of it"),
        ("select a from closed", "the user may not read this; grant select on it"),
        ("select from from", "the query is not one well-formed select, at character 13 of it"),
        (f"select '{CELL}x'::text::int as a", "a cell does not allow what the query does with it (SQLSTATE 22P02)"),
        ("select c / (n - 20000) as a from wide", "a cell does not allow what the query does with it"),
        (f"select no_such('{CELL}')", "the query failed (SQLSTATE 42883), at character 8 of it"),
    ],
)
def test_a_query_that_fails_says_where_and_never_a_cell(server: Any, query: str, said: str):
    assert server.refused(query).startswith(said)


def test_a_slow_query_is_stopped_by_the_server(server: Any):
    assert server.refused("select pg_sleep(60)::text as a", timeout_seconds=1) == (
        "the query was stopped after 1 seconds (timeout_seconds), or cancelled at the server"
    )


def test_a_server_that_hangs_is_left(server: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(postgresql, "GRACE_SECONDS", -0.5)  # before the server's own time-out
    assert server.refused("select pg_sleep(60)::text as a", timeout_seconds=1) == (
        "the connection was lost, or the server silent for too long"
    )


def test_a_connection_that_is_cut_is_told(server: Any):
    assert server.refused("select pg_terminate_backend(pg_backend_pid())") in (
        "the connection was lost, or the server silent for too long",
        "the query failed (SQLSTATE 57P01); psql says why",
    )


# Connections ------------------------------------------------------------------------------------------------------


def test_a_socket_and_the_environment_serve_too(server: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PGSECRET", SECRET)
    table = server.read("select 1 as a", host=str(server.folder), user="owner", password_env="PGSECRET")
    assert table["a"].to_list() == [1]


def test_nobody_who_answers_is_told(server: Any):
    assert "nobody answers on this port" in server.refused("select 1", port=server.free_port())
    said = server.refused("select 1", host=str(server.folder / "none"), sslmode="disable")
    assert "no socket in this folder" in said
    assert "host's name is unknown" in server.refused("select 1", host="none.invalid", sslmode="require")


def test_a_wrong_password_or_none_is_told_and_never_shown(server: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PGSECRET", SECRET + "x")
    assert server.refused("select 1", password_env="PGSECRET") == (
        "cannot connect: wrong user or password; look at user, and at password_file or password_env"
    )
    monkeypatch.setenv("PGPASSFILE", str(server.folder / "none"))
    monkeypatch.delenv("PGPASSWORD", raising=False)
    said = server.refused("select 1", password_file=None)
    assert said == "cannot connect: the server asks for a password; set password_file or password_env"


def test_a_database_or_user_that_is_not_there_is_told(server: Any):
    assert "refuses this user, database or address" in server.refused("select 1", user="nobody")
    assert "refuses this user" in server.refused("select 1", database="nowhere")


def test_tls_where_the_server_asks_for_it(server: Any):
    assert "it wants TLS" in server.refused("select 1 as a", database="guarded", sslmode="disable")
    assert server.read("select 1 as a", database="guarded")["a"].to_list() == [1]


def test_a_verified_server_is_the_one_that_its_certificate_names(server: Any, monkeypatch: pytest.MonkeyPatch):
    strict = {"database": "guarded", "sslmode": "verify-full"}
    told = server.read(
        "select ssl from pg_stat_ssl where pid = pg_backend_pid()", root_certificate="server.crt", **strict
    )
    assert told["ssl"].to_list() == [True]
    for roots in ("other.crt", None):  # someone else's, and those that the machine trusts
        assert "is of nobody trusted" in server.refused("select 1", root_certificate=roots, **strict)
    assert "is of another host" in server.refused("select 1", root_certificate="server.crt", host="localhost", **strict)
    with pytest.raises(ConfigError, match=r"none\.crt: the root certificate cannot be read"):
        server.read("select 1", root_certificate="none.crt", **strict)


def test_a_password_is_not_told_in_clear_to_who_may_be_anyone(server: Any, monkeypatch: pytest.MonkeyPatch):
    assert server.read("select 1 as a", user="plain", sslmode="disable").height == 1
    monkeypatch.setattr(postgresql, "_is_here", lambda host: False)
    said = server.refused("select 1 as a", user="plain", sslmode="require")
    assert "asks for the password in clear" in said
    verified = {"sslmode": "verify-full", "root_certificate": "server.crt"}
    assert server.read("select 1 as a", user="plain", **verified).height == 1


def test_no_driver_is_told_with_the_name_of_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    source = source_of(f"[source]\n{BASE}")
    with pytest.raises(UsageError, match=r"^reading PostgreSQL needs psycopg: pip install 'fedmarket\[postgresql\]'$"):
        read_source(source, folder=tmp_path, most_rows=1)
