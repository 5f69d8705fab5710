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
from fedmarket.privacy.histogram import BinnedCounts, SegmentSums, Statistics

names = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
int64 = st.integers(-(2**63), 2**63 - 1)
floats = arrays(np.float64, array_shapes(max_dims=2, max_side=6), elements=st.floats(width=64))
steps = st.sampled_from(codec.STEPS)


def through_the_wire(records: RecordDict) -> RecordDict:
    """Copy the bytes, as a network does: nothing may be carried by identity."""
    arrays_ = {
        name: ArrayRecord({k: Array(a.dtype, a.shape, a.stype, bytes(a.data)) for k, a in record.items()})
        for name, record in records.array_records.items()
    }
    return RecordDict({**arrays_, **{name: ConfigRecord(dict(r)) for name, r in records.config_records.items()}})


def same(one: np.ndarray, other: np.ndarray) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


@given(st.binary(max_size=20), names, names)
def test_invitations_come_out_as_they_went_in(run: bytes, terms_hash: str, roster_hash: str):
    sent = Invitation(run=run, terms_hash=terms_hash, roster_hash=roster_hash)
    assert codec.invitation_from_records(through_the_wire(codec.invitation_to_records(sent))) == sent


@given(names, int64, names)
def test_acceptances_come_out_as_they_went_in(party: str, rows: int, terms_hash: str):
    sent = Acceptance(party=party, declared_rows=rows, terms_hash=terms_hash)
    assert codec.acceptance_from_records(through_the_wire(codec.acceptance_to_records(sent))) == sent


models = st.builds(ModelState, centre=floats, scale=floats, parameters=floats, calibration=floats)


@given(int64, st.sampled_from(codec.PHASES), steps, st.binary(), st.binary(), models)
def test_requests_come_out_as_they_went_in_to_the_last_bit(number, phase, step, model_hash, packet, model):
    sent = Request(round_number=number, phase=phase, step=step, model_hash=model_hash, model=model, packet=packet)
    came = codec.request_from_records(through_the_wire(codec.request_to_records(sent)))
    assert (came.round_number, came.phase, came.step) == (number, phase, step)
    assert (came.model_hash, came.packet) == (model_hash, packet)
    for part in codec.MODEL_ARRAYS:
        assert same(getattr(came.model, part), getattr(model, part))


@given(steps, st.binary())
def test_a_request_without_a_model_carries_none(step, packet):
    sent = Request(round_number=1, phase="update", step=step, model_hash=bytes(32), model=None, packet=packet)
    records = codec.request_to_records(sent)
    assert list(records) == ["fields"]
    assert codec.request_from_records(through_the_wire(records)) == sent


@given(names, int64, steps, st.binary())
def test_updates_come_out_as_they_went_in_and_carry_nothing_else(party, number, step, content):
    sent = Update(party=party, round_number=number, step=step, content=content)
    records = codec.update_to_records(sent)
    assert codec.update_from_records(through_the_wire(records)) == sent
    assert {name: set(record) for name, record in records.items()} == {
        "fields": {"party", "round_number", "step", "content"}
    }


counts = st.integers(0, 2**40)


spendings = st.builds(Spending, **dict.fromkeys(Spending().releases(), counts))


@given(st.integers(-1, 2**40), spendings, st.binary(), st.binary(), st.binary())
def test_a_partys_memory_comes_out_as_it_went_in(last, spending, run, model_hash, secagg):
    state = PartyState(run=run, last_round=last, spending=spending, model_hash=model_hash, secagg=secagg)
    assert state_from_record(ConfigRecord(dict(state_to_record(state)))) == state


def rows_of(count: int):
    return arrays(np.float64, st.tuples(st.just(count), st.integers(1, 20)), elements=st.floats(width=64))


def binned(count: int):
    numbers = {"typical": st.floats(width=64, allow_nan=False), "noise_std": st.floats(0, 1e12)}
    return st.none() | st.builds(BinnedCounts, counts=rows_of(count), **numbers)


stds = arrays(np.float64, 3, elements=st.floats(0, 1e12))
segments = st.none() | st.builds(SegmentSums, sums=rows_of(3), noise_stds=stds)


@given(binned(2), binned(3), segments)
def test_statistics_come_out_as_they_went_in_to_the_last_bit(scores, values, segments):
    sent = Statistics(scores=scores, values=values, segments=segments)
    came = codec.statistics_from_record(through_the_wire(RecordDict({"arrays": codec.statistics_to_record(sent)})))
    for name in codec.BINNED:
        one, other = getattr(sent, name), getattr(came, name)
        assert (one is None) == (other is None), name
        if one is not None:
            assert same(one.counts, other.counts)
            assert (one.typical, one.noise_std) == (other.typical, other.noise_std)
    assert (segments is None) == (came.segments is None)
    if segments is not None:
        assert same(segments.sums, came.segments.sums)
        assert same(segments.noise_stds, came.segments.noise_stds)


def test_a_run_that_tells_nothing_beside_its_model_comes_out_as_such():
    nothing = RecordDict({"arrays": codec.statistics_to_record(Statistics())})
    assert codec.statistics_from_record(through_the_wire(nothing)) == Statistics()


@pytest.mark.parametrize("missing", ["scores_scale", "values_scale", "segments_scale"])
def test_statistics_without_their_scale_are_bad(missing: str):
    binned_ = BinnedCounts(counts=np.zeros((2, 3)), typical=0.0, noise_std=1.0)
    whole = Statistics(
        scores=binned_, values=binned_, segments=SegmentSums(sums=np.zeros((3, 2)), noise_stds=np.ones(3))
    )
    record = codec.statistics_to_record(whole)
    rest = ArrayRecord({name: array for name, array in record.items() if name != missing})
    with pytest.raises(BadMessage, match=f"^{missing}: expected an array, got none"):
        codec.statistics_from_record(RecordDict({"arrays": rest}))


def test_only_a_step_that_computes_on_rows_is_a_training():
    assert {step: codec.message_type(step) for step in codec.STEPS} == {
        "sum": "train.sum",
        "advertise": "query.advertise",
        "share": "query.share",
        "mask": "train.mask",
        "consent": "query.consent",
        "unmask": "query.unmask",
    }


def test_a_refusal_is_cut_to_one_short_line():
    assert codec.refusal_in_records(codec.refusal_to_records("no\n  more  \t budget")) == "no more budget"
    assert len(codec.refusal_in_records(codec.refusal_to_records("x" * 10_000)) or "") == 300
    assert codec.refusal_in_records(RecordDict()) is None
    assert codec.refusal_in_records(RecordDict({"refused": ConfigRecord({"reason": 7})})) is None
    assert codec.refusal_in_records(RecordDict({"refused": ArrayRecord({})})) is None


def fields(**values: object) -> ConfigRecord:
    return ConfigRecord({name: value for name, value in values.items() if value is not None})


GOOD = {
    "run": b"0", "party": "a", "round_number": 1, "phase": "update", "step": "mask", "declared_rows": 5,
    "terms_hash": "0", "roster_hash": "0", "model_hash": b"0", "packet": b"0", "content": b"0",
}  # fmt: skip
WORDS = {"phase", "step"}
READERS = {
    codec.invitation_from_records: ("run", "terms_hash", "roster_hash"),
    codec.acceptance_from_records: ("party", "declared_rows", "terms_hash"),
    codec.request_from_records: ("round_number", "phase", "step", "model_hash", "packet"),
    codec.update_from_records: ("party", "round_number", "step", "content"),
}
ARRAYS = ArrayRecord({name: Array(np.zeros(2)) for name in codec.MODEL_ARRAYS})
VALUES = (None, True, False, 1.0, b"1", [1], ["a"], 1, "a")
CASES = [
    (reader, key, value)
    for reader, keys in READERS.items()
    for key in keys
    for value in VALUES
    if type(value) is not type(GOOD[key]) or key in WORDS
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


def test_a_model_of_another_kind_is_bad():
    with pytest.raises(BadMessage, match=r"^centre: expected an array, got none$"):
        codec.request_from_records(RecordDict({"fields": fields(**GOOD), "arrays": fields(**GOOD)}))


def test_a_long_word_is_cut_in_the_error():
    records = RecordDict({"fields": fields(**GOOD | {"step": "x" * 10_000})})
    with pytest.raises(BadMessage, match=r"^step: expected sum, advertise, .*, unmask, got 'x{20}'$"):
        codec.update_from_records(records)


@pytest.mark.parametrize("missing", codec.MODEL_ARRAYS)
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
    np.savez(file, centre=np.zeros(5))
    return file.getvalue()


def header(text: str, version: tuple[int, int] = (1, 0)) -> bytes:
    return b"\x93NUMPY" + bytes(version) + struct.pack("<H", len(text)) + text.encode() + bytes(8)


WHOLE = npy(np.arange(5.0))
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


def sent_as(content: bytes, stype: str = "numpy.ndarray", *, shape: tuple[int, ...] = (5,)) -> RecordDict:
    """Return a request whose centre is ``content``."""
    whole = Array(np.zeros(2))
    centre = Array(dtype="float64", shape=shape, stype=stype, data=content)
    arrays_ = ArrayRecord(dict.fromkeys(codec.MODEL_ARRAYS, whole) | {"centre": centre})
    return RecordDict({"fields": fields(**GOOD), "arrays": arrays_})


@pytest.mark.parametrize("name", BAD_BYTES)
def test_bytes_that_are_no_array_are_bad(name: str):
    with pytest.raises(BadMessage, match=r"^centre: expected a numpy array without pickle, got something else$"):
        codec.request_from_records(sent_as(BAD_BYTES[name]))


def test_another_serialisation_is_bad():
    with pytest.raises(BadMessage, match=r"^centre: expected"):
        codec.request_from_records(sent_as(WHOLE, stype="torch.tensor"))


@given(st.sampled_from([WHOLE, npz()]), st.data())
def test_damaged_bytes_are_an_array_or_bad_and_nothing_else(content: bytes, data: st.DataObject):
    damaged = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        request = codec.request_from_records(sent_as(bytes(damaged[: data.draw(st.integers(0, len(damaged)))])))
    except BadMessage:
        return
    assert isinstance(request.model.centre, np.ndarray)


def test_a_declared_shape_that_is_a_lie_changes_nothing():
    request = codec.request_from_records(sent_as(WHOLE, shape=(10**9,)))
    assert request.model.centre.tolist() == [0, 1, 2, 3, 4]
