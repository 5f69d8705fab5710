"""The server's whole view of rounds: each masked vector looks uniform and independent, and only sums come out.

Every statistic is shown to have power: it rejects vectors that are unmasked, masked in half, or masked twice alike.
Randomness is the operating system's; a right protocol fails one of these tests about once in ten million runs.
"""

import numpy as np
import pytest
from scipy import stats

LENGTH = 1 << 15
RARE = 1e-9

pytestmark = pytest.mark.statistical


def uniform_bytes(words):
    """P-value of the chi-squared test of the byte histogram, for each byte of a word by itself, at its least."""
    columns = words.view(np.uint8).reshape(len(words), -1).T
    return min(stats.chisquare(np.bincount(column, minlength=256)).pvalue for column in columns)


def uncorrelated(one, other):
    """P-value of the correlation of two vectors, bit by bit at its least, for any sign."""
    worst = 0.0
    for bit in range(one.dtype.itemsize * 8):
        a, b = ((x >> one.dtype.type(bit)) & one.dtype.type(1) for x in (one, other))
        worst = max(worst, abs(2.0 * float(np.mean(a == b)) - 1.0))
    return 2 * stats.norm.sf(worst * np.sqrt(len(one)))


def masked_vectors(this):
    width = f"<u{this.context.modulus_bits // 8}"
    return {i: np.frombuffer(message[43:-64], dtype=width) for i, message in this.sent["mask"].items()}


@pytest.fixture(scope="module", params=[32, 64])
def rounds(request, new_round):
    """Return two rounds of four parties with the same small inputs."""
    made = []
    for number in (1, 2):
        this = new_round(4, length=LENGTH, modulus_bits=request.param, round_number=number)
        this.inputs = [np.arange(LENGTH, dtype=f"u{request.param // 8}") % (50 + i) for i in range(4)]
        np.testing.assert_array_equal(this.run({"mask": {3}}), this.plain_sum({0, 1, 2}))
        made.append(this)
    return made


def test_every_masked_vector_has_uniform_bytes(rounds):
    for this in rounds:
        assert min(map(uniform_bytes, masked_vectors(this).values())) > RARE


def test_masked_vectors_do_not_correlate_with_inputs_or_each_other(rounds):
    first, second = map(masked_vectors, rounds)
    for i in first:
        assert uncorrelated(first[i], rounds[0].inputs[i]) > RARE
        assert uncorrelated(first[i], second[i]) > RARE
        for j in first:
            if j != i:
                assert uncorrelated(first[i], first[j]) > RARE


def test_differences_and_partial_sums_stay_uniform(rounds):
    first, second = map(masked_vectors, rounds)
    for i in first:
        assert uniform_bytes(first[i] - second[i]) > RARE
    assert uniform_bytes(first[0] + first[1]) > RARE
    # Even the sum of all is masked by the survivors' own seeds until those are released.
    assert uniform_bytes(first[0] + first[1] + first[2]) > RARE


def test_the_tests_reject_an_unmasked_vector(rounds):
    assert uniform_bytes(rounds[0].inputs[0]) < RARE
    assert uncorrelated(rounds[0].inputs[0], rounds[0].inputs[0]) < RARE


def test_the_tests_reject_a_mask_used_twice(rounds):
    masked = masked_vectors(rounds[0])[0]
    again = masked - rounds[0].inputs[0] + rounds[0].inputs[1]
    assert uniform_bytes(masked) > RARE  # alone it looks fine
    assert uniform_bytes(again - masked) < RARE
    assert uncorrelated(again, masked) < RARE


def test_the_tests_reject_a_vector_masked_in_half(rounds):
    masked, plain = masked_vectors(rounds[0])[0], rounds[0].inputs[0]
    half = LENGTH // 2
    assert uniform_bytes(np.concatenate([masked[:half], plain[half:]])) < RARE
    low = masked.dtype.type((1 << (masked.dtype.itemsize * 4)) - 1)
    assert uniform_bytes((masked & low) | (plain & ~low)) < RARE


def test_two_inputs_with_the_same_sum_give_the_same_total_and_views_alike(new_round):
    generator = np.random.default_rng(5)
    shift = generator.integers(0, 2**32, LENGTH, dtype=np.uint32)
    views, totals = [], []
    for moved in (np.zeros(LENGTH, np.uint32), shift):
        this = new_round(4, length=LENGTH)
        this.inputs = [np.full(LENGTH, 7, np.uint32) for _ in range(4)]
        this.inputs[0] = this.inputs[0] + moved
        this.inputs[1] = this.inputs[1] - moved
        totals.append(this.run())
        views.append(masked_vectors(this))
    np.testing.assert_array_equal(*totals)
    for i in range(4):
        pair = [np.bincount(view[i].view(np.uint8), minlength=256) for view in views]
        assert stats.chi2_contingency(np.array(pair)).pvalue > RARE
        assert uncorrelated(views[0][i], views[1][i]) > RARE


def test_no_input_travels_outside_of_the_masked_vectors(new_round):
    this = new_round(4, length=64)
    this.run({"mask": {3}})
    view = b"".join(message for sent in this.sent.values() for message in sent.values())
    for words in this.inputs:
        for start in range(0, 64, 2):
            assert words[start : start + 2].tobytes() not in view


@pytest.mark.parametrize("step", ["advertise", "share", "consent", "unmask"])
def test_the_size_of_every_other_message_depends_on_nothing_private(new_round, step):
    sizes = set()
    for seed in range(3):
        this = new_round(4, seed=seed)
        this.run()
        sizes |= {len(message) for message in this.sent[step].values()}
    assert len(sizes) == 1
