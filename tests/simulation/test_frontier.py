"""A sweep gives what single runs give, goes on where it was stopped, and refuses points that are not its own."""

import json
from pathlib import Path

import numpy as np
import pytest

from fedmarket.config import load_config
from fedmarket.errors import PlanError, UsageError
from fedmarket.evaluation.metrics import auc
from fedmarket.evaluation.ranking import rank
from fedmarket.evaluation.value import value_metrics
from fedmarket.experiment.arms import arm_named
from fedmarket.experiment.market import MarketKey, open_market
from fedmarket.flower.inprocess import load_apps
from fedmarket.models.objectives import RESPONSE
from fedmarket.models.released import predict
from fedmarket.report.frontier import headline
from fedmarket.simulation import frontier as module
from fedmarket.simulation import pretrain as pretraining
from fedmarket.simulation.frontier import MODES, WITHOUT, Frontier, frontier
from fedmarket.simulation.predictions import (
    BOOSTED,
    BUYERS,
    PAST_SPEND,
    PUBLIC_START,
    arm_prediction,
    simple_predictions,
)
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


def test_rows_of_a_value_have_metrics_and_points_beside_shares(swept_value):
    _, found = swept_value
    references = {"pooled", "pooled_best", "past_spend"}
    for row in (*found.results["rows"], found.results["without_privacy"]):
        assert set(row["metrics"]) == {"gini", "value_ratio", "decile_error"}
        assert row["score"] == row["metrics"]["gini"]
        assert set(row["points"]) == references <= set(row)
    assert "Points above past spend" in (found.folder / "frontier.html").read_text()


def test_a_sweep_of_a_value_goes_on_where_it_was_stopped(swept_value, tmp_path: Path, monkeypatch):
    path, found = swept_value
    lines = (found.folder / "points.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "points.jsonl").write_text("".join(lines[:2]))
    ran: list[object] = []
    run = module._run
    monkeypatch.setattr(module, "_run", lambda item: ran.append(item.key) or run(item))
    again = frontier(path, changes=(f'output="{tmp_path}"',), epsilons=(2.0,))
    assert ran == [(0, 2.0)]
    assert again.results["rows"] == found.results["rows"]


GINIS = {"pooled": 0.5, "federated": 0.5, BOOSTED: 0.4, BUYERS: 0.3, PAST_SPEND: 0.2}


def with_metrics(ginis: dict[str, float]) -> dict[str, dict[str, float]]:
    return {name: {"gini": gini, "value_ratio": 1.0, "decile_error": 0.1} for name, gini in ginis.items()}


def swept_as(found: dict[int, dict[str, float]], monkeypatch, path: Path, folder: Path) -> Frontier:
    """Return a sweep whose learners have the given Ginis by seed, and whose modes 0.25."""
    modes = dict.fromkeys(MODES, 0.25)
    monkeypatch.setattr(module, "_run", lambda item: with_metrics(modes if item.epsilon else found[item.seed]))
    changes = (f'output="{folder}"', f"seeds={list(found)}")
    return frontier(path, changes=changes, epsilons=(1.0,))


@pytest.mark.parametrize(("best", "name"), [("pooled", "the same model"), (BOOSTED, BOOSTED), (BUYERS, BUYERS)])
def test_the_best_pooled_model_is_of_any_class(swept_value, tmp_path: Path, monkeypatch, best: str, name: str):
    results = swept_as({0: GINIS | {best: 0.6}}, monkeypatch, swept_value[0], tmp_path).results
    assert results["best"] == {"name": name, "score": 0.6}
    for row in results["rows"]:
        assert row["points"]["pooled_best"]["mean"] == pytest.approx(0.35)


def test_past_spend_and_a_start_are_never_the_best_pooled_model(swept_value, tmp_path: Path, monkeypatch):
    ginis = GINIS | {PAST_SPEND: 0.9, PUBLIC_START: 0.9}
    assert swept_as({0: ginis}, monkeypatch, swept_value[0], tmp_path).results["best"]["name"] == "the same model"


@pytest.mark.parametrize(("past", "said"), [(0.2, "25.00 % above"), (0.5, "50.00 % BELOW")])
def test_the_headline_says_on_which_side_of_past_spend_the_model_is(
    swept_value, tmp_path: Path, monkeypatch, past: float, said: str
):
    found = swept_as({0: GINIS | {PAST_SPEND: past}}, monkeypatch, swept_value[0], tmp_path)
    assert f"and are {said} past spend times a constant." in headline(found.results)


@pytest.mark.parametrize(("past", "said"), [(0.0, "0.2500"), (-0.1, "0.3500")])
def test_past_spend_that_ranks_no_better_than_chance_leaves_points_alone(
    swept_value, tmp_path: Path, monkeypatch, past: float, said: str
):
    found = swept_as({0: GINIS | {PAST_SPEND: past}}, monkeypatch, swept_value[0], tmp_path)
    assert not [row for row in found.results["rows"] if "past_spend" in row]
    assert f"and are {said} points above past spend times a constant." in headline(found.results)
    assert found.results["past_spend"] == past


def test_a_learner_that_does_not_fit_every_seed_is_left_out(swept_value, tmp_path: Path, monkeypatch):
    without = {name: gini for name, gini in GINIS.items() if name != BUYERS}
    for place, found in enumerate(({0: GINIS | {BUYERS: 0.9}, 1: without}, {0: without, 1: GINIS | {BUYERS: 0.9}})):
        results = swept_as(found, monkeypatch, swept_value[0], tmp_path / str(place)).results
        assert results["best"] == {"name": "the same model", "score": 0.5}


# A public start.


WITH_START = ('output = "out"', 'output = "out"\nstart = "start.json"')


@pytest.fixture
def started(write_value_market, tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setattr(pretraining, "CUSTOMERS", 400)
    path = write_value_market(tmp_path, WITH_START, *IN_THE_OPEN)
    pretraining.pretrain(path)
    return path


def test_a_sweep_from_a_start_says_what_the_start_says_alone(started: Path):
    found = frontier(started, epsilons=(2.0,))
    points = {point["epsilon"]: point["found"] for point in points_of(found.folder)[1:]}
    assert set(points[None]) == {*WITHOUT, BOOSTED, BUYERS, PAST_SPEND, PUBLIC_START}
    market = open_market(MarketKey(config=started, changes=(), seed=0))
    said, spent = simple_predictions(market)[PUBLIC_START], market.population.spent[market.test_rows]
    metrics = value_metrics(spent, said.value, purchase_probability=said.purchase)
    assert points[None][PUBLIC_START]["gini"] == metrics["gini"] == found.results["public_start"]


def test_points_belong_to_the_content_of_a_start_and_not_to_its_place(started: Path, tmp_path: Path):
    def fingerprint(*changes: str) -> str:
        return module._fingerprint(load_config(started, changes=changes))

    first, document = fingerprint(), json.loads((tmp_path / "start.json").read_text())
    (tmp_path / "elsewhere.json").write_text(json.dumps(document | {"made_by": "other words"}))
    assert fingerprint("start=elsewhere.json") == first
    document["parameters"][0] += 1e-9
    (tmp_path / "elsewhere.json").write_text(json.dumps(document))
    assert fingerprint("start=elsewhere.json") != first
    (tmp_path / "plain.toml").write_text(started.read_text().replace('start = "start.json"\n', ""))
    assert module._fingerprint(load_config(tmp_path / "plain.toml")) != first


def test_points_from_another_start_are_refused(started: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(module, "_run", lambda item: with_metrics(GINIS | dict.fromkeys(MODES, 0.25)))
    frontier(started, epsilons=(2.0,))
    monkeypatch.setattr(pretraining, "SEED", 1)
    pretraining.pretrain(started)
    with pytest.raises(UsageError, match=r"points\.jsonl: points of another experiment or version"):
        frontier(started, epsilons=(2.0,))
