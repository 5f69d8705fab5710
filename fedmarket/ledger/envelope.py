"""Signed documents: DSSE envelopes (Dead Simple Signing Envelope, version 1) with one Ed25519 signature.

The signature is on type and payload together, each after its length, so no payload can be read as one of another type.
An envelope is itself canonical JSON: one envelope has one form, and its hash can stand for it.
"""

import re
from dataclasses import dataclass
from functools import lru_cache

from fedmarket.aggregation.secagg.suite import SIGNATURE_SIZE, Signer, verified
from fedmarket.errors import BadMessage
from fedmarket.files import sha256_of
from fedmarket.ledger.canonical import LARGEST_DOCUMENT, canonical, from_base64, read_canonical, to_base64

PAYLOAD_TYPE = "application/vnd.fedmarket.ledger+json"

LARGEST_ENVELOPE = 4 * LARGEST_DOCUMENT // 3 + 1024
"""Bytes: the largest payload in base64, and what surrounds it."""

_KEYID = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """A payload with one signature, not yet checked.

    Attributes:
        payload: what was signed, with :data:`PAYLOAD_TYPE`.
        keyid: which key is said to have signed; see :func:`keyid_of`.
        signature: 64 bytes.
    """

    payload: bytes
    keyid: str
    signature: bytes

    def to_bytes(self) -> bytes:
        """Return the envelope as canonical JSON, without a newline."""
        document = {
            "payload": to_base64(self.payload),
            "payloadType": PAYLOAD_TYPE,
            "signatures": [{"keyid": self.keyid, "sig": to_base64(self.signature)}],
        }
        return canonical(document)

    def need_signed_by(self, public_key: bytes) -> None:
        """Raise a BadMessage unless ``public_key`` signed the payload."""
        if self.keyid != keyid_of(public_key):
            raise BadMessage(f"signed by the key {self.keyid[:12]}, expected {keyid_of(public_key)[:12]}")
        if not verified(public_key, self.signature, pae(PAYLOAD_TYPE, self.payload)):
            raise BadMessage(f"the signature is not that of the key {self.keyid[:12]}")


def keyid_of(public_key: bytes) -> str:
    """Return SHA-256 of the raw public key, in hexadecimal."""
    return sha256_of(public_key)


def pae(payload_type: str, payload: bytes) -> bytes:
    """Return what is signed: DSSE's pre-authentication encoding.

    >>> pae("http://example.com/HelloWorld", b"hello world")
    b'DSSEv1 29 http://example.com/HelloWorld 11 hello world'
    """
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def seal(payload: bytes, signer: Signer) -> bytes:
    """Return the envelope of ``payload`` signed by ``signer``.

    Raises:
        BadMessage: if the payload is larger than :data:`fedmarket.ledger.canonical.LARGEST_DOCUMENT`.
    """
    if len(payload) > LARGEST_DOCUMENT:
        raise BadMessage(f"expected a payload of at most {LARGEST_DOCUMENT} bytes, got {len(payload)}")
    signature = signer.sign(pae(PAYLOAD_TYPE, payload))
    return Envelope(payload=payload, keyid=keyid_of(signer.public_key), signature=signature).to_bytes()


@lru_cache(maxsize=64)
def read_envelope(content: bytes) -> Envelope:
    """Return the envelope in ``content``; whose signature it is, :meth:`Envelope.need_signed_by` says.

    The last ones are remembered: who takes one reads it for its owner, for the state and for the log.

    Raises:
        BadMessage: if ``content`` is anything but what :meth:`Envelope.to_bytes` returns.
    """
    document = read_canonical(content, largest=LARGEST_ENVELOPE)
    match document:
        case {
            "payload": str(payload),
            "payloadType": str(kind),
            "signatures": [{"keyid": str(keyid), "sig": str(signature)}],
        } if kind == PAYLOAD_TYPE:
            envelope = Envelope(payload=from_base64(payload), keyid=keyid, signature=from_base64(signature))
        case _:
            raise BadMessage("not an envelope of a ledger with one signature")
    if not _KEYID.fullmatch(envelope.keyid):
        raise BadMessage("expected a keyid of 64 lower-case hexadecimal digits")
    if len(envelope.signature) != SIGNATURE_SIZE:
        raise BadMessage(f"expected a signature of {SIGNATURE_SIZE} bytes, got {len(envelope.signature)}")
    if envelope.to_bytes() != content:  # keys beside those that were read
        raise BadMessage("an envelope has exactly payload, payloadType and one signature of keyid and sig")
    return envelope
