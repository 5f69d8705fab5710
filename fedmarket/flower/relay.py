"""The shipped side of a node: passes a frame to the party's own process, and its answer back.

The operator's server ships this code to the node, and may ship any other. So it holds nothing: no row, key, budget or
noise is here, and it needs no right on the node but to connect to one socket.
"""

from pathlib import Path

from flwr.app import Context, Message

from fedmarket.errors import BadMessage
from fedmarket.flower.records import frame_in, framed
from fedmarket.node.question import ask, refusal_of

SOCKET = "socket"
"""Key of the node configuration that names the party's socket; the partner sets it, not the server."""

LARGEST_ANSWER = 1 << 28
"""Bytes."""

UNREACHABLE, SILENT = "party process not reachable", "party process did not answer in time"
"""What a relay says where the party is away; it may be back a moment later."""

LONGEST_WAIT = 900.0
"""Seconds; how long the server waits is its own affair."""


def answer(message: Message, context: Context) -> Message:
    """Return the party's answer; where none can be had, a refusal that says why."""
    try:
        frame = _asked(message, Path(str(context.node_config[SOCKET])))
    except BadMessage as error:
        frame = refusal_of(str(error))
    return Message(framed(frame), reply_to=message)


def _asked(message: Message, path: Path) -> bytes:
    action, frame = message.metadata.message_type.partition(".")[2], frame_in(message.content)
    try:
        return ask(path, action, frame, largest=LARGEST_ANSWER, seconds=LONGEST_WAIT)
    except TimeoutError:
        raise BadMessage(SILENT) from None
    except (OSError, ValueError):  # what libc says of it would tell the server about this machine
        raise BadMessage(UNREACHABLE) from None
