"""Documents as strict models: frozen values, no unknown key, and errors of one line that name what was expected."""

from typing import Annotated, Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedmarket.errors import ConfigError

Number = float  # strict mode takes whole numbers too, but neither texts nor truth values
Positive = Annotated[Number, Field(gt=0)]
Share = Annotated[Number, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(min_length=1)]


LONGEST_SHOWN = 100
"""Characters of a key or a value in an error."""


class Section(BaseModel):
    """A table of a document: frozen, every key known, no number that is NaN or infinite."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


Model = TypeVar("Model", bound=BaseModel)


def parse_document(kind: type[Model], document: dict[str, Any], *, source: str) -> Model:
    """Return ``document`` as a ``kind``; every wrong key or value is named with what was expected.

    Raises:
        ConfigError: one line that names ``source`` and the first wrong keys.
    """
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        problems = [_problem(detail, kind) for detail in error.errors()]
        shown = "; ".join(problems[:3])
        more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ConfigError(f"{source}: {shown}{more}") from None


def _problem(detail: Any, kind: type[BaseModel]) -> str:
    key = ".".join(_shown(str(part)) for part in detail["loc"]) or "document"
    if detail["type"] == "extra_forbidden":
        return f"{key}: unknown key; expected one of {', '.join(_keys_at(kind, detail['loc'][:-1]))}"
    if detail["type"] == "missing":
        return f"{key}: missing"
    came = detail["input"]
    shown = f", got {_value(came)}" if isinstance(came, str | int | float | bool) else ""
    return f"{key}: {_printable(detail['msg'].removeprefix('Value error, '))}{shown}"


def _value(came: str | float) -> str:
    """Return a value as it is shown; Python refuses to write whole numbers of thousands of digits."""
    if isinstance(came, int) and came.bit_length() > LONGEST_SHOWN:
        return f"a whole number of {came.bit_length()} bits"
    return _shown(repr(came))


def _shown(text: str) -> str:
    """Return a stranger's text in one line, not too long."""
    return _printable(text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}...")


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def _keys_at(kind: type[BaseModel], where: tuple[int | str, ...]) -> list[str]:
    """Return the keys that may stand at ``where``; a union's tag there chooses among its members."""
    here = {kind}
    for part in where:
        if any(part in model.model_fields for model in here):
            here = {inner for model in here if part in model.model_fields for inner in _models_in(model, str(part))}
        else:
            here = {model for model in here if part in get_args(_annotation(model, "kind"))} or here
    return sorted({name for model in here for name in model.model_fields})


def _models_in(model: type[BaseModel], name: str) -> set[type[BaseModel]]:
    found, waiting = set(), [_annotation(model, name)]
    while waiting:
        annotation = waiting.pop()
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            found.add(annotation)
        waiting += get_args(annotation)
    return found


def _annotation(model: type[BaseModel], name: str) -> Any:
    return model.model_fields[name].annotation if name in model.model_fields else None
