"""A party's long-term Ed25519 identity (RFC 8032) and its file, which only its owner may read."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from fedmarket.errors import ConfigError
from fedmarket.files import read_private, write_new

LARGEST_FILE = 4096
"""Bytes; a PEM file of one Ed25519 key has 119."""


@dataclass(frozen=True, slots=True, eq=False)
class Identity:
    """A long-term signing key.

    Attributes:
        public_key: 32 bytes.

    Guarantees:
        Neither repr, str nor pickle shows the private key; pickle refuses.
    """

    _key: Ed25519PrivateKey = field(repr=False)
    public_key: bytes = field(init=False)

    def __post_init__(self) -> None:
        """Find the public key once: every signature and every state is held against it."""
        object.__setattr__(self, "public_key", self._key.public_key().public_bytes_raw())

    @property
    def public_hex(self) -> str:
        """The public key as a roster writes it."""
        return self.public_key.hex()

    def sign(self, message: bytes) -> bytes:
        """Return the signature of ``message``, 64 bytes."""
        return self._key.sign(message)

    def save(self, path: Path) -> None:
        """Write the key to ``path``; see :func:`save_identity`."""
        save_identity(self, path)

    def __repr__(self) -> str:
        return f"Identity({self.public_hex})"

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError("an identity is not pickled")


def new_identity() -> Identity:
    """Return a fresh identity from the operating system's generator."""
    return Identity(Ed25519PrivateKey.generate())


def save_identity(identity: Identity, path: Path) -> None:
    """Write ``identity`` to ``path``, PEM of PKCS #8 without passphrase.

    Raises:
        UsageError: if the file exists or cannot be written.

    Guarantees:
        An existing file is never touched, and nobody but the owner can read the new one at any time.
    """
    content = identity._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    write_new(path, content)


def load_identity(path: Path) -> Identity:
    """Return the identity in the file at ``path``.

    Raises:
        ConfigError: one line, if the file is missing, no regular file, someone else's, open to group or others, or
            not an Ed25519 key in PEM of PKCS #8.
    """
    content = read_private(path, what="identity", largest=LARGEST_FILE)
    try:
        key = load_pem_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise ConfigError(f"{path}: not a private key in PEM without passphrase") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"{path}: expected an Ed25519 key")
    return Identity(key)
