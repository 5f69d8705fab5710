"""``fedmarket frontier``: a page, a sentence for each mode, and one line for what cannot be swept."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Fedmarket = Callable[..., Any]


@pytest.fixture
def config(write_market, tmp_path: Path) -> Path:
    return write_market(tmp_path / "market", ('secagg = "secure"', 'secagg = "ideal"'))


def test_a_sweep_writes_its_files_and_says_what_each_mode_costs(fedmarket: Fedmarket, config: Path, tmp_path: Path):
    ran = fedmarket("frontier", config, "--epsilons", "1", "--output", tmp_path / "out")
    assert ran.code == 0
    assert "With epsilon 1 per customer, 4 parties that share their noise lose" in ran.out
    for mode in ("Noise shared under secure aggregation", "Noise at each party", "All rows in one place, private"):
        assert f"{mode}: epsilon 1 costs" in ran.out
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"frontier.html", "frontier.json", "points.jsonl"}
    assert "2 of 2 points" in ran.err


@pytest.mark.parametrize(
    ("epsilons", "said"),
    [
        ("1,two", "--epsilons: expected numbers with commas between, such as 0.5,1,2; got '1,two'"),
        ("0.001", "privacy.epsilon"),
        ("99", "privacy.epsilon"),
    ],
)
def test_epsilons_that_cannot_be_swept_are_one_line(fedmarket: Fedmarket, config: Path, epsilons: str, said: str):
    ran = fedmarket("frontier", config, "--epsilons", epsilons)
    assert ran.code == 2
    assert said in ran.err
    assert ran.err.count("\n") == 1


def test_an_interrupted_sweep_says_that_its_points_are_kept(fedmarket: Fedmarket, config: Path, monkeypatch):
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fedmarket.simulation.frontier.frontier", stopped)
    ran = fedmarket("frontier", config)
    assert ran.code == 130
    assert "interrupted; finished points are kept" in ran.err
