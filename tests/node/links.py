"""A bad line between two processes: slow, cut in the middle, or dead without a word; run by path (``runpy``).

What it does can be changed while it is up. It carries bytes and knows nothing of what they mean.
"""

import math
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

Address = Path | tuple[str, int]
"""Of a Unix socket, or a host and a port."""

_PIECE = 4096
_RESET = struct.pack("ii", 1, 0)


@dataclass
class Link:
    """What happens to connections from ``near`` to ``far``.

    Attributes:
        seconds: how much later each piece of at most 4 KiB arrives.
        rate: bytes a second of each direction of a connection.
        cut_after: bytes of a connection, both directions together, after which it is cut; None for never.
        dead: what comes is swallowed; nobody is told.
        connections: how many there were.
        cuts: how many of them were cut.
        swallowed: bytes that went nowhere.
    """

    near: Address
    far: Address
    seconds: float = 0.0
    rate: float = math.inf
    cut_after: int | None = None
    dead: bool = False
    connections: int = 0
    cuts: int = 0
    swallowed: int = 0
    _open: list[socket.socket] = field(default_factory=list, repr=False)

    def attend(self, near: socket.socket) -> None:
        """Carry one connection's bytes both ways until it ends."""
        self.connections += 1
        far = socket.socket(_family(self.far))
        try:
            far.connect(_name(self.far))
        except OSError:
            far.close()
            near.close()
            return
        carried = [0]
        self._open += [near, far]
        both = [threading.Thread(target=self._pump, args=(*way, carried)) for way in ((near, far), (far, near))]
        for thread in both:
            thread.start()
        for thread in both:
            thread.join()
        for end in (near, far):
            self._open.remove(end)
            end.close()

    def break_all(self) -> None:
        """Cut every connection that is open now."""
        for end in list(self._open):
            _reset(end)

    def _pump(self, source: socket.socket, sink: socket.socket, carried: list[int]) -> None:
        with suppress(OSError):
            while piece := source.recv(_PIECE):
                if self.dead:
                    self.swallowed += len(piece)
                    continue
                time.sleep(self.seconds + len(piece) / self.rate)
                left = math.inf if self.cut_after is None else self.cut_after - carried[0]
                carried[0] += len(piece)
                if left < len(piece):
                    self.cuts += 1
                    sink.sendall(piece[: max(0, int(left))])
                    _reset(source)
                    _reset(sink)
                    return
                sink.sendall(piece)
        with suppress(OSError):
            if not self.dead:
                sink.shutdown(socket.SHUT_WR)


@contextmanager
def linked(near: Address, far: Address, **settings: object) -> Iterator[Link]:
    """Give a link that takes connections at ``near``; all of them end with it."""
    link = Link(near, far, **settings)
    listener, stopped = socket.socket(_family(near)), threading.Event()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(_name(near))
    listener.listen()
    listener.settimeout(0.05)
    threads: list[threading.Thread] = []

    def serve() -> None:
        while not stopped.is_set():
            with suppress(TimeoutError):
                connection, _ = listener.accept()
                connection.settimeout(None)
                threads[:] = [one for one in threads if one.is_alive()]
                threads.append(threading.Thread(target=link.attend, args=(connection,), daemon=True))
                threads[-1].start()

    serving = threading.Thread(target=serve)
    serving.start()
    try:
        yield link
    finally:
        stopped.set()
        serving.join()
        link.break_all()
        for thread in threads:
            thread.join(timeout=10)
        listener.close()
        if isinstance(near, Path):
            near.unlink()


def _family(address: Address) -> socket.AddressFamily:
    return socket.AF_UNIX if isinstance(address, Path) else socket.AF_INET


def _name(address: Address) -> str | tuple[str, int]:
    return str(address) if isinstance(address, Path) else address


def _reset(end: socket.socket) -> None:
    """End a connection at once, so that the other side hears of it: on TCP by a reset."""
    with suppress(OSError):
        if end.family == socket.AF_INET:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        end.shutdown(socket.SHUT_RDWR)
