"""The report's own figures where a notebook shows them: the same drawing, legend and numbers.

A notebook's styles must not reach into a figure nor a figure's into the notebook, so each is a frame of its own that
loads nothing and runs nothing.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from markupsafe import Markup

from fedmarket.errors import UsageError
from fedmarket.files import write_text
from fedmarket.report.drawing import Plot
from fedmarket.report.page import environment

_PAGE = """{% from "macros.html.j2" import figure, key_numbers %}<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="color-scheme" content="light dark">
{% include "style.html.j2" %}</head><body style="background: none">
{% if banner %}<div class="banner" role="alert">{{ banner }}</div>{% endif %}
{% if plot %}{{ figure(plot) }}{% endif %}
{% if headline %}<h3>{{ headline | kept }}</h3>{{ key_numbers(tiles) }}{% endif %}
</body></html>"""
_FRAME = Markup(
    '<iframe sandbox srcdoc="{page}" title="{title}" '
    'style="width: 100%; max-width: {width}px; height: {height}px; border: 0"></iframe>'
)
_WIDTH, _AROUND = 620, 150
"""Pixels of a figure's frame, and how much higher it is than the drawing."""

_STANDALONE = '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One figure of a report; a notebook shows it where it is the last value of a cell.

    Attributes:
        plot: the drawing, its words and its numbers, as the report has them.
    """

    plot: Plot

    @property
    def title(self) -> str:
        """The figure's heading."""
        return self.plot.title

    @property
    def numbers(self) -> pl.DataFrame:
        """What the figure shows, written as in the report: text in each column."""
        return pl.DataFrame(self.plot.rows, schema=list(self.plot.columns), orient="row")

    @property
    def svg(self) -> str:
        """The drawing alone, in the report's colours on a light page, as an SVG document."""
        source = environment().get_template("style.html.j2").render()
        light = source[source.index(":root") : source.index("}")]
        colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", light))
        coloured = re.sub(r"var\(--([\w-]+)\)", lambda found: str(colours[found.group(1)]), self.plot.svg)
        return coloured.replace("<svg ", _STANDALONE, 1)

    def save(self, path: str | Path) -> None:
        """Write :attr:`svg` to ``path``, appearing by rename.

        Raises:
            UsageError: if ``path`` does not end in ``.svg``.
        """
        path = Path(path)
        if path.suffix.lower() != ".svg":
            raise UsageError(f"{path}: expected a name that ends in .svg")
        write_text(path, self.svg)

    def __repr__(self) -> str:
        return f"Figure({self.title!r})"

    def _repr_html_(self) -> str:
        _, _, width, height = map(float, re.findall(r'viewBox="([^"]*)"', self.plot.svg)[0].split())
        return framed(title=self.title, width=_WIDTH, height=round(_WIDTH * height / width) + _AROUND, plot=self.plot)


def framed(*, title: str, width: int, height: int, **content: Any) -> str:
    """Return a frame, in pixels, around a ``plot``, or around a ``headline`` with ``tiles`` and ``banner``."""
    shown = {"banner": None, "plot": None, "headline": None, "tiles": ()} | content
    page = environment().from_string(_PAGE).render(**shown)
    return str(_FRAME.format(page=page, title=title, width=width, height=height))
