"""What a real run tells beside its model: the private evaluation, and who was lost where."""

import json
from pathlib import Path

import pytest

from fedmarket.flower.inprocess import run_in_process


def told(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def test_metrics_of_the_private_evaluation_come_with_their_intervals(apps, run_config, tmp_path: Path):
    path = tmp_path / "outcome.json"
    outcome = run_in_process(apps, run_config(outcome=str(path)), nodes=4)
    found = told(path)
    assert (found["format"], found["run"]) == ("fedmarket-outcome/1", outcome.run.hex())
    assert found["model_hash"] == outcome.model.hash.hex()
    assert (found["rounds"], found["void_rounds"], found["rejections"]) == (8, [], [])
    assert all(rows > 0 for rows in found["parties"].values())
    response = found["private_evaluation"]["response"]
    assert {"auc", "lift_10", "calibration_ratio", "log_loss", "response_rate"} == set(response)
    assert all(one["low"] <= one["value"] <= one["high"] for one in response.values())
    assert found["private_evaluation"]["value"] is None
    assert found["segments"] == []


@pytest.mark.parametrize("step", ["sum", "mask"])
def test_who_was_lost_is_told_and_without_evaluation_there_are_no_metrics(silenced, run_config, tmp_path, step: str):
    path = tmp_path / "outcome.json"
    config = run_config("privacy.private_evaluation=false", step=step, outcome=str(path))
    silenced(config, nodes={2, 3}, step=step, rounds={2})
    found = told(path)
    assert found["private_evaluation"] == {"response": None, "value": None}
    assert [void["round_number"] for void in found["void_rounds"]] == [2]
    assert [(one["round_number"], one["party"]) for one in found["rejections"]] == [(2, "grocer"), (2, "insurer")]
