"""Ctrl-C while a script still loads its libraries, which takes seconds: one line and an exit code, no traceback."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

INTERRUPTED = 130
"""Exit code of a script that the user stopped (128 + SIGINT)."""

_STDERR = 2


@contextmanager
def loading() -> Iterator[None]:
    """Within, Ctrl-C ends the process at once: nothing was started yet that would have to be stopped.

    An exception would not do: a library in the middle of its import may make another one of it.
    """

    def end(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        os.write(_STDERR, b"interrupted; nothing was started\n")
        os._exit(INTERRUPTED)

    before = signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
