"""The file of lines: what a crash leaves is recognised, what was damaged is never repaired."""

import os
import stat
import subprocess
import sys

import pytest

from fedmarket.errors import DataError, UsageError
from fedmarket.ledger import lines as module
from fedmarket.ledger.lines import Lines


def whole(line):
    return line.startswith(b"<") and line.endswith(b">") and b"\0" not in line


@pytest.fixture
def opened(tmp_path):
    made = []

    def opening(folder=tmp_path / "new" / "folder"):
        made.append(Lines(folder, "ledger", whole=whole))
        return made[-1]

    yield opening
    for lines in made:
        lines.close()


def reopened(opened, content):
    """Return the lines after the file holds ``content``."""
    lines = opened()
    lines.close()
    lines.path.write_bytes(content)
    return opened()


def test_lines_are_read_back(opened):
    lines = opened()
    lines.append([b"<one>", b"<two>"])
    lines.append([b"<three>"])
    lines.close()
    assert opened().content == [b"<one>", b"<two>", b"<three>"]


def test_files_are_the_owners_alone(opened):
    lines = opened()
    lines.append([b"<one>"])
    for path in (lines.path, lines.path.with_suffix(".lock")):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_line_is_on_disk_before_append_returns(opened, monkeypatch):
    done = []
    lines = opened()
    monkeypatch.setattr(module, "_write", lambda handle, content: done.append(content))
    monkeypatch.setattr(os, "fsync", lambda handle: done.append("fsync"))
    lines.append([b"<one>"])
    assert done == [b"<one>\n", "fsync"]


def test_file_and_folders_are_on_disk_when_they_are_made(opened, monkeypatch, tmp_path):
    synced = []
    real = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda handle: (synced.append(os.readlink(f"/proc/self/fd/{handle}")), real(handle))
    )
    opened(tmp_path / "made")
    assert {str(tmp_path), str(tmp_path / "made"), str(tmp_path / "made" / "ledger.jsonl")} <= set(synced)


def test_a_cut_line_is_set_aside_wherever_it_was_cut(opened, tmp_path):
    for cut in range(1, len(b"<three>")):
        lines = reopened(opened, b"<one>\n<two>\n" + b"<three>\n"[:cut])
        assert lines.content == [b"<one>", b"<two>"]
        assert lines.torn == lines.path.with_name(f"ledger.torn-{cut}")
        assert lines.torn.read_bytes() == b"<three>"[:cut]
        assert lines.path.read_bytes() == b"<one>\n<two>\n"
        lines.append([b"<again>"])
        lines.close()
        again = opened()
        assert again.content[-1] == b"<again>"
        again.close()


def test_a_whole_line_that_only_lacks_its_end_counts(opened):
    lines = reopened(opened, b"<one>\n<two>")
    assert lines.content == [b"<one>", b"<two>"]
    assert lines.torn is None
    assert lines.path.read_bytes() == b"<one>\n<two>\n"


def test_a_first_line_that_was_cut_leaves_an_empty_file(opened):
    lines = reopened(opened, b"<on")
    assert lines.content == []
    assert lines.path.read_bytes() == b""


@pytest.mark.parametrize("torn", [b"<tw\0\0\0\0\0\n", b"\0\0\0\0>\n", b"\0\0\0", b"\0\n"])
def test_a_last_line_with_blocks_that_were_never_written_is_set_aside(opened, torn):
    lines = reopened(opened, b"<one>\n" + torn)
    assert lines.content == [b"<one>"]
    assert lines.torn is not None
    assert lines.torn.read_bytes() == torn
    assert lines.path.read_bytes() == b"<one>\n"


@pytest.mark.parametrize(
    ("content", "number"),
    [
        (b"<one>\n<tw\n<three>\n", 2),
        (b"<one>\n\n<three>\n", 2),
        (b"\n<two>\n", 1),
        (b"<one>\n<tw\0\n<three>\n", 2),
        (b"<one>\n<two>\n<three?\n", 3),
        (b"<one>\n\n", 2),
        (b"<one>\r\n", 1),
        (b"?one>\n<tw", 1),
        (b"<on\0>\n<tw", 1),
    ],
)
def test_a_damaged_line_is_named_and_left_as_it_is(opened, content, number):
    with pytest.raises(DataError, match=rf"ledger.jsonl: line {number} is damaged; it is never repaired$"):
        reopened(opened, content)


def test_a_second_opening_is_refused_in_one_line(opened, tmp_path):
    opened()
    with pytest.raises(UsageError) as caught:
        opened()
    assert str(caught.value) == f"{tmp_path / 'new' / 'folder'}: the ledger is in use by another process; stop it first"


def test_a_second_process_is_refused_and_gets_in_after_the_first(opened):
    lines = opened()
    folder = lines.path.parent
    script = (
        "import sys; from pathlib import Path; from fedmarket.errors import UsageError\n"
        "from fedmarket.ledger.lines import Lines\n"
        "try: print(len(Lines(Path(sys.argv[1]), 'ledger', whole=bool).content))\n"
        "except UsageError as error: print(error)"
    )

    def other():
        command = [sys.executable, "-c", script, str(folder)]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.strip()

    assert other() == f"{folder}: the ledger is in use by another process; stop it first"
    lines.append([b"<one>"])
    lines.close()
    assert other() == "1"


def test_after_a_failed_write_nothing_is_written_until_it_is_opened_again(opened, monkeypatch):
    lines = opened()
    lines.append([b"<one>"])
    real = os.fsync

    def failing(handle):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(UsageError, match="cannot be written"):
        lines.append([b"<two>"])
    monkeypatch.setattr(os, "fsync", real)
    with pytest.raises(UsageError, match="open it again"):
        lines.append([b"<three>"])
    assert opened().content == [b"<one>", b"<two>"]  # it may be on disk, so it counts


def test_a_full_disk_leaves_a_torn_line_that_goes(opened, monkeypatch):
    lines = opened()

    def full(handle, content):
        os.write(handle, content[:3])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "_write", full)
    with pytest.raises(UsageError, match="No space left"):
        lines.append([b"<one>"])
    monkeypatch.undo()
    again = opened()
    assert again.content == []
    assert again.torn is not None


def test_the_system_may_take_a_line_in_pieces(opened, monkeypatch):
    lines = opened()
    real = os.write
    monkeypatch.setattr(os, "write", lambda handle, content: real(handle, bytes(content[:2])))
    lines.append([b"<one>", b"<two>"])
    monkeypatch.undo()
    lines.close()
    assert opened().content == [b"<one>", b"<two>"]


def test_a_child_that_inherited_the_lock_cannot_write(opened, monkeypatch):
    lines = opened()
    monkeypatch.setattr(os, "getpid", lambda: -1)
    with pytest.raises(UsageError, match="not open in this process"):
        lines.append([b"<one>"])


def test_a_folder_that_cannot_be_used_is_named(opened, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be used"):
        opened(tmp_path / "file")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "ledger.jsonl").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="cannot be used"):
        opened(tmp_path / "linked")
    assert not (tmp_path / "elsewhere").exists()
