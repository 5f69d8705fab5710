"""Noise that parties share: each adds a share on the grid of the sum, and what adds up is what was promised."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from fedmarket.aggregation.fixedpoint import bytes_to_words
from fedmarket.errors import PlanError
from fedmarket.federation.party import Party, PartyState
from fedmarket.federation.release import Releases
from fedmarket.federation.terms import Terms

DOUBT = 1e-8
PHASES = {"centre": 0, "update": 1, "calibrate": 4, "evaluate": 7}
"""The first round of each phase."""


def empty_party(sharing, terms: Terms, name: str = "a") -> Party:
    """Return a party without rows, whose noise is the operating system's: what it says is noise and nothing else."""
    secret = replace(terms, plan=replace(terms.plan, generator="operating-system"))
    return sharing.party(name, secret, rows=0, held_out=0, declared_rows=40)


def draws(sharing, party: Party, phase: str, count: int) -> np.ndarray:
    """Return the party's words in ``count`` rounds of ``phase``, in steps of the grid, (count, length)."""
    request, start = sharing.request(party.terms, PHASES[phase]), PartyState(run=sharing.run)
    answers = [party.answer(start, request, keep=lambda _: None).content for _ in range(count)]
    return np.stack([bytes_to_words(content, modulus_bits=32).view(np.int32) for content in answers]).astype(float)


def complaints(noise: np.ndarray, std: float) -> list[str]:
    """Return which tests against independent normals of ``std`` reject; steps are far finer than ``std``."""
    z = noise / std
    size = float(np.sum(z**2))
    chances = {
        "size": 2 * min(stats.chi2.sf(size, z.size), stats.chi2.cdf(size, z.size)),
        "shape": stats.kstest(z.ravel(), "norm").pvalue,
        "draws apart": 2 * stats.norm.sf(abs(np.sum(z[1:] * z[:-1])) / np.sqrt(z[1:].size)),
        "coordinates apart": 2 * stats.norm.sf(abs(np.sum(z[:, 1:] * z[:, :-1])) / np.sqrt(z[:, 1:].size)),
    }
    return [name for name, chance in chances.items() if not chance > DOUBT]


@pytest.fixture(scope="module")
def terms(sharing) -> Terms:
    return sharing.terms(secagg="ideal")


@pytest.fixture(scope="module")
def noise(sharing, terms: Terms) -> dict[str, np.ndarray]:
    """Give what three parties without rows say in many rounds of scores, (rounds, length), in steps of the grid."""
    return {name: draws(sharing, empty_party(sharing, terms, name), "evaluate", 400) for name in "abc"}


def test_two_of_three_shares_are_sized_to_be_enough(terms: Terms):
    """A sum has three parties at least, and one of them may tell its share."""
    assert terms.minimum_survivors == 3
    for mechanism in terms.plan.mechanisms:
        promised = mechanism.noise_multiplier * mechanism.sensitivity
        assert mechanism.grid.shares == 2
        assert promised <= np.sqrt(2) * mechanism.noise_std <= promised * (1 + 1e-6)
        assert mechanism.sensitivity >= mechanism.clip_norm


@pytest.mark.statistical
def test_the_words_of_a_party_carry_one_share_of_discrete_noise(terms: Terms, noise: dict[str, np.ndarray]):
    mechanism = terms.plan.mechanism("evaluate")
    steps = mechanism.noise_std / mechanism.grid.resolution
    for name, words in noise.items():
        assert complaints(words, steps) == [], name
    words = noise["a"]
    assert "size" in complaints(0.9 * words, steps)
    assert "size" in complaints(words, np.sqrt(2) * steps)  # the whole noise, as if it were not shared
    assert "coordinates apart" in complaints(np.repeat(words[:, :1], words.shape[1], axis=1), steps)
    assert complaints(steps * np.sqrt(12) * (stats.norm.cdf(words / steps) - 0.5), steps) != []


@pytest.mark.statistical
@pytest.mark.parametrize("phase", ["centre", "update", "calibrate"])
def test_so_they_do_in_every_other_phase(sharing, terms: Terms, phase: str):
    mechanism = terms.plan.mechanism(phase)
    words = draws(sharing, empty_party(sharing, terms), phase, 600)
    assert words.shape[1] == terms.length_of(phase)
    assert complaints(words, mechanism.noise_std / mechanism.grid.resolution) == []
    assert complaints(0.8 * words, mechanism.noise_std / mechanism.grid.resolution) != []


@pytest.mark.statistical
@pytest.mark.parametrize("parties", [2, 3])
def test_the_noise_of_the_sum_is_that_of_all_its_shares_and_of_two_what_was_promised(
    terms: Terms, noise: dict[str, np.ndarray], parties: int
):
    mechanism = terms.plan.mechanism("evaluate")
    total = sum(list(noise.values())[:parties])
    share = mechanism.noise_std / mechanism.grid.resolution
    assert complaints(total, np.sqrt(parties) * share) == []
    promised = mechanism.noise_multiplier * mechanism.sensitivity / mechanism.grid.resolution
    assert (complaints(total, promised) == []) == (parties == 2)
    assert "size" in complaints(parties * noise["a"], np.sqrt(parties) * share)  # were they all the same draw


@pytest.mark.statistical
def test_no_two_parties_draw_the_same_share(noise: dict[str, np.ndarray]):
    for one, other in ("ab", "ac", "bc"):
        alike = np.corrcoef(noise[one].ravel(), noise[other].ravel())[0, 1]
        assert abs(alike) < 6 / np.sqrt(noise[one].size)
        assert not (noise[one] == noise[other]).all(axis=1).any()


@pytest.mark.parametrize("secagg", ["secure", "ideal"])
def test_what_a_party_releases_is_on_the_grid_and_no_word_is_rounded(sharing, monkeypatch, secagg: str):
    released, release = [], Releases.of

    def watched(releases, phase, model, stream):
        released.append(release(releases, phase, model, stream))
        return released[-1]

    monkeypatch.setattr(Releases, "of", watched)
    member = sharing.member("a", secagg=secagg)
    terms = member.party.terms
    for number in range(terms.rounds):
        words = sharing.released(member, number)
        phase = terms.phase_of(number)
        grid = terms.grid_of(phase)
        assert grid.resolution == terms.plan.mechanism(phase).grid.resolution
        steps = released[number] / grid.resolution
        np.testing.assert_array_equal(steps, np.rint(steps))
        np.testing.assert_array_equal(words.view(np.int32), steps)


def test_a_share_is_added_to_the_sum_rounded_to_the_grid(sharing):
    """With and without a row, under the same draw, the words differ by the row and by less than half a step of it."""
    one, other = sharing.rows(40), sharing.rows(40)
    other.features[7] = 0.0
    terms = sharing.terms(secagg="ideal")
    words = [sharing.released(sharing.member("a", secagg="ideal", rows=rows), 0) for rows in (one, other)]
    grid = terms.grid_of("centre")
    moved = grid.decode(words[0]) - grid.decode(words[1])
    assert np.abs(moved - one.features[7]).max() <= grid.resolution
    assert grid.resolution < 1e-3


@pytest.mark.parametrize("parties", [4, 5])
def test_masked_or_in_the_open_the_model_and_the_counts_are_the_same_to_the_last_bit(sharing, parties: int):
    runs = []
    for mode in ("secure", "ideal"):
        coordinator, members = sharing.market(parties, secagg=mode)
        runs.append((sharing.drive(coordinator, members), coordinator.statistics.scores))
        assert coordinator.void_rounds == []
        assert {member.state.spending.update for member in members} == {3}
    (secure, counts), (ideal, other) = runs
    assert secure.parameters.any()
    assert sharing.same(secure, ideal)
    np.testing.assert_array_equal(counts.counts, other.counts)


def test_of_parties_that_are_lost_the_shares_are_lost_too_and_the_rest_is_enough(sharing):
    models = []
    for mode, step in (("secure", "mask"), ("ideal", "sum")):
        coordinator, members = sharing.market(4, secagg=mode)
        sharing.round(coordinator, members, lost={(0, step): {"p3"}})
        assert coordinator.void_rounds == []
        models.append(coordinator.model)
    assert sharing.same(*models)
    coordinator, members = sharing.market(4, secagg="ideal")
    sharing.round(coordinator, members, lost={(0, "sum"): {"p2", "p3"}})  # two shares: as many as must stay unknown
    assert len(coordinator.void_rounds) == 1


@pytest.mark.parametrize("lost", [set(), {"p1"}])
def test_the_coordinator_reckons_with_the_noise_of_all_survivors(sharing, lost: set[str]):
    coordinator, members = sharing.market(4, secagg="ideal")
    sharing.drive(coordinator, members, lost={(7, "sum"): lost})
    mechanism = coordinator.terms.plan.mechanism("evaluate")
    assert coordinator.statistics.scores.noise_std == mechanism.noise_std * np.sqrt(4 - len(lost))


def test_more_than_one_local_step_is_refused(sharing):
    """A share of noise does not protect a party's own steps, which it makes before anything is summed."""
    training = sharing.config.training.model_copy(update={"local_steps": 2})
    other = type(sharing)(sharing.config.model_copy(update={"training": training}))
    with pytest.raises(PlanError, match=r"local_steps of a private schedule: expected 1 with distributed noise, got 2"):
        other.terms()


@pytest.mark.parametrize("phase", PHASES)
def test_the_range_holds_the_rows_and_the_largest_draws_of_all_parties(sharing, phase: str):
    terms = sharing.terms()
    mechanism, grid = terms.plan.mechanism(phase), terms.grid_of(phase)
    largest = mechanism.noise_reach
    assert largest >= 12 * mechanism.noise_std
    assert grid.bound >= terms.max_party_rows * mechanism.clip_norm + largest
    assert terms.max_parties * grid.bound / grid.resolution < 2**31
    edge = np.full(3, terms.max_party_rows * mechanism.clip_norm + largest)
    words = [grid.encode(sign * edge) for sign in (1, -1)]
    for sign, encoded in zip((1, -1), words, strict=True):
        total = (encoded * np.uint32(terms.max_parties)).astype(np.uint32)
        expected = sign * terms.max_parties * np.rint(edge / grid.resolution) * grid.resolution
        np.testing.assert_array_equal(grid.decode(total), expected)


@pytest.mark.parametrize("changed", [{"max_parties": 10_000}, {"max_party_rows": 10**7}])
def test_a_grid_that_would_not_hold_the_sum_is_refused(sharing, changed: dict[str, int]):
    with pytest.raises(PlanError, match=r"aggregation\.modulus_bits: 32 bits do not hold the sum with its noise"):
        replace(sharing.terms(), **changed).grid_of("centre")
