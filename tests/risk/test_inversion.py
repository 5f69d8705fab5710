"""Gradient inversion reads a single row from an open update, part of a small batch, and nothing behind noise."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fedmarket.errors import DataError
from fedmarket.experiment.arms import arm_named, terms_of
from fedmarket.experiment.market import Market, MarketKey, open_market
from fedmarket.federation.rows import Rows
from fedmarket.privacy.noise import Stream
from fedmarket.risk.cells import best_matched, cells_of, is_category, knots_of, prior_of, right_cells
from fedmarket.risk.inversion import Inversion, Scene, Search, _Gradient, inversion, searched, sent, solved
from fedmarket.risk.replica import in_the_open, replica

QUICK = Search(starts=3, steps=150)


@pytest.fixture(scope="module")
def market(write_market, tmp_path_factory: pytest.TempPathFactory) -> Market:
    path = write_market(tmp_path_factory.mktemp("inversion"))
    return open_market(MarketKey(config=Path(path), changes=(), seed=0))


def scene_of(market: Market, arm: str) -> Scene:
    made = arm_named(arm)
    terms = in_the_open(terms_of(made, market.config, market.contract, seed=0))
    parties = {name: market.party(made, name, terms=terms) for name in market.names}
    return Scene(terms=terms, layout=market.layout, model=replica(terms, parties).asked[-1])


def rows_of(market: Market, name: str) -> Rows:
    rows = market.party(arm_named("federated"), name).rows
    return replace(rows, features=rows.features[:])


def attacked(market: Market, arm: str, *, batch: int, trials: int = 40, veil: str = "none", seed: int = 0) -> Inversion:
    prior = prior_of(rows_of(market, "insurer").features, market.layout)
    return inversion(
        scene_of(market, arm),
        rows_of(market, "bank"),
        prior,
        batch=batch,
        trials=trials,
        veil=veil,
        beside=40 if veil == "sum" else 0,
        search=QUICK,
        stream=Stream.seeded(seed, "inversion"),
        rng=np.random.default_rng(seed),
        confidence=0.95,
    )


@pytest.mark.parametrize("arm", ["federated", "federated_clipped", "federated_schedule"])
def test_a_single_row_is_read_from_an_update_without_noise(market: Market, arm: str):
    scene, rows = scene_of(market, arm), rows_of(market, "bank")
    for number in range(5):
        own = Rows(features=rows.features[[number]], targets=rows.targets[[number]])
        update = sent(scene, own, Stream.seeded(0))
        np.testing.assert_allclose(solved(scene, update), own.features[0], atol=1e-4)
    found = attacked(market, arm, batch=1)
    assert found.found["all"].estimate == 1.0
    assert found.prior["all"].high < found.found["all"].low


def test_a_hidden_layer_hides_no_single_row(write_market, tmp_path: Path):
    path = write_market(tmp_path, ('kind = "logistic"\n', 'kind = "mlp"\nhidden = [6]\n'))
    deep = open_market(MarketKey(config=path, changes=(), seed=0))
    scene, rows = scene_of(deep, "federated"), rows_of(deep, "bank")
    own = Rows(features=rows.features[[3]], targets=rows.targets[[3]])
    np.testing.assert_allclose(solved(scene, sent(scene, own, Stream.seeded(0))), own.features[0], atol=1e-4)
    assert right_cells(rows.features[[3]], own.features, deep.layout).all()


def test_a_row_that_taught_nothing_is_not_guessed(market: Market):
    scene = scene_of(market, "federated")
    assert np.isnan(solved(scene, np.zeros(scene.terms.parameters))).all()


def test_two_rows_without_noise_are_read_in_part(market: Market):
    found = attacked(market, "federated", batch=2)
    assert found.found["category"].low > found.prior["category"].high
    assert found.found["all"].estimate > found.prior["all"].estimate + 0.1


@pytest.mark.parametrize("batch", [1, 4])
def test_behind_noise_no_more_is_read_than_the_population_tells(market: Market, batch: int):
    found = attacked(market, "federated_dp", batch=batch)
    for kind, interval in found.found.items():
        assert interval.low <= found.prior[kind].high
        assert interval.estimate < found.prior[kind].estimate + 0.1
        assert interval.estimate > 0.6 * found.prior[kind].estimate  # it falls back on the prior


@pytest.mark.parametrize("veil", ["sum", "mask"])
def test_behind_a_sum_or_a_mask_a_single_row_is_lost(market: Market, veil: str):
    found = attacked(market, "federated", batch=1, veil=veil)
    assert found.found["all"].estimate < found.prior["all"].estimate + 0.05
    assert found.found["all"].high < 0.8


@pytest.mark.parametrize("arm", ["federated", "federated_clipped"])
def test_the_attacker_computes_the_update_as_the_party_does(market: Market, arm: str):
    scene, rows = scene_of(market, arm), rows_of(market, "bank")
    own = Rows(features=rows.features[:6], targets=rows.targets[:6])
    update = sent(scene, own, Stream.seeded(0))
    found = _Gradient(scene)(
        torch.from_numpy(own.features).double()[None], torch.from_numpy(own.targets).double()[None]
    )
    np.testing.assert_allclose(found[0].numpy(), update, atol=1e-6)


def test_what_is_searched_for_comes_near_to_what_was_seen_and_keeps_the_encoding(market: Market):
    scene, rows = scene_of(market, "federated"), rows_of(market, "bank")
    own = Rows(features=rows.features[:2], targets=rows.targets[:2])
    update = sent(scene, own, Stream.seeded(0))
    prior = prior_of(rows.features, market.layout)
    found = searched(scene, update[None], own.targets[None], prior, search=QUICK, rng=np.random.default_rng(0))
    again = _Gradient(scene)(torch.from_numpy(found), torch.from_numpy(own.targets).double()[None])[0].numpy()
    assert np.linalg.norm(again - update) < 0.1 * np.linalg.norm(update)
    for slots in market.layout.slots:
        group = (
            found[0, :, slots.start : slots.stop] if is_category(slots) else found[0, :, slots.start + 1 : slots.stop]
        )
        assert (group >= 0).all()
        if is_category(slots) or slots.binned:
            np.testing.assert_allclose(group.sum(axis=1), 1.0)


# Cells.


def test_cells_are_right_by_word_by_tolerance_and_where_they_are_missing(market: Market):
    rows = rows_of(market, "bank").features[:30].astype(np.float64)
    assert right_cells(rows, rows, market.layout).all()
    assert not right_cells(np.full_like(rows, np.nan), rows, market.layout).any()
    for place, slots in enumerate(market.layout.slots):
        changed = rows.copy()
        own = changed[:, slots.start : slots.stop]
        if is_category(slots):
            own[:] = np.roll(own, 1, axis=1)
        else:
            own[:, 0] += 0.11
            own[:, 1] = np.where(own[:, 1] == 1, 0, own[:, 1])
        wrong = ~right_cells(changed, rows, market.layout)
        assert wrong[:, place].all()
        assert not np.delete(wrong, place, axis=1).any()


def test_a_batch_has_no_order(market: Market):
    rows = rows_of(market, "bank").features[:8]
    assert best_matched(rows[::-1], rows, market.layout).all()
    assert not right_cells(rows[::-1], rows, market.layout).all()


def test_the_guess_without_an_update_is_the_best_single_row(market: Market):
    rows = rows_of(market, "insurer").features
    prior = prior_of(rows, market.layout)
    guess = right_cells(np.tile(prior.guess, (len(rows), 1)), rows, market.layout).mean(axis=0)
    others = [right_cells(np.tile(row, (len(rows), 1)), rows, market.layout).mean(axis=0) for row in rows[:80]]
    assert (guess >= np.max(others, axis=0) - 1e-9).all()


def test_knots_are_where_numbers_are_encoded(market: Market):
    rows = rows_of(market, "insurer").features
    for slots in market.layout.slots:
        if is_category(slots):
            with pytest.raises(DataError, match="numbers"):
                knots_of(slots)
            continue
        knots = knots_of(slots)
        assert knots[0] == -1
        assert knots[-1] == 1
        if slots.binned:
            bins = rows[:, slots.start + 2 : slots.stop]
            there = bins.sum(axis=1) == 1
            numbers, places = rows[there, slots.start], bins[there].argmax(axis=1)
            assert (numbers >= knots[places] - 1e-6).all()
            assert (numbers <= knots[places + 1] + 1e-6).all()


def test_what_cannot_be_drawn_is_refused(market: Market):
    with pytest.raises(DataError, match="batches"):
        attacked(market, "federated", batch=1000)
    with pytest.raises(DataError, match="width"):
        prior_of(np.zeros((0, market.layout.width)), market.layout)
    assert cells_of(np.zeros((0, market.layout.width)), market.layout).shape == (0, len(market.layout.slots))
