"""Help is quick and shows how; a wrong word ends with 2; a process of its own behaves as the function does."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fedmarket import __version__
from fedmarket.cli import main as entry

FEDMARKET = Path(sys.executable).with_name("fedmarket")


@pytest.mark.parametrize("command", ["simulate", "check", "predict", "keys new", "roster check", "roster rehearse"])
def test_help_has_an_example_that_could_be_pasted(fedmarket: Callable, command: str):
    ran = fedmarket(*command.split(), "--help")
    assert (ran.code, ran.err) == (0, "")
    said = " ".join(ran.out.split())
    assert "Example" in said
    assert f"fedmarket {command} " in said.partition("Example")[2]


def test_help_names_every_command(fedmarket: Callable):
    ran = fedmarket("--help")
    assert ran.code == 0
    assert all(f" {command} " in ran.out for command in ("simulate", "check", "predict", "keys", "roster"))
    assert all(f" {command} " in fedmarket("roster", "--help").out for command in ("check", "rehearse"))


def test_the_version_is_told(fedmarket: Callable):
    assert fedmarket("--version").out == f"{__version__}\n"


@pytest.mark.parametrize("words", [["nope"], ["check"], ["simulate"], ["check", "--nope"], ["predict", "--model", "x"]])
def test_a_wrong_word_ends_with_2_and_no_traceback(fedmarket: Callable, words: list[str]):
    ran = fedmarket(*words)
    assert ran.code == 2
    assert ran.out == ""
    assert "Traceback" not in ran.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["simulate", "config.toml", "--epsilon", "1"], "--epsilon. A key of the document is --set KEY=VALUE. (see"),
        (["simulate", "config.toml", "--ouput", "x"], "--ouput. Did you mean --output? (see"),
        (["check", "--nope"], "--nope. (see fedmarket check --help)"),
    ],
)
def test_a_wrong_option_is_told_what_it_may_have_meant(fedmarket: Callable, words: list[str], said: str):
    assert said in fedmarket(*words).err


def test_an_interruption_ends_with_130_and_no_traceback(fedmarket: Callable, shop, monkeypatch):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fedmarket.simulation.run.run_seed", interrupted)
    ran = fedmarket("simulate", shop.config)
    assert ran.code == 130
    assert "Traceback" not in ran.err


def test_help_loads_nothing_heavy():
    script = (
        "import sys; sys.argv = ['fedmarket', '--help']\n"
        "from fedmarket.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print([m for m in ('torch', 'flwr', 'polars', 'numpy', 'pydantic', 'opacus') if m in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert "Commands" in ran.stdout
    assert ran.stdout.splitlines()[-1] == "[]"


def test_an_error_of_the_installed_command_is_one_line_and_its_code(shop):
    shop.replace(shop.csv, "Lyon", "Quxville")
    command = [FEDMARKET, "check", "--contract", shop.contract, "--data", shop.folder / "none.csv"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr == f"error: {shop.folder / 'none.csv'}: cannot be read (No such file or directory)\n"
    command[-1] = shop.csv
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 1
    assert "closed vocabulary" in ran.stderr
    assert "Quxville" not in ran.stderr + ran.stdout


def test_a_missing_library_is_answered_with_what_to_install(fedmarket: Callable, monkeypatch: pytest.MonkeyPatch):
    def missing(*_: object, **__: object) -> None:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    monkeypatch.setattr(entry, "app", missing)
    ran = fedmarket("simulate", "config.toml")
    assert ran.error == "this command needs torch: pip install 'fedmarket[train,flower]'"
    assert ran.code == 2
