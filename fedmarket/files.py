"""Files at the edge: documents read with errors that name them, outputs that appear whole or not at all."""

import hashlib
import os
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from fedmarket.errors import ConfigError, UsageError

Model = TypeVar("Model", bound=BaseModel)


def read_toml(path: Path) -> dict[str, Any]:
    """Return the TOML document at ``path``.

    Raises:
        ConfigError: if the file is missing, unreadable, not UTF-8 or not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: not a TOML document ({error})") from None


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
    key = ".".join(str(part) for part in detail["loc"]) or "document"
    if detail["type"] == "extra_forbidden":
        return f"{key}: unknown key; expected one of {', '.join(_keys_at(kind, detail['loc'][:-1]))}"
    if detail["type"] == "missing":
        return f"{key}: missing"
    came = detail["input"]
    shown = f", got {came!r}" if isinstance(came, str | int | float | bool) else ""
    return f"{key}: {detail['msg'].removeprefix('Value error, ')}{shown}"


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


@contextmanager
def appearing(path: Path) -> Iterator[Path]:
    """Give a temporary file beside ``path`` that becomes ``path`` by rename when the block succeeds.

    Raises:
        UsageError: if the file cannot be written there.

    Guarantees:
        A reader of ``path`` sees the old content or the whole new one, also after a crash.
    """
    try:
        with _temporary_beside(path) as temporary:
            yield temporary
            temporary.chmod(0o644)
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            temporary.replace(path)
    except OSError as error:
        raise UsageError(f"{path}: cannot be written ({error.strerror or error})") from None


def need_writable(folder: Path) -> None:
    """Make ``folder`` where it is missing, and raise a UsageError now if no file can be written there later."""
    try:
        with _temporary_beside(folder / "probe"):
            pass
    except OSError as error:
        raise UsageError(f"{folder}: cannot be written ({error.strerror or error})") from None


@contextmanager
def _temporary_beside(path: Path) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` as UTF-8, appearing by rename."""
    with appearing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def sha256_of(content: bytes) -> str:
    """Return the SHA-256 of ``content`` in hexadecimal.

    >>> sha256_of(b"")[:8]
    'e3b0c442'
    """
    return hashlib.sha256(content).hexdigest()
