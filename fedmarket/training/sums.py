"""The noisy sums a party can release: feature sum, training update, calibration statistics, counts of scores.

Each is a sum over rows of vectors with bounded norm, with the noise of its mechanism on every coordinate. Noise is
added here, before anything is rounded to the words' grid, masked or sent.
"""

import numpy as np
import torch
from scipy.special import expit

from fedmarket.arrays import FeatureArray, FloatArray
from fedmarket.models.propensity import PropensityNetwork, load_vector, logits
from fedmarket.models.released import reach_of, recalibrated
from fedmarket.privacy.histogram import SCORE_BINS, score_bins
from fedmarket.privacy.mechanism import Mechanism
from fedmarket.privacy.noise import Stream
from fedmarket.training.gradients import Batch, clipped_gradient_sum, one_thread


def feature_sum(
    features: FeatureArray, *, shares: FloatArray | None = None, mechanism: Mechanism, stream: Stream
) -> FloatArray:
    """Return the noisy sum over customers of their encoded row, or the mean of their rows, (width,).

    ``shares`` is one over the number of rows of each row's customer, (n,). No row is clipped: the encoding bounds each
    row's norm by the mechanism's ``clip_norm`` (see :class:`fedmarket.contract.layout.Layout`), and the mean of bounded
    rows is bounded.
    """
    total = features.sum(axis=0, dtype=np.float64) if shares is None else shares @ features.astype(np.float64)
    return mechanism.noisy(total, stream)


def update_sum(
    network: PropensityNetwork,
    parameters: FloatArray,
    batch: Batch,
    *,
    steps: int,
    learning_rate: float,
    declared_rows: int,
    mechanism: Mechanism,
    stream: Stream,
) -> FloatArray:
    """Return the sum over ``steps`` local steps of the noisy clipped gradient sums, (p,).

    Each step draws its own Poisson sample of customers, clips each one's gradient, adds noise, and moves the local
    parameters by ``learning_rate`` times the noisy sum over the public expected sample size ``sample_rate *
    declared_rows`` (never the drawn size, which is private). With one step the result is one noisy gradient sum: DP-SGD
    (Abadi et al. 2016) with the server's step. With more it is, up to that public factor, the local model's
    displacement: DP-FedAvg at record level (McMahan et al. 2018).
    """
    local, total = parameters, np.zeros_like(parameters)
    for _ in range(steps):
        load_vector(network, local)
        exact = clipped_gradient_sum(network, _sample(batch, mechanism, stream), clip_norm=mechanism.clip_norm)
        noisy = mechanism.noisy(exact, stream)
        local = local - learning_rate * noisy / (mechanism.sample_rate * declared_rows)
        total += noisy
    return total


def _sample(batch: Batch, mechanism: Mechanism, stream: Stream) -> Batch:
    """Return the rows of a Poisson sample of customers: one coin for each."""
    if mechanism.sample_rate == 1:
        return batch
    if batch.customers is None:
        return batch.taken(torch.from_numpy(stream.coins(len(batch.labels), mechanism.sample_rate)))
    _, place = torch.unique_consecutive(batch.customers, return_inverse=True)
    coins = stream.coins(int(place[-1]) + 1 if len(place) else 0, mechanism.sample_rate)
    return batch.taken(torch.from_numpy(coins)[place])


def calibration_sum(
    network: PropensityNetwork,
    parameters: FloatArray,
    calibration: FloatArray,
    features: torch.Tensor,
    labels: FeatureArray,
    *,
    shares: FloatArray | None = None,
    mechanism: Mechanism,
    stream: Stream,
) -> FloatArray:
    """Return noisy statistics for one Newton step of a two-parameter recalibration (Platt 1999), (5,).

    With p the recalibrated probability, r = y - p, h = p (1 - p) and t the raw logit's reach from the pivot, between
    -1 and 1 (:func:`fedmarket.models.released.reach_of`), the row's vector is (r, r t, h, h t, h t^2).

    Of a customer with several rows their mean counts (``shares`` is that of :func:`feature_sum`).

    Guarantees:
        Its norm is at most sqrt(2): r^2 (1 + t^2) + h^2 (1 + t^2 + t^4) <= 2 r^2 + 3 h^2, and with q = 1 - |r| that
        is 2 (1 - q)^2 + 3 q^2 (1 - q)^2 <= 2 for q in [0, 1], since (1 - q)^2 (2 + 3 q^2) falls from 2 at q = 0.
    """
    load_vector(network, parameters)
    with one_thread():
        raw = np.nan_to_num(logits(network, features))  # a row that overflows must not make the sum unsendable
    rate = expit(recalibrated(raw, calibration))
    reach = reach_of(raw, float(calibration[2]))
    residual, weight = labels.astype(np.float64) - rate, rate * (1.0 - rate)
    rows = np.stack([residual, residual * reach, weight, weight * reach, weight * reach**2])
    return mechanism.noisy(rows.sum(axis=1) if shares is None else rows @ shares, stream)


def score_counts(
    network: PropensityNetwork,
    parameters: FloatArray,
    calibration: FloatArray,
    features: torch.Tensor,
    labels: FeatureArray,
    *,
    shares: FloatArray | None = None,
    mechanism: Mechanism,
    stream: Stream,
) -> FloatArray:
    """Return noisy counts of held-out rows by outcome and bin of their released score, (2 * SCORE_BINS,).

    Guarantees:
        One row is one count in one cell, and the rows of a customer with several share one count: the sensitivity is
        1, whatever the parameters are.
    """
    load_vector(network, parameters)
    with one_thread():
        raw = np.nan_to_num(logits(network, features))
    bins = score_bins(recalibrated(raw, calibration), typical=float(calibration[0]))
    cells = bins + SCORE_BINS * labels.astype(np.int64)
    counts = np.bincount(cells, weights=shares, minlength=2 * SCORE_BINS).astype(np.float64)
    return mechanism.noisy(counts, stream)
