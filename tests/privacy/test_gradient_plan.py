"""A plan of gradient sums alone spends what it is asked for, by the accountants and noise of every other plan."""

import math

import numpy as np
import pytest

from fedmarket.aggregation.fixedpoint import FixedPoint
from fedmarket.contract.schema import PrivacyTerms
from fedmarket.errors import PlanError
from fedmarket.privacy.accountant import gaussian_epsilon
from fedmarket.privacy.plan import PrivacyPlan, Sharing, gradient_plan, with_update_noise

SHARING = Sharing(shares=3, parties=5, party_rows=2000, modulus_bits=64)


def planned(*, adjacency: str = "add-or-remove-one", **changes) -> PrivacyPlan:
    terms = PrivacyTerms(unit="row", adjacency=adjacency, delta=1e-5)
    asked = {"epsilon": 1.0, "clip_norm": 0.5, "sample_rate": 1.0, "releases": 20, "length": 100}
    return gradient_plan(terms, **asked | changes)


PLANS = {
    "full batches": {},
    "sampled": {"sample_rate": 0.1},
    "replace-one": {"adjacency": "replace-one"},
    "shared": {"sharing": SHARING},
    "shared and sampled": {"sharing": SHARING, "sample_rate": 0.1},
}


@pytest.mark.parametrize("changes", PLANS.values(), ids=PLANS)
def test_the_whole_run_spends_the_target_and_no_more(changes: dict[str, object]):
    plan = planned(**changes)
    assert 0.97 < plan.spent().epsilon <= 1.0
    noise = plan.mechanism("update").noise_multiplier
    assert with_update_noise(plan, 0.99 * noise).spent().epsilon > 1.0
    assert [mechanism.phase for mechanism in plan.mechanisms] == ["update"]
    assert plan.private


def test_full_batches_have_the_noise_of_the_formula():
    update = planned().mechanism("update")
    exact = gaussian_epsilon(math.sqrt(20) / update.noise_multiplier, 1e-5)
    assert 1.0 - 0.03 < exact <= 1.0
    assert update.noise_std == 0.5 * update.noise_multiplier


def test_shares_add_up_to_the_noise_of_one():
    alone, shared = planned().mechanism("update"), planned(sharing=SHARING).mechanism("update")
    assert shared.noise_std * math.sqrt(3) == pytest.approx(alone.noise_std, rel=1e-3)


def test_sampling_under_replace_one_is_refused():
    with pytest.raises(PlanError, match="under the contract's adjacency replace-one"):
        planned(adjacency="replace-one", sample_rate=0.1)


@pytest.mark.parametrize("sharing", [None, SHARING])
def test_the_largest_sums_with_all_their_noise_fit_the_integers(sharing: Sharing | None):
    update = planned(sharing=sharing).mechanism("update")
    words = FixedPoint.for_mechanism(update, parties=5, party_rows=2000, modulus_bits=64)
    assert update.grid is None or words.resolution == update.grid.resolution
    most = np.full(100, 2000 * update.clip_norm + 8 * update.noise_std)
    total = sum((words.encode(most) for _ in range(5)), start=np.zeros(100, words.word_dtype))
    assert np.allclose(words.decode(total), 5 * most, rtol=0, atol=5 * words.resolution)
    assert FixedPoint.for_mechanism(
        update, parties=5, party_rows=2000, modulus_bits=64, releases=3
    ).bound == pytest.approx(3 * words.bound)
