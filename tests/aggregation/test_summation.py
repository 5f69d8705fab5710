"""The sum of a round is the modular sum of one good message from each survivor."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fedmarket.aggregation.summation import IdealSum, checked_words
from fedmarket.errors import BadMessage

U32 = np.dtype("u4")


def opened(length: int = 3, dtype: str = "u4") -> IdealSum:
    return IdealSum(length=length, word_dtype=np.dtype(dtype))


@pytest.mark.parametrize("dtype", ["u4", "u8"])
@given(data=st.data(), parties=st.integers(0, 6))
def test_the_total_is_the_sum_modulo_the_word(dtype: str, data: st.DataObject, parties: int):
    top = 2 ** (8 * np.dtype(dtype).itemsize)
    elements = st.integers(0, top - 1) | st.sampled_from([0, top - 1, top // 2])
    messages = [data.draw(arrays(dtype, 3, elements=elements)) for _ in range(parties)]
    total = opened(dtype=dtype)
    for place, message in enumerate(messages):
        total.add(f"party {place}", message)
    expected = [sum(int(message[k]) for message in messages) % top for k in range(3)]
    assert [int(word) for word in total.total()] == expected
    assert total.total().dtype == dtype


BAD = {
    "another word": np.zeros(3, dtype="u8"),
    "signed": np.zeros(3, dtype="i4"),
    "real": np.zeros(3),
    "objects": np.zeros(3, dtype=object),
    "other byte order": np.zeros(3, dtype=">u4"),
    "too short": np.zeros(2, dtype="u4"),
    "too long": np.zeros(4, dtype="u4"),
    "a matrix": np.zeros((3, 1), dtype="u4"),
    "a number": np.array(7, dtype="u4"),
    "nothing": np.zeros(0, dtype="u4"),
}


@pytest.mark.parametrize("message", BAD.values(), ids=BAD)
def test_a_message_of_another_kind_is_refused_and_does_not_count(message: np.ndarray):
    total = opened()
    total.add("a", np.arange(3, dtype="u4"))
    with pytest.raises(BadMessage, match=r"expected an update of (dtype|shape)"):
        total.add("b", message)
    assert total.survivors == ("a",)
    np.testing.assert_array_equal(total.total(), np.arange(3))
    total.add("b", np.ones(3, dtype="u4"))
    np.testing.assert_array_equal(total.total(), np.arange(3) + 1)


def test_a_second_update_of_a_party_is_refused_and_the_first_counts():
    total = opened()
    total.add("a", np.arange(3, dtype="u4"))
    with pytest.raises(BadMessage, match="second update in the same round"):
        total.add("a", np.ones(3, dtype="u4"))
    np.testing.assert_array_equal(total.total(), np.arange(3))


def test_survivors_are_sorted_and_the_total_can_be_read_twice():
    total = opened()
    for name in ("c", "a", "b"):
        total.add(name, np.ones(3, dtype="u4"))
    assert total.survivors == ("a", "b", "c")
    np.testing.assert_array_equal(total.total(), total.total())


def test_an_update_is_not_shown():
    total = opened()
    total.add("a", np.array([123456789] * 3, dtype="u4"))
    assert "123456789" not in repr(total)


def test_a_good_message_passes_the_check_as_it_is():
    message = np.arange(3, dtype="u4")
    assert checked_words(message, length=3, word_dtype=U32) is message
