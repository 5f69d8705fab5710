"""Processes that this one starts, and stops again whatever happens.

Flower's processes start others. All of them inherit the name of a Flower home in their environment, so they are found
by it and stopped by process id; nobody else's are touched.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Timer

from fedmarket.errors import FederationStopped, UsageError
from fedmarket.operator.superlink import ENVIRONMENT, detached

STOP_SECONDS = 15.0
COMMAND_SECONDS = 120.0

BIN = Path(sys.executable).parent
_PASSED_ON = ("FEDMARKET_DATA", "HOME", "LANG", "LC_ALL", "PYTHONPATH", "TMPDIR", "TZ", "XDG_CACHE_HOME")
_LONGEST_REASON = 300

_QUICK = {"FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2"}
"""Seconds between two looks of a SuperNode for a message to start a process for; by default 1."""


def need_proc() -> None:
    """Refuse a system without ``/proc``, where what Flower starts could not be found again.

    Raises:
        UsageError: there.
    """
    if not Path("/proc/self/environ").exists():
        raise UsageError("a federation between processes needs Linux: what Flower starts is found again in /proc")


def free_ports(count: int) -> list[int]:
    """Return as many ports of loopback on which nobody listens now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def environment_of(home: Path) -> dict[str, str]:
    """Return the environment of a process whose Flower home is ``home``: Flower's switches, and little of ours.

    Numerical libraries get one thread: on shared cores their idle threads cost more than they bring.
    """
    passed = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    path = f"{BIN}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    return passed | ENVIRONMENT | {"PATH": path, "FLWR_HOME": str(home), "OMP_NUM_THREADS": "1", **_QUICK}


def found(*homes: Path) -> dict[int, list[str]]:
    """Return the running processes whose Flower home is one of these folders, with their command lines."""
    marks, running = {f"FLWR_HOME={home}".encode() for home in homes}, {}
    for entry in Path("/proc").iterdir():
        try:
            if not entry.name.isdigit() or marks.isdisjoint((entry / "environ").read_bytes().split(b"\0")):
                continue
            if (entry / "stat").read_text().rpartition(")")[2].split()[0] != "Z":
                running[int(entry.name)] = (entry / "cmdline").read_text().split("\0")
        except OSError:
            continue
    running.pop(os.getpid(), None)
    return running


def stop_all(*homes: Path) -> None:
    """Stop every process whose Flower home is one of these folders: first it asks, then it insists.

    Raises:
        FederationStopped: if one is still there after :data:`STOP_SECONDS`.
    """
    until = time.monotonic() + STOP_SECONDS
    while left := found(*homes):
        if time.monotonic() > until:
            raise FederationStopped(f"processes that cannot be stopped: {', '.join(map(str, sorted(left)))}")
        insist = time.monotonic() > until - STOP_SECONDS / 2
        for pid in left:
            end(pid, signal.SIGKILL if insist else signal.SIGTERM)
        time.sleep(0.2)


def end(pid: int, number: int = signal.SIGKILL) -> None:
    """Send a process a signal; one that is gone needs none."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Within, Ctrl-C and SIGTERM do nothing: what is being stopped is stopped to the end."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass(slots=True, kw_only=True)
class Daemon:
    """A process that runs until it is stopped, in a session of its own, so that Ctrl-C does not reach it first.

    Attributes:
        name: what it is, for a reader.
        command: its words.
        home: its Flower home, by which it and its children are found.
        log: the file that what it says is added to.
        environment: what it finds in its environment beside :func:`environment_of`.
    """

    name: str
    command: list[str]
    home: Path
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    _process: "subprocess.Popen[bytes] | None" = field(default=None, repr=False)

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Its process id; 0 before it is started."""
        return self._process.pid if self._process is not None else 0

    def start(self) -> None:
        """Start it, in the folder of its home."""
        self.home.mkdir(parents=True, exist_ok=True, mode=0o700)
        environment = environment_of(self.home) | dict(self.environment)
        self._process = detached(self.command, environment=environment, folder=self.home, log=self.log)

    def kill(self) -> None:
        """End it as a power cut would; its children are not touched."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def ask_to_stop(self) -> None:
        """Send SIGTERM."""
        if self.alive:
            end(self.pid, signal.SIGTERM)

    def wait(self) -> None:
        """Return when it has ended; after :data:`STOP_SECONDS` it is killed."""
        if self._process is None:
            return
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()

    def last_line(self) -> str:
        """Return what it said last."""
        return last_line(self.log.read_text(encoding="utf-8", errors="replace")) if self.log.exists() else ""


def stop_daemons(daemons: Iterable[Daemon]) -> None:
    """Ask all to stop, wait for all, then stop what their children left."""
    listed = list(daemons)
    for daemon in listed:
        daemon.ask_to_stop()
    for daemon in listed:
        daemon.wait()
    stop_all(*{daemon.home for daemon in listed})


def commanded(*words: object, home: Path, seconds: float = COMMAND_SECONDS) -> str:
    """Give one of the project's commands and return what it printed.

    Raises:
        FederationStopped: if it fails or does not end within ``seconds``; with the last line that it said.
    """
    lines: list[str] = []
    followed(*words, home=home, seconds=seconds, say=lines.append)
    return "\n".join(lines)


def followed(*words: object, home: Path, seconds: float, say: Callable[[str], None]) -> None:
    """Give one of the project's commands and pass on each line as it is printed.

    Raises:
        FederationStopped: as :func:`commanded`.
    """
    said = f"fedmarket {words[0]} {words[1]}" if len(words) > 1 else f"fedmarket {words[0]}"
    until, last = time.monotonic() + seconds, ""
    process = subprocess.Popen(
        [str(BIN / "fedmarket"), *map(str, words)],
        env=environment_of(home),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        with _killed_at(until, process):
            for line in process.stdout or ():
                last = line.strip() or last
                say(line.rstrip("\n"))
            code = process.wait()
    finally:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()
    if time.monotonic() > until:
        raise FederationStopped(f"{said}: no end after {seconds:g} s")
    if code:
        raise FederationStopped(f"{said}: {last_line(last).removeprefix('error: ')}")


@contextmanager
def _killed_at(until: float, process: "subprocess.Popen[str]") -> Iterator[None]:
    timer = Timer(max(until - time.monotonic(), 0.0), process.kill)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def last_line(text: str) -> str:
    """Return the last line that says something, cut where it is long."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:_LONGEST_REASON] if lines else "said nothing"
