"""What is summed for recalibration and for private test metrics: no row moves it beyond its bound."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmarket.config import LogisticModel
from fedmarket.models.network import Network, load_vector, network_of, outputs_of, vector_of
from fedmarket.models.objectives import RESPONSE
from fedmarket.models.prediction import log_odds_of
from fedmarket.privacy.histogram import SCORE_BINS, SCORE_EDGES
from fedmarket.privacy.mechanism import Mechanism
from fedmarket.privacy.noise import Stream
from fedmarket.privacy.shape import Shape
from fedmarket.training.batch import Batch
from fedmarket.training.sums import calibration_sum, held_out_sum

NetworkAt = Callable[..., Network]
RowsOf = Callable[..., Batch]
MechanismOf = Callable[..., Mechanism]

LOGISTIC = LogisticModel(kind="logistic", binning=False)
CALIBRATION_SENSITIVITY = Shape(width=1, norm_bound=1.0, parameters=1).sensitivity_of("calibrate")


def passed_on(raws: list[float] | np.ndarray) -> np.ndarray:
    """Return the outputs, (n, 1), of a network that passes the only feature on."""
    network = network_of(LOGISTIC, 1)
    load_vector(network, np.array([1.0, 0.0]))
    return outputs_of(network, torch.tensor(np.asarray(raws, dtype=np.float32))[:, None])


def calibration_row(raw: float, label: float, calibration: np.ndarray, mechanism: Mechanism) -> np.ndarray:
    """Return what one row adds to the statistics: the network passes its only feature on as the logit."""
    keys = {"mechanism": mechanism, "stream": Stream.seeded(1)}
    return calibration_sum(RESPONSE, passed_on([raw]), calibration, np.array([[label]], dtype=np.float32), **keys)


@settings(max_examples=300, deadline=None)
@given(
    raw=st.floats(-40, 40) | st.floats(width=32),
    label=st.sampled_from([0.0, 1.0]),
    intercept=st.floats(-20, 20) | st.sampled_from([3e38, -3e38]),
    slope=st.floats(-5, 5) | st.sampled_from([3e38, -3e38]),
    pivot=st.floats(-10, 10) | st.sampled_from([3e38, -3e38]),
)
def test_no_row_adds_more_than_root_two_to_the_calibration_statistics(
    raw: float, label: float, intercept: float, slope: float, pivot: float
):
    """Whatever the coordinator sends as calibration, and also where the network overflows."""
    bare = Mechanism(phase="calibrate", clip_norm=1.0, noise_multiplier=0.0, sample_rate=1.0, releases=1, length=1)
    found = calibration_row(raw, label, np.array([intercept, slope, pivot]), bare)
    assert np.linalg.norm(found) <= CALIBRATION_SENSITIVITY * (1 + 1e-9)


def test_the_calibration_bound_is_nearly_reached(mechanism: MechanismOf):
    bare = mechanism(noise_multiplier=0.0)
    found = calibration_row(1e6, 0.0, np.array([50.0, 1.0, 0.0]), bare)
    assert np.linalg.norm(found) == pytest.approx(CALIBRATION_SENSITIVITY, rel=1e-9)


def test_the_calibration_statistics_are_those_of_a_loop(network_at: NetworkAt, rows_of: RowsOf, mechanism: MechanismOf):
    network, rows = network_at(LOGISTIC, 3), rows_of(50, 3)
    calibration, expected = np.array([-0.4, 1.3, 0.2]), np.zeros(5)
    raws = (rows.features.double() @ torch.from_numpy(vector_of(network)[:3]) + vector_of(network)[3]).numpy()
    for raw, label in zip(raws, rows.targets[:, 0].numpy(), strict=True):
        t = np.tanh((raw - 0.2) / 8)
        p = 1 / (1 + np.exp(-(-0.4 + 1.3 * 8 * t)))
        expected += [label - p, (label - p) * t, p * (1 - p), p * (1 - p) * t, p * (1 - p) * t**2]
    keys = {"mechanism": mechanism(noise_multiplier=0.0), "stream": Stream.seeded(1)}
    found = calibration_sum(RESPONSE, outputs_of(network, rows.features), calibration, rows.targets.numpy(), **keys)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_a_row_that_overflows_leaves_the_calibration_sendable(mechanism: MechanismOf):
    """One such row must not make the release fail: the failure would tell that it is there."""
    network = network_of(LOGISTIC, 2)
    rows = torch.tensor([[1.0, 0.0], [3e38, -3e38]])
    load_vector(network, np.array([3.0, 3.0, 0.0]))
    assert not network(rows).isfinite().all()
    keys = {"mechanism": mechanism(noise_multiplier=0.0), "stream": Stream.seeded(1)}
    found, alone = (
        calibration_sum(RESPONSE, outputs_of(network, part), RESPONSE.uncalibrated, np.ones((len(part), 1)), **keys)
        for part in (rows, rows[:1])
    )
    assert np.isfinite(found).all()
    assert np.linalg.norm(found - alone) <= CALIBRATION_SENSITIVITY


def counted(raws: np.ndarray, labels: np.ndarray, calibration: np.ndarray, mechanism: Mechanism) -> np.ndarray:
    """Return counts of rows whose only feature is their logit, (2, SCORE_BINS)."""
    log_odds = log_odds_of(RESPONSE, passed_on(raws), calibration)[:, 0]
    keys = {"typical_log_odds": float(calibration[0]), "typical_value": 0.0}
    keys |= {"mechanism": mechanism, "stream": Stream.seeded(1)}
    return held_out_sum(log_odds, labels.astype(np.float64), None, None, **keys).reshape(2, SCORE_BINS)


def test_counts_of_scores_are_those_of_a_loop(mechanism: MechanismOf):
    rng = np.random.default_rng(0)
    raws, labels = 3 * rng.standard_normal(400), rng.integers(0, 2, 400)
    intercept, slope, pivot = -0.4, 1.3, 0.2
    expected = np.zeros((2, SCORE_BINS))
    for raw, label in zip(raws.astype(np.float32).astype(np.float64), labels, strict=True):
        distance = slope * 8 * np.tanh((raw - pivot) / 8)  # of the log-odds from those of the average row
        expected[label, sum(distance >= edge for edge in SCORE_EDGES)] += 1
    found = counted(raws, labels, np.array([intercept, slope, pivot]), mechanism(noise_multiplier=0.0))
    np.testing.assert_array_equal(found, expected)
    assert (found > 0).all()
    np.testing.assert_array_equal(found.sum(axis=1), np.bincount(labels))


@settings(max_examples=200, deadline=None)
@given(
    raw=st.floats(-40, 40) | st.floats(width=32),
    label=st.sampled_from([0.0, 1.0]),
    intercept=st.floats(-20, 20) | st.sampled_from([3e38, -3e38]),
    slope=st.floats(-5, 5) | st.sampled_from([3e38, -3e38]),
    pivot=st.floats(-10, 10) | st.sampled_from([3e38, -3e38]),
)
def test_one_row_is_one_count_in_one_cell_of_its_label(
    raw: float, label: float, intercept: float, slope: float, pivot: float
):
    """Whatever the coordinator sends as calibration, and also where the network overflows."""
    bare = Mechanism(phase="evaluate", clip_norm=1.0, noise_multiplier=0.0, sample_rate=1.0, releases=1, length=1)
    found = counted(np.array([raw]), np.array([label]), np.array([intercept, slope, pivot]), bare)
    assert found[int(label)].sum() == found.sum() == np.abs(found).max() == 1


def test_no_rows_are_no_counts(mechanism: MechanismOf):
    found = counted(np.zeros(0), np.zeros(0), RESPONSE.uncalibrated, mechanism(noise_multiplier=0.0))
    np.testing.assert_array_equal(found, np.zeros((2, SCORE_BINS)))
