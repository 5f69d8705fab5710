"""A results document says of a value what it says of a response, and what only a value has; each task has its keys."""

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fedmarket.evaluation.metrics import auc
from fedmarket.evaluation.ranking import rank
from fedmarket.evaluation.value import value_metrics
from fedmarket.experiment.arms import JOINT
from fedmarket.models.prediction import Prediction
from fedmarket.privacy.histogram import Statistics
from fedmarket.report.page import render
from fedmarket.simulation.predictions import BOOSTED, BUYERS, PAST_SPEND
from fedmarket.simulation.run import Simulation
from fedmarket.simulation.seed import SeedResult

TASKS = ("propensity", "ltv", "propensity-and-ltv")
LOSS = {"mean", "upper_95", "per_seed", "points"}
VALUE_METRICS = {
    "gini", "spearman", "mae", "rmse", "value_ratio", "decile_error", "captured_10", "captured_20", "auc",
}  # fmt: skip


def leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict | list | tuple):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from leaves(inner)
    else:
        yield value


def by_value(results: dict[str, Any]) -> dict[str, Any]:
    """The ranking by value, wherever it is."""
    found: dict[str, Any] = results if results["task"] == "ltv" else results["value"]["ranking"]
    return found


@pytest.mark.parametrize("task", TASKS)
def test_each_task_has_its_metric_and_the_same_keys(made_up, task: str):
    results = made_up(task)
    assert set(results) == set(made_up("propensity"))
    assert (results["task"], results["metric"]) == (task, "gini" if task == "ltv" else "auc")
    for key in ("calibration", "private_evaluation", "curves"):
        assert (results[key] is None) == (task == "ltv"), key
    assert (results["value"] is None) == (task == "propensity")
    assert json.loads(json.dumps(results, allow_nan=False)) == results
    assert all(math.isfinite(leaf) for leaf in leaves(results) if isinstance(leaf, float))
    assert f"<title>{results['name']}" in render(results)


@pytest.mark.parametrize(
    ("task", "beside"), [("ltv", {"past_spend", "buyers"}), ("propensity-and-ltv", {"past_spend"})]
)
def test_simple_models_stand_beside_the_arms_of_a_value(made_up, task: str, beside: set[str]):
    results = made_up(task)
    ranking = by_value(results)
    assert set(ranking["arms"]) - set(made_up("propensity")["arms"]) == beside
    assert set(ranking["loss"]) == {"pooled", "pooled_best", "past_spend"}
    assert all(set(loss) == LOSS for loss in ranking["loss"].values())
    assert all(set(arm["metrics"]) == VALUE_METRICS for arm in ranking["arms"].values())
    assert set(results["value"]) == {
        "currency", "ranking", "calibration", "private_evaluation", "curves", "segments", "targeting", "lines",
    }  # fmt: skip


def test_a_joint_document_ranks_by_response_first_and_by_value_beside_it(made_up):
    both, response = made_up("propensity-and-ltv"), made_up("propensity")
    assert both["value"]["ranking"]["metric"] == "gini"
    assert set(both["value"]["ranking"]) == {"metric", "arms", "loss", "decomposition"}
    assert set(both["arms"]) == set(response["arms"])
    assert both["value"]["ranking"]["arms"][JOINT]["mean"] != both["arms"][JOINT]["mean"]
    assert made_up("ltv")["value"]["ranking"] is None


@pytest.mark.parametrize("task", TASKS)
def test_points_are_the_difference_and_shares_are_of_the_reference(made_up, task: str):
    results = made_up(task)
    ranking = results if task == "propensity" else by_value(results)
    joint = np.array(ranking["arms"][JOINT]["per_seed"])
    for reference, loss in ranking["loss"].items():
        base = np.array(ranking["arms"][reference]["per_seed"])
        np.testing.assert_allclose(loss["points"]["per_seed"], base - joint)
        np.testing.assert_allclose(loss["per_seed"], 1 - joint / base)
        assert loss["points"]["mean"] == pytest.approx((base - joint).mean())
        assert loss["points"]["upper_95"] >= loss["points"]["mean"]
    steps = ranking["decomposition"]
    assert sum(step["loss"] for step in steps) == pytest.approx(ranking["loss"]["pooled"]["mean"])


@pytest.mark.parametrize("best", ["pooled", BOOSTED, BUYERS])
def test_the_best_pooled_model_is_the_best_of_all_learners(made_up, best: str):
    def only_one_knows(seed: SeedResult) -> SeedResult:
        known = Prediction(value=seed.spent, purchase=(seed.spent > 0).astype(float))
        return replace(seed, predictions=seed.predictions | {best: known})

    results = made_up("ltv", change=only_one_knows)
    assert results["arms"]["pooled_best"]["mean"] == pytest.approx(1.0)
    assert (results["arms"]["pooled"]["mean"] == pytest.approx(1.0)) == (best == "pooled")
    deciles = results["value"]["curves"]["deciles"]["pooled_best"]
    assert deciles["predicted"] == deciles["actual"]


def test_past_spend_is_no_candidate_for_the_best_pooled_model(made_up):
    def past_spend_knows(seed: SeedResult) -> SeedResult:
        return replace(seed, predictions=seed.predictions | {PAST_SPEND: Prediction(value=seed.spent)})

    results = made_up("ltv", change=past_spend_knows)
    assert results["arms"]["past_spend"]["mean"] == pytest.approx(1.0)
    assert results["arms"]["pooled_best"]["mean"] < 0.9
    assert results["loss"]["past_spend"]["mean"] > 0
    assert " BELOW past spend times a constant." in render(results).replace("\N{NO-BREAK SPACE}", " ")


def test_a_learner_that_fits_one_seed_only_is_left_out(made_up):
    def second_seed_without(seed: SeedResult) -> SeedResult:
        kept = {name: one for name, one in seed.predictions.items() if seed.seed == 0 or name != BUYERS}
        return replace(seed, predictions=kept)

    assert "buyers" not in made_up("ltv", change=second_seed_without)["arms"]


def test_a_reference_that_ranks_worse_than_chance_has_no_share_to_lose(made_up):
    def reversed_past(seed: SeedResult) -> SeedResult:
        return replace(seed, predictions=seed.predictions | {PAST_SPEND: Prediction(value=1 / (1 + seed.spent))})

    results = made_up("ltv", change=reversed_past)
    loss, arm = results["loss"]["past_spend"], results["arms"]["past_spend"]
    assert arm["mean"] == pytest.approx(-1.0)
    assert (loss["mean"], loss["upper_95"], loss["per_seed"], arm["joint_loss"]) == (None,) * 4
    assert arm["interval"] == pytest.approx([-1.0, -1.0])
    assert loss["points"]["mean"] < -1
    assert "points over past spend times a constant" in render(results)


def test_a_bound_of_a_share_is_null_where_a_resample_has_none(made_up):
    def few_buyers(seed: SeedResult) -> SeedResult:
        spent = np.where(np.arange(len(seed.spent)) < 4, 10.0, 0.0)
        return replace(seed, spent=spent, predictions=seed.predictions | {"pooled": seed.predictions["local"]})

    def local(seed: SeedResult) -> SeedResult:
        rng = np.random.default_rng(seed.seed)
        value = rng.uniform(1, 2, size=len(seed.spent))
        value[:3] = 3.0
        value[3] = 0.5
        one = Prediction(value=value, purchase=value / 3)
        return few_buyers(replace(seed, predictions=seed.predictions | {"local": one}))

    loss = made_up("ltv", change=local)["loss"]["pooled"]
    assert loss["mean"] is not None
    assert loss["upper_95"] is None
    assert math.isfinite(loss["points"]["upper_95"])


def test_numbers_of_one_seed_are_its_own(made_up):
    results = made_up("ltv", seeds=1)
    assert len(results["arms"][JOINT]["per_seed"]) == 1
    assert results["loss"]["pooled"]["upper_95"] >= results["loss"]["pooled"]["mean"]
    assert "One seed." in render(results)


@pytest.mark.parametrize("task", ["ltv", "propensity-and-ltv"])
def test_the_metrics_are_those_of_the_predictions(made_up, task: str):
    kept: list[SeedResult] = []
    results = made_up(task, seeds=1, change=lambda seed: kept.append(seed) or seed)
    seed, ranking = kept[0], by_value(results)
    joint = seed.predictions[JOINT]
    expected = value_metrics(seed.spent, joint.value, purchase_probability=joint.purchase)
    assert ranking["arms"][JOINT]["metrics"] == pytest.approx(expected)
    assert results["value"]["calibration"]["after"] == ranking["arms"][JOINT]["metrics"]
    if task != "ltv":
        assert results["arms"][JOINT]["mean"] == pytest.approx(auc(rank(seed.labels, joint.response)))


def test_a_party_whose_customers_spent_nothing_has_no_metric_of_its_own(made_up):
    def thrifty(seed: SeedResult) -> SeedResult:
        return replace(seed, spent=np.where(seed.owners == 2, 0.0, seed.spent))

    parties = made_up("ltv", change=thrifty)["parties"]
    for party in parties:
        own = [party[name] for name in ("alone", "alone_dp", "joint_dp", "gain")]
        assert (own == [None] * 4) == (party["name"] == "insurer")
    assert parties[0]["gain"] == pytest.approx(parties[0]["joint_dp"] - parties[0]["alone"])


def test_without_segments_there_is_an_empty_table(made_up):
    def without(seed: SeedResult) -> SeedResult:
        return replace(seed, statistics=Statistics(values=seed.statistics.values), exact_segments=None)

    results = made_up("ltv", change=without)
    assert results["value"]["segments"] == []
    assert "<h2>Segments" not in render(results)
    assert "<h2>Segments" in render(made_up("ltv"))


def test_without_past_spend_nothing_is_compared_with_it(made_up):
    def unknown(seed: SeedResult) -> SeedResult:
        predictions = {name: one for name, one in seed.predictions.items() if name != PAST_SPEND}
        return replace(seed, predictions=predictions, past_spend=None)

    results = made_up("propensity-and-ltv", change=unknown)
    value = results["value"]
    named = (value["ranking"]["arms"], value["ranking"]["loss"], value["curves"]["gains"], value["curves"]["deciles"])
    assert not any("past_spend" in found for found in named)
    assert results["value"]["targeting"] is None
    assert "past spend" not in render(results).lower().replace("evaluation.past_spend", "")


def test_segments_are_known_with_the_width_of_their_noise(made_up):
    segments = made_up("ltv")["value"]["segments"]
    assert len(segments) == 6
    assert segments[0]["tiers"] == ["transactions below 2", "gap_mean_days below 30"]
    for found in segments:
        for name, std in (("customers", 40.0), ("responses", 40.0), ("value", 900.0)):
            known, exact = found["known"][name], found["exact"][name]
            assert known["high"] - known["value"] == pytest.approx(1.96 * std, rel=1e-4)
            assert known["low"] == pytest.approx(max(2 * known["value"] - known["high"], 0.0))
            assert exact["low"] == exact["value"] == exact["high"]


def test_noise_that_leaves_no_private_metrics_leaves_the_rest(made_up):
    def drowned(seed: SeedResult) -> SeedResult:
        values = replace(seed.statistics.values, counts=-np.ones_like(seed.statistics.values.counts))
        return replace(seed, statistics=replace(seed.statistics, values=values))

    results = made_up("ltv", change=drowned)
    assert results["value"]["private_evaluation"] is None
    assert "Nothing: with so few held-out customers" in render(results)
    assert set(made_up("ltv")["value"]["private_evaluation"]) == {
        "value_ratio", "captured_20", "purchase_rate", "mean_spend",
    }  # fmt: skip


def test_targeting_is_measured_by_the_truth_where_it_is_known(made_up):
    def known(seed: SeedResult) -> SeedResult:
        return replace(seed, truth=np.full(len(seed.spent), 0.5), expected_value=np.maximum(seed.spent, 1.0))

    happened, true = (made_up("propensity-and-ltv", change=change) for change in (lambda seed: seed, known))
    assert happened["value"]["targeting"]["measured_by"] == "what happened"
    assert "truth" not in happened["value"]["targeting"]["policies"]
    assert true["value"]["targeting"]["measured_by"] == "known truth"
    profits = {name: found["profit"] for name, found in true["value"]["targeting"]["policies"].items()}
    assert max(profits, key=profits.__getitem__) == "truth"
    assert made_up("ltv")["value"]["targeting"] is None


def test_lines_of_sale_are_counted_where_there_are_some(made_up):
    assert made_up("propensity-and-ltv")["value"]["lines"] is None
    assert set(made_up("ltv")["value"]["lines"].values()) == {7}


# Whole runs.


def test_lines_of_sale_go_the_whole_way_to_a_page(tiny_ltv: Simulation):
    results = json.loads((tiny_ltv.folder / "results.json").read_text(encoding="utf-8"))
    assert (results["task"], results["metric"], results["value"]["currency"]) == ("ltv", "gini", "EUR")
    assert results["arms"].keys() >= {"past_spend", "pooled_best"}
    assert results["data"]["train_rows"] + results["data"]["test_rows"] == results["value"]["lines"]["customers"] == 300
    assert [m["name"] for m in results["plan"]["mechanisms"]][-3:] == ["level", "segment", "evaluate"]
    assert all(spent["epsilon"] <= 1.0 for spent in results["privacy"].values())
    page = (tiny_ltv.folder / "report.html").read_text(encoding="utf-8")
    for title in ("Ranking", "Predicted value", "Segments", "Lines of sale", "For each party"):
        assert f"<h2>{title}</h2>" in page
    for title in ("For a campaign", "Whom to contact", "Ranking by value"):
        assert f"<h2>{title}</h2>" not in page


def test_response_and_value_go_the_whole_way_to_a_page(tiny_joint: Simulation):
    results = json.loads((tiny_joint.folder / "results.json").read_text(encoding="utf-8"))
    assert (results["task"], results["metric"]) == ("propensity-and-ltv", "auc")
    assert results["value"]["targeting"]["measured_by"] == "known truth"
    assert results["value"]["lines"] is None
    page = (tiny_joint.folder / "report.html").read_text(encoding="utf-8")
    titles = ("Ranking", "Ranking by value", "For a campaign", "Predicted value", "Segments", "Whom to contact")
    places = [page.index(f"<h2>{title}</h2>") for title in titles]
    assert places == sorted(places)
    assert "<h2>Lines of sale</h2>" not in page
