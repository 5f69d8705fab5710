"""Whole runs of value models through both apps: what leaves them, what they spend, and that masks change nothing."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from fedmarket.experiment.market import Market, MarketKey, open_market
from fedmarket.federation.rehearsal import rehearse
from fedmarket.flower.inprocess import Outcome, run_in_process
from fedmarket.models.objectives import objective_of
from fedmarket.models.released import load_model, predict
from fedmarket.privacy.budget import Spending
from fedmarket.privacy.histogram import SCORE_BINS, VALUE_BINS
from fedmarket.privacy.shape import SEGMENT_REACH

OPEN = "aggregation.secagg=ideal"
TWEEDIE = 'model={kind="tweedie",binning=false,hidden=[],power=1.5}'
MODELS = {
    "zero-inflated lognormal": (),
    "two parts": ("model.kind=two-part",),
    "tweedie": (TWEEDIE,),
    "perceptron": ("model.hidden=[4]",),
    "binned": ("model.binning=true",),
    "shared noise": ("privacy.noise=distributed",),
    "Poisson samples": ("privacy.sample_rate=0.5",),
}


@pytest.fixture(scope="module")
def markets(write_value_market, write_joint_market, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    writers = {"lines": write_value_market, "joint": write_joint_market}
    return {kind: write(tmp_path_factory.mktemp(kind)) for kind, write in writers.items()}


def opened(path: Path, *changes: str) -> Market:
    return open_market(MarketKey(config=path, changes=changes, seed=0))


@pytest.fixture(scope="module")
def run(apps, markets) -> Callable[..., Outcome]:
    """Return a runner of one federation on a market, masked unless ``OPEN`` is among the changes."""

    def of(kind: str, *changes: str, arm: str = "federated_dp", output: str = "") -> Outcome:
        path, roster = markets[kind], ""
        names = opened(path, *changes).names
        if OPEN not in changes:
            roster = str(rehearse(path.parent / f"roster{hash(changes)}", names, minimum_survivors=3))
        fields = {"config": str(path), "arm": arm, "seed": 0, "alone": "", "parties": 4, "output": output}
        return run_in_process(apps, fields | {"changes": "\n".join(changes), "roster": roster}, nodes=4)

    return of


def statistics_of(outcome: Outcome) -> list[bytes | float | None]:
    """Return all that a run tells beside its model, to the last bit."""
    found: list[bytes | float | None] = []
    for binned in (outcome.statistics.scores, outcome.statistics.values):
        found += [binned.counts.tobytes(), binned.typical, binned.noise_std] if binned else [None]
    segments = outcome.statistics.segments
    return [*found, *([segments.sums.tobytes(), segments.noise_stds.tobytes()] if segments else [None])]


@pytest.mark.parametrize("changes", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("kind", ["lines", "joint"])
def test_masked_or_in_the_open_a_run_leaves_the_same_to_the_last_bit(run, kind: str, changes: tuple[str, ...]):
    secure, ideal = run(kind, *changes), run(kind, OPEN, *changes)
    assert secure.model.hash == ideal.model.hash
    assert statistics_of(secure) == statistics_of(ideal)
    assert secure.model.parameters.any()
    for outcome in (secure, ideal):
        assert (outcome.rejections, outcome.void_rounds) == ((), ())
        calibrations = 0 if kind == "lines" and changes == (TWEEDIE,) else 3
        spent = Spending(centre=1, update=3, calibrate=calibrations, level=1, segment=1, evaluate=1)
        assert {state.spending for state in outcome.states} == {spent}


@pytest.mark.parametrize("changes", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("kind", ["lines", "joint"])
def test_what_is_released_predicts_finite_amounts_within_the_bound(run, markets, kind: str, changes: tuple[str, ...]):
    market = opened(markets[kind], OPEN, *changes)
    objective = objective_of(market.config.model, market.contract)
    model = run(kind, OPEN, *changes).model
    said = predict(market.config.model, objective, model, market.features).columns
    purchase = changes != (TWEEDIE,)
    expected = ["response"] * (kind == "joint") + ["purchase", "conditional"] * purchase + ["value"]
    assert list(said) == expected
    for name, found in said.items():
        most = 1.0 if name in ("response", "purchase") else market.contract.value.upper
        assert ((found >= 0) & (found <= most)).all(), name
        assert len(np.unique(found)) > 100, name


@pytest.mark.parametrize(("kind", "segments"), [("lines", 6), ("joint", 6)])
def test_statistics_arrive_in_their_shapes(run, kind: str, segments: int):
    statistics = run(kind, OPEN).statistics
    assert statistics.values.counts.shape == (3, VALUE_BINS)
    assert statistics.segments.sums.shape == (3, segments)
    assert statistics.segments.noise_stds.shape == (3,)
    assert (statistics.segments.noise_stds > 0).all()
    if kind == "joint":
        assert statistics.scores.counts.shape == (2, SCORE_BINS)
    else:
        assert statistics.scores is None


def test_without_private_evaluation_segments_are_told_and_nothing_else(run):
    whole, without = run("joint", OPEN), run("joint", OPEN, "privacy.private_evaluation=false")
    assert without.model.hash == whole.model.hash
    assert (without.statistics.scores, without.statistics.values) == (None, None)
    np.testing.assert_array_equal(without.statistics.segments.sums, whole.statistics.segments.sums)


@pytest.mark.parametrize("kind", ["lines", "joint"])
def test_without_noise_segments_are_a_group_by_of_the_training_rows(run, markets, kind: str):
    market, outcome = opened(markets[kind], OPEN), run(kind, OPEN, arm="federated")
    population, contract = market.population, market.contract
    objective = objective_of(market.config.model, contract)
    value = predict(market.config.model, objective, outcome.model, market.features).value
    most = SEGMENT_REACH * outcome.statistics.values.typical
    tiers = [axis.column for axis in contract.segments]
    cut = (
        pl.sum_horizontal(*((pl.col(axis.column).fill_null(-1) >= cut).cast(pl.Int64) for cut in axis.cuts))
        for axis in contract.segments
    )
    counted = (
        population.table.with_columns(
            *(tier.alias(name) for name, tier in zip(tiers, cut, strict=True)),
            positive=pl.Series(population.targets[:, 0] > 0),
            value=pl.Series(np.minimum(value, most)),
        )[market.train_rows]
        .group_by(tiers)
        .agg(pl.len().alias("customers"), pl.col("positive").sum(), pl.col("value").sum())
    )
    expected = np.zeros((3, 6))
    wide = len(contract.segments[1].cuts) + 1
    for first, second, *sums in counted.iter_rows():
        expected[:, first * wide + second] = sums
    found = outcome.statistics.segments
    np.testing.assert_allclose(found.sums[:2], expected[:2], atol=1e-3)
    np.testing.assert_allclose(found.sums[2], expected[2], rtol=1e-5, atol=1e-3)
    assert found.sums[0].sum() == pytest.approx(len(market.train_rows), abs=1e-3)
    assert found.noise_stds.tolist() == [0, 0, 0]
    assert expected[0].min() == (0 if kind == "lines" else 117)  # nobody has gaps between purchases after one alone


def test_the_model_on_disk_predicts_what_the_run_left(run, markets, tmp_path: Path):
    market = opened(markets["joint"], OPEN)
    outcome = run("joint", OPEN, output=str(tmp_path / "model.safetensors"))
    found = load_model(tmp_path / "model.safetensors", market.contract)
    assert found.state.hash == outcome.model.hash
    assert not found.private  # its noise is seeded for tests
    said = predict(found.model, found.objective, found.state, market.features)
    assert said.value is not None
    assert (said.value > 0).all()
