"""What a results document says for a campaign: curves of a response, deciles, segments and targeting of a value."""

from dataclasses import asdict
from typing import Any

import numpy as np

from fedmarket.config import EvaluationSection
from fedmarket.contract.schema import Contract
from fedmarket.contract.segments import segment_names
from fedmarket.errors import DataError
from fedmarket.evaluation import curves
from fedmarket.evaluation.private import private_metrics, private_segment, private_value_metrics
from fedmarket.evaluation.targeting import Expectation, policies
from fedmarket.evaluation.value import deciles, value_gains
from fedmarket.experiment.arms import JOINT
from fedmarket.models.prediction import Prediction
from fedmarket.simulation.measures import Metrics, prices_of, there
from fedmarket.simulation.predictions import PAST_SPEND
from fedmarket.simulation.seed import SeedResult

Document = dict[str, Any]


def response_curves(seed: SeedResult, *, best: str, evaluation: EvaluationSection) -> Document:
    """Return curves of one seed: a mean over seeds would show no campaign that anyone could run."""
    labels = there(seed.labels)
    named = {"pooled_best": best, "pooled": "pooled", JOINT: JOINT}
    scores = {arm: there(seed.predictions[name].response) for arm, name in named.items()}
    prices = prices_of(evaluation, "contact_cost", "response_margin")
    return {
        "roc": {arm: curves.roc(labels, score) for arm, score in scores.items()},
        "gains": {arm: curves.gains(labels, score) for arm, score in scores.items()},
        "calibration": {
            "before": curves.calibration(labels, there(seed.raw.response)),
            "after": curves.calibration(labels, scores[JOINT]),
        },
        "profit": {arm: curves.profit(labels, score, **prices) for arm, score in scores.items()},
    }


def private_response(seed: SeedResult, exact: Metrics, *, rng: np.random.Generator) -> Document | None:
    """Return a seed's test metrics as a deployment would know them, and the same without noise."""
    if seed.statistics.scores is None:
        return None
    known = exact | {"response_rate": float(there(seed.labels).mean())}
    try:
        return _beside(private_metrics(seed.statistics.scores, rng=rng), known)
    except DataError:  # too few held-out customers for this noise: there is nothing to report
        return None


def private_value(seed: SeedResult, exact: Metrics, *, rng: np.random.Generator) -> Document | None:
    """Return the same of the value."""
    if seed.statistics.values is None:
        return None
    spent = there(seed.spent)
    known = exact | {"purchase_rate": float((spent > 0).mean()), "mean_spend": float(spent.mean())}
    try:
        return _beside(private_value_metrics(seed.statistics.values, rng=rng), known)
    except DataError:
        return None


def value_curves(seed: SeedResult, *, best: str) -> Document:
    """Return deciles and captured value of one seed, for the joint model and what stands beside it."""
    spent = there(seed.spent)
    named = {"pooled_best": best, "pooled": "pooled", JOINT: JOINT, "past_spend": PAST_SPEND}
    values = {arm: there(seed.predictions[name].value) for arm, name in named.items() if name in seed.predictions}
    return {
        "deciles": {arm: deciles(spent, value) for arm, value in values.items()},
        "gains": {arm: value_gains(spent, value) for arm, value in values.items()},
    }


def segment_table(seed: SeedResult, contract: Contract) -> list[Document]:
    """Return each segment as everyone may know it, with 95 % intervals of the noise, beside the exact numbers."""
    known, exact = seed.statistics.segments, seed.exact_segments
    if known is None or contract.segments is None:
        return []
    return [
        {
            "tiers": list(tiers),
            "known": private_segment(known, place),
            "exact": None if exact is None else private_segment(exact, place),
        }
        for place, tiers in enumerate(segment_names(contract.segments))
    ]


def targeting(seed: SeedResult, *, evaluation: EvaluationSection) -> Document | None:
    """Return what each policy of contacting earns on one seed's test customers; None without response and value."""
    if seed.labels is None or seed.spent is None or seed.past_spend is None:
        return None
    truth = None
    if seed.truth is not None and seed.expected_value is not None:
        truth = Expectation(response=seed.truth, value=seed.expected_value)
    agreed = prices_of(evaluation, "value_margin", "contact_cost")
    prices = {"margin": agreed["value_margin"], "contact_cost": agreed["contact_cost"]}
    outcome = truth or Expectation(response=seed.labels, value=seed.spent)
    found = policies(
        outcome,
        model=_expectation(seed.predictions[JOINT]),
        pooled=_expectation(seed.predictions["pooled"]),
        past_spend=seed.past_spend,
        truth=truth,
        **prices,
    )
    return {"policies": found, "measured_by": "known truth" if truth else "what happened", **prices}


def lines_of(seed: SeedResult) -> Document | None:
    """Return what became of the lines of sale; None where there were none."""
    return asdict(seed.counts) if seed.counts else None


def _beside(noisy: dict[str, Metrics], exact: Metrics) -> Document:
    return {name: {**found, "exact": exact[name]} for name, found in noisy.items()}


def _expectation(prediction: Prediction) -> Expectation:
    return Expectation(response=there(prediction.response), value=there(prediction.value))
