"""What a run between organisations tells beside model and ledgers: no row, and nothing that was not paid for."""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np

from fedmarket.contract.schema import Contract
from fedmarket.contract.segments import segment_names
from fedmarket.errors import DataError
from fedmarket.evaluation.private import private_metrics, private_segment, private_value_metrics
from fedmarket.federation.coordinator import Coordinator

FORMAT = "fedmarket-outcome/1"

Metrics = dict[str, dict[str, float]]


def outcome_of(coordinator: Coordinator, contract: Contract) -> dict[str, Any]:
    """Return the document of a run that is over; ``docs/reference/server.md`` has its keys."""
    told = coordinator.statistics
    return {
        "format": FORMAT,
        "run": coordinator.run.hex(),
        "model_hash": coordinator.model.hash.hex(),
        "terms_hash": coordinator.terms.hash,
        "contract_hash": coordinator.terms.contract_hash,
        "rounds": coordinator.terms.rounds,
        "parties": coordinator.parties,
        "private_evaluation": {
            "response": _known(private_metrics, told.scores),
            "value": _known(private_value_metrics, told.values),
        },
        "segments": [
            {"tiers": list(tiers), **private_segment(told.segments, place)}
            for place, tiers in enumerate(segment_names(contract.segments or ()))
            if told.segments is not None
        ],
        "void_rounds": [asdict(void) for void in coordinator.void_rounds],
        "rejections": [asdict(rejection) for rejection in coordinator.rejections],
    }


def _known(metrics: Callable[..., Metrics], counts: Any) -> Metrics | None:
    """Return the metrics, None where nothing was counted or too few customers for the noise."""
    if counts is None:
        return None
    try:
        return metrics(counts, rng=np.random.default_rng())
    except DataError:
        return None
