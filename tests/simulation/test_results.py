"""``results.json`` has the keys that its reference names, and its numbers fit each other."""

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
from flwr.app import Message

from fedmarket.flower import inprocess
from fedmarket.ledger.bundle import read_bundle
from fedmarket.ledger.replay import replay
from fedmarket.simulation.run import Simulation, simulate

TWO_SEEDS = ("seeds = [0]", "seeds = [0, 1]")
TASKS = ("propensity", "ltv", "propensity-and-ltv")

ARMS = {
    "pooled_best", "pooled", "pooled_dp", "local_only", "local_only_dp",
    "federated", "federated_schedule", "federated_clipped", "federated_rounded", "federated_dp",
}  # fmt: skip
KEYS = {
    "format", "task", "metric", "name", "created", "data", "arms", "loss", "decomposition", "calibration", "curves",
    "parties", "privacy", "plan", "federation", "ledger", "not_protected", "assumptions", "configuration", "versions",
    "seconds",
    "private_evaluation", "value",
}  # fmt: skip
VALUE_KEYS = {
    "currency", "ranking", "calibration", "private_evaluation", "curves", "segments", "targeting", "lines",
}  # fmt: skip
METRICS = {"auc", "average_precision", "log_loss"}
PARTIES = ["bank", "grocer", "insurer", "telecom"]


@pytest.fixture(scope="module")
def results(tiny: Simulation) -> dict[str, Any]:
    return tiny.results


@pytest.fixture(scope="module")
def open_market_results(write_market, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The same experiment with sums in the open."""
    path = write_market(tmp_path_factory.mktemp("open"), TWO_SEEDS)
    return simulate(path, changes=("aggregation.secagg=ideal",)).results


@pytest.fixture(scope="module")
def shared(write_market, tmp_path_factory: pytest.TempPathFactory) -> Simulation:
    """The same experiment with noise that the parties share, under secure aggregation."""
    path = write_market(tmp_path_factory.mktemp("shared"))
    return simulate(path, changes=("privacy.noise=distributed", "privacy.epsilon=4"))


@pytest.fixture(scope="module")
def silent_now_and_then(write_market, tmp_path_factory: pytest.TempPathFactory) -> Simulation:
    """The same experiment; two parties miss the exchange in which round 2 ends and 3 begins, another one a mask."""

    def deaf(grid, messages, *, timeout=None):
        return grid.pull_messages(grid.push_messages(message for message in messages if not lost(message)))

    def lost(message: Message) -> bool:
        fields = msgpack.unpackb(message.content["fedmarket"]["frame"], strict_map_key=False)
        number = fields["requests"][0]["round_number"] if "requests" in fields else None
        place = (message.metadata.message_type, number, message.metadata.dst_node_id)
        return place in {("query.consent", 2, 2), ("query.consent", 2, 3), ("train.mask", 4, 1)}

    path = write_market(tmp_path_factory.mktemp("silent"), TWO_SEEDS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inprocess.InProcessGrid, "send_and_receive", deaf)
        return simulate(path)


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
        assert set(loss) == {"mean", "upper_95", "per_seed", "points"}
        base = results["arms"][reference]["per_seed"]
        expected = [(b - j) / b for b, j in zip(base, joint, strict=True)]
        assert loss["per_seed"] == pytest.approx(expected)
        assert loss["mean"] == pytest.approx(sum(expected) / 2)
        assert loss["upper_95"] >= loss["mean"]
        assert set(loss["points"]) == {"mean", "upper_95", "per_seed"}
        assert loss["points"]["per_seed"] == pytest.approx([b - j for b, j in zip(base, joint, strict=True)])
        assert loss["points"]["mean"] == pytest.approx(sum(loss["points"]["per_seed"]) / 2)
        assert loss["points"]["upper_95"] >= loss["points"]["mean"]


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
    assert told >= ARMS | {"past_spend", "buyers", "public_start"}
    assert told >= VALUE_KEYS


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
    assert [(m["name"], m["releases"]) for m in plan["mechanisms"]] == [
        ("centre", 1),
        ("update", 3),
        ("calibrate", 3),
        ("evaluate", 1),
    ]
    federation = dict(results["federation"])
    assert federation.pop("bytes_up_per_party") > 8 * 5 * 100
    assert federation == {
        "secagg": "secure",
        "rounds": 8,
        "exchanges_per_round": 3,
        "messages": 4 + 4 * (5 + 3 * 7) + 8,
        "void_rounds": [],
        "rejections": [],
    }


def test_lost_answers_and_void_rounds_are_told_by_seed(silent_now_and_then):
    results = silent_now_and_then.results
    said = "round {} is void, {}: expected at least 3 parties, 2 are left"
    assert results["federation"]["void_rounds"] == [
        {"seed": seed, "round": number, "reason": said.format(number, step)}
        for seed in (0, 1)
        for number, step in ((2, "consent"), (3, "advertise"))
    ]
    lost = [
        (number, step, party) for party in ("grocer", "insurer") for number, step in ((2, "consent"), (3, "advertise"))
    ]
    lost.append((4, "mask", "bank"))
    assert results["federation"]["rejections"] == [
        {"seed": seed, "round": number, "step": step, "party": party, "reason": "no reply in time"}
        for seed in (0, 1)
        for number, step, party in lost
    ]
    exchanges = 5 + 3 + 2 + 5 + 3 * 3  # of rounds 0 and 1, of 2 and 3 together, of 4, and of those after it
    assert results["federation"]["messages"] == 4 + 4 * exchanges + 8 - 2 - 1
    page = (silent_now_and_then.folder / "report.html").read_text(encoding="utf-8")
    assert "4 rounds were void" in page
    assert "10 answers were missing or rejected" in page


def test_what_a_void_round_cost_is_in_the_epsilon_and_what_was_not_asked_is_not(results, silent_now_and_then):
    other = silent_now_and_then.results["privacy"]
    for name in ("grocer", "insurer", "telecom"):
        assert other["bank"]["epsilon"] <= other[name]["epsilon"] < results["privacy"][name]["epsilon"]
    ledgers = read_bundle(silent_now_and_then.folder / "bundle.zip").ledgers
    outcomes = [[found.outcome for found in replay(ledger).reservations.values()] for ledger in ledgers]
    counted = [(each.count("committed"), each.count("given-back")) for each in outcomes]
    assert counted == [
        (6, 2),
        (7, 0),
        (7, 0),
        (7, 1),
    ]


def test_what_is_assumed_and_not_protected_depends_on_who_sees_the_updates(results, open_market_results):
    masked, summed = (
        {key: " ".join(document[key]) for key in ("assumptions", "not_protected")}
        for document in (results, open_market_results)
    )
    assert "The server colludes with fewer than a third of the parties" in masked["assumptions"]
    assert "one machine held every party's key" in masked["assumptions"]
    assert "from a server together with a third of the parties or more" in masked["not_protected"]
    assert "in the open" not in masked["assumptions"] + masked["not_protected"]
    assert "Sums are made in the open, without masks" in summed["assumptions"]
    assert "Each party's noisy update from the server" in summed["not_protected"]
    assert "collude" not in summed["assumptions"] + summed["not_protected"]


def test_masks_change_no_number_of_the_results(results, open_market_results):
    told = ("arms", "loss", "decomposition", "calibration", "curves", "parties", "privacy", "plan", "data")
    for key in (*told, "private_evaluation"):
        assert open_market_results[key] == results[key], key
    federation = open_market_results["federation"]
    assert (federation["secagg"], federation["rounds"], federation["exchanges_per_round"]) == ("ideal", 8, 1)
    assert federation["messages"] == 4 + 4 * 8 + 8
    assert 0 < federation["bytes_up_per_party"] < results["federation"]["bytes_up_per_party"]


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


PRIVATE_METRICS = ["auc", "lift_10", "calibration_ratio", "log_loss", "response_rate"]


def test_the_private_evaluation_is_beside_what_the_simulation_knows(shared: Simulation):
    results = shared.results
    assert list(results["private_evaluation"]) == PRIVATE_METRICS
    joint = results["arms"]["federated_dp"]["metrics"]
    for name, found in results["private_evaluation"].items():
        assert set(found) == {"value", "low", "high", "exact"}
        assert found["low"] < found["value"] < found["high"]
        if name != "response_rate":
            assert found["exact"] == joint[name]
    rate = results["private_evaluation"]["response_rate"]
    assert 0.05 < rate["exact"] < 0.25
    half_width = (rate["high"] - rate["low"]) / 2
    assert abs(rate["value"] - rate["exact"]) < 3 * half_width
    assert half_width < 0.1


def test_the_private_evaluation_is_of_the_first_seed(results):
    exact = results["private_evaluation"]["auc"]["exact"]
    assert exact == results["arms"]["federated_dp"]["per_seed"][0] != results["arms"]["federated_dp"]["per_seed"][1]


def test_without_private_evaluation_there_is_none_and_the_rest_stays(shared: Simulation, write_market, tmp_path: Path):
    changes = ("privacy.noise=distributed", "privacy.epsilon=4", "privacy.private_evaluation=false")
    without = simulate(write_market(tmp_path), changes=changes)
    results = without.results
    assert results["private_evaluation"] is None
    assert [m["name"] for m in results["plan"]["mechanisms"]] == ["centre", "update", "calibrate"]
    assert results["arms"]["federated_dp"] == shared.results["arms"]["federated_dp"]
    assert results["federation"]["rounds"] == shared.results["federation"]["rounds"] - 1
    page = (without.folder / "report.html").read_text(encoding="utf-8")
    assert "What the parties would know" not in page
    assert "What the parties would know" in (shared.folder / "report.html").read_text(encoding="utf-8")


OBSERVERS = ["public", "server", "party", "coalition", "bare"]


def test_noise_of_ones_own_protects_alike_from_all_observers(results):
    plan = results["plan"]
    assert (plan["noise"], plan["shares"]) == ("local", None)
    assert [observer["name"] for observer in plan["observers"]] == OBSERVERS
    assert len({observer["epsilon"] for observer in plan["observers"]}) == 1
    assert plan["observers"][0]["epsilon"] == results["privacy"]["bank"]["epsilon"]


def test_shared_noise_protects_less_from_who_knows_more_of_it(shared: Simulation):
    plan = shared.results["plan"]
    assert (plan["noise"], plan["shares"]) == ("distributed", 2)
    assert [observer["name"] for observer in plan["observers"]] == OBSERVERS
    epsilon = {observer["name"]: observer["epsilon"] for observer in plan["observers"]}
    assert epsilon["public"] == epsilon["server"] < epsilon["party"] <= epsilon["coalition"] < epsilon["bare"]
    assert 0.99 * 4 < epsilon["coalition"] <= 4.0 < epsilon["bare"]
    for party in shared.results["privacy"].values():
        assert party["epsilon"] == pytest.approx(epsilon["coalition"], abs=1e-6)


def test_the_sensitivity_on_a_grid_is_told_with_what_rounding_adds(results, shared: Simulation):
    own, together = (
        {m["name"]: m["sensitivity"] for m in document["plan"]["mechanisms"]} for document in (results, shared.results)
    )
    assert own["update"] == 1.0 < together["update"] < 1.01
    assert own["evaluate"] == 1.0 < together["evaluate"] < 1.01


def test_what_is_assumed_of_noise_depends_on_who_draws_it(results, shared: Simulation):
    own, together = (" ".join(document["assumptions"]) for document in (results, shared.results))
    assert "Each party's noise is enough alone" in own
    assert "discrete" not in own
    assert "Shares add up: the promise needs secure aggregation" in together
    assert "enough alone" not in together
    assert "a continuous normal" not in together
