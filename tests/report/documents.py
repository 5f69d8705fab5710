"""Small whole documents of a frontier and of an attack, made up; run by path (``runpy``) from tests that need one."""

from typing import Any

EPSILONS = [0.1, 1.0, 8.0]
LOSSES = {"distributed": (0.02, 0.0031, 0.0001), "local": (0.05, 0.011, 0.002), "pooled_dp": (0.018, 0.003, 0.0)}
GROUPS = {"random customers": 24, "the most exposed customers": 24}
ADVANTAGES = {"model": 0.2, "aggregate": 0.3, "update": 0.6, "informed aggregate": 0.9, "informed update": 0.9}
LIMIT = 0.107


def band(mean: float) -> dict[str, float]:
    return {"mean": mean, "standard_error": 0.001, "low": mean - 0.002, "high": mean + 0.002}


def compared(loss: float, *, metrics: dict[str, float], score: float) -> dict[str, Any]:
    """Return what is said of one arm that loses ``loss`` of a pooled score of 0.8."""
    return {
        "score": score,
        "metrics": metrics,
        "pooled": band(loss),
        "pooled_best": band(loss + 0.001),
        "points": {"pooled": band(0.8 * loss), "pooled_best": band(0.8 * loss + 0.0008)},
    }


def frontier() -> dict[str, Any]:
    rows = [
        {"mode": mode, "epsilon": epsilon, **compared(loss, metrics={"auc": 0.79}, score=0.79)}
        for mode, found in LOSSES.items()
        for epsilon, loss in zip(EPSILONS, found, strict=True)
    ]
    return {
        "format": "fedmarket-frontier/2",
        "name": "bank <b>&</b> co",
        "metric": "auc",
        "created": "2026-11-22T00:00:00Z",
        "source": "public set bank",
        "parties": 12,
        "seeds": list(range(10)),
        "delta": 1e-5,
        "unit": "row",
        "generator": "operating-system",
        "shares": 10,
        "secagg": "ideal",
        "epsilons": list(EPSILONS),
        "pooled": 0.8,
        "best": {"name": "gradient boosting", "score": 0.802},
        "past_spend": None,
        "public_start": None,
        "without_privacy": compared(0.0, metrics={"auc": 0.8}, score=0.8),
        "rows": rows,
        "version": "0.1.0",
    }


def frontier_of_value() -> dict[str, Any]:
    """Return a frontier of a value whose modes stand 0.0123 points, or 1.62 %, above past spend."""
    found = frontier() | {"metric": "gini", "past_spend": 0.76}
    for row in (*found["rows"], found["without_privacy"]):
        row["metrics"] = {"gini": row["score"], "value_ratio": 1.034, "decile_error": 0.217}
        row["past_spend"], row["points"]["past_spend"] = band(-0.0162), band(-0.0123)
    return found


def interval(estimate: float) -> dict[str, float]:
    return {"estimate": estimate, "low": max(estimate - 0.08, -1.0), "high": min(estimate + 0.08, 1.0)}


def figures(advantage: float) -> dict[str, Any]:
    at_rates = [{"true_positive_rate": interval(advantage * share)} for share in (0.5, 0.3)]
    return {"auc": interval(0.5 + advantage / 2), "advantage": interval(advantage), "at_rates": at_rates}


def risk() -> dict[str, Any]:
    """Return an attack that gains a tenth with privacy of what it gains without."""
    views = {"federated": ADVANTAGES, "federated_dp": {view: gain / 10 for view, gain in ADVANTAGES.items()}}
    cut = {"certified": 0.81, "estimate": 0.9, "words": ""}
    reading = {
        "score": "updates", "claimed": 1.0, "delta": 1e-5, "epsilon": 0.3, "gaussian": None, "auc": 0.6,
        "control": 1.0, "verdict": "consistent", "words": "every round's noisy sum: epsilon at least 0.30",
    }  # fmt: skip
    column = {
        "column": "地区",
        "targets": 57,
        "imputed": interval(0.12),
        "found": {"model": interval(0.11)},
        "gain": {"model": interval(-0.02)},
    }
    return {
        "format": "fedmarket-risk/1",
        "name": "tiny",
        "created": "2026-11-22T00:00:00Z",
        "version": "0.1.0",
        "source": "synthetic market (seed 7)",
        "unit": "row",
        "generator": "operating-system",
        "private": True,
        "epsilon": 1.0,
        "delta": 1e-5,
        "noise": "distributed",
        "full_batch": True,
        "gate": {"verdict": "consistent", "canaries": 40, "runs": 2, "false_alarm_rate": 1e-3, "readings": [reading]},
        "membership": {
            "watched": "招商银行",
            "customers": 114,
            "groups": GROUPS,
            "runs": 64,
            "confidence": 0.95,
            "arms": {
                arm: {group: {view: figures(gain) for view, gain in gains.items()} for group in GROUPS}
                for arm, gains in views.items()
            },
            "limits": {view: {"advantage": LIMIT} for view in ADVANTAGES},
            "reductions": [
                {"group": group, "before": "update", "after": "aggregate", "figures": {"advantage": cut}}
                for group in GROUPS
            ],
        },
        "reconstruction": {
            "cells": [
                {"arm": "federated", "veil": "none", "batch": 1,
                 "found": {"all": interval(1.0)}, "prior": {"all": interval(0.5)}},
            ],
            "attribute": {"federated": column, "federated_dp": column},
        },
    }  # fmt: skip
