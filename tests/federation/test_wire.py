"""What goes into a frame comes out, and whatever else comes in is a BadMessage that repeats nothing of it."""

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fedmarket.aggregation.steps import IN_THE_OPEN, SECURE
from fedmarket.errors import BadMessage
from fedmarket.federation.messages import (
    Acceptance,
    Closing,
    Invitation,
    Refused,
    Replies,
    Request,
    Requests,
    Shown,
    Told,
    Update,
)
from fedmarket.federation.wire import decoded, encoded
from fedmarket.models.state import ModelState
from fedmarket.privacy.mechanism import PHASES

text, some = st.text(st.characters(exclude_categories=["Cs"]), max_size=30), st.binary(max_size=80)
whole = st.integers(-(2**63), 2**63 - 1)
many = st.lists(some, max_size=4).map(tuple)
vectors = arrays(np.float64, st.integers(0, 6), elements=st.floats(width=64))

told = st.builds(Told, seen=whole, envelopes=many, cosignature=some)
shown = st.builds(
    Shown,
    checkpoint=some,
    consistency=st.dictionaries(whole, many, max_size=3),
    sequence=whole,
    index=whole,
    inclusion=many,
)
MESSAGES = {
    Invitation: st.builds(Invitation, run=some, terms_hash=text, roster_hash=text),
    Acceptance: st.builds(Acceptance, party=text, declared_rows=whole, terms_hash=text, told=st.none() | told),
    Request: st.builds(
        Request,
        run=some,
        round_number=whole,
        phase=st.sampled_from(PHASES),
        step=st.sampled_from((*IN_THE_OPEN, *SECURE)),
        model=st.none(),
        packet=some,
        shown=st.none() | shown,
    ),
    Update: st.builds(
        Update,
        party=text,
        round_number=whole,
        step=st.sampled_from((*IN_THE_OPEN, *SECURE)),
        content=some,
        told=st.none() | told,
    ),
    Closing: st.builds(Closing, run=some, model_hash=some, shown=st.none() | shown),
    Told: told,
}
KINDS = list(MESSAGES)
OUTER = {Request: (Requests, "requests"), Update: (Replies, "replies")}
"""What travels in another message."""


def framed(message) -> bytes:
    kind, name = OUTER.get(type(message), (None, ""))
    return encoded(kind(**{name: (message,)}) if kind else message)


def packed(kind, fields: object) -> bytes:
    return msgpack.packb({OUTER[kind][1]: [fields]} if kind in OUTER else fields)


def came(kind, frame: bytes):
    outer, name = OUTER.get(kind, (kind, ""))
    found = decoded(outer, frame)
    return getattr(found, name)[0] if name else found


@given(st.sampled_from(KINDS).flatmap(lambda kind: MESSAGES[kind]))
def test_messages_come_out_as_they_went_in(message):
    assert came(type(message), framed(message)) == message


@given(st.lists(MESSAGES[Request], min_size=1, max_size=2).map(tuple))
def test_requests_keep_their_order(requests):
    assert decoded(Requests, encoded(Requests(requests=requests))).requests == requests


@given(st.lists(MESSAGES[Update] | st.builds(Refused, reason=text), max_size=2).map(tuple))
def test_updates_and_refusals_keep_their_order(replies):
    assert decoded(Replies, encoded(Replies(replies=replies))).replies == replies


@pytest.mark.parametrize(("kind", "count"), [(Request, 0), (Request, 3), (Request, 1000), (Update, 3), (Update, 1000)])
def test_more_than_two_rounds_in_a_message_are_refused(kind, count: int):
    outer, name = OUTER[kind]
    with pytest.raises(BadMessage, match=f"^{name}: "):
        decoded(outer, msgpack.packb({name: [plain(kind)] * count}))


@given(MESSAGES[Request], st.builds(ModelState, centre=vectors, scale=vectors, parameters=vectors, calibration=vectors))
def test_a_model_comes_out_as_it_went_in_to_the_last_bit(request, model: ModelState):
    found = came(Request, framed(Request(**{**fields_of(request), "model": model}))).model
    for name in ("centre", "scale", "parameters", "calibration"):
        one, other = getattr(found, name), getattr(model, name)
        assert one.dtype == np.float64
        assert one.tobytes() == other.tobytes()


def fields_of(message) -> dict:
    return {name: getattr(message, name) for name in type(message).__dataclass_fields__}


GOOD = {
    Invitation: Invitation(run=b"0", terms_hash="0", roster_hash="0"),
    Acceptance: Acceptance(party="a", declared_rows=5, terms_hash="0"),
    Request: Request(run=b"0", round_number=1, phase="update", step="mask", model=None, packet=b""),
    Update: Update(party="a", round_number=1, step="mask", content=b"0"),
    Closing: Closing(run=b"0"),
    Told: Told(seen=1, envelopes=(b"0",), cosignature=b""),
}
VALUES = (None, True, 1.0, b"1", [1], ["a"], 1, "a", {}, {"a": 1})


def plain(kind) -> dict:
    found = msgpack.unpackb(framed(GOOD[kind]), strict_map_key=False)
    return found[OUTER[kind][1]][0] if kind in OUTER else found


def takes(value: object, good: object) -> bool:
    """Whether ``value`` may stand where ``good`` does: of its type, or nothing where that is allowed."""
    return (type(value) is type(good) and not isinstance(value, list)) or (good is None and value is None)


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        (kind, name, value)
        for kind in KINDS
        for name, good in plain(kind).items()
        for value in VALUES
        if not takes(value, good)
    ],
)
def test_a_field_of_another_type_is_named_and_its_value_is_not(kind, name: str, value: object):
    with pytest.raises(BadMessage, match=f"^{name}: (expected|missing)") as caught:
        came(kind, packed(kind, plain(kind) | {name: value}))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_a_field_that_is_missing_is_named(kind):
    for name in ("party", "run", "seen", "content"):
        fields = plain(kind)
        if name in fields:
            del fields[name]
            with pytest.raises(BadMessage, match=f"^{name}: missing$"):
                came(kind, packed(kind, fields))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("strange", ["secret\n1234", b"bytes", 7, None, 1.5])
def test_a_field_of_nobody_is_refused_and_not_repeated(kind, strange: object):
    with pytest.raises(BadMessage, match=r"^expected no other fields than a message's own$"):
        came(kind, packed(kind, plain(kind) | {strange: "1234.5678"}))


def test_a_word_that_is_none_of_ours_is_not_repeated():
    with pytest.raises(BadMessage, match=r"^step: expected 'sum', 'advertise', .* or 'unmask'$"):
        came(Update, packed(Update, plain(Update) | {"step": "x" * 10_000}))


MODEL = dict.fromkeys(("centre", "scale", "parameters", "calibration"), bytes(16))


@pytest.mark.parametrize(
    "model",
    [
        7,
        b"",
        {},
        MODEL | {"more": b""},
        {name: content for name, content in MODEL.items() if name != "scale"},
        dict(reversed(MODEL.items())),
        MODEL | {"centre": bytes(15)},
        MODEL | {"centre": "16 bytes of text"},
        MODEL | {"centre": [0.0, 0.0]},
        MODEL | {"centre": None},
    ],
)
def test_a_model_of_another_kind_is_bad(model: object):
    assert came(Request, packed(Request, plain(Request) | {"model": MODEL})).model is not None
    with pytest.raises(BadMessage, match=r"^model: expected"):
        came(Request, packed(Request, plain(Request) | {"model": model}))


DAMAGED = {
    "nothing": b"",
    "no code of MessagePack": b"\xc1",
    "a number": msgpack.packb(7),
    "a list": msgpack.packb([1]),
    "two maps": msgpack.packb({}) * 2,
    "deep lists": b"\x91" * 100_000,
    "a list of four billion": b"\xdd\xff\xff\xff\xff",
    "four gigabytes": b"\xc6\xff\xff\xff\xff",
    "a map of four billion": b"\xdf\xff\xff\xff\xff",
    "half a character": b"\x81\xa1a\xa1\xff",
    "an extension": msgpack.packb(msgpack.ExtType(5, b"code")),
    "a timestamp too late": b"\xc7\x0c\xff" + b"\xff" * 12,
    "a key that cannot be one": b"\x81\x91\x01\x01",
}


@pytest.mark.parametrize("name", DAMAGED)
def test_bytes_that_are_no_frame_are_bad(name: str):
    for kind in KINDS:
        with pytest.raises(BadMessage):
            came(kind, DAMAGED[name])


@given(st.sampled_from(KINDS), st.data())
def test_damaged_frames_are_a_message_or_bad_and_nothing_else(kind, data: st.DataObject):
    frame = bytearray(framed(data.draw(MESSAGES[kind])))
    for _ in range(data.draw(st.integers(1, 4))):
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    try:
        message = came(kind, bytes(frame[: data.draw(st.integers(0, len(frame)))]))
    except BadMessage:
        return
    assert isinstance(message, (kind, Refused))


@given(st.binary(max_size=200), st.sampled_from(KINDS))
def test_any_bytes_are_a_message_or_bad_and_nothing_else(frame: bytes, kind):
    try:
        came(kind, frame)
    except BadMessage:
        return


def test_a_refusal_in_place_of_an_answer_is_its_reason_in_one_short_line():
    for kind in (Requests, Replies, Invitation, Acceptance, Closing, Told):
        with pytest.raises(BadMessage, match=r"^no more budget$"):
            decoded(kind, encoded(Refused(reason="no\n  more  \t budget")))
    with pytest.raises(BadMessage) as caught:
        decoded(Replies, encoded(Refused(reason="x" * 10_000)))
    assert len(str(caught.value)) == 300
    with pytest.raises(BadMessage, match=r"^reason: expected a valid string$"):
        decoded(Replies, msgpack.packb({"reason": 7}))
