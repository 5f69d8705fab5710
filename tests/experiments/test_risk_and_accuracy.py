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
    first = script.Risks(tmp_path / "risks.json", runs=64)
    first.keep("local", 1.0, {"found": 1})
    again = script.Risks(tmp_path / "risks.json", runs=64)
    assert again.has("local", 1.0)
    assert again.of("local", 1.0) == {"found": 1}
    assert not again.has("local", 2.0)
    assert not again.has("distributed", 1.0)
    assert not script.Risks(tmp_path / "risks.json", runs=128).has("local", 1.0)


def test_reductions_are_from_the_open_update_and_bounded_by_the_guarantee(script: ModuleType, tmp_path: Path):
    risks = script.Risks(tmp_path / "risks.json", runs=64)
    risks.keep("", None, risk(script, 1.0, low=0.8, high=1.0, limits={}))
    limits = {"informed update": 0.3, "informed aggregate": 0.08}
    risks.keep("distributed", 0.5, risk(script, 0.02, low=-0.05, high=0.2, limits=limits))
    lost = {"mean": 0.005, "standard_error": 0.001}
    point = {"pooled": lost, "points": {"pooled": lost}}
    rows = [{"mode": mode, "epsilon": 0.5, **point} for mode in ("distributed", "local", "pooled_dp")]
    found = list(script.table({"without_privacy": point, "rows": rows}, risks))
    assert [row["setting"] for row in found][2:] == ["shared noise, epsilon 0.5"]  # what was not measured is not there
    assert found[2][script.EXPOSED]["certified"] == pytest.approx(1 - 0.08 / 0.8)
    assert found[1][script.EXPOSED]["certified"] < 0
    said = script.markdown(found)
    assert "| shared noise, epsilon 0.5 | 0.50 +- 0.10 | 2.0 (-5.0 to 20.0) | 90 |" in said
    assert said.count("\n") == 2 + len(found)
