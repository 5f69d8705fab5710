"""What a terminal shows, and what a pipe does: colours, completion, encodings, and documents for machines."""

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from fedmarket.cli.console import print_json
from fedmarket.cli.main import EXIT_CODES
from fedmarket.cli.progress import progress

ROOT = Path(__file__).parents[2]
FEDMARKET = Path(sys.executable).with_name("fedmarket")
PLAIN = {name: value for name, value in os.environ.items() if not name.endswith("_COLOR") and name != "GITHUB_ACTIONS"}
WRONG = (FEDMARKET, "verify", "none.zip")


def on_terminal(*words: object, **environment: str) -> str:
    """Return what a command writes to a terminal of its own."""
    here, there = pty.openpty()
    env = PLAIN | {"TERM": "xterm-256color", "COLUMNS": "100"} | environment
    process = subprocess.Popen([*map(str, words)], stdin=there, stdout=there, stderr=there, env=env, close_fds=True)
    os.close(there)
    said = b""
    try:
        while block := os.read(here, 1 << 16):
            said += block
    except OSError:  # the terminal's other end is closed
        pass
    os.close(here)
    process.wait(timeout=60)
    return said.decode()


def piped(*words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    env = PLAIN | environment
    return subprocess.run([*map(str, words)], capture_output=True, text=True, env=env, timeout=120, check=False)


@pytest.mark.parametrize("words", [WRONG, (FEDMARKET, "--help")])
def test_colours_are_for_terminals(words):
    assert "\x1b[" in on_terminal(*words)
    ran = piped(*words)
    assert "\x1b" not in ran.stdout + ran.stderr


def test_the_environment_has_the_last_word_on_colours():
    colour = "\x1b[1;31m"
    assert colour in on_terminal(*WRONG)
    assert colour not in on_terminal(*WRONG, NO_COLOR="1")
    assert "\x1b[" not in on_terminal(*WRONG, TERM="dumb")
    assert colour in piped(*WRONG, FORCE_COLOR="1").stderr


def test_forced_colours_draw_no_bar_into_a_file(monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")
    with progress("seed 0") as tell:
        for share in (0.0, 0.1, 0.5, 0.51, 1.0):
            tell("seed 0", "training", share)
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(" training")[0] for line in lines] == ["seed 0:   0%", "seed 0:  50%", "seed 0: 100%"]
    assert lines[1].startswith("seed 0:  50% training, about ")
    assert lines[1].endswith(" left")


def completed(line: str, *, shell: str = "bash") -> subprocess.CompletedProcess[str]:
    script = (
        "import sys; sys.argv = ['fedmarket']\n"
        "from fedmarket.cli.main import main\n"
        "try: main()\n"
        "finally: print([m for m in ('torch', 'flwr', 'polars', 'numpy', 'pydantic') if m in sys.modules])"
    )
    protocol = {"_FEDMARKET_COMPLETE": f"complete_{shell}", "_TYPER_COMPLETE_ARGS": line}
    protocol |= {"COMP_WORDS": line, "COMP_CWORD": str(line.count(" ")), "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    return piped(sys.executable, "-c", script, **protocol)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.parametrize(
    ("line", "word"),
    [("fedmarket sim", "simulate"), ("fedmarket budget sh", "show"), ("fedmarket verify --js", "--json")],
)
def test_a_shell_completes_commands_and_options_and_loads_nothing_heavy(shell: str, line: str, word: str):
    ran = completed(line, shell=shell)
    *words, loaded = ran.stdout.splitlines()
    assert word in " ".join(words)
    assert loaded == "[]"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_of_each_shell_is_shown(shell: str):
    ran = piped(FEDMARKET, **{"_FEDMARKET_COMPLETE": f"source_{shell}"})
    assert "_FEDMARKET_COMPLETE" in ran.stdout
    assert ran.returncode == 0


ENCODINGS = [
    {"LC_ALL": "C"},
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    {"PYTHONIOENCODING": "ascii"},
    {"PYTHONIOENCODING": "latin-1"},
]


@pytest.mark.parametrize("environment", ENCODINGS)
def test_a_terminal_of_another_encoding_crashes_nothing(shop, environment: dict[str, str]):
    shop.replace(shop.contract, '"shop"', '"商店"')
    shop.replace(shop.contract, '"town"', '"城市"')
    words = ("check", "--contract", shop.contract, "--data", shop.csv)
    ran = piped(FEDMARKET, *words, **environment)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert "Traceback" not in ran.stderr
    assert "missing" in ran.stderr
    table = shop.csv.read_text(encoding="utf-8").replace("town", "城市", 1)
    shop.csv.write_text(table, encoding="utf-8")
    assert piped(FEDMARKET, *words, **environment).returncode == 0
    told = json.loads(piped(FEDMARKET, *words, "--json", **environment).stdout)
    assert told["contract"] == "商店"
    assert [column["name"] for column in told["profile"]["columns"]] == ["spend", "城市"]


def test_json_has_no_number_that_is_none(capsys):
    print_json({"a": float("nan"), "b": [float("inf"), {"c": -float("inf")}], "d": 0.1, "e": True, "f": "公司"})
    assert json.loads(capsys.readouterr().out) == {
        "a": None,
        "b": [None, {"c": None}],
        "d": 0.1,
        "e": True,
        "f": "公司",
    }


def test_the_reference_has_the_exit_codes_of_the_help():
    page = (ROOT / "docs" / "reference" / "json.md").read_text(encoding="utf-8").replace("`", "").replace("party ", "")
    for code, words in EXIT_CODES.items():
        assert f"| {code} | {words} |" in page


def test_each_format_that_a_command_prints_is_in_the_reference():
    page = (ROOT / "docs" / "reference" / "json.md").read_text(encoding="utf-8")
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "fedmarket" / "cli").glob("*.py"))
    formats = {part.partition('"')[0] for part in sources.split('"') if part.startswith("fedmarket-") and "/1" in part}
    assert len(formats) >= 11
    assert all(f"`{name}`" in page for name in formats)


def test_check_tells_a_machine_what_it_tells_a_person(fedmarket: Callable, shop):
    words = ("check", "--contract", shop.contract, "--data", shop.csv, "--json")
    ran = fedmarket(*words)
    told = json.loads(ran.out)
    assert (ran.code, ran.err, told["keeps"], told["broken"], told["profile"]["rows"]) == (0, "", True, [], 200)
    shop.replace(shop.csv, "Lyon", "Quxville")
    ran = fedmarket(*words)
    told = json.loads(ran.out)
    assert (ran.code, ran.err, told["keeps"]) == (1, "", False)
    assert "closed vocabulary" in told["broken"][0]
    ran.tells_no_cell()


def test_what_a_run_would_cost_is_told_to_a_machine(fedmarket: Callable, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    told = json.loads(fedmarket("budget", "plan", "experiments/demo/config.toml", "--json").out)
    assert (told["format"], told["party"]) == ("fedmarket-planned/1", None)
    assert 0 < told["run"]["epsilon"] < 10
    assert {"phase", "releases", "noise_multiplier", "clip_norm", "sample_rate"} == set(told["run"]["mechanisms"][0])
    assert {"name", "words", "epsilon"} == set(told["run"]["observers"][0])


def test_a_change_of_a_ledger_is_told_to_a_machine(fedmarket: Callable, books):
    signed = ("--identity", books.identity, "--reason", "董事会同意")
    told = json.loads(fedmarket("budget", "set-cap", books.folder, "9", *signed, "--json").out)
    seen = json.loads(fedmarket("budget", "show", books.folder, "--json").out)
    assert (told["format"], told["party"], told["cap"]) == ("fedmarket-changed/1", seen["party"], 9.0)
    assert told["entry"] == seen["entries"] - 1
    assert told["epsilon"] == seen["data_sets"][-1]["epsilon"] > 0
    assert (told["statement"]["kind"], told["statement"]["reason"]) == ("cap-changed", "董事会同意")


def test_keys_and_rosters_are_told_to_a_machine(fedmarket: Callable, tmp_path: Path):
    keys = [json.loads(fedmarket("keys", "new", tmp_path / f"{n}.pem", "--json").out)["public_key"] for n in range(5)]
    (tmp_path / "lines.txt").write_text("".join(f"{key}  公司{n}\n" for n, key in enumerate(keys)), encoding="utf-8")
    made = json.loads(fedmarket("roster", "new", tmp_path / "r.toml", tmp_path / "lines.txt", "--json").out)
    seen = json.loads(fedmarket("roster", "check", tmp_path / "r.toml", "--identity", tmp_path / "3.pem", "--json").out)
    assert seen["own"] is not None
    assert seen == made | {"own": seen["own"]}
    assert seen["members"][seen["own"]] == {"name": "公司3", "public_key": keys[3]}
