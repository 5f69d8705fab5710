"""What goes in comes out, and whatever else comes in is a BadMessage and never a crash."""

import io
import struct

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from fedmarket.errors import BadMessage
from fedmarket.federation.messages import Acceptance, Invitation, Request, Update
from fedmarket.federation.party import PartyState
from fedmarket.flower import codec
from fedmarket.flower.client import state_from_record, state_to_record
from fedmarket.models.released import ModelState
from fedmarket.privacy.budget import Spending

names = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
int64 = st.integers(-(2**63), 2**63 - 1)
floats = arrays(np.float64, array_shapes(max_dims=2, max_side=6), elements=st.floats(width=64))
words = arrays(st.sampled_from([np.uint32, np.uint64]), st.integers(0, 20))


def through_the_wire(records: RecordDict) -> RecordDict:
    """Copy the bytes, as a network does: nothing may be carried by identity."""
    arrays_ = {
        name: ArrayRecord({k: Array(a.dtype, a.shape, a.stype, bytes(a.data)) for k, a in record.items()})
        for name, record in records.array_records.items()
    }
    return RecordDict({**arrays_, **{name: ConfigRecord(dict(r)) for name, r in records.config_records.items()}})


def same(one: np.ndarray, other: np.ndarray) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


@given(names, int64, names)
def test_invitations_and_acceptances_come_out_as_they_went_in(party: str, rows: int, terms_hash: str):
    invitation = Invitation(terms_hash=terms_hash)
    assert codec.invitation_from_records(through_the_wire(codec.invitation_to_records(invitation))) == invitation
    acceptance = Acceptance(party=party, declared_rows=rows, terms_hash=terms_hash)
    assert codec.acceptance_from_records(through_the_wire(codec.acceptance_to_records(acceptance))) == acceptance


@given(int64, st.sampled_from(["centre", "update", "calibrate"]), floats, floats, floats)
def test_requests_come_out_as_they_went_in_to_the_last_bit(number, phase, centre, parameters, calibration):
    model = ModelState(centre=centre, parameters=parameters, calibration=calibration)
    sent = Request(round_number=number, phase=phase, model=model)
    came = codec.request_from_records(through_the_wire(codec.request_to_records(sent)))
    assert (came.round_number, came.phase) == (number, phase)
    for part in ("centre", "parameters", "calibration"):
        assert same(getattr(came.model, part), getattr(model, part))


@given(names, int64, words)
def test_updates_come_out_as_they_went_in_and_carry_nothing_else(party, number, sent):
    records = codec.update_to_records(Update(party=party, round_number=number, words=sent))
    came = codec.update_from_records(through_the_wire(records))
    assert (came.party, came.round_number) == (party, number)
    assert same(came.words, sent)
    assert {name: set(record) for name, record in records.items()} == {
        "fields": {"party", "round_number"},
        "arrays": {"words"},
    }


@given(st.integers(-1, 2**40), st.integers(0, 2**40), st.integers(0, 2**40), st.integers(0, 2**40))
def test_a_partys_memory_comes_out_as_it_went_in(last, centre, update, calibrate):
    state = PartyState(last_round=last, spending=Spending(centre=centre, update=update, calibrate=calibrate))
    assert state_from_record(ConfigRecord(dict(state_to_record(state)))) == state


def test_a_refusal_is_cut_to_one_short_line():
    assert codec.refusal_in_records(codec.refusal_to_records("no\n  more  \t budget")) == "no more budget"
    assert len(codec.refusal_in_records(codec.refusal_to_records("x" * 10_000)) or "") == 300
    assert codec.refusal_in_records(RecordDict()) is None
    assert codec.refusal_in_records(RecordDict({"refused": ConfigRecord({"reason": 7})})) is None
    assert codec.refusal_in_records(RecordDict({"refused": ArrayRecord({})})) is None


def fields(**values: object) -> ConfigRecord:
    return ConfigRecord({name: value for name, value in values.items() if value is not None})


GOOD = {
    "party": "a", "round_number": 1, "phase": "update", "declared_rows": 5, "terms_hash": "0",
}  # fmt: skip
READERS = {
    codec.invitation_from_records: ("terms_hash",),
    codec.acceptance_from_records: ("party", "declared_rows", "terms_hash"),
    codec.request_from_records: ("round_number", "phase"),
    codec.update_from_records: ("party", "round_number"),
}
ARRAYS = ArrayRecord({name: Array(np.zeros(2)) for name in ("words", "centre", "parameters", "calibration")})
VALUES = (None, True, False, 1.0, b"1", [1], ["a"], 1, "a")
CASES = [
    (reader, key, value)
    for reader, keys in READERS.items()
    for key in keys
    for value in VALUES
    if type(value) is not type(GOOD[key]) or key == "phase"
]


@pytest.mark.parametrize(("reader", "key", "value"), CASES)
def test_a_field_that_is_missing_or_of_another_type_is_named(reader, key: str, value: object):
    records = RecordDict({"fields": fields(**GOOD | {key: value}), "arrays": ARRAYS})
    with pytest.raises(BadMessage, match=f"^{key}: expected"):
        reader(records)


@pytest.mark.parametrize("reader", READERS)
def test_records_that_are_absent_or_of_another_kind_are_bad(reader):
    everything = RecordDict({"fields": fields(**GOOD), "arrays": ARRAYS})
    reader(everything)
    for records in (RecordDict(), RecordDict({"fields": ARRAYS, "arrays": fields(**GOOD)})):
        with pytest.raises(BadMessage, match="expected"):
            reader(records)


@pytest.mark.parametrize("missing", ["centre", "parameters", "calibration"])
def test_a_model_without_one_of_its_arrays_is_bad(missing: str):
    rest = ArrayRecord({name: Array(np.zeros(2)) for name in codec.MODEL_ARRAYS if name != missing})
    with pytest.raises(BadMessage, match=f"^{missing}: expected an array, got none"):
        codec.request_from_records(RecordDict({"fields": fields(**GOOD), "arrays": rest}))


def npy(array: np.ndarray, *, allow_pickle: bool = False) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=allow_pickle)
    return file.getvalue()


def npz() -> bytes:
    file = io.BytesIO()
    np.savez(file, words=np.zeros(5, dtype="u4"))
    return file.getvalue()


def header(text: str, version: tuple[int, int] = (1, 0)) -> bytes:
    return b"\x93NUMPY" + bytes(version) + struct.pack("<H", len(text)) + text.encode() + bytes(8)


WHOLE = npy(np.arange(5, dtype="u4"))
BAD_BYTES = {
    "nothing": b"",
    "a pickle": b"\x80\x04N.",
    "pickled objects": npy(np.array([{}, None], dtype=object), allow_pickle=True),
    "cut in the header": WHOLE[:40],
    "cut in the body": WHOLE[:-1],
    "an archive": npz(),
    "a damaged archive": npz()[:-30],
    "the name of an archive": b"PK\x03\x04garbage",
    "an unknown version": header("{}", (9, 9)),
    "no header": header(""),
    "an open bracket": header("{'descr':'<u4',"),
    "deep brackets": header("(" * 5000),
    "code": header("__import__('os').getcwd()"),
    "a petabyte": header("{'descr':'<u4','fortran_order':False,'shape':(1000000000000000,)}"),
    "more than a word": header("{'descr':'<u4','fortran_order':False,'shape':(100000000000000000000,)}"),
    "negative": header("{'descr':'<u4','fortran_order':False,'shape':(-1,)}"),
    "zeros": bytes(200),
}


def sent_as(content: bytes, stype: str = "numpy.ndarray") -> RecordDict:
    array = Array(dtype="uint32", shape=(5,), stype=stype, data=content)
    return RecordDict({"fields": fields(party="a", round_number=1), "arrays": ArrayRecord({"words": array})})


@pytest.mark.parametrize("name", BAD_BYTES)
def test_bytes_that_are_no_array_are_bad(name: str):
    with pytest.raises(BadMessage, match=r"^words: expected a numpy array without pickle, got something else$"):
        codec.update_from_records(sent_as(BAD_BYTES[name]))


def test_another_serialisation_is_bad():
    with pytest.raises(BadMessage, match=r"^words: expected"):
        codec.update_from_records(sent_as(WHOLE, stype="torch.tensor"))


@given(st.sampled_from([WHOLE, npz()]), st.data())
def test_damaged_bytes_are_an_array_or_bad_and_nothing_else(content: bytes, data: st.DataObject):
    damaged = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        update = codec.update_from_records(sent_as(bytes(damaged[: data.draw(st.integers(0, len(damaged)))])))
    except BadMessage:
        return
    assert isinstance(update.words, np.ndarray)


def test_a_declared_shape_that_is_a_lie_changes_nothing():
    array = Array(dtype="float64", shape=(10**9,), stype="numpy.ndarray", data=WHOLE)
    records = RecordDict({"fields": fields(party="a", round_number=1), "arrays": ArrayRecord({"words": array})})
    assert codec.update_from_records(records).words.tolist() == [0, 1, 2, 3, 4]
