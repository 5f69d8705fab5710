"""A document is taken whole or refused in one line that names the key."""

from typing import Any, Literal

import pytest
from pydantic import ValidationError

from fedmarket.documents import Count, Name, Positive, Section, Share, parse_document
from fedmarket.errors import ConfigError


class Inner(Section):
    kind: Literal["inner"]
    share: Share


class Outer(Section):
    name: Name
    size: Count
    price: Positive
    inner: Inner


GOOD: dict[str, Any] = {"name": "甲", "size": 1, "price": 2, "inner": {"kind": "inner", "share": 0.5}}


def test_a_good_document_becomes_frozen_values():
    read = parse_document(Outer, GOOD, source="file")
    assert (read.name, read.size, read.price, read.inner.share) == ("甲", 1, 2.0, 0.5)
    with pytest.raises(ValidationError, match="frozen"):
        read.size = 2


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"colour": 1}, "colour: unknown key; expected one of inner, name, price, size"),
        ({"inner": {"kind": "inner", "share": 0.5, "x": 1}}, "inner.x: unknown key; expected one of kind, share"),
        ({"inner": {"kind": "inner"}}, "inner.share: missing"),
        ({"inner": {"kind": "inner", "share": 1}}, "inner.share: Input should be less than 1, got 1"),
        ({"name": ""}, "name: String should have at least 1 character, got ''"),
        ({"size": 0}, "size: Input should be greater than or equal to 1, got 0"),
        ({"size": 1.0}, "size: Input should be a valid integer, got 1.0"),
        ({"size": True}, "size: Input should be a valid integer, got True"),
        ({"price": "2"}, "price: Input should be a valid number, got '2'"),
        ({"price": float("nan")}, "price: Input should be a finite number, got nan"),
        ({"price": float("inf")}, "price: Input should be a finite number, got inf"),
    ],
)
def test_a_wrong_key_or_value_is_named_with_what_was_expected(changed: dict[str, Any], said: str):
    with pytest.raises(ConfigError) as caught:
        parse_document(Outer, GOOD | changed, source="file")
    assert str(caught.value) == f"file: {said}"


def test_the_first_three_problems_are_told_and_the_others_counted():
    with pytest.raises(ConfigError) as caught:
        parse_document(Outer, {"x": 1}, source="file")
    assert str(caught.value) == "file: name: missing; size: missing; price: missing; and 2 more"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"a\nb\x1b[2J": 1}, r"a\nb\x1b[2J: unknown key; expected one of inner, name, price, size"),
        ({"k" * 101: 1}, f"{'k' * 100}...: unknown key; expected one of inner, name, price, size"),
        ({"size": "v" * 1000}, f"size: Input should be a valid integer, got '{'v' * 99}..."),
        ({"size": "\x1b"}, r"size: Input should be a valid integer, got '\x1b'"),
        ({"name": 16**5000}, "name: Input should be a valid string, got a whole number of 20001 bits"),
        ({"size": -(16**5000)}, "size: Input should be greater than or equal to 1, got a whole number of 20001 bits"),
    ],
)
def test_a_strangers_key_or_value_is_shown_in_one_line_and_not_whole(changed: dict[str, Any], said: str):
    with pytest.raises(ConfigError) as caught:
        parse_document(Outer, GOOD | changed, source="file")
    assert str(caught.value) == f"file: {said}"
