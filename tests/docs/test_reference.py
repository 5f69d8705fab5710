"""The references leave nothing out, and what pages name is there."""

import importlib
import inspect
import re
import runpy
from pathlib import Path

import pytest

from fedmarket import errors
from fedmarket.cli.console import INTERRUPTED

DOCS = Path(__file__).parents[2] / "docs"
REFERENCE = {page.stem: page.read_text(encoding="utf-8") for page in (DOCS / "reference").glob("*.md")}
ERRORS = [one for _, one in inspect.getmembers(errors, inspect.isclass) if one.__module__ == errors.__name__]
NAME = re.compile(r"`(fedmarket(?:\.\w+){2,})`")


def test_the_page_of_commands_is_what_the_commands_say():
    made = runpy.run_path(str(DOCS / "reference" / "cli.py"))
    names = [name for name, _ in made["commands"](made["get_command"](made["app"]))]
    assert {"fedmarket simulate", "fedmarket budget set-cap", "fedmarket party serve"} <= set(names)
    assert all(f"\n## {name}\n" in REFERENCE["cli"] for name in names)
    assert REFERENCE["cli"] == made["page"](), "run `make docs`"


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_every_error_is_there_with_its_exit_code(error: type[errors.FedmarketError]):
    assert f"| `{error.__name__}` | {error.exit_code} |" in REFERENCE["errors"]


def test_what_the_page_says_that_errors_say_is_in_the_code():
    sources = "".join(path.read_text(encoding="utf-8") for path in (DOCS.parent / "fedmarket").rglob("*.py"))
    said = re.sub(r'"\s*\n\s*f?"', "", sources)
    rows = [line.split("|")[1] for line in REFERENCE["errors"].splitlines() if line.startswith("| `")]
    quoted = [
        part
        for row in rows
        for words in re.findall(r"`([^`]+)`", row)
        for part in re.split(r"[\d.]{2,}|\d|[A-Z]{3,}", words)
    ]
    parts = [part.strip(" :;,") for part in quoted]
    assert len(parts) > 100
    assert not [part for part in parts if part not in said]


def test_every_exit_code_is_there():
    codes = {0, INTERRUPTED, *(error.exit_code for error in ERRORS)}
    assert all(f"\n| {code} | " in REFERENCE["cli"] for code in codes)


def test_every_format_of_a_document_is_there():
    sources = (DOCS.parent / "fedmarket").rglob("*.py")
    named = {name for path in sources for name in re.findall(r'"(fedmarket-[a-z]+/\d)"', path.read_text("utf-8"))}
    assert {"fedmarket-contract/1", "fedmarket-ledger/1", "fedmarket-bundle/1"} <= named
    pages = "\n".join(REFERENCE.values())
    assert not [name for name in sorted(named) if name not in pages]


@pytest.mark.parametrize("page", ["explanation/architecture", "explanation/why-not-flower-secagg"])
def test_every_function_that_a_page_names_is_there(page: str):
    named = set(NAME.findall((DOCS / f"{page}.md").read_text(encoding="utf-8")))
    assert named
    assert not [name for name in sorted(named) if not exists(name)]


def test_a_name_that_is_nowhere_is_found():
    assert exists("fedmarket.federation.party.Party.answer")
    assert not exists("fedmarket.federation.party.Party.gone")
    assert not exists("fedmarket.federation.gone.Party")


def exists(name: str) -> bool:
    words = name.split(".")
    for size in range(len(words), 1, -1):
        try:
            found: object = importlib.import_module(".".join(words[:size]))
        except ModuleNotFoundError:
            continue
        for word in words[size:]:
            found = getattr(found, word, None)
        return found is not None
    return False
