"""A process that is stopped says how to go on, leaves nothing half done, and the same command goes on."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from fedmarket.cli.console import INTERRUPTED, TERMINATED, interruptible

FEDMARKET = Path(sys.executable).with_name("fedmarket")
SECONDS = 300
GOES_ON = "error: interrupted; finished runs are kept, and the same command goes on with them\n"
TWO_SEEDS = ("seeds = [0]", "seeds = [0, 1]")
SECRET = ("--set", 'privacy.generator="operating-system"')


def parts_in(folder: Path) -> list[Path]:
    return list((folder / "out" / "unfinished").glob("*/*.part"))


def stopped(config: Path, number: signal.Signals, *words: str, parts: int = 3) -> subprocess.CompletedProcess[str]:
    """Start an experiment and stop it when it has finished some runs."""
    process = subprocess.Popen(
        [FEDMARKET, "simulate", config, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    end = time.monotonic() + SECONDS
    while len(parts_in(config.parent)) < parts and time.monotonic() < end and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(number)
    out, err = process.communicate(timeout=SECONDS)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


STOPS = {
    "Ctrl-C": (signal.SIGINT, INTERRUPTED, ()),
    "Ctrl-C with workers": (signal.SIGINT, INTERRUPTED, ("--set", "workers=2")),
    "SIGTERM": (signal.SIGTERM, TERMINATED, ()),
    "SIGTERM with workers": (signal.SIGTERM, TERMINATED, ("--set", "workers=2")),
    "killed": (signal.SIGKILL, -signal.SIGKILL, ()),
}


@pytest.mark.parametrize("how", STOPS)
def test_a_simulation_that_is_stopped_goes_on(fedmarket: Callable, write_market, tmp_path: Path, how: str):
    number, code, workers = STOPS[how]
    config = write_market(tmp_path, TWO_SEEDS)
    ran = stopped(config, number, *SECRET, *workers)
    assert (ran.returncode, ran.stdout) == (code, "")
    assert "Traceback" not in ran.stderr
    assert ran.stderr.endswith(GOES_ON) or how == "killed"
    kept = len(parts_in(tmp_path))
    assert 0 < kept < 30
    assert os.listdir(tmp_path / "out") == ["unfinished"]
    again = fedmarket("simulate", config, *SECRET, "--json")
    assert again.code == 0
    assert f"going on with {kept} finished runs\n" in again.err
    told = json.loads(again.out)
    assert told["bundle_holds"] is True
    assert {Path(path).name for path in told["files"].values()} == set(os.listdir(tmp_path / "out"))
    assert fedmarket("verify", tmp_path / "out" / "bundle.zip").code == 0


def test_workers_that_are_stopped_leave_no_key_behind(write_market, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    before = set(Path("/dev/shm").glob("*/roster.toml"))
    config = write_market(tmp_path, TWO_SEEDS)
    stopped(config, signal.SIGTERM, "--set", "workers=2")
    assert not list((tmp_path / "temporary").glob("*/roster.toml"))
    # Others may simulate on this machine: only what has our parties' books is ours, and none of it has.
    new = set(Path("/dev/shm").glob("*/roster.toml")) - before
    assert not [path for path in new if "telecom" in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, INTERRUPTED), (signal.SIGTERM, TERMINATED)])
def test_what_is_interrupted_says_its_words_and_ends_with_its_code(number, code, capsys, request):
    ignored = signal.signal(signal.SIGINT, signal.default_int_handler)  # as a shell starts what is in its background
    request.addfinalizer(partial(signal.signal, signal.SIGINT, ignored))
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended, interruptible("all is well"):
        signal.raise_signal(number)
    assert ended.value.code == code
    assert capsys.readouterr().err == "error: interrupted; all is well\n"
    assert signal.getsignal(signal.SIGTERM) is before
