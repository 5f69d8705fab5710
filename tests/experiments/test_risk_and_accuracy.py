"""The script of ``experiments/risk-and-accuracy``: it goes on where it stopped, and its table says what was found."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "experiments" / "risk-and-accuracy" / "run.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("risk_and_accuracy", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def risk(script: ModuleType, estimate: float, *, low: float, high: float, limits: dict[str, float]) -> dict[str, Any]:
    found = {"advantage": {"estimate": estimate, "low": low, "high": high, "confidence": 0.95, "method": "betting"}}
    views = dict.fromkeys(("informed update", "informed aggregate"), found)
    return {"measured": dict.fromkeys((script.EXPOSED, script.RANDOM), views), "limits": limits, "watched": "p"}


def test_what_was_measured_is_kept_for_as_many_runs(script: ModuleType, tmp_path: Path):
    key = script.key_of(("local", 1.0), 64)
    script.Kept(tmp_path / "risks.json").keep(key, {"found": 1})
    again = script.Kept(tmp_path / "risks.json")
    assert again.of(key) == {"found": 1}
    for setting, runs in ((("local", 2.0), 64), (("distributed", 1.0), 64), (("local", 1.0), 128), (script.PLAIN, 64)):
        assert not again.has(script.key_of(setting, runs))


def test_reductions_are_from_the_open_update_and_bounded_by_the_guarantee(script: ModuleType, tmp_path: Path):
    risks, scores = script.Kept(tmp_path / "risks.json"), script.Kept(tmp_path / "scores.json")
    setting = ("distributed", 0.5)
    risks.keep(script.key_of(script.PLAIN, 64), risk(script, 1.0, low=0.8, high=1.0, limits={}))
    limits = {"informed update": 0.3, "informed aggregate": 0.08}
    risks.keep(script.key_of(setting, 64), risk(script, 0.02, low=-0.05, high=0.2, limits=limits))
    for seed, lost in enumerate((0.004, 0.006)):
        for one, score in ((script.POOLED, 0.8), (script.PLAIN, 0.8), (setting, 0.8 * (1 - lost))):
            scores.keep(script.key_of(one, seed), score)
    found = list(script.table([script.PLAIN, setting], scores, risks, runs=64))
    assert [row["setting"] for row in found][2:] == ["shared noise, epsilon 0.5"]
    assert found[2][script.EXPOSED]["certified"] == pytest.approx(1 - 0.08 / 0.8)
    assert found[1][script.EXPOSED]["certified"] < 0
    said = script.markdown(found)
    assert "| shared noise, epsilon 0.5 | 0.50 +- 0.10 | 2.0 (-5.0 to 20.0) | 90 |" in said
    assert said.count("\n") == 2 + len(found)


def test_where_hardly_anything_was_gained_before_no_percentage_is_said(script: ModuleType, tmp_path: Path):
    risks, scores = script.Kept(tmp_path / "risks.json"), script.Kept(tmp_path / "scores.json")
    risks.keep(script.key_of(script.PLAIN, 64), risk(script, 0.02, low=-0.05, high=0.1, limits={}))
    for one in (script.POOLED, script.PLAIN):
        for seed in (0, 1):
            scores.keep(script.key_of(one, seed), 0.8)
    rows = list(script.table([script.PLAIN], scores, risks, runs=64))
    assert rows[0][script.RANDOM]["certified"] is None
    assert "| 2.0 (-5.0 to 10.0) | already low |" in script.markdown(rows)


def test_every_setting_has_one_model_for_each_seed(script: ModuleType, write_market, tmp_path: Path):
    path, scores = write_market(tmp_path), script.Kept(tmp_path / "scores.json")
    settings = [script.PLAIN, ("local", 1.0)]
    script.measure_scores(path, settings, scores, workers=1)
    for setting in (script.POOLED, *settings):
        assert 0.4 < scores.of(script.key_of(setting, 0)) < 1.0
    assert not scores.has(script.key_of(("distributed", 1.0), 0))
