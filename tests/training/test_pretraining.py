"""Pretraining lowers the loss of imagined rows, and what it finds is for rows as they are encoded."""

import numpy as np
import pytest
import torch

from fedmarket.config import Model, ValueModel
from fedmarket.models.network import initial_vector, load_vector, network_of, outputs_of
from fedmarket.models.objectives import Objective, Tweedie, TwoPart, ZeroInflatedLognormal
from fedmarket.models.start import placed
from fedmarket.training import pretraining as module
from fedmarket.training.pretraining import pretrained

LINEAR = ValueModel(kind="ziln", binning=False, hidden=())
HIDDEN = ValueModel(kind="ziln", binning=False, hidden=(4,))
MONEY = {"typical": 60.0, "upper": 2000.0}
OBJECTIVES = {
    "zero-inflated lognormal": Objective(response=False, value=ZeroInflatedLognormal(**MONEY)),
    "two parts": Objective(response=False, value=TwoPart(**MONEY)),
    "tweedie": Objective(response=False, value=Tweedie(**MONEY, power=1.5)),
}
EACH = pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
BODIES = pytest.mark.parametrize("model", [LINEAR, HIDDEN], ids=["linear", "hidden"])


def toy(rows: int = 400, *, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Return rows far from zero whose first place says who buys and for how much."""
    rng = np.random.default_rng(4)
    features = rng.uniform(0.0, 1.0, (rows, 3))
    buys = rng.random(rows) < 0.1 + 0.7 * features[:, 0]
    spent = np.where(buys, 60 * np.exp(features[:, 0] - 0.5 + 0.5 * rng.normal(size=rows)), 0.0)
    return (features + shift).astype(np.float32), spent[:, None].astype(np.float32)


def outputs(model: Model, objective: Objective, parameters: np.ndarray, features: np.ndarray) -> torch.Tensor:
    network = network_of(model, features.shape[1], objective)
    load_vector(network, parameters)
    return torch.from_numpy(outputs_of(network, torch.from_numpy(features)))


def loss(
    model: Model, objective: Objective, parameters: np.ndarray, features: np.ndarray, targets: np.ndarray
) -> float:
    said = outputs(model, objective, parameters, features)
    return float(objective.losses(said, torch.from_numpy(targets).double()).mean())


@BODIES
@EACH
def test_pretraining_lowers_the_loss_below_that_of_the_plain_start(model: Model, objective: Objective):
    features, targets = toy()
    found = pretrained(model, objective, features, targets, seed=0)
    plain = initial_vector(model, 3, objective, seed=0)
    assert found.shape == plain.shape
    assert found.dtype == np.float64
    assert loss(model, objective, found, features, targets) < loss(model, objective, plain, features, targets) - 0.01


@EACH
def test_pretraining_learns_more_than_the_mean(objective: Objective):
    """What it says of good customers and of others differs, and shuffled targets teach nothing of the kind."""
    features, targets = toy()
    shuffled = np.random.default_rng(0).permutation(targets)
    gaps = []
    for learned in (targets, shuffled):
        said = outputs(LINEAR, objective, pretrained(LINEAR, objective, features, learned, seed=0), features)[:, 0]
        gaps.append(float(said[features[:, 0] > 0.8].mean() - said[features[:, 0] < 0.2].mean()))
    assert gaps[0] > 1.0
    assert abs(gaps[1]) < 0.5


@BODIES
def test_what_is_found_is_for_rows_as_encoded_and_not_as_centred(model: Model, monkeypatch: pytest.MonkeyPatch):
    objective, (features, targets) = OBJECTIVES["two parts"], toy()
    found = pretrained(model, objective, features, targets, seed=0)
    monkeypatch.setattr(module, "placed", lambda parameters, **_: parameters)
    as_trained = pretrained(model, objective, features, targets, seed=0)
    centred = (features - features.mean(axis=0, dtype=np.float64)).astype(np.float32)
    said = outputs(model, objective, found, features)
    np.testing.assert_allclose(said, outputs(model, objective, as_trained, centred), rtol=1e-4, atol=1e-5)
    assert (said - outputs(model, objective, found, centred)).abs().max() > 0.05


@BODIES
def test_rows_that_are_shifted_are_told_the_same(model: Model):
    objective, far = OBJECTIVES["two parts"], 8.0
    (near, targets), (shifted, _) = toy(), toy(shift=far)
    one, other = (pretrained(model, objective, features, targets, seed=0) for features in (near, shifted))
    np.testing.assert_allclose(
        outputs(model, objective, other, shifted), outputs(model, objective, one, near), rtol=1e-2, atol=1e-2
    )
    units = 4 if model is HIDDEN else 2
    back = placed(other, units=units, centre=np.full(3, far), scale=np.ones(3))
    np.testing.assert_allclose(
        outputs(model, objective, back, near), outputs(model, objective, one, near), rtol=1e-2, atol=1e-2
    )


def test_the_same_seed_gives_the_same_parameters_and_another_one_other_hidden_layers():
    objective, (features, targets) = OBJECTIVES["two parts"], toy(100)
    first, again, other = (pretrained(HIDDEN, objective, features, targets, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
