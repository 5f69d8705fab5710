"""Parties whose training is computed together get what each would get alone, bit by bit."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmarket.models.network import Network, parameter_count
from fedmarket.models.objectives import RESPONSE, Objective, Tweedie, ZeroInflatedLognormal
from fedmarket.privacy.mechanism import Mechanism
from fedmarket.privacy.noise import Stream
from fedmarket.training import cohort
from fedmarket.training.batch import Batch
from fedmarket.training.cohort import Member, update_sums
from fedmarket.training.gradients import Gradients
from fedmarket.training.sums import update_sum

WIDTH = 4
OBJECTIVES = (
    RESPONSE,
    Objective(response=False, value=ZeroInflatedLognormal(typical=50.0, upper=5000.0)),
    Objective(response=True, value=Tweedie(typical=50.0, upper=5000.0, power=1.5)),
)


def batch_of(rng: np.random.Generator, count: int, objective: Objective, *, weighted: bool, customers: bool) -> Batch:
    targets = rng.random((count, objective.targets)) < 0.4
    targets = targets * np.where(np.arange(objective.targets) < int(objective.response), 1.0, 80.0)
    return Batch(
        features=torch.from_numpy(rng.standard_normal((count, WIDTH)).astype(np.float32)),
        targets=torch.from_numpy(targets.astype(np.float32)),
        weights=torch.from_numpy(rng.random(count).astype(np.float32)) if weighted else None,
        customers=torch.from_numpy(np.sort(rng.integers(0, 1 + count // 2, count))) if customers else None,
        objective=objective,
    )


@settings(max_examples=40, deadline=None)
@given(
    counts=st.lists(st.integers(0, 90), min_size=1, max_size=6),
    hidden=st.lists(st.integers(1, 5), max_size=2),
    objective=st.sampled_from(OBJECTIVES),
    rate=st.sampled_from([0.3, 1.0]),
    noise=st.sampled_from([0.0, 1.5]),
    kinds=st.lists(st.tuples(st.booleans(), st.booleans()), min_size=6, max_size=6),
    seed=st.integers(0, 99),
)
def test_each_party_gets_what_it_would_get_alone(counts, hidden, objective, rate, noise, kinds, seed):
    rng = np.random.default_rng(seed)
    network = Network(WIDTH, tuple(hidden), objective.scales)
    parameters = 0.5 * rng.standard_normal(parameter_count(network))
    batches = [
        batch_of(rng, count, objective, weighted=weighted, customers=customers)
        for count, (weighted, customers) in zip(counts, kinds, strict=False)
    ]
    mechanism = Mechanism(
        phase="update", clip_norm=0.7, noise_multiplier=noise, sample_rate=rate, releases=3, length=len(parameters)
    )
    streams = [[Stream.seeded(seed, str(place)) for place in range(len(batches))] for _ in range(2)]
    common = {"steps": 3, "learning_rate": 0.2, "mechanism": mechanism}
    members = [
        Member(batch=batch, declared_rows=10 + place, stream=stream)
        for place, (batch, stream) in enumerate(zip(batches, streams[0], strict=True))
    ]
    together = update_sums(network, parameters, members, **common)
    alone = [
        update_sum(Gradients(network), parameters, batch, declared_rows=10 + place, stream=stream, **common)
        for place, (batch, stream) in enumerate(zip(batches, streams[1], strict=True))
    ]
    np.testing.assert_array_equal(together, np.array(alone))


def members_of(rng: np.random.Generator, counts: list[int], *, seed: int = 0) -> list[Member]:
    return [
        Member(
            batch=batch_of(rng, count, RESPONSE, weighted=False, customers=False),
            declared_rows=100,
            stream=Stream.seeded(seed, str(place)),
        )
        for place, count in enumerate(counts)
    ]


def test_every_party_that_fits_is_in_one_group_of_a_chunk(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cohort, "CHUNK", 200)
    counts = [0, 150, 201, 60, 140, 199, 1, 1, 200, 500]
    members = members_of(np.random.default_rng(0), counts)
    assert list(cohort._groups(members, sample_rate=1.0)) == [[0, 1], [3, 4], [5, 6], [7], [8]]
    assert list(cohort._groups(members, sample_rate=0.25)) == [[0, 1, 3, 4, 5, 6, 7, 8]]
    monkeypatch.setattr(cohort, "MOST_ROWS", 400)
    assert list(cohort._groups(members, sample_rate=0.25)) == [[0, 1, 3, 4], [5, 6, 7], [8]]


def test_a_row_that_is_not_finite_adds_nothing_and_changes_nobody_else(mechanism):
    network = Network(WIDTH, (3,), (1.0,))
    start = np.random.default_rng(1).standard_normal(parameter_count(network))
    sums = []
    for broken in (False, True):
        members = members_of(np.random.default_rng(0), [20, 21, 22, 23])
        if broken:
            batch = members[2].batch
            more = Batch(
                features=torch.cat([batch.features, torch.full((1, WIDTH), np.inf)]),
                targets=torch.cat([batch.targets, torch.ones(1, 1)]),
            )
            members[2] = Member(batch=more, declared_rows=100, stream=members[2].stream)
        plan = mechanism(length=len(start))
        sums.append(update_sums(network, start, members, steps=2, learning_rate=0.1, mechanism=plan))
    np.testing.assert_array_equal(sums[0], sums[1])


def test_a_group_is_one_call_for_all_its_parties(monkeypatch: pytest.MonkeyPatch, mechanism):
    """What makes it fast, counted: a step of eighty parties is as many calls of the engine as one of eight."""
    calls = []
    stacked = cohort.stacked
    monkeypatch.setattr(cohort, "stacked", lambda *given, **more: calls.append(1) or stacked(*given, **more))
    network = Network(WIDTH, (3,), (1.0,))
    start = np.zeros(parameter_count(network))
    for parties in (8, 80):
        members = members_of(np.random.default_rng(0), [20] * parties)
        update_sums(network, start, members, steps=5, learning_rate=0.1, mechanism=mechanism(length=len(start)))
    assert len(calls) == 2 * 5
