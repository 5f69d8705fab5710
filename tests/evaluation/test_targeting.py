import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmarket.errors import DataError
from fedmarket.evaluation.targeting import Expectation, campaign, policies, worth_contacting

MONEY = {"margin": 0.3, "contact_cost": 2.0}
NAMES = ["model", "pooled", "everyone", "top decile by past spend", "nobody", "truth"]


def market(rows=2000, *, seed=5):
    """True chances and values, and how they look through noise."""
    rng = np.random.default_rng(seed)
    response, value = rng.beta(1.0, 6.0, size=rows), np.exp(rng.normal(3.0, 0.8, size=rows))

    def seen(noise):
        return Expectation(
            response=np.clip(response * np.exp(noise * rng.normal(size=rows)), 0, 1),
            value=value * np.exp(noise * rng.normal(size=rows)),
        )

    truth = Expectation(response=response, value=value)
    return truth, seen(1.5), seen(0.3), value * np.exp(rng.normal(size=rows)), rng


def compared(**changed):
    truth, rough, fine, past, _ = market()
    given_ = {"outcome": truth, "model": rough, "pooled": fine, "past_spend": past, "truth": truth, **MONEY}
    return policies(**{**given_, **changed})


def test_all_policies_are_compared_and_survive_json():
    found = compared()
    assert list(found) == NAMES
    assert all(list(one) == ["profit", "contacted_share", "responses"] for one in found.values())
    assert json.loads(json.dumps(found)) == found
    assert list(compared(truth=None)) == NAMES[:-1]


def test_profits_by_hand():
    outcome = Expectation(response=[1, 0, 1, 1], value=[100.0, 80.0, 50.0, 10.0])
    model = Expectation(response=[0.5, 0.5, 0.1, 0.1], value=[100.0, 80.0, 50.0, 10.0])
    found = policies(
        outcome, model=model, pooled=outcome, past_spend=[0, 0, 9, 0], margin=0.5, contact_cost=6.0, truth=outcome
    )
    assert found["model"] == pytest.approx({"profit": (44 - 6) / 4, "contacted_share": 0.5, "responses": 1.0})
    assert found["pooled"] == pytest.approx({"profit": (44 + 19) / 4, "contacted_share": 0.5, "responses": 2.0})
    assert found["truth"] == found["pooled"]
    assert found["everyone"] == pytest.approx({"profit": (80 - 24) / 4, "contacted_share": 1.0, "responses": 3.0})
    assert found["nobody"] == {"profit": 0.0, "contacted_share": 0.0, "responses": 0.0}
    best = {"profit": 0.4 * 19 / 4, "contacted_share": 0.1, "responses": 0.4}
    assert found["top decile by past spend"] == pytest.approx(best)


def test_nothing_earns_more_than_the_truth_and_a_finer_view_earns_more():
    found = {name: one["profit"] for name, one in compared().items()}
    assert found["truth"] == max(found.values())
    assert found["truth"] > found["pooled"] > found["model"] > found["nobody"] == 0
    assert found["pooled"] > max(found["everyone"], found["top decile by past spend"])


@given(st.data())
def test_no_choice_of_customers_earns_more_than_the_truth(data):
    size = data.draw(st.integers(1, 20))
    shares = st.lists(st.floats(0, 1), min_size=size, max_size=size)
    truth = Expectation(response=data.draw(shares), value=100 * np.array(data.draw(shares)))
    best = campaign(contacted=worth_contacting(truth, **MONEY), outcome=truth, **MONEY)
    assert campaign(contacted=data.draw(shares), outcome=truth, **MONEY)["profit"] <= best["profit"] + 1e-12


@pytest.mark.statistical
def test_what_customers_do_earns_on_average_what_was_expected():
    truth, rough, _, _, rng = market(200)
    contacted = worth_contacting(rough, **MONEY)
    draws = [
        campaign(
            contacted=contacted,
            outcome=Expectation(response=(rng.random(200) < truth.response).astype(float), value=truth.value),
            **MONEY,
        )["profit"]
        for _ in range(2000)
    ]
    off = 4 * np.std(draws) / math.sqrt(len(draws))
    assert campaign(contacted=contacted, outcome=truth, **MONEY)["profit"] == pytest.approx(np.mean(draws), abs=off)
    assert campaign(contacted=~contacted, outcome=truth, **MONEY)["profit"] != pytest.approx(np.mean(draws), abs=off)


def test_a_contact_that_only_covers_its_cost_is_not_made():
    even = Expectation(response=[0.5, 0.5], value=[8.0, 8.1])
    assert worth_contacting(even, margin=0.5, contact_cost=2.0).tolist() == [False, True]


def test_customers_tied_at_the_edge_of_the_top_decile_share_the_places():
    outcome = Expectation(response=[1] + [0] * 19, value=[100.0] * 20)
    everyone = {"model": outcome, "pooled": outcome, **MONEY}
    first = policies(outcome, past_spend=[9] + [5] * 4 + [0] * 15, **everyone)["top decile by past spend"]
    assert (first["contacted_share"], first["responses"]) == pytest.approx((0.1, 1.0))
    tied = policies(outcome, past_spend=[5] * 4 + [9] + [0] * 15, **everyone)["top decile by past spend"]
    assert (tied["contacted_share"], tied["responses"]) == pytest.approx((0.1, 0.25))
    flat = policies(outcome, past_spend=[0] * 20, **everyone)["top decile by past spend"]
    assert (flat["contacted_share"], flat["responses"]) == pytest.approx((0.1, 0.1))


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"margin": 0.0}, "margin: expected above 0"),
        ({"margin": 1.1}, "margin: expected above 0 and at most 1"),
        ({"margin": math.nan}, "margin"),
        ({"contact_cost": 0.0}, "contact_cost: expected above 0"),
        ({"contact_cost": math.nan}, "contact_cost"),
        ({"contact_cost": math.inf}, "contact_cost"),
        ({"past_spend": []}, "expected customers, got none"),
        ({"past_spend": [1.0, 2.0]}, "expected one for each of 2000 customers, got 2"),
        ({"past_spend": np.full(2000, -1.0)}, "past_spend: .*got 2000 others"),
        ({"model": Expectation(response=[0.5], value=[1.0])}, "expected one for each of 2000 customers, got 1"),
        ({"model": Expectation(response=np.full(2000, 1.5), value=np.ones(2000))}, "response: .*from 0 to 1, got 2000"),
        ({"pooled": Expectation(response=np.ones(2000), value=np.full(2000, math.nan))}, "value: .*got 2000 others"),
        ({"outcome": Expectation(response=np.ones(2000), value=np.ones(3))}, "value: expected one for each of 2000"),
        ({"truth": Expectation(response=[], value=[])}, "expected customers, got none"),
    ],
)
def test_unusable_tables_and_money_are_refused_in_one_line(changed, expected):
    with pytest.raises(DataError, match=expected) as refused:
        compared(**changed)
    assert "\n" not in str(refused.value)
