"""Files at the edge: TOML read with errors that name the file, outputs that appear whole or not at all."""

import hashlib
import os
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedmarket.errors import ConfigError, UsageError


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


@contextmanager
def appearing(path: Path, *, mode: int = 0o644) -> Iterator[Path]:
    """Give a temporary file beside ``path`` that becomes ``path`` by rename when the block succeeds.

    Until then only its owner may read it; then who ``mode`` says.

    Raises:
        UsageError: if the file cannot be written there.

    Guarantees:
        A reader of ``path`` sees the old content or the whole new one, also after a crash.
    """
    try:
        with _temporary_beside(path) as temporary:
            yield temporary
            temporary.chmod(mode)
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
