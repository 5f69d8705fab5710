"""Public files are found by name and hash, or fetched from the publisher and kept."""

import gzip
import io
import itertools
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from fedmarket.data import public
from fedmarket.data.public import PUBLIC_FILES, PublicFile, load_public, locate, public_set
from fedmarket.data.tables import parse_csv, parse_long_csv
from fedmarket.errors import ConfigError, TableError
from fedmarket.files import sha256_of

CONTENT = "年龄;y\n31;no\n".encode()


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of our own: told data folder, cache and working directory lie in the returned folder."""
    checkout = tmp_path / "work" / "checkout" / "experiments"
    checkout.mkdir(parents=True)
    (checkout.parent / "pyproject.toml").touch()
    monkeypatch.setenv("FEDMARKET_DATA", str(tmp_path / "told"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(checkout)
    return tmp_path


PLACES = ("told", "cache/fedmarket", "work/shared/data")


def known(url: str | None = None, content: bytes = CONTENT) -> PublicFile:
    return PublicFile(
        name="test",
        folder="test_set",
        file="table.csv",
        sha256=sha256_of(content),
        url=url,
        members=("inner.zip", "folder/table.csv"),
        licence="CC0",
        citation="nobody",
    )


def put(path: Path, content: bytes = CONTENT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def zipped(**members: bytes) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as opened:
        for name, content in members.items():
            opened.writestr(name.replace("__", "/").replace("_dot_", "."), content)
    return archive.getvalue()


def publisher(folder: Path, content: bytes = CONTENT) -> str:
    nested = zipped(inner_dot_zip=zipped(folder__table_dot_csv=content))
    return put(folder / "publisher.zip", nested).as_uri()


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", ["test_set/table.csv", "test_set/table.csv.gz", "table.csv", "table.csv.gz"])
def test_a_file_is_found_in_each_folder_zipped_or_not(folders: Path, place: str, name: str):
    path = put(folders / place / name)
    assert locate(known()) == path
    assert load_public(known()).to_dict(as_series=False) == {"年龄": ["31"], "y": ["no"]}


def test_the_told_folder_comes_before_the_cache_and_the_cache_before_the_checkout(folders: Path):
    paths = [put(folders / place / "table.csv") for place in PLACES]
    for path in paths:
        assert locate(known()) == path
        path.unlink()
    assert locate(known()) is None


def test_a_file_with_another_hash_is_refused_and_both_hashes_start_the_error(folders: Path):
    path = put(folders / "told" / "table.csv.gz", b"other")
    expected, found = known().sha256[:12], sha256_of(b"other")[:12]
    with pytest.raises(TableError, match=f"^{path}: expected SHA-256 {expected}…, got {found}…"):
        load_public(known())


def test_a_file_that_is_nowhere_is_fetched_once_and_kept(folders: Path):
    url = publisher(folders)
    assert load_public(known(url)).height == 1
    kept = folders / "cache" / "fedmarket" / "test_set" / "table.csv"
    assert kept.read_bytes() == CONTENT
    assert [path.name for path in kept.parent.iterdir()] == ["table.csv"]
    (folders / "publisher.zip").unlink()
    assert load_public(known(url)).height == 1


def test_a_fetched_file_with_another_hash_is_refused_and_not_kept(folders: Path):
    url = publisher(folders, b"other")
    with pytest.raises(TableError, match=f"^{url}: expected SHA-256"):
        load_public(known(url))
    assert not (folders / "cache").exists()


def test_a_cache_that_cannot_be_written_costs_only_the_keeping(folders: Path, caplog: pytest.LogCaptureFixture):
    (folders / "cache").touch()
    assert load_public(known(publisher(folders))).height == 1
    assert "cannot be kept" in caplog.text


@pytest.mark.parametrize("broken", ["no publisher", "no zip", "no member", "truncated"])
def test_a_failed_download_says_in_one_line_where_to_put_the_file(folders: Path, broken: str):
    url = publisher(folders)
    archive = folders / "publisher.zip"
    public_file = known(url)
    if broken == "no publisher":
        archive.unlink()
    elif broken == "no zip":
        archive.write_bytes(b"<html>")
    elif broken == "truncated":
        archive.write_bytes(archive.read_bytes()[:-30])
    else:
        public_file = replace(public_file, members=("other.zip",))
    with pytest.raises(TableError) as caught:
        load_public(public_file)
    message = str(caught.value)
    assert message.startswith(f"table.csv: {url} could not be fetched (")
    assert "into $FEDMARKET_DATA or " in message
    assert str(folders / "cache" / "fedmarket" / "test_set") in message
    assert "\n" not in message


def test_a_file_without_an_address_says_where_to_put_it(folders: Path):
    with pytest.raises(TableError, match=r"table\.csv: found in no data folder and not offered for download; put it"):
        load_public(known(None))


def test_an_unknown_set_is_refused_with_the_known_names():
    with pytest.raises(ConfigError, match="'bank': unknown; expected one of bank-additional, bank-full, credit-def"):
        public_set("bank")


def test_registered_hashes_are_whole_and_names_distinct():
    assert all(len(entry.sha256) == 64 and int(entry.sha256, 16) for entry in PUBLIC_FILES)
    assert len({entry.name for entry in PUBLIC_FILES}) == len({entry.sha256 for entry in PUBLIC_FILES}) == 5
    assert all(entry.url is None or entry.members[-1].endswith(entry.file) for entry in PUBLIC_FILES)


SHAPES = {
    "bank-additional": (41_188, 21),
    "bank-full": (45_211, 17),
    "credit-default": (30_000, 25),
    "cdnow": (69_659, 4),
    "online-retail-ii": (1_044_847, 7),
}


@pytest.mark.parametrize("entry", PUBLIC_FILES, ids=lambda entry: entry.name)
def test_a_set_at_hand_has_its_published_shape(entry: PublicFile):
    if locate(entry) is None:
        pytest.skip("no data folder has this file")
    assert public_set(entry.name).shape == SHAPES[entry.name]


@pytest.mark.parametrize("entry", [one for one in PUBLIC_FILES if not one.spaced], ids=lambda entry: entry.name)
def test_a_set_is_read_fast_as_it_would_be_read_slowly(entry: PublicFile):
    path = locate(entry)
    if path is None:
        pytest.skip("no data folder has this file")
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as opened:
        content = b"".join(itertools.islice(opened, 20_000))
    assert parse_long_csv(content, source="fast").equals(parse_csv(content, source="slow"))


def test_a_file_without_a_header_is_read_by_the_names_of_its_fields(folders: Path):
    content = b" 00001 19970101\r\n 00002 19970102\r\n"
    put(folders / "told" / "table.csv", content)
    told = replace(known(content=content), spaced=("id", "day"))
    assert load_public(told).rows() == [("00001", "19970101"), ("00002", "19970102")]


def test_the_default_cache_is_in_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert public._cache_folder() == tmp_path / ".cache" / "fedmarket"
