"""A sensitive column is read from open updates by who knows the rest; behind noise the population tells as much."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fedmarket.errors import DataError
from fedmarket.experiment.arms import arm_named, terms_of
from fedmarket.experiment.market import Market, MarketKey, open_market
from fedmarket.federation.party import Party
from fedmarket.federation.release import trained_on
from fedmarket.federation.rows import Rows
from fedmarket.models.network import network_of
from fedmarket.risk.attributes import Guesses, Secret, _by_updates, attribute_inference
from fedmarket.risk.replica import Seen, in_the_open, replica
from fedmarket.training.gradients import Gradients

WATCHED = "grocer"


@pytest.fixture(scope="module")
def market(write_market, tmp_path_factory: pytest.TempPathFactory) -> Market:
    path = write_market(tmp_path_factory.mktemp("attributes"))
    return open_market(MarketKey(config=Path(path), changes=(), seed=0))


@pytest.fixture(scope="module")
def run_of(market: Market):
    def run(arm: str) -> tuple[Seen, dict[str, Party]]:
        made = arm_named(arm)
        terms = in_the_open(terms_of(made, market.config, market.contract, seed=0))
        parties = {name: market.party(made, name, terms=terms) for name in market.names}
        return replica(terms, parties), parties

    return run


@pytest.fixture(scope="module")
def secret(market: Market) -> Secret:
    held_out = market.test_rows
    reference = Rows(features=market.features[held_out], targets=market.population.targets[held_out])
    targets = np.random.default_rng(0).choice(len(market.deal.train[WATCHED]), 80, replace=False)
    return Secret(layout=market.layout, column="region", reference=reference, targets=targets)


def guessed(secret: Secret, run: tuple[Seen, dict[str, Party]]) -> Guesses:
    return attribute_inference(secret, run[0], run[1], watched=WATCHED, confidence=0.95)


@pytest.mark.parametrize("arm", ["federated", "federated_rounded"])
def test_who_knows_all_other_rows_reads_the_column_from_open_updates(run_of, secret: Secret, arm: str):
    found = guessed(secret, run_of(arm))
    for view in ("informed update", "informed aggregate"):
        assert found.found[view].estimate == 1.0
        assert found.gain[view].low > 0.2
    assert found.imputed.high < 0.9


def test_behind_noise_nothing_is_gained_over_the_population(run_of, secret: Secret):
    found = guessed(secret, run_of("federated_dp"))
    for gain in found.gain.values():
        assert gain.low <= 0 <= gain.high
        assert abs(gain.estimate) < 0.1


def test_the_model_alone_adds_little_to_what_the_population_tells(run_of, secret: Secret):
    found = guessed(secret, run_of("federated"))
    assert abs(found.gain["model"].estimate) < 0.15


def test_the_gain_is_the_difference_of_both_shares(run_of, secret: Secret):
    found = guessed(secret, run_of("federated_dp"))
    for view, gain in found.gain.items():
        assert gain.estimate == pytest.approx(found.found[view].estimate - found.imputed.estimate)
    assert found.targets == 80


def test_updates_of_other_rows_tell_nothing(run_of, secret: Secret):
    seen, parties = run_of("federated_dp")
    rng = np.random.default_rng(0)
    # What is seen has no sum of rows in it, but noise alone: the guess must not improve.
    noise = {name: rng.normal(0.0, 50.0, update.shape) for name, update in seen.updates.items()}
    found = guessed(secret, (replace(seen, updates=noise), parties))
    assert found.gain["informed update"].low <= 0


def test_candidates_are_weighed_by_how_far_their_gradient_is_from_what_is_left(run_of, secret: Secret):
    seen, parties = run_of("federated_dp")
    few = replace(secret, targets=np.sort(secret.targets)[:3])
    rows, mechanism = parties[WATCHED].rows, seen.terms.plan.mechanism("update")
    own = Rows(features=rows.features[few.targets], targets=rows.targets[few.targets])
    found = _by_updates(few, seen, parties, WATCHED, own)["informed update"]
    network = network_of(seen.terms.model, seen.terms.width, seen.terms.objective)
    gradients, slots = Gradients(network), few.slots
    expected = np.zeros_like(found)
    for place, target in enumerate(few.targets):
        others = np.arange(len(rows.targets)) != target
        rest = Rows(features=rows.features[others], targets=rows.targets[others])
        for word in range(slots.stop - slots.start):
            features = own.features[[place]].copy()
            features[:, slots.start : slots.stop] = 0
            features[:, slots.start + word] = 1
            own_guess = Rows(features=features, targets=own.targets[[place]])
            for asked, update in zip(seen.asked, seen.updates[WATCHED], strict=True):
                sums = [
                    gradients.clipped_sum(
                        asked.parameters, trained_on(seen.terms, guess, asked), clip_norm=mechanism.clip_norm
                    )
                    for guess in (rest, own_guess)
                ]
                expected[place, word] -= np.sum((update - sums[0] - sums[1]) ** 2) / (2 * mechanism.noise_std**2)
    np.testing.assert_allclose(
        found - found[:, :1], expected - expected[:, :1], atol=1e-6
    )  # what is the same for all words does not count


def test_columns_and_targets_that_are_not_there_are_refused(run_of, secret: Secret):
    run = run_of("federated")
    for column in ("age", "nothing"):
        with pytest.raises(DataError, match="words"):
            guessed(replace(secret, column=column), run)
    for targets in ([], [1, 1], [-1], [10_000]):
        with pytest.raises(DataError, match="targets"):
            guessed(replace(secret, targets=np.array(targets, dtype=np.int64)), run)
    alike = Rows(features=secret.reference.features[:1], targets=secret.reference.targets[:1])
    with pytest.raises(DataError, match="two words"):
        guessed(replace(secret, reference=alike), run)
