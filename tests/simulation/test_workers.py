"""Workers are started whatever their caller's main module is, and do not run it again."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
from math import sqrt
from fedmarket.simulation.workers import pool_of
print("main")
with pool_of(2) as pool:
    print(sum(pool.map(sqrt, [4, 9])))
"""


@pytest.mark.parametrize("source", ["standard input", "a script without a guard"])
def test_no_worker_runs_the_main_module_again(source: str, tmp_path: Path):
    (tmp_path / "script.py").write_text(SCRIPT)
    command, given = ([sys.executable, "-"], SCRIPT) if source == "standard input" else (
        [sys.executable, str(tmp_path / "script.py")], None
    )  # fmt: skip
    ran = subprocess.run(command, input=given, capture_output=True, text=True, timeout=120, check=False)
    assert (ran.stdout, ran.stderr[-2000:]) == ("main\n5.0\n", "")
