"""Tiny experiments that are run once, and seeds' results that are made up, so that any shape of them can be shown."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedmarket.config import ExperimentConfig, load_config
from fedmarket.contract.schema import Contract, load_contract
from fedmarket.contract.segments import segment_count
from fedmarket.data.transactions import Counts
from fedmarket.experiment.arms import ARMS, JOINT, arm_named, terms_of
from fedmarket.federation.party import PartyState
from fedmarket.models.prediction import Prediction
from fedmarket.models.state import ModelState
from fedmarket.privacy.budget import Spending
from fedmarket.privacy.histogram import SCORE_BINS, VALUE_BINS, BinnedCounts, SegmentSums, Statistics
from fedmarket.simulation.predictions import BOOSTED, BUYERS, PAST_SPEND
from fedmarket.simulation.results import results_of
from fedmarket.simulation.run import Simulation, simulate
from fedmarket.simulation.seed import SeedResult

TWO_SEEDS = ("seeds = [0]", "seeds = [0, 1]")
FOR_BOTH = (
    "evaluation={contact_cost=5.0,response_margin=60.0,value_margin=0.3,past_spend='past_spend',"
    "bootstrap_replicates=100}"
)
"""What a contract with label and value is judged by."""

NAMES = ("bank", "grocer", "insurer", "telecom")
ROWS = 50
"""Test rows of each made-up party."""

SKILL = {
    "pooled": 1.0, "pooled_dp": 0.9, "federated": 1.0, "federated_schedule": 0.98, "federated_clipped": 0.96,
    "federated_rounded": 0.96, JOINT: 0.92, "local_only": 0.6, "local_only_dp": 0.3,
}  # fmt: skip
"""How much each arm knows of what is true of a customer."""


@pytest.fixture(scope="session")
def tiny(write_market, tmp_path_factory: pytest.TempPathFactory) -> Simulation:
    return simulate(write_market(tmp_path_factory.mktemp("tiny"), TWO_SEEDS))


@pytest.fixture(scope="session")
def tiny_ltv(write_value_market, tmp_path_factory: pytest.TempPathFactory) -> Simulation:
    return simulate(write_value_market(tmp_path_factory.mktemp("tiny-ltv"), TWO_SEEDS))


@pytest.fixture(scope="session")
def tiny_joint(write_joint_market, tmp_path_factory: pytest.TempPathFactory) -> Simulation:
    path = write_joint_market(tmp_path_factory.mktemp("tiny-joint"), TWO_SEEDS)
    return simulate(path, changes=(FOR_BOTH,))


@pytest.fixture
def tiny_config(write_market, tmp_path: Path) -> Path:
    return write_market(tmp_path / "market", TWO_SEEDS)


@pytest.fixture(scope="session")
def documents(write_market, write_value_market, write_joint_market, tmp_path_factory: pytest.TempPathFactory):
    """The configuration and contract of each task."""
    writers = {"propensity": (write_market, ()), "ltv": (write_value_market, ())}
    writers["propensity-and-ltv"] = (write_joint_market, (FOR_BOTH,))
    found = {}
    for task, (write, changes) in writers.items():
        config = load_config(write(tmp_path_factory.mktemp(task)), changes=changes)
        found[task] = (config, load_contract(Path(config.data.contract)))
    return found


@pytest.fixture(scope="session")
def made_up(documents) -> Callable[..., dict[str, Any]]:
    """Return a maker of a results document from made-up seeds; ``change`` may alter each seed's result."""

    def make(
        task: str, *, seeds: int = 2, change: Callable[[SeedResult], SeedResult] = lambda seed: seed
    ) -> dict[str, Any]:
        config, contract = documents[task]
        found = [change(seed_result(config, contract, number)) for number in range(seeds)]
        return results_of(config, contract, found, source="made up", seconds=1.0)

    return make


def seed_result(config: ExperimentConfig, contract: Contract, seed: int) -> SeedResult:
    """Return what a seed might find: customers of a known worth, and arms that see it more or less well."""
    rng = np.random.default_rng(seed)
    customers = ROWS * len(NAMES)
    worth = rng.normal(size=customers)
    labels = (rng.random(customers) < chance(worth)).astype(float)
    spent = np.where(rng.random(customers) < chance(worth), np.round(40 * np.exp(0.7 * worth), 2), 0.0)
    response, value = contract.label is not None, contract.value is not None

    def says(skill: float) -> Prediction:
        seen = skill * worth + (1 - skill) * rng.normal(size=customers)
        return Prediction(
            response=chance(seen) if response else None,
            purchase=chance(seen) if value else None,
            value=40 * chance(seen) * np.exp(0.7 * seen) if value else None,
        )

    together = [arm.name for arm in ARMS if arm.holders != "alone"]
    predictions = {name: says(SKILL[name]) for name in together} | {BOOSTED: says(0.8)}
    if value:
        predictions[PAST_SPEND] = replace(says(0.5), response=None, purchase=None)
    if contract.transactions:
        predictions[BUYERS] = replace(says(0.7), response=None, purchase=None)
    terms = terms_of(arm_named(JOINT), config, contract, seed=0)
    spending = Spending(**{mechanism.phase: mechanism.releases for mechanism in terms.plan.mechanisms})
    segments = segment_count(contract.segments)
    sums = 100.0 * np.arange(1, 3 * segments + 1).reshape(segments, 3)[:, ::-1].T
    return SeedResult(
        seed=seed,
        names=NAMES,
        labels=labels if response else None,
        spent=spent if value else None,
        past_spend=np.maximum(worth, 0.0) if value else None,
        owners=np.repeat(np.arange(len(NAMES)), ROWS),
        predictions=predictions,
        raw=says(0.92),
        alone={arm.name: tuple(says(SKILL[arm.name]) for _ in NAMES) for arm in ARMS if arm.holders == "alone"},
        truth=None,
        expected_value=None,
        train_rows=(200,) * 4,
        train_positives=(40, 60, 80, 100),
        declared=(200,) * 4,
        counts=Counts(**dict.fromkeys(Counts.__slots__, 7)) if contract.transactions else None,
        states={name: PartyState(spending=spending) for name in NAMES},
        model=ModelState(centre=np.zeros(1), scale=np.ones(1), parameters=np.zeros(1), calibration=np.zeros(1)),
        rejections=(),
        void_rounds=(),
        statistics=Statistics(
            scores=binned(rng, 2, SCORE_BINS) if response else None,
            values=binned(rng, 3, VALUE_BINS) if value else None,
            segments=SegmentSums(sums=sums, noise_stds=np.array([40.0, 40.0, 900.0])) if segments else None,
        ),
        exact_segments=SegmentSums(sums=np.round(sums), noise_stds=np.zeros(3)) if segments else None,
        messages=40,
        bytes_up=1000,
        bundle=None,
        seconds={arm.name: 1.0 for arm in ARMS},
    )


def chance(log_odds: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-log_odds))


def binned(rng: np.random.Generator, kinds: int, bins: int) -> BinnedCounts:
    counts = rng.uniform(50, 100, size=(kinds, bins))
    return BinnedCounts(counts=counts, typical=0.5 if kinds == 2 else 40.0, noise_std=3.0)
