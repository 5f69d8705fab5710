"""The command line in this process, and a small table of one's own that keeps its contract."""

import runpy
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from fedmarket.cli.main import main

LEDGERS = runpy.run_path(str(Path(__file__).with_name("ledgers.py")))
CONTRACT = """
format = "fedmarket-contract/1"
name = "shop"
task = "propensity"
minimum_parties = 2
[label]
column = "bought"
positive = "yes"
negative = "no"
[privacy]
unit = "row"
adjacency = "add-or-remove-one"
delta = 1e-5
[[column]]
name = "spend"
kind = "numeric"
lower = 0
upper = 5000
[[column]]
name = "town"
kind = "category"
vocabulary = ["Lyon", "Oslo"]
closed = true
"""
MARKER = 1234.5678
OWN_FILE = (
    'kind = "synthetic-market"\ncustomers = 1500\nparties = 4\nseed = 7',
    'kind = "file"\npath = "shop.csv"\npartition = { kind = "column", column = "company" }',
)
WORD = "Quxville"


@dataclass(frozen=True)
class Ran:
    """What a command said and how it ended."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line of an error."""
        assert self.out == ""
        assert self.err.count("\n") == 1, self.err
        assert self.err.startswith("error: ")
        self.tells_no_cell()
        return self.err.removeprefix("error: ").rstrip("\n")

    def tells_no_cell(self) -> None:
        for secret in ("Traceback", "1234", WORD):
            assert secret not in self.out + self.err


@pytest.fixture
def fedmarket(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    def run(*words: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["fedmarket", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return Ran(code=int(ended.value.code or 0), out=said.out, err=said.err)

    return run


@dataclass(frozen=True)
class Shop:
    """A folder with config, contract and table."""

    folder: Path

    @property
    def config(self) -> Path:
        return self.folder / "config.toml"

    @property
    def contract(self) -> Path:
        return self.folder / "contract.toml"

    @property
    def csv(self) -> Path:
        return self.folder / "shop.csv"

    def table(self, rows: int = 200) -> pl.DataFrame:
        numbers = range(rows)
        return pl.DataFrame(
            {
                "company": [f"company-{row % 4}" for row in numbers],
                "spend": [str(row * 37 % 1000) if row else str(MARKER) for row in numbers],
                "town": [("Lyon", "Oslo")[row % 3 == 0] for row in numbers],
                "bought": ["yes" if row * 37 % 1000 > 600 else "no" for row in numbers],
            }
        )

    def replace(self, path: Path, old: str, new: str) -> None:
        text = path.read_text(encoding="utf-8")
        assert text.count(old) >= 1, old
        path.write_text(text.replace(old, new), encoding="utf-8")


@pytest.fixture
def shop(write_market, tmp_path: Path) -> Shop:
    made = Shop(tmp_path)
    write_market(tmp_path, OWN_FILE)
    made.contract.write_text(CONTRACT, encoding="utf-8")
    made.table().write_csv(made.csv)
    return made


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("a round was opened")

    monkeypatch.setattr("fedmarket.simulation.run.run_seed", never)


@pytest.fixture
def begun(tmp_path: Path) -> Any:
    """A ledger with a cap of 8 that has joined a run of 1, 10 and 1 releases, noise 4."""
    return LEDGERS["begun_in"](tmp_path)


@pytest.fixture
def books(begun: Any) -> Any:
    """The same with 6 updates spent, of which 2 were lost, 2 are open; 3 given back; and a model."""
    begun.release(0, 2, kind="committed")
    begun.release(1, 3, kind="voided", left=False)
    begun.release(2, 2, kind="voided", left=True)
    begun.release(3, 2)
    begun.say("released", model_hash=LEDGERS["MODEL"])
    return begun
