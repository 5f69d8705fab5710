"""Every document has one form, and only that form is read."""

import json
import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fedmarket.errors import BadMessage
from fedmarket.ledger.canonical import (
    DEEPEST,
    LARGEST_DOCUMENT,
    canonical,
    decimal,
    from_base64,
    read_canonical,
    real,
    to_base64,
)

WHOLE = st.integers(-(2**53) + 1, 2**53 - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
DOCUMENTS = st.recursive(
    st.none() | st.booleans() | WHOLE | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)


def test_text_is_escaped_as_in_rfc_8785():
    # Section 3.2.2, the string and the literals of the sample.
    sample = {"string": "\u20ac$\u000f\u000aA'\u0042\u0022\u005c\\\"/", "literals": [None, True, False]}
    assert canonical(sample) == '{"literals":[null,true,false],"string":"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}'.encode()


def test_keys_are_sorted_as_in_rfc_8785():
    # Section 3.2.3: by UTF-16 code units, so that a surrogate pair comes before U+FB33.
    sample = {
        "\u20ac": "Euro Sign",
        "\r": "Carriage Return",
        "\ufb33": "Hebrew Letter Dalet With Dagesh",
        "1": "One",
        "\U0001f600": "Emoji: Grinning Face",
        "\u0080": "Control",
        "\u00f6": "Latin Small Letter O With Diaeresis",
    }
    assert list(json.loads(canonical(sample)).values()) == [
        "Carriage Return",
        "One",
        "Control",
        "Latin Small Letter O With Diaeresis",
        "Euro Sign",
        "Emoji: Grinning Face",
        "Hebrew Letter Dalet With Dagesh",
    ]


def depth(document):
    inner = document.values() if isinstance(document, dict) else document if isinstance(document, list) else None
    return 0 if inner is None else 1 + max(map(depth, inner), default=0)


@given(DOCUMENTS)
def test_what_is_written_is_read_back_the_same(document):
    assume(depth(document) <= DEEPEST)
    content = canonical(document)
    assert read_canonical(content) == document
    assert canonical(read_canonical(content)) == content


@given(st.binary(max_size=40) | TEXT.map(str.encode))
def test_what_is_read_is_canonical_or_refused(content):
    try:
        document = read_canonical(content)
    except BadMessage:
        return
    assert canonical(document) == content


@pytest.mark.parametrize(
    "content",
    [
        b'{"a":1,"a":1}',
        b'{"a":1,"a":2}',
        b'{"b":1,"a":2}',
        b'{"a": 1}',
        b' {"a":1}',
        b'{"a":1}\n',
        b'{"a":1}{}',
        b'\xef\xbb\xbf{"a":1}',
        b'{"a":1.0}',
        b'{"a":1e2}',
        b'{"a":-0}',
        b'{"a":01}',
        b'{"a":+1}',
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b'{"a":9007199254740992}',
        b'{"a":-9007199254740992}',
        b'{"a":' + b"9" * 5000 + b"}",
        b'{"\\u0061":1}',
        b'{"a":"\\u000A"}',
        b'{"a":"\\/"}',
        b'{"a":"\\ud83d\\ude00"}',
        b'{"a":"\\ud800"}',
        b'{"a":"\xed\xa0\x80"}',
        b'{"a":"\xff"}',
        b'{"a":"\n"}',
        b"{'a':1}",
        b'{"a":1,}',
        b'{1:"a"}',
        b"",
        b"nul",
        b"[" * 20_000,
        b"[" * (DEEPEST + 1) + b"]" * (DEEPEST + 1),
        b'"' + b"a" * LARGEST_DOCUMENT + b'"',
    ],
)
def test_another_form_is_refused(content):
    with pytest.raises(BadMessage) as caught:
        read_canonical(content)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 120


@pytest.mark.parametrize("value", [1.0, math.nan, b"a", {1: 2}, {"a": {1}}, 2**53, object(), "\ud800", {"\udfff": 1}])
def test_other_values_are_never_written(value):
    with pytest.raises(BadMessage):
        canonical({"a": [value]})


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_real_number_is_read_back_bit_for_bit(number):
    assert real(decimal(number)) == number
    assert decimal(real(decimal(number))) == decimal(number)


@pytest.mark.parametrize(
    "text",
    [
        "", "1", "1.", ".5", "01.0", "+1.0", "-0.0", "1.00", "1e-5", "1E-05", "0.10000000000000001", "1_0.0", " 1.0",
        "1.0\n", "nan", "inf", "-inf", "1e400", "0x1p3", "1,5", "\u0661.0",
    ],
)  # fmt: skip
def test_another_spelling_of_a_number_is_refused(text):
    with pytest.raises(BadMessage):
        real(text)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_none_is_never_written(number):
    with pytest.raises(BadMessage):
        decimal(number)


@given(st.binary(max_size=50))
def test_base64_is_read_back(content):
    assert from_base64(to_base64(content)) == content


@pytest.mark.parametrize("text", ["YQ", "YR==", "YQ==\n", "Y Q==", "YQ==YQ==", "-_==", "é===", "Y", "YQ=", "===="])
def test_loose_base64_is_refused(text):
    with pytest.raises(BadMessage):
        from_base64(text)
