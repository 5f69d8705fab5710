"""What can be wrong with a page in a real browser: each check returns a line for each fault, none for a good page.

Run by path (``runpy``) from the tests. Contrast and the other rules of accessibility are axe-core's; what it leaves
out, text and lines of drawings, is computed here.
"""

import io
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
PHONE, DESK = 390, 1280
PAPER = 687
"""Width of A4 between the page's margins, CSS pixels (182 mm)."""
MOST_BYTES, MOST_PAGES = 2_000_000, 20
A4 = (595, 842)
"""Points."""

PLAIN = ".wide { background: none !important; }"
"""Axe does not judge text on a gradient; that of wide tables is a shadow at their ends."""

FAINT = """() => {
  const numbers = colour => colour.match(/[\\d.]+/g).map(Number);
  const luminance = ([r, g, b]) => [r, g, b].map(c => c / 255)
    .map(c => c <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4)
    .reduce((sum, c, at) => sum + c * [.2126, .7152, .0722][at], 0);
  const contrast = (a, b) => {
    const [low, high] = [a, b].map(c => luminance(numbers(c))).sort((x, y) => x - y);
    return (high + .05) / (low + .05);
  };
  const resolved = name => {
    const probe = document.body.appendChild(document.createElement("i"));
    probe.style.color = `var(--${name})`;
    const colour = getComputedStyle(probe).color;
    probe.remove();
    return colour;
  };
  const rule = resolved("rule"), faults = [];
  for (const shape of document.querySelectorAll("figure svg :is(text, path, use, line):not(defs *)")) {
    const style = getComputedStyle(shape), text = shape.tagName === "text";
    const ground = getComputedStyle(shape.closest("figure")).backgroundColor;
    for (const colour of text ? [style.fill] : shape.tagName === "line" ? [style.stroke] : [style.stroke, style.fill]) {
      const shown = colour.startsWith("rgb") && numbers(colour)[3] !== 0 && style.fillOpacity === "1";
      if (shown && colour !== rule && contrast(colour, ground) < (text ? 4.5 : 3))
        faults.push(`${shape.tagName} ${shape.textContent.trim()} ${colour} on ${ground}`);
    }
  }
  return [...new Set(faults)];
}"""

UNTOLD = """() => [...document.querySelectorAll("figure")].flatMap(figure => {
  const name = figure.querySelector("figcaption")?.textContent.trim() ?? "";
  const drawing = figure.querySelector("[role=img] > svg")?.parentElement;
  const said = drawing?.getAttribute("aria-label") ?? "";
  const cells = [...figure.querySelectorAll("table tbody td")].filter(cell => cell.textContent.trim());
  return [
    ...(name ? [] : ["a figure has no caption"]),
    ...(said.length > 60 && /\\d/.test(said) ? [] : [`${name}: no text with a number in it`]),
    ...(cells.length && figure.querySelector("th[scope=col]") ? [] : [`${name}: no table`]),
  ];
})"""

ON_PAPER = """() => {
  const faults = [], page = document.scrollingElement;
  if (page.scrollWidth > innerWidth) faults.push(`${page.scrollWidth} px on paper of ${innerWidth}`);
  for (const box of document.querySelectorAll("main *:not(svg *, [aria-hidden]), header *"))
    if (box.clientWidth && box.scrollWidth > box.clientWidth + 1 && getComputedStyle(box).display !== "inline")
      faults.push(`cut off: ${box.className || box.tagName}: ${box.textContent.trim().slice(0, 60)}`);
  for (const cell of document.querySelectorAll("td"))
    if (!cell.checkVisibility()) faults.push(`not printed: ${cell.closest("table").textContent.trim().slice(0, 60)}`);
  const ground = getComputedStyle(document.body).backgroundColor;
  if (ground !== "rgb(255, 255, 255)") faults.push(`paper is ${ground}`);
  return faults;
}"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A page as it was opened, what it asked for, and what the console said."""

    page: Page
    asked: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start the distribution's Chromium, without a sandbox as CI and containers run as root."""
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def opened(browser: Browser, path: Path, *, width: int = DESK, scheme: str = "light") -> Iterator[Seen]:
    """Open a file offline."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
    seen = Seen(page=context.new_page())
    seen.page.on("request", lambda request: seen.asked.append(request.url))
    seen.page.on("console", lambda message: seen.said.append(message.text))
    seen.page.on("pageerror", lambda error: seen.said.append(str(error)))
    seen.page.goto(path.as_uri())
    seen.asked.remove(path.as_uri())
    yield seen
    context.close()


def scrolls_sideways(seen: Seen) -> list[str]:
    shown, wide = seen.page.evaluate("[innerWidth, document.scrollingElement.scrollWidth]")
    return [f"{wide} px in a window of {shown}"] if wide > shown else []


def asks_for_more(seen: Seen) -> list[str]:
    return [url for url in seen.asked if not url.startswith("data:")]


def complains(seen: Seen) -> list[str]:
    return seen.said


def is_hard_to_reach(seen: Seen) -> list[str]:
    """Every rule of axe-core, with every number open; a contrast that it cannot judge counts as a fault."""
    seen.page.add_style_tag(content=PLAIN)
    seen.page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    found = Axe().run(seen.page).response
    unsure = [rule for rule in found["incomplete"] if rule["id"] == "color-contrast"]
    faults = [f"{rule['id']}: {node['html'][:200]}" for rule in found["violations"] + unsure for node in rule["nodes"]]
    return [fault for fault in faults if not fault.startswith("color-contrast: <text")]  # :func:`is_faint` judges those


def is_faint(seen: Seen) -> list[str]:
    """Text of drawings below 4.5 : 1, lines and marks below 3 : 1 (WCAG 2.2, 1.4.3 and 1.4.11)."""
    return seen.page.evaluate(FAINT)


def is_untold(seen: Seen) -> list[str]:
    return seen.page.evaluate(UNTOLD)


def prints_badly(seen: Seen) -> list[str]:
    """What paper would cut off, hide or darken; the PDF itself is A4 and not too long."""
    seen.page.set_viewport_size({"width": PAPER, "height": 1000})
    seen.page.emulate_media(media="print")
    faults = seen.page.evaluate(ON_PAPER)
    pdf = seen.page.pdf(prefer_css_page_size=True)
    boxes = re.findall(rb"/MediaBox\s*\[\s*0 0 ([\d.]+) ([\d.]+)\s*\]", pdf)
    sizes = {(round(float(width)), round(float(height))) for width, height in boxes}
    return [
        *faults,
        *([] if sizes == {A4} else [f"pages of {sorted(sizes)} points"]),
        *([] if 1 <= len(boxes) <= MOST_PAGES else [f"{len(boxes)} pages"]),
    ]


def looks_wrong(shot: bytes, *, scheme: str) -> list[str]:
    """A picture in which next to nothing is drawn, or whose ground is not the scheme's."""
    picture = Image.open(io.BytesIO(shot)).convert("RGB")
    colours = sorted(picture.getcolors(1 << 24), reverse=True)
    (most, ground), pixels = colours[0], picture.width * picture.height
    dark = sum(ground) / 3 < 128
    return [
        *([f"{most} of {pixels} pixels are {ground}"] if most > 0.98 * pixels or len(colours) < 50 else []),
        *([f"the ground is {ground} in {scheme} mode"] if dark != (scheme == "dark") else []),
    ]
