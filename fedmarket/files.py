"""Files at the edge: TOML read with errors that name the file, outputs that appear whole or not at all."""

import hashlib
import os
import stat
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedmarket.errors import ConfigError, UsageError

LARGEST_TOML = 2**20
"""Bytes of a TOML document, where its reader says nothing else."""

_LONGEST_REASON = 200


def read_toml(path: Path, *, largest: int = LARGEST_TOML, longest_line: int | None = None) -> dict[str, Any]:
    """Return the TOML document at ``path``.

    A document of strangers needs ``longest_line``, in bytes: a key of so many parts takes time by their square.

    Raises:
        ConfigError: one line, if the file is missing, unreadable, too large, not UTF-8 or not TOML.
    """
    try:
        with path.open("rb") as file:
            content = file.read(largest + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror or error})") from None
    if len(content) > largest:
        raise ConfigError(f"{path}: expected at most {largest} bytes")
    if longest_line is not None and max(map(len, content.split(b"\n"))) > longest_line:
        raise ConfigError(f"{path}: expected lines of at most {longest_line} bytes")
    try:
        return tomllib.loads(content.decode("utf-8"))
    except RecursionError:
        raise ConfigError(f"{path}: not a TOML document that can be read (nested too deep)") from None
    except ValueError as error:  # of tomllib, of the decoder, or of a whole number with thousands of digits
        said = str(error)[:_LONGEST_REASON]
        raise ConfigError(f"{path}: not a TOML document ({said if said.isprintable() else repr(said)})") from None


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


def read_private(path: Path, *, what: str, largest: int) -> bytes:
    """Return at most ``largest`` bytes of a file that is its owner's alone.

    Raises:
        ConfigError: that names the path and ``what`` is in it, if it cannot be read, is a link, no regular file,
            someone else's, or open to group or others.

    Guarantees:
        The file that was judged is the one that was read, whoever swaps names meanwhile.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise ConfigError(f"{path}: the {what} cannot be read ({error.strerror or error})") from None
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise ConfigError(f"{path}: the {what} must be a regular file")
        if status.st_uid != os.geteuid():
            raise ConfigError(f"{path}: the {what} belongs to another user")
        if status.st_mode & 0o077:
            raise ConfigError(f"{path}: the {what} is open to group or others; run chmod 600 on it")
        return os.read(handle, largest)
    finally:
        os.close(handle)


def write_new(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """Write a file that is not there yet and wait until it is on disk; its owner's alone unless ``mode`` says else.

    Raises:
        UsageError: if it is there, or cannot be written.

    Guarantees:
        A file that is there is never touched, and no half of one is left where the disk is full; at no time has the new
        one more readers than ``mode`` allows.
    """
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    except FileExistsError:
        raise UsageError(f"{path}: exists already; nothing is overwritten") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be written ({error.strerror or error})") from None
    try:
        with open(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        path.unlink()  # it was made here, and half of it is of no use
        raise UsageError(f"{path}: cannot be written ({error.strerror or error})") from None


def sha256_of(content: bytes) -> str:
    """Return the SHA-256 of ``content`` in hexadecimal.

    >>> sha256_of(b"")[:8]
    'e3b0c442'
    """
    return hashlib.sha256(content).hexdigest()
