"""A file of lines that only grows: one writer at a time, every line on disk before its writer hears that it is.

POSIX only (``flock``); on a network file system it is worth what that system's locks and ``fsync`` are worth.
"""

import fcntl
import logging
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from fedmarket.errors import DataError, UsageError
from fedmarket.files import appearing

_log = logging.getLogger(__name__)

Check = Callable[[bytes], bool]
"""Whether the bytes of a line, without its end, are whole."""


class Lines:
    """The file ``NAME.jsonl`` in a folder, and the lock ``NAME.lock`` beside it.

    **Torn lines.** :meth:`append` returns only after ``fsync``. So when a crash cuts an append, its caller never heard
    that the line was there, and has let nothing leave for it: the torn line paid for nothing, and can go. How it looks:

    - No newline at the end. A line is written in one piece with the newline last, so every cut prefix has none. If what
      is there is a whole line all the same, only the newline was cut: it is put there, and the line counts. That is one
      too many at worst, and the signed line has no rival with the same number.
    - A newline, but zero bytes before it: the power failed when the file had grown but not all its blocks were written.

    Everything else that is not whole was damaged later, in the middle or at the end. It may have paid for something,
    so it is never repaired: opening fails and names the line.

    Guarantees:
        After any crash, reopening gives every line whose append had returned, in order. What was torn is moved to
        ``NAME.torn-N``, not deleted. After a failed append nothing more is written until the file is opened again.

    Attributes:
        path: of the file.
        content: its lines, without ends.
        torn: where a torn line was moved to when the file was opened; None where none was.
    """

    def __init__(self, folder: Path, name: str, *, whole: Check) -> None:
        """Open or make the file.

        Raises:
            UsageError: if another process holds it, or the folder cannot be used.
            DataError: if a line is damaged.
        """
        self.path = folder / f"{name}.jsonl"
        self.torn: Path | None = None
        self._file = self._lock = -1
        self._owner = os.getpid()
        try:
            self._make(folder)
            self._lock = os.open(folder / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            self._file = os.open(self.path, flags, 0o600)
            self.content = self._recovered(whole)
        except BlockingIOError:
            self.close()
            raise UsageError(f"{folder}: the {name} is in use by another process; stop it first") from None
        except OSError as error:
            self.close()
            raise UsageError(f"{self.path}: cannot be used ({error.strerror or error})") from None
        except BaseException:
            self.close()
            raise

    def append(self, lines: Iterable[bytes]) -> None:
        """Write ``lines`` and return when they are on disk; all of them with one ``fsync``.

        Raises:
            UsageError: if they cannot be written, and from then on, until the file is opened again.
        """
        added = list(lines)
        self.need_open()
        try:
            _write(self._file, b"".join(line + b"\n" for line in added))
            os.fsync(self._file)
        except OSError as error:
            # Which bytes are on disk is unknown now, and a second fsync would not tell: only reopening does.
            self.close()
            raise UsageError(f"{self.path}: cannot be written ({error.strerror or error})") from None
        self.content += added

    def need_open(self) -> None:
        """Raise a UsageError if nothing can be appended: closed, or this is a child that only inherited the lock."""
        if self._file < 0 or self._owner != os.getpid():
            raise UsageError(f"{self.path}: not open in this process; open it again")

    def close(self) -> None:
        """Give up the file and its lock; again does nothing."""
        for handle in (self._file, self._lock):
            if handle >= 0:
                os.close(handle)
        self._file = self._lock = -1

    @staticmethod
    def _make(folder: Path) -> None:
        if not folder.is_dir():
            folder.mkdir(parents=True, mode=0o700)
            _sync_folder(folder.parent)

    def _recovered(self, whole: Check) -> list[bytes]:
        with open(self._file, "rb", closefd=False) as file:
            file.seek(0)
            *lines, tail = file.read().split(b"\n")
        if tail and whole(tail):
            _write(self._file, b"\n")
            lines.append(tail)
        elif tail:
            self._set_aside(tail)
        elif lines and b"\0" in lines[-1]:
            self._set_aside(lines.pop() + b"\n")
        # A line may be whole in memory only, if its writer was killed before fsync: nobody relies on it before this.
        os.fsync(self._file)
        _sync_folder(self.path.parent)
        for number, line in enumerate(lines, start=1):
            if not whole(line):
                raise DataError(f"{self.path}: line {number} is damaged; it is never repaired")
        return lines

    def _set_aside(self, tail: bytes) -> None:
        """Move the torn end of the file to a file of its own: first the copy, then the cut."""
        number = 1
        while (torn := self.path.with_suffix(f".torn-{number}")).exists():
            number += 1
        with appearing(torn) as temporary:
            temporary.write_bytes(tail)
        _sync_folder(self.path.parent)
        os.ftruncate(self._file, os.fstat(self._file).st_size - len(tail))
        self.torn = torn
        _log.warning("%s: a torn last line of %d bytes was moved to %s", self.path, len(tail), torn.name)


def whole_lines(path: Path) -> tuple[bytes, ...]:
    """Return the lines of such a file as it is now, without lock; what follows the last line end is left out.

    Raises:
        UsageError: if it cannot be read.
    """
    try:
        return tuple(path.read_bytes().split(b"\n")[:-1])
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror or error})") from None


def _write(handle: int, content: bytes) -> None:
    """Write all of ``content``; the system may take it in pieces."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(handle, rest) :]


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
