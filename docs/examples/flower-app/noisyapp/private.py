"""What happens on a party's own rows: one noisy sum of clipped gradients. Nothing else of them leaves."""

import numpy as np
import torch

from fedmarket.privacy.mechanism import Mechanism
from fedmarket.privacy.noise import Stream
from fedmarket.training.batch import Batch
from fedmarket.training.gradients import Gradients
from fedmarket.training.sums import sample_of
from noisyapp.agreed import FEATURES, ROWS, network


def rows_of(place: int) -> Batch:
    """Return a party's rows; here they are made up. A party of your own reads its table."""
    rng = np.random.default_rng(place)
    features = rng.normal(size=(ROWS - 50 + 10 * place, FEATURES)).astype(np.float32)
    log_odds = features @ np.linspace(1.0, -1.0, FEATURES, dtype=np.float32) + features[:, 0] * features[:, 1]
    responded = (rng.random(len(features)) < 1 / (1 + np.exp(-log_odds))).astype(np.float32)
    return Batch(features=torch.from_numpy(features), targets=torch.from_numpy(responded[:, None]))


def noisy_sum(parameters: np.ndarray, rows: Batch, update: Mechanism) -> np.ndarray:
    """Return the sum of clipped gradients at ``parameters`` with this party's noise, (p,) float64."""
    stream = Stream.secret()  # the operating system's generator; never torch's, numpy's, or a seed
    sample = sample_of(rows, update, stream)
    exact = Gradients(network()).clipped_sum(parameters, sample, clip_norm=update.clip_norm)
    return update.noisy(exact, stream)
