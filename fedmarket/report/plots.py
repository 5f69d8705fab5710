"""Plots as small inline SVG whose colours follow the page, light or dark, and whose numbers stand beside them.

How they are drawn is in :mod:`fedmarket.report.drawing`. Names of parties never enter a plot.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.ticker import FuncFormatter

from fedmarket.report.drawing import DASHES, HEX, MUTED, Plot, bar, figure, key_of, label, style_of
from fedmarket.report.words import STEP_NAMES, arm_name, capital, count, in_order, metric_name, money, percent, score

DECILE_ARMS = ("federated_dp", "past_spend")
"""Whose tenths are drawn."""

_TENTHS = np.linspace(0, 1, 11)


def draw_arms(arms: dict[str, Any], *, metric: str) -> Plot:
    """Draw each arm's mean with its interval and its seeds."""
    order, metric = in_order(arms), metric_name(metric)
    values = [arms[arm] for arm in order]
    with figure(f"arms {metric}", rows=len(order)) as (axes, drawn):
        for at, (arm, value) in enumerate(zip(order, values, strict=True)):
            colour = HEX[style_of(arm)[0]]
            label(axes, at, arm_name(arm), score(value["mean"]))
            axes.plot(value["per_seed"], [at] * len(value["per_seed"]), "|", color=MUTED, ms=6, mew=0.8)
            axes.plot(value["interval"], [at, at], color=colour, lw=2.2, solid_capstyle="round")
            axes.plot([value["mean"]], [at], "o", color=colour, ms=5.5)
        axes.set_xlabel(capital(metric))
        svg = drawn()
    return Plot(
        title=f"What each arm reaches ({metric})",
        alternative=f"Mean {metric} and 95 % interval of each arm. "
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
    with figure(f"decomposition {metric}", rows=len(steps) + 1) as (axes, drawn):
        for at, (name, start, loss) in enumerate(zip(names, starts, losses, strict=False)):
            bar(axes, at, start=float(start), loss=loss, colour="orange" if loss > 0 else "accent")
            label(axes, at, name, percent(loss / 100, 2))
        bar(axes, len(steps), start=0.0, loss=total, colour="grey")
        label(axes, len(steps), "All steps", percent(total / 100, 2))
        axes.axvline(0, color=MUTED, lw=0.8)
        axes.use_sticky_edges = False  # a gain's bar ends before the frame does
        axes.autoscale_view()
        axes.set_xlabel(f"{capital(metric_name(metric))} lost, % of the pooled model's")
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


def draw_value_gains(curves: dict[str, Any]) -> Plot:
    """Draw the captured spend of some arms."""
    return _lines(
        "value gains",
        {arm: (curve["contacted"], curve["captured"]) for arm, curve in curves.items()},
        title="Spend captured",
        x="Customers, highest value first",
        y="Spend captured",
        diagonal=True,
    )


def draw_deciles(deciles: dict[str, Any], *, currency: str) -> Plot:
    """Draw what customers really spent, tenth by tenth of the predicted value, and what was predicted of them."""
    order = [arm for arm in DECILE_ARMS if arm in deciles]
    with figure("deciles") as (axes, drawn):
        for arm in reversed(order):
            tenths = np.arange(1, len(deciles[arm]["count"]) + 1)
            colour = HEX[style_of(arm)[0]]
            axes.plot(tenths, deciles[arm]["predicted"], "o", color=colour, lw=1.4, ms=4, markerfacecolor="none",
                      ls="-", dashes=DASHES["dotted"])  # fmt: skip
            axes.plot(tenths, deciles[arm]["actual"], "o-", color=colour, lw=1.8, ms=3.5)
            axes.set_xticks(tenths)
        axes.set(xlabel="Tenth of the customers, highest predicted value first", ylabel=f"Mean spend, {currency}")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        svg = drawn()
    return Plot(
        title="Spend by tenths",
        alternative=f"Mean spend in {currency} in each tenth of the customers, highest predicted value first. "
        + " ".join(_tenths_in_words(arm_name(arm), deciles[arm]) for arm in order),
        svg=svg,
        keys=tuple(
            key_of(f"{arm_name(arm)}, {said}", style_of(arm)[0], dash)
            for arm in order
            for said, dash in (("spent", "solid"), ("predicted", "dotted"))
        ),
        columns=("Tenth", "Order", f"Predicted, {currency}", f"Spent, {currency}", "Bought", "Customers"),
        rows=tuple(row for arm in order for row in _tenth_rows(arm_name(arm), deciles[arm])),
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
    with figure("calibration") as (axes, drawn):
        axes.plot([0, highest], [0, highest], color=MUTED, lw=0.8)
        for curve, colour, dash, _ in shown:
            axes.plot(curve["predicted"], curve["observed"], "o-", ms=3.5, color=HEX[colour], lw=1.6,
                      dashes=DASHES[dash])  # fmt: skip
        axes.set(xlabel="Mean prediction in a bin", ylabel="Response rate in the bin")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))
        svg = drawn()
    return Plot(
        title="Calibration",
        alternative="Response rate against mean prediction in bins of equal count; a calibrated model lies on the "
        "diagonal. " + " ".join(_gap(curve, name) for curve, _, _, name in shown),
        svg=svg,
        keys=tuple(key_of(name, colour, dash) for _, colour, dash, name in shown),
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
    rows: dict[str, list[dict[str, Any]]],
    names: dict[str, str],
    *,
    against: str,
    claims: Sequence[float],
    title: str,
    metric: str,
) -> Plot:
    """Draw the loss ``against`` a baseline of each mode over epsilon, with bands, and ``claims`` as reference lines."""
    styles = {"distributed": ("accent", "solid"), "local": ("orange", "dashed"), "pooled_dp": ("blue", "dotted")}
    epsilons = [row["epsilon"] for row in next(iter(rows.values()))]
    with figure(f"frontier {against}") as (axes, drawn):
        for claim in claims:
            axes.axhline(100 * claim, color=HEX["grey"], lw=1.0, dashes=DASHES["dotted"])
            axes.text(epsilons[-1], 100 * claim, f"claimed: {percent(claim, 0)}", ha="right", va="bottom", color=MUTED)
        for mode, found in rows.items():
            colour, dash = styles[mode]
            losses = [row[against] for row in found]
            low, high = ([100 * loss[end] for loss in losses] for end in ("low", "high"))
            axes.fill_between(epsilons, low, high, color=HEX[colour], alpha=0.15, lw=0)
            axes.plot(epsilons, [100 * loss["mean"] for loss in losses], "o-", ms=3.5, color=HEX[colour], lw=1.8,
                      dashes=DASHES[dash])  # fmt: skip
        axes.set(xscale="log", xlabel="Epsilon per customer", ylabel=f"{metric} lost, %")
        axes.set_xticks(epsilons, [f"{epsilon:g}" for epsilon in epsilons])
        axes.minorticks_off()
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
        svg = drawn()
    return Plot(
        title=title,
        alternative=f"{title}, in percent of {metric}, over epsilon. "
        + " ".join(
            f"{names[mode]}: {percent(found[0][against]['mean'], 2)} at epsilon {epsilons[0]:g}, "
            f"{percent(found[-1][against]['mean'], 2)} at {epsilons[-1]:g}."
            for mode, found in rows.items()
        ),
        svg=svg,
        keys=tuple(key_of(names[mode], *styles[mode]) for mode in rows),
        columns=("Epsilon", *(names[mode] for mode in rows)),
        rows=tuple(
            (f"{epsilon:g}", *(percent(found[place][against]["mean"], 2) for found in rows.values()))
            for place, epsilon in enumerate(epsilons)
        ),
    )


def _tenths_in_words(name: str, found: dict[str, Any]) -> str:
    first, last = (
        f"{money(found['predicted'][at])} predicted and {money(found['actual'][at])} spent" for at in (0, -1)
    )
    return f"{name}: {first} in the best, {last} in the last."


def _tenth_rows(name: str, found: dict[str, Any]) -> list[tuple[str, ...]]:
    columns = (found[column] for column in ("predicted", "actual", "bought", "count"))
    return [
        (f"{place}", name, money(predicted), money(actual), percent(bought), count(customers))
        for place, (predicted, actual, bought, customers) in enumerate(zip(*columns, strict=True), start=1)
    ]


def _gap(curve: dict[str, Any], name: str) -> str:
    widest = max(abs(a - b) for a, b in zip(curve["predicted"], curve["observed"], strict=True))
    return f"{name}: the widest gap in a bin is {percent(widest)}."


def _lines(name: str, curves: dict[str, tuple[Any, Any]], *, title: str, x: str, y: str, diagonal: bool) -> Plot:
    order = in_order(curves)
    with figure(name) as (axes, drawn):
        if diagonal:
            axes.plot([0, 1], [0, 1], color=MUTED, lw=0.8)
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))
        else:
            axes.axhline(0, color=MUTED, lw=0.8)
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f} %"))
        for arm in reversed(order):
            colour, dash = style_of(arm)
            axes.plot(*curves[arm], color=HEX[colour], lw=1.8, dashes=DASHES[dash], dash_capstyle="round")
        axes.set(xlabel=x, ylabel=y, xlim=(0, 1))
        svg = drawn()
    written: Callable[[float], str] = percent if diagonal else count
    at = {arm: [written(float(np.interp(tenth, *curves[arm]))) for tenth in _TENTHS] for arm in order}
    return Plot(
        title=title,
        alternative=f"{y} against: {x[0].lower()}{x[1:]}. "
        + " ".join(f"{arm_name(arm)}: {at[arm][2]} at 20 %." for arm in order),
        svg=svg,
        keys=tuple(key_of(arm_name(arm), *style_of(arm)) for arm in order),
        columns=(x, *map(arm_name, order)),
        rows=tuple(
            (percent(float(tenth), 0), *(at[arm][index] for arm in order)) for index, tenth in enumerate(_TENTHS)
        ),
    )
