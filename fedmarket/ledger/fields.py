"""What the fields of entries may hold: text of one line, hashes, times, whole numbers, reals as decimal text."""

import re
import unicodedata
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, Field, ValidationError

from fedmarket.errors import BadMessage
from fedmarket.ledger.canonical import real

Adjacency = Literal["add-or-remove-one", "replace-one"]
Sampling = Literal["poisson", "all-rows"]
Accountant = Literal["pld", "prv", "exact"]


def _one_line(most: int) -> Callable[[str], str]:
    """Return a check for 1 to ``most`` bytes of printable NFC text: no control, bidirectional or line characters."""

    def checked(text: str) -> str:
        if not (text.isprintable() and text == text.strip() and unicodedata.is_normalized("NFC", text)):
            raise ValueError("expected one line of printable NFC text without outer blanks")
        if not 1 <= len(text.encode()) <= most:
            raise ValueError(f"expected 1 to {most} bytes of UTF-8")
        return text

    return checked


def _number(fits: Callable[[float], bool], expected: str) -> Callable[[str], str]:
    def checked(text: str) -> str:
        try:
            number = real(text)
        except BadMessage as error:
            raise ValueError(str(error)) from None
        if not fits(number):
            raise ValueError(f"expected decimal text {expected}")
        return text

    return checked


def _moment(text: str) -> str:
    if not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z", text):
        raise ValueError("expected a time of UTC in whole seconds, as 2026-01-31T12:00:00Z")
    try:
        datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("expected a time that exists") from None
    return text


Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
PublicKey = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
RunId = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Unit = Annotated[str, Field(pattern=r"^(row|column:.+)$"), AfterValidator(_one_line(200))]
Line = Annotated[str, AfterValidator(_one_line(64))]
Reason = Annotated[str, AfterValidator(_one_line(200))]
Moment = Annotated[str, AfterValidator(_moment)]
PositiveReal = Annotated[str, AfterValidator(_number(lambda number: number > 0, "above 0"))]
NonNegativeReal = Annotated[str, AfterValidator(_number(lambda number: number >= 0, "of 0 or more"))]
Rate = Annotated[str, AfterValidator(_number(lambda number: 0 < number <= 1, "above 0 and at most 1"))]
Probability = Annotated[str, AfterValidator(_number(lambda number: 0 < number < 1, "between 0 and 1"))]
Round = Annotated[int, Field(ge=0, lt=2**32)]
Count = Annotated[int, Field(ge=1, lt=2**32)]
Parties = Annotated[int, Field(ge=1, le=1000)]

Model = TypeVar("Model", bound=BaseModel)


def parsed(model: type[Model], document: dict[str, Any]) -> Model:
    """Return ``document`` as a ``model``; the error says the key and what was expected, never the value.

    Raises:
        BadMessage: if a key is missing or unknown, or a value is out of range.
    """
    try:
        return model.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        unknown = first["type"] == "extra_forbidden"  # what is no key of ours is not repeated
        where = ".".join(str(part) for part in (first["loc"][:-1] if unknown else first["loc"])) or "entry"
        said = "unknown key" if unknown else first["msg"].removeprefix("Value error, ")
        raise BadMessage(f"{where}: {said}") from None
