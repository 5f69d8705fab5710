"""What Flower's records hold: the frame of a message, and the model and statistics that a ServerApp leaves behind."""

from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from fedmarket.aggregation.steps import RELEASING, Step
from fedmarket.arrays import AnyArray
from fedmarket.errors import BadMessage
from fedmarket.models.state import ModelState
from fedmarket.privacy.histogram import BinnedCounts, SegmentSums, Statistics

RECORD, FRAME = "fedmarket", "frame"
ARRAYS = "arrays"
BINNED = ("scores", "values")
MODEL_ARRAYS = ("centre", "scale", "parameters", "calibration")


def message_type(step: Step) -> str:
    """Return Flower's name for the messages of ``step``: only what computes on rows is a training.

    >>> message_type("mask"), message_type("unmask")
    ('train.mask', 'query.unmask')
    """
    return f"{'train' if step in RELEASING else 'query'}.{step}"


def framed(frame: bytes) -> RecordDict:
    """Return the records that carry ``frame`` (:mod:`fedmarket.federation.wire`)."""
    return RecordDict({RECORD: ConfigRecord({FRAME: frame})})


def frame_in(records: RecordDict) -> bytes:
    """Return the frame that ``records`` carry.

    Raises:
        BadMessage: if they carry none, or anything beside it.
    """
    record = records.get(RECORD)
    frame = record.get(FRAME) if isinstance(record, ConfigRecord) else None
    if not isinstance(frame, bytes) or len(records) > 1:
        raise BadMessage("expected a message of one frame")
    return frame


def model_to_record(model: ModelState) -> ArrayRecord:
    """Return the record that carries ``model``."""
    return ArrayRecord({name: Array(getattr(model, name)) for name in MODEL_ARRAYS})


def model_from_record(records: RecordDict) -> ModelState:
    """Return the model in ``records``, or raise BadMessage."""
    return ModelState(**{name: _array(records, name) for name in MODEL_ARRAYS})


def statistics_to_record(statistics: Statistics) -> ArrayRecord:
    """Return the record that carries ``statistics``: what is there of it."""
    arrays: dict[str, Array] = {}
    for name in BINNED:
        binned: BinnedCounts | None = getattr(statistics, name)
        if binned is not None:
            scale = np.array([binned.typical, binned.noise_std])
            arrays |= {name: Array(binned.counts), f"{name}_scale": Array(scale)}
    if statistics.segments is not None:
        segments = statistics.segments
        arrays |= {"segments": Array(segments.sums), "segments_scale": Array(segments.noise_stds)}
    return ArrayRecord(arrays)


def statistics_from_record(records: RecordDict) -> Statistics:
    """Return the statistics in ``records``, or raise BadMessage."""
    there = records.array_records.get(ARRAYS, ArrayRecord())
    found: dict[str, Any] = {}
    for name in BINNED:
        if name in there:
            typical, noise_std = _array(records, f"{name}_scale").tolist()
            found[name] = BinnedCounts(counts=_array(records, name), typical=typical, noise_std=noise_std)
    if "segments" in there:
        sums, noise_stds = _array(records, "segments"), _array(records, "segments_scale")
        found["segments"] = SegmentSums(sums=sums, noise_stds=noise_stds)
    return Statistics(**found)


def _array(records: RecordDict, name: str) -> AnyArray:
    record = records.get(ARRAYS)
    array = record.get(name) if isinstance(record, ArrayRecord) else None
    if array is None:
        raise BadMessage(f"{name}: expected an array, got none")
    try:
        loaded: object = array.numpy()
    except Exception:  # numpy reads zip archives too; a stranger's bytes make it raise almost anything
        loaded = None
    if not isinstance(loaded, np.ndarray):
        raise BadMessage(f"{name}: expected a numpy array without pickle, got something else")
    return loaded
