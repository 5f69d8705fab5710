"""One question and one answer over a stream socket: what the party's door speaks, and all that a relay must know.

Either is a header (``fmp1``, length of the action in 1 byte, length of the frame in 8, big-endian), the action in
ASCII, and the frame (:mod:`fedmarket.federation.wire`). An answer has no action. A connection carries one question.

Flower starts a process for each message, and this is loaded in each: it imports nothing heavy.
"""

import socket
import struct
import time
from contextlib import suppress
from pathlib import Path

import msgpack

from fedmarket.errors import BadMessage

MAGIC = b"fmp1"
LONGEST_ACTION = 16
"""Bytes."""

_HEADER = struct.Struct(">4sBQ")
_PIECE = 1 << 16
_PAUSE_SECONDS = 0.05


def send(connection: socket.socket, action: str, frame: bytes, *, until: float) -> None:
    """Send one question or answer.

    Args:
        connection: a stream socket.
        action: of a question; empty for an answer.
        frame: what it is about.
        until: when it must be gone, on :func:`time.monotonic`'s clock.

    Raises:
        OSError: if the other side is gone, or (TimeoutError) takes too long.
    """
    named = action.encode("ascii")
    if len(named) > LONGEST_ACTION:
        raise BadMessage(f"expected an action of at most {LONGEST_ACTION} bytes, got {len(named)}")
    connection.settimeout(_left(until))
    connection.sendall(_HEADER.pack(MAGIC, len(named), len(frame)) + named)
    connection.settimeout(_left(until))
    connection.sendall(frame)


def receive(connection: socket.socket, *, largest: int, until: float) -> tuple[str, bytes]:
    """Return action and frame of one question or answer.

    Args:
        connection: a stream socket.
        largest: bytes of a frame; a larger one is refused by its header.
        until: when it must be whole, on :func:`time.monotonic`'s clock, however it trickles in.

    Raises:
        BadMessage: if it is none, too large, or not whole.
        OSError: if the other side is gone, or (TimeoutError) takes too long.

    Guarantees:
        Holds no more than what came, and never more than ``largest`` and a header.
    """
    magic, name_size, size = _HEADER.unpack(_exactly(connection, _HEADER.size, until))
    if magic != MAGIC or name_size > LONGEST_ACTION:
        raise BadMessage("not a question or an answer of this protocol")
    if size > largest:
        raise BadMessage(f"expected a frame of at most {largest} bytes, got {size}")
    action = _exactly(connection, name_size, until)
    if not action.isascii():
        raise BadMessage("not a question or an answer of this protocol")
    return action.decode("ascii"), bytes(_exactly(connection, size, until))


def ask(path: Path, action: str, frame: bytes, *, largest: int, seconds: float) -> bytes:
    """Return the answer of the process that listens at ``path``.

    Raises:
        BadMessage: if the answer is none, or larger than ``largest`` bytes.
        OSError: if nobody listens there, it may not be asked, or (TimeoutError) it takes longer than ``seconds``.
    """
    until = time.monotonic() + seconds
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        _connect(connection, path, until)
        with suppress(BrokenPipeError, ConnectionResetError):  # refused by its header: the answer says why
            send(connection, action, frame, until=until)
        named, answer = receive(connection, largest=largest, until=until)
    if named:
        raise BadMessage("expected an answer, got a question")
    return answer


def refusal_of(reason: str) -> bytes:
    """Return the frame of :class:`fedmarket.federation.messages.Refused`, without loading what it takes to read one."""
    frame: bytes = msgpack.packb({"reason": reason})
    return frame


def _connect(connection: socket.socket, path: Path, until: float) -> None:
    """Connect; where so many wait already that the operating system takes no more, wait too."""
    while True:
        connection.settimeout(_left(until))
        try:
            connection.connect(str(path))
        except BlockingIOError:  # a Unix socket with a full queue says so at once, whatever the time-out
            time.sleep(_PAUSE_SECONDS)
        else:
            return


def _exactly(connection: socket.socket, size: int, until: float) -> bytearray:
    content = bytearray()
    while len(content) < size:
        connection.settimeout(_left(until))
        piece = connection.recv(min(size - len(content), _PIECE))
        if not piece:
            raise BadMessage("the connection ended before a question or an answer was whole")
        content += piece
    return content


def _left(until: float) -> float:
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError("took too long")
    return left
