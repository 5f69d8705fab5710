"""``fedmarket pretrain``: one line that says where the public start is, or one that says what is missing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Fedmarket = Callable[..., Any]
WITH_START = ('output = "out"', 'output = "out"\nstart = "start.json"')


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedmarket.simulation.pretrain.CUSTOMERS", 300)


def test_a_start_is_made_and_its_place_is_said(fedmarket: Fedmarket, write_value_market, tmp_path: Path):
    path = write_value_market(tmp_path, WITH_START)
    ran = fedmarket("pretrain", path)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("public start: ")
    assert ran.out.rstrip().endswith("start.json")
    assert ran.out.count("\n") == 1
    assert (tmp_path / "start.json").is_file()


def test_an_experiment_without_the_key_is_one_line(fedmarket: Fedmarket, write_value_market, tmp_path: Path):
    ran = fedmarket("pretrain", write_value_market(tmp_path))
    assert ran.error.endswith("start: missing; name the file that is to be written")
    assert ran.code == 2


def test_a_contract_without_transactions_is_one_line(fedmarket: Fedmarket, write_market, tmp_path: Path):
    ran = fedmarket("pretrain", write_market(tmp_path, WITH_START))
    assert ran.error.endswith("has no transactions to imagine")
    assert ran.code == 2


def test_a_place_where_nothing_can_be_written_is_one_line(fedmarket: Fedmarket, write_value_market, tmp_path: Path):
    path = write_value_market(tmp_path, ('output = "out"', 'output = "out"\nstart = "lines.csv/start.json"'))
    ran = fedmarket("pretrain", path)
    assert "start.json: cannot be written (" in ran.error
    assert ran.code == 2


def test_a_run_whose_start_was_not_made_says_how_to_make_it(
    fedmarket: Fedmarket, write_value_market, tmp_path: Path, no_training
):
    ran = fedmarket("simulate", write_value_market(tmp_path, WITH_START))
    assert "start.json: cannot be read (No such file or directory); make it with fedmarket pretrain" in ran.error
    assert ran.code == 2
