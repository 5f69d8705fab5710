"""``results.json`` has the keys that its reference names, and its numbers fit each other."""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fedmarket.simulation.run import Simulation

ARMS = {
    "pooled_best", "pooled", "pooled_dp", "local_only", "local_only_dp",
    "federated", "federated_schedule", "federated_clipped", "federated_rounded", "federated_dp",
}  # fmt: skip
KEYS = {
    "format", "task", "metric", "name", "created", "data", "arms", "loss", "decomposition", "calibration", "curves",
    "parties", "privacy", "plan", "federation", "not_protected", "assumptions", "configuration", "versions", "seconds",
}  # fmt: skip
METRICS = {"auc", "average_precision", "log_loss"}
PARTIES = ["bank", "grocer", "insurer", "telecom"]


@pytest.fixture(scope="module")
def results(tiny: Simulation) -> dict[str, Any]:
    return tiny.results


def leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for inner in value.values():
            yield from leaves(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from leaves(inner)
    else:
        yield value


def test_the_top_level_has_these_keys_and_no_other(results):
    assert set(results) == KEYS
    assert (results["format"], results["task"], results["metric"]) == ("fedmarket-results/1", "propensity", "auc")


def test_every_arm_has_its_numbers_for_every_seed(results):
    assert set(results["arms"]) == ARMS
    for arm in results["arms"].values():
        assert set(arm) == {"description", "per_seed", "mean", "interval", "loss", "joint_loss", "metrics"}
        assert len(arm["per_seed"]) == 2
        assert arm["mean"] == pytest.approx(sum(arm["per_seed"]) / 2)
        low, high = arm["interval"]
        assert low <= arm["mean"] <= high
        assert set(arm["metrics"]) >= METRICS
        assert arm["metrics"]["auc"] == pytest.approx(arm["mean"])


def test_the_loss_is_that_of_the_arms(results):
    assert set(results["loss"]) == {"pooled", "pooled_best"}
    joint = results["arms"]["federated_dp"]["per_seed"]
    for reference, loss in results["loss"].items():
        assert set(loss) == {"mean", "upper_95", "per_seed"}
        base = results["arms"][reference]["per_seed"]
        expected = [(b - j) / b for b, j in zip(base, joint, strict=True)]
        assert loss["per_seed"] == pytest.approx(expected)
        assert loss["mean"] == pytest.approx(sum(expected) / 2)
        assert loss["upper_95"] >= loss["mean"]


def test_the_steps_of_the_decomposition_add_up_to_the_loss(results):
    steps = results["decomposition"]
    assert [step["step"] for step in steps] == ["federation", "schedule", "clipping", "rounding", "noise"]
    assert [step["to"] for step in steps[:-1]] == [step["from"] for step in steps[1:]]
    assert (steps[0]["from"], steps[-1]["to"]) == ("pooled", "federated_dp")
    assert sum(step["loss"] for step in steps) == pytest.approx(results["loss"]["pooled"]["mean"], abs=1e-12)


def test_the_best_pooled_model_is_at_least_as_good_as_the_pooled_one(results):
    assert results["arms"]["pooled_best"]["mean"] >= results["arms"]["pooled"]["mean"]


def test_rounding_costs_next_to_nothing_and_joining_without_privacy_does_too(results):
    loss = {step["step"]: step["loss"] for step in results["decomposition"]}
    assert abs(loss["rounding"]) < 1e-3
    assert abs(loss["federation"]) < 1e-3


def test_every_party_says_what_it_spent(results):
    assert list(results["privacy"]) == PARTIES
    for spent in results["privacy"].values():
        assert set(spent) == {"epsilon", "delta", "accountants", "sampling", "sample_rate"}
        assert set(spent["accountants"]) == {"pld", "exact"}
        assert spent["epsilon"] == max(spent["accountants"].values()) <= 1.0
        assert spent["epsilon"] > 0.9
        assert (spent["delta"], spent["sampling"], spent["sample_rate"]) == (1e-5, "full batch", 1.0)
    assert [party["name"] for party in results["parties"]] == PARTIES
    assert [party["epsilon"] for party in results["parties"]] == [s["epsilon"] for s in results["privacy"].values()]


def test_the_reference_names_every_key(results):
    words = (Path(__file__).parents[2] / "docs" / "reference" / "results.md").read_text(encoding="utf-8")
    told = {word.partition(".")[0] for word in re.findall(r"`([^`]+)`", words)}
    assert told >= KEYS
    assert told >= ARMS


def test_no_number_is_missing_or_infinite(results):
    assert all(math.isfinite(leaf) for leaf in leaves(results) if isinstance(leaf, float))


def test_rows_are_counted_once(results):
    data = results["data"]
    assert data["train_rows"] + data["test_rows"] == 1500
    assert sum(party["rows"] for party in results["parties"]) == data["train_rows"]
    assert data["bayes_optimal"]["mean"] > results["arms"]["federated_dp"]["mean"]


def test_the_plan_and_the_federation_are_told(results):
    plan = results["plan"]
    assert (plan["unit"], plan["adjacency"], plan["generator"]) == ("row", "add-or-remove-one", "seeded-for-tests")
    assert [(m["name"], m["releases"]) for m in plan["mechanisms"]] == [("centre", 1), ("update", 3), ("calibrate", 3)]
    federation = results["federation"]
    assert (federation["rounds"], federation["messages"], federation["rejections"]) == (7, 32, [])
    assert federation["bytes_up_per_party"] > 0


def test_seconds_are_told_for_every_arm_that_was_trained(results):
    assert ARMS - {"pooled_best"} < set(results["seconds"])
    assert results["seconds"]["total"] >= results["seconds"]["federated_dp"] > 0


def test_no_folder_of_the_machine_is_told(results, tiny: Simulation):
    told = [leaf for leaf in leaves(results) if isinstance(leaf, str)]
    assert not [text for text in told if "/" in text and str(tiny.folder.parents[1]) in text]
    assert results["configuration"]["data"]["contract"] == "contract.toml"
    assert "output" not in results["configuration"]


def test_each_arm_says_what_it_loses_to_the_pooled_one_and_what_the_joint_one_loses_to_it(results):
    arms = results["arms"]
    for arm in arms.values():
        for key, base, other in (("loss", arms["pooled"], arm), ("joint_loss", arm, arms["federated_dp"])):
            pairs = zip(base["per_seed"], other["per_seed"], strict=True)
            assert arm[key] == pytest.approx(sum(1 - b / a for a, b in pairs) / 2)
