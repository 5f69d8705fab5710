"""A partner's own table as one query to its PostgreSQL database.

The section of the document never holds a password: that is in a file which only its owner may read, or in an
environment variable. No error carries a password or a cell: a server's own words may quote one and so are not passed
on.

The query runs in a read-only transaction of its own, alone in its message: that, at the server, is what keeps it from
writing or from being two. It can still read what its user may read and call what its user may call, so the user should
have ``select`` on what is needed and nothing else.
"""

import os
import re
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from ipaddress import ip_address
from itertools import islice
from pathlib import Path
from threading import Timer
from typing import TYPE_CHECKING, Annotated, Literal, Self

import polars as pl
from pydantic import Field, model_validator

from fedmarket.documents import Name, Number, Section
from fedmarket.errors import ConfigError, TableError, UsageError
from fedmarket.files import read_private

if TYPE_CHECKING:
    import psycopg

LARGEST_SECRET = 4096
"""Bytes of a password file."""

CONNECT_SECONDS = 15
GRACE_SECONDS = 30
"""How long after its own time-out a server may stay silent before the connection is cut."""

_BATCH = 10_000
_READS = re.compile(r"(\s|--[^\n]*\n|/\*[^*]*\*+([^/*][^*]*\*+)*/)*(select|with)\b", re.IGNORECASE)
_SECRETS = re.compile(r"\bpassword['\"]?\s*(=|:|'|=>)|\b(pgpass|passfile)\b|://[^\s/@]*:[^\s/@]*@", re.IGNORECASE)
_VERIFIED = ("verify-ca", "verify-full")


class PostgresqlSource(Section):
    """One query to a PostgreSQL server.

    ``host`` is a name, an address or the folder of a Unix socket. ``query`` is one ``select`` or ``with``.

    The password is in ``password_file`` (its owner's alone, relative to the document) or in the environment variable
    that ``password_env`` names; with neither, the server must know the user in another way (peer, certificate).

    ``sslmode`` is libpq's; without it, ``verify-full``, or on this machine TLS where the server has it. The server's
    certificate is held against ``root_certificate``, a PEM file, or without it against those that the machine trusts.

    ``timeout_seconds`` bounds the whole query.
    """

    kind: Literal["postgresql"]
    host: Name
    port: Annotated[int, Field(ge=1, le=65535)] = 5432
    database: Name
    user: Name
    query: Name
    sslmode: Literal["disable", "require", "verify-ca", "verify-full"] | None = None
    root_certificate: Name | None = None
    password_file: Name | None = None
    password_env: Name | None = None
    timeout_seconds: Annotated[Number, Field(ge=1, le=86_400)] = 600.0

    @model_validator(mode="after")
    def _whole(self) -> Self:
        for broken in _broken_rules(self):
            raise ValueError(broken)
        return self

    @property
    def tls(self) -> str:
        """The ``sslmode`` in force."""
        return self.sslmode or ("prefer" if _is_here(self.host) else "verify-full")

    def __str__(self) -> str:
        return f"PostgreSQL database {self.database!r} at {self.host}:{self.port}"


def read_postgresql(source: PostgresqlSource, *, folder: Path, most_rows: int) -> pl.DataFrame:
    """Return the rows of the query; see :func:`fedmarket.data.sources.read_source`."""
    with _transaction(source, folder) as connection:
        pieces = list(_pieces(connection, source, most_rows))
    if not pieces:
        raise TableError(f"{source}: the query returns no rows")
    return pl.concat(pieces, rechunk=True)


def _broken_rules(source: PostgresqlSource) -> Iterator[str]:
    """One line for each rule on what may stand in a document; none quotes what stands there."""
    for key in ("host", "database", "user", "query"):
        if _SECRETS.search(getattr(source, key)):
            yield f"{key}: seems to hold a password; it belongs in password_file or password_env"
    for key in ("host", "database", "user"):
        if re.search(r"[\s,=\x00]|://", getattr(source, key)):
            yield f"{key}: expected one name, not a connection string or a list"
    if "\x00" in source.query or not _READS.match(source.query):
        yield "query: expected one select or with"
    if source.password_file is not None and source.password_env is not None:
        yield "password_file, password_env: expected one of them or none"


def _is_here(host: str) -> bool:
    """Whether the host is a Unix socket or a loopback address."""
    if host.startswith(("/", "@")) or host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _password(source: PostgresqlSource, folder: Path) -> str | None:
    if source.password_file is not None:
        path = folder / source.password_file
        return _secret_in(path)
    if source.password_env is None:
        return None
    found = os.environ.get(source.password_env)
    if not found:
        raise ConfigError(f"password_env: the environment variable {source.password_env!r} is empty or not set")
    return found


def _secret_in(path: Path) -> str:
    """Return the one line of a file that is its owner's alone."""
    content = read_private(path, what="password", largest=LARGEST_SECRET + 1)
    try:
        secret = content.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        secret = ""
    if len(content) > LARGEST_SECRET or not secret or re.search(r"[\x00\r\n]", secret):
        raise ConfigError(f"{path}: expected the password in one line of UTF-8, at most {LARGEST_SECRET} bytes")
    return secret


def _root_certificate(source: PostgresqlSource, folder: Path) -> str | None:
    if source.tls not in _VERIFIED:
        return None
    # What libpq calls "system" is the store that it was built for, which need not be this machine's.
    path = folder / source.root_certificate if source.root_certificate else ssl.get_default_verify_paths().cafile
    if path is None:
        raise ConfigError("root_certificate: missing, and this machine has no store of trusted certificates")
    if not os.access(path, os.R_OK):
        raise ConfigError(f"{path}: the root certificate cannot be read")
    return str(path)


@contextmanager
def _transaction(source: PostgresqlSource, folder: Path) -> "Iterator[psycopg.Connection]":
    """A connection in a read-only transaction; the driver's errors become ours, without its words."""
    try:
        import psycopg  # noqa: PLC0415
    except ImportError:
        raise UsageError("reading PostgreSQL needs psycopg: pip install 'fedmarket[postgresql]'") from None
    secret, roots = _password(source, folder), _root_certificate(source, folder)
    try:
        connection = psycopg.connect(
            host=source.host,
            port=source.port,
            dbname=source.database,
            user=source.user,
            password=secret,
            sslmode=source.tls,
            sslrootcert=roots,
            # A server that is not known to be the right one must not be told the password itself.
            require_auth=None if source.tls in _VERIFIED or _is_here(source.host) else "!password",
            gssencmode="disable",
            connect_timeout=CONNECT_SECONDS,
            client_encoding="UTF8",
            application_name="fedmarket",
        )
    except psycopg.Error as error:
        raise TableError(f"{source}: {_why_not_connected(str(error))}") from None
    try:
        with connection, _cut_after(connection, source.timeout_seconds + GRACE_SECONDS):
            connection.read_only = True
            yield connection
    except (psycopg.Error, UnicodeDecodeError) as error:
        code = error.sqlstate if isinstance(error, psycopg.Error) else "22021"
        place = error.diag.statement_position if isinstance(error, psycopg.Error) else None
        raise TableError(f"{source}: {_why_stopped(code, place, source.timeout_seconds)}") from None


@contextmanager
def _cut_after(connection: "psycopg.Connection", seconds: float) -> Iterator[None]:
    """Cut the connection after ``seconds``: a server that hangs keeps no time-out of its own."""
    with socket.socket(fileno=os.dup(connection.fileno())) as line:

        def cut() -> None:
            with suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)

        timer = Timer(seconds, cut)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
            timer.join()


def _pieces(connection: "psycopg.Connection", source: PostgresqlSource, most_rows: int) -> Iterator[pl.DataFrame]:
    """The rows in batches, each a table; every cell comes as text, which is read here."""
    from psycopg.types.string import TextLoader  # noqa: PLC0415

    with connection.cursor() as cursor:
        cursor.execute(
            "select set_config('statement_timeout', %s, true), set_config('TimeZone', 'UTC', true),"
            " set_config('DateStyle', 'ISO, YMD', true), set_config('extra_float_digits', '3', true)",
            [str(int(source.timeout_seconds * 1000))],
        )
        cursor.execute("select oid::bigint from pg_catalog.pg_type where typtype = 'e' or typname = 'citext'")
        words = {int(row[0]) for row in cursor.fetchall()}
    for name in _READERS:
        connection.adapters.register_loader(name, TextLoader)
    with connection.cursor() as cursor:
        # Each batch of the stream is freed before the next; before libpq 17 there are no batches, only rows.
        rows = cursor.stream(source.query.encode(), size=_BATCH if _streams_batches() else 1)
        with _left_at_once(connection):
            readers: dict[str, Reader] = {}
            read = 0
            while batch := list(islice(rows, _BATCH)):
                read += len(batch)
                if read > most_rows:
                    raise TableError(f"{source}: expected at most {most_rows} rows, got more")
                readers = readers or _readers(cursor, words, source)
                columns = zip(readers.items(), zip(*batch, strict=True), strict=True)
                yield pl.DataFrame([_column(name, reader, cells, source) for (name, reader), cells in columns])


@contextmanager
def _left_at_once(connection: "psycopg.Connection") -> Iterator[None]:
    """Close the connection where rows are left behind: the driver would wait for the lock that their stream holds."""
    try:
        yield
    except BaseException:
        connection.close()
        raise


def _streams_batches() -> bool:
    from psycopg import pq  # noqa: PLC0415

    return pq.version() >= 170_000


Reader = Callable[[pl.Series], pl.Series]


def _column(name: str, reader: Reader, cells: tuple[str | None, ...], source: PostgresqlSource) -> pl.Series:
    said = pl.Series(name, cells, dtype=pl.String)
    read = reader(said)
    if count := read.null_count() - said.null_count():
        raise TableError(f"{source}: column {name!r}: {count} values are not within the years 1 to 9999")
    return read


def _readers(cursor: "psycopg.Cursor", words: set[int], source: PostgresqlSource) -> "dict[str, Reader]":
    """How each column is read, by its type; ``words`` are the database's own types that are text."""
    columns = cursor.description or []
    names = [column.name for column in columns]
    if not names or len(set(names)) != len(names):
        raise TableError(
            f"{source}: the query returns {len(names)} columns, {len(names) - len(set(names))} of them with the name "
            "of another; give each its own with `as`"
        )
    found = {}
    for column in columns:
        known = cursor.adapters.types.get(column.type_code)
        reader = _READERS.get(known.name) if known and column.type_code == known.oid else None
        if reader is None and column.type_code not in words:
            told = f"type {column.type_display}" if known else "a type of the database's own"
            raise TableError(
                f"{source}: column {column.name!r}: {told} has no place in a table; cast it to text, a number, a date "
                "or a timestamp in the query"
            )
        found[column.name] = reader or _as_it_is
    return found


def _as_it_is(said: pl.Series) -> pl.Series:
    return said


def _time(said: pl.Series) -> pl.Series:
    return said.str.to_datetime("%Y-%m-%d %H:%M:%S%.f", time_unit="us", strict=False)


_READERS: dict[str, Reader] = {
    **dict.fromkeys(("int2", "int4", "int8"), lambda said: said.cast(pl.Int64)),
    **dict.fromkeys(("float4", "float8"), lambda said: said.cast(pl.Float64)),
    # Text keeps all digits; the contract reads it as it reads csv, as a number or as words.
    **dict.fromkeys(("numeric", "text", "varchar", "bpchar", "name", "uuid"), _as_it_is),
    "bool": lambda said: said == "t",
    "date": lambda said: said.str.to_date("%Y-%m-%d", strict=False),
    "timestamp": _time,
    "timestamptz": lambda said: _time(said.str.strip_suffix("+00")).dt.replace_time_zone("UTC"),
}

_NOT_CONNECTED = {
    "password authentication failed": "wrong user or password; look at user, and at password_file or password_env",
    "no password supplied": "the server asks for a password; set password_file or password_env",
    "authentication method requirement": "asks for the password in clear over a line that is not verified; use TLS "
    'with sslmode = "verify-full"',
    "certificate verify failed": "its certificate is of nobody trusted; set root_certificate to whoever signed it",
    "does not match host name": "its certificate is of another host; use the name in it, or have it renewed",
    "does not support ssl": "it offers no TLS, which sslmode asks for",
    "ssl encryption": "it refuses this user, database or address (pg_hba.conf)",
    "no encryption": 'it wants TLS (or refuses this user or address, pg_hba.conf); set sslmode = "verify-full"',
    "pg_hba.conf": "it refuses this user, database or address (pg_hba.conf)",
    "does not exist": "it has no such database or user; look at database and user",
    "connection refused": "nobody answers on this port; is the server running, and are host and port right?",
    "no such file": "there is no socket in this folder; is the server running, and is host right?",
    "resolve": "the host's name is unknown; look at host",
    "translate host name": "the host's name is unknown; look at host",
    "timeout": "no answer; is there a way through the network, and are host and port right?",
    "too many": "it has no connection to spare",
}
"""What libpq and servers say in English, and what to do about it, with the setting's key; the first that fits."""

_STOPPED = {
    "42P01": "the query names a table that does not exist or is not in the user's search path",
    "42703": "the query names a column that does not exist",
    "42601": "the query is not one well-formed select",
    "42501": "the user may not read this; grant select on it",
    "25006": "the query would write, and here it may only read",
}


def _why_not_connected(said: str) -> str:
    lowered = said.lower()
    for words, told in _NOT_CONNECTED.items():
        if words in lowered:
            return f"cannot connect: {told}"
    return "cannot connect; psql with the same host, port, database and user says why"


def _why_stopped(code: str | None, place: str | None, seconds: float) -> str:
    if code is None or code.startswith("08"):
        return "the connection was lost, or the server silent for too long"
    if code == "57014":
        return f"the query was stopped after {seconds:g} seconds (timeout_seconds), or cancelled at the server"
    where = f", at character {place} of it" if place else ""
    if code in _STOPPED:
        return _STOPPED[code] + where
    if code.startswith("22"):
        return f"a cell does not allow what the query does with it (SQLSTATE {code})"
    return f"the query failed (SQLSTATE {code}){where}; psql says why"
