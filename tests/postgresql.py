"""A real PostgreSQL server for what reads from one, started by the tests and stopped by its process id; run by path."""

import ipaddress
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import psycopg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from fedmarket.data.sources import PostgresqlSource, read_source
from fedmarket.errors import TableError

SECRET, CELL = "s3cret-9f2b", "987654321"
MISSING = "no PostgreSQL server on this machine: apt-get install -y --no-install-recommends postgresql"
LIMIT = 100_000
TYPES: dict[Any, str] = {
    pl.Boolean: "bool",
    pl.Datetime: "timestamp",
    pl.Decimal: "numeric(12, 4)",
    pl.Float32: "real",
    pl.Float64: "double precision",
    pl.Int64: "bigint",
    pl.String: "text",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A cluster in a temporary folder; databases ``sales`` and ``guarded`` (TLS only), a user ``reader`` of both."""

    folder: Path
    port: int

    def source(self, query: str, **changed: Any) -> PostgresqlSource:
        said = {"host": "127.0.0.1", "port": self.port, "database": "sales", "user": "reader", "query": query}
        said |= {"password_file": "password"} if "password_env" not in changed else {}
        return PostgresqlSource.model_validate({"kind": "postgresql"} | said | changed)

    def read(self, query: str, *, most_rows: int = LIMIT, **changed: Any) -> pl.DataFrame:
        return read_source(self.source(query, **changed), folder=self.folder, most_rows=most_rows)

    def refused(self, query: str, **changed: Any) -> str:
        """Return what the error says after naming database and host."""
        with pytest.raises(TableError) as caught:
            self.read(query, **changed)
        place = f"PostgreSQL database {changed.get('database', 'sales')!r} at {changed.get('host', '127.0.0.1')}:"
        said = str(caught.value)
        assert said.startswith(place)
        assert not re.search(rf"{SECRET}|{CELL}|\n", said)
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__ or caught.value.__context__ is None
        return said.removeprefix(place).partition(": ")[2]

    def owner(self, *statements: str) -> list[Any]:
        with self.connected() as connection:
            for statement in statements:
                cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def keep(self, name: str, table: pl.DataFrame) -> None:
        """Make a database table of these rows, which ``reader`` may read."""
        columns = [f"{column} {TYPES[kind.base_type()]}" for column, kind in table.schema.items()]
        self.owner(f"drop table if exists {name}", f"create table {name} ({', '.join(columns)})")
        with self.connected() as connection:
            marks = ", ".join(["%s"] * table.width)
            connection.cursor().executemany(f"insert into {name} values ({marks})".encode(), table.rows())
            connection.execute(f"grant select on {name} to reader".encode())

    def connected(self, database: str = "sales") -> "psycopg.Connection":
        """Return a connection of the owner's; creating a database takes one without transactions."""
        folder, single = str(self.folder), database == "postgres"
        return psycopg.connect(
            host=folder, port=self.port, dbname=database, user="owner", password=SECRET, autocommit=single
        )

    @staticmethod
    def free_port() -> int:
        return free_port()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def certificate(folder: Path, name: str, address: str) -> None:
    key, subject = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / f"{name}.crt").write_bytes(made.public_bytes(Encoding.PEM))
    secret = folder / f"{name}.key"
    secret.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    secret.chmod(0o600)


HBA = """
local all owner scram-sha-256
hostssl guarded reader 127.0.0.1/32 scram-sha-256
host sales reader 127.0.0.1/32 scram-sha-256
host sales plain 127.0.0.1/32 password
"""
SETTINGS = """
listen_addresses = '127.0.0.1'
fsync = off
max_connections = 20
lc_messages = 'C'
timezone = 'Asia/Tokyo'
datestyle = 'SQL, DMY'
extra_float_digits = 0
ssl = on
ssl_cert_file = '../server.crt'
ssl_key_file = '../server.key'
"""


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[Server]:
    """A real server on loopback, as a user of its own where the tests are root; stopped by its process id."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    initdb = str(found[-1]) if found else shutil.which("initdb")
    if initdb is None:
        pytest.skip(MISSING)
    # Not under pytest's own folder, which nobody else may enter; and a socket's path must be short.
    folder = Path(tempfile.mkdtemp(prefix="fm-pg-"))
    as_user: dict[str, Any] = {}
    if os.geteuid() == 0:
        names = [entry.pw_name for entry in pwd.getpwall()]
        entry = pwd.getpwnam("postgres" if "postgres" in names else "nobody")
        as_user = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    try:
        yield from running(Server(folder=folder, port=free_port()), Path(initdb).resolve(), as_user)
    finally:
        shutil.rmtree(folder)


def running(made: Server, initdb: Path, as_user: dict[str, Any]) -> Iterator[Server]:
    folder, data = made.folder, made.folder / "data"
    (folder / "password").write_text(SECRET + "\n")
    (folder / "password").chmod(0o600)
    (folder / "owner").write_text(SECRET)
    certificate(folder, "server", "127.0.0.1")
    certificate(folder, "other", "192.0.2.1")
    if as_user:
        for path in (folder, folder / "owner", folder / "server.key", folder / "server.crt"):
            os.chown(path, as_user["user"], as_user["group"])
    command = [initdb, "-D", data, "-U", "owner", "--pwfile", folder / "owner", "-A", "scram-sha-256"]
    command += ["-E", "UTF8", "--locale", "C.UTF-8", "--no-sync"]
    subprocess.run(command, check=True, capture_output=True, timeout=120, cwd=folder, **as_user)
    (data / "pg_hba.conf").write_text(HBA)
    with (data / "postgresql.conf").open("a") as settings:
        settings.write(f"{SETTINGS}port = {made.port}\nunix_socket_directories = '{folder}'\n")
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [initdb.with_name("postgres"), "-D", data], stdout=log, stderr=log, cwd=folder, **as_user
        )
    try:
        wait_for(process, folder / "log")
        fill(made)
        yield made
    finally:
        process.send_signal(signal.SIGQUIT)
        process.wait(timeout=30)


def wait_for(process: "subprocess.Popen[bytes]", log: Path) -> None:
    for _ in range(600):
        if b"ready to accept connections" in log.read_bytes():
            return
        if process.poll() is not None:
            break
        try:
            process.wait(timeout=0.05)
        except subprocess.TimeoutExpired:
            continue
    raise AssertionError(log.read_text())


def fill(made: Server) -> None:
    with made.connected("postgres") as connection:
        for statement in (
            f"create role reader login password '{SECRET}'",
            f"create role plain login password '{SECRET}'",
            "create database sales",
            "create database guarded",
        ):
            connection.execute(statement.encode())
    made.owner(
        "create table closed (a int)",
        f"create table wide as select i as n, {CELL} as c from generate_series(1, 25000) i",
        "grant select on wide to reader",
    )
