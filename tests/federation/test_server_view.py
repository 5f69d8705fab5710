"""Nothing but the sum: all that a server sends and gets in a run tells no more about a party than the sum does.

Masks are the operating system's. A right protocol fails one of these tests about once in a million runs; each is shown
to reject a protocol that is wrong in one place.
"""

import numpy as np
import pytest
from scipy import stats

from fedmarket.aggregation.fixedpoint import bytes_to_words
from fedmarket.aggregation.secagg import party as protocol
from fedmarket.aggregation.secagg.keys import pair_mask_key, self_mask_key
from fedmarket.aggregation.secagg.masks import add_masks, pair_sign
from fedmarket.aggregation.secagg.state import PartyState as Secagg
from fedmarket.aggregation.secagg.wire import HEADER
from fedmarket.config import MlpModel
from fedmarket.federation.party import Party
from fedmarket.federation.release import Releases
from fedmarket.models.network import network_of, parameter_count

pytestmark = pytest.mark.statistical

RARE = 1e-9
"""Level of one test, the number of its parts counted in."""

WIDE = MlpModel(kind="mlp", binning=True, hidden=(100, 100))
"""Enough words in one vector to see a bias in."""

WIDE_PARAMETERS = parameter_count(network_of(WIDE, 4))


# Statistics of words. Each returns a p-value times the number of its parts.


def bits_of(words: np.ndarray) -> np.ndarray:
    """Return (n, bits) bits."""
    return np.unpackbits(words.view(np.uint8)).reshape(len(words), -1)


def p_of_bytes(words: np.ndarray) -> float:
    """Chi-squared test of the histogram of each byte of a word."""
    columns = words.view(np.uint8).reshape(len(words), -1).T
    return len(columns) * min(stats.chisquare(np.bincount(column, minlength=256)).pvalue for column in columns)


def p_of_shares(heads: np.ndarray) -> float:
    """Test of (n, k) bits: each of the k columns is heads half of the time."""
    apart = np.abs(heads.mean(axis=0) - 0.5).max() * 2
    return heads.shape[1] * 2 * stats.norm.sf(apart * np.sqrt(len(heads)))


def uneven(words: np.ndarray) -> float:
    """Test of uniform and independent words: bytes, bits, and bits of words that follow each other."""
    bits = bits_of(words)
    serial = [p_of_shares(bits[lag:] == bits[:-lag]) for lag in (1, 2, 3)]
    return 5 * min(p_of_bytes(words), p_of_shares(bits), *serial)


def related(one: np.ndarray, other: np.ndarray) -> float:
    """Test of unrelated words, of which at least one vector is uniform: bits that agree, difference and sum."""
    agree = p_of_shares(bits_of(one) == bits_of(other))
    return 3 * min(agree, p_of_bytes(one - other), p_of_bytes(one + other))


def differ(one: np.ndarray, other: np.ndarray) -> float:
    """Two-sample test of the histograms of each byte of a word."""
    columns = [words.view(np.uint8).reshape(len(words), -1).T for words in (one, other)]
    tables = [np.array([np.bincount(byte, minlength=256) for byte in pair]) for pair in zip(*columns, strict=True)]
    return len(tables) * min(stats.chi2_contingency(table[:, table.any(axis=0)]).pvalue for table in tables)


def wide_market(world):
    return world.market(4, model=WIDE, parameters=WIDE_PARAMETERS)


@pytest.fixture(scope="module")
def view(world):
    """Return the view of a whole run of four parties."""
    coordinator, members = wide_market(world)
    seen = world.seen_rounds(coordinator, members, rounds=coordinator.terms.rounds)
    assert coordinator.void_rounds == []
    return seen


NAMES = ("p0", "p1", "p2", "p3")
WIDE_ROUNDS = (1, 2, 3)


# Each masked vector by itself, and against all others.


def test_every_masked_vector_is_uniform(view):
    for number in WIDE_ROUNDS:
        for name in NAMES:
            assert uneven(view.masked(number, name)) > RARE
    short = np.concatenate([view.masked(number, name) for number in (0, 4, 5, 6, 7) for name in NAMES])
    assert p_of_shares(bits_of(short)) > RARE


def test_no_masked_vector_is_related_to_the_words_that_it_hides(view):
    for number in WIDE_ROUNDS:
        for name in NAMES:
            for of in NAMES:
                assert related(view.masked(number, name), view.words[number, of]) > RARE


def test_no_two_masked_vectors_are_related(view):
    """Of two parties, of one party in two rounds, and of two parties in two rounds."""
    vectors = [view.masked(number, name) for number in WIDE_ROUNDS for name in NAMES]
    for place, one in enumerate(vectors):
        for other in vectors[:place]:
            assert related(one, other) > RARE


def test_no_sum_of_some_masked_vectors_is_less_than_uniform(view):
    for number in WIDE_ROUNDS:
        for left_out in NAMES:
            others = sum(view.masked(number, name) for name in NAMES if name != left_out)
            assert uneven(others) > RARE
        assert uneven(sum(view.masked(number, name) for name in NAMES)) > RARE  # the self-masks are still on


def test_commitments_and_sealed_shares_are_uniform_bytes(view):
    content = b"".join(u.content[HEADER.size : -64] for (_, step, _), u in view.updates.items() if step == "share")
    counts = np.bincount(np.frombuffer(content, dtype=np.uint8), minlength=256)
    assert stats.chisquare(counts).pvalue > RARE


def test_no_word_of_a_party_is_anywhere_in_the_view(view):
    """Neither as it is nor as the number that it stands for."""
    seen = b"".join(view.everything().values())
    for (number, _), words in view.words.items():
        if number in WIDE_ROUNDS:
            for start in range(0, len(words) - 3, 500):
                assert words[start : start + 3].tobytes() not in seen
                assert words[start : start + 3].byteswap().tobytes() not in seen


# The same tests reject what is masked badly.


def test_words_that_are_not_masked_would_be_seen(view):
    words = view.words[1, "p0"]
    assert uneven(words) < RARE
    assert related(words, words) < RARE


def test_a_mask_used_in_two_rounds_would_be_seen(view):
    mask = view.masked(1, "p0") - view.words[1, "p0"]
    again = view.words[2, "p0"] + mask
    assert uneven(again) > RARE  # by itself it looks fine
    assert related(again, view.masked(1, "p0")) < RARE


def test_a_mask_used_by_two_parties_would_be_seen(view):
    mask = view.masked(1, "p0") - view.words[1, "p0"]
    for sign in (1, -1):
        again = view.words[1, "p1"] + (mask if sign == 1 else -mask)
        assert uneven(again) > RARE
        assert related(again, view.masked(1, "p0")) < RARE


@pytest.mark.parametrize("bit", [0, 7, 31])
def test_a_stream_with_one_biased_bit_would_be_seen(view, bit: int):
    masked = view.masked(1, "p0")
    coins = np.random.default_rng(0).random(len(masked)) < 0.1
    biased = np.where(coins, masked | np.uint32(1 << bit), masked)
    assert uneven(biased) < RARE


def test_a_stream_that_repeats_would_be_seen(view):
    masked = view.masked(1, "p0")
    for period in (1, 2, 3):
        assert uneven(np.repeat(masked[: len(masked) // 4], period + 1)) < RARE


def test_a_vector_masked_in_half_would_be_seen(view):
    masked, words = view.masked(1, "p0"), view.words[1, "p0"]
    low = np.uint32(0xFFFF)
    assert uneven((masked & low) | (words & ~low)) < RARE
    assert uneven(np.concatenate([masked[::2], words[::2]])) < RARE


# What is left after everything that a server may learn is taken off.


def late_party(world, *, broken=None) -> tuple[np.ndarray, np.ndarray]:
    """Return what is left of a vector that the server got and declared lost, and the words in it.

    It then learns the party's mask secret from the others, and takes its pair masks off.
    """
    coordinator, members = wide_market(world)
    world.seen_rounds(coordinator, members, rounds=1)
    words, honest = {}, protocol.add_masks
    paid = Party._paid_words

    def watched(party, *args):
        state, words[party.name] = paid(party, *args)
        return state, words[party.name].copy()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Party, "_paid_words", watched)
        if broken:
            patch.setattr(protocol, "add_masks", lambda w, masks: honest(w, broken("", list(masks))))
        world.until(coordinator, members, "mask")
        kept = world.step(coordinator, members, undelivered={"p3"})["p3"]
    secure = coordinator._rounds.first.sum
    world.finish(coordinator, members, 1)
    (secret,) = secure._recovery.keys.values()
    left = bytes_to_words(kept.content[HEADER.size : -64], modulus_bits=32).copy()
    known = [(pair_mask_key(secure.context, secure._agreement, secret, own=3, peer=peer), 1) for peer in range(3)]
    add_masks(left, known)  # p3 is the last: it took them off, all three
    return left, words["p3"]


def test_a_vector_that_came_late_stays_hidden_by_its_self_mask(world):
    left, words = late_party(world)
    assert uneven(left) > RARE
    assert related(left, words) > RARE


def test_without_self_masks_a_late_vector_would_be_in_the_open(world):
    left, words = late_party(world, broken=lambda _, masks: masks[1:])
    np.testing.assert_array_equal(left, words)
    assert uneven(left) < RARE


def moved(members, by: np.ndarray):
    """Return a release that moves p0's sums up and p1's down by ``by``."""
    release, names = Releases.of, {id(member.party._releases): member.name for member in members}

    def call(releases, *args):
        shift = {"p0": by, "p1": -by}.get(names[id(releases)], 0.0)
        return release(releases, *args) + shift

    return call


def against_a_coalition(world, by: np.ndarray, *, broken=None):
    """Return what is left of p0's and p1's vectors for a server with p2 and p3 on its side, and the round's sum.

    They know their own mask secrets, and the server all self-masks that the round took off.
    """
    coordinator, members = wide_market(world)
    world.seen_rounds(coordinator, members, rounds=1)
    world.until(coordinator, members, "mask")
    secure = coordinator._rounds.first.sum
    secrets = {
        place: bytes(
            Secagg.from_bytes(
                members[place].state.open[1], context=secure.context, identity=members[place].party.seat.identity
            ).secrets.mask
        )
        for place in (2, 3)
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Releases, "of", moved(members, by))
        view = world.seen_rounds(coordinator, members, rounds=1, broken=broken)
    left = []
    for place in (0, 1):
        words = view.masked(1, f"p{place}")
        seed = secure._recovery.seeds[place]
        known = [(self_mask_key(secure.context, secure._agreement, seed, own=place), -1)]
        for other, secret in secrets.items():
            key = pair_mask_key(secure.context, secure._agreement, secret, own=other, peer=place)
            known.append((key, -pair_sign(place, other)))
        add_masks(words, known)
        left.append(words)
    return left, coordinator.model


@pytest.fixture(scope="module")
def shift(world) -> np.ndarray:
    """Return a large vector that is exact on the grid."""
    grid = world.terms(model=WIDE, parameters=WIDE_PARAMETERS).grid_of("update")
    steps = np.random.default_rng(1).integers(-(2**25), 2**25, WIDE_PARAMETERS)
    assert np.abs(steps * grid.resolution).max() < grid.bound / 2
    return steps * grid.resolution


def no_pair_mask(name: str, masks: list) -> list:
    """Leave out the mask that p0 and p1 have in common: the first of the pairs for both."""
    return [masks[0], *masks[2:]] if name in ("p0", "p1") else masks


def test_two_inputs_with_one_sum_give_one_law_of_the_view_even_to_a_coalition(world, shift: np.ndarray):
    """All but two parties work with the server: it still sees the two parties' sum and nothing else."""
    (one, model), (other, again) = (against_a_coalition(world, by) for by in (np.zeros_like(shift), shift))
    assert world.same(model, again)
    for place in (0, 1):
        assert differ(one[place], other[place]) > RARE
        assert uneven(one[place]) > RARE
        assert uneven(other[place]) > RARE
    np.testing.assert_array_equal(one[0] + one[1], other[0] + other[1])


def test_without_one_pairs_masks_the_two_views_would_be_told_apart(world, shift: np.ndarray):
    (one, model), (other, again) = (
        against_a_coalition(world, by, broken=no_pair_mask) for by in (np.zeros_like(shift), shift)
    )
    assert world.same(model, again)  # the sum is right: nobody would have noticed
    for place in (0, 1):
        assert differ(one[place], other[place]) < RARE
        assert uneven(one[place]) < RARE


def test_two_inputs_with_one_sum_give_one_law_of_every_byte_that_the_server_sees(world, shift: np.ndarray):
    views = []
    for by in (np.zeros_like(shift), shift):
        coordinator, members = wide_market(world)
        world.round(coordinator, members)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Releases, "of", moved(members, by))
            views.append(world.seen_rounds(coordinator, members, rounds=3))
    first, second = (view.everything() for view in views)
    assert {at: len(content) for at, content in first.items()} == {at: len(c) for at, c in second.items()}
    for at, content in first.items():
        if at[-1] in ("model", "model hash"):
            assert content == second[at]
    for step in ("advertise", "share", "unmask"):
        joined = [
            np.frombuffer(
                b"".join(u.content[HEADER.size :] for (_, s, _), u in view.updates.items() if s == step), "u1"
            )
            for view in views
        ]
        assert differ(*joined) > RARE
    for name in NAMES:
        for number in WIDE_ROUNDS:
            assert differ(*(view.masked(number, name) for view in views)) > RARE
    assert differ(*(view.words[1, "p0"] for view in views)) < RARE  # unmasked, they are told apart
