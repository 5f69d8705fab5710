"""Messages as Flower records and back; whatever comes in is checked for presence and type before it is used.

Shapes, ranges and rounds are checked where the terms are known, in :mod:`fedmarket.federation`. Records are numpy
arrays and scalars without pickle.
"""

from typing import TypeVar

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from fedmarket.arrays import AnyArray
from fedmarket.errors import BadMessage
from fedmarket.federation.messages import Acceptance, Invitation, Request, Update
from fedmarket.models.released import ModelState

Scalar = TypeVar("Scalar", str, int)

FIELDS = "fields"
ARRAYS = "arrays"
REFUSED = "refused"
MODEL_ARRAYS = ("centre", "parameters", "calibration")


def invitation_to_records(invitation: Invitation) -> RecordDict:
    """Return the records that carry ``invitation``."""
    return RecordDict({FIELDS: ConfigRecord({"terms_hash": invitation.terms_hash})})


def invitation_from_records(records: RecordDict) -> Invitation:
    """Return the invitation in ``records``, or raise BadMessage."""
    return Invitation(terms_hash=_scalar(records, "terms_hash", str))


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


def request_to_records(request: Request) -> RecordDict:
    """Return the records that carry ``request``."""
    return RecordDict(
        {
            FIELDS: ConfigRecord({"round_number": request.round_number, "phase": request.phase}),
            ARRAYS: model_to_record(request.model),
        }
    )


def request_from_records(records: RecordDict) -> Request:
    """Return the request in ``records``, or raise BadMessage."""
    phase = _scalar(records, "phase", str)
    if phase not in ("centre", "update", "calibrate"):
        raise BadMessage(f"phase: expected centre, update or calibrate, got {phase[:20]!r}")
    return Request(
        round_number=_scalar(records, "round_number", int),
        phase=phase,  # type: ignore[arg-type]
        model=model_from_record(records),
    )


def update_to_records(update: Update) -> RecordDict:
    """Return the records that carry ``update``: who, which round, and the residues."""
    return RecordDict(
        {
            FIELDS: ConfigRecord({"party": update.party, "round_number": update.round_number}),
            ARRAYS: ArrayRecord({"words": Array(update.words)}),
        }
    )


def update_from_records(records: RecordDict) -> Update:
    """Return the update in ``records``, or raise BadMessage."""
    return Update(
        party=_scalar(records, "party", str),
        round_number=_scalar(records, "round_number", int),
        words=_array(records, "words"),
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


def _scalar(records: RecordDict, name: str, kind: type[Scalar]) -> Scalar:
    record = records.config_records.get(FIELDS)
    value = record.get(name) if record is not None else None
    # bool is an int to Python, and never what is meant here.
    if not isinstance(value, kind) or isinstance(value, bool):
        raise BadMessage(f"{name}: expected {kind.__name__}, got {type(value).__name__}")
    return value


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
