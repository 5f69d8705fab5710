"""Plans of the demo experiment with a few keys changed; calibrated ones are kept, finding noise takes seconds."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from fedmarket.config import PrivacySection, Schedule, load_config
from fedmarket.contract.schema import PrivacyTerms
from fedmarket.privacy.plan import PrivacyPlan, Sharing, plan_for, unprotected_plan

DEMO = Path(__file__).parents[2] / "experiments" / "demo" / "config.toml"


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
def _plan(*, feature_norm: float = 3.0, sharing: Sharing | None = None, **keys: Any) -> PrivacyPlan:
    return plan_for(*_agreed(**keys), feature_norm=feature_norm, sharing=sharing)


def _agreed(
    *, adjacency: Any = "add-or-remove-one", rounds: int = 20, local_steps: int = 1, **privacy: Any
) -> tuple[PrivacySection, PrivacyTerms, Schedule]:
    changes = [f"privacy.{key}={value}" for key, value in {**KEYS, **privacy}.items()]
    config = load_config(DEMO, changes=(f"training.rounds={rounds}", f"training.local_steps={local_steps}", *changes))
    return config.privacy, PrivacyTerms(unit="row", adjacency=adjacency, delta=1e-5), config.training


@pytest.fixture(scope="session")
def plan_of() -> Callable[..., PrivacyPlan]:
    return _plan


@pytest.fixture(scope="session")
def bare_plan_of() -> Callable[..., PrivacyPlan]:
    return lambda *, clip_norm, **keys: unprotected_plan(*_agreed(**keys), feature_norm=3.0, clip_norm=clip_norm)
