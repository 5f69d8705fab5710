"""The site is built without a warning, has every page, and asks nothing of the network."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-n", "-W", "--keep-going", "-c", "docs", ".", folder / "html",
               "-d", folder / "read"]  # fmt: skip
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert (built.returncode, built.stderr) == (0, "")
    return folder / "html"


def test_every_page_is_in_the_site(site: Path):
    pages = [page.relative_to(ROOT) for page in (ROOT / "docs").rglob("*.md")]
    assert len(pages) > 40
    assert not [page for page in pages if not (site / page).with_suffix(".html").is_file()]
    assert "docs/README.html" in (site / "index.html").read_text(encoding="utf-8")


def test_nothing_is_loaded_from_elsewhere(site: Path):
    loads = re.compile(
        r"""<(?:script|img|iframe|source)\b[^>]*\bsrc=["'](?:https?:)?//|<link\b[^>]*\bhref=["']https?://"""
    )
    assert loads.search('<script async src="https://example.org/x.js">')
    assert not [page for page in site.rglob("*.html") if loads.search(page.read_text(encoding="utf-8"))]
    fetched = re.compile(r"""(?:@import|url\()\s*["']?(?:https?:)?//""")
    assert not [page for page in site.rglob("*.css") if fetched.search(page.read_text(encoding="utf-8"))]
