"""The operator's two processes: a SuperLink that listens on loopback, and the SuperExec that starts ServerApps for it.

Secrets are in files that only their owner reads; no command line and no environment holds one.
"""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fedmarket.errors import DataError, UsageError
from fedmarket.files import write_text
from fedmarket.flower.control import Control, NodeKey
from fedmarket.operator.settings import Home

START_SECONDS, STOP_SECONDS = 60.0, 15.0

ENVIRONMENT = {
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
}
_PASSED_ON = ("HOME", "LANG", "LC_ALL", "OMP_NUM_THREADS", "TMPDIR", "TZ")


_left_running: "list[subprocess.Popen[bytes]]" = []
"""Processes that nobody here waits for: Python complains of those that it forgets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """A process of ours: its name, id, and when it started, so that its id is not taken for another's later."""

    name: str
    pid: int
    since: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """A SuperNode that may connect: its name, its key's fingerprint, and whether it was admitted only now."""

    name: str
    fingerprint: str
    new: bool


def commands_of(home: Home) -> dict[str, list[str]]:
    """Return the command line of each process by its name, in the order in which they start."""
    superlink = [
        sys.executable, "-m", "fedmarket.flower.guarded", "superlink", str(home.control_token),
        "--host", "127.0.0.1", "--port", str(home.settings.server.port),
        "--ssl-ca-certfile", str(home.ca),
        "--ssl-certfile", str(home.certificate),
        "--ssl-keyfile", str(home.certificate_key),
        "--enable-supernode-auth",
        "--isolation", "process",
        "--superexec-auth-secret-file", str(home.superexec_secret),
        "--disable-runtime-dependency-installation",
        "--database", str(home.folder / "flower.db"),
    ]  # fmt: skip
    superexec = [
        sys.executable, "-m", "fedmarket.flower.guarded", "superexec",
        "--runtime-api-address", home.address,
        "--root-certificates", str(home.ca),
        "--superexec-auth-secret-file", str(home.superexec_secret),
    ]  # fmt: skip
    return {"superlink": superlink, "superexec": superexec}


def environment_of(home: Home) -> dict[str, str]:
    """Return what the processes find in their environment: Flower's switches, and little of ours."""
    passed = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    return passed | ENVIRONMENT | {"PATH": path, "FLWR_HOME": str(home.folder / "flower")}


def shell_lines(home: Home) -> list[str]:
    """Return what :func:`start` does, as lines for a shell or a service file."""
    settings = ENVIRONMENT | {"FLWR_HOME": str(home.folder / "flower")}
    exports = [f"export {name}={shlex.quote(value)}" for name, value in settings.items()]
    return [*exports, *(shlex.join(command) for command in commands_of(home).values())]


def start(home: Home) -> tuple[list[Started], list[Admitted]]:
    """Start what does not run of the two, detached from this terminal; wait for an answer, and admit the known nodes.

    Returns what was started, and who may connect.

    Raises:
        UsageError: if both run already, or there is no answer in time; what was started is stopped again.
    """
    there = running(home)
    if len(there) == len(commands_of(home)):
        raise UsageError(f"runs already: {', '.join(f'{one.name} {one.pid}' for one in there)}")
    for folder in (home.logs, home.runs, home.folder / "flower"):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    started: list[Started] = []
    try:
        for name, command in commands_of(home).items():
            if name in {one.name for one in there}:
                continue
            started.append(_started(home, name, command))
            _write(home, [*there, *started])
            if name == "superlink":
                _need_healthy(home, started[0])
        admitted = admit(home)
    except BaseException:
        for one in reversed(started):
            _end(one)
        _write(home, there)
        raise
    return started, admitted


def stop(home: Home) -> list[Started]:
    """Stop what :func:`start` started, the last first, and return it; a run goes on after the next start."""
    found = list(reversed(running(home)))
    for one in found:
        _end(one)
    home.pids.unlink(missing_ok=True)
    return found


def running(home: Home) -> list[Started]:
    """Return which of our processes run."""
    try:
        listed = json.loads(home.pids.read_text(encoding="utf-8"))
        known = [Started(**fields) for fields in listed]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError):
        raise DataError(f"{home.pids}: expected a list of processes") from None
    return [one for one in known if _since(one.pid) == one.since]


def admit(home: Home) -> list[Admitted]:
    """Let every SuperNode connect whose public key is in the folder of nodes, and return them all.

    Raises:
        ConfigError: if a file holds no key that Flower takes; then nobody new is admitted.
    """
    keys = {path.stem: NodeKey.read(path) for path in sorted(home.nodes.glob("*.pub"))}
    with control_of(home) as control:
        new = {name for name, key in keys.items() if control.register(key, name=name)}
        numbers = control.node_numbers()
    names = {numbers[key.content]: name for name, key in keys.items() if key.content in numbers}
    write_text(home.node_names, json.dumps(names, ensure_ascii=False))
    return [Admitted(name=name, fingerprint=key.fingerprint, new=name in new) for name, key in keys.items()]


def control_of(home: Home) -> Control:
    """Return a connection to the operator's SuperLink.

    Raises:
        ConfigError: if token or certificate cannot be read.
    """
    return Control.of(home.address, ca=home.ca, token=home.control_token)


def detached(
    command: list[str], *, environment: Mapping[str, str], folder: Path, log: Path
) -> "subprocess.Popen[bytes]":
    """Start a process that outlives this one and its terminal, in ``folder``; what it says is added to ``log``."""
    with log.open("ab") as said:
        return subprocess.Popen(
            command,
            env=environment,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            start_new_session=True,
            umask=0o077,
        )


def _started(home: Home, name: str, command: list[str]) -> Started:
    environment = environment_of(home)
    process = detached(command, environment=environment, folder=home.folder, log=home.logs / f"{name}.log")
    _left_running.append(process)
    return Started(name=name, pid=process.pid, since=_since(process.pid))


def _write(home: Home, started: list[Started]) -> None:
    listed = [{"name": one.name, "pid": one.pid, "since": one.since} for one in started]
    write_text(home.pids, json.dumps(listed))


def _need_healthy(home: Home, superlink: Started) -> None:
    until = time.monotonic() + START_SECONDS
    with control_of(home) as control:
        while not control.healthy():
            if _since(superlink.pid) != superlink.since:
                raise UsageError(f"the SuperLink stopped at once; see {home.logs / 'superlink.log'}")
            if time.monotonic() > until:
                raise UsageError(f"no SuperLink after {START_SECONDS:g} s; see {home.logs / 'superlink.log'}")
            time.sleep(0.2)


def _end(one: Started) -> None:
    until = time.monotonic() + STOP_SECONDS
    while _since(one.pid) == one.since:
        late = time.monotonic() > until
        try:
            os.kill(one.pid, signal.SIGKILL if late else signal.SIGTERM)
        except ProcessLookupError:
            return
        time.sleep(0.2 if not late else 0.5)


def _since(pid: int) -> str:
    """Return when a process started, in the system's own count; empty where it does not run."""
    for process in _left_running:
        process.poll()  # a child of ours that ended is no process any more
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return ""
    if fields[0] != "Z":
        return fields[19]
    for process in _left_running:  # it ended meanwhile
        process.poll()
    return ""
