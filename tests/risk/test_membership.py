"""Membership inference finds whom an open federation gives away, nobody whom noise hides, and says how surely."""

import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from fedmarket.attacks.formal import Approximate
from fedmarket.attacks.reduction import AlreadyLow, Reduction
from fedmarket.errors import DataError, PlanError
from fedmarket.experiment.arms import arm_named, terms_of
from fedmarket.experiment.market import Market, MarketKey, open_market
from fedmarket.federation.release import trained_on
from fedmarket.federation.rows import Rows
from fedmarket.models.network import network_of
from fedmarket.privacy.noise import Stream
from fedmarket.risk.membership import membership, reductions
from fedmarket.risk.replica import in_the_open, replica
from fedmarket.risk.shadows import (
    VIEWS,
    Shadows,
    Watch,
    clipped_gradients,
    fair_coins,
    leverages,
    most_exposed,
    scores_of_run,
    shadow_run,
    shadows,
    sums_of_others,
)
from fedmarket.training.gradients import Gradients, engine_for

RUNS = 64


@dataclass
class Tiny:
    """A market of four, and its smallest party watched."""

    market: Market

    def watch(self, arm: str, *, party: str = "bank", targets: np.ndarray | None = None, **changed: object) -> Watch:
        made = arm_named(arm)
        terms = in_the_open(terms_of(made, self.market.config, self.market.contract, seed=0))
        parties = {name: self.market.party(made, name, terms=terms) for name in self.market.names}
        parties[party] = replace(parties[party], **changed)
        if targets is None:
            model = replica(terms, parties).model
            targets = most_exposed(leverages(terms, parties[party].rows, model), 20)
        return Watch(terms=terms, parties=parties, watched=party, targets=targets)


@pytest.fixture(scope="module")
def opened(write_market, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Tiny]:
    path = write_market(tmp_path_factory.mktemp("membership"))
    return lambda *changes: Tiny(open_market(MarketKey(config=Path(path), changes=changes, seed=0)))


@pytest.fixture(scope="module")
def tiny(opened) -> Tiny:
    return opened()


@pytest.fixture(scope="module")
def coins() -> np.ndarray:
    return fair_coins(RUNS, 20, Stream.seeded(0, "coins"))


@pytest.fixture(scope="module")
def unprotected(tiny: Tiny, coins: np.ndarray) -> Shadows:
    return shadows(tiny.watch("federated"), coins)


@pytest.fixture(scope="module")
def protected(tiny: Tiny, coins: np.ndarray) -> Shadows:
    return shadows(tiny.watch("federated_dp"), coins)


def found(runs: Shadows, variance: str = "global"):
    return membership(runs, {"all": np.ones(runs.coins.shape[1], dtype=bool)}, variance=variance, confidence=0.95)[
        "all"
    ]


@pytest.fixture(scope="module")
def before(unprotected: Shadows):
    return found(unprotected)


@pytest.fixture(scope="module")
def after(protected: Shadows):
    return found(protected)


@pytest.mark.parametrize("variance", ["global", "per-target"])
def test_without_noise_the_exposed_are_found(unprotected: Shadows, variance: str):
    by_view = found(unprotected, variance)
    assert by_view["update"].auc.estimate > 0.9
    assert by_view["aggregate"].auc.low > 0.75
    assert by_view["model"].auc.low > 0.75
    for view in ("informed update", "informed aggregate"):
        assert by_view[view].auc.estimate > 0.999
        assert by_view[view].at_rates[0].true_positive_rate.low > 0.9


def test_customers_who_take_part_in_no_run_cannot_be_told(tiny: Tiny, coins: np.ndarray):
    nowhere = shadows(tiny.watch("federated_dp"), np.zeros_like(coins))
    for figure in found(replace(nowhere, coins=coins)).values():
        assert figure.auc.low <= 0.5 <= figure.auc.high
        assert figure.advantage.low <= 0 <= figure.advantage.high


def test_noise_keeps_every_view_below_the_limit_of_its_guarantee(tiny: Tiny, before, after):
    plan = tiny.watch("federated_dp", targets=np.arange(2)).terms.plan
    limit = Approximate(epsilon=plan.spent().epsilon, delta=plan.delta)
    for view, figure in after.items():
        assert figure.advantage.low <= limit.advantage(), view
        for at in figure.at_rates:
            assert at.true_positive_rate.low <= limit.true_positive_rate(at.false_positive_rate.high), view
    for view in ("update", "informed update", "informed aggregate"):  # the same check finds that noise is missing
        assert before[view].advantage.low > limit.advantage()
    assert after["informed update"].advantage.estimate < limit.advantage()


def test_the_reduction_is_certified_from_both_measurements(before, after):
    fewer = reductions(before["informed update"], after["informed update"])
    assert isinstance(fewer.advantage, Reduction)
    assert 0.5 < fewer.advantage.certified < fewer.advantage.estimate
    assert isinstance(fewer.at_rates[0], Reduction)
    assert isinstance(reductions(after["informed update"], after["informed update"]).at_rates[0], AlreadyLow)


# The score.


def test_larger_scores_mean_in(unprotected: Shadows):
    for view, scores in unprotected.scores.items():
        inside = np.mean(scores, axis=0, where=unprotected.coins)
        outside = np.mean(scores, axis=0, where=~unprotected.coins)
        assert np.mean(inside > outside) > 0.9, view


def test_noise_moves_every_targets_plain_score_alike(tiny: Tiny):
    watch = tiny.watch("federated_dp", targets=np.arange(6))
    seen, rng = replica(watch.terms, watch.parties), np.random.default_rng(0)
    drawn = np.stack(
        [
            scores_of_run(watch, replace(seen, updates={"bank": rng.normal(0.0, 3.0, seen.totals.shape)}))["update"]
            for _ in range(200)
        ]
    )
    np.testing.assert_allclose(drawn.std(axis=0), 3.0, rtol=0.2)


def test_the_informed_score_is_the_likelihood_ratio_of_gaussian_noise(tiny: Tiny):
    watch = tiny.watch("federated_dp", targets=np.array([7]))
    seen = replica(watch.terms, watch.parties)
    mechanism = watch.terms.plan.mechanism("update")
    network = network_of(watch.terms.model, watch.terms.width, watch.terms.objective)
    gradients, engine, rng = Gradients(network), engine_for(network), np.random.default_rng(0)
    own = trained_on(watch.terms, watch.rows(np.zeros(1, dtype=bool)), seen.asked[0])
    target = trained_on(watch.terms, watch.target_rows, seen.asked[0])
    rest = np.stack([gradients.clipped_sum(m.parameters, own, clip_norm=mechanism.clip_norm) for m in seen.asked])
    each = np.concatenate([clipped_gradients(engine, m, target, clip_norm=mechanism.clip_norm) for m in seen.asked])
    energy, std = float(np.sum(each**2)), mechanism.noise_std
    assert energy <= len(seen.asked) * mechanism.clip_norm**2 * (1 + 1e-9)
    for member in (False, True):
        drawn = []
        for _ in range(200):
            update = rest + member * each + rng.normal(0.0, std, each.shape)
            score = scores_of_run(watch, replace(seen, updates={**seen.updates, "bank": update}))["informed update"]
            ratio = (score[0] - 0.5) * (energy + 4 * std**2) / std**2  # of its logarithm
            np.testing.assert_allclose(
                ratio, np.sum((update - rest) * each) / std**2 - energy / (2 * std**2), rtol=1e-6, atol=1e-9
            )
            drawn.append(ratio)
        law = stats.norm((member - 0.5) * energy / std**2, np.sqrt(energy) / std)
        assert stats.kstest(drawn, law.cdf).pvalue > 1e-3


@pytest.mark.parametrize("noise", ["local", "distributed", None])
def test_sums_of_others_by_taking_their_noise_off_are_those_computed_anew(opened, noise: str | None):
    market = opened(*([f"privacy.noise={noise}"] if noise else ()))
    watch = market.watch("federated_dp" if noise else "federated", targets=np.arange(5))
    assert watch.terms.plan.generator == "seeded-for-tests"
    seen = replica(watch.terms, watch.parties)
    others = sums_of_others(watch, watch.parties, seen)
    anew = scores_of_run(watch, seen)
    std = watch.terms.plan.mechanism("update").noise_std
    assert others.shape == seen.totals.shape
    for view, scores in scores_of_run(watch, seen, others=others).items():
        np.testing.assert_allclose(scores, anew[view], rtol=1e-3, atol=1e-4)
    if noise:  # and with the noise left in, they would not be
        assert np.abs(seen.totals - seen.updates["bank"] - others).mean() > std / 2


def test_noise_that_nobody_can_draw_again_or_samples_leave_others_to_be_computed(opened):
    for changes in (('privacy.generator="operating-system"',), ("privacy.sample_rate=0.5",)):
        watch = opened(*changes).watch("federated_dp", targets=np.arange(5))
        assert sums_of_others(watch, watch.parties, replica(watch.terms, watch.parties)) is None


def test_gradients_of_targets_add_up_to_the_sum_that_a_party_sends(tiny: Tiny):
    for customers in (None, np.sort(np.random.default_rng(0).integers(0, 60, 114))):
        party = tiny.watch("federated_dp", targets=np.arange(3)).parties["bank"]
        rows = replace(party.rows, customers=customers)
        watch = tiny.watch("federated_dp", targets=np.arange(3), rows=rows)
        model = replica(watch.terms, watch.parties).model
        network = network_of(watch.terms.model, watch.terms.width, watch.terms.objective)
        batch = trained_on(watch.terms, rows, model)
        each = clipped_gradients(engine_for(network), model, batch, clip_norm=0.7)
        assert len(each) == (114 if customers is None else len(np.unique(customers)))
        assert np.linalg.norm(each, axis=1).max() <= 0.7 * (1 + 1e-9)
        total = Gradients(network).clipped_sum(model.parameters, batch, clip_norm=0.7)
        np.testing.assert_allclose(each.sum(axis=0), total, atol=1e-9)


def test_a_customer_is_in_or_out_with_all_rows(tiny: Tiny):
    party = tiny.watch("federated", targets=np.arange(3)).parties["bank"]
    customers = np.arange(len(party.rows.targets)) // 3
    watch = tiny.watch("federated", targets=np.array([1, 4]), rows=replace(party.rows, customers=customers))
    kept = watch.rows(np.array([False, True]))
    assert set(customers) - set(kept.customers) == {1}
    np.testing.assert_array_equal(np.unique(watch.target_rows.customers), [1, 4])
    scores = shadow_run(watch, (0, np.array([True, False])))
    assert all(found.shape == (2,) for found in scores.values())


def test_leverage_is_one_for_who_stands_alone_and_adds_up_to_the_rank(tiny: Tiny):
    watch = tiny.watch("federated", targets=np.arange(3))
    rows, model = watch.parties["bank"].rows, replica(watch.terms, watch.parties).model
    features = np.zeros_like(rows.features[:])
    features[:, 0] = np.linspace(-1, 1, len(features))
    features[5, 3] = 1.0  # a word that nobody else has
    found = leverages(watch.terms, Rows(features=features, targets=rows.targets), model)
    assert found.argmax() == 5
    assert found[5] == pytest.approx(1.0, abs=1e-6)
    assert found.sum() == pytest.approx(3.0, abs=1e-6)
    assert most_exposed(found, 1).tolist() == [5]


def test_spent_money_is_scored_by_the_loss(write_value_market, tmp_path: Path):
    market = open_market(MarketKey(config=write_value_market(tmp_path), changes=(), seed=0))
    name = market.names[0]
    watch = Tiny(market).watch("federated", party=name, targets=np.arange(4))
    scores = shadow_run(watch, (0, np.ones(4, dtype=bool)))
    assert set(scores) == set(VIEWS)
    assert all(np.isfinite(found).all() for found in scores.values())
    assert len(np.unique(scores["model"])) > 1


@pytest.mark.parametrize(
    "changes",
    [
        ("training.local_steps=2", "privacy.sample_rate=0.5"),
        ("privacy.noise=distributed",),
        (),
    ],
)
def test_other_plans_and_networks_are_scored(opened, write_market, tmp_path: Path, changes: tuple[str, ...]):
    market = opened(*changes)
    if not changes:
        deep = write_market(tmp_path, ('kind = "logistic"\n', 'kind = "mlp"\nhidden = [4]\n'))
        market = Tiny(open_market(MarketKey(config=deep, changes=(), seed=0)))
    watch = market.watch("federated_dp", targets=np.arange(5))
    inside, outside = (
        np.stack([shadow_run(watch, (number, np.full(5, present)))["informed update"] for number in range(12)])
        for present in (True, False)
    )
    assert np.isfinite(inside).all()
    assert inside.mean() > outside.mean()


def test_noise_is_new_in_every_run_and_sizes_stay(tiny: Tiny):
    watch = tiny.watch("federated_dp", targets=np.arange(3))
    present = np.ones(3, dtype=bool)
    first, second, again = (shadow_run(watch, (number, present))["update"] for number in (0, 1, 0))
    assert (first != second).all()
    np.testing.assert_array_equal(first, again)
    gone = replace(watch.parties["bank"], rows=watch.rows(~present))
    assert gone.declared_rows == watch.parties["bank"].declared_rows


def test_runs_can_go_to_other_processes(tiny: Tiny):
    watch = tiny.watch("federated", targets=np.arange(3))
    task = (3, np.array([True, False, True]))
    there = pickle.loads(pickle.dumps(partial(shadow_run, watch)))
    for view, scores in shadow_run(watch, task).items():
        np.testing.assert_array_equal(there(task)[view], scores)


# What is refused.


def test_targets_must_be_some_customers_of_the_watched_party(tiny: Tiny):
    for targets in ([], [3, 3], [4, 2], [-1, 2], [0, 114], list(range(114))):
        with pytest.raises(DataError, match="targets"):
            tiny.watch("federated", targets=np.array(targets, dtype=np.int64))
    watch = tiny.watch("federated", targets=np.arange(3))
    with pytest.raises(DataError, match="watched"):
        replace(watch, watched="nobody")
    with pytest.raises(PlanError, match="secure"):
        replace(watch, terms=replace(watch.terms, secagg="secure"))
    with pytest.raises(DataError, match="coins"):
        shadows(watch, np.ones((RUNS, 4), dtype=bool))


def test_few_runs_or_scores_that_are_no_numbers_are_refused():
    coins = fair_coins(RUNS, 4, Stream.seeded(1, "coins"))
    for bad in (coins[:63], coins.astype(float)):
        with pytest.raises(DataError, match="coins"):
            Shadows(coins=bad, scores={})
    for scores in (np.zeros((RUNS, 3)), np.full((RUNS, 4), np.nan)):
        with pytest.raises(DataError, match="model"):
            Shadows(coins=coins, scores={"model": scores})
    with pytest.raises(DataError, match="group"):
        membership(Shadows(coins=coins, scores={}), {"none": np.zeros(4, bool)}, variance="global", confidence=0.95)
