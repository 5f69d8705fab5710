"""What every plot is drawn with: axes in the page's colours, legends, and SVG that loads nothing.

Text stays text, no font is embedded, and every colour is a CSS variable. The same axes give the same bytes.
"""

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

INK, MUTED, RULE = "#010101", "#020202", "#030303"
_COLOURS = {
    INK: "ink",
    MUTED: "muted",
    RULE: "rule",
    "#040404": "accent",
    "#050505": "blue",
    "#060606": "orange",
    "#070707": "violet",
    "#080808": "grey",
}
HEX = {name: colour for colour, name in _COLOURS.items()}
DASHES = {"solid": (), "dashed": (5.0, 2.5), "dotted": (1.2, 2.0), "dashdot": (6.0, 2.0, 1.2, 2.0)}
_STYLES = {
    "federated_dp": ("accent", "solid"),
    "pooled": ("blue", "dashed"),
    "pooled_best": ("violet", "dashdot"),
    "local_only_dp": ("orange", "dotted"),
    "local_only": ("orange", "dashed"),
    "pooled_dp": ("blue", "dotted"),
    "past_spend": ("grey", "dotted"),
    "buyers": ("grey", "dashdot"),
    "public_start": ("grey", "dashed"),
}
_SETTINGS: dict[Any, Any] = {
    "font.size": 9.5,
    "svg.fonttype": "none",
    "text.parse_math": False,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.color": RULE,
    "ytick.color": RULE,
    "axes.edgecolor": RULE,
    "grid.color": RULE,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
_WIDTH, _LOW, _HIGH, _ROW = 4.3, 3.3, 4.9, 0.45


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """One line of a legend: a name, a CSS variable and a dash array (empty for a solid line)."""

    name: str
    colour: str
    dashes: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Plot:
    """A figure of the page: the drawing, its words, and the numbers it shows."""

    title: str
    alternative: str
    svg: str
    keys: tuple[Key, ...]
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def style_of(arm: str) -> tuple[str, str]:
    """Return the CSS variable and the dashes in which an arm is drawn."""
    return _STYLES.get(arm, ("grey", "solid"))


def key_of(name: str, colour: str, dash: str) -> Key:
    """Return the legend of a line, at twice its length."""
    return Key(name=name, colour=colour, dashes=" ".join(str(2 * length) for length in DASHES[dash]))


def label(axes: Axes, at: int, name: str, value: str) -> None:
    """Write a row's name and its number above what is drawn at ``at``."""
    across = axes.get_yaxis_transform()
    axes.text(0.012, at - 0.28, name, transform=across, ha="left", va="bottom")
    axes.text(1, at - 0.28, value, transform=across, ha="right", va="bottom", color=MUTED)


def bar(axes: Axes, at: int, *, start: float, loss: float, colour: str) -> None:
    """Draw a row's step from ``start`` on."""
    axes.barh([at], [loss], left=[start], height=0.34, color=HEX[colour])


@contextmanager
def figure(name: str, *, rows: int | None = None) -> Iterator[tuple[Axes, Any]]:
    """Give axes, labelled row by row if ``rows``, and a function to be called in the block that returns the SVG."""
    with matplotlib.rc_context({**_SETTINGS, "svg.hashsalt": name}):
        height = _LOW if rows is None else max(_HIGH, _ROW * rows)
        drawn = Figure(figsize=(_WIDTH, height), layout="constrained")
        axes = drawn.subplots()
        axes.set_axisbelow(True)
        axes.grid(lw=0.5, axis="both" if rows is None else "x")
        axes.tick_params(length=0)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        if rows is not None:
            axes.set(ylim=(rows - 0.5, -0.9), yticks=[])
            axes.spines["left"].set_visible(False)
            axes.margins(x=0.06)
        yield axes, lambda: _svg(drawn)


def _svg(drawn: Figure) -> str:
    """The figure as an SVG element for a page: no prolog, no metadata, no fonts; colours are CSS variables."""
    buffer = io.StringIO()
    nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
    with warnings.catch_warnings():  # a glyph that matplotlib's own font lacks: the reader's font draws the text
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        drawn.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'<svg [^>]*viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" aria-hidden="true" focusable="false">', svg)
    svg = re.sub(r"<(metadata|style)\b.*?</\1>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r"font-family: [^;\"]*;? ?", "", svg)
    svg = re.sub(r"#0([1-8])(?:0\1){2}\b", lambda found: f"var(--{_COLOURS[found.group()]})", svg)
    svg = re.sub(r' (d|x|y|transform)="[^"]*"', _with_short_numbers, svg)
    return re.sub(r"\s*\n\s*", " ", svg).strip()


def _with_short_numbers(attribute: re.Match[str]) -> str:
    return re.sub(r"(\.\d\d)\d+", r"\1", attribute.group())
