"""One way to write each value: JSON after RFC 8785, real numbers as decimal strings, base64 without choice.

What is hashed or signed must have one form, or two readers can hold different values under one hash. Documents are made
of text, whole numbers within 2^53 - 1, true, false, null, lists and objects with text keys. No float is ever written:
RFC 8785 would let it, but few languages agree on the digits. Real numbers travel as text (:func:`decimal`).
"""

import base64
import binascii
import json
import math
from typing import Any

from fedmarket.errors import BadMessage

LARGEST_INTEGER = 2**53 - 1
"""What every reader of JSON holds exactly (RFC 8785, section 3.2.2.3, after RFC 7493)."""

DEEPEST = 16
"""Lists and objects within one another."""

LARGEST_DOCUMENT = 64 * 1024
"""Bytes."""


def canonical(document: Any) -> bytes:
    r"""Return the canonical JSON of ``document`` in UTF-8 (RFC 8785).

    Raises:
        BadMessage: if it holds anything but text, whole numbers within 2^53 - 1, true, false, null, lists and objects,
            text that is not Unicode (a lone surrogate), or goes deeper than :data:`DEEPEST`.

    >>> canonical({"b": [1, True, None], "a": "\u20ac\n"}).decode()
    '{"a":"€\\n","b":[1,true,null]}'
    """
    try:
        # Escapes of Python's encoder are those of RFC 8785, section 3.2.2.2, once ensure_ascii is off.
        text = json.dumps(_sorted(document, DEEPEST), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        return text.encode("utf-8")
    except UnicodeEncodeError:
        raise BadMessage("a document's text must be Unicode without lone surrogates") from None


def _sorted(value: Any, deeper: int) -> Any:
    """Return ``value`` with all keys in the order of their UTF-16 code units, which is that of RFC 8785."""
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, int):
        if not -LARGEST_INTEGER <= value <= LARGEST_INTEGER:
            raise BadMessage("a document's whole numbers must be within 2^53 - 1")
        return value
    if not deeper:
        raise BadMessage(f"a document must not nest deeper than {DEEPEST}")
    if isinstance(value, list | tuple):
        return [_sorted(item, deeper - 1) for item in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        keys = sorted(value, key=lambda key: key.encode("utf-16-be", "surrogatepass"))
        return {key: _sorted(value[key], deeper - 1) for key in keys}
    raise BadMessage(f"a document cannot hold a value of type {type(value).__name__}")


def read_canonical(content: bytes, *, largest: int = LARGEST_DOCUMENT) -> Any:
    """Return the document that ``content`` is the canonical JSON of.

    Raises:
        BadMessage: if ``content`` has more than ``largest`` bytes, is not JSON, or not exactly :func:`canonical` of
            what it says.

    Guarantees:
        ``canonical(read_canonical(content)) == content``: a key twice, another escape, another order, a blank, a byte
        order mark, a float, ``-0`` and bytes after the end are all refused.
    """
    if len(content) > largest:
        raise BadMessage(f"expected a document of at most {largest} bytes, got {len(content)}")
    try:
        document = json.loads(content.decode("utf-8"), parse_float=_refused, parse_constant=_refused)
        same = canonical(document) == content
    except (ValueError, RecursionError):
        raise BadMessage("not a document in canonical JSON") from None
    if not same:
        raise BadMessage("not the canonical JSON of what it says")
    return document


def _refused(_: str) -> Any:
    raise ValueError


def decimal(value: float) -> str:
    """Return the shortest decimal text that reads back as ``value``, in Python's form.

    Positional from 1e-4 to below 1e16, with at least one digit after the point, else with an exponent.

    Raises:
        BadMessage: if the number is infinite or NaN.

    >>> decimal(0.1), decimal(2), decimal(1e-05)
    ('0.1', '2.0', '1e-05')
    """
    number = float(value)
    if not math.isfinite(number):
        raise BadMessage("a ledger's real numbers must be finite")
    return repr(number + 0.0)  # minus zero becomes zero


def real(text: str) -> float:
    """Return the number that ``text`` is the :func:`decimal` of.

    Raises:
        BadMessage: if it is the decimal of none: another spelling, too many digits, not finite.
    """
    try:
        number = float(text)
    except ValueError:
        raise BadMessage("not a real number as decimal text") from None
    if not math.isfinite(number) or decimal(number) != text:
        raise BadMessage("not the shortest decimal text of a finite number")
    return number


def to_base64(content: bytes) -> str:
    """Return standard base64 with padding (RFC 4648, section 4)."""
    return base64.b64encode(content).decode("ascii")


def from_base64(text: str) -> bytes:
    """Return the bytes that ``text`` is :func:`to_base64` of, or raise a BadMessage; loose last bits are refused."""
    try:
        content = base64.b64decode(text.encode("ascii"), validate=True)
    except (UnicodeEncodeError, binascii.Error):
        raise BadMessage("not base64") from None
    if to_base64(content) != text:
        raise BadMessage("not the base64 of what it says")
    return content
