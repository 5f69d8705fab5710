"""The noisy sums that a party can release: features, gradients, statistics for recalibration, segments, test counts.

Each is a sum over customers of vectors with bounded norm, with the noise of its mechanism on every coordinate. Noise is
added here, before anything is rounded to the words' grid, masked or sent. The bounds that are argued here are those of
:class:`fedmarket.privacy.shape.Shape`.
"""

from collections.abc import Callable

import numpy as np
import torch
from scipy.special import expit

from fedmarket.arrays import FeatureArray, Features, FloatArray, RowNumbers, blocks_of
from fedmarket.models.objectives import Objective
from fedmarket.models.prediction import Prediction, log_odds_of, reach_of
from fedmarket.privacy.histogram import SCORE_BINS, VALUE_BINS, score_bins, value_bins, value_caps
from fedmarket.privacy.mechanism import Mechanism
from fedmarket.privacy.noise import Stream
from fedmarket.privacy.shape import LEVEL_REACH, SEGMENT_REACH
from fedmarket.training.batch import Batch
from fedmarket.training.gradients import Gradients


def feature_sum(
    features: Features, *, shares: FloatArray | None = None, mechanism: Mechanism, stream: Stream
) -> FloatArray:
    """Return the noisy sum over customers of their encoded row, or the mean of their rows, (width,).

    ``shares`` is one over the number of rows of each row's customer, (n,). No row is clipped: the encoding bounds each
    row's norm by the mechanism's ``clip_norm`` (see :class:`fedmarket.contract.layout.Layout`), and the mean of bounded
    rows is bounded.
    """

    def summed(rows: slice) -> FloatArray:
        return _summed(features[rows], _at(shares, rows))

    return mechanism.noisy(_in_blocks(summed, len(features), wide=True), stream)


def update_sum(
    gradients: Gradients,
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
        sample = sample_of(batch, mechanism, stream)
        exact = gradients.clipped_sum(local, sample, clip_norm=mechanism.clip_norm)
        noisy = mechanism.noisy(exact, stream)
        local = local - learning_rate * noisy / (mechanism.sample_rate * declared_rows)
        total += noisy
    return total


def sample_of(batch: Batch, mechanism: Mechanism, stream: Stream) -> Batch:
    """Return the rows of a Poisson sample of customers: one coin for each."""
    if mechanism.sample_rate == 1:
        return batch
    if batch.customers is None:
        heads = np.flatnonzero(stream.coins(len(batch.targets), mechanism.sample_rate))
        return batch.taken(torch.from_numpy(heads))
    _, place = torch.unique_consecutive(batch.customers, return_inverse=True)
    coins = stream.coins(int(place[-1]) + 1 if len(place) else 0, mechanism.sample_rate)
    return batch.taken(torch.from_numpy(coins).to(place.device)[place])


def calibration_sum(
    objective: Objective,
    outputs: FloatArray,
    calibration: FloatArray,
    targets: FeatureArray,
    *,
    shares: FloatArray | None = None,
    mechanism: Mechanism,
    stream: Stream,
) -> FloatArray:
    """Return noisy statistics for a Newton step of each probability's recalibration (Platt 1999), (5 probabilities,).

    With p the recalibrated probability, r = y - p, h = p (1 - p) and t the raw logit's reach from the pivot, between
    -1 and 1 (:func:`fedmarket.models.prediction.reach_of`), the row's vector is (r, r t, h, h t, h t^2).

    Args:
        objective: what the outputs mean.
        outputs: (n, outputs) of the network.
        calibration: the current one.
        targets: (n, targets).
        shares: of a customer with several rows the mean counts; see :func:`feature_sum`.
        mechanism: of the phase ``calibrate``.
        stream: where noise comes from.

    Guarantees:
        Its norm is at most sqrt(2) for each probability: r^2 (1 + t^2) + h^2 (1 + t^2 + t^4) <= 2 r^2 + 3 h^2, and with
        q = 1 - |r| that is 2 (1 - q)^2 + 3 q^2 (1 - q)^2 <= 2 for q in [0, 1], since (1 - q)^2 (2 + 3 q^2) falls
        from 2 at q = 0.
    """

    def summed(rows: slice) -> FloatArray:
        raw, labels, statistics = outputs[rows], objective.labels(targets[rows]), []
        rates = expit(log_odds_of(objective, raw, calibration))
        for head in range(objective.probabilities):
            rate, reach = rates[:, head], reach_of(raw[:, head], float(calibration[3 * head + 2]))
            residual, weight = labels[:, head] - rate, rate * (1.0 - rate)
            statistics += [residual, residual * reach, weight, weight * reach, weight * reach**2]
        return _summed(np.stack(statistics, axis=1), _at(shares, rows))

    return mechanism.noisy(_in_blocks(summed, len(outputs)), stream)


def level_sum(
    prediction: Prediction,
    spent: FloatArray,
    *,
    shares: FloatArray | None = None,
    mechanism: Mechanism,
    stream: Stream,
) -> FloatArray:
    """Return noisy sums of what was spent and of what was expected, in units of the expected spend of a buyer, (2,).

    With p a row's probability of a purchase and c its expected spend if it buys, the row's vector is
    (min(spend / c, LEVEL_REACH) / LEVEL_REACH, p / 2): were the level right, the first over the second would have
    the mean 2 / LEVEL_REACH. Relative spends have light tails, so that little is lost to the bound.

    Guarantees:
        Its norm is at most sqrt(1 + 1/4): both are between 0 and their bounds, whatever the model says.
    """
    value = prediction.value if prediction.value is not None else np.zeros(len(spent))
    expected = prediction.conditional if prediction.conditional is not None else value
    purchase = prediction.purchase if prediction.purchase is not None else np.ones(len(spent))

    def summed(rows: slice) -> FloatArray:
        relative = _bounded(spent[rows], expected[rows], LEVEL_REACH)
        return _summed(np.stack([relative, purchase[rows] / 2.0], axis=1), _at(shares, rows))

    return mechanism.noisy(_in_blocks(summed, len(spent)), stream)


def segment_sum(
    segments: RowNumbers,
    count: int,
    responded: FloatArray,
    value: FloatArray,
    *,
    typical: float,
    shares: FloatArray | None = None,
    mechanism: Mechanism,
    stream: Stream,
) -> FloatArray:
    """Return noisy sums of each segment: customers, responses and predicted value, (3 ``count``,).

    A row adds (1/2, response / 2, min(value / ``typical``, SEGMENT_REACH) / SEGMENT_REACH) in its own segment and
    nothing elsewhere; halves, because sizes and responses are large sums that need less accuracy.

    Guarantees:
        The norm of a customer's part is at most sqrt(1/4 + 1/4 + 1).
    """

    def summed(rows: slice) -> FloatArray:
        half = responded[rows] / 2.0
        parts = np.stack([np.full(len(half), 0.5), half, _bounded(value[rows], typical, SEGMENT_REACH)], axis=1)
        return _grouped(parts, segments[rows], count, _at(shares, rows))

    return mechanism.noisy(_in_blocks(summed, len(value)), stream)


def held_out_sum(
    log_odds: FloatArray | None,
    responded: FloatArray | None,
    value: FloatArray | None,
    spent: FloatArray | None,
    *,
    typical_log_odds: float,
    typical_value: float,
    shares: FloatArray | None = None,
    mechanism: Mechanism,
    stream: Stream,
) -> FloatArray:
    """Return noisy counts of held-out rows: by outcome and bin of released score, then by bin of predicted value.

    The first, (2 * SCORE_BINS,), are of a model with a response, the second, (3 * VALUE_BINS,), of one with a value:
    rows, rows that bought, and spend over the bin's public cap.

    Guarantees:
        One customer is one count in one cell of the first, and at most (1, 1, 1) in one bin of the second: the norm is
        at most sqrt(1 + 3) where both are there, whatever the parameters are.
    """
    parts = []
    if log_odds is not None and responded is not None:
        cells = score_bins(log_odds, typical=typical_log_odds) + SCORE_BINS * (responded > 0).astype(np.int64)
        parts.append(np.bincount(cells, weights=shares, minlength=2 * SCORE_BINS).astype(np.float64))
    if value is not None and spent is not None:
        bins = value_bins(value, typical=typical_value)
        paid = _bounded(spent, value_caps(typical=typical_value)[bins], 1.0)
        rows = np.stack([np.ones(len(spent)), (spent > 0).astype(np.float64), paid], axis=1)
        parts.append(_grouped(rows, bins, VALUE_BINS, shares).reshape(VALUE_BINS, 3).T.ravel())
    return mechanism.noisy(np.concatenate(parts), stream)


def _in_blocks(summed: Callable[[slice], FloatArray], rows: int, *, wide: bool = False) -> FloatArray:
    """Return the sum over all rows of what blocks of them add, so that nothing is computed of more at once."""
    return np.asarray(np.sum([summed(block) for block in blocks_of(rows, wide=wide)], axis=0))


def _at(shares: FloatArray | None, rows: slice) -> FloatArray | None:
    return None if shares is None else shares[rows]


def _bounded(amount: FloatArray, unit: FloatArray | float, reach: float) -> FloatArray:
    """Return ``min(amount / unit, reach) / reach``, between 0 and 1 also where the unit is 0 or below."""
    most = np.maximum(reach * np.asarray(unit), 0.0)
    return np.asarray(np.clip(amount, 0.0, most) / np.maximum(most, 1e-300))


def _summed(rows: FloatArray | FeatureArray, shares: FloatArray | None) -> FloatArray:
    """Return the sum of (n, k) rows, or of the mean row of each customer, (k,)."""
    return np.asarray(rows.sum(axis=0, dtype=np.float64) if shares is None else shares @ rows.astype(np.float64))


def _grouped(rows: FloatArray, groups: RowNumbers, count: int, shares: FloatArray | None) -> FloatArray:
    """Return the sums of (n, k) rows by group, (count * k,): group 0's k numbers, then group 1's, and so on."""
    weighted = rows if shares is None else rows * shares[:, None]
    columns = [np.bincount(groups, weights=column, minlength=count) for column in weighted.T]
    return np.asarray(np.stack(columns, axis=1).ravel(), dtype=np.float64)
