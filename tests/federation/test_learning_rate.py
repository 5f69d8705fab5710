"""The step follows the noise: its walk over all rounds is the agreed one, and the learning rate its upper limit."""

from dataclasses import replace

import numpy as np
import pytest

from fedmarket.aggregation.optimizer import ServerOptimizer
from fedmarket.config import MlpModel
from fedmarket.models.network import network_of, parameter_count

# The length of a step.


def learning_rates(world, coordinator, members, *, lost=None) -> list[float]:
    """Run to the end and return the learning rate of each step."""
    used, step = [], ServerOptimizer.step

    def watched(optimizer, gradient, **keys):
        used.append(keys["learning_rate"])
        return step(optimizer, gradient, **keys)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ServerOptimizer, "step", watched)
        world.drive(coordinator, members, lost=lost)
    return used


def with_walk(terms, **changed: float):
    return replace(terms, schedule=terms.schedule.model_copy(update=changed))


def with_noise(terms, noise_multiplier: float):
    mechanisms = (
        replace(m, noise_multiplier=noise_multiplier) if m.phase == "update" else m for m in terms.plan.mechanisms
    )
    return replace(terms, plan=replace(terms.plan, mechanisms=tuple(mechanisms)), secagg="ideal")


def market_of(world, terms, rows: tuple[int, ...] = (30, 35, 40, 45)):
    coordinator = world.coordinator(terms)
    members = [world.fresh(world.party(n, terms, rows=r)) for n, r in zip(world.four, rows, strict=True)]
    world.join(coordinator, members)
    return coordinator, members


@pytest.fixture
def one_step(world):
    """Terms with noise of 30 on each party's sum, clip 1, one local step, and three rounds of momentum 0.9."""
    terms = with_noise(with_walk(world.terms(), local_steps=1), 30.0)
    assert (terms.schedule.rounds, terms.schedule.momentum, terms.schedule.learning_rate) == (3, 0.9, 1.0)
    assert (terms.schedule.noise_walk, terms.plan.mechanism("update").clip_norm) == (0.17, 1.0)
    return terms


def test_noise_shortens_the_step_so_far_that_its_walk_is_the_agreed_one(world, one_step):
    """By hand: noise of sqrt(4) * 30 on 150 rows is 0.4; momentum makes it 4, and three rounds sqrt(3) of that."""
    used = learning_rates(world, *market_of(world, one_step))
    assert used == pytest.approx([0.17 / (4 * np.sqrt(3))] * 3)


def test_with_fewer_survivors_the_step_follows_their_noise_and_their_rows(world, one_step):
    """By hand: in round 2 without the party of 45 rows, noise of sqrt(3) * 30 on 105 rows is 0.494871..."""
    used = learning_rates(world, *market_of(world, one_step), lost={(2, "sum"): {"d"}})
    assert used[1] == pytest.approx(0.17 / (np.sqrt(3) * 10 * np.sqrt(3) * 30 / 105))
    assert used[1] < used[0] == used[2]


def test_the_learning_rate_stays_the_upper_limit(world, one_step):
    quiet = with_noise(one_step, 0.1)  # at most 0.17 / (sqrt(3) * 10 * 0.2 / 150) = 7.4
    assert learning_rates(world, *market_of(world, quiet)) == [1.0] * 3
    unasked = with_walk(one_step, noise_walk=0.0)
    assert learning_rates(world, *market_of(world, unasked)) == [1.0] * 3
    assert learning_rates(world, *world.market(4, arm="federated_schedule")) == [1.0] * 3  # scaled, and without noise


def test_shared_noise_counts_by_the_shares_that_are_in_the_sum(sharing):
    coordinator, members = sharing.market(4, secagg="ideal")
    noise = 2 * coordinator.terms.plan.mechanism("update").noise_std / 150
    expected = min(1.0, 0.17 / (noise * np.sqrt(3) * 10))
    assert expected < 1
    assert learning_rates(sharing, coordinator, members) == pytest.approx([expected] * 3)


@pytest.mark.statistical
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_over_all_rounds_noise_alone_moves_a_parameter_by_about_the_agreed_walk(world, one_step, momentum: float):
    """A long run on noise alone; the last rounds' momentum is not spent when it ends, so it is a little less."""
    rounds, rng = 400, np.random.default_rng(0)
    wide = MlpModel(kind="mlp", binning=True, hidden=(100, 100))
    parameters = parameter_count(network_of(wide, 4))
    terms = with_walk(replace(one_step, model=wide, parameters=parameters), rounds=rounds, momentum=momentum)
    coordinator = world.coordinator(terms)
    start = coordinator.model.parameters
    for _ in range(rounds):
        coordinator._step(0.4 * rng.standard_normal(parameters), noise_std=0.4)
    walked = float(np.std(coordinator.model.parameters - start))
    assert 0.17 * (1 - 1.5 / (rounds * (1 - momentum))) * 0.97 < walked < 0.17 * 1.03
