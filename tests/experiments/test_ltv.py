"""The published LTV experiments: fewer seeds of them are run, and held to what their folders say."""

import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedmarket.config import load_config
from fedmarket.contract.schema import load_contract
from fedmarket.data.public import PUBLIC_FILES, locate
from fedmarket.experiment.arms import start_for
from fedmarket.models.start import Start
from fedmarket.simulation.frontier import frontier
from fedmarket.simulation.pretrain import pretrain

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"
EXPECTED = [
    (EXPERIMENTS / folder / expected["file"], expected)
    for folder in ("ltv-cdnow", "ltv-online-retail")
    for expected in tomllib.loads((EXPERIMENTS / folder / "expected.toml").read_text(encoding="utf-8"))["experiment"]
]
NAMES = [f"{path.parent.name}/{path.name}" for path, _ in EXPECTED]


@pytest.mark.experiment
@pytest.mark.parametrize(("path", "expected"), EXPECTED, ids=NAMES)
def test_a_private_value_model_keeps_what_is_published(path: Path, expected: dict[str, Any], tmp_path: Path):
    if locate(next(public for public in PUBLIC_FILES if public.name == load_config(path).data.source.name)) is None:
        pytest.skip("the data set is not here; put it into $FEDMARKET_DATA")
    changes = ("workers=1", f'output="{tmp_path}"', f"seeds={expected['seeds']}", "aggregation.secagg=ideal")
    results = frontier(path, changes=changes, epsilons=[expected["epsilon"]]).results
    row = next(row for row in results["rows"] if row["mode"] == "distributed")
    assert results["metric"] == "gini"
    assert results["pooled"] == pytest.approx(
        expected["pooled_gini"]["value"], abs=expected["pooled_gini"]["tolerance"]
    )
    assert row["points"]["pooled"]["mean"] <= expected["below_pooled_at_most"]
    assert -row["points"]["past_spend"]["mean"] >= expected["above_past_spend_at_least"]
    low, high = expected["value_ratio"]
    assert low <= row["metrics"]["value_ratio"] <= high
    assert abs(results["without_privacy"]["points"]["pooled"]["mean"]) <= expected["federated_at_most"]


@pytest.mark.parametrize("path", [path for path, _ in EXPECTED], ids=NAMES)
def test_the_public_start_can_be_made_again(path: Path, tmp_path: Path):
    published = _start(path)
    for name in (path.name, load_config(path).data.contract.rsplit("/", 1)[-1]):
        (tmp_path / name).write_text((path.parent / name).read_text(encoding="utf-8"), encoding="utf-8")
    pretrain(tmp_path / path.name)
    again = _start(tmp_path / path.name)
    assert again.made_by == published.made_by
    # Another machine's arithmetic differs in last bits, which three hundred steps carry on.
    np.testing.assert_allclose(again.parameters, published.parameters, rtol=1e-3, atol=1e-4)


def _start(path: Path) -> Start:
    config = load_config(path)
    found = start_for(config, load_contract(Path(config.data.contract)))
    assert found is not None
    return found
