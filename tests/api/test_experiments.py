"""A notebook's experiment is the command's: the same documents, in frames and figures that say what these say."""

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

import fedmarket
from fedmarket.config import load_config
from fedmarket.errors import ConfigError, DataError, UsageError
from fedmarket.simulation import run


def test_a_simulation_writes_what_the_command_writes_and_prints_nothing(market: Path, tmp_path: Path, capfd):
    told = []
    result = fedmarket.simulate(market, output=tmp_path, progress=lambda *news: told.append(news))
    assert capfd.readouterr() == ("", "")
    assert told[-1] == (0, "evaluating", 1.0)
    assert json.loads((tmp_path / "results.json").read_text(encoding="utf-8")) == result.results
    assert all(path.is_file() for path in (result.report, result.model, result.bundle))


def test_a_finished_folder_is_read_again_without_training(tiny, sweep, monkeypatch):
    monkeypatch.setattr(run, "simulate", None)
    assert fedmarket.Result.open(str(tiny.folder)) == tiny
    assert fedmarket.Frontier.open(str(sweep.folder)) == sweep


def test_a_folder_without_a_finished_run_is_named(tmp_path: Path):
    with pytest.raises(DataError, match=r"results\.json: cannot be read .*was the run finished\?"):
        fedmarket.Result.open(tmp_path)
    for content, said in (("{", "not a JSON document"), ('{"format": "else/1"}', "got 'else/1'"), ("[]", "got None")):
        (tmp_path / "frontier.json").write_text(content)
        with pytest.raises(DataError, match=said):
            fedmarket.Frontier.open(tmp_path)


def test_frames_say_what_the_document_says(tiny_joint):
    results, ranking = tiny_joint.results, tiny_joint.results["value"]["ranking"]
    for metric, document in (("auc", results), ("gini", ranking)):
        arms = tiny_joint.arms.filter(metric=metric)
        assert arms["arm"].to_list() == list(document["arms"])
        joint, found = arms.filter(arm="federated_dp").row(0, named=True), document["arms"]["federated_dp"]
        assert (joint["mean"], [joint["low"], joint["high"]]) == (found["mean"], found["interval"])
        assert {name: joint[name] for name in found["metrics"]} == found["metrics"]
        seeds = tiny_joint.seeds.filter(metric=metric, arm="pooled")
        assert seeds["value"].to_list() == document["arms"]["pooled"]["per_seed"]
        losses = tiny_joint.losses.filter(metric=metric)
        assert dict(losses.select("against", "mean").rows()) == {
            name: loss["mean"] for name, loss in document["loss"].items()
        }
        assert tiny_joint.steps.filter(metric=metric)["loss"].to_list() == [
            step["loss"] for step in document["decomposition"]
        ]


def test_parties_are_shown_with_what_they_spent(tiny):
    assert dict(tiny.parties.select("name", "epsilon").rows()) == {
        name: spent["epsilon"] for name, spent in tiny.results["privacy"].items()
    }
    assert set(tiny.parties["delta"]) == {1e-5}


def test_points_of_a_sweep_are_those_of_its_document(sweep):
    rows = {(row["mode"], row["epsilon"]): row for row in sweep.results["rows"]}
    assert sweep.points["epsilon"].dtype.is_float()
    for point in sweep.points.iter_rows(named=True):
        row = rows[point["mode"], point["epsilon"]]
        found = (point["score"], point["loss"], point["low"], point["loss_best"])
        assert found == (row["score"], row["pooled"]["mean"], row["pooled"]["low"], row["pooled_best"]["mean"])


def test_figures_are_those_of_the_report(tiny_joint, sweep):
    known = {"arms", "value_arms", "roc", "gains", "calibration", "profit", "deciles", "value_gains"}
    assert known <= set(tiny_joint.figures) <= known | {"steps", "value_steps"}
    for finished in (tiny_joint, sweep):
        report = finished.report.read_text(encoding="utf-8")
        assert all(finished.plot(name).plot.svg in report for name in finished.figures)
    with pytest.raises(UsageError, match=r"plot: expected one of arms, .*got 'rocc'"):
        tiny_joint.plot("rocc")


def test_a_saved_figure_stands_alone(tiny, tmp_path: Path):
    figure = tiny.plot("roc")
    figure.save(tmp_path / "roc.svg")
    text = (tmp_path / "roc.svg").read_text(encoding="utf-8")
    assert ElementTree.fromstring(text).tag == "{http://www.w3.org/2000/svg}svg"
    assert "var(" in figure.plot.svg
    assert "var(" not in text
    assert figure.numbers.rows() == list(figure.plot.rows)
    with pytest.raises(UsageError, match=r"roc\.png: expected a name that ends in \.svg"):
        figure.save(tmp_path / "roc.png")


def test_a_notebook_shows_no_strangers_markup(tiny, tiny_joint, sweep):
    hostile = fedmarket.Result(folder=tiny.folder, results=tiny.results | {"name": '"><script>alert(1)</script>'})
    for shown in (hostile, hostile.plot("arms"), sweep):
        html = shown._repr_html_()
        assert html.startswith("<iframe sandbox srcdoc=")
        assert html.count("<") == 2  # the frame's own two tags: all else is text of an attribute
    assert "NOT PRIVATE" in tiny_joint._repr_html_()  # the noise of tests is seeded
    assert "NOT PRIVATE" not in tiny._repr_html_()


def test_changes_are_values(market: Path, tmp_path: Path):
    changes = {
        "privacy.epsilon": np.float64(2.5),
        "privacy.private_evaluation": False,
        "seeds": (np.int64(3),),
        "model": {"kind": "mlp", "binning": True, "hidden": [4]},
        "name": 'Zo\u00eb "\U0001f600"',
    }
    found = fedmarket.simulate(market, changes=changes, output=tmp_path / "a b").results
    config = load_config(market)
    assert found["name"] == changes["name"]
    assert found["configuration"]["seeds"] == [3]
    assert found["configuration"]["model"] == changes["model"]
    assert found["configuration"]["privacy"] == config.privacy.model_dump() | {
        "epsilon": 2.5,
        "private_evaluation": False,
    }


def test_a_wrong_change_is_named_before_anything_runs(market: Path):
    with pytest.raises(UsageError, match=r"changes: privacy\.epsilon: expected a number, .*got NoneType"):
        fedmarket.simulate(market, changes={"privacy.epsilon": None})
    with pytest.raises(ConfigError, match="no such key"):
        fedmarket.frontier(market, changes={"privacy.epsilonn": 1.0})


def test_code_without_a_file_of_its_own_may_use_several_workers(market: Path, tmp_path: Path):
    """As in a notebook, where no worker could run the main module again."""
    script = (
        "import fedmarket\n"
        f"result = fedmarket.simulate({str(market)!r}, changes={{'seeds': [0, 1], 'workers': 2}},"
        f" output={str(tmp_path)!r})\n"
        "print(result.seeds.filter(arm='pooled')['value'].to_list())\n"
    )
    ran = subprocess.run(
        [sys.executable, "-"], input=script, capture_output=True, text=True, timeout=300, check=False
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert json.loads(ran.stdout) == fedmarket.Result.open(tmp_path).results["arms"]["pooled"]["per_seed"]
