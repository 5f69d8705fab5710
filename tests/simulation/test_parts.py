"""Finished runs come back as they were; another experiment, other rows or other code find none of them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedmarket.errors import DataError
from fedmarket.experiment.arms import ARMS, JOINT
from fedmarket.experiment.market import MarketKey, forget_markets, open_market
from fedmarket.federation.messages import Rejection, VoidRound
from fedmarket.ledger.bundle import read_bundle
from fedmarket.ledger.entries import Code
from fedmarket.ledger.verify import verify
from fedmarket.simulation import parts as module
from fedmarket.simulation import run as running
from fedmarket.simulation import seed as seeds
from fedmarket.simulation.parts import FOLDER, Part, Parts, parts_of
from fedmarket.simulation.run import Simulation, simulate

VOLATILE = ("seconds", "created", "configuration", "ledger")


class Killed(BaseException):
    """What nothing in a run catches."""


def stopped_in(arm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a run of ``arm`` be the last that is begun."""
    real = seeds.run_arm

    def stopping(key: Any, which: Any, *words: Any, **more: Any) -> Any:
        if which.name == arm:
            raise Killed
        return real(key, which, *words, **more)

    monkeypatch.setattr(seeds, "run_arm", stopping)


@pytest.fixture
def stopped(tiny_config: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tiny experiment, stopped before the first seed's released arm."""
    with monkeypatch.context() as patched:
        stopped_in(JOINT, patched)
        with pytest.raises(Killed):
            simulate(tiny_config)
    return tiny_config


def unfinished(config: Path) -> list[Path]:
    return sorted((config.parent / "out" / FOLDER).glob("*/*"))


def made_by(config: Path, monkeypatch: pytest.MonkeyPatch, *changes: str) -> tuple[Simulation, list[str], list[str]]:
    """Return what the experiment found, the runs that it had to make, and what it said."""
    real, made, said = seeds.run_arm, [], []

    def counted(key: Any, arm: Any, *words: Any, **more: Any) -> Any:
        made.append(f"{key.seed} {arm.name}")
        return real(key, arm, *words, **more)

    monkeypatch.setattr(seeds, "run_arm", counted)
    return simulate(config, changes=changes, on_note=said.append), made, said


def numbers(simulation: Simulation) -> dict[str, Any]:
    return {key: value for key, value in simulation.results.items() if key not in VOLATILE}


def test_what_was_stopped_goes_on_and_finds_what_one_run_finds(tiny: Simulation, stopped: Path, monkeypatch):
    assert {path.name for path in (stopped.parent / "out").iterdir()} == {FOLDER}
    again, made, said = made_by(stopped, monkeypatch)
    assert numbers(again) == numbers(tiny)
    whole = 2 * 4 + len(ARMS) - 2
    assert (len(made), made[0]) == (1 + whole, f"0 {JOINT}")
    assert said == [f"going on with {whole - 1} finished runs"]
    assert {path.name for path in again.folder.iterdir()} == {path.name for path in tiny.folder.iterdir()}
    assert set(again.results["seconds"]) == set(tiny.results["seconds"])


def test_a_finished_experiment_leaves_no_part_and_is_made_anew(tiny_config: Path, monkeypatch):
    simulate(tiny_config)
    _, made, said = made_by(tiny_config, monkeypatch)
    assert (len(made), said) == (30, [])


@pytest.mark.parametrize("change", ["privacy.epsilon=2.0", "training.rounds=2", "evaluation.contact_cost=6.0"])
def test_a_changed_experiment_takes_no_part_of_the_old_one(stopped: Path, monkeypatch, change: str):
    _, made, said = made_by(stopped, monkeypatch, change, "seeds=[0]")
    assert len(made) == 15
    assert len(said) == 1
    assert said[0].endswith("starting afresh")


def test_seeds_and_workers_may_be_others(stopped: Path, monkeypatch):
    _, made, said = made_by(stopped, monkeypatch, "seeds=[0]", "workers=2")
    assert made == [f"0 {JOINT}"]
    assert said == ["going on with 14 finished runs"]


def test_other_code_takes_no_part(stopped: Path, monkeypatch):
    monkeypatch.setattr(module, "installed_code", lambda: Code(version="0.1.0", hash="0" * 64))
    _, made, _ = made_by(stopped, monkeypatch, "seeds=[0]")
    assert len(made) == 15


def test_other_rows_take_no_part(tiny_config: Path):
    folders = []
    for customers in (1500, 1501):
        forget_markets()
        key = MarketKey(config=tiny_config, changes=(f"data.source.customers={customers}",), seed=0)
        market = open_market(key)
        moved = replace(market, population=replace(market.population, party=np.roll(market.population.party, 1)))
        relabelled = replace(market, population=replace(market.population, targets=1 - market.population.targets))
        folders += [parts_of(one).folder for one in (market, moved, relabelled)]
    assert len(set(folders)) == 6


def test_a_damaged_part_is_made_again(tiny: Simulation, stopped: Path, monkeypatch):
    damaged = unfinished(stopped)
    for place, path in enumerate(damaged):
        content = path.read_bytes()
        path.write_bytes((b"", content[:-1], content[1:], b"\x80", b"\xc1" + content)[place % 5])
    again, made, _ = made_by(stopped, monkeypatch)
    assert len(made) == 30
    assert numbers(again) == numbers(tiny)


def test_parts_are_their_owner_s_alone_and_hold_no_row(stopped: Path):
    paths = unfinished(stopped)
    assert len(paths) == 14
    assert {path.stat().st_mode & 0o777 for path in paths} == {0o600}
    key = MarketKey(config=stopped, changes=(), seed=0)
    market = open_market(key)
    for part in (path.read_bytes() for path in paths):
        assert market.population.targets[market.test_rows].tobytes() not in part


def test_an_experiment_that_fails_while_it_is_written_up_keeps_its_runs(tiny_config: Path, monkeypatch):
    def broken(*_: object, **__: object) -> None:
        raise DataError("no results")

    with monkeypatch.context() as patched:
        patched.setattr(running, "results_of", broken)
        with pytest.raises(DataError, match="no results"):
            simulate(tiny_config)
    assert len(unfinished(tiny_config)) == 30
    assert {path.name for path in (tiny_config.parent / "out").iterdir()} == {FOLDER}
    _, made, said = made_by(tiny_config, monkeypatch)
    assert (made, said) == ([], ["going on with 30 finished runs"])


SECRET = 'privacy.generator="operating-system"'


@pytest.mark.parametrize("arm", [JOINT, "none"])
def test_the_bundle_of_a_run_that_was_stopped_tells_of_one_run_and_holds(tiny_config: Path, monkeypatch, arm: str):
    """Stopped inside the released run, that is made again with other keys; after it, its ledgers come back."""
    real = seeds.bundle_of_rehearsal
    bundles = []

    def bundled(*words: Any) -> Any:
        bundles.append(real(*words))
        return bundles[-1]

    monkeypatch.setattr(seeds, "bundle_of_rehearsal", bundled)
    with monkeypatch.context() as patched:
        if arm == JOINT:
            patched.setattr(seeds, "bundle_of_rehearsal", lambda *words: (bundled(*words), stop()))
        else:
            patched.setattr(seeds, "boosted_prediction", lambda _: stop())
        with pytest.raises(Killed):
            simulate(tiny_config, changes=(SECRET, "seeds=[0]"))
    again = simulate(tiny_config, changes=(SECRET, "seeds=[0]"))
    ledger = again.results["ledger"]
    assert ledger["good"]
    assert all(0.9 < epsilon <= 1.0 for epsilon in ledger["epsilon"].values())
    assert len(bundles) == (2 if arm == JOINT else 1)
    verdict = verify(module.bundle_of(bundles[-1].files()))
    assert verdict.good
    assert verdict.to_document()["roster_hash"] == verify(running_bundle(again.folder)).to_document()["roster_hash"]
    if arm == JOINT:
        assert bundles[0].manifest.roster_hash != bundles[1].manifest.roster_hash


def running_bundle(folder: Path) -> Any:
    return read_bundle(folder / "bundle.zip")


def stop() -> None:
    raise Killed


@pytest.fixture
def finished(stopped: Path) -> Callable[[], tuple[Parts, Part]]:
    folder = next((stopped.parent / "out" / FOLDER).iterdir())
    parts = Parts(folder)
    found = parts.find(0, "federated")
    assert found is not None
    return lambda: (parts, found)


def test_a_part_comes_back_as_it_was(finished):
    parts, part = finished()
    outcome = replace(
        part.outcome,
        rejections=(Rejection(round_number=1, step="mask", party="公司", reason="no"),),
        void_rounds=(VoidRound(round_number=2, reason="why"),),
    )
    parts.keep(Part(outcome=outcome, seconds=1.5), 7, "local_only", alone="甲/公司")
    back = parts.find(7, "local_only", alone="甲/公司")
    assert back is not None
    assert (back.seconds, back.bundle) == (1.5, None)
    assert (back.outcome.rejections, back.outcome.void_rounds) == (outcome.rejections, outcome.void_rounds)
    assert back.outcome.model.hash == outcome.model.hash
    assert [state.spending for state in back.outcome.states] == [state.spending for state in outcome.states]
    assert parts.find(7, "local_only", alone="乙公司") is None
    assert parts.find(7, "local_only") is None
