"""What the seeds found, as the one document that the report and every reader start from: ``results.json``."""

import platform
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import numpy as np

from fedmarket import __version__
from fedmarket.config import ExperimentConfig
from fedmarket.contract.schema import Contract
from fedmarket.experiment.arms import JOINT, arm_named, layout_for, terms_of
from fedmarket.ledger.bundle import Bundle
from fedmarket.ledger.verify import verify
from fedmarket.privacy.mechanism import MECHANISM_WORDS
from fedmarket.privacy.observers import observers
from fedmarket.privacy.plan import PrivacyPlan
from fedmarket.simulation.campaign import (
    lines_of,
    private_response,
    private_value,
    response_curves,
    segment_table,
    targeting,
    value_curves,
)
from fedmarket.simulation.measures import Measure, measures_of, there
from fedmarket.simulation.seed import SeedResult
from fedmarket.simulation.statements import (
    AGGREGATION_ASSUMPTIONS,
    AGGREGATION_NOT_PROTECTED,
    ASSUMPTIONS,
    GENERATOR_WORDS,
    HYPERPARAMETERS,
    NOISE_ASSUMPTIONS,
    NOT_PROTECTED,
)
from fedmarket.simulation.table import Table

_BOOTSTRAP = 2
"""Keeps the bootstrap's random stream apart from other streams of the same seed."""

FORMAT = "fedmarket-results/1"

BUNDLE = "bundle.zip"
"""File of the released model's ledgers, beside the results."""

MOST_FINDINGS = 20
"""Findings about the bundle that the results repeat."""


def results_of(
    config: ExperimentConfig, contract: Contract, seeds: list[SeedResult], *, source: str, seconds: float
) -> dict[str, Any]:
    """Return the results document; its keys are described in ``docs/reference/results.md``."""
    rng = np.random.default_rng([0, _BOOTSTRAP])
    measures = measures_of(config, contract)
    tables = [Table(measure, seeds, rng=rng) for measure in measures]
    plan = terms_of(arm_named(JOINT), config, contract, seed=0).plan
    response, value = (tables[0] if contract.label else None), (tables[-1] if contract.value else None)
    return {
        "format": FORMAT,
        "task": contract.task,
        "name": config.name,
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "data": _data(seeds, measures[0], source=source, features=layout_for(config, contract).width),
        **tables[0].document(),
        **_of_response(response, seeds, config, rng=rng),
        "value": None if value is None else _of_value(value, seeds, config, contract, rng=rng),
        "parties": _parties(seeds, measures[0], plan),
        "privacy": {name: _spent(seeds, plan, name) for name in seeds[0].names},
        "plan": _plan(config, plan),
        "federation": _federation(seeds, config, contract),
        "ledger": None if seeds[0].bundle is None else _ledger(seeds[0].bundle),
        "not_protected": [*NOT_PROTECTED, AGGREGATION_NOT_PROTECTED[config.aggregation.secagg]],
        "assumptions": [
            GENERATOR_WORDS[plan.generator],
            NOISE_ASSUMPTIONS[config.privacy.noise],
            AGGREGATION_ASSUMPTIONS[config.aggregation.secagg],
            *ASSUMPTIONS,
        ],
        "configuration": _configuration(config),
        "versions": _versions(),
        "seconds": _seconds(seeds, total=seconds),
    }


def _of_response(
    table: Table | None, seeds: list[SeedResult], config: ExperimentConfig, *, rng: np.random.Generator
) -> dict[str, Any]:
    """Return what is said of a response alone; null where there is none."""
    if table is None:
        return {"calibration": None, "private_evaluation": None, "curves": None}
    return {
        "calibration": {"before": table.metrics_of([seed.raw for seed in seeds]), "after": table.metrics(JOINT)},
        "private_evaluation": private_response(seeds[0], table.first(JOINT), rng=rng),
        "curves": response_curves(seeds[0], best=table.best, evaluation=config.evaluation),
    }


def _of_value(
    table: Table, seeds: list[SeedResult], config: ExperimentConfig, contract: Contract, *, rng: np.random.Generator
) -> dict[str, Any]:
    """Return what is said of a value alone: its own ranking where a response has the headline, deciles, segments."""
    return {
        "currency": contract.value.currency if contract.value else "",
        "ranking": table.document() if contract.label else None,
        "calibration": {"before": table.metrics_of([seed.raw for seed in seeds]), "after": table.metrics(JOINT)},
        "private_evaluation": private_value(seeds[0], table.first(JOINT), rng=rng),
        "curves": value_curves(seeds[0], best=table.best),
        "segments": segment_table(seeds[0], contract),
        "targeting": targeting(seeds[0], evaluation=config.evaluation),
        "lines": lines_of(seeds[0]),
    }


def _data(seeds: list[SeedResult], measure: Measure, *, source: str, features: int) -> dict[str, Any]:
    first = seeds[0]
    positive = there(first.labels if first.labels is not None else first.spent)
    test_rows = len(first.owners)
    positives = sum(first.train_positives) + float(np.count_nonzero(positive))
    return {
        "source": source,
        "train_rows": sum(first.train_rows),
        "test_rows": test_rows,
        "response_rate": positives / (sum(first.train_rows) + test_rows),
        "features": features,
        "bayes_optimal": _best_possible(seeds, measure),
    }


def _best_possible(seeds: list[SeedResult], measure: Measure) -> dict[str, Any] | None:
    found = [measure.best_possible(seed) for seed in seeds]
    known = [one for one in found if one is not None]
    return {"per_seed": found, "mean": float(np.mean(known))} if known else None


def _parties(seeds: list[SeedResult], measure: Measure, plan: PrivacyPlan) -> list[dict[str, Any]]:
    first = seeds[0]
    return [
        {
            "name": name,
            "rows": first.train_rows[place],
            "declared_rows": first.declared[place],
            "response_rate": first.train_positives[place] / first.train_rows[place],
            **_own_customers(seeds, measure, place),
            "epsilon": _spent(seeds, plan, name)["epsilon"],
        }
        for place, name in enumerate(first.names)
    ]


def _own_customers(seeds: list[SeedResult], measure: Measure, place: int) -> dict[str, float | None]:
    """Return the party's mean metrics on its own test customers; null where a seed's rows do not define them."""
    found: dict[str, list[float | None]] = {"alone": [], "alone_dp": [], "joint_dp": []}
    for seed in seeds:
        own = np.flatnonzero(seed.owners == place)
        found["alone"].append(measure.on_own(seed, seed.alone["local_only"][place], own))
        found["alone_dp"].append(measure.on_own(seed, seed.alone["local_only_dp"][place], own))
        found["joint_dp"].append(measure.on_own(seed, seed.predictions[JOINT], own))
    means = {
        name: None if None in values else float(np.mean(np.array(values, float))) for name, values in found.items()
    }
    joint, alone = means["joint_dp"], means["alone"]
    return {**means, "gain": None if joint is None or alone is None else joint - alone}


def _spent(seeds: list[SeedResult], plan: PrivacyPlan, name: str) -> dict[str, Any]:
    """Return what a party's most expensive seed spent, by the party's own count of its releases."""
    worst = max((seed.states[name].spending.spent(plan) for seed in seeds), key=lambda spent: spent.epsilon)
    rate = plan.mechanism("update").sample_rate
    return {
        "epsilon": worst.epsilon,
        "delta": worst.delta,
        "accountants": worst.accountants,
        "sampling": "full batch" if rate == 1 else "Poisson",
        "sample_rate": rate,
    }


def _plan(config: ExperimentConfig, plan: PrivacyPlan) -> dict[str, Any]:
    return {
        "unit": plan.unit,
        "adjacency": plan.adjacency,
        "delta": plan.delta,
        "target_epsilon": config.privacy.epsilon,
        "clip_norm": config.privacy.clip_norm,
        "generator": plan.generator,
        "noise": config.privacy.noise,
        "shares": plan.shares,
        "observers": _observers(config, plan),
        "mechanisms": [
            {
                "name": mechanism.phase,
                "releases": mechanism.releases,
                "noise_multiplier": mechanism.noise_multiplier,
                "sample_rate": mechanism.sample_rate,
                "sensitivity": mechanism.sensitivity,
                "words": MECHANISM_WORDS[mechanism.phase],
            }
            for mechanism in plan.mechanisms
            if mechanism.releases
        ],
        "hyperparameters": HYPERPARAMETERS,
    }


def _observers(config: ExperimentConfig, plan: PrivacyPlan) -> list[dict[str, Any]]:
    """Return the epsilon of a whole run against each observer, by the shares of noise that each cannot know."""
    looking = observers(
        minimum_survivors=config.federation.minimum_survivors,
        colluders=config.privacy.colluders,
        masked=config.aggregation.secagg == "secure",
    )
    return [
        {"name": observer.name, "words": observer.words, "epsilon": plan.epsilon_against(observer.missed)}
        for observer in looking
    ]


def _federation(seeds: list[SeedResult], config: ExperimentConfig, contract: Contract) -> dict[str, Any]:
    terms = terms_of(arm_named(JOINT), config, contract, seed=0)
    return {
        "secagg": terms.secagg,
        "rounds": terms.rounds,
        "exchanges_per_round": terms.exchanges,
        "messages": seeds[0].messages,
        "bytes_up_per_party": seeds[0].bytes_up,
        "void_rounds": [
            {"seed": seed.seed, "round": void.round_number, "reason": void.reason}
            for seed in seeds
            for void in seed.void_rounds
        ],
        "rejections": [
            {
                "seed": seed.seed,
                "round": rejection.round_number,
                "step": rejection.step,
                "party": rejection.party,
                "reason": rejection.reason,
            }
            for seed in seeds
            for rejection in seed.rejections
        ],
    }


def _ledger(bundle: Bundle) -> dict[str, Any]:
    """Return what an auditor would find in the bundle of the released model's run, by the auditor's own code."""
    verdict = verify(bundle).to_document()
    return {
        "bundle": BUNDLE,
        "entries": len(bundle.log),
        "checkpoints": len(bundle.checkpoints),
        "quorum": verdict["quorum"],
        "good": verdict["good"],
        "verdicts": verdict["verdicts"],
        "findings": [finding["line"] for finding in verdict["findings"][:MOST_FINDINGS]],
        "epsilon": {party["name"]: party["epsilon"] for party in verdict["parties"]},
    }


def _configuration(config: ExperimentConfig) -> dict[str, Any]:
    """Return the configuration as given, without the folders of the machine that ran it."""
    document = config.model_dump(mode="json", exclude={"output"})
    document["data"]["contract"] = document["data"]["contract"].rsplit("/", 1)[-1]
    document["start"] = config.start and config.start.rsplit("/", 1)[-1]
    if "path" in document["data"]["source"]:
        document["data"]["source"]["path"] = document["data"]["source"]["path"].rsplit("/", 1)[-1]
    return document


def _versions() -> dict[str, str]:
    packages = (
        "flwr",
        "torch",
        "opacus",
        "dp-accounting",
        "prv-accountant",
        "cryptography",
        "numpy",
        "scikit-learn",
        "polars",
    )
    return {"fedmarket": __version__, "python": platform.python_version(), **{p: version(p) for p in packages}}


def _seconds(seeds: list[SeedResult], *, total: float) -> dict[str, float]:
    """Return the wall seconds of the whole experiment, and of each arm over all seeds."""
    return {"total": total, **{arm: sum(seed.seconds[arm] for seed in seeds) for arm in seeds[0].seconds}}
