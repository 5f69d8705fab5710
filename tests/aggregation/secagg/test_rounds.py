"""Honest rounds: the total is the plain sum of the survivors, whoever drops, or the round is void."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmarket.aggregation.secagg.keys import ADVERT_SIZE, SEALED_SIZE
from fedmarket.aggregation.secagg.roster import threshold_for
from fedmarket.aggregation.secagg.wire import ENVELOPE_SIZE, bitmap_size
from fedmarket.aggregation.steps import SECURE
from fedmarket.errors import RoundVoid


@st.composite
def drop_outs(draw):
    members = draw(st.integers(4, 8))
    lost = draw(st.lists(st.integers(0, members - 1), unique=True, max_size=members - threshold_for(members) + 1))
    return members, {i: draw(st.sampled_from(SECURE)) for i in lost}


def absent_from(when):
    return {step: {i for i, at in when.items() if at == step} for step in SECURE}


@settings(max_examples=40)
@given(case=drop_outs(), length=st.integers(1, 40), bits=st.sampled_from([32, 64]), seed=st.integers(0, 99))
def test_the_total_is_the_plain_sum_of_the_survivors_or_the_round_is_void(new_round, case, length, bits, seed):
    members, when = case
    this = new_round(members, length=length, modulus_bits=bits, seed=seed)
    if members - len(when) < threshold_for(members):
        with pytest.raises(RoundVoid, match="expected at least"):
            this.run(absent_from(when))
        assert this.server.survivors == ()
    else:
        total = this.run(absent_from(when))
        survivors = [i for i in range(members) if when.get(i, "unmask") in ("consent", "unmask")]
        np.testing.assert_array_equal(total, this.plain_sum(survivors))
        assert total.dtype == np.dtype(f"u{bits // 8}")
        assert this.server.survivors == tuple(this.names[i] for i in survivors)
        assert this.server.dropped == {this.names[i]: f"{step}: no answer" for i, step in when.items()}
    after = new_round(members, length=length, modulus_bits=bits, round_number=4)
    np.testing.assert_array_equal(after.run(), after.plain_sum())


@pytest.mark.parametrize("step", SECURE)
@pytest.mark.parametrize("count", [1, 2])
def test_any_group_up_to_n_minus_t_may_drop_at_any_step(new_round, step, count):
    for lost in combinations(range(7), count):
        this = new_round(7, length=2)
        total = this.run({step: lost})
        left = set(range(7)) - (set(lost) if step in ("advertise", "share", "mask") else set())
        np.testing.assert_array_equal(total, this.plain_sum(left))


@pytest.mark.parametrize("step", SECURE)
def test_one_more_than_n_minus_t_voids_the_round_for_good(new_round, step):
    this = new_round(7)
    with pytest.raises(RoundVoid, match=f"round 3 is void, {step}: expected at least 5 parties, 4 are left"):
        this.run({step: {0, 2, 5}})
    for call in (this.server.total, lambda: this.server.outgoing(step), lambda: this.server.close(step)):
        with pytest.raises(RoundVoid):
            call()
    with pytest.raises(RoundVoid):
        this.server.receive("unmask", this.names[1], b"")


def test_more_survivors_than_the_threshold_can_be_demanded(new_round, tools):
    roster = tools.roster_of(7, minimum=6)
    this = new_round(7, roster=roster)
    np.testing.assert_array_equal(this.run({"mask": {3}}), this.plain_sum({0, 1, 2, 4, 5, 6}))
    with pytest.raises(RoundVoid, match="at least 6"):
        new_round(7, roster=roster).run({"mask": {3, 4}})
    after_mask = new_round(7, roster=roster)
    np.testing.assert_array_equal(after_mask.run({"unmask": {3, 4}}), after_mask.plain_sum())


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("everyone", [0, "max"])
def test_words_at_the_edges_of_their_range_add_modulo_the_width(new_round, bits, everyone):
    this = new_round(4, modulus_bits=bits)
    word = 2**bits - 1 if everyone == "max" else 0
    this.inputs = [np.full(6, word, dtype=f"u{bits // 8}") for _ in range(4)]
    assert this.run().tolist() == [4 * word % 2**bits] * 6


@pytest.mark.parametrize("bits", [32, 64])
def test_one_party_at_the_limit_and_the_others_at_zero_gives_the_limit(new_round, bits):
    for limit in (2 ** (bits - 1), 2 ** (bits - 1) - 1, 2**bits - 1):
        this = new_round(4, modulus_bits=bits, length=1)
        this.inputs = [np.array([limit if i == 2 else 0], dtype=f"u{bits // 8}") for i in range(4)]
        assert this.run().tolist() == [limit]


def test_a_vector_longer_than_a_chunk_of_keystream_is_masked_to_its_end(new_round):
    this = new_round(4, length=2 * 16384 + 5)
    np.testing.assert_array_equal(this.run({"mask": {1}}), this.plain_sum({0, 2, 3}))
    assert this.sent["mask"][0][-64 - 40 : -64] != this.inputs[0][-10:].tobytes()


def test_a_state_that_went_through_bytes_at_every_step_gives_the_same_total(new_round):
    this = new_round(5)
    this.reload = True
    np.testing.assert_array_equal(this.run({"mask": {4}}), this.plain_sum({0, 1, 2, 3}))


def test_the_input_is_left_as_it_was(new_round):
    this = new_round(4)
    before = [x.copy() for x in this.inputs]
    this.run()
    np.testing.assert_array_equal(before, this.inputs)


def test_the_total_can_be_asked_for_twice(new_round):
    this = new_round(4)
    np.testing.assert_array_equal(this.run(), this.server.total())


def test_steps_out_of_order_are_the_callers_error(new_round):
    this = new_round(4)
    with pytest.raises(ValueError, match="not open"):
        this.server.outgoing("share")
    with pytest.raises(ValueError, match="not open"):
        this.server.close("mask")
    with pytest.raises(ValueError, match="not closed"):
        this.server.total()


def test_beside_the_vector_a_hundred_parties_upload_less_than_ten_kilobytes_each():
    released = 67 * 17 + 33 * 33
    payloads = ADVERT_SIZE + (32 + 99 * SEALED_SIZE) + 2 * bitmap_size(100) + released
    assert 5 * ENVELOPE_SIZE + payloads < 10_000
