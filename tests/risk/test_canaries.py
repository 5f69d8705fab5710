"""A twin is the real run with made-up customers, each of whom fills the clip and shows in places of its own."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fedmarket.errors import ConfigError, PlanError
from fedmarket.experiment.arms import JOINT, arm_named, terms_of
from fedmarket.experiment.market import MarketKey, open_market
from fedmarket.federation.party import Party
from fedmarket.federation.terms import Terms
from fedmarket.risk.canaries import Twin, twin_of
from fedmarket.risk.replica import in_the_open
from fedmarket.risk.scores import look_at, scores_of

SECRET = "privacy.generator=operating-system"
Real = tuple[Terms, dict[str, Party]]


def real_of(path: Path, *changes: str) -> Real:
    market, arm = open_market(MarketKey(config=path, changes=(SECRET, *changes), seed=0)), arm_named(JOINT)
    terms = in_the_open(terms_of(arm, market.config, market.contract, seed=0))
    return terms, {name: market.party(arm, name, terms=terms) for name in market.names}


@pytest.fixture(scope="module")
def real(write_market, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Real]:
    path = write_market(tmp_path_factory.mktemp("market"))
    return lambda *changes: real_of(path, *changes)


@pytest.mark.parametrize("noise", ["local", "distributed"])
def test_the_plan_is_the_real_one_but_for_lengths_and_claims_the_same(real, noise: str):
    terms, parties = real(f"privacy.noise={noise}")
    twin = twin_of(terms, parties, canaries=300)
    for mechanism, other in zip(terms.plan.mechanisms, twin.terms.plan.mechanisms, strict=True):
        assert replace(other, length=mechanism.length, grid=mechanism.grid) == mechanism
    assert twin.terms.schedule == terms.schedule
    assert twin.terms.plan.spent().epsilon == pytest.approx(terms.plan.spent().epsilon, rel=1e-9)
    assert twin.terms.width == terms.width + 300
    assert twin.terms.length_of("centre") == twin.terms.width
    assert twin.terms.length_of("update") == twin.terms.parameters == terms.parameters + 300


def test_real_parties_are_left_alone_and_those_of_the_twin_have_no_books(real):
    terms, parties = real()
    before = {name: party.rows.features[:].copy() for name, party in parties.items()}
    twin = twin_of(terms, parties, canaries=100, watched="insurer")
    twin.run(twin.coins())
    for name, party in twin.parties.items():
        assert party.books is None
        assert party is not parties[name]
        assert parties[name].terms is terms
        np.testing.assert_array_equal(parties[name].rows.features[:], before[name])
        np.testing.assert_array_equal(party.rows.features[:, : terms.width], before[name])
        assert not party.rows.features[:, terms.width :].any()


@pytest.mark.parametrize("epsilon", [2, 8])
@pytest.mark.parametrize("noise", ["local", "distributed"])
def test_a_canary_fills_the_clip_with_what_shows_in_its_own_place_in_every_round(real, noise: str, epsilon: int):
    terms, parties = real(f"privacy.noise={noise}", f"privacy.epsilon={epsilon}", "training.rounds=6")
    twin = twin_of(terms, parties, canaries=1000)
    seen, clip_norm = twin.run(twin.coins()), terms.plan.mechanism("update").clip_norm
    sizes = np.linalg.norm(twin.expected(seen.asked), axis=1)
    assert sizes.shape == (6, 1000)
    assert np.all(sizes <= clip_norm * (1 + 1e-6))
    assert np.all(sizes.mean(axis=1) > 0.9 * clip_norm)
    norms = np.linalg.norm(twin.canaries.features.astype(np.float64), axis=1)
    np.testing.assert_allclose(norms, terms.plan.mechanism("centre").clip_norm, rtol=1e-5)


def test_without_noise_its_own_place_has_what_is_expected_of_an_included_canary_and_nothing_else(real):
    terms, parties = real()
    twin = twin_of(terms, parties, canaries=200)
    coins = twin.coins()
    seen = twin.run(coins, noise=False)
    looked = look_at(twin, seen)
    step = twin.terms.grid_of("update").resolution
    np.testing.assert_allclose(looked.seen, looked.expected * coins, rtol=1e-5, atol=2 * step)
    assert 2 * step < 1e-3


def test_without_noise_it_is_the_same_run_with_steps_as_long(real):
    """The control is one of the attack, not of another training."""
    twin = twin_of(*real(), canaries=100)
    none = np.zeros(100, dtype=np.bool_)
    silent, noisy = twin.run(none, noise=False), twin.run(none)
    for seen in (silent, noisy):
        rows = sum(party.declared_rows for party in twin.parties.values())
        moved = seen.asked[1].parameters - seen.asked[0].parameters
        np.testing.assert_allclose(moved, -noisy_step(twin, rows) * seen.totals[0] / rows, rtol=1e-9, atol=1e-15)


def noisy_step(twin: Twin, rows: int) -> float:
    schedule, std = twin.terms.schedule, twin.terms.plan.mechanism("update").noise_std * np.sqrt(len(twin.parties))
    walk = schedule.noise_walk * (1 - schedule.momentum) / np.sqrt(schedule.rounds)
    return min(schedule.learning_rate, walk / (std / rows))


def test_a_public_start_is_left_out(real):
    terms, parties = real()
    assert twin_of(replace(terms, start_hash="0" * 64), parties, canaries=50).terms.start_hash == ""


def test_coins_are_tossed_anew_by_the_operating_system(real):
    twin = twin_of(*real(), canaries=400)
    first, second = twin.coins(), twin.coins()
    assert first.dtype == np.bool_
    assert first.shape == (400,)
    assert 120 < np.sum(first) < 280
    assert np.any(first != second)


def test_the_labels_even_out_those_of_the_customers(real):
    terms, parties = real()
    twin = twin_of(terms, parties, canaries=4000)
    labels = np.concatenate([party.rows.targets[:, 0] for party in parties.values()])
    share = np.mean(np.concatenate([labels, labels, twin.canaries.targets[:, 0]]))  # half of the canaries take part
    assert share == pytest.approx(0.5, abs=0.001)


@pytest.mark.parametrize(
    "changes",
    [
        ("privacy.sample_rate=0.5",),
        ("training.local_steps=2",),
        ("training.scaled=false",),
        ('model={kind="mlp", binning=false, hidden=[4]}',),
    ],
)
def test_other_terms_have_twins_whose_canaries_are_told_apart_without_noise(real, changes: tuple[str, ...]):
    twin = twin_of(*real(*changes), canaries=100)
    coins = twin.coins()
    score = updates_score(twin, coins)
    assert np.mean(score[coins]) > np.mean(score[~coins])
    assert np.median(score[coins]) > np.quantile(score[~coins], 0.9)


def test_customers_with_several_rows_and_a_value_have_twins_too(write_joint_market, write_value_market, tmp_path: Path):
    for number, write in enumerate((write_joint_market, write_value_market)):
        twin = twin_of(*real_of(write(tmp_path / str(number))), canaries=60)
        coins = twin.coins()
        score = updates_score(twin, coins)
        assert np.median(score[coins]) > np.quantile(score[~coins], 0.9)


def updates_score(twin: Twin, coins: np.ndarray) -> np.ndarray:
    looks = [look_at(twin, twin.run(included, noise=False)) for included in (coins, np.zeros_like(coins))]
    return scores_of(looks[0], other=looks[1])["updates"]


def test_what_promises_nothing_or_something_else_has_no_twin(real):
    terms, parties = real()
    silent = tuple(replace(mechanism, noise_multiplier=0.0) for mechanism in terms.plan.mechanisms)
    with pytest.raises(PlanError, match="releases without noise"):
        twin_of(replace(terms, plan=replace(terms.plan, mechanisms=silent)), parties)
    replaced = replace(terms, plan=replace(terms.plan, adjacency="replace-one"))
    with pytest.raises(PlanError, match="expected the relation add-or-remove-one, got replace-one"):
        twin_of(replaced, parties)
    with pytest.raises(ConfigError, match="expected one of bank, grocer, insurer, telecom"):
        twin_of(terms, parties, watched="nobody")
    with pytest.raises(ConfigError, match="2 canaries, got bank, 1"):
        twin_of(terms, parties, canaries=1)
