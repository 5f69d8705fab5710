"""Pooled baselines that are no federation: the best learner of another class, without privacy."""

import numpy as np
from sklearn.ensemble import HistGradientBoostingClassifier

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
