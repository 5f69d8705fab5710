"""The page of a frontier: what each epsilon costs, as a plot, a table and a sentence."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from fedmarket.errors import DataError
from fedmarket.report import plots, words
from fedmarket.report.drawing import Plot
from fedmarket.report.page import environment
from fedmarket.report.words import metric_name, percent, points, score

FORMAT = "fedmarket-frontier/2"

MODE_NAMES = {
    "distributed": "Noise shared under secure aggregation",
    "local": "Noise at each party",
    "pooled_dp": "All rows in one place, private",
}

AGAINST = {
    "pooled": "Loss against the same model on all rows",
    "pooled_best": "Loss against the best pooled model",
}

CLAIMS = (0.03, 0.05, 0.08)
"""Losses that industry reports promise for federated learning, without an epsilon or a measurement."""


def render_frontier(results: dict[str, Any]) -> str:
    """Return the page of a ``fedmarket-frontier/2`` document as HTML.

    Raises:
        DataError: another format, or a key that is missing.
    """
    if results.get("format") != FORMAT:
        raise DataError(f"frontier: expected format {FORMAT!r}, got {results.get('format')!r}")
    try:
        content = {
            "headline": headline(results),
            "banner": None if results["generator"] == "operating-system" else words.SEEDED_BANNER,
            "answers": tuple(answer(results, mode, 1.0) for mode in MODE_NAMES),
            "plots": [draw(results, against) for against in AGAINST],
            "modes": MODE_NAMES,
            "table_rows": tuple(_rows(results)),
            "value_rows": tuple(_value_rows(results)),
            "metric": metric_name(results["metric"]),
        }
    except KeyError as error:
        raise DataError(f"frontier: no key {error}") from None
    return environment().get_template("frontier.html.j2").render(results=results, **content)


def draw(results: dict[str, Any], against: str) -> Plot:
    """Draw the loss of each mode over epsilon against one of :data:`AGAINST`."""
    return plots.draw_frontier(
        {mode: [row for row in results["rows"] if row["mode"] == mode] for mode in MODE_NAMES},
        MODE_NAMES,
        against=against,
        claims=CLAIMS,
        title=AGAINST[against],
        metric=metric_name(results["metric"]),
    )


def headline(results: dict[str, Any]) -> str:
    """Return what epsilon 1, or the epsilon next to it, costs in one sentence."""
    epsilon = nearest(results["epsilons"], 1.0)
    row = _row(results, "distributed", epsilon)
    pooled, best = row["pooled"]["mean"], row["pooled_best"]["mean"]
    return (
        f"With epsilon {epsilon:g} per customer, {results['parties']} parties that share their noise "
        f"{_changed(pooled)} of {metric_name(results['metric'])} against the same model on all rows in one place, and "
        f"{_changed(best)} against the best pooled model of any class{_against_past(row)}."
    )


def _changed(loss: float) -> str:
    """Return a loss, or a gain, in words."""
    return f"{'gain' if round(100 * loss, 2) < 0 else 'lose'} {percent(abs(loss), 2)}"


def answer(results: dict[str, Any], mode: str, wanted: float) -> str:
    """Return in words what an epsilon near ``wanted`` costs in ``mode``."""
    epsilon = nearest(results["epsilons"], wanted)
    loss = _row(results, mode, epsilon)["pooled"]
    return (
        f"{MODE_NAMES[mode]}: epsilon {epsilon:g} costs {percent(loss['mean'], 2)} of "
        f"{metric_name(results['metric'])} "
        f"(95 % interval {percent(loss['low'], 2)} to {percent(loss['high'], 2)})."
    )


def _against_past(row: dict[str, Any]) -> str:
    """Return how the model stands against past spend, where that is known: nobody needs a model that is below it."""
    if "past_spend" not in row["points"]:
        return ""
    share = row.get("past_spend")  # none where past spend ranks no better than chance
    gain = -(share or row["points"]["past_spend"])["mean"]
    size = percent(abs(gain), 2) if share else points(abs(gain))
    return f", and are {size} {'above' if gain > 0 else 'BELOW'} past spend times a constant"


def nearest(epsilons: list[float], wanted: float) -> float:
    """Return the epsilon that is nearest to ``wanted`` on a logarithmic scale."""
    return min(epsilons, key=lambda epsilon: abs(float(np.log(epsilon / wanted))))


def _row(results: dict[str, Any], mode: str, epsilon: float) -> dict[str, Any]:
    found: dict[str, Any] = next(row for row in results["rows"] if row["mode"] == mode and row["epsilon"] == epsilon)
    return found


def _rows(results: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return the table: one row for each epsilon, and for each mode its two losses with standard errors."""
    rows = [
        (f"{epsilon:g}", *(cell for mode in MODE_NAMES for cell in _cells(_row(results, mode, epsilon))))
        for epsilon in results["epsilons"]
    ]
    return [*rows, ("none", *(_cells(results["without_privacy"]) * 2), *_nothing(results))]


def _value_rows(results: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """Return what a value is judged by beside its rank: points of Gini, and how right its level is."""
    for row in results["rows"]:
        if row["mode"] == "distributed" and "past_spend" in row["points"]:
            lost, metrics = row["points"], row["metrics"]
            yield (
                f"{row['epsilon']:g}",
                score(row["score"]),
                _in_points(lost["pooled"]),
                _in_points(lost["past_spend"], sign=-1.0),
                f"{metrics['value_ratio']:.3f}",
                f"{metrics['decile_error']:.3f}",
            )


def _in_points(loss: dict[str, float], *, sign: float = 1.0) -> str:
    return f"{sign * loss['mean']:.4f} \N{PLUS-MINUS SIGN} {loss['standard_error']:.4f}"


def _cells(row: dict[str, Any]) -> tuple[str, str]:
    return _written(row["pooled"]), _written(row["pooled_best"])


def _nothing(results: dict[str, Any]) -> tuple[str, str]:
    """Pooled without privacy loses nothing against itself."""
    return percent(0.0, 2), percent(1 - results["pooled"] / results["best"]["score"], 2)


def _written(loss: dict[str, float]) -> str:
    return f"{percent(loss['mean'], 2)} \N{PLUS-MINUS SIGN} {percent(loss['standard_error'], 2)}"
