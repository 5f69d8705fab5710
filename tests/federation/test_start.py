"""A public start is part of the terms: the coordinator begins with it, and a party that holds another does not join."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fedmarket.errors import BadMessage, ConfigError
from fedmarket.experiment.arms import arm_named, start_for, terms_of
from fedmarket.experiment.market import MarketKey, forget_markets, open_market
from fedmarket.federation.coordinator import Coordinator
from fedmarket.flower.inprocess import Outcome, load_apps
from fedmarket.models.network import load_vector, network_of, outputs_of
from fedmarket.models.released import seen
from fedmarket.models.start import Start, save_start
from fedmarket.models.state import ModelState
from fedmarket.simulation.seed import rehearsed, run_arm

ROOT = Path(__file__).parents[2]
MODES = pytest.mark.parametrize("secagg", ["ideal", "secure"])
OPEN = "aggregation.secagg=ideal"
START = Start(parameters=np.random.default_rng(8).normal(0.0, 0.6, 20), made_by="a test")
OTHER = Start(parameters=np.random.default_rng(9).normal(0.0, 0.6, 20), made_by="a test")


def with_start(world, *, arm: str = "federated_dp", secagg: str | None = None):
    """Return a coordinator that holds ``START``, and its four parties, all joined."""
    changed = {"start_hash": START.hash} | ({"secagg": secagg} if secagg else {})
    terms = world.terms(arm, **changed)
    roster = world.roster_of(world.four, minimum=terms.minimum_survivors) if terms.secagg == "secure" else None
    coordinator = Coordinator(terms=terms, max_void_rounds=3, start=START, roster=roster)
    members = [world.fresh(world.party(name, terms, rows=30, seed=ord(name))) for name in world.four]
    world.join(coordinator, members)
    return coordinator, members


def said(terms, state: ModelState, rows: np.ndarray) -> np.ndarray:
    network = network_of(terms.model, terms.width, terms.objective)
    load_vector(network, state.parameters)
    return outputs_of(network, seen(rows.astype(np.float32), state))


def raw(terms, start: Start) -> ModelState:
    """Return the model that says of encoded rows what ``start`` says of them."""
    return ModelState(
        centre=np.zeros(terms.width),
        scale=np.ones(terms.width),
        parameters=start.parameters,
        calibration=terms.objective.uncalibrated,
    )


@pytest.mark.parametrize(("held", "named"), [(None, START), (OTHER, START), (START, None)])
def test_a_start_that_is_not_the_terms_own_is_refused(worth, held: Start | None, named: Start | None):
    terms = worth.terms(secagg="ideal", start_hash=named.hash if named else "")
    with pytest.raises(ConfigError, match=r"^start: not the public starting parameters that the terms name$"):
        Coordinator(terms=terms, max_void_rounds=3, start=held)


def test_the_terms_hash_changes_with_the_start(worth):
    hashes = {worth.terms(start_hash=one).hash for one in ("", START.hash, OTHER.hash)}
    assert len(hashes) == 3


@MODES
def test_a_party_that_holds_another_start_does_not_join(worth, secagg: str):
    coordinator, _ = with_start(worth, secagg=secagg)
    for start_hash in ("", OTHER.hash):
        party = worth.fresh(worth.party("a", worth.terms(secagg=secagg, start_hash=start_hash)))
        with pytest.raises(BadMessage, match="terms differ"):
            party.join(coordinator.invitation())


@MODES
@pytest.mark.parametrize("arm", ["federated_dp", "federated"])
def test_the_first_model_after_the_centre_says_what_the_start_says(worth, secagg: str, arm: str):
    coordinator, members = with_start(worth, arm=arm, secagg=secagg)
    terms = coordinator.terms
    np.testing.assert_array_equal(coordinator.model.parameters, START.parameters)
    worth.round(coordinator, members)
    model = coordinator.model
    assert model.centre.any()
    assert (model.scale != 1).any() == (arm == "federated_dp")
    average = said(terms, model, model.centre[None])
    np.testing.assert_allclose(average, said(terms, raw(terms, START), model.centre[None]), rtol=1e-4, atol=1e-5)
    zeros = torch.zeros(1, terms.width)
    network = network_of(terms.model, terms.width, terms.objective)
    load_vector(network, model.parameters)
    np.testing.assert_allclose(outputs_of(network, zeros), average, rtol=1e-4, atol=1e-5)
    rows = worth.rows(50).features
    np.testing.assert_allclose(said(terms, model, rows), said(terms, raw(terms, START), rows), rtol=1e-4, atol=1e-4)
    assert np.abs(said(terms, raw(terms, OTHER), rows) - said(terms, model, rows)).max() > 0.1


@MODES
def test_training_moves_on_from_the_start_and_not_from_zero(worth, secagg: str):
    coordinator, members = with_start(worth, secagg=secagg)
    worth.round(coordinator, members)
    placed = coordinator.model.parameters
    worth.round(coordinator, members)
    step = coordinator.model.parameters - placed
    assert 0 < np.abs(step).max() < np.abs(placed).max()


@MODES
def test_after_a_void_centre_round_training_goes_on_from_the_start_as_it_is(worth, secagg: str):
    coordinator, members = with_start(worth, secagg=secagg)
    worth.round(coordinator, members, lost={(0, coordinator.terms.steps[0]): {"a", "b"}})
    assert [void.round_number for void in coordinator.void_rounds] == [0]
    model = coordinator.model
    np.testing.assert_array_equal(model.parameters, START.parameters)
    assert (model.centre == 0).all()
    assert (model.scale == 1).all()
    final = worth.drive(coordinator, members)
    assert len(coordinator.void_rounds) == 1
    assert not np.array_equal(final.parameters, START.parameters)
    assert np.isfinite(final.parameters).all()


# Documents on disk, and both apps.


@pytest.fixture(scope="module")
def market(write_value_market, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a market whose start is drawn at random, beside the same one without a start."""
    folder = tmp_path_factory.mktemp("start")
    path = write_value_market(folder, ('output = "out"', 'output = "out"\nstart = "start.json"'))
    (folder / "plain.toml").write_text(path.read_text().replace('start = "start.json"\n', ""))
    write_start(folder, seed=1)
    return path


def write_start(folder: Path, *, seed: int) -> Start:
    """Write a start that fits the market in ``folder``; the market needs none to say how long it is."""
    opened = open_market(MarketKey(config=folder / "plain.toml", changes=(), seed=0))
    count = terms_of(arm_named("pooled"), opened.config, opened.contract, seed=0).parameters
    start = Start(parameters=np.random.default_rng(seed).normal(0.0, 0.3, count), made_by="a test")
    save_start(folder / "start.json", start, opened.contract)
    return start


def run(path: Path, *changes: str) -> Outcome:
    key = MarketKey(config=path, changes=changes, seed=0)
    with rehearsed(open_market(key)) as roster:
        return run_arm(key, arm_named("federated_dp"), load_apps(ROOT), roster=roster)


def test_masked_or_in_the_open_a_run_from_a_start_leaves_the_same_to_the_last_bit(market: Path):
    secure, ideal, plain = run(market), run(market, OPEN), run(market.parent / "plain.toml", OPEN)
    assert secure.model.hash == ideal.model.hash
    assert ideal.model.hash != plain.model.hash
    for outcome in (secure, ideal, plain):
        assert (outcome.rejections, outcome.void_rounds) == ((), ())


def test_every_arm_starts_there(market: Path):
    opened = open_market(MarketKey(config=market, changes=(), seed=0))
    expected = start_for(opened.config, opened.contract).hash
    for name in ("pooled", "local_only_dp", "federated"):
        assert terms_of(arm_named(name), opened.config, opened.contract, seed=0).start_hash == expected


def test_a_party_needs_the_document_too_and_compares_what_is_in_it(market: Path):
    """It derives the terms from its own copy of everything, the start included."""
    key, arm = MarketKey(config=market, changes=(OPEN,), seed=0), arm_named("federated_dp")
    opened, path = open_market(key), market.parent / "start.json"
    own, text = start_for(opened.config, opened.contract), path.read_text()
    name = opened.names[0]
    try:
        assert opened.party(arm, name).terms.start_hash == own.hash
        other = write_start(market.parent, seed=2)
        assert opened.party(arm, name).terms.start_hash == other.hash != own.hash
        path.unlink()
        with pytest.raises(ConfigError, match=r"start\.json: cannot be read"):
            opened.party(arm, name)
    finally:
        path.write_text(text)
        forget_markets()
    assert replace(own, made_by="other words").hash == opened.party(arm, name).terms.start_hash
