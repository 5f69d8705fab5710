"""Every page in a real browser: no scrolling sideways, nothing fetched, accessible, readable in the dark and on paper.

Screenshots are kept in the folder that FEDMARKET_SCREENSHOTS names, if any.
"""

import os
import runpy
from pathlib import Path

import pytest

from fedmarket.ledger.verify import verify
from fedmarket.report.audit import render_audit
from fedmarket.report.frontier import render_frontier
from fedmarket.report.page import render
from fedmarket.report.risk import render_risk

HERE = Path(__file__).parent
DOCUMENTS = runpy.run_path(str(HERE / "documents.py"))
BUNDLES = runpy.run_path(str(HERE.parent / "ledger" / "bundles.py"))
BROWSER = runpy.run_path(str(HERE / "browser.py"))
opened, PHONE, DESK = BROWSER["opened"], BROWSER["PHONE"], BROWSER["DESK"]
NAMES = ("东方航空", "中国移动通信", "太平人寿", "招商银行上海分行股份有限公司")
PAGES = ("response", "value", "both", "frontier", "audit", "broken-audit", "risk")

pytestmark = pytest.mark.skipif(BROWSER["CHROMIUM"] is None, reason="no Chromium here: apt-get install chromium")


@pytest.fixture(scope="module")
def browser():
    with BROWSER["chromium"]() as started:
        yield started


@pytest.fixture(scope="module")
def pages(_results, _of_value, tmp_path_factory) -> dict[str, Path]:
    """Every kind of page, with Chinese names where parties are named."""
    folder = tmp_path_factory.mktemp("pages")
    ranking = {key: _of_value[key] for key in ("metric", "arms", "loss", "decomposition")}
    beside = _of_value["value"] | {"ranking": ranking, "lines": None, "currency": "元"}
    parties = [party | {"name": name} for party, name in zip(_results["parties"], NAMES, strict=False)]
    chinese = _results | {"parties": parties, "privacy": dict(zip(NAMES, _results["privacy"].values(), strict=False))}
    seeded = {"plan": _results["plan"] | {"generator": "seeded-for-tests"}}
    made = {
        "response": render(_results),
        "value": render(_of_value),
        "both": render(chinese | seeded | {"task": "propensity-and-ltv", "value": beside}),
        "frontier": render_frontier(DOCUMENTS["frontier_of_value"]()),
        "audit": render_audit(verify(BUNDLES["whole"](names=NAMES).bundle()).to_document()),
        "broken-audit": render_audit(verify(BUNDLES["whole"](cap="1.0").bundle()).to_document()),
        "risk": render_risk(DOCUMENTS["risk"]()),
    }
    assert tuple(made) == PAGES
    return {name: _written(folder / f"{name}.html", html) for name, html in made.items()}


def _written(path: Path, html: str) -> Path:
    path.write_text(html, encoding="utf-8")
    return path


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [PHONE, DESK])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_fits_its_window_and_fetches_nothing(browser, pages, tmp_path, name: str, width: int, scheme: str):
    with opened(browser, pages[name], width=width, scheme=scheme) as seen:
        shot = seen.page.screenshot(full_page=True)
        folder = Path(os.environ.get("FEDMARKET_SCREENSHOTS", tmp_path))
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}-{scheme}-{width}.png").write_bytes(shot)
        assert BROWSER["scrolls_sideways"](seen) == []
        assert BROWSER["asks_for_more"](seen) == []
        assert BROWSER["complains"](seen) == []
        assert BROWSER["looks_wrong"](shot, scheme=scheme) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_accessible_in_both_schemes(browser, pages, name: str, scheme: str):
    with opened(browser, pages[name], scheme=scheme) as seen:
        assert BROWSER["is_faint"](seen) == []
        assert BROWSER["is_untold"](seen) == []
        assert seen.page.locator("figure").count() > 0
        assert BROWSER["is_hard_to_reach"](seen) == []


@pytest.mark.parametrize("name", PAGES)
def test_a_page_prints_whole_on_white_paper(browser, pages, name: str):
    with opened(browser, pages[name], scheme="dark") as seen:
        assert BROWSER["prints_badly"](seen) == []


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_small(pages, name: str):
    assert pages[name].stat().st_size < BROWSER["MOST_BYTES"]


def test_chinese_is_text_that_the_readers_fonts_draw(browser, pages):
    with opened(browser, pages["both"]) as seen:
        unit = seen.page.locator("figure svg text", has_text="Mean spend, 元")
        assert unit.count() == 1
        for found in (unit, seen.page.locator("th", has_text=NAMES[-1]).first):
            fonts = found.evaluate("one => getComputedStyle(one).fontFamily")
            assert "Noto Sans CJK SC" in fonts
            assert "Microsoft YaHei" in fonts


# Each check finds what it is for.

CSP = "default-src 'none'; style-src 'unsafe-inline'"
ON_PAPER = "</main><style>@media print { %s }</style>"


@pytest.mark.parametrize(
    ("check", "old", "new", "said"),
    [
        ("scrolls_sideways", "</main>", '<div style="width: 2000px">wide</div></main>', "px in a window"),
        ("asks_for_more", f'content="{CSP}"', 'content="img-src *"', "http://127.0.0.1:9/x.png"),
        ("complains", "", "", "Content Security Policy"),
        ("is_hard_to_reach", "</main>", '<p style="color: #aab">pale</p></main>', "color-contrast"),
        ("is_hard_to_reach", "--muted: #596575", "--muted: #99a5b5", "color-contrast: <th"),
        ("is_hard_to_reach", "</main>", '<img src="data:image/gif;base64,R0lGODlhAQABAAAAACw="></main>', "image-alt"),
        ("is_hard_to_reach", "<h2>Federation</h2>", "<h5>Federation</h5>", "heading-order"),
        ("is_hard_to_reach", 'lang="en"', "", "html-has-lang"),
        ("is_hard_to_reach", '<th scope="col">Rows</th>', "<th></th>", "empty-table-header"),
        ("is_faint", "--muted: #596575", "--muted: #99a5b5", "text"),
        ("is_faint", "--accent: #0b7a6f", "--accent: #45cbb9", "use"),
        ("is_untold", ' aria-label="Mean AUC', ' data-label="Mean AUC', "no text"),
        ("is_untold", "<figcaption><h3>ROC</h3></figcaption>", "", "no caption"),
        ("is_untold", "<tbody>", "<tfoot>", "no table"),
        ("prints_badly", "</main>", ON_PAPER % "td { min-width: 15rem !important; }", "on paper"),
        ("prints_badly", "</main>", ON_PAPER % ".wide { overflow: hidden; max-width: 9rem; }", "cut off"),
        ("prints_badly", "content-visibility: visible", "color: inherit", "not printed"),
        ("prints_badly", "</main>", ON_PAPER % "body { background: #10141a; }", "paper is rgb(16, 20, 26)"),
        ("prints_badly", "size: A4", "size: letter", "pages of"),
        ("prints_badly", "</main>", ON_PAPER % "p { height: 280mm; }", "pages"),
    ],
)
def test_a_planted_fault_is_found(browser, page_as_is, tmp_path, check: str, old: str, new: str, said: str):
    assert old in page_as_is
    html = page_as_is.replace(old, new)
    if check in {"asks_for_more", "complains"}:
        html = html.replace("</main>", '<img alt="x" src="http://127.0.0.1:9/x.png"></main>')
    with opened(browser, _written(tmp_path / "planted.html", html), width=PHONE) as seen:
        faults = BROWSER[check](seen)
    assert any(said in fault for fault in faults), faults


def test_a_blank_page_and_a_light_one_in_the_dark_are_found(browser, page_as_is, tmp_path):
    blank = _written(tmp_path / "blank.html", "<!doctype html><title>x</title>")
    light = _written(tmp_path / "light.html", page_as_is.replace("(prefers-color-scheme: dark)", "(width < 1px)"))
    for path, said in ((blank, "pixels are"), (light, "in dark mode")):
        with opened(browser, path, scheme="dark") as seen:
            assert any(said in fault for fault in BROWSER["looks_wrong"](seen.page.screenshot(), scheme="dark"))
