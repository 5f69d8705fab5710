"""What an auditor is handed: every party's ledger, the server's log, its checkpoints, and whose keys these should be.

A bundle is a folder, or a zip of one, with nothing else in it. It comes from strangers: names are a closed list, links
are refused, and sizes are checked before anything is read. Reading says only that there is a bundle; what it is worth,
:func:`fedmarket.ledger.verify.verify` says.
"""

import hashlib
import os
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, BinaryIO, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from fedmarket.aggregation.secagg.roster import MOST_MEMBERS, Member, Roster
from fedmarket.documents import Section
from fedmarket.errors import BadMessage, DataError, UsageError
from fedmarket.files import appearing, sha256_of
from fedmarket.ledger.canonical import canonical, read_canonical
from fedmarket.ledger.fields import Hash, Line, Parties, PublicKey, RunId, parsed
from fedmarket.ledger.note import LARGEST_NOTE, SIGNATURE, VerifierKey

FORMAT: Literal["fedmarket-bundle/1"] = "fedmarket-bundle/1"

LARGEST_MANIFEST = 1 << 20
LARGEST_FILE = 1 << 27
LARGEST_BUNDLE = 1 << 28
"""Bytes, also of a zip when it is unpacked."""

MOST_ENTRIES = 200_000
"""Lines of a file."""

MOST_CHECKPOINTS = 1000
MOST_AUDITORS = 16
MOST_RUNS = 5000

MANIFEST, LOG = "manifest.json", "log.jsonl"

_NAME = re.compile(r"manifest\.json|log\.jsonl|ledger-(0|[1-9][0-9]?)\.jsonl|checkpoint-(0|[1-9][0-9]{0,2})\.note")
_MOST_FILES = MOST_CHECKPOINTS + MOST_MEMBERS + 2
_STAMP = (1980, 1, 1, 0, 0, 0)
_ENCRYPTED = 0x1
_LARGEST_DIRECTORY = 256 * _MOST_FILES
_BEGIN, _END_MARK = b"PK\3\4", b"PK\5\6"
_END = struct.Struct("<4s8xL4xH")
_LOCATOR_SIZE = 20

_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, LookupError, ValueError)
"""What the standard library raises on a zip that is none."""


def ledger_name(party: int) -> str:
    """Return the file of the party at this place of the manifest."""
    return f"ledger-{party}.jsonl"


def checkpoint_name(number: int) -> str:
    """Return the file of a checkpoint; they are numbered from 0 as the log grew."""
    return f"checkpoint-{number}.note"


def _log_key(text: str) -> str:
    try:
        key = VerifierKey.from_text(text)
    except BadMessage as error:
        raise ValueError(str(error)) from None
    if key.kind != SIGNATURE:
        raise ValueError("expected a key that signs, not one that cosigns")
    return text


class BundleParty(Section):
    """A member of the roster."""

    name: Line
    public_key: PublicKey


class BundleRun(Section):
    """What is assumed of a run's observers: how many parties collude, and how many are left at least."""

    run: RunId
    assumed_colluders: Annotated[int, Field(ge=0, le=1000)]
    minimum_survivors: Parties


class Manifest(Section):
    """Whose entries these should be. Nothing in it is believed that signed entries do not say too."""

    format: Literal["fedmarket-bundle/1"] = FORMAT
    suite: Line
    threshold: Parties
    minimum_survivors: Parties
    roster_hash: Hash
    parties: Annotated[
        tuple[BundleParty, ...], Field(strict=False, min_length=1, max_length=MOST_MEMBERS, fail_fast=True)
    ]
    log_key: Annotated[str, AfterValidator(_log_key)]
    auditors: Annotated[tuple[PublicKey, ...], Field(strict=False, max_length=MOST_AUDITORS, fail_fast=True)]
    runs: Annotated[tuple[BundleRun, ...], Field(strict=False, max_length=MOST_RUNS, fail_fast=True)]

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        for listed in ([party.name for party in self.parties], list(self.auditors), [run.run for run in self.runs]):
            if listed != sorted(set(listed)):
                raise ValueError("parties, auditors and runs must be sorted, none twice")
        return self

    def roster(self) -> Roster:
        """Return the roster that the manifest describes.

        Raises:
            ConfigError: if it breaks a rule of rosters.
        """
        return Roster(
            members=tuple(
                Member(name=party.name, public_key=bytes.fromhex(party.public_key)) for party in self.parties
            ),
            threshold=self.threshold,
            minimum_survivors=self.minimum_survivors,
            suite=self.suite,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundle:
    """What is in a bundle, of which only the manifest was read.

    Attributes:
        manifest: whose entries these should be.
        ledgers: each party's envelopes, in the order of the manifest; none where there is no file.
        log: the server's envelopes in the order of the log.
        checkpoints: signed and cosigned notes, as the log grew.
        zip_hash: SHA-256 of the zip that it was read from, in hexadecimal; None where it was none.
    """

    manifest: Manifest
    ledgers: tuple[tuple[bytes, ...], ...]
    log: tuple[bytes, ...]
    checkpoints: tuple[bytes, ...]
    zip_hash: str | None = field(default=None, compare=False)

    def files(self) -> dict[str, bytes]:
        """Return the content of every file by name."""
        lines = {ledger_name(place): ledger for place, ledger in enumerate(self.ledgers) if ledger} | {LOG: self.log}
        return (
            {MANIFEST: canonical(self.manifest.model_dump())}
            | {name: b"".join(line + b"\n" for line in content) for name, content in lines.items()}
            | {checkpoint_name(number): note for number, note in enumerate(self.checkpoints)}
        )


def write_bundle(bundle: Bundle, path: Path, *, replace: bool = False) -> None:
    """Write ``bundle`` as a zip if ``path`` ends in ``.zip``, else as files of the folder ``path``.

    Raises:
        UsageError: if there is something at ``path`` already, but for a zip to ``replace``, or it cannot be written.

    Guarantees:
        The same bundle gives the same bytes.
    """
    if path.exists() and not (replace and path.suffix == ".zip" and path.is_file()):
        raise UsageError(f"{path}: is there already; a bundle is never overwritten")
    if path.suffix != ".zip":
        for name, content in bundle.files().items():
            with appearing(path / name) as temporary:
                temporary.write_bytes(content)
        return
    with appearing(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in bundle.files().items():
            archive.writestr(zipfile.ZipInfo(name, _STAMP), content, zipfile.ZIP_DEFLATED)


def hash_of_files(files: Mapping[str, bytes]) -> str:
    """Return SHA-256 over a line ``HASH  NAME`` for each file, sorted by name: one name for what is in a folder.

    It is what ``LC_ALL=C sha256sum -- * | sha256sum`` finds in the folder, so that nobody needs this code to check it.
    """
    return sha256_of(b"".join(f"{sha256_of(files[name])}  {name}\n".encode() for name in sorted(files)))


def read_bundle(path: Path) -> Bundle:
    """Return the bundle in the folder or zip at ``path``.

    Raises:
        DataError: one line that names file and rule: a file that does not belong, a link, too large, a line that does
            not end, a manifest that breaks a rule.
        UsageError: if there is nothing at ``path``, or it cannot be read.

    Guarantees:
        Nothing outside ``path`` is read and nothing is written, whatever is in it; at most :data:`LARGEST_BUNDLE` bytes
        are held.
    """
    try:
        files, zip_hash = (_of_folder(path), None) if path.is_dir() else _of_zip(path)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror or error})") from None
    except BadMessage as error:
        raise DataError(f"{path}: {error}") from None
    try:
        return replace(bundle_of(files), zip_hash=zip_hash)
    except BadMessage as error:
        raise DataError(f"{path}: {error}") from None


def bundle_of(files: Mapping[str, bytes]) -> Bundle:
    """Return the bundle made of these files; see :func:`read_bundle`.

    Raises:
        BadMessage: one line that names file and rule.
    """
    _need_fit({name: len(content) for name, content in files.items()})
    for name in (MANIFEST, LOG):
        if name not in files:
            raise BadMessage(f"{name}: missing; expected the folder or zip that has it at its root")
    manifest = _manifest(files[MANIFEST])
    ledgers = [ledger_name(place) for place in range(len(manifest.parties))]
    notes = _checkpoints_of(files)
    for name in sorted(files):
        if name not in {MANIFEST, LOG, *ledgers, *notes}:
            raise BadMessage(f"{name}: does not belong; expected ledgers of {len(ledgers)} parties")
    return Bundle(
        manifest=manifest,
        ledgers=tuple(_lines(name, files.get(name, b"")) for name in ledgers),
        log=_lines(LOG, files[LOG]),
        checkpoints=tuple(files[name] for name in notes),
    )


def _checkpoints_of(files: Mapping[str, bytes]) -> list[str]:
    """Return the names of the checkpoints in their order, or raise a BadMessage that names the first one missing."""
    notes = [checkpoint_name(number) for number in range(sum(name.endswith(".note") for name in files))]
    if missing := next((name for name in notes if name not in files), None):
        later = min(name for name in files if name.endswith(".note") and name not in notes)
        raise BadMessage(f"{missing}: missing, and {later} is there; expected checkpoints without gap")
    return notes


def _manifest(content: bytes) -> Manifest:
    try:
        document = read_canonical(content, largest=LARGEST_MANIFEST)
        if not (isinstance(document, dict) and "format" in document):
            raise BadMessage("expected an object with a format")
        return parsed(Manifest, document)
    except BadMessage as error:
        raise BadMessage(f"{MANIFEST}: {error}") from None


def _lines(name: str, content: bytes) -> tuple[bytes, ...]:
    count = content.count(b"\n")
    if count > MOST_ENTRIES:
        raise BadMessage(f"{name}: expected at most {MOST_ENTRIES} lines, got {count}")
    *lines, tail = content.split(b"\n")
    if tail:
        raise BadMessage(f"{name}: line {count + 1} (entry {count}) has no end")
    return tuple(lines)


def _need_fit(sizes: Mapping[str, int]) -> None:
    """Refuse names and sizes before anything is read."""
    if len(sizes) > _MOST_FILES:
        raise BadMessage(f"expected at most {_MOST_FILES} files, got more")
    for name, size in sizes.items():
        if "/" in name:
            raise BadMessage(f"{ascii(name)[:64]}: files must lie at the root of the zip, in no folder")
        if not _NAME.fullmatch(name):
            raise BadMessage(f"{ascii(name)[:64]}: no file of a bundle has such a name; take out what is none of its")
        largest = LARGEST_MANIFEST if name == MANIFEST else LARGEST_NOTE if name.endswith(".note") else LARGEST_FILE
        if size > largest:
            raise BadMessage(f"{name}: expected at most {largest} bytes, got {size}")
    if sum(sizes.values()) > LARGEST_BUNDLE:
        raise BadMessage(f"expected at most {LARGEST_BUNDLE} bytes in all files, got {sum(sizes.values())}")


def _of_folder(path: Path) -> dict[str, bytes]:
    sizes: dict[str, int] = {}
    with os.scandir(path) as found:
        for entry in found:
            if len(sizes) > _MOST_FILES:
                break
            if not entry.is_file(follow_symlinks=False):
                hint = f"; name the folder in which {MANIFEST} is" if entry.is_dir(follow_symlinks=False) else ""
                raise BadMessage(f"{ascii(entry.name)[:64]}: expected a file, neither link nor folder{hint}")
            sizes[entry.name] = entry.stat(follow_symlinks=False).st_size
    _need_fit(sizes)
    return {name: _of_file(path / name, size) for name, size in sizes.items()}


def _of_file(path: Path, size: int) -> bytes:
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise BadMessage(f"{path.name}: expected a file, neither link nor folder")
        content = file.read(size + 1)
    if len(content) != size:
        raise BadMessage(f"{path.name}: changes while it is read")
    return content


def _of_zip(path: Path) -> tuple[dict[str, bytes], str]:
    """Return the files, and the hash of the zip that they were read from."""
    if path.stat().st_size > LARGEST_BUNDLE:
        raise BadMessage(f"expected at most {LARGEST_BUNDLE} bytes, got {path.stat().st_size}")
    try:
        with path.open("rb") as file, zipfile.ZipFile(_with_few_members(file)) as archive:
            file.seek(0)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            members = archive.infolist()
            if len({member.filename for member in members}) < len(members):
                raise BadMessage("a name is in the zip twice")
            for member in members:
                _need_plain(member)
            _need_fit({member.filename: member.file_size for member in members})
            return {member.filename: _of_member(archive, member) for member in members}, digest
    except _DAMAGED as error:
        raise BadMessage(f"neither a folder nor a zip that can be read ({type(error).__name__})") from None


def _with_few_members(file: BinaryIO) -> BinaryIO:
    """Return a zip whose list of members is small: all of it is read before they can be counted.

    Its size is in the last 22 bytes. What could stand in their place is refused: a comment, or the records of zip64.
    """
    begin = file.read(len(_BEGIN))
    file.seek(max(0, file.seek(0, os.SEEK_END) - _LOCATOR_SIZE - _END.size))
    tail = file.read(_LOCATOR_SIZE + _END.size)
    if len(tail) < _END.size:
        raise zipfile.BadZipFile
    mark, size, comment = _END.unpack(tail[-_END.size :])
    if mark != _END_MARK and begin not in (_BEGIN, _END_MARK):
        raise BadMessage("neither a folder nor a zip: it does not begin like one; is it the file that you meant?")
    if mark != _END_MARK or comment or tail.startswith(b"PK\6\7") or size > _LARGEST_DIRECTORY:
        raise BadMessage(
            "its end is not the one of a bundle's zip (was it cut on its way? Compare its SHA-256 with the sender's): "
            f"expected at most {_MOST_FILES} files, without comment and zip64"
        )
    return file


def _need_plain(member: zipfile.ZipInfo) -> None:
    kind = stat.S_IFMT(member.external_attr >> 16)
    plain = member.orig_filename == member.filename and kind in (0, stat.S_IFREG) and not member.is_dir()
    if member.is_dir():
        raise BadMessage(f"{ascii(member.orig_filename)[:64]}: files must lie at the root of the zip, in no folder")
    if not plain or member.flag_bits & _ENCRYPTED:
        raise BadMessage(f"{ascii(member.orig_filename)[:64]}: expected a file, neither link, folder nor encrypted")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise BadMessage(f"{ascii(member.filename)[:64]}: expected to be stored or deflated")


def _of_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    with archive.open(member) as file:
        content = file.read(member.file_size + 1)  # reading past the end is what checks the sum
    if len(content) != member.file_size:
        raise BadMessage(f"{member.filename}: not of the size that the zip says")
    return content
