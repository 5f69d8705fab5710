"""A whole results document, made from simulated scores, so that pages look as they do in use."""

import copy

import numpy as np
import pytest

from fedmarket.evaluation import curves
from fedmarket.evaluation.metrics import propensity_metrics
from fedmarket.report.page import render

MONEY = {"contact_cost": 5.0, "response_margin": 60.0}
SIGNALS = {
    "pooled_best": 1.26,
    "pooled": 1.19,
    "pooled_dp": 1.185,
    "local_only": 1.03,
    "local_only_dp": 0.62,
    "federated": 1.188,
    "federated_schedule": 1.181,
    "federated_clipped": 1.175,
    "federated_rounded": 1.1749,
    "federated_dp": 1.155,
}
JOBS = {
    "admin.": 8338,
    "blue-collar": 7403,
    "technician": 5394,
    "services": 3175,
    "management": 2339,
    "retired": 1376,
    "entrepreneur": 1165,
    "self-employed": 1137,
    "housemaid": 848,
    "unemployed": 811,
    "student": 700,
    "unknown": 264,
}
OBSERVERS = {
    "public": ("whoever has the released model", 0.94121),
    "server": ("the server, which sees the sum of each round", 0.94122),
    "party": ("another party, which knows its own share of the noise", 0.97233),
    "coalition": ("the server with the assumed number of colluding parties", 0.99973),
    "bare": ("whoever would see one party's updates unmasked", 3.40187),
}
STEPS = (
    ("federation", "pooled", "federated", "the same steps, summed over parties"),
    ("schedule", "federated", "federated_schedule", "60 rounds instead of 200"),
    ("clipping", "federated_schedule", "federated_clipped", "each customer's gradient is clipped to norm 1"),
    ("rounding", "federated_clipped", "federated_rounded", "updates are rounded to integers"),
    ("noise", "federated_rounded", "federated_dp", "each party adds its own noise"),
)


@pytest.fixture
def results(_results):
    return copy.deepcopy(_results)


@pytest.fixture(scope="session")
def page_as_is(_results):
    return render(_results)


@pytest.fixture(scope="session")
def _results():
    return example_results()


def example_results():
    rng = np.random.default_rng(5)
    labels = (rng.random(8000) < 0.113).astype(int)
    shared = rng.normal(size=8000)
    scores = {arm: signal * labels + shared for arm, signal in SIGNALS.items()}
    probabilities = {arm: 1 / (1 + np.exp(-(1.15 * score - 2.75))) for arm, score in scores.items()}
    arms = {arm: _arm(arm, labels, probabilities[arm], rng) for arm in SIGNALS}
    aucs = {name: np.array(arm["per_seed"]) for name, arm in arms.items()}
    for name, arm in arms.items():
        arm["loss"] = float(np.mean(1 - aucs[name] / aucs["pooled"]))
        arm["joint_loss"] = float(np.mean(1 - aucs["federated_dp"] / aucs[name]))
    before = probabilities["federated_dp"] ** 0.8
    return {
        "format": "fedmarket-results/1",
        "task": "propensity",
        "metric": "auc",
        "name": "bank-marketing",
        "created": "2026-11-22T00:00:00Z",
        "data": {
            "source": "bank-additional",
            "train_rows": sum(JOBS.values()),
            "test_rows": 8238,
            "response_rate": 0.1127,
            "features": 63,
            "bayes_optimal": None,
        },
        "arms": arms,
        "loss": {name: _loss(arms[name], arms["federated_dp"]) for name in ("pooled", "pooled_best")},
        "decomposition": [
            {
                "step": step,
                "from": origin,
                "to": to,
                "loss": (arms[origin]["mean"] - arms[to]["mean"]) / arms["pooled"]["mean"],
                "words": words,
            }
            for step, origin, to, words in STEPS
        ],
        "calibration": {
            "before": propensity_metrics(labels, before, **MONEY),
            "after": arms["federated_dp"]["metrics"],
        },
        "private_evaluation": {
            "auc": _private(0.7712, 0.0131, 0.7755),
            "lift_10": _private(3.4821, 0.2127, 3.5913),
            "calibration_ratio": _private(1.0233, 0.0317, 1.0112),
            "log_loss": _private(0.2871, 0.0063, 0.2859),
            "response_rate": _private(0.1139, 0.0042, 0.1127),
        },
        "curves": _curves(labels, probabilities, before),
        "parties": [_party(name, rows, rng) for name, rows in JOBS.items()],
        "privacy": {
            name: {
                "epsilon": 0.99973,
                "delta": 1e-05,
                "accountants": {"pld": 0.99973, "exact": 0.99969},
                "sampling": "full batch",
                "sample_rate": 1.0,
            }
            for name in JOBS
        },
        "plan": _plan(),
        "federation": {
            "secagg": "secure",
            "rounds": 65,
            "exchanges_per_round": 5,
            "messages": 3912,
            "bytes_up_per_party": 162_130,
            "void_rounds": [],
            "rejections": [],
        },
        "not_protected": [
            "Exact row counts and response rates in this report, and every curve: they are statistics of test rows.",
            "That a company takes part, and when.",
            "What the model says about a group of customers: that is what it is for.",
        ],
        "assumptions": [
            "Each party runs this software unchanged and its operating system's generator is sound.",
            "No customer has two rows in one party's table.",
        ],
        "configuration": {
            "name": "bank-marketing",
            "seeds": [0, 1, 2, 3, 4],
            "model": {"kind": "logistic", "binning": True},
            "privacy": {"epsilon": 1.0, "clip_norm": 1.0, "generator": "operating-system"},
            "data": {"test_share": 0.2, "source": {"kind": "public", "partition": {"kind": "column", "column": "job"}}},
            "evaluation": {"contact_cost": 5.0, "response_margin": 60.0},
        },
        "versions": {"fedmarket": "0.1.0", "python": "3.11.9", "numpy": "2.4.6"},
        "seconds": {"data": 1.9, "federation": 41.3, "baselines": 63.0, "evaluation": 7.4},
    }


def _arm(arm, labels, probabilities, rng):
    metrics = propensity_metrics(labels, probabilities, **MONEY)
    per_seed = [metrics["auc"] + 0.004 * step for step in rng.normal(size=5)]
    mean = float(np.mean(per_seed))
    return {
        "description": f"how the {arm.replace('_', ' ')} model is trained",
        "per_seed": per_seed,
        "mean": mean,
        "interval": [mean - 0.008, mean + 0.008],
        "metrics": metrics,
    }


def _loss(reference, arm):
    per_seed = [1 - a / b for a, b in zip(arm["per_seed"], reference["per_seed"], strict=True)]
    mean = float(np.mean(per_seed))
    return {"mean": mean, "upper_95": mean + 0.0043, "per_seed": per_seed}


def _private(value, half_width, exact):
    return {"value": value, "low": value - half_width, "high": value + half_width, "exact": exact}


def _curves(labels, probabilities, before):
    shown = ("pooled_best", "pooled", "federated_dp", "local_only_dp")
    return {
        "roc": {arm: curves.roc(labels, probabilities[arm]) for arm in shown},
        "gains": {arm: curves.gains(labels, probabilities[arm]) for arm in shown},
        "calibration": {
            "before": curves.calibration(labels, before),
            "after": curves.calibration(labels, probabilities["federated_dp"]),
        },
        "profit": {arm: curves.profit(labels, probabilities[arm], **MONEY) for arm in shown},
    }


def _party(name, rows, rng):
    joint = 0.785 + 0.03 * rng.normal()
    alone = joint - abs(rng.normal(0.02, 0.015)) * (3000 / rows) ** 0.3
    alone_dp = alone - 0.1 * (1000 / rows) ** 0.4
    return {
        "name": name,
        "rows": rows,
        "declared_rows": rows,
        "response_rate": float(rng.uniform(0.06, 0.3)),
        "auc_alone": alone,
        "auc_alone_dp": alone_dp,
        "auc_joint_dp": joint,
        "gain": joint - alone,
        "epsilon": 0.99973,
    }


def _plan():
    return {
        "unit": "row",
        "adjacency": "add-or-remove-one",
        "delta": 1e-05,
        "target_epsilon": 1.0,
        "clip_norm": 1.0,
        "generator": "operating-system",
        "noise": "distributed",
        "shares": 9,
        "observers": [
            {"name": name, "words": words, "epsilon": epsilon} for name, (words, epsilon) in OBSERVERS.items()
        ],
        "mechanisms": [
            _mechanism("feature means", 1, 12.4, "the sum of encoded features, to centre them"),
            _mechanism("gradient sums", 60, 22.9, "the sum of clipped gradients in each round"),
            _mechanism("recalibration", 2, 17.5, "the sum of clipped gradients of slope and intercept"),
        ],
        "hyperparameters": "public defaults, not tuned on these rows",
    }


def _mechanism(name, releases, noise_multiplier, words):
    return {
        "name": name,
        "releases": releases,
        "noise_multiplier": noise_multiplier,
        "sample_rate": 1.0,
        "sensitivity": 1.0,
        "words": words,
    }
