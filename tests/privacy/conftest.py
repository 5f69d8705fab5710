"""Plans of the demo experiment with a few keys changed; calibrated ones are kept, finding noise takes seconds."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from fedmarket.config import load_config
from fedmarket.contract.schema import PrivacyTerms
from fedmarket.privacy.plan import PrivacyPlan, plan_for

DEMO = Path(__file__).parents[2] / "experiments" / "demo" / "config.toml"


KEYS = {
    "noise": "local",
    "clip_norm": 1.0,
    "sample_rate": 1.0,
    "centre_share": 0.05,
    "calibration_share": 0.05,
    "calibration_rounds": 3,
    "generator": "operating-system",
}


@cache
def _plan(
    *, adjacency: Any = "add-or-remove-one", rounds: int = 20, local_steps: int = 1, **privacy: Any
) -> PrivacyPlan:
    changes = [f"privacy.{key}={value}" for key, value in {**KEYS, **privacy}.items()]
    config = load_config(DEMO, changes=(f"training.rounds={rounds}", f"training.local_steps={local_steps}", *changes))
    terms = PrivacyTerms(unit="row", adjacency=adjacency, delta=1e-5)
    return plan_for(config.privacy, terms, config.training, feature_norm=3.0)


@pytest.fixture(scope="session")
def plan_of() -> Callable[..., PrivacyPlan]:
    return _plan
