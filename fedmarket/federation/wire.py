"""Messages as bytes and back: what a socket or a Flower record carries, and all that a stranger's bytes can become.

A frame is one MessagePack map from a message's fields to their values; vectors of a model are little-endian float64.
Whatever comes in has the right fields and types afterwards, or is refused. What they mean (rounds, shapes, ranges) is
checked by those who know the terms.
"""

from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

import msgpack
import numpy as np
from pydantic import TypeAdapter, ValidationError

from fedmarket.errors import BadMessage
from fedmarket.federation.messages import (
    Acceptance,
    Closing,
    Invitation,
    Refused,
    Replies,
    Request,
    Requests,
    Shown,
    Told,
    Update,
)
from fedmarket.models.state import ModelState

LARGEST_FRAME = 1 << 26
"""Bytes: eight million numbers of a model. What a stranger packs into it takes some ten times as much to hold."""

LONGEST_LIST, LONGEST_MAP = 1 << 18, 1 << 10
"""More than a ledger's entries, and than the sizes of a log that a party may have seen."""

_ADAPTERS: dict[type, TypeAdapter[Any]] = {
    kind: TypeAdapter(kind) for kind in (Invitation, Acceptance, Requests, Replies, Closing, Told, Refused)
}

_FIELDS = {field.name for kind in (*_ADAPTERS, Request, Update, Shown) for field in fields(kind)}
_LISTS = ("requests", "replies")
_STRANGE = ("unexpected_keyword_argument", "invalid_key")

_DAMAGED = (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException)
"""What MessagePack raises on bytes that are none of its own."""

AnyMessage = TypeVar("AnyMessage", Invitation, Acceptance, Requests, Replies, Closing, Told, Refused)


def encoded(message: Invitation | Acceptance | Requests | Replies | Closing | Told | Refused) -> bytes:
    """Return the frame of ``message``."""
    frame: bytes = msgpack.packb(_plain(message), use_bin_type=True)
    return frame


def decoded(kind: type[AnyMessage], frame: bytes) -> AnyMessage:
    """Return the message of this ``kind`` in ``frame``.

    Raises:
        BadMessage: one line that names the field, never its value; where the frame holds a refusal, its reason.
    """
    if len(frame) > LARGEST_FRAME:
        raise BadMessage(f"expected a frame of at most {LARGEST_FRAME} bytes, got {len(frame)}")
    try:
        found = msgpack.unpackb(
            frame,
            use_list=False,
            raw=False,
            strict_map_key=False,
            max_array_len=LONGEST_LIST,
            max_map_len=LONGEST_MAP,
        )
    except _DAMAGED:
        raise BadMessage("not a frame of this protocol") from None
    if not isinstance(found, dict):
        raise BadMessage("not a frame of this protocol")
    if kind is not Refused and found.keys() == {"reason"}:
        raise BadMessage(_parsed(Refused, found).line)
    return _parsed(kind, found)


def _parsed(kind: type[AnyMessage], found: dict[Any, Any]) -> AnyMessage:
    if kind is Requests and isinstance(asked := found.get("requests"), tuple):
        found = found | {"requests": tuple(map(_with_model, asked))}
    try:
        message: AnyMessage = _ADAPTERS[kind].validate_python(found)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        if first["type"] in _STRANGE:  # what is no field of ours is not repeated
            raise BadMessage("expected no other fields than a message's own") from None
        names = [part for part in first["loc"] if part in _FIELDS]
        where = names[1] if len(names) > 1 and names[0] in _LISTS else names[0] if names else "frame"
        said = "missing" if first["type"] == "missing" else first["msg"].replace("Input should be", "expected")
        raise BadMessage(f"{where}: {said}") from None
    return message


def _with_model(request: Any) -> Any:
    if isinstance(request, dict) and request.get("model") is not None:
        return request | {"model": _model(request["model"])}
    return request


def _model(found: Any) -> ModelState:
    names = [field.name for field in fields(ModelState)]
    if not (isinstance(found, dict) and list(found) == names):
        raise BadMessage("model: expected its vectors")
    if not all(isinstance(content, bytes) and len(content) % 8 == 0 for content in found.values()):
        raise BadMessage("model: expected vectors of float64")
    return ModelState(**{name: np.frombuffer(content, "<f8").astype(np.float64) for name, content in found.items()})


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.astype("<f8").tobytes()
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    return value
