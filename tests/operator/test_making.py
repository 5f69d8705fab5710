"""A new operator's folder: secrets are their owner's alone, nothing is overwritten, certificates are what they say."""

import ipaddress
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_ssh_private_key, load_ssh_public_key
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from fedmarket.errors import ConfigError, UsageError
from fedmarket.ledger.note import VerifierKey
from fedmarket.operator.making import log_key_of
from fedmarket.operator.settings import load_home


def files_of(folder: Path) -> dict[str, int]:
    return {str(p.relative_to(folder)): p.stat().st_mode & 0o777 for p in folder.rglob("*") if p.is_file()}


def test_secrets_are_their_owners_alone(make):
    home = make(nodes=("bank",))
    secret = {"tls/ca.key", "tls/server.key", "secrets/control.token", "secrets/superexec.secret", "log.pem"}
    found = files_of(home.folder)
    assert {name for name, mode in found.items() if mode == 0o600} == secret | {"nodes/bank.key"}
    assert {name for name, mode in found.items() if mode != 0o600} == {
        "server.toml", "tls/ca.pem", "tls/server.pem", "nodes/bank.pub",
    }  # fmt: skip


def test_no_secret_is_in_two_folders_the_same(make, tmp_path):
    home = make()
    tokens = {home.control_token.read_text(), home.superexec_secret.read_text()}
    home.folder.rename(tmp_path / "first")
    again = make()
    assert len(tokens | {again.control_token.read_text(), again.superexec_secret.read_text()}) == 4
    assert all(len(token) == 43 for token in tokens)


@pytest.mark.parametrize("name", ["server.toml", "tls/ca.key", "tls/server.pem", "log.pem", "secrets/control.token"])
def test_nothing_is_overwritten(make, tmp_path, name):
    path = tmp_path / "server" / name
    path.parent.mkdir(parents=True)
    path.write_text("mine")
    with pytest.raises(UsageError, match=r"exists already; .* (is|never) overwritten"):
        make()
    assert path.read_text() == "mine"


@pytest.mark.parametrize("host", ["federation.example", "127.0.0.1", "localhost", "10.1.2.3"])
def test_the_servers_certificate_holds_for_its_names_under_the_authority(make, host):
    home = make(hosts=("federation.example", "10.1.2.3"))
    root = x509.load_pem_x509_certificate(home.ca.read_bytes())
    server = x509.load_pem_x509_certificate(home.certificate.read_bytes())
    builder = PolicyBuilder().store(Store([root]))
    subject = x509.IPAddress(ipaddress.ip_address(host)) if host[0].isdigit() else x509.DNSName(host)
    assert builder.build_server_verifier(subject).verify(server, []) == [server, root]
    with pytest.raises(VerificationError):
        builder.build_server_verifier(x509.DNSName("elsewhere.example")).verify(server, [])
    late = datetime.now(UTC) + timedelta(days=398)
    with pytest.raises(VerificationError):
        builder.time(late).build_server_verifier(subject).verify(server, [])
    assert isinstance(server.public_key(), ec.EllipticCurvePublicKey)
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(home.certificate, home.certificate_key)


def test_a_nodes_key_is_one_that_flower_takes(make):
    home = make(nodes=("bank", "shop"))
    for name in ("bank", "shop"):
        key = load_ssh_private_key((home.nodes / f"{name}.key").read_bytes(), None)
        assert isinstance(key.curve, ec.SECP384R1)
        assert load_ssh_public_key((home.nodes / f"{name}.pub").read_bytes()) == key.public_key()


def test_the_logs_key_is_what_partners_type(make):
    key = log_key_of(make())
    assert VerifierKey.from_text(str(key)) == key
    assert str(key).startswith("federation.example/log+")


@pytest.mark.parametrize("name", ["../evil", "a/b", "", "-x", "a b"])
def test_a_nodes_name_is_no_path(make, tmp_path, name):
    with pytest.raises(UsageError, match="--node"):
        make(nodes=(name,))
    assert not (tmp_path / "server").exists()


def test_a_logs_name_that_no_note_can_hold_is_refused(make, tmp_path):
    with pytest.raises(UsageError, match="--log-name"):
        make(log_name="our log")
    assert not (tmp_path / "server").exists()


BAD = {
    "another format": ("fedmarket-server/1", "fedmarket-server/2", "format"),
    "an unknown key": ("[log]", "[log]\ncolour = 1", "log.colour: unknown key"),
    "a low port": ("fleet_port", "xport", "server.xport: unknown key"),
    "a blank in the log's name": ("federation.example/log", "a b", "log.name"),
}


@pytest.mark.parametrize("case", BAD)
def test_settings_that_break_a_rule_are_one_line(make, case):
    old, new, said = BAD[case]
    path = make().folder / "server.toml"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(ConfigError, match=said) as caught:
        load_home(path)
    assert "\n" not in str(caught.value)
