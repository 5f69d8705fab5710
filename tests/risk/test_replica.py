"""A federation that is run again in memory is the one that was run through Flower's apps."""

from pathlib import Path

import numpy as np
import pytest

from fedmarket.experiment.arms import JOINT, arm_named, terms_of
from fedmarket.experiment.market import MarketKey, open_market
from fedmarket.flower.inprocess import load_apps
from fedmarket.risk.replica import in_the_open, replica
from fedmarket.simulation.seed import rehearsed, run_arm

SEEDED = ('privacy.generator="seeded-for-tests"',)


@pytest.mark.parametrize("secagg", ["secure", "ideal"])
@pytest.mark.parametrize("noise", ["local", "distributed"])
def test_it_ends_at_the_same_model_to_the_last_bit(write_market, tmp_path: Path, secagg: str, noise: str):
    path = write_market(tmp_path)
    changes = (*SEEDED, f"aggregation.secagg={secagg}", f"privacy.noise={noise}")
    key = MarketKey(config=path, changes=changes, seed=0)
    market, arm = open_market(key), arm_named(JOINT)
    with rehearsed(market) as roster:
        outcome = run_arm(key, arm, load_apps(path.parent), roster=roster)
    terms = in_the_open(terms_of(arm, market.config, market.contract, seed=0))
    parties = {name: market.party(arm, name, terms=terms) for name in market.names}
    seen = replica(terms, parties)
    for vector in ("centre", "scale", "parameters", "calibration"):
        np.testing.assert_array_equal(getattr(seen.model, vector), getattr(outcome.model, vector))
    assert seen.totals.shape == (terms.schedule.rounds, terms.parameters) == seen.updates["bank"].shape
    np.testing.assert_allclose(sum(seen.updates.values()), seen.totals, rtol=1e-9, atol=1e-9)
    assert len(seen.asked) == terms.schedule.rounds
