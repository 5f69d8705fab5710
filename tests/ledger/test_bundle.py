"""Folders and zips from strangers: what belongs is read, all else is one line, and nothing outside is touched."""

import json
import os
import runpy
import stat
import warnings
import zipfile
from pathlib import Path

import pytest

from fedmarket.errors import BadMessage, DataError, UsageError
from fedmarket.ledger import bundle as module
from fedmarket.ledger.bundle import read_bundle, write_bundle
from fedmarket.ledger.canonical import canonical

MADE = runpy.run_path(str(Path(__file__).with_name("bundles.py")))


@pytest.fixture(scope="module")
def bundle():
    return MADE["Market"]().opened().joined().bundle()


@pytest.fixture
def folder(bundle, tmp_path):
    write_bundle(bundle, tmp_path / "bundle")
    return tmp_path / "bundle"


def refused(path):
    """Return the one line that a bundle is refused with."""
    with pytest.raises(DataError) as caught:
        read_bundle(path)
    assert str(caught.value).isprintable()
    return str(caught.value)


def zipped(path, bundle, *extra, **changed):
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        warnings.simplefilter("ignore")  # a name that is there twice
        for name, content in [*(bundle.files() | changed).items(), *extra]:
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize("name", ["bundle", "bundle.zip"])
def test_what_was_written_is_read(bundle, tmp_path, name):
    write_bundle(bundle, tmp_path / name)
    assert read_bundle(tmp_path / name) == bundle


def test_the_same_bundle_gives_the_same_zip(bundle, tmp_path):
    for name in ("one.zip", "two.zip"):
        write_bundle(bundle, tmp_path / name)
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()


def test_a_bundle_is_never_overwritten(bundle, folder):
    with pytest.raises(UsageError, match="never overwritten"):
        write_bundle(bundle, folder)


def test_nothing_there_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="cannot be read"):
        read_bundle(tmp_path / "missing.zip")


@pytest.mark.parametrize("name", ["manifest.json", "log.jsonl"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    assert f"{name}: missing" in refused(folder)


def test_a_party_without_a_file_has_no_entries(folder):
    (folder / "ledger-2.jsonl").unlink()
    assert [bool(ledger) for ledger in read_bundle(folder).ledgers] == [True, True, False, True]


@pytest.mark.parametrize("name", ["notes.txt", "ledger-9.jsonl", "ledger-01.jsonl", "checkpoint-7.note", "LOG.jsonl"])
def test_a_file_that_does_not_belong_is_refused(folder, name):
    (folder / name).write_bytes(b"")
    assert name in refused(folder)


def test_a_link_is_refused_and_not_followed(folder, tmp_path):
    (tmp_path / "secret").write_text("secret")
    (folder / "ledger-1.jsonl").unlink()
    (folder / "ledger-1.jsonl").symlink_to(tmp_path / "secret")
    assert "neither link nor folder" in refused(folder)


def test_a_pipe_or_folder_is_refused_without_waiting(folder):
    os.mkfifo(folder / "ledger-8.jsonl")
    assert "neither link nor folder" in refused(folder)


def test_a_file_beyond_its_limit_is_not_read(folder):
    with (folder / "ledger-0.jsonl").open("wb") as file:
        file.truncate(module.LARGEST_FILE + 1)
    assert "ledger-0.jsonl: expected at most" in refused(folder)


def test_a_line_without_end_is_named(folder):
    path = folder / "ledger-1.jsonl"
    path.write_bytes(path.read_bytes()[:-1])
    assert "ledger-1.jsonl: line 2 (entry 1) has no end" in refused(folder)


@pytest.mark.parametrize(
    ("key", "value"),
    [("format", "fedmarket-bundle/2"), ("roster_hash", "x"), ("log_key", "a+b+c"), ("parties", []), ("threshold", "3"),
     ("runs", [{"run": "1" * 32, "assumed_colluders": 1, "minimum_survivors": 3}] * 2), ("auditors", ["A" * 64])],
)  # fmt: skip
def test_a_manifest_that_breaks_a_rule_is_refused_by_its_key(folder, key, value):
    document = json.loads((folder / "manifest.json").read_bytes()) | {key: value}
    (folder / "manifest.json").write_bytes(canonical(document))
    assert "manifest.json: " in refused(folder)


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"format":1}', b"[" * 99999, b'{"a":1,"a":1}', b"1.5"])
def test_a_manifest_that_is_none_is_refused(folder, content):
    (folder / "manifest.json").write_bytes(content)
    assert "manifest.json: " in refused(folder)


@pytest.mark.parametrize("name", ["../manifest.json", "/log.jsonl", "bundle/log.jsonl", "..\\log.jsonl", "x/", "a\0b"])
def test_a_zip_with_paths_is_refused(bundle, tmp_path, name):
    path = zipped(tmp_path / "bundle.zip", bundle, (name, b""))
    refused(path)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["bundle.zip"]


def test_a_name_twice_in_a_zip_is_refused(bundle, tmp_path):
    assert "twice" in refused(zipped(tmp_path / "bundle.zip", bundle, ("log.jsonl", b"")))


def test_a_link_in_a_zip_is_refused(bundle, tmp_path):
    link = zipfile.ZipInfo("ledger-4.jsonl")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    assert "neither link" in refused(zipped(tmp_path / "bundle.zip", bundle, (link, b"log.jsonl")))


def test_a_zip_that_unpacks_beyond_the_limit_is_refused(bundle, tmp_path):
    bomb = b"\n" * (module.LARGEST_MANIFEST + 1)
    assert "expected at most" in refused(zipped(tmp_path / "bundle.zip", bundle, **{"manifest.json": bomb}))


def test_a_zip_that_understates_a_size_is_refused(bundle, tmp_path):
    path = zipped(tmp_path / "bundle.zip", bundle)
    size = len(bundle.files()["log.jsonl"]).to_bytes(4, "little")
    path.write_bytes(path.read_bytes().replace(size, (100).to_bytes(4, "little")))
    refused(path)


def test_a_damaged_zip_is_one_line_or_the_same_bundle(bundle, tmp_path):
    whole = zipped(tmp_path / "whole.zip", bundle).read_bytes()
    path, refusals = tmp_path / "bundle.zip", 0
    for offset in range(0, len(whole), 97):
        path.write_bytes(whole[:offset] + bytes([whole[offset] ^ 0x11]) + whole[offset + 1 :])
        try:
            assert read_bundle(path) == bundle
        except DataError:
            refusals += 1
    assert refusals > 10


@pytest.mark.parametrize("content", [b"", b"PK", b"PK\x05\x06" + bytes(18), b"not a zip" * 100])
def test_what_is_no_zip_is_refused(tmp_path, content):
    (tmp_path / "bundle.zip").write_bytes(content)
    refused(tmp_path / "bundle.zip")


def test_a_checkpoint_that_is_missing_in_the_middle_is_named(bundle):
    files = bundle.files() | {"checkpoint-2.note": b"", "checkpoint-1.note": b""}
    del files["checkpoint-1.note"]
    with pytest.raises(BadMessage, match=r"checkpoint-1\.note: missing, and checkpoint-2\.note is there"):
        module.bundle_of(files)


@pytest.mark.parametrize("name", ["bundle/", "bundle/log.jsonl"])
def test_a_folder_in_a_zip_is_said_to_be_one(bundle, tmp_path, name):
    said = refused(zipped(tmp_path / "bundle.zip", bundle, (name, b"")))
    assert "files must lie at the root of the zip" in said
