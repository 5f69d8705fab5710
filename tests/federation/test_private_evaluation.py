"""Counts of scores: released once, of held-out rows and no others, and of the model as it will be released."""

from dataclasses import replace

import numpy as np
import pytest

from fedmarket.errors import BadMessage, Refusal
from fedmarket.federation.party import Party
from fedmarket.models.objectives import RESPONSE
from fedmarket.models.released import predict
from fedmarket.privacy.budget import Spending
from fedmarket.privacy.histogram import SCORE_BINS, SCORE_EDGES

MODES = pytest.mark.parametrize("secagg", ["ideal", "secure"])
EVALUATE = 7
MOVED = {"parameters": np.array([1.0, 0.5, -1.0, 0.5, -0.3]), "calibration": np.array([-0.5, 1.2, -0.3])}


@MODES
def test_a_training_row_changes_nothing_in_the_counts_and_everything_before(world, secagg: str):
    other = world.rows(40)
    other.features[3] *= -1.0
    other.targets[3] = 1.0 - other.targets[3]
    for number in range(EVALUATE + 1):
        words = [
            world.released(world.member("a", secagg=secagg, rows=rows), number, **MOVED)
            for rows in (world.rows(40), other)
        ]
        assert (words[0] == words[1]).all() == (number == EVALUATE), number


@MODES
def test_a_held_out_row_changes_nothing_but_the_counts(world, secagg: str):
    other = world.rows(10, seed=1000)
    other.targets[3] = 1.0 - other.targets[3]
    for number in range(EVALUATE + 1):
        words = [
            world.released(world.member("a", secagg=secagg, held_out=rows), number, **MOVED)
            for rows in (world.rows(10, seed=1000), other)
        ]
        assert (words[0] == words[1]).all() == (number != EVALUATE), number
    terms = world.terms(secagg=secagg)
    apart = terms.grid_of("evaluate").decode(words[0]) - terms.grid_of("evaluate").decode(words[1])
    assert np.sort(np.rint(apart)).tolist() == [-1.0, *[0.0] * (2 * SCORE_BINS - 2), 1.0]  # from one outcome to another


@pytest.mark.parametrize("number", range(EVALUATE + 1))
def test_each_phase_looks_at_its_own_rows_only(world, number: int):
    """Held against rows that cannot be looked at without a failure."""
    member = world.member("a", secagg="ideal")
    unused = "rows" if number == EVALUATE else "held_out"
    world.swap(member.party, **{unused: None})
    world.released(member, number)
    other = world.member("a", secagg="ideal")
    world.swap(other.party, **{"held_out" if number == EVALUATE else "rows": None})
    with pytest.raises(AttributeError):
        world.released(other, number)


@MODES
def test_counts_are_released_once(world, secagg: str):
    member = world.member("a", secagg=secagg)
    assert world.released(member, EVALUATE).shape == (2 * SCORE_BINS,)
    assert member.state.spending == Spending(evaluate=1)
    with pytest.raises(BadMessage, match="round 7 is not open"):
        member.answer(world.request(member.party.terms, EVALUATE))
    member.state = replace(member.state, last_round=EVALUATE - 1)
    with pytest.raises(Refusal, match=r"budget: 1 more release\(s\) of evaluate asked, 0 left of 1"):
        world.released(member, EVALUATE)


@MODES
def test_the_coordinator_has_counts_after_the_last_round_and_not_before(world, secagg: str):
    coordinator, members = world.market(4, secagg=secagg)
    while not coordinator.finished:
        assert coordinator.statistics.scores is None
        model = coordinator.model
        world.round(coordinator, members)
    assert world.same(coordinator.model, model)  # evaluation moves nothing
    mechanism = coordinator.terms.plan.mechanism("evaluate")
    assert coordinator.statistics.scores.counts.shape == (2, SCORE_BINS)
    assert coordinator.statistics.scores.noise_std == 2 * mechanism.noise_std
    assert coordinator.statistics.scores.typical == model.calibration[0]
    assert "counts" not in repr(coordinator.statistics.scores)


@MODES
def test_a_void_evaluation_leaves_no_counts_and_the_model_as_it_is(world, secagg: str):
    coordinator, members = world.market(4, secagg=secagg)
    model = world.drive(coordinator, members, lost={(EVALUATE, coordinator.terms.steps[0]): {"p0", "p1"}})
    assert coordinator.finished
    assert coordinator.statistics.scores is None
    assert [void.round_number for void in coordinator.void_rounds] == [EVALUATE]
    assert model.calibration[1] != 1.0


def test_without_noise_the_counts_are_those_of_all_held_out_rows_under_the_released_model(world):
    coordinator, members = world.market(4, arm="federated")
    model = world.drive(coordinator, members)
    expected = np.zeros((2, SCORE_BINS))
    for member in members:
        held_out = member.party.held_out
        odds = predict(world.terms().model, RESPONSE, model, held_out.features).response
        distance = np.log(odds / (1 - odds)) - model.calibration[0]
        np.add.at(
            expected, (held_out.targets[:, 0].astype(int), np.searchsorted(SCORE_EDGES, distance, side="right")), 1
        )
    np.testing.assert_array_equal(coordinator.statistics.scores.counts, expected)
    assert expected.sum() == 40
    assert coordinator.statistics.scores.noise_std == 0


def test_the_counts_of_a_run_change_by_one_with_a_held_out_row_and_by_no_training_row_but_through_the_model(world):
    """Under the same noise: the model of a run knows nothing of held-out rows."""

    def run(place: str | None):
        coordinator, members = world.market(4)
        if place:
            rows = getattr(members[2].party, place)
            rows.targets[0] = 1.0 - rows.targets[0]
        return world.drive(coordinator, members), coordinator.statistics.scores.counts

    (plain, counts), (same, others), (moved, _) = run(None), run("held_out"), run("rows")
    assert world.same(plain, same)
    assert not world.same(plain, moved)
    assert np.abs(counts - others).sum() == pytest.approx(2.0, abs=1e-3)


def test_a_party_may_train_on_nothing_or_test_on_nothing(world):
    """Nobody is told: the run is the same, and so is what it costs."""
    for rows, held_out in ((0, 10), (40, 0), (0, 0)):
        party: Party = world.party("a", world.terms(secagg="ideal"), rows=rows, held_out=held_out, declared_rows=40)
        member = world.fresh(party)
        member.join(world.invitation(party))
        for number in range(EVALUATE + 1):
            world.released(member, number)
        assert member.state.spending == Spending(centre=1, update=6, calibrate=3, evaluate=1)
