"""Plots as small inline SVG whose colours follow the page, light or dark, and whose numbers stand beside them.

Text stays text, no font is embedded, and every colour is a CSS variable. Names of parties never enter a plot. The
same results give the same bytes.
"""

import io
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from fedmarket.report.words import STEP_NAMES, arm_name, count, in_order, percent, score

_INK, _MUTED, _RULE = "#010101", "#020202", "#030303"
_COLOURS = {
    _INK: "ink",
    _MUTED: "muted",
    _RULE: "rule",
    "#040404": "accent",
    "#050505": "blue",
    "#060606": "orange",
    "#070707": "violet",
    "#080808": "grey",
}
_HEX = {name: colour for colour, name in _COLOURS.items()}
_DASHES = {"solid": (), "dashed": (5.0, 2.5), "dotted": (1.2, 2.0), "dashdot": (6.0, 2.0, 1.2, 2.0)}
_STYLES = {
    "federated_dp": ("accent", "solid"),
    "pooled": ("blue", "dashed"),
    "pooled_best": ("violet", "dashdot"),
    "local_only_dp": ("orange", "dotted"),
    "local_only": ("orange", "dashed"),
    "pooled_dp": ("blue", "dotted"),
}
_SETTINGS: dict[Any, Any] = {
    "font.size": 9.5,
    "svg.fonttype": "none",
    "text.parse_math": False,
    "text.color": _INK,
    "axes.labelcolor": _MUTED,
    "xtick.labelcolor": _MUTED,
    "ytick.labelcolor": _MUTED,
    "xtick.color": _RULE,
    "ytick.color": _RULE,
    "axes.edgecolor": _RULE,
    "grid.color": _RULE,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
_WIDTH, _LOW, _HIGH = 4.6, 3.3, 4.9
_TENTHS = np.linspace(0, 1, 11)


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


def draw_arms(arms: dict[str, Any], *, metric: str) -> Plot:
    """Draw each arm's mean with its interval and its seeds."""
    order = in_order(arms)
    values = [arms[arm] for arm in order]
    with _figure("arms", rows=len(order)) as (axes, drawn):
        for at, (arm, value) in enumerate(zip(order, values, strict=True)):
            colour = _HEX[_style(arm)[0]]
            _label(axes, at, arm_name(arm), score(value["mean"]))
            axes.plot(value["per_seed"], [at] * len(value["per_seed"]), "|", color=_MUTED, ms=6, mew=0.8)
            axes.plot(value["interval"], [at, at], color=colour, lw=2.2, solid_capstyle="round")
            axes.plot([value["mean"]], [at], "o", color=colour, ms=5.5)
        axes.set_xlabel(metric.upper())
        svg = drawn()
    return Plot(
        title=f"What each arm reaches ({metric.upper()})",
        alternative=f"Mean {metric.upper()} and 95 % interval of each arm. "
        + " ".join(f"{arm_name(arm)}: {score(arms[arm]['mean'])}." for arm in order),
        svg=svg,
        keys=(),
        columns=("Arm", "Mean", "95 % interval", "Each seed"),
        rows=tuple(
            (arm_name(arm), score(value["mean"]), " to ".join(map(score, value["interval"])),
             ", ".join(map(score, value["per_seed"])))
            for arm, value in zip(order, values, strict=True)
        ),
    )  # fmt: skip


def draw_decomposition(steps: Sequence[dict[str, Any]], *, metric: str) -> Plot:
    """Draw what each step from the pooled to the private federated model costs."""
    losses = [100 * step["loss"] for step in steps]
    starts = np.concatenate([[0.0], np.cumsum(losses)])
    names = [STEP_NAMES.get(step["step"], step["step"]) for step in steps]
    total = float(starts[-1])
    with _figure("decomposition", rows=len(steps) + 1) as (axes, drawn):
        for at, (name, start, loss) in enumerate(zip(names, starts, losses, strict=False)):
            _bar(axes, at, start=float(start), loss=loss, colour="orange" if loss > 0 else "accent")
            _label(axes, at, name, percent(loss / 100, 2))
        _bar(axes, len(steps), start=0.0, loss=total, colour="grey")
        _label(axes, len(steps), "All steps", percent(total / 100, 2))
        axes.axvline(0, color=_MUTED, lw=0.8)
        axes.set_xlabel(f"{metric.upper()} lost, % of the pooled model's")
        svg = drawn()
    return Plot(
        title="Where the loss comes from",
        alternative="Loss against the pooled model, step by step, negative for a gain. "
        + " ".join(f"{name}: {percent(loss / 100, 2)}." for name, loss in zip(names, losses, strict=True)),
        svg=svg,
        keys=(),
        columns=("Step", "Loss", "From", "To", "What changes"),
        rows=tuple(
            (name, percent(step["loss"], 2), arm_name(step["from"]), arm_name(step["to"]), step["words"])
            for name, step in zip(names, steps, strict=True)
        ),
    )


def draw_roc(curves: dict[str, Any]) -> Plot:
    """Draw the ROC curves of some arms."""
    return _lines(
        "roc",
        {arm: (curve["false_positive_rate"], curve["true_positive_rate"]) for arm, curve in curves.items()},
        title="ROC",
        x="Non-responders contacted",
        y="Responders contacted",
        diagonal=True,
    )


def draw_gains(curves: dict[str, Any]) -> Plot:
    """Draw the captured response of some arms."""
    return _lines(
        "gains",
        {arm: (curve["contacted"], curve["captured"]) for arm, curve in curves.items()},
        title="Responses captured",
        x="Customers contacted, best first",
        y="Responses captured",
        diagonal=True,
    )


def draw_profit(curves: dict[str, Any]) -> Plot:
    """Draw the profit of some arms for 1,000 customers in the table."""
    return _lines(
        "profit",
        {arm: (curve["contacted"], 1000 * np.asarray(curve["profit"])) for arm, curve in curves.items()},
        title="Profit per 1,000 customers",
        x="Customers contacted, best first",
        y="Profit, currency of the configuration",
        diagonal=False,
    )


def draw_calibration(curves: dict[str, Any]) -> Plot:
    """Draw response rate against mean prediction, before and after private recalibration."""
    styles = {
        "before": ("orange", "dashed", "Before recalibration"),
        "after": ("accent", "solid", "After recalibration"),
    }
    shown = [(curves[when], *style) for when, style in styles.items() if when in curves]
    highest = max((max(*curve["predicted"], *curve["observed"]) for curve, *_ in shown), default=1.0)
    with _figure("calibration") as (axes, drawn):
        axes.plot([0, highest], [0, highest], color=_MUTED, lw=0.8)
        for curve, colour, dash, _ in shown:
            axes.plot(curve["predicted"], curve["observed"], "o-", ms=3.5, color=_HEX[colour], lw=1.6,
                      dashes=_DASHES[dash])  # fmt: skip
        axes.set(xlabel="Mean prediction in a bin", ylabel="Response rate in the bin")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))
        svg = drawn()
    return Plot(
        title="Calibration",
        alternative="Response rate against mean prediction in bins of equal count; a calibrated model lies on the "
        "diagonal. " + " ".join(_gap(curve, name) for curve, _, _, name in shown),
        svg=svg,
        keys=tuple(_key(name, colour, dash) for _, colour, dash, name in shown),
        columns=("Model", "Mean prediction", "Response rate", "Customers"),
        rows=tuple(
            (name, percent(predicted, 2), percent(observed, 2), count(customers))
            for curve, _, _, name in shown
            for predicted, observed, customers in zip(
                curve["predicted"], curve["observed"], curve["count"], strict=True
            )
        ),
    )


def draw_frontier(
    rows: dict[str, list[dict[str, Any]]], names: dict[str, str], *, against: str, claims: Sequence[float], title: str
) -> Plot:
    """Draw the loss ``against`` a baseline of each mode over epsilon, with bands, and ``claims`` as reference lines."""
    styles = {"distributed": ("accent", "solid"), "local": ("orange", "dashed"), "pooled_dp": ("blue", "dotted")}
    epsilons = [row["epsilon"] for row in next(iter(rows.values()))]
    with _figure(f"frontier {against}") as (axes, drawn):
        for claim in claims:
            axes.axhline(100 * claim, color=_HEX["grey"], lw=1.0, dashes=_DASHES["dotted"])
            axes.text(epsilons[-1], 100 * claim, f"claimed: {percent(claim, 0)}", ha="right", va="bottom", color=_MUTED)
        for mode, found in rows.items():
            colour, dash = styles[mode]
            losses = [row[against] for row in found]
            low, high = ([100 * loss[end] for loss in losses] for end in ("low", "high"))
            axes.fill_between(epsilons, low, high, color=_HEX[colour], alpha=0.15, lw=0)
            axes.plot(epsilons, [100 * loss["mean"] for loss in losses], "o-", ms=3.5, color=_HEX[colour], lw=1.8,
                      dashes=_DASHES[dash])  # fmt: skip
        axes.set(xscale="log", xlabel="Epsilon per customer", ylabel="AUC lost, %")
        axes.set_xticks(epsilons, [f"{epsilon:g}" for epsilon in epsilons])
        axes.minorticks_off()
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
        svg = drawn()
    return Plot(
        title=title,
        alternative=f"{title}, in percent of AUC, over epsilon. "
        + " ".join(
            f"{names[mode]}: {percent(found[0][against]['mean'], 2)} at epsilon {epsilons[0]:g}, "
            f"{percent(found[-1][against]['mean'], 2)} at {epsilons[-1]:g}."
            for mode, found in rows.items()
        ),
        svg=svg,
        keys=tuple(_key(names[mode], *styles[mode]) for mode in rows),
        columns=("Epsilon", *(names[mode] for mode in rows)),
        rows=tuple(
            (f"{epsilon:g}", *(percent(found[place][against]["mean"], 2) for found in rows.values()))
            for place, epsilon in enumerate(epsilons)
        ),
    )


def _gap(curve: dict[str, Any], name: str) -> str:
    widest = max(abs(a - b) for a, b in zip(curve["predicted"], curve["observed"], strict=True))
    return f"{name}: the widest gap in a bin is {percent(widest)}."


def _lines(name: str, curves: dict[str, tuple[Any, Any]], *, title: str, x: str, y: str, diagonal: bool) -> Plot:
    order = in_order(curves)
    with _figure(name) as (axes, drawn):
        if diagonal:
            axes.plot([0, 1], [0, 1], color=_MUTED, lw=0.8)
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))
        else:
            axes.axhline(0, color=_MUTED, lw=0.8)
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))
        for arm in reversed(order):
            colour, dash = _style(arm)
            axes.plot(*curves[arm], color=_HEX[colour], lw=1.8, dashes=_DASHES[dash], dash_capstyle="round")
        axes.set(xlabel=x, ylabel=y, xlim=(0, 1))
        svg = drawn()
    written: Callable[[float], str] = percent if diagonal else count
    at = {arm: [written(float(np.interp(tenth, *curves[arm]))) for tenth in _TENTHS] for arm in order}
    return Plot(
        title=title,
        alternative=f"{y} against: {x[0].lower()}{x[1:]}. "
        + " ".join(f"{arm_name(arm)}: {at[arm][2]} at 20 %." for arm in order),
        svg=svg,
        keys=tuple(_key(arm_name(arm), *_style(arm)) for arm in order),
        columns=(x, *map(arm_name, order)),
        rows=tuple(
            (percent(float(tenth), 0), *(at[arm][index] for arm in order)) for index, tenth in enumerate(_TENTHS)
        ),
    )


def _style(arm: str) -> tuple[str, str]:
    return _STYLES.get(arm, ("grey", "solid"))


def _key(name: str, colour: str, dash: str) -> Key:
    return Key(name=name, colour=colour, dashes=" ".join(str(2 * length) for length in _DASHES[dash]))


def _label(axes: Axes, at: int, name: str, value: str) -> None:
    across = axes.get_yaxis_transform()
    axes.text(0.012, at - 0.28, name, transform=across, ha="left", va="bottom")
    axes.text(1, at - 0.28, value, transform=across, ha="right", va="bottom", color=_MUTED)


def _bar(axes: Axes, at: int, *, start: float, loss: float, colour: str) -> None:
    axes.barh([at], [loss], left=[start], height=0.34, color=_HEX[colour])


@contextmanager
def _figure(name: str, *, rows: int | None = None) -> Iterator[tuple[Axes, Any]]:
    """Give axes, labelled row by row if ``rows``, and a function to be called in the block that returns the SVG."""
    with matplotlib.rc_context({**_SETTINGS, "svg.hashsalt": name}):
        figure = Figure(figsize=(_WIDTH, _LOW if rows is None else _HIGH), layout="constrained")
        axes = figure.subplots()
        axes.set_axisbelow(True)
        axes.grid(lw=0.5, axis="both" if rows is None else "x")
        axes.tick_params(length=0)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        if rows is not None:
            axes.set(ylim=(rows - 0.5, -0.9), yticks=[])
            axes.spines["left"].set_visible(False)
            axes.margins(x=0.06)
        yield axes, lambda: _svg(figure)


def _svg(figure: Figure) -> str:
    """The figure as an SVG element for a page: no prolog, no metadata, no fonts; colours are CSS variables."""
    buffer = io.StringIO()
    nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
    with warnings.catch_warnings():  # a glyph that matplotlib's own font lacks: the reader's font draws the text
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
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
