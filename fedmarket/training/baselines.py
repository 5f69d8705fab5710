"""Pooled baselines that are no federation: learners of another class, without privacy, and what needs no learner."""

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from fedmarket.arrays import FeatureArray, FloatArray

BOOSTING = {
    "learning_rate": 0.06,
    "max_iter": 300,
    "max_leaf_nodes": 15,
    "min_samples_leaf": 40,
    "l2_regularization": 1.0,
    "early_stopping": True,
    "validation_fraction": 0.15,
    "n_iter_no_change": 20,
}
"""Sensible settings for tables of 1e4 to 1e6 rows; early stopping chooses the number of trees on training rows."""


def boosted_probabilities(
    features: FeatureArray, labels: FeatureArray, test_features: FeatureArray, *, seed: int
) -> FloatArray:
    """Return the response probability of each test row, (m,), by gradient boosting on all training rows.

    Args:
        features: (n, width) encoded training rows of all parties.
        labels: (n,) 0 or 1.
        test_features: (m, width).
        seed: data randomness of the learner's own validation split.
    """
    learner = HistGradientBoostingClassifier(**BOOSTING, random_state=seed).fit(features, labels)
    return np.asarray(learner.predict_proba(test_features)[:, 1], dtype=np.float64)


def boosted_values(
    features: FeatureArray, values: FeatureArray, test_features: FeatureArray, *, seed: int
) -> FloatArray:
    """Return the expected value of each test row, (m,), by boosting under the Poisson deviance, which bears many zeros.

    Arguments are those of :func:`boosted_probabilities`, with values (n,) not negative and not all 0.
    """
    scale = float(values.mean(dtype=np.float64)) or 1.0  # the learner's stopping rule is not free of units
    learner = HistGradientBoostingRegressor(**BOOSTING, loss="poisson", random_state=seed)
    learner.fit(features, values / scale)
    return np.asarray(scale * learner.predict(test_features), dtype=np.float64)


def scaled_past_spend(past: FloatArray, values: FeatureArray, test_past: FloatArray) -> FloatArray:
    """Return past spend times a constant, (m,): the constant by which training customers' spend went on, in sum."""
    return np.asarray(test_past * (values.sum(dtype=np.float64) / max(float(past.sum()), 1e-300)))
