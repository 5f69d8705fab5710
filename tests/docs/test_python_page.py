"""What the page on Python shows is what happens."""

import doctest
import shutil
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reference" / "python.md"


def test_every_example_of_the_page_gives_what_it_says(tmp_path: Path, monkeypatch):
    for name in ("pyproject.toml", "clients", "server"):
        (tmp_path / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "experiments" / "demo", tmp_path / "experiments" / "demo")
    monkeypatch.chdir(tmp_path)
    found = doctest.testfile(str(PAGE), module_relative=False, encoding="utf-8")
    assert found.attempted > 20
    assert not found.failed


def test_parts_that_are_promised_are_there():
    rows = PAGE.read_text(encoding="utf-8").partition("## Parts for an own federation")[2].splitlines()
    cells = [row.split("|")[1] for row in rows if row.startswith("| `")]
    assert len(cells) > 8
    for cell in cells:
        home = ""
        for name in cell.split("`")[1::2]:
            home, attribute = split(name) if name.startswith("fedmarket.") else (home, name)
            module = __import__(home, fromlist=["_"])
            assert not attribute or hasattr(module, attribute), f"{home}.{attribute}"


def split(name: str) -> tuple[str, str]:
    """Return module and attribute of a dotted name; no attribute where it is a module itself."""
    path = ROOT.joinpath(*name.split("."))
    if path.is_dir() or path.with_suffix(".py").is_file():
        return name, ""
    module, _, attribute = name.rpartition(".")
    return module, attribute
