"""Whole results documents of each task, made from simulated scores, so that pages look as they do in use."""

import copy

import numpy as np
import pytest

from fedmarket.evaluation import curves
from fedmarket.evaluation.metrics import propensity_metrics
from fedmarket.evaluation.value import deciles, value_gains, value_metrics
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
RANKING = ("metric", "arms", "loss", "decomposition")
SUMS = ("customers", "responses", "value")
SEGMENTS = (
    (("transactions below 2", "average_spend below 30"), (7524.1, 1046.3, 40009.2), (7577.0, 1053.0, 46071.5)),
    (("transactions below 2", "average_spend 30 or more"), (-25.5, 37.2, -166.4), (0.0, 0.0, 0.0)),
    (("transactions 2 or more", "average_spend below 30"), (160.4, 10.1, 7645.3), (126.0, 49.0, 5286.2)),
    (("transactions 2 or more", "average_spend 30 or more"), (669.2, 605.4, 87556.1), (698.0, 600.0, 93976.4)),
)
"""Tiers with noisy and exact customers, buyers and values: well known, empty, half lost, and dear customers."""
TARGETING = {
    "policies": {
        "model": {"profit": 4.44397, "contacted_share": 0.28138, "responses": 448.19},
        "top decile by past spend": {"profit": 2.96304, "contacted_share": 0.1, "responses": 179.45},
        "nobody": {"profit": 0.0, "contacted_share": 0.0, "responses": 0.0},
        "truth": {"profit": 4.76468, "contacted_share": 0.24821, "responses": 396.33},
    },
    "measured_by": "known truth",
    "margin": 0.3,
    "contact_cost": 3.0,
}
LINES = {
    "lines": 69659, "without_customer": 0, "duplicates": 255, "before_start": 0, "after_end": 0, "calibration": 48831,
    "prediction": 20573, "cancelled": 0, "outside_vocabulary": 0, "unmatched_cancellations": 0, "transactions": 48831,
    "over_limit": 7, "clipped_amounts": 2, "customers": 23570, "clipped_values": 0, "only_later": 0,
    "without_purchase": 0,
}  # fmt: skip


@pytest.fixture
def results(_results):
    return copy.deepcopy(_results)


@pytest.fixture
def of_value(_of_value):
    """Results of a value alone."""
    return copy.deepcopy(_of_value)


@pytest.fixture
def of_both(_results, _of_value):
    """Results of a response and a value."""
    both = copy.deepcopy(_results) | {"task": "propensity-and-ltv", "value": copy.deepcopy(_of_value["value"])}
    both["value"]["ranking"] = copy.deepcopy({key: _of_value[key] for key in RANKING})
    both["value"].update(lines=None, targeting=TARGETING)
    return both


@pytest.fixture(scope="session")
def page_as_is(_results):
    return render(_results)


@pytest.fixture(scope="session")
def _results():
    return example_results()


@pytest.fixture(scope="session")
def _of_value(_results):
    return example_of_value(_results)


def example_results():
    rng = np.random.default_rng(5)
    labels = (rng.random(8000) < 0.113).astype(int)
    shared = rng.normal(size=8000)
    scores = {arm: signal * labels + shared for arm, signal in SIGNALS.items()}
    probabilities = {arm: 1 / (1 + np.exp(-(1.15 * score - 2.75))) for arm, score in scores.items()}
    arms = {arm: _arm(arm, "auc", propensity_metrics(labels, probabilities[arm], **MONEY), rng) for arm in SIGNALS}
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
        **_compared(arms),
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
        "value": None,
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
        "ledger": {
            "bundle": "bundle.zip",
            "entries": 2504,
            "checkpoints": 156,
            "quorum": 6,
            "good": True,
            "verdicts": {"integrity": "holds", "completeness": "holds", "promise": "holds"},
            "findings": [],
            "epsilon": dict.fromkeys(JOBS, 0.99973),
        },
        "federation": {
            "secagg": "secure",
            "rounds": 65,
            "exchanges_per_round": 3,
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


def example_of_value(results):
    rng = np.random.default_rng(6)
    worth = rng.normal(size=4000)
    bought = rng.random(4000) < 1 / (1 + np.exp(0.8 - 1.3 * worth))
    spent = np.where(bought, np.round(30 * np.exp(0.8 * worth), 2), 0.0)
    blur = {arm: 1.6 - signal for arm, signal in SIGNALS.items()} | {"past_spend": 0.9, "buyers": 0.5}
    predicted = {arm: 12 * np.exp(worth + size * rng.normal(size=4000)) for arm, size in blur.items()}
    arms = {arm: _arm(arm, "gini", value_metrics(spent, values), rng) for arm, values in predicted.items()}
    shown = ("pooled_best", "pooled", "federated_dp", "past_spend")
    value = {
        "currency": "USD",
        "ranking": None,
        "calibration": {
            "before": arms["federated_dp"]["metrics"] | {"value_ratio": 0.941},
            "after": arms["federated_dp"]["metrics"],
        },
        "private_evaluation": {
            "value_ratio": _private(1.0451, 0.0812, 1.0113),
            "captured_20": _private(0.5512, 0.0431, 0.5603),
            "purchase_rate": _private(0.3107, 0.0112, 0.3151),
            "mean_spend": _private(25.832, 2.113, 26.941),
        },
        "curves": {
            "deciles": {arm: deciles(spent, predicted[arm]) for arm in shown},
            "gains": {arm: value_gains(spent, predicted[arm]) for arm in shown},
        },
        "segments": [_segment(*found) for found in SEGMENTS],
        "targeting": None,
        "lines": LINES,
    }
    changed = {"task": "ltv", "metric": "gini", "name": "music shops", "value": value, **_compared(arms)}
    return copy.deepcopy(results) | changed | dict.fromkeys(("calibration", "private_evaluation", "curves"))


def _segment(tiers, known, exact):
    noise = (89.6, 89.6, 6042.5)
    return {
        "tiers": list(tiers),
        "known": {
            name: {"value": number, "low": max(number - width, 0.0), "high": number + width}
            for name, number, width in zip(SUMS, known, noise, strict=True)
        },
        "exact": {name: dict.fromkeys(("value", "low", "high"), x) for name, x in zip(SUMS, exact, strict=True)},
    }


def _compared(arms):
    """The arms by one metric, what the joint model loses to some, and in which step."""
    metrics = {name: np.array(arm["per_seed"]) for name, arm in arms.items()}
    for name, arm in arms.items():
        arm["loss"] = float(np.mean(1 - metrics[name] / metrics["pooled"]))
        arm["joint_loss"] = float(np.mean(1 - metrics["federated_dp"] / metrics[name]))
    references = [name for name in ("pooled", "pooled_best", "past_spend") if name in arms]
    return {
        "arms": arms,
        "loss": {name: _loss(arms[name], arms["federated_dp"]) for name in references},
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
    }


def _arm(arm, metric, metrics, rng):
    per_seed = [metrics[metric] + 0.004 * step for step in rng.normal(size=5)]
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
    points = [b - a for a, b in zip(arm["per_seed"], reference["per_seed"], strict=True)]
    middle = float(np.mean(points))
    return {
        "mean": mean,
        "upper_95": mean + 0.0043,
        "per_seed": per_seed,
        "points": {"mean": middle, "upper_95": middle + 0.0033, "per_seed": points},
    }


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
        "alone": alone,
        "alone_dp": alone_dp,
        "joint_dp": joint,
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
