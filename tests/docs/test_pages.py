"""Pages do what they say: each page is played from its first block to its last, in a folder of its own.

- ``sh`` and ``python`` blocks run; one whose first line is a comment that begins with a file's name is that file.
- An unnamed block is what the block before it printed, where ``...`` stands for anything.
- A page with the comment ``<!-- begins after: tests/docs/NAME.py -->`` begins with what that script leaves.
- A comment ``<!-- not run: REASON -->`` right above a block keeps it, and what it would print, from running.
"""

import doctest
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    page for folder in ("tutorials", "how-to", "explanation") for page in (ROOT / "docs" / folder).glob("*.md")
)
CHECKOUT = ("pyproject.toml", "clients", "server", "experiments/demo")
"""Of the repository: what a command finds in the working folder."""

COMMANDS = {"sh": ("bash", "-euc"), "python": (sys.executable, "-c")}
NOT_RUN = re.compile(r"<!-- not run: .{10,} -->")
BEGINS = re.compile(r"<!-- begins after: (tests/docs/\w+\.py) -->")
NAMED = re.compile(r"(?:#|<!--) ([\w/-]+\.\w+)\b")
SECONDS = 240
ALIKE = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@dataclass(frozen=True)
class Block:
    line: int
    language: str
    text: str
    run: bool

    @property
    def name(self) -> str | None:
        """Of the file that the block is, if it is one."""
        found = NAMED.match(self.text)
        return found[1] if found and self.language else None


def blocks_of(text: str) -> Iterator[Block]:
    run = True
    for token in MarkdownIt().parse(text):
        if token.type == "html_block":
            run = not NOT_RUN.match(token.content)
        elif token.type == "fence":
            yield Block(token.map[0] + 1, token.info.strip(), token.content, run)
            run = True


@dataclass
class Play:
    """A page's folder, and what was started in it."""

    folder: Path
    groups: list[int] = field(default_factory=list)

    def printed_by(self, block: Block) -> str:
        environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "COLUMNS": "120",
            "OMP_NUM_THREADS": "1",
        }
        process = subprocess.Popen(
            [*COMMANDS[block.language], block.text], cwd=self.folder, env=environment, text=True,
            start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self.groups.append(process.pid)
        printed, _ = process.communicate(timeout=SECONDS)
        assert process.returncode == 0, f"line {block.line} ended with {process.returncode}:\n{printed}"
        return printed

    def end(self) -> None:
        """Stop what blocks left running."""
        for group in self.groups:
            with suppress(ProcessLookupError):
                os.killpg(group, signal.SIGTERM)


@pytest.fixture
def play() -> Iterator[Play]:
    with tempfile.TemporaryDirectory(prefix="fm-") as folder:  # short: sockets lie in it
        for name in CHECKOUT:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile
            (Path(folder) / name).parent.mkdir(exist_ok=True)
            copy(ROOT / name, Path(folder) / name)
        playing = Play(Path(folder))
        try:
            yield playing
        finally:
            playing.end()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}/{page.stem}")
def test_a_page_does_what_it_says(page: Path, play: Play):
    text, printed = page.read_text(encoding="utf-8"), None
    for script in BEGINS.findall(text):
        play.printed_by(Block(1, "python", (ROOT / script).read_text(encoding="utf-8"), run=True))
    for block in blocks_of(text):
        if not block.language:
            if printed is not None:
                need_alike(block, printed)
        elif block.name:
            path = play.folder / block.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
        elif block.language in COMMANDS:
            printed = play.printed_by(block) if block.run else None


def need_alike(block: Block, printed: str) -> None:
    checker = doctest.OutputChecker()
    if not checker.check_output(block.text, printed, ALIKE):
        pytest.fail(f"line {block.line}: the page shows\n{block.text}\nand this was printed\n{printed}")


def test_a_block_that_prints_something_else_is_found():
    (block,) = blocks_of("```\nepsilon 1.0 of ...\n```\n")
    need_alike(block, "epsilon  1.0 of 4\n")
    with pytest.raises(pytest.fail.Exception, match="the page shows"):
        need_alike(block, "epsilon 1.1 of 4\n")


def test_only_a_reason_keeps_a_block_from_running(play: Play):
    text = "<!-- not run: needs a second machine -->\n```sh\nfalse\n```\n\n<!-- not run: -->\n```sh\nfalse\n```\n"
    skipped, run = blocks_of(text)
    assert (skipped.run, run.run) == (False, True)
    with pytest.raises(AssertionError, match="line 7 ended with 1"):
        play.printed_by(run)
