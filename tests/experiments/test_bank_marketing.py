"""The published numbers of experiments/bank-marketing, from its own documents."""

import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedmarket.config import load_config
from fedmarket.data.public import PUBLIC_FILES, locate
from fedmarket.evaluation.metrics import propensity_metrics
from fedmarket.experiment.arms import arm_named
from fedmarket.experiment.market import MarketKey, open_market
from fedmarket.flower.inprocess import Apps, RunConfig, load_apps, run_in_process
from fedmarket.models.released import predict

FOLDER = Path(__file__).resolve().parents[2] / "experiments" / "bank-marketing"
EXPECTED = tomllib.loads((FOLDER / "expected.toml").read_text(encoding="utf-8"))["experiment"]
ARMS = ("pooled", "federated", "federated_dp")

pytestmark = pytest.mark.experiment


@pytest.fixture(scope="module", params=EXPECTED, ids=[expected["config"] for expected in EXPECTED])
def found(request: pytest.FixtureRequest) -> tuple[dict[str, Any], dict[str, np.ndarray], float]:
    """Expected numbers of one document, AUCs of the arms for each seed, and the largest epsilon spent."""
    if locate(next(public for public in PUBLIC_FILES if public.name == "bank-additional")) is None:
        pytest.skip("bank-additional-full.csv is not here; put it into $FEDMARKET_DATA")
    path = FOLDER / request.param["config"]
    config, apps = load_config(path), load_apps(FOLDER)
    aucs: dict[str, list[float]] = {arm: [] for arm in ARMS}
    epsilons = []
    for seed in config.seeds:
        key = MarketKey(config=path, changes=(), seed=seed)
        for name in ARMS:
            auc, spent = _auc(apps, key, name)
            aucs[name].append(auc)
            epsilons.append(spent)
    return request.param, {name: np.array(values) for name, values in aucs.items()}, max(epsilons)


def _auc(apps: Apps, key: MarketKey, name: str) -> tuple[float, float]:
    market, arm = open_market(key), arm_named(name)
    holders = market.holders(arm, alone="")
    run: RunConfig = {
        "config": str(key.config),
        "changes": "",
        "arm": name,
        "seed": key.seed,
        "alone": "",
        "parties": len(holders),
        "output": "",
    }
    outcome = run_in_process(apps, run, nodes=len(holders))
    assert outcome.rejections == ()
    rows = market.test_rows
    scores = predict(market.config.model, outcome.model, market.features[rows])
    auc = propensity_metrics(market.population.labels[rows], scores, contact_cost=1.0, response_margin=1.0)["auc"]
    plan = market.party(arm, holders[0]).terms.plan
    spent = max(state.spending.spent(plan).epsilon for state in outcome.states) if arm.noisy else 0.0
    return auc, spent


def test_the_private_federated_model_loses_what_is_published(found):
    expected, aucs, _ = found
    loss = float((1 - aucs["federated_dp"] / aucs["pooled"]).mean())
    assert loss == pytest.approx(expected["loss"], abs=expected["loss_tolerance"])
    assert loss <= expected["loss_at_most"]


def test_federation_without_privacy_loses_nothing(found):
    expected, aucs, _ = found
    assert float((1 - aucs["federated"] / aucs["pooled"]).mean()) <= expected["federated_loss_at_most"]


def test_the_pooled_baseline_is_as_strong_as_published(found):
    expected, aucs, _ = found
    assert float(aucs["pooled"].mean()) == pytest.approx(expected["pooled_auc"], abs=expected["auc_tolerance"])


def test_no_party_spends_more_than_the_target(found):
    expected, _, epsilon = found
    assert 0.97 * expected["epsilon"] < epsilon <= expected["epsilon"]
