"""The benchmarks' own arithmetic: what they say of runs, and that each says what it is for."""

import doctest
import importlib.util
import json
import math
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
FLOWER = BENCHMARKS / "rivals" / "flower_opacus"


@pytest.fixture(autouse=True)
def _own_path(monkeypatch):
    """Scripts put their folder on the path; after each test it is gone again."""
    monkeypatch.setattr(sys, "path", [str(BENCHMARKS), *sys.path])
    monkeypatch.setenv("PYTHONPATH", "")


def loaded(path):
    spec = importlib.util.spec_from_file_location(f"benchmark_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["measuring", "step", "epoch", "whole", "start", "scale"])
def test_examples_in_docstrings_hold(name):
    assert doctest.testmod(loaded(BENCHMARKS / f"{name}.py")).failed == 0


@pytest.mark.parametrize(
    ("script", "needs"),
    [
        ("whole.py", "flwr"),
        ("start.py", "numpy"),
        ("scale.py", "polars"),
        ("rivals/ours.py", "flwr"),
        ("rivals/flower_opacus/run.py", "ray"),
        ("rivals/pfl_research/run.py", "pfl"),
    ],
)
def test_each_script_says_what_it_is_for(script, needs, monkeypatch, capsys):
    pytest.importorskip(needs)
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(BENCHMARKS / script), run_name="__main__")
    assert ended.value.code == 0
    assert "usage:" in capsys.readouterr().out


def test_a_measured_process_tells_its_marks_and_its_memory(tmp_path):
    measuring = loaded(BENCHMARKS / "measuring.py")
    code = f"import sys, time; sys.path.insert(0, {str(BENCHMARKS)!r}); from measuring import marked; marked('here')"
    run = measuring.timed([sys.executable, "-c", code + "; time.sleep(0.6)"], folder=tmp_path)
    assert 0 < run.until("here") < run.seconds - 0.5
    assert run.peak > 1e6
    assert run.cpu > 0


def test_a_process_that_fails_is_no_measurement(tmp_path):
    measuring = loaded(BENCHMARKS / "measuring.py")
    with pytest.raises(measuring.Failed, match="exit code 3"):
        measuring.timed([sys.executable, "-c", "raise SystemExit(3)"], folder=tmp_path)


def test_sides_are_taken_in_turns():
    measuring, order = loaded(BENCHMARKS / "measuring.py"), []

    def side(name):
        order.append(name)
        return measuring.Run(seconds=1.0)

    measuring.interleaved({"ours": lambda: side("ours"), "rival": lambda: side("rival")}, 2)
    assert order == ["ours", "rival", "ours", "rival"]


def test_ratios_are_of_pairs_and_unequal_models_are_called_unfair():
    whole = loaded(BENCHMARKS / "whole.py")

    def runs(factor):
        return [
            whole.Run(seconds=factor * s, cpu=2 * factor, marks={"exchange": [0.0, factor * s]})
            for s in (1.0, 2.0, 9.0)
        ]

    found = whole.compared({"ours": runs(1.0), "rival": runs(3.0)}, {"ours": [0.8] * 3, "rival": [0.7] * 3}, 30)
    assert found["rival"]["times_ours"]["wall"] == {"median": 3.0, "least": 3.0, "most": 3.0}
    assert not whole.fair(found)
    assert "3.0x" in whole.shown(found)


@pytest.mark.filterwarnings("ignore")  # Opacus', of its own making
@pytest.mark.parametrize("loader", ["documented", "indexed"])
def test_the_rival_takes_private_steps(loader, tmp_path, monkeypatch):
    flwr = pytest.importorskip("flwr.app")
    torch = pytest.importorskip("torch")
    identity = pytest.importorskip("flwr.supercore.task_identity").TaskIdentity

    rng = np.random.default_rng(0)
    features = rng.normal(size=(100, 3)).astype(np.float32)
    targets = (features[:, 0] > 0).astype(np.float32)
    np.savez(tmp_path / "rows.npz", features_0=features, targets_0=targets)
    task = {"width": 3, "rate": 0.5, "steps": 5, "noise_multiplier": 1e-3, "clip_norm": 1.0}
    (tmp_path / "task.json").write_text(json.dumps(task), encoding="utf-8")
    apps = loaded(FLOWER / "apps.py")
    for name in ("_run_id", "_node_id", "_task_id"):  # Flower stamps messages with where they are made
        monkeypatch.setattr(identity, name, 1)
    threads = torch.get_num_threads()
    message = flwr.Message(
        flwr.RecordDict(
            {
                "arrays": flwr.ArrayRecord(apps.Net(3).state_dict()),
                "config": flwr.ConfigRecord({"task": str(tmp_path), "threads": 1, "loader": loader, "mode": "hooks"}),
            }
        ),
        dst_node_id=1,
        message_type="train",
    )
    message.metadata.__dict__["_message_id"] = "1"
    context = flwr.Context(run_id=1, node_id=1, node_config={"partition-id": 0}, state=flwr.RecordDict(), run_config={})
    try:
        reply = apps.train(message, context)
    finally:
        torch.set_num_threads(threads)
    weights = reply.content["arrays"].to_torch_state_dict()["linear.weight"][0]
    assert reply.content["metrics"]["num-examples"] == 100
    assert weights[0] > 0.2
    assert math.isfinite(float(weights.sum()))


def test_growth_of_nothing_is_nothing_and_a_dearer_unit_is_not_linear():
    scale = loaded(BENCHMARKS / "scale.py")
    assert scale.grown([], "rows") == []
    found = scale.grown([{"round_s": 1.0, "rows": 10}, {"round_s": 13.0, "rows": 100}], "rows")
    assert not scale.linear(found)
