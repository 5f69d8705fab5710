"""The door of a node: a Unix socket where one question at a time is put to the desk.

Whoever comes is a stranger: the operating system says which user it is, a header says how large the question is before
any of it is read, and a clock ends what trickles. Nothing that comes in ends the process or stays in it.
"""

import grp
import logging
import os
import pwd
import select
import signal
import socket
import stat
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Lock, Thread
from types import FrameType

from fedmarket.errors import BadMessage, UsageError
from fedmarket.node.desk import Desk
from fedmarket.node.question import receive, refusal_of, send
from fedmarket.node.settings import Partner, SocketSection

MOST_CONNECTIONS = 8
"""At once; more wait at the operating system."""

QUESTION_SECONDS = 30.0
"""For a question to come, and for an answer to be taken."""

LONGEST_PATH = 107
"""Bytes that the operating system has for a socket's path."""

_WAITING = 64
_LOOK_SECONDS, _PAUSE_SECONDS = 0.2, 0.01
_CREDENTIALS = struct.Struct("3i")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Callers:
    """Which users of the operating system may ask."""

    users: frozenset[int]
    group: int | None

    @property
    def mode(self) -> int:
        """Of the socket."""
        return 0o600 if self.group is None else 0o660


def callers_of(section: SocketSection) -> Callers:
    """Return who may ask: the node's own user, and whom the document names.

    Raises:
        UsageError: if the system knows no such user or group.
    """
    try:
        named = {pwd.getpwnam(name).pw_uid for name in section.users}
        group = None if section.group is None else grp.getgrnam(section.group).gr_gid
    except KeyError as error:
        raise UsageError(f"socket: {error.args[0]}") from None
    return Callers(users=frozenset({os.geteuid(), *named}), group=group)


def need_safe_folder(path: Path) -> None:
    """Refuse a socket's path that is too long, or in a folder where others could put a socket of their own.

    Raises:
        UsageError: with what is wrong with it.
    """
    if len(os.fsencode(path)) > LONGEST_PATH:
        raise UsageError(f"{path}: expected a path of at most {LONGEST_PATH} bytes")
    try:
        found = path.parent.stat()
    except OSError as error:
        raise UsageError(f"{path.parent}: cannot be used ({error.strerror or error})") from None
    if found.st_uid not in (os.geteuid(), 0) or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise UsageError(f"{path.parent}: others can write there; put the socket into a folder of the node's own")


@contextmanager
def listening(path: Path, callers: Callers) -> Iterator[socket.socket]:
    """Give a socket that listens at ``path``; what a killed process left there is taken away.

    Raises:
        UsageError: if somebody listens there already, or nobody can.

    Guarantees:
        At no time can anybody connect whom the mode does not let in. The path is gone afterwards.
    """
    need_safe_folder(path)
    _need_free(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        before = os.umask(0o177)
        try:
            listener.bind(str(path))
        finally:
            os.umask(before)
        if callers.group is not None:
            os.chown(path, -1, callers.group)
            path.chmod(callers.mode)
        listener.listen(_WAITING)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise UsageError(f"{path}: cannot be listened at ({error.strerror or error})") from None
    made = path.stat().st_ino
    try:
        yield listener
    finally:
        listener.close()
        with suppress(OSError):
            if path.stat().st_ino == made:
                path.unlink()


def _need_free(path: Path) -> None:
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise UsageError(f"{path}: something else than a socket is there")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(1.0)
            probe.connect(str(path))
        raise UsageError(f"{path}: another process answers there")
    except FileNotFoundError:
        return
    except ConnectionRefusedError:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(f"{path}: cannot be used ({error.strerror or error})") from None


@dataclass(slots=True, kw_only=True)
class Door:
    """Takes questions from a listening socket until it is told to stop.

    Attributes:
        desk: who answers.
        callers: who may ask.
        question_seconds: for a question to come, and for an answer to be taken.
    """

    desk: Desk
    callers: Callers
    question_seconds: float = QUESTION_SECONDS
    _stopped: Event = field(default_factory=Event, repr=False)
    _open: dict[socket.socket, Thread] = field(default_factory=dict, repr=False)
    _lock: Lock = field(default_factory=Lock, repr=False)

    def stop(self) -> None:
        """Take no more questions; may be called from a signal."""
        self._stopped.set()

    def serve(self, listener: socket.socket) -> None:
        """Answer until :meth:`stop`; then finish the answer in progress, drop what waits for its turn, and return."""
        while not self._stopped.is_set():
            if len(self._open) < MOST_CONNECTIONS and select.select([listener], [], [], _LOOK_SECONDS)[0]:
                with suppress(OSError):  # it went away again
                    self._take(listener.accept()[0])
                    continue
            self._stopped.wait(_PAUSE_SECONDS)
        with self._lock:
            waiting = dict(self._open)
        for connection in waiting:
            with suppress(OSError):  # reads end here; what is being answered can still be sent
                connection.shutdown(socket.SHUT_RD)
        for thread in waiting.values():
            thread.join()

    def _take(self, connection: socket.socket) -> None:
        thread = Thread(target=self._attend, args=(connection,), daemon=True)
        with self._lock:
            self._open[connection] = thread
        thread.start()

    def _attend(self, connection: socket.socket) -> None:
        try:
            if _user_of(connection) in self.callers.users:
                self._answer(connection)
            else:
                _log.warning("turned away: a user who may not ask")
        except OSError as error:
            _log.info("dropped: %s", error.strerror or "took too long")
        finally:
            with self._lock:
                del self._open[connection]
            connection.close()

    def _answer(self, connection: socket.socket) -> None:
        until = time.monotonic() + self.question_seconds
        try:
            action, frame = receive(connection, largest=self.desk.largest_question, until=until)
            answer = self.desk.answer(action, frame, wanted=lambda: _waits(connection))
        except BadMessage as error:
            _log.info("refused: %s", error)
            answer = refusal_of(str(error))
        if answer is not None:
            send(connection, "", answer, until=time.monotonic() + self.question_seconds)


@contextmanager
def stopped_by_signals(door: Door) -> Iterator[None]:
    """Within, SIGTERM and SIGINT stop ``door``; a second one ends the process as it always does."""

    def stop(number: int, _: FrameType | None) -> None:
        _log.info("%s: finishing the answer in progress", signal.Signals(number).name)
        for one in (signal.SIGTERM, signal.SIGINT):
            signal.signal(one, signal.SIG_DFL)
        door.stop()

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def serve(partner: Partner) -> None:
    """Serve the partner's node until a signal ends it.

    Raises:
        FedmarketError: what keeps it from starting.
    """
    callers = callers_of(partner.section.socket)
    need_safe_folder(partner.socket)
    desk = Desk.open(partner)
    try:
        for breach in desk.breaches:
            _log.warning("nothing will be released: %s", breach)
        door = Door(desk=desk, callers=callers)
        with stopped_by_signals(door), listening(partner.socket, callers) as listener:
            _log.info("party %s listens at %s", partner.name, partner.socket)
            door.serve(listener)
    finally:
        desk.close()
    _log.info("stopped")


def _waits(connection: socket.socket) -> bool:
    """Whether somebody still waits for the answer.

    Raises:
        BadMessage: if more than one question was sent.
    """
    connection.setblocking(False)
    try:
        more = connection.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return True
    except OSError:
        return False
    if more:
        raise BadMessage("expected one question for a connection")
    return False


def _user_of(connection: socket.socket) -> int:
    """Return the user at the other end, as the operating system knows it."""
    content = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, user, _ = _CREDENTIALS.unpack(content)
    return int(user)
