"""Plans of the demo experiment with a few keys changed; calibrated ones are kept, finding noise takes seconds."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from fedmarket.config import PrivacySection, Schedule, ValueShares, load_config
from fedmarket.contract.schema import PrivacyTerms
from fedmarket.privacy.plan import PrivacyPlan, Sharing, plan_for, unprotected_plan
from fedmarket.privacy.shape import Shape

DEMO = Path(__file__).parents[2] / "experiments" / "demo" / "config.toml"
SHAPE = Shape(width=60, norm_bound=3.0, parameters=61)

KEYS = {
    "noise": "local",
    "clip_norm": 1.0,
    "sample_rate": 1.0,
    "centre_share": 0.05,
    "calibration_share": 0.05,
    "calibration_rounds": 3,
    "private_evaluation": "true",
    "generator": "operating-system",
}


@cache
def _plan(*, shape: Shape = SHAPE, sharing: Sharing | None = None, **keys: Any) -> PrivacyPlan:
    return plan_for(*_agreed(**keys), shape=shape, sharing=sharing)


def _agreed(
    *,
    adjacency: Any = "add-or-remove-one",
    rounds: int = 20,
    local_steps: int = 1,
    value: ValueShares | None = None,
    **privacy: Any,
) -> tuple[PrivacySection, PrivacyTerms, Schedule]:
    changes = [f"privacy.{key}={value}" for key, value in {**KEYS, **privacy}.items()]
    config = load_config(DEMO, changes=(f"training.rounds={rounds}", f"training.local_steps={local_steps}", *changes))
    terms = PrivacyTerms(unit="row", adjacency=adjacency, delta=1e-5)
    return config.privacy.model_copy(update={"value": value}), terms, config.training


@pytest.fixture(scope="session")
def plan_of() -> Callable[..., PrivacyPlan]:
    return _plan


@pytest.fixture(scope="session")
def bare_plan_of() -> Callable[..., PrivacyPlan]:
    return lambda *, clip_norm, shape=SHAPE, **keys: unprotected_plan(
        *_agreed(**keys), shape=shape, clip_norm=clip_norm
    )
