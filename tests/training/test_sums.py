"""Each released sum carries the plan's noise on every coordinate, fresh each time, on a Poisson sample."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats

from fedmarket.config import LogisticModel
from fedmarket.models.network import Network, load_vector, network_of, outputs_of, vector_of
from fedmarket.models.objectives import RESPONSE
from fedmarket.models.prediction import Prediction
from fedmarket.privacy.mechanism import Mechanism
from fedmarket.privacy.noise import Stream
from fedmarket.training.batch import Batch
from fedmarket.training.gradients import Gradients, clipped_gradient_sum
from fedmarket.training.sums import (
    calibration_sum,
    feature_sum,
    held_out_sum,
    level_sum,
    segment_sum,
    update_sum,
)

NetworkAt = Callable[..., Network]
RowsOf = Callable[..., Batch]
MechanismOf = Callable[..., Mechanism]
Sum = Callable[[Stream], np.ndarray]

LOGISTIC = LogisticModel(kind="logistic", binning=False)
DOUBT = 1e-7
STD = 1.5
DRAWS = 2500


def two_sided(statistic: float, freedom: int) -> float:
    return 2 * min(float(stats.chi2.sf(statistic, freedom)), float(stats.chi2.cdf(statistic, freedom)))


def noise_complaints(released: np.ndarray, exact: np.ndarray, std: float) -> list[str]:
    """Return which tests against N(``exact``, std^2) on each coordinate, all independent, reject (draws, p)."""
    z = (released - exact) / std
    draws, width = z.shape
    pairs = np.corrcoef(z + 1e-300, rowvar=False)[np.triu_indices(width, k=1)] if z.std(axis=0).all() else np.ones(1)
    later = np.sum(z[1:] * z[:-1]) / np.sqrt(z[1:].size)
    chances = {
        "shape": stats.kstest(z.ravel(), "norm").pvalue,
        "mean": 2 * width * stats.norm.sf(np.abs(z.mean(axis=0)).max() * np.sqrt(draws)),
        "each coordinate": width * min(two_sided(float(np.sum(column**2)), draws) for column in z.T),
        "size": two_sided(float(np.sum(z**2)), z.size),
        "coordinates apart": 2 * len(pairs) * stats.norm.sf(np.abs(pairs).max() * np.sqrt(draws)),
        "draws apart": 2 * stats.norm.sf(abs(later)),
    }
    return [name for name, chance in chances.items() if not chance > DOUBT]


@pytest.fixture(scope="module", params=["feature", "update", "calibration", "level", "segments", "scores", "values"])
def sums(
    request: pytest.FixtureRequest, network_at: NetworkAt, rows_of: RowsOf, mechanism: MechanismOf
) -> Callable[[Mechanism], Sum]:
    """Give all sums over the same rows, as functions of mechanism and stream."""
    network, rows = network_at(LOGISTIC, 3), rows_of(4, 3)
    parameters, targets, outputs = vector_of(network), rows.targets.numpy(), outputs_of(network, rows.features)

    money = np.array([0.0, 1.0, 3.0, 8.0])

    def of(plan: Mechanism) -> Sum:
        def feature(stream: Stream) -> np.ndarray:
            return feature_sum(rows.features.numpy(), mechanism=plan, stream=stream)

        def update(stream: Stream) -> np.ndarray:
            keys = {"steps": 1, "learning_rate": 1.0, "declared_rows": 4}
            return update_sum(Gradients(network), parameters, rows, **keys, mechanism=plan, stream=stream)

        def calibration(stream: Stream) -> np.ndarray:
            keys = {"mechanism": plan, "stream": stream}
            return calibration_sum(RESPONSE, outputs, RESPONSE.uncalibrated, targets, **keys)

        def level(stream: Stream) -> np.ndarray:
            prediction = Prediction(purchase=money / 9, conditional=money, value=money**2 / 9)
            return level_sum(prediction, money[::-1], mechanism=plan, stream=stream)

        def segments(stream: Stream) -> np.ndarray:
            keys = {"typical": 2.0, "mechanism": plan, "stream": stream}
            return segment_sum(np.array([0, 2, 0, 1]), 3, targets[:, 0], money, **keys)

        def values(stream: Stream) -> np.ndarray:
            keys = {"typical_log_odds": 0.0, "typical_value": 2.0, "mechanism": plan, "stream": stream}
            return held_out_sum(None, None, money, money[::-1], **keys)

        def scores(stream: Stream) -> np.ndarray:
            keys = {"typical_log_odds": 0.0, "typical_value": 0.0, "mechanism": plan, "stream": stream}
            return held_out_sum(outputs[:, 0], targets[:, 0], None, None, **keys)

        of_value = {"level": level, "segments": segments, "values": values}
        of_all = {"feature": feature, "update": update, "calibration": calibration, "scores": scores} | of_value
        return of_all[request.param]

    return of


@pytest.fixture(scope="module")
def released(sums: Callable[[Mechanism], Sum], mechanism: MechanismOf) -> tuple[np.ndarray, np.ndarray]:
    """Give what leaves under secret streams, (draws, p), and the exact sum, (p,)."""
    noisy, bare = sums(mechanism()), sums(mechanism(noise_multiplier=0.0))
    return np.stack([noisy(Stream.secret()) for _ in range(DRAWS)]), bare(Stream.secret())


@pytest.mark.statistical
def test_every_coordinate_of_every_release_carries_the_noise_of_the_plan(released: tuple[np.ndarray, np.ndarray]):
    assert noise_complaints(*released, STD) == []


WRONG: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "noise x 0.9": lambda noise: 0.9 * noise,
    "no noise": lambda noise: 0 * noise,
    "one coordinate bare": lambda noise: noise * (np.arange(noise.shape[1]) > 0),
    "one coordinate x 0.8": lambda noise: noise * np.where(np.arange(noise.shape[1]) > 0, 1, 0.8),
    "one normal for all": lambda noise: np.repeat(noise[:, :1], noise.shape[1], axis=1),
    "coordinates correlated": lambda noise: (noise + 0.3 * noise[:, ::-1]) / np.sqrt(1.09),
    "each draw used twice": lambda noise: np.repeat(noise[: len(noise) // 2], 2, axis=0),
    "uniform": lambda noise: STD * np.sqrt(12) * (stats.norm.cdf(noise / STD) - 0.5),
    "shifted": lambda noise: noise + 0.2,
}


@pytest.mark.statistical
@pytest.mark.parametrize("law", WRONG)
def test_wrong_noise_on_the_same_sums_is_noticed(released: tuple[np.ndarray, np.ndarray], law: str):
    noisy, exact = released
    assert noise_complaints(exact + WRONG[law](noisy - exact), exact, STD) != []


def test_without_noise_the_sum_is_exact_and_draws_nothing(sums: Callable[[Mechanism], Sum], mechanism: MechanismOf):
    stream = Stream.seeded(1)
    first = sums(mechanism(noise_multiplier=0.0))(stream)
    np.testing.assert_array_equal(first, sums(mechanism(noise_multiplier=0.0))(stream))
    np.testing.assert_array_equal(stream.words(2), Stream.seeded(1).words(2))


def test_noise_is_fresh_in_each_call_on_one_stream(sums: Callable[[Mechanism], Sum], mechanism: MechanismOf):
    stream, noisy = Stream.seeded(1), sums(mechanism())
    assert not np.any(noisy(stream) == noisy(stream))


def empty_update(mechanism: Mechanism, stream: Stream, *, steps: int) -> np.ndarray:
    """Return an update over no rows: noise alone."""
    network = network_of(LOGISTIC, 3)
    rows = Batch(features=torch.zeros(0, 3), targets=torch.zeros(0, 1))
    keys = {"steps": steps, "learning_rate": 0.1, "declared_rows": 10, "mechanism": mechanism, "stream": stream}
    return update_sum(Gradients(network), np.zeros(4), rows, **keys)


@pytest.mark.statistical
def test_each_local_step_adds_noise_of_its_own(mechanism: MechanismOf):
    """Four steps have four times the variance; one draw used four times would have sixteen, one in all only one."""
    totals = np.stack([empty_update(mechanism(), Stream.secret(), steps=4) for _ in range(1500)])
    assert noise_complaints(totals, np.zeros(4), 2 * STD) == []
    assert noise_complaints(totals, np.zeros(4), STD) != []
    assert noise_complaints(2 * totals, np.zeros(4), 2 * STD) != []
    assert noise_complaints(0.9 * totals, np.zeros(4), 2 * STD) != []


def steps_by_hand(
    start: np.ndarray, rows: Batch, *, steps: int, rate: float, divisor: float, clip: float
) -> np.ndarray:
    network, local, total = network_of(LOGISTIC, start.size - 1), start.copy(), np.zeros_like(start)
    for _ in range(steps):
        load_vector(network, local)
        gradient = clipped_gradient_sum(network, rows, clip_norm=clip)
        local = local - rate * gradient / divisor
        total += gradient
    return total


def test_the_divisor_is_the_declared_size_and_not_the_number_of_rows(
    network_at: NetworkAt, rows_of: RowsOf, mechanism: MechanismOf
):
    """A divisor taken from the rows would tell n from n - 1 over many steps."""
    network, rows = network_at(LOGISTIC, 3), rows_of(20, 3)
    start, bare = vector_of(network), mechanism(noise_multiplier=0.0)
    for n in (20, 19):
        mine = rows.taken(slice(n))
        keys = {"steps": 3, "learning_rate": 4.0, "declared_rows": 30, "mechanism": bare, "stream": Stream.seeded(1)}
        found = update_sum(Gradients(network), start, mine, **keys)
        right, wrong = (steps_by_hand(start, mine, steps=3, rate=4.0, divisor=divisor, clip=0.5) for divisor in (30, n))
        np.testing.assert_allclose(found, right, rtol=1e-6)
        assert np.linalg.norm(found - wrong) > 0.01


def test_rows_that_add_nothing_change_nothing(network_at: NetworkAt, rows_of: RowsOf, mechanism: MechanismOf):
    """A thousand rows whose gradient is exactly zero move the number of rows and must not move the update."""
    network, rows = network_at(LOGISTIC, 3), rows_of(20, 3)
    start = vector_of(network)
    sure = torch.from_numpy(np.tile(1e6 * start[:3].astype(np.float32), (1000, 1)))
    keys = {"steps": 3, "learning_rate": 0.1, "declared_rows": 30, "mechanism": mechanism()}
    gradients = Gradients(network)
    few = update_sum(gradients, start, rows, **keys, stream=Stream.seeded(1))
    more = Batch(features=torch.cat([rows.features, sure]), targets=torch.cat([rows.targets, torch.ones(1000, 1)]))
    np.testing.assert_allclose(update_sum(gradients, start, more, **keys, stream=Stream.seeded(1)), few, rtol=1e-6)


def taken_rows(
    mechanism: Mechanism, stream: Stream, *, rows: int, steps: int = 1, customers: np.ndarray | None = None
) -> np.ndarray:
    """Return how often each row was in the samples of an update, (rows,), read off its noiseless sum.

    Each row has a feature of its own, and at zero parameters a positive row's gradient there is -1/2.
    """
    network = network_of(LOGISTIC, rows)
    keys = {"steps": steps, "learning_rate": 1e-12, "declared_rows": 7, "mechanism": mechanism, "stream": stream}
    owners = None if customers is None else torch.from_numpy(customers)
    batch = Batch(features=torch.eye(rows), targets=torch.ones(rows, 1), customers=owners)
    total = update_sum(Gradients(network), np.zeros(rows + 1), batch, **keys)
    assert total[-1] == pytest.approx(total[:-1].sum(), rel=1e-5)
    return np.rint(-2 * total[:-1]).astype(int)


def sampling_complaints(taken: np.ndarray, rate: float) -> list[str]:
    """Return which tests against independent coins for each of (updates, rows) reject."""
    updates, rows = taken.shape
    variance = rate * (1 - rate)
    sizes, of_rows = taken.sum(axis=1), taken.sum(axis=0)
    chances = {
        "rate": stats.binomtest(int(taken.sum()), taken.size, rate).pvalue,
        "sizes": two_sided(float(np.sum((sizes - rows * rate) ** 2)) / (rows * variance), updates),
        "rows": two_sided(float(np.sum((of_rows - updates * rate) ** 2)) / (updates * variance), rows),
    }
    return [name for name, chance in chances.items() if not chance > DOUBT]


@pytest.mark.statistical
def test_the_rows_of_an_update_are_a_poisson_sample(mechanism: MechanismOf):
    bare = mechanism(noise_multiplier=0.0, sample_rate=0.3, clip_norm=5.0)
    taken = np.stack([taken_rows(bare, Stream.secret(), rows=40) for _ in range(1200)])
    assert set(np.unique(taken)) == {0, 1}
    assert sampling_complaints(taken, 0.3) == []
    rng = np.random.default_rng(0)
    fixed_size = rng.permuted(np.tile(np.arange(40) < 12, (1200, 1)), axis=1)
    assert "sizes" in sampling_complaints(fixed_size, 0.3)
    assert sampling_complaints(rng.random((1200, 40)) < 0.27, 0.3) != []
    assert sampling_complaints(np.sort(taken, axis=1), 0.3) == ["rows"]


@pytest.mark.statistical
def test_customers_are_taken_whole_on_one_coin_each(mechanism: MechanismOf):
    """Whatever their rows: a coin for each row would take parts, a coin for all would take nobody or everybody."""
    counts = np.tile([1, 2, 5], 13)
    customers = np.repeat(3 * np.arange(len(counts)), counts)
    first = np.cumsum(counts) - counts
    bare = mechanism(noise_multiplier=0.0, sample_rate=0.3, clip_norm=50.0)
    streams = [Stream.secret() for _ in range(1200)]
    taken = np.stack([taken_rows(bare, stream, rows=len(customers), customers=customers) for stream in streams])
    assert set(np.unique(taken)) == {0, 1}
    np.testing.assert_array_equal(taken, np.repeat(taken[:, first], counts, axis=1))
    assert sampling_complaints(taken[:, first], 0.3) == []
    assert "sizes" in sampling_complaints(taken, 0.3)  # rows are not independent of each other
    by_row = np.stack([taken_rows(bare, Stream.secret(), rows=len(customers)) for _ in range(50)])
    assert (by_row != np.repeat(by_row[:, first], counts, axis=1)).any()
    everybody_or_nobody = np.repeat(taken[:, :1], len(counts), axis=1)
    assert "sizes" in sampling_complaints(everybody_or_nobody, 0.3)
    larger_more_often = np.random.default_rng(0).random((1200, len(counts))) < 1 - (1 - 0.15) ** counts
    assert "rows" in sampling_complaints(larger_more_often, 0.3)


@pytest.mark.statistical
def test_each_local_step_tosses_coins_of_its_own(mechanism: MechanismOf):
    bare = mechanism(noise_multiplier=0.0, sample_rate=0.5, clip_norm=5.0)
    taken = np.stack([taken_rows(bare, Stream.secret(), rows=50, steps=2) for _ in range(200)])
    seen = [int(np.sum(taken == times)) for times in range(3)]
    assert stats.chisquare(seen, np.array([0.25, 0.5, 0.25]) * taken.size).pvalue > DOUBT
    assert stats.chisquare([5000, 0, 5000], [2500, 5000, 2500]).pvalue < DOUBT  # one toss for both steps


def test_an_update_may_take_no_row(mechanism: MechanismOf):
    bare = mechanism(noise_multiplier=0.0, sample_rate=1e-9)
    np.testing.assert_array_equal(taken_rows(bare, Stream.seeded(1), rows=5), np.zeros(5))


def test_clipping_happens_in_the_update_and_row_by_row(mechanism: MechanismOf):
    network, rows = network_of(LOGISTIC, 2), Batch(features=torch.full((10, 2), 30.0), targets=torch.ones(10, 1))
    keys = {"steps": 1, "learning_rate": 1.0, "declared_rows": 10, "stream": Stream.seeded(1)}
    for clip_norm, expected in ((0.5, 5.0), (2.0, 20.0), (np.inf, 10 * 0.5 * np.sqrt(1801))):
        bare = mechanism(noise_multiplier=0.0, clip_norm=clip_norm)
        found = update_sum(Gradients(network), np.zeros(3), rows, **keys, mechanism=bare)
        assert np.linalg.norm(found) == pytest.approx(expected, rel=1e-5)


def test_a_row_moves_the_feature_sum_by_its_own_norm(rows_of: RowsOf, mechanism: MechanismOf):
    features = rows_of(5000, 6).features.numpy()
    keys = {"mechanism": mechanism(noise_multiplier=0.0), "stream": Stream.seeded(1)}
    whole, without = feature_sum(features, **keys), feature_sum(features[1:], **keys)
    np.testing.assert_allclose(whole - without, features[0], atol=1e-9)
    assert whole.dtype == np.float64
