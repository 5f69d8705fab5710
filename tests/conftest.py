"""What many tests share: tiny markets on disk, and one thread for numerical libraries on shared cores."""

import os
import runpy
import shutil
import warnings
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
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

postgresql_server = runpy.run_path(str(Path(__file__).with_name("postgresql.py")))["postgresql_server"]

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

LINEAR = ('kind = "logistic"\nbinning = true', 'kind = "ziln"\nbinning = false\nhidden = []')
FOR_VALUES = (
    LINEAR,
    ("learning_rate = 4.0", "learning_rate = 0.5"),
    (
        'generator = "seeded-for-tests"',
        'generator = "seeded-for-tests"\nvalue.level_share = 0.1\nvalue.segment_share = 0.05',
    ),
)
SHOPS = (
    'kind = "synthetic-market"\ncustomers = 1500\nparties = 4\nseed = 7',
    'kind = "file"\npath = "lines.csv"\npartition = { kind = "hash", column = "id", parties = 4 }',
)
CAMPAIGN = "contact_cost = 5.0\nresponse_margin = 60.0\n"

LTV_CONTRACT = """
format = "fedmarket-contract/1"
name = "tiny-ltv"
task = "ltv"
minimum_parties = 2
[transactions]
customer = "id"
time = "day"
time_format = "%Y-%m-%d"
amount = "paid"
amount_is = "total"
currency = "EUR"
start = 2024-01-01
cut = 2024-07-01
end = 2025-01-01
max_transactions = 30
max_amount = 500
max_value = 2000
typical_value = 60
[[segments]]
column = "transactions"
cuts = [2, 5]
[[segments]]
column = "gap_mean_days"
cuts = [30]
[privacy]
unit = "column:id"
adjacency = "add-or-remove-one"
delta = 1e-5
"""

VALUE_OF_THE_JOINT_MARKET = """
[value]
column = "spend_next_year"
currency = "EUR"
upper = 5000
typical = 40
[[segments]]
column = "weeks_since_purchase"
cuts = [13, 52]
[[segments]]
column = "frequency"
cuts = [4]
[privacy]"""


def lines_of_sale(customers: int = 300, *, seed: int = 5) -> pl.DataFrame:
    """Return lines of a year: some customers stop, spends are lognormal, and three lines are before or after it."""
    rng = np.random.default_rng(seed)
    first, found = date(2024, 1, 1), []
    for number in range(customers):
        start, stop = int(rng.integers(0, 150)), int(rng.choice([182, 366], p=[0.6, 0.4]))
        gap, spend = rng.gamma(4.0, 12.0), np.exp(rng.normal(3.5, 0.6))
        day = float(start)
        while day < stop:
            paid = round(float(spend * np.exp(rng.normal(0.0, 0.5))), 2)
            found.append((f"c{number:03}", first + timedelta(days=int(day)), paid))
            day += 1 + rng.exponential(gap)
    found += [("c000", date(2023, 12, 31), 9.0), ("c001", date(2025, 1, 1), 9.0), ("new", date(2024, 8, 1), 9.0)]
    lines = pl.DataFrame(found, schema=["id", "day", "paid"], orient="row")
    return lines[rng.permutation(lines.height)]


WriteMarket = Callable[..., Path]


def changed_text(text: str, changes: tuple[tuple[str, str], ...]) -> str:
    """Return ``text`` with each (old, new) replaced; each stands in it once."""
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


def written(folder: Path, config: str, contract: str) -> Path:
    """Return the experiment's path, with both documents in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.toml").write_text(config, encoding="utf-8")
    (folder / "contract.toml").write_text(contract, encoding="utf-8")
    return folder / "config.toml"


def demo_contract(*changes: tuple[str, str]) -> str:
    contract = (ROOT / "experiments" / "demo" / "contract.toml").read_text(encoding="utf-8")
    return changed_text(contract, (("minimum_parties = 4", "minimum_parties = 2"), *changes))


@pytest.fixture(scope="session")
def write_market() -> WriteMarket:
    """Return a writer of a tiny experiment with the demo's contract, which two of its four parties may leave."""
    return lambda folder, *changes: written(folder, changed_text(CONFIG, changes), demo_contract())


@pytest.fixture(scope="session")
def write_value_market() -> WriteMarket:
    """Return a writer of a tiny experiment on lines of sale: four shops, 300 customers, six segments."""

    def write(folder: Path, *changes: tuple[str, str]) -> Path:
        config = changed_text(CONFIG, (*FOR_VALUES, SHOPS, (CAMPAIGN, ""), *changes))
        path = written(folder, config, LTV_CONTRACT)
        lines_of_sale().write_csv(folder / "lines.csv")
        return path

    return write


@pytest.fixture(scope="session")
def write_joint_market() -> WriteMarket:
    """Return a writer of the tiny experiment where what a customer spends is predicted beside the response."""

    def write(folder: Path, *changes: tuple[str, str]) -> Path:
        campaign = (CAMPAIGN, CAMPAIGN + 'value_margin = 0.3\npast_spend = "past_spend"\n')
        config = changed_text(CONFIG, (*FOR_VALUES, campaign, *changes))
        joint = ('task = "propensity"', 'task = "propensity-and-ltv"')
        return written(folder, config, demo_contract(joint, ("\n[privacy]", VALUE_OF_THE_JOINT_MARKET)))

    return write


def risk_document(
    *, epsilon: float = 1.0, lower: float = 0.4, verdict: str = "consistent", **changed: Any
) -> dict[str, Any]:
    """Return the part of a risk document that other pages carry, of an attack that noise stopped."""

    def ends(estimate: float) -> dict[str, float]:
        return {"estimate": estimate, "low": estimate - 0.1, "high": estimate + 0.1}

    group, before, after = "random customers", "informed update", "informed aggregate"
    reading = {"epsilon": lower, "gaussian": None, "claimed": epsilon}
    cut = {"certified": 0.875, "estimate": 0.95, "words": ""}
    return {
        "format": "fedmarket-risk/1",
        "name": "tiny",
        "created": "2026-03-04T05:06:07Z",
        "version": "0.1.0",
        "unit": "row",
        "generator": "operating-system",
        "noise": "distributed",
        "epsilon": epsilon,
        "delta": 1e-5,
        "gate": {"verdict": verdict, "canaries": 2000, "runs": 2, "readings": [reading]},
        "membership": {
            "watched": "bank",
            "runs": 64,
            "confidence": 0.95,
            "groups": {group: 100},
            "arms": {
                "federated": {group: {before: {"advantage": ends(0.9)}}},
                "federated_dp": {group: {after: {"advantage": ends(0.05)}}},
            },
            "limits": {after: {"advantage": 0.107}},
            "reductions": [{"group": group, "before": before, "after": after, "figures": {"advantage": cut}}],
        },
    } | changed


@pytest.fixture(scope="session")
def made_risk() -> Callable[..., dict[str, Any]]:
    """Return the maker of risk documents."""
    return risk_document


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package: who restarts a node with other code is out of the run, and somebody may be editing."""
    folder = tmp_path_factory.mktemp("installed")
    shutil.copytree(ROOT / "fedmarket", folder / "fedmarket", ignore=shutil.ignore_patterns("__pycache__"))
    return folder
