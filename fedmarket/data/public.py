"""Public data sets, known by name and by the SHA-256 of their unzipped bytes.

A file is looked for in ``$FEDMARKET_DATA``, in the user's cache folder and in the ``shared/data`` beside a checkout,
zipped or not. Only where none has it is the publisher's archive fetched, held against the same hash and kept.
"""

import http.client
import io
import logging
import os
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from fedmarket.data.tables import parse_long_csv, parse_spaced, unzipped
from fedmarket.errors import ConfigError, TableError, UsageError
from fedmarket.files import appearing, sha256_of

TIMEOUT_SECONDS = 60.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicFile:
    """One file of a publisher.

    ``sha256`` is over the unzipped bytes. ``members`` leads through the archive at ``url``, zip within zip. ``url`` is
    None where the publisher offers no archive with these bytes that anyone may fetch. ``spaced`` names the fields of a
    file that has no header and white space between them; a file without these names is a csv file.
    """

    name: str
    folder: str
    file: str
    sha256: str
    url: str | None
    members: tuple[str, ...]
    licence: str
    citation: str
    spaced: tuple[str, ...] = ()


_BANK = "https://archive.ics.uci.edu/static/public/222/bank+marketing.zip"
_BANK_CITATION = "Moro, Cortez, Rita (2014), Bank Marketing, UCI Machine Learning Repository 222"

PUBLIC_FILES = (
    PublicFile(
        name="bank-additional",
        folder="bank_marketing",
        file="bank-additional-full.csv",
        sha256="74adfc578bf77a7ff4bb1ba4a9f8709d9e3c6907342959c2c8416847e0afb4d8",
        url=_BANK,
        members=("bank-additional.zip", "bank-additional/bank-additional-full.csv"),
        licence="CC BY 4.0",
        citation=_BANK_CITATION,
    ),
    PublicFile(
        name="bank-full",
        folder="bank_marketing",
        file="bank-full.csv",
        sha256="d1513ec63b385506f7cfce9f2c5caa9fe99e7ba4e8c3fa264b3aaf0f849ed32d",
        url=_BANK,
        members=("bank.zip", "bank-full.csv"),
        licence="CC BY 4.0",
        citation=_BANK_CITATION,
    ),
    PublicFile(
        name="credit-default",
        folder="credit_default",
        file="UCI_Credit_Card.csv",
        sha256="a0f0ab49d6326671d6cd83be5c88dcf18007025fe9a53ecd699119c871176ca1",
        url=None,
        members=(),
        licence="CC BY 4.0",
        citation="Yeh, Lien (2009), Default of Credit Card Clients, UCI Machine Learning Repository 350",
    ),
    PublicFile(
        name="cdnow",
        folder="cdnow",
        file="CDNOW_master.txt",
        sha256="61fd6f7bf3497187a7ec0d9ff6a99b7568f1fe911a9f3665e02efecd6b34ed07",
        url=None,
        members=(),
        licence="research use",
        citation="Fader, Hardie (2001), Forecasting Repeat Sales at CDNOW, Interfaces 31(3)",
        spaced=("id", "day", "items", "dollars"),
    ),
    PublicFile(
        # Both years of the publisher's sheets, joined; their overlap and the column Description are left out.
        name="online-retail-ii",
        folder="online_retail_ii",
        file="online_retail_2009-12_2011-12_nodesc.csv",
        sha256="6f409d57c4b15d8da006848cc15abd5c0afaa5c65b5abf89fa16afc8c09d5335",
        url=None,
        members=(),
        licence="CC BY 4.0",
        citation="Chen (2019), Online Retail II, UCI Machine Learning Repository 502",
    ),
)


def public_set(name: str) -> pl.DataFrame:
    """Return the public data set ``name`` as a table of text columns.

    Raises:
        ConfigError: if no such set is known.
        TableError: if the file is not the publisher's, or is nowhere and cannot be fetched.
    """
    for public in PUBLIC_FILES:
        if public.name == name:
            return load_public(public)
    known = ", ".join(public.name for public in PUBLIC_FILES)
    raise ConfigError(f"public data set {name!r}: unknown; expected one of {known}")


def load_public(public: PublicFile) -> pl.DataFrame:
    """Return ``public`` as a table, from a data folder or else from its publisher.

    **Guarantees.** What is returned was parsed from bytes with the registered hash.
    """
    path = locate(public)
    if path is None:
        content = _fetched(public)
        _keep(public, content)
    else:
        content = _read(path)
        _check_hash(content, public, source=str(path))
    if public.spaced:
        return parse_spaced(content, columns=public.spaced, source=public.file)
    return parse_long_csv(content, source=public.file)


def locate(public: PublicFile) -> Path | None:
    """Return the first file that goes by the name of ``public``, zipped or not, or None."""
    for folder in _data_folders():
        for relative in (f"{public.folder}/{public.file}", public.file):
            for candidate in (folder / relative, folder / f"{relative}.gz"):
                if os.path.isfile(candidate):  # False, where Path.is_file raises, in a folder closed to us
                    return candidate
    return None


def _data_folders() -> Iterator[Path]:
    if told := os.environ.get("FEDMARKET_DATA"):
        yield Path(told)
    yield _cache_folder()
    # A checkout is where the work is done, or where this package was installed from.
    for start in (Path.cwd(), Path(__file__).resolve().parent):
        for parent in (start, *start.parents):
            if (parent / "pyproject.toml").is_file():
                yield parent.parent / "shared" / "data"


def _cache_folder() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "fedmarket"


def _read(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise TableError(f"{path}: cannot be read ({error.strerror or 'unknown reason'})") from None
    return unzipped(content, source=str(path)) if path.suffix == ".gz" else content


def _check_hash(content: bytes, public: PublicFile, *, source: str) -> None:
    found = sha256_of(content)
    if found != public.sha256:
        raise TableError(f"{source}: expected SHA-256 {public.sha256[:12]}…, got {found[:12]}… (not {public.name})")


def _fetched(public: PublicFile) -> bytes:
    advice = f"put it, zipped or not, into $FEDMARKET_DATA or {_cache_folder() / public.folder}"
    if public.url is None:
        raise TableError(f"{public.file}: found in no data folder and not offered for download; {advice}")
    try:
        content = _member(_download(public.url), public.members)
    except (OSError, http.client.HTTPException, zipfile.BadZipFile, zlib.error, KeyError) as error:
        reason = " ".join(str(error).split())
        raise TableError(f"{public.file}: {public.url} could not be fetched ({reason}); {advice}") from None
    _check_hash(content, public, source=public.url)
    return content


def _download(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310 - registered addresses only
        content: bytes = answer.read()
    return content


def _member(archive: bytes, members: tuple[str, ...]) -> bytes:
    """The file that ``members`` lead to, zip within zip."""
    for member in members:
        with zipfile.ZipFile(io.BytesIO(archive)) as opened:
            archive = opened.read(member)
    return archive


def _keep(public: PublicFile, content: bytes) -> None:
    """Keep the file for the next time; a cache that cannot be written costs a download then, not this run."""
    path = _cache_folder() / public.folder / public.file
    try:
        with appearing(path) as temporary:
            temporary.write_bytes(content)
    except UsageError as error:
        _log.warning("a download cannot be kept: %s", error)
