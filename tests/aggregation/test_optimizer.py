"""The server's step is heavy-ball momentum, and what is released is the mean of the late iterates."""

import numpy as np
import pytest

from fedmarket.aggregation.optimizer import ServerOptimizer

START = np.array([1.0, -2.0, 0.5])


def gradients(steps: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((steps, 3))


def after(steps: int, *, momentum: float = 0.9, first_averaged: int = 0) -> ServerOptimizer:
    optimizer = ServerOptimizer.starting_at(START)
    for number, gradient in enumerate(gradients(steps)):
        average = number >= first_averaged
        optimizer = optimizer.step(gradient, learning_rate=0.3, momentum=momentum, average=average)
    return optimizer


def iterates(steps: int, momentum: float) -> list[np.ndarray]:
    """x <- x - 0.3 g + momentum * (x - previous x), Polyak's own form."""
    path = [START, START]
    for gradient in gradients(steps):
        path.append(path[-1] - 0.3 * gradient + momentum * (path[-1] - path[-2]))
    return path[2:]


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_the_path_is_polyaks(momentum: float):
    np.testing.assert_allclose(after(12, momentum=momentum).parameters, iterates(12, momentum)[-1], rtol=1e-12)
    assert not np.allclose(after(12, momentum=momentum).parameters, iterates(12, momentum + 0.05)[-1], rtol=1e-6)


@pytest.mark.parametrize("first_averaged", [0, 6, 11])
def test_the_mean_of_the_late_iterates_is_released(first_averaged: int):
    late = iterates(12, 0.9)[first_averaged:]
    np.testing.assert_allclose(after(12, first_averaged=first_averaged).released, np.mean(late, axis=0), rtol=1e-12)
    assert after(12, first_averaged=first_averaged).averaged == len(late)


def test_the_last_iterate_is_released_where_none_is_averaged():
    optimizer = after(5, first_averaged=99)
    np.testing.assert_array_equal(optimizer.released, optimizer.parameters)
    np.testing.assert_array_equal(ServerOptimizer.starting_at(START).released, START)


def test_a_step_changes_no_earlier_state():
    start = START.copy()
    before = ServerOptimizer.starting_at(start)
    before.step(np.ones(3), learning_rate=1.0, momentum=0.9, average=True)
    np.testing.assert_array_equal(before.parameters, START)
    np.testing.assert_array_equal(before.velocity, np.zeros(3))
    np.testing.assert_array_equal(before.iterate_sum, np.zeros(3))
