"""Messages as Flower records and back; whatever comes in is checked for presence and type before it is used.

Shapes, ranges and rounds are checked where the terms are known, in :mod:`fedmarket.federation`. Records are numpy
arrays and scalars without pickle.
"""

from typing import Any, TypeVar, get_args

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from fedmarket.aggregation.steps import RELEASING, Step
from fedmarket.arrays import AnyArray
from fedmarket.errors import BadMessage
from fedmarket.federation.messages import Acceptance, Closing, Invitation, Request, Shown, Told, Update
from fedmarket.ledger.merkle import HASH_SIZE
from fedmarket.models.released import ModelState
from fedmarket.privacy.histogram import BinnedCounts, SegmentSums, Statistics
from fedmarket.privacy.mechanism import PHASES

Scalar = TypeVar("Scalar", str, int, bytes)
Word = TypeVar("Word", bound=str)
AnyRecord = TypeVar("AnyRecord", ArrayRecord, ConfigRecord)

Records = dict[str, ArrayRecord | MetricRecord | ConfigRecord]

FIELDS = "fields"
ARRAYS = "arrays"
TOLD = "told"
SHOWN = "shown"
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
    return RecordDict({FIELDS: record, **told_to_records(acceptance.told)})


def acceptance_from_records(records: RecordDict) -> Acceptance:
    """Return the acceptance in ``records``, or raise BadMessage."""
    return Acceptance(
        party=_scalar(records, "party", str),
        declared_rows=_scalar(records, "declared_rows", int),
        terms_hash=_scalar(records, "terms_hash", str),
        told=told_from_records(records),
    )


def closing_to_records(closing: Closing) -> RecordDict:
    """Return the records that carry ``closing``."""
    return RecordDict({FIELDS: ConfigRecord({"model_hash": closing.model_hash}), **_shown_to_records(closing.shown)})


def closing_from_records(records: RecordDict) -> Closing:
    """Return the closing in ``records``, or raise BadMessage."""
    return Closing(model_hash=_scalar(records, "model_hash", bytes), shown=_shown_from_records(records))


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
    records = RecordDict({FIELDS: record, **_shown_to_records(request.shown)})
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
        shown=_shown_from_records(records),
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
    return RecordDict({FIELDS: record, **told_to_records(update.told)})


def update_from_records(records: RecordDict) -> Update:
    """Return the update in ``records``, or raise BadMessage."""
    return Update(
        party=_scalar(records, "party", str),
        round_number=_scalar(records, "round_number", int),
        step=_word(records, "step", STEPS),
        content=_scalar(records, "content", bytes),
        told=told_from_records(records),
    )


def told_to_records(told: Told | None) -> Records:
    """Return the record in which ``told`` travels beside an answer, if there is something."""
    if told is None:
        return {}
    record = ConfigRecord({"seen": told.seen, "envelopes": list(told.envelopes), "cosignature": told.cosignature})
    return {TOLD: record}


def told_from_records(records: RecordDict) -> Told | None:
    """Return what is told in ``records``, None where nothing is, or raise BadMessage."""
    if TOLD not in records:
        return None
    return Told(
        seen=_scalar(records, "seen", int, of=TOLD),
        envelopes=_listed(records, "envelopes", bytes, of=TOLD),
        cosignature=_scalar(records, "cosignature", bytes, of=TOLD),
    )


def _shown_to_records(shown: Shown | None) -> Records:
    if shown is None:
        return {}
    record = ConfigRecord(
        {
            "checkpoint": shown.checkpoint,
            "seen": list(shown.consistency),
            "consistency": [b"".join(proof) for proof in shown.consistency.values()],
            "sequence": shown.sequence,
            "index": shown.index,
            "inclusion": list(shown.inclusion),
        }
    )
    return {SHOWN: record}


def _shown_from_records(records: RecordDict) -> Shown | None:
    if SHOWN not in records:
        return None
    return Shown(
        checkpoint=_scalar(records, "checkpoint", bytes, of=SHOWN),
        consistency=_proofs(records),
        sequence=_scalar(records, "sequence", int, of=SHOWN),
        index=_scalar(records, "index", int, of=SHOWN),
        inclusion=_listed(records, "inclusion", bytes, of=SHOWN),
    )


def refusal_to_records(reason: str) -> RecordDict:
    """Return the records in which a party says why it does not answer."""
    return RecordDict({REFUSED: ConfigRecord({"reason": reason})})


def refusal_in_records(records: RecordDict) -> str | None:
    """Return the reason of a refusal in ``records``, cut to one short line, or None."""
    record = _record(records, REFUSED, ConfigRecord)
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


def _proofs(records: RecordDict) -> dict[int, tuple[bytes, ...]]:
    """Return the consistency proofs by the size that each starts from."""
    sizes, proofs = _listed(records, "seen", int, of=SHOWN), _listed(records, "consistency", bytes, of=SHOWN)
    if len(sizes) != len(proofs) or any(len(proof) % HASH_SIZE for proof in proofs):
        raise BadMessage("consistency: expected hashes for each size")
    return {
        size: tuple(proof[at : at + HASH_SIZE] for at in range(0, len(proof), HASH_SIZE))
        for size, proof in zip(sizes, proofs, strict=True)
    }


def _record(records: RecordDict, name: str, kind: type[AnyRecord]) -> AnyRecord | None:
    """Return the record called ``name`` if it is of that kind; Flower's own views copy all records each time."""
    found = records.get(name)
    return found if isinstance(found, kind) else None


def _scalar(records: RecordDict, name: str, kind: type[Scalar], *, of: str = FIELDS) -> Scalar:
    record = _record(records, of, ConfigRecord)
    value = record.get(name) if record is not None else None
    # bool is an int to Python, and never what is meant here.
    if not isinstance(value, kind) or isinstance(value, bool):
        raise BadMessage(f"{name}: expected {kind.__name__}, got {type(value).__name__}")
    return value


def _listed(records: RecordDict, name: str, kind: type[Scalar], *, of: str) -> tuple[Scalar, ...]:
    """Return the list called ``name``; an empty one has no kind in Flower."""
    record = _record(records, of, ConfigRecord)
    value = record.get(name) if record is not None else None
    if not isinstance(value, list):
        raise BadMessage(f"{name}: expected a list, got {type(value).__name__}")
    found = tuple(one for one in value if isinstance(one, kind) and not isinstance(one, bool))
    if len(found) < len(value):
        raise BadMessage(f"{name}: expected a list of {kind.__name__}")
    return found


def _word(records: RecordDict, name: str, words: tuple[Word, ...]) -> Word:
    """Return the text called ``name``, which must be one of ``words``."""
    text = _scalar(records, name, str)
    for word in words:
        if text == word:
            return word
    raise BadMessage(f"{name}: expected {', '.join(words)}, got {text[:20]!r}")


def _array(records: RecordDict, name: str) -> AnyArray:
    record = _record(records, ARRAYS, ArrayRecord)
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
