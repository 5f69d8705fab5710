"""A test consortium's certificates and the SuperNodes' keys: elliptic curves, from the operating system's generator.

Between organisations an own authority is better than this one; the files keep their names. Private keys are written
for their owner alone and never over something that is there.
"""

import ipaddress
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fedmarket.errors import UsageError
from fedmarket.files import write_new

AUTHORITY_DAYS, SERVER_DAYS = 730, 397
"""How long certificates hold. Browsers and some libraries take no server's for longer than 398 days."""

PUBLIC = 0o644
"""Mode of what everybody may read."""

_SKEW = timedelta(hours=1)
_OWN = ("localhost", "127.0.0.1")


def write_authority(folder: Path, hosts: Iterable[str]) -> None:
    """Write ``ca.pem``, ``ca.key``, ``server.pem`` and ``server.key`` for a server of these names and of loopback.

    Raises:
        UsageError: if one of the files is there, or cannot be written.
    """
    authority, server = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    names = list(dict.fromkeys([*hosts, *_OWN]))
    root = _authority_of(authority)
    certificate = _server_of(server, names, root, authority)
    write_new(folder / "ca.key", _private_pem(authority))
    write_new(folder / "ca.pem", root.public_bytes(Encoding.PEM), mode=PUBLIC)
    write_new(folder / "server.key", _private_pem(server))
    write_new(folder / "server.pem", certificate.public_bytes(Encoding.PEM), mode=PUBLIC)


def write_node_key(folder: Path, name: str) -> None:
    """Write ``NAME.key`` and ``NAME.pub``: a SuperNode's key as Flower reads it, OpenSSH's form of ECDSA P-384.

    Raises:
        UsageError: if one of the files is there, or cannot be written.
    """
    key = ec.generate_private_key(ec.SECP384R1())
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    write_new(folder / f"{name}.key", secret)
    write_new(folder / f"{name}.pub", public + b"\n", mode=PUBLIC)


def _authority_of(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    name = _named("fedmarket test consortium")
    usage = _usage(key_cert_sign=True, crl_sign=True)
    return (
        _begun(name, name, key, days=AUTHORITY_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, SHA256())
    )


def _server_of(
    key: ec.EllipticCurvePrivateKey, hosts: list[str], root: x509.Certificate, authority: ec.EllipticCurvePrivateKey
) -> x509.Certificate:
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key())
    return (
        _begun(_named(hosts[0]), root.subject, key, days=SERVER_DAYS)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_general(host) for host in hosts]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(identifier, critical=False)
        .sign(authority, SHA256())
    )


def _begun(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, *, days: int
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + timedelta(days=days))
    )


def _named(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common[:64])])


def _general(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return x509.DNSName(host)
    except ValueError:
        raise UsageError(f"--host {host!r}: expected a host's name in ASCII, or an address") from None


def _usage(**given: bool) -> x509.KeyUsage:
    kinds = (
        "digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
        "key_cert_sign", "crl_sign", "encipher_only", "decipher_only",
    )  # fmt: skip
    return x509.KeyUsage(**{kind: given.get(kind, False) for kind in kinds})


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
