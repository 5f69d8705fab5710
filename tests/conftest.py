"""What many tests share: a tiny market on disk, and one thread for numerical libraries on shared cores."""

import os
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings

# typer 0.20 imports names that click 8.5 warns about; this is once, at import, and not ours to change.
with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message="'click.utils", category=DeprecationWarning)
    import typer  # noqa: F401

# Before anything numerical is imported: idle OpenMP threads on busy cores cost more than all tests together.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# An example that waits for a busy core is no failure.
settings.register_profile("patient", settings.get_profile("ci" if "CI" in os.environ else "default"), deadline=None)
settings.load_profile("patient")

ROOT = Path(__file__).parents[1]

CONFIG = """
name = "tiny"
output = "out"
seeds = [0]
workers = 1
[data]
contract = "contract.toml"
test_share = 0.2
[data.source]
kind = "synthetic-market"
customers = 1500
parties = 4
seed = 7
[model]
kind = "logistic"
binning = true
[scaling]
exponent = 0.35
row_norm = 3.5
[training]
rounds = 3
local_steps = 1
local_learning_rate = 1.0
learning_rate = 1.0
noise_walk = 0.17
scaled = true
momentum = 0.9
weight_decay = 0.0
average_after = 0.5
[alone_training]
rounds = 3
local_steps = 1
local_learning_rate = 1.0
learning_rate = 0.5
noise_walk = 0.0
scaled = false
momentum = 0.9
weight_decay = 0.0
average_after = 0.5
[baseline_training]
rounds = 3
local_steps = 1
local_learning_rate = 1.0
learning_rate = 4.0
noise_walk = 0.0
scaled = false
momentum = 0.9
weight_decay = 0.0
average_after = 0.5
[privacy]
epsilon = 1.0
noise = "local"
colluders = 1
clip_norm = 1.0
sample_rate = 1.0
centre_share = 0.05
calibration_share = 0.05
calibration_rounds = 3
private_evaluation = true
generator = "seeded-for-tests"
[aggregation]
secagg = "secure"
modulus_bits = 32
[federation]
max_parties = 8
max_party_rows = 2000
minimum_survivors = 3
max_void_rounds = 3
reply_timeout_seconds = 60.0
training_timeout_seconds = 60.0
[evaluation]
contact_cost = 5.0
response_margin = 60.0
bootstrap_replicates = 100
"""

WriteMarket = Callable[..., Path]


@pytest.fixture(scope="session")
def write_market() -> WriteMarket:
    """Return a writer of a tiny experiment with the demo's contract, which two of its four parties may leave."""

    def write(folder: Path, *changed: tuple[str, str]) -> Path:
        text = CONFIG
        for old, new in changed:
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.toml").write_text(text, encoding="utf-8")
        contract = (ROOT / "experiments" / "demo" / "contract.toml").read_text(encoding="utf-8")
        (folder / "contract.toml").write_text(contract.replace("minimum_parties = 4", "minimum_parties = 2"))
        return folder / "config.toml"

    return write
