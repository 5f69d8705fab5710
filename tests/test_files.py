"""A TOML document at the edge is read whole, or refused in one line that names the file."""

import os

import pytest

from fedmarket.errors import ConfigError, UsageError
from fedmarket.files import LARGEST_TOML, read_toml, write_new


def test_a_document_of_any_line_end_is_read(tmp_path):
    path = tmp_path / "some.toml"
    path.write_bytes('name = "甲"\r\n[table]\nsize = 1\n'.encode())
    assert read_toml(path) == {"name": "甲", "table": {"size": 1}}


def test_a_document_as_large_as_may_be_is_read_and_no_larger(tmp_path):
    path = tmp_path / "some.toml"
    path.write_bytes(b"#" * LARGEST_TOML)
    assert read_toml(path) == {}
    path.write_bytes(b"#" * (LARGEST_TOML + 1))
    with pytest.raises(ConfigError, match=r"some\.toml: expected at most 1048576 bytes"):
        read_toml(path)
    path.write_bytes(b"#" * 11)
    assert read_toml(path, largest=11, longest_line=11) == {}
    with pytest.raises(ConfigError, match=r"some\.toml: expected at most 10 bytes"):
        read_toml(path, largest=10)
    with pytest.raises(ConfigError, match=r"some\.toml: expected lines of at most 10 bytes"):
        read_toml(path, longest_line=10)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"x = " + b"1" * 5000, "Exceeds the limit"),
        (b"x = " + b"[" * 5000, "nested too deep"),
        (b"x = = 1", "Invalid value"),
        (b"x = \xff", "invalid start byte"),
        (b"x = 1\n" + b"k" * 900 + b" = 1\n" + b"k" * 900 + b" = 1", "Cannot"),
        (b"\x1b[2J", "not a TOML document"),
    ],
)
def test_what_is_no_document_is_refused_in_one_short_line(tmp_path, content, why):
    path = tmp_path / "some.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_toml(path)
    said = str(caught.value).removeprefix(f"{path}: ")
    assert why in said
    assert said.isprintable()
    assert len(said) < 300


def test_a_new_file_that_cannot_be_written_whole_is_not_left_behind(tmp_path, monkeypatch):
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UsageError, match=r"secret: cannot be written \(No space left on device\)"):
        write_new(tmp_path / "secret", b"half of it")
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []
    write_new(tmp_path / "secret", b"all of it")
    assert (tmp_path / "secret").read_bytes() == b"all of it"
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600
