"""A sweep gives what single runs give, goes on where it was stopped, and refuses points that are not its own."""

import json
from pathlib import Path

import numpy as np
import pytest

from fedmarket.errors import PlanError, UsageError
from fedmarket.evaluation.metrics import auc
from fedmarket.evaluation.ranking import rank
from fedmarket.evaluation.value import value_metrics
from fedmarket.experiment.arms import arm_named
from fedmarket.experiment.market import MarketKey, open_market
from fedmarket.flower.inprocess import load_apps
from fedmarket.models.objectives import RESPONSE
from fedmarket.models.released import predict
from fedmarket.simulation import frontier as module
from fedmarket.simulation.frontier import MODES, WITHOUT, Frontier, frontier
from fedmarket.simulation.predictions import BOOSTED, BUYERS, PAST_SPEND, arm_prediction
from fedmarket.simulation.seed import run_arm

EPSILONS = (0.5, 2.0)
ROOT = Path(__file__).parents[2]
CHANGES = (
    ("seeds = [0]", "seeds = [0, 1]"),
    ('secagg = "secure"', 'secagg = "ideal"'),
    ("modulus_bits = 32", "modulus_bits = 64"),
)


@pytest.fixture(scope="module")
def swept(write_market, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Frontier]:
    path = write_market(tmp_path_factory.mktemp("swept"), *CHANGES)
    return path, frontier(path, epsilons=EPSILONS)


def points_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "points.jsonl").read_text().splitlines()]


def test_every_seed_has_a_point_at_every_epsilon_and_one_without_privacy(swept):
    _, found = swept
    head, *points = points_of(found.folder)
    assert head["format"] == "fedmarket-frontier/2"
    assert {(p["seed"], p["epsilon"]) for p in points} == {(s, e) for s in (0, 1) for e in (None, *EPSILONS)}
    assert {path.name for path in found.folder.iterdir()} == {"points.jsonl", "frontier.json", "frontier.html"}


def test_a_point_is_the_auc_of_that_run(swept):
    path, found = swept
    changes = ("privacy.epsilon=2.0", "privacy.noise=distributed")
    key = MarketKey(config=path, changes=changes, seed=1)
    market = open_market(key)
    model = run_arm(key, arm_named("federated_dp"), load_apps(ROOT)).model
    probabilities = predict(market.config.model, RESPONSE, model, market.features[market.test_rows]).response
    point = next(p for p in points_of(found.folder)[1:] if (p["seed"], p["epsilon"]) == (1, 2.0))
    scored = auc(rank(market.population.labels[market.test_rows], probabilities))
    assert point["found"]["distributed"] == {"auc": scored}
    assert len({one["auc"] for one in point["found"].values()}) == 3  # the modes differ
    assert found.results["metric"] == "auc"


def test_losses_are_means_over_seeds_against_each_baseline(swept):
    _, found = swept
    points = {(p["seed"], p["epsilon"]): p["found"] for p in points_of(found.folder)[1:]}
    assert {name for (_, epsilon), one in points.items() if epsilon is None for name in one} == {*WITHOUT, BOOSTED}
    pooled = np.array([points[seed, None]["pooled"]["auc"] for seed in (0, 1)])
    boosted = np.array([points[seed, None][BOOSTED]["auc"] for seed in (0, 1)])
    best = max((pooled, boosted), key=np.mean)
    for row in found.results["rows"]:
        aucs = np.array([points[seed, row["epsilon"]][row["mode"]]["auc"] for seed in (0, 1)])
        assert row["score"] == row["metrics"]["auc"] == pytest.approx(aucs.mean())
        for name, reference in (("pooled", pooled), ("pooled_best", best)):
            losses = 1 - aucs / reference
            assert row[name]["mean"] == pytest.approx(losses.mean())
            assert row[name]["standard_error"] == pytest.approx(abs(losses[0] - losses[1]) / 2)
            assert row[name]["low"] <= row[name]["mean"] <= row[name]["high"]
            assert row["points"][name]["mean"] == pytest.approx((reference - aucs).mean())
    assert {(row["mode"], row["epsilon"]) for row in found.results["rows"]} == {(m, e) for m in MODES for e in EPSILONS}


def test_a_sweep_goes_on_where_it_was_stopped_and_drops_a_torn_line(swept, tmp_path: Path, monkeypatch):
    path, found = swept
    lines = (found.folder / "points.jsonl").read_text().splitlines(keepends=True)
    torn = tmp_path / "out"
    torn.mkdir()
    (torn / "points.jsonl").write_text("".join(lines[:-2]) + lines[-2][:20])
    ran: list[object] = []
    run = module._run
    monkeypatch.setattr(module, "_run", lambda item: ran.append(item.key) or run(item))
    again = frontier(path, changes=(f'output="{torn}"',), epsilons=EPSILONS)
    assert len(ran) == 2
    assert again.results["rows"] == found.results["rows"]
    heard: list[tuple[int, int]] = []
    frontier(path, changes=(f'output="{torn}"',), epsilons=EPSILONS, on_point=lambda *told: heard.append(told))
    assert len(ran) == 2
    assert heard == [(6, 6)]


def test_another_epsilon_is_added_to_the_points(swept, tmp_path: Path, monkeypatch):
    path, found = swept
    (tmp_path / "points.jsonl").write_text((found.folder / "points.jsonl").read_text())
    monkeypatch.setattr(module, "_run", lambda item: {key: {"auc": 0.5} for key in (*MODES, *WITHOUT, BOOSTED)})
    wider = frontier(path, changes=(f'output="{tmp_path}"',), epsilons=(*EPSILONS, 1.0))
    assert wider.results["epsilons"] == [0.5, 1.0, 2.0]
    assert len(points_of(tmp_path)) == 1 + 8


def test_points_of_another_experiment_are_refused_and_left_alone(swept, tmp_path: Path):
    path, found = swept
    before = (found.folder / "points.jsonl").read_text()
    (tmp_path / "points.jsonl").write_text(before)
    with pytest.raises(UsageError, match=r"points\.jsonl: points of another experiment or version"):
        frontier(path, changes=(f'output="{tmp_path}"', "privacy.clip_norm=2.5"), epsilons=EPSILONS)
    assert (tmp_path / "points.jsonl").read_text() == before


@pytest.mark.parametrize("damaged", ["not json\n", "[]\n{}\n", "{HEAD}{\n", "{HEAD}{}\n", "{HEAD}7\n"])
def test_a_damaged_file_of_points_is_one_line_and_left_alone(swept, tmp_path: Path, damaged: str):
    path, found = swept
    head = (found.folder / "points.jsonl").read_text().splitlines(keepends=True)[0]
    (tmp_path / "points.jsonl").write_text(damaged.replace("{HEAD}", head))
    before = (tmp_path / "points.jsonl").read_text()
    with pytest.raises(UsageError, match=r"points\.jsonl: (not a file of points|points of another experiment)"):
        frontier(path, changes=(f'output="{tmp_path}"',), epsilons=EPSILONS)
    assert (tmp_path / "points.jsonl").read_text() == before


def test_what_is_impossible_is_said_before_anything_runs(swept, tmp_path: Path, monkeypatch):
    path, _ = swept
    monkeypatch.setattr(module, "_run", lambda item: pytest.fail("ran"))
    with pytest.raises(PlanError, match=r"local_steps of a private schedule: expected 1 with distributed noise"):
        frontier(path, changes=(f'output="{tmp_path}"', "training.local_steps=2"), epsilons=EPSILONS)
    with pytest.raises(UsageError, match=r"privacy\.epsilon"):
        frontier(path, changes=(f'output="{tmp_path}"',), epsilons=(0.001,))
    assert list(tmp_path.iterdir()) == []


def test_the_sums_may_be_masked_and_give_the_same_points(swept, tmp_path: Path):
    path, found = swept
    changes = (f'output="{tmp_path}"', "aggregation.secagg=secure", "seeds=[0]")
    masked = frontier(path, changes=changes, epsilons=(0.5,))
    del masked
    open_points = {(p["seed"], p["epsilon"]): p["found"] for p in points_of(found.folder)[1:]}
    for point in points_of(tmp_path)[1:]:
        assert point["found"] == open_points[point["seed"], point["epsilon"]]


# What a customer will spend.


IN_THE_OPEN = (('secagg = "secure"', 'secagg = "ideal"'), ("modulus_bits = 32", "modulus_bits = 64"))


@pytest.fixture(scope="module")
def swept_value(write_value_market, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Frontier]:
    path = write_value_market(tmp_path_factory.mktemp("value"), *IN_THE_OPEN)
    return path, frontier(path, epsilons=(2.0,))


def test_without_a_label_a_point_is_the_gini_of_that_run(swept_value):
    path, found = swept_value
    assert found.results["metric"] == "gini"
    key = MarketKey(config=path, changes=("privacy.epsilon=2.0", "privacy.noise=local"), seed=0)
    market = open_market(key)
    said = arm_prediction(market, run_arm(key, arm_named("federated_dp"), load_apps(ROOT)).model)
    spent = market.population.spent[market.test_rows]
    metrics = value_metrics(spent, said.value, purchase_probability=said.purchase)
    points = {point["epsilon"]: point["found"] for point in points_of(found.folder)[1:]}
    assert points[2.0]["local"] == {name: metrics[name] for name in ("gini", "value_ratio", "decile_error")}


def test_modes_of_a_value_are_held_against_past_spend_and_buyers_too(swept_value):
    _, found = swept_value
    points = {point["epsilon"]: point["found"] for point in points_of(found.folder)[1:]}
    assert set(points[2.0]) == set(MODES)
    assert set(points[None]) == {*WITHOUT, BOOSTED, BUYERS, PAST_SPEND}
    ginis = {name: one["gini"] for name, one in points[None].items()}
    assert found.results["past_spend"] == ginis[PAST_SPEND]
    best = max(("pooled", BOOSTED, BUYERS), key=lambda name: ginis[name])
    assert found.results["best"]["score"] == ginis[best]
    for row in found.results["rows"]:
        gini = points[2.0][row["mode"]]["gini"]
        assert row["past_spend"]["mean"] == pytest.approx(1 - gini / ginis[PAST_SPEND])
        assert row["points"]["past_spend"]["mean"] == pytest.approx(ginis[PAST_SPEND] - gini)


def test_where_there_is_a_label_the_responses_are_compared(write_joint_market, tmp_path: Path):
    found = frontier(write_joint_market(tmp_path, *IN_THE_OPEN), epsilons=(2.0,))
    assert found.results["metric"] == "auc"
    points = {point["epsilon"]: point["found"] for point in points_of(found.folder)[1:]}
    assert {name for one in points.values() for metrics in one.values() for name in metrics} == {"auc"}
    assert {*WITHOUT, BOOSTED} <= set(points[None])
    assert not {PAST_SPEND, BUYERS} & set(points[None])
    assert points[None][BOOSTED]["auc"] > 0.6
