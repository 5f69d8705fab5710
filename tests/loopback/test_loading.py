"""Ctrl-C while a script loads: one line and 130, whatever it is about to import."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fedmarket.loopback.loading import INTERRUPTED, loading

ROOT = Path(__file__).parents[2]
SCRIPTS = ["run.py", "kill.py"]
INTERRUPTING = """
import runpy, signal, sys

class Finder:
    def find_spec(self, name, path, target=None):
        if name == "fedmarket.loopback.federation":
            try:
                signal.raise_signal(signal.SIGINT)
            except BaseException:
                raise ImportError(name)

sys.meta_path.insert(0, Finder())
runpy.run_path(sys.argv[1], run_name="__main__")
"""


@pytest.mark.parametrize("script", SCRIPTS)
def test_ctrl_c_in_the_imports_of_a_script_is_one_line(script: str):
    path = ROOT / "experiments" / "federation" / script
    ran = subprocess.run(
        [sys.executable, "-c", INTERRUPTING, path], capture_output=True, text=True, timeout=120, check=False
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (INTERRUPTED, "", "interrupted; nothing was started\n")


def test_afterwards_ctrl_c_is_what_it_was():
    before = signal.getsignal(signal.SIGINT)
    with loading():
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before
