"""The cipher suite ``x25519-hkdf-sha256-chacha20poly1305-shamir/1``: its primitives as used here, and its labels.

X25519 (RFC 7748), Ed25519 (RFC 8032), HKDF-SHA256 (RFC 5869), ChaCha20-Poly1305 and ChaCha20 (RFC 8439), all from
`cryptography`. Every use has a label of its own, so that no output of one can stand for another's. A later suite
(X25519 with ML-KEM-768) gets a module and a name of its own.
"""

import hashlib
import struct
from functools import lru_cache
from typing import Protocol

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

SUITE = "x25519-hkdf-sha256-chacha20poly1305-shamir/1"

LABEL_CONTEXT = b"fedmarket secagg context/1"
LABEL_INPUTS = b"fedmarket secagg inputs/1"
LABEL_MESSAGE = b"fedmarket secagg message/1"
LABEL_TRANSCRIPT = b"fedmarket secagg transcript/1"
LABEL_CHANNEL = b"fedmarket secagg channel/1"
LABEL_PAIR_MASK = b"fedmarket secagg pair mask/1"
LABEL_SELF_MASK = b"fedmarket secagg self mask/1"
LABEL_COMMITMENT = b"fedmarket secagg commitment/1"

KEY_SIZE = 32
SIGNATURE_SIZE = 64
HASH_SIZE = 32
TAG_SIZE = 16
SEED_SIZE = 16
"""Self-mask seeds have 128 bits, the strength of X25519: every derivation from them is salted with the round."""

_SIZE = struct.Struct(">I")


class Signer(Protocol):
    """A long-term identity: :class:`fedmarket.federation.identity.Identity`, or a key in hardware."""

    @property
    def public_key(self) -> bytes:
        """The Ed25519 public key, 32 bytes."""

    def sign(self, message: bytes) -> bytes:
        """Return the Ed25519 signature of ``message``, 64 bytes."""


def packed(*parts: bytes) -> bytes:
    """Return ``parts`` joined so that they can be told apart: each after its length in four bytes, big-endian.

    >>> packed(b"a", b"") == packed(b"", b"a")
    False
    """
    return b"".join([piece for part in parts for piece in (_SIZE.pack(len(part)), part)])


def sha256(*parts: bytes) -> bytes:
    """Return SHA-256 of the packed ``parts``."""
    return hashlib.sha256(packed(*parts)).digest()


@lru_cache(maxsize=4096)
def verified(public_key: bytes, signature: bytes, message: bytes) -> bool:
    """Return whether ``signature`` is ``public_key``'s on ``message``.

    Remembered, as all of it is public: in a simulation many parties of one process are shown the same signatures.
    """
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def public_of(private_key: bytes) -> bytes:
    """Return the X25519 public key of 32 secret bytes."""
    return X25519PrivateKey.from_private_bytes(private_key).public_key().public_bytes_raw()


Private = bytes | X25519PrivateKey
"""An X25519 secret: its 32 bytes, or those loaded once for many agreements, which costs as much as an agreement."""


def loaded(private_key: Private) -> X25519PrivateKey:
    """Return the secret ready for agreements."""
    return X25519PrivateKey.from_private_bytes(private_key) if isinstance(private_key, bytes) else private_key


def agreed(private_key: Private, public_key: bytes) -> bytes | None:
    """Return the X25519 shared secret, None where the other key is of low order (RFC 7748, section 6.1)."""
    try:
        return loaded(private_key).exchange(X25519PublicKey.from_public_bytes(public_key))
    except ValueError:
        return None


def derived(secret: bytes, *, salt: bytes, info: bytes) -> bytes:
    """Return 32 bytes of HKDF-SHA256."""
    return HKDF(algorithm=SHA256(), length=KEY_SIZE, salt=salt, info=info).derive(secret)


def sealed(key: bytes, plaintext: bytes, associated: bytes) -> bytes:
    """Return ciphertext and tag; ``key`` is used for this one text alone, so a zero nonce is safe."""
    return ChaCha20Poly1305(key).encrypt(bytes(12), plaintext, associated)


def opened(key: bytes, ciphertext: bytes, associated: bytes) -> bytes | None:
    """Return the plaintext, None if key, text or associated data are not the sealer's."""
    try:
        return ChaCha20Poly1305(key).decrypt(bytes(12), ciphertext, associated)
    except InvalidTag:
        return None
