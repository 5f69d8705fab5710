"""What is started is found by its home and stopped, whatever it does; a command fails in one line and in time."""

import os
import signal
import socket
import sys
import time
from pathlib import Path

import pytest

from fedmarket.errors import FederationStopped
from fedmarket.loopback.processes import (
    Daemon,
    commanded,
    end,
    environment_of,
    found,
    free_ports,
    stop_all,
    stop_daemons,
    uninterrupted,
)

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds what it started in /proc")

STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if sys.argv[1:]:
    subprocess.Popen([sys.executable, *sys.orig_argv[1:-1]], start_new_session=True)
print("ready", flush=True)
time.sleep(300)
"""


def daemon(home: Path, *words: str) -> Daemon:
    command = [sys.executable, "-c", STUBBORN, *words]
    return Daemon(name="stubborn", command=command, home=home, log=home.with_suffix(".log"))


def until(true) -> None:
    for _ in range(300):
        if true():
            return
        time.sleep(0.1)
    raise AssertionError("did not happen")


def test_a_process_that_does_not_listen_and_its_child_are_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr("fedmarket.loopback.processes.STOP_SECONDS", 2.0)
    one, other = daemon(tmp_path / "home", "with a child"), daemon(tmp_path / "other")
    try:
        one.start()
        other.start()
        until(lambda: len(found(one.home)) == 2)
        stop_daemons([one])
        assert found(one.home) == {}
        assert list(found(other.home)) == [other.pid]
    finally:
        stop_all(one.home, other.home)
        for process in (one, other):
            process.wait()


def test_a_killed_daemon_is_started_again_and_its_log_goes_on(tmp_path):
    one = daemon(tmp_path / "home")
    try:
        for times in (1, 2):
            one.start()
            until(lambda times=times: one.log.read_text().count("ready") == times)
            assert one.alive
            one.kill()
            assert not one.alive
        assert one.last_line() == "ready"
    finally:
        stop_daemons([one])


def test_what_is_stopped_is_not_interrupted():
    before = signal.getsignal(signal.SIGINT)
    with uninterrupted():
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_little_of_the_environment_is_passed_on(tmp_path, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of somebody else")
    assert "of somebody else" not in environment_of(tmp_path).values()


def test_a_command_fails_in_one_line(tmp_path):
    with pytest.raises(FederationStopped, match=r"^fedmarket roster check: .*missing\.toml: cannot be read"):
        commanded("roster", "check", tmp_path / "missing.toml", home=tmp_path)


def test_a_command_that_takes_too_long_is_ended(tmp_path):
    with pytest.raises(FederationStopped, match=r"^fedmarket --help: no end after 0\.01 s"):
        commanded("--help", home=tmp_path, seconds=0.01)
    assert found(tmp_path) == {}


def test_ports_are_free_and_different():
    ports = free_ports(5)
    assert len(set(ports)) == 5
    with socket.socket() as one:
        one.bind(("127.0.0.1", ports[0]))


def test_who_is_gone_needs_no_signal():
    end(2**22 + 1)
