"""The plain sum of a round is the modular sum of one good message from each survivor, or the round is void."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fedmarket.aggregation.fixedpoint import words_to_bytes
from fedmarket.aggregation.steps import IN_THE_OPEN, SECURE
from fedmarket.aggregation.summation import IdealSum
from fedmarket.errors import BadMessage, RoundVoid

NAMES = ("d", "a", "c", "b")


def opened(*, parties: tuple[str, ...] = NAMES, least: int = 2, modulus_bits: int = 32) -> IdealSum:
    return IdealSum(round_number=5, parties=parties, least=least, length=3, modulus_bits=modulus_bits)


def words(*values: int) -> bytes:
    return words_to_bytes(np.array(values, dtype="u4"))


ONES = words(1, 1, 1)
RISING = words(0, 1, 2)


@pytest.mark.parametrize("dtype", ["u4", "u8"])
@given(data=st.data(), parties=st.integers(0, 6))
def test_the_total_is_the_sum_modulo_the_word(dtype: str, data: st.DataObject, parties: int):
    bits = 8 * np.dtype(dtype).itemsize
    elements = st.integers(0, 2**bits - 1) | st.sampled_from([0, 2**bits - 1, 2 ** (bits - 1)])
    messages = [data.draw(arrays(dtype, 3, elements=elements)) for _ in range(parties)]
    names = tuple(f"party {place}" for place in range(parties))
    total = opened(parties=names, least=0, modulus_bits=bits)
    for name, message in zip(names, messages, strict=True):
        total.receive("sum", name, words_to_bytes(message))
    total.close("sum")
    expected = [sum(int(message[k]) for message in messages) % 2**bits for k in range(3)]
    assert [int(word) for word in total.total()] == expected
    assert total.total().dtype == dtype


def test_every_party_is_asked_once_and_told_nothing():
    total = opened()
    assert total.steps == IN_THE_OPEN == ("sum",)
    assert total.outgoing("sum") == {"a": b"", "b": b"", "c": b"", "d": b""}
    assert list(total.outgoing("sum")) == sorted(NAMES)
    assert total.suspects == ()


@pytest.mark.parametrize("size", [0, 1, 4, 11, 13, 16, 24, 10_000])
def test_a_message_of_another_size_is_refused_and_its_party_is_out_of_the_round(size: int):
    total = opened()
    total.receive("sum", "a", RISING)
    with pytest.raises(BadMessage, match=rf"^expected an update of 12 bytes in the step sum, got {size} in sum$"):
        total.receive("sum", "b", bytes(size))
    assert total.survivors == ("a",)
    with pytest.raises(BadMessage, match=r"^from a party that is not in this round$"):
        total.receive("sum", "b", ONES)
    total.receive("sum", "c", ONES)
    total.close("sum")
    assert total.survivors == ("a", "c")
    np.testing.assert_array_equal(total.total(), [1, 2, 3])


@pytest.mark.parametrize("step", SECURE)
def test_a_message_for_a_step_of_secure_aggregation_is_refused(step: str):
    total = opened()
    with pytest.raises(BadMessage, match=rf"in the step sum, got 12 in {step}$"):
        total.receive(step, "a", ONES)
    assert total.survivors == ()


def test_a_message_of_a_stranger_is_refused_and_does_not_count():
    total = opened()
    with pytest.raises(BadMessage, match="from a party that is not in this round"):
        total.receive("sum", "eve", ONES)
    assert total.survivors == ()


def test_a_second_update_of_a_party_is_refused_and_the_first_counts():
    total = opened(least=1)
    total.receive("sum", "a", RISING)
    for second in (ONES, b""):
        with pytest.raises(BadMessage, match="second update in the same round"):
            total.receive("sum", "a", second)
    total.close("sum")
    assert total.survivors == ("a",)
    np.testing.assert_array_equal(total.total(), np.arange(3))


@pytest.mark.parametrize(("came", "least"), [(0, 1), (1, 2), (3, 4)])
def test_a_round_with_too_few_parties_is_void_and_says_how_many_came(came: int, least: int):
    total = opened(least=least)
    for name in NAMES[:came]:
        total.receive("sum", name, ONES)
    said = rf"^round 5 is void, sum: expected at least {least} parties, {came} are left$"
    with pytest.raises(RoundVoid, match=said):
        total.close("sum")


@pytest.mark.parametrize("came", [2, 3, 4])
def test_a_round_with_just_enough_parties_is_not_void(came: int):
    total = opened(least=2)
    for name in NAMES[:came]:
        total.receive("sum", name, ONES)
    total.close("sum")
    np.testing.assert_array_equal(total.total(), [came] * 3)


def test_survivors_are_sorted_and_the_total_can_be_read_twice():
    total = opened()
    for name in ("c", "a", "b"):
        total.receive("sum", name, ONES)
    assert total.survivors == ("a", "b", "c")
    np.testing.assert_array_equal(total.total(), total.total())
    total.total()[:] = 7
    np.testing.assert_array_equal(total.total(), [3, 3, 3])


def test_an_update_is_not_shown():
    total = opened()
    total.receive("sum", "a", words(*[123456789] * 3))
    assert "123456789" not in repr(total)
    assert repr(words(123456789))[2:-1] not in repr(total)
