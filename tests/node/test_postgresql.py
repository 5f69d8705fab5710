"""A partner whose table is a query: its own process reads it from a real PostgreSQL server, and takes part."""

import re
import shutil
from collections.abc import Callable
from contextlib import ExitStack, closing
from typing import Any

import polars as pl
import pytest

from fedmarket.cli.main import main
from fedmarket.data.synthetic import synthetic_market
from fedmarket.errors import TableError, UsageError
from fedmarket.ledger.look import look

SECRET = "s3cret-9f2b"
"""That of the server's fixture."""

REAL = ('generator = "seeded-for-tests"', 'generator = "operating-system"')
FROM_FILE, FROM_ENVIRONMENT = 'password_file = "database.password"', 'password_env = "CRM_PASSWORD"'
QUERY = """
kind = "table"
held_out_share = 0.25
[data.source]
kind = "postgresql"
host = "127.0.0.1"
port = {port}
database = "sales"
user = "reader"
query = "select * from customers"
{password}
"""
PARQUET = """
kind = "table"
held_out_share = 0.25
[data.source]
kind = "file"
path = "customers.parquet"
"""


@pytest.fixture
def customers(postgresql_server: Any) -> pl.DataFrame:
    """400 customers, who are in the database too."""
    table = synthetic_market(customers=400, parties=1, seed=3).table
    postgresql_server.keep("customers", table)
    return table


@pytest.fixture
def with_query(make_nodes, postgresql_server: Any, monkeypatch) -> Callable[..., Any]:
    """Return a maker of nodes of which the first reads its customers from the server."""

    def make(*, port: int = postgresql_server.port, password: str = FROM_FILE) -> Any:
        nodes = make_nodes(REAL)
        nodes.change(0, 'kind = "market"', QUERY.format(port=port, password=password))
        shutil.copy(postgresql_server.folder / "password", nodes.folder / "database.password")
        monkeypatch.setenv("CRM_PASSWORD", SECRET)
        return nodes

    return make


@pytest.fixture
def fedmarket(monkeypatch, capfd) -> Callable[..., tuple[int, str]]:
    """Return what gives a command of the party's in this process, and says how it ended and what it printed."""

    def command(*words: object) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["fedmarket", "party", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        said = "".join(capfd.readouterr())
        assert SECRET not in said
        return int(ended.value.code or 0), said

    return command


@pytest.mark.parametrize("password", [FROM_FILE, FROM_ENVIRONMENT])
@pytest.mark.usefixtures("customers")
def test_preflight_reads_the_query_with_the_password_from_its_place(with_query, fedmarket, password: str):
    code, said = fedmarket("preflight", with_query(password=password).document(0))
    assert code == 0, said
    trained, held = map(int, re.search(r"ok +data +(\d+) rows to train on, (\d+) held out", said).groups())
    assert trained + held == 400


def test_a_whole_run_on_a_query_is_committed_to_the_rows_that_a_file_would_have(
    with_query, customers, apps, process_of, served
):
    nodes = with_query()
    process = process_of(nodes, 0)
    with ExitStack() as others:
        for place in (1, 2, 3):
            others.enter_context(served(nodes, place))
        process.wait()
        outcome = nodes.relayed(apps)
    assert outcome.rejections == outcome.void_rounds == ()
    assert process.stop() == 0
    assert SECRET not in process.log.read_text(encoding="utf-8")
    ledger = look(nodes.books(0)).state
    assert ledger.spent().epsilon > 0.9
    # With the same salt and split, the same rows from a file are the ledger's; others are not.
    query = nodes.document(0).read_text(encoding="utf-8")
    path = nodes.folder / "customers.parquet"
    customers.reverse().write_parquet(path)
    nodes.change(0, QUERY.format(port=re.search(r"port = (\d+)", query)[1], password=FROM_FILE), PARQUET)
    with closing(nodes.desk(0)) as desk:
        assert desk.party.books.ledger.state.data_set == ledger.data_set
    customers.head(399).write_parquet(path)
    with pytest.raises(UsageError, match="the ledger is of other rows"):
        nodes.desk(0)


def test_without_a_database_preflight_and_serve_have_one_line_with_the_settings_to_look_at(
    with_query, fedmarket, process_of, postgresql_server: Any
):
    port = postgresql_server.free_port()
    nodes = with_query(port=port)
    why = (
        f"PostgreSQL database 'sales' at 127.0.0.1:{port}: cannot connect: nobody answers on this port; "
        "is the server running, and are host and port right?"
    )
    code, said = fedmarket("preflight", nodes.document(0))
    assert code == 1
    assert [line for line in said.splitlines() if line.startswith("wrong")] == [f"wrong  data        {why}"]
    process = process_of(nodes, 0)
    assert process.running.wait(timeout=180) == TableError.exit_code
    assert process.log.read_text(encoding="utf-8") == f"error: {why}\n"


@pytest.mark.usefixtures("customers")
def test_a_password_that_is_missing_or_wrong_is_told_by_its_key(with_query, fedmarket, monkeypatch):
    document = with_query(password=FROM_ENVIRONMENT).document(0)
    monkeypatch.delenv("CRM_PASSWORD")
    assert (
        "password_env: the environment variable 'CRM_PASSWORD' is empty or not set"
        in fedmarket("preflight", document)[1]
    )
    monkeypatch.setenv("CRM_PASSWORD", f"{SECRET}-old".swapcase())
    assert (
        "wrong user or password; look at user, and at password_file or password_env"
        in fedmarket("preflight", document)[1]
    )
