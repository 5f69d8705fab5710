"""What Flower's records hold comes out as it went in, and whatever else comes in is a BadMessage and never a crash."""

import io
import struct

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from fedmarket.aggregation.steps import IN_THE_OPEN, SECURE
from fedmarket.errors import BadMessage
from fedmarket.federation.party import PartyState
from fedmarket.flower import records
from fedmarket.flower.client import state_from_record, state_to_record
from fedmarket.models.state import ModelState
from fedmarket.privacy.budget import Spending
from fedmarket.privacy.histogram import BinnedCounts, SegmentSums, Statistics

floats = arrays(np.float64, array_shapes(max_dims=2, max_side=6), elements=st.floats(width=64))


def through_the_wire(records: RecordDict) -> RecordDict:
    """Copy the bytes, as a network does: nothing may be carried by identity."""
    arrays_ = {
        name: ArrayRecord({k: Array(a.dtype, a.shape, a.stype, bytes(a.data)) for k, a in record.items()})
        for name, record in records.array_records.items()
    }
    return RecordDict({**arrays_, **{name: ConfigRecord(dict(r)) for name, r in records.config_records.items()}})


def same(one: np.ndarray, other: np.ndarray) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


@given(st.binary())
def test_a_frame_comes_out_as_it_went_in(frame: bytes):
    assert records.frame_in(through_the_wire(records.framed(frame))) == frame


@pytest.mark.parametrize(
    "other",
    [
        {},
        {"fedmarket": ConfigRecord()},
        {"fedmarket": ConfigRecord({"frame": "text"})},
        {"fedmarket": ArrayRecord({"frame": Array(np.zeros(2))})},
        {"other": ConfigRecord({"frame": b"x"})},
        {"fedmarket": ConfigRecord({"frame": b"x"}), "more": ConfigRecord()},
    ],
)
def test_records_without_a_frame_or_with_more_are_bad(other: dict):
    with pytest.raises(BadMessage, match=r"^expected a message of one frame$"):
        records.frame_in(RecordDict(other))


models = st.builds(ModelState, centre=floats, scale=floats, parameters=floats, calibration=floats)


@given(models)
def test_a_model_comes_out_as_it_went_in_to_the_last_bit(model: ModelState):
    came = records.model_from_record(through_the_wire(RecordDict({"arrays": records.model_to_record(model)})))
    assert all(same(getattr(came, part), getattr(model, part)) for part in records.MODEL_ARRAYS)


counts = st.integers(0, 2**40)


spendings = st.builds(Spending, **dict.fromkeys(Spending().releases(), counts))


@given(st.integers(-1, 2**40), spendings, st.binary(), st.dictionaries(st.integers(0, 2**40), st.binary(), max_size=2))
def test_a_partys_memory_comes_out_as_it_went_in(last, spending, run, memories):
    state = PartyState(run=run, last_round=last, last_masked=last - 1, spending=spending, open=memories)
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
    came = records.statistics_from_record(through_the_wire(RecordDict({"arrays": records.statistics_to_record(sent)})))
    for name in records.BINNED:
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
    nothing = RecordDict({"arrays": records.statistics_to_record(Statistics())})
    assert records.statistics_from_record(through_the_wire(nothing)) == Statistics()


@pytest.mark.parametrize("missing", ["scores_scale", "values_scale", "segments_scale"])
def test_statistics_without_their_scale_are_bad(missing: str):
    binned_ = BinnedCounts(counts=np.zeros((2, 3)), typical=0.0, noise_std=1.0)
    whole = Statistics(
        scores=binned_, values=binned_, segments=SegmentSums(sums=np.zeros((3, 2)), noise_stds=np.ones(3))
    )
    record = records.statistics_to_record(whole)
    rest = ArrayRecord({name: array for name, array in record.items() if name != missing})
    with pytest.raises(BadMessage, match=f"^{missing}: expected an array, got none"):
        records.statistics_from_record(RecordDict({"arrays": rest}))


def test_only_a_step_that_computes_on_rows_is_a_training():
    assert {step: records.message_type(step) for step in (*IN_THE_OPEN, *SECURE)} == {
        "sum": "train.sum",
        "advertise": "query.advertise",
        "share": "query.share",
        "mask": "train.mask",
        "consent": "query.consent",
        "unmask": "query.unmask",
    }


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
    """Return the records of a model whose centre is ``content``."""
    whole = Array(np.zeros(2))
    centre = Array(dtype="float64", shape=shape, stype=stype, data=content)
    return RecordDict({"arrays": ArrayRecord(dict.fromkeys(records.MODEL_ARRAYS, whole) | {"centre": centre})})


@pytest.mark.parametrize("name", BAD_BYTES)
def test_bytes_that_are_no_array_are_bad(name: str):
    with pytest.raises(BadMessage, match=r"^centre: expected a numpy array without pickle, got something else$"):
        records.model_from_record(sent_as(BAD_BYTES[name]))


def test_another_serialisation_is_bad():
    with pytest.raises(BadMessage, match=r"^centre: expected"):
        records.model_from_record(sent_as(WHOLE, stype="torch.tensor"))


@given(st.sampled_from([WHOLE, npz()]), st.data())
def test_damaged_bytes_are_an_array_or_bad_and_nothing_else(content: bytes, data: st.DataObject):
    damaged = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        model = records.model_from_record(sent_as(bytes(damaged[: data.draw(st.integers(0, len(damaged)))])))
    except BadMessage:
        return
    assert isinstance(model.centre, np.ndarray)


def test_a_declared_shape_that_is_a_lie_changes_nothing():
    model = records.model_from_record(sent_as(WHOLE, shape=(10**9,)))
    assert model.centre.tolist() == [0, 1, 2, 3, 4]
