"""Before a run: all problems in one go, one line each, and nothing that a node would mind."""

import socket
import ssl
import threading
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fedmarket.cli.main import main
from fedmarket.contract.schema import load_contract
from fedmarket.data.commitment import canonical_lines, contents_hash, held_out
from fedmarket.data.synthetic import synthetic_market
from fedmarket.errors import UsageError
from fedmarket.federation.identity import load_identity
from fedmarket.ledger.entries import commitment
from fedmarket.node import preflight as preflights
from fedmarket.node.beginning import begin
from fedmarket.node.preflight import Server, preflight
from fedmarket.node.settings import load_partner


def later() -> datetime:
    """Return a time after all that a node that is being started may write."""
    return datetime.now(UTC) + timedelta(minutes=5)


def problems(document: Path, **keys) -> list[str]:
    return [f"{found.what}: {found.words}" for found in preflight(document, **keys) if not found.good]


def test_a_node_that_is_ready_has_a_line_for_each_check_and_no_problem(nodes):
    found = list(preflight(nodes.document(0)))
    assert all(one.good for one in found)
    expected = ["versions", "document", "federation", "policy", "identity", "roster", "data", "ledger", "budget"]
    assert [one.what for one in found] == [*expected, "socket", "disk", "clock"]
    assert all("\n" not in one.words for one in found)
    assert not nodes.books(0).exists()


def test_it_does_not_disturb_a_node_that_serves(nodes, served):
    with served(nodes, 0):
        assert problems(nodes.document(0), now=later()) == []
        assert nodes.socket(0).exists()


def test_all_problems_come_in_one_go(nodes, monkeypatch):
    nodes.change(0, "largest_epsilon = 1.0", "largest_epsilon = 0.5")
    nodes.change(0, "cap = 1.0", "cap = 0.5")
    (nodes.folder / "00.pem").chmod(0o644)
    nodes.folder.chmod(0o777)
    monkeypatch.setattr(preflights, "LEAST_FREE", 1 << 60)
    found = problems(nodes.document(0), now=datetime(2020, 1, 1, tzinfo=UTC))
    assert [line.partition(":")[0] for line in found] == ["policy", "identity", "budget", "socket", "disk", "clock"]
    assert "policy:epsilon: expected at most 0.5" in found[0]
    assert "run chmod 600" in found[1]
    assert found[2] == "budget: a run would bring epsilon from 0.0000 to 1.0000; the cap is 0.5"


def test_a_key_that_is_not_in_the_roster_is_told(nodes):
    (nodes.folder / "00.pem").rename(nodes.folder / "old.pem")
    (nodes.folder / "log.pem").rename(nodes.folder / "00.pem")
    (line,) = problems(nodes.document(0))
    assert line.startswith("roster: ")
    assert "is not in this roster" in line


def test_a_ledger_of_other_rows_and_a_budget_that_is_spent_are_told(nodes, served):
    with served(nodes, 0):
        pass
    (nodes.books(0) / "salt").write_bytes(bytes(32))
    (line,) = problems(nodes.document(0), now=later())
    assert "the ledger is of other rows; these are " in line


def own_table(nodes, table: pl.DataFrame, *, share: float = 0.25) -> None:
    table.write_csv(nodes.folder / "customers.csv")
    data = f'kind = "table"\nheld_out_share = {share}\n[data.source]\nkind = "file"\npath = "customers.csv"'
    nodes.change(0, 'kind = "market"', data)


@pytest.fixture
def table() -> pl.DataFrame:
    return synthetic_market(customers=400, parties=1, seed=3).table


REAL = ('generator = "seeded-for-tests"', 'generator = "operating-system"')


def documented_data_set(nodes, table: pl.DataFrame, *, share: float) -> str:
    """Return the commitment to a table of which each row is a customer, by the documented steps."""
    contract, books = load_contract(nodes.config.with_name("contract.toml")), nodes.books(0)
    lines = canonical_lines(table, contract)
    kept = held_out(lines, share=share, key=(books / "split").read_bytes())
    sides = ([line for line, out in zip(lines, kept, strict=True) if out == side] for side in (False, True))
    return commitment(*map(contents_hash, sides), salt=(books / "salt").read_bytes())


def test_a_table_of_ones_own_is_read_split_and_committed_to_the_same_each_time(make_nodes, table):
    nodes = make_nodes(REAL)
    own_table(nodes, table)
    found = {one.what: one.words for one in preflight(nodes.document(0)) if one.good}
    trained, held = (int(word) for word in found["data"].split() if word.isdecimal())
    assert trained + held == 400
    assert 60 < held < 140
    first = nodes.desk(0)
    data_set = first.party.books.ledger.state.data_set
    assert len(first.party.rows.features) == trained
    assert data_set == documented_data_set(nodes, table, share=0.25)
    first.close()
    own_order = table.sample(fraction=1.0, shuffle=True, seed=1)
    own_order.write_csv(nodes.folder / "customers.csv")
    again = nodes.desk(0)
    assert again.party.books.ledger.state.data_set == data_set
    again.close()
    own_order.head(399).write_csv(nodes.folder / "customers.csv")
    with pytest.raises(UsageError, match="the ledger is of other rows"):
        nodes.desk(0)


def test_lines_of_sale_become_customers_and_no_customer_is_on_both_sides(make_nodes, write_value_market):
    nodes = make_nodes(REAL, write=write_value_market)
    lines = pl.read_csv(nodes.config.with_name("lines.csv"))
    own_table(nodes, lines)
    with closing(nodes.desk(0)) as desk:
        trained, held = len(desk.party.rows.features), len(desk.party.held_out.features)
        data_set = desk.party.books.ledger.state.data_set
    assert trained + held <= lines["id"].n_unique()
    assert 0.1 < held / (trained + held) < 0.45
    lines.reverse().write_csv(nodes.folder / "customers.csv")
    with closing(nodes.desk(0)) as desk:
        assert desk.party.books.ledger.state.data_set == data_set


def test_rows_that_are_ones_own_never_get_noise_from_a_seed(nodes, table):
    own_table(nodes, table)
    (line,) = problems(nodes.document(0))
    assert line.startswith("policy: policy:generator: ")


def test_every_broken_rule_of_the_contract_is_told_and_no_cell(make_nodes, table):
    nodes = make_nodes(REAL)
    column = table.columns[0]
    own_table(nodes, table.drop(column).with_columns(pl.lit("1234.5678").alias(table.columns[1])))
    found = problems(nodes.document(0))
    assert len(found) > 1
    assert all(line.startswith("data: ") for line in found)
    assert "1234" not in " ".join(found)


@pytest.fixture
def tls(tmp_path: Path):
    """Return a maker of a TLS server with a certificate for so many days, and its certificate's path."""
    threads = []

    def make(days: int) -> Server:
        key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(7)
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=days, minutes=5))
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        pem = tmp_path / "cert.pem"
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        pem.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem)
        listener = socket.create_server(("127.0.0.1", 0))

        def once() -> None:
            with listener:
                plain, _ = listener.accept()
                try:
                    with context.wrap_socket(plain, server_side=True) as secured:
                        secured.recv(1)
                except OSError:
                    plain.close()

        threads.append(threading.Thread(target=once))
        threads[0].start()
        return Server(host="localhost", port=listener.getsockname()[1], certificates=pem)

    yield make
    for thread in threads:
        thread.join(timeout=10)


def test_the_server_is_reached_with_tls_and_its_certificates_end_is_told(nodes, tls):
    (found,) = [one for one in preflight(nodes.document(0), server=tls(30)) if one.what == "server"]
    assert found.good
    assert "reached with TLS, certificate until " in found.words


def test_a_certificate_that_ends_soon_is_a_problem(nodes, tls):
    (line,) = problems(nodes.document(0), server=tls(3))
    assert line.endswith("in 3 days")


def test_a_certificate_that_nobody_trusts_and_a_server_that_is_away_are_problems(nodes, tls):
    server = tls(30)
    (line,) = problems(nodes.document(0), server=Server(host="localhost", port=server.port, certificates=None))
    assert "the certificate does not hold" in line
    (line,) = problems(nodes.document(0), server=Server(host="localhost", port=1, certificates=None))
    assert "cannot be reached with TLS (Connection refused)" in line


def command(monkeypatch, *words: object) -> int:
    monkeypatch.setattr("sys.argv", ["fedmarket", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_the_command_ends_with_1_if_anything_is_wrong(nodes, monkeypatch, capsys):
    assert command(monkeypatch, "party", "preflight", nodes.document(0)) == 0
    nodes.change(0, "cap = 1.0", "cap = 0.5")
    capsys.readouterr()
    assert command(monkeypatch, "party", "preflight", nodes.document(0)) == 1
    said = capsys.readouterr()
    assert "wrong  budget      a run would bring epsilon" in said.out
    assert "1 problem(s)" in said.err
    assert command(monkeypatch, "party", "preflight", nodes.document(0), "--server", "nowhere") == 2


def test_a_node_is_begun_with_a_key_and_a_document_and_nothing_is_overwritten(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "node"
    assert command(monkeypatch, "party", "init", folder, "--name", "Alpha Bank") == 0
    identity = load_identity(folder / "identity.pem")
    assert f"{identity.public_hex}  Alpha Bank\n" in capsys.readouterr().out
    assert folder.stat().st_mode & 0o777 == 0o700
    before = (folder / "partner.toml").read_text(encoding="utf-8")
    with pytest.raises(UsageError, match="exists already; nothing was written"):
        begin(folder, name="Alpha Bank")
    assert (folder / "partner.toml").read_text(encoding="utf-8") == before
    assert identity.public_key == load_identity(folder / "identity.pem").public_key
    (folder / "partner.toml").unlink()
    with pytest.raises(UsageError, match="nothing is overwritten"):
        begin(folder, name="Alpha Bank")
    assert not (folder / "partner.toml").exists()


def test_the_example_is_a_document_once_the_operators_key_is_in_it(tmp_path, nodes):
    begin(tmp_path, name='Alpha "A" Bank')
    path = tmp_path / "partner.toml"
    key = load_partner(nodes.document(0)).section.log_key
    path.write_text(path.read_text(encoding="utf-8").replace('log_key = ""', f'log_key = "{key}"'), encoding="utf-8")
    assert load_partner(path).name == 'Alpha "A" Bank'
