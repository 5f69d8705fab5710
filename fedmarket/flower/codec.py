"""Messages as Flower records and back; whatever comes in is checked for presence and type before it is used.

Shapes, ranges and rounds are checked where the terms are known, in :mod:`fedmarket.federation`. Records are numpy
arrays and scalars without pickle.
"""

from typing import Any, TypeVar, get_args

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from fedmarket.aggregation.steps import RELEASING, Step
from fedmarket.arrays import AnyArray
from fedmarket.errors import BadMessage
from fedmarket.federation.messages import Acceptance, Invitation, Request, Update
from fedmarket.models.released import ModelState
from fedmarket.privacy.histogram import BinnedCounts, SegmentSums, Statistics
from fedmarket.privacy.mechanism import PHASES

Scalar = TypeVar("Scalar", str, int, bytes)
Word = TypeVar("Word", bound=str)

FIELDS = "fields"
ARRAYS = "arrays"
REFUSED = "refused"
STEPS = get_args(Step)
BINNED = ("scores", "values")
MODEL_ARRAYS = ("centre", "scale", "parameters", "calibration")


def message_type(step: Step) -> str:
    """Return Flower's name for the messages of ``step``: only what computes on rows is a training.

    >>> message_type("mask"), message_type("unmask")
    ('train.mask', 'query.unmask')
    """
    return f"{'train' if step in RELEASING else 'query'}.{step}"


def invitation_to_records(invitation: Invitation) -> RecordDict:
    """Return the records that carry ``invitation``."""
    record = ConfigRecord(
        {"run": invitation.run, "terms_hash": invitation.terms_hash, "roster_hash": invitation.roster_hash}
    )
    return RecordDict({FIELDS: record})


def invitation_from_records(records: RecordDict) -> Invitation:
    """Return the invitation in ``records``, or raise BadMessage."""
    return Invitation(
        run=_scalar(records, "run", bytes),
        terms_hash=_scalar(records, "terms_hash", str),
        roster_hash=_scalar(records, "roster_hash", str),
    )


def acceptance_to_records(acceptance: Acceptance) -> RecordDict:
    """Return the records that carry ``acceptance``."""
    record = ConfigRecord(
        {
            "party": acceptance.party,
            "declared_rows": acceptance.declared_rows,
            "terms_hash": acceptance.terms_hash,
        }
    )
    return RecordDict({FIELDS: record})


def acceptance_from_records(records: RecordDict) -> Acceptance:
    """Return the acceptance in ``records``, or raise BadMessage."""
    return Acceptance(
        party=_scalar(records, "party", str),
        declared_rows=_scalar(records, "declared_rows", int),
        terms_hash=_scalar(records, "terms_hash", str),
    )


def request_to_records(request: Request, *, model: ArrayRecord | None = None) -> RecordDict:
    """Return the records that carry ``request``; ``model`` is the record of its model, if it has one."""
    record = ConfigRecord(
        {
            "round_number": request.round_number,
            "phase": request.phase,
            "step": request.step,
            "model_hash": request.model_hash,
            "packet": request.packet,
        }
    )
    records = RecordDict({FIELDS: record})
    if request.model is not None:
        records[ARRAYS] = model if model is not None else model_to_record(request.model)
    return records


def request_from_records(records: RecordDict) -> Request:
    """Return the request in ``records``, or raise BadMessage."""
    return Request(
        round_number=_scalar(records, "round_number", int),
        phase=_word(records, "phase", PHASES),
        step=_word(records, "step", STEPS),
        model_hash=_scalar(records, "model_hash", bytes),
        model=model_from_record(records) if ARRAYS in records else None,
        packet=_scalar(records, "packet", bytes),
    )


def update_to_records(update: Update) -> RecordDict:
    """Return the records that carry ``update``: who, which step of which round, and the answer's bytes."""
    record = ConfigRecord(
        {
            "party": update.party,
            "round_number": update.round_number,
            "step": update.step,
            "content": update.content,
        }
    )
    return RecordDict({FIELDS: record})


def update_from_records(records: RecordDict) -> Update:
    """Return the update in ``records``, or raise BadMessage."""
    return Update(
        party=_scalar(records, "party", str),
        round_number=_scalar(records, "round_number", int),
        step=_word(records, "step", STEPS),
        content=_scalar(records, "content", bytes),
    )


def refusal_to_records(reason: str) -> RecordDict:
    """Return the records in which a party says why it does not answer."""
    return RecordDict({REFUSED: ConfigRecord({"reason": reason})})


def refusal_in_records(records: RecordDict) -> str | None:
    """Return the reason of a refusal in ``records``, cut to one short line, or None."""
    record = records.config_records.get(REFUSED)
    reason = record.get("reason") if record is not None else None
    return " ".join(reason.split())[:300] if isinstance(reason, str) else None


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


def _scalar(records: RecordDict, name: str, kind: type[Scalar]) -> Scalar:
    record = records.config_records.get(FIELDS)
    value = record.get(name) if record is not None else None
    # bool is an int to Python, and never what is meant here.
    if not isinstance(value, kind) or isinstance(value, bool):
        raise BadMessage(f"{name}: expected {kind.__name__}, got {type(value).__name__}")
    return value


def _word(records: RecordDict, name: str, words: tuple[Word, ...]) -> Word:
    """Return the text called ``name``, which must be one of ``words``."""
    text = _scalar(records, name, str)
    for word in words:
        if text == word:
            return word
    raise BadMessage(f"{name}: expected {', '.join(words)}, got {text[:20]!r}")


def _array(records: RecordDict, name: str) -> AnyArray:
    record = records.array_records.get(ARRAYS)
    array = record.get(name) if record is not None else None
    if array is None:
        raise BadMessage(f"{name}: expected an array, got none")
    try:
        loaded: object = array.numpy()
    except Exception:  # numpy reads zip archives too; a stranger's bytes make it raise almost anything
        loaded = None
    if not isinstance(loaded, np.ndarray):
        raise BadMessage(f"{name}: expected a numpy array without pickle, got something else")
    return loaded
