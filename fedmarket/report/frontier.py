"""The page of a frontier: what each epsilon costs, as a plot, a table and a sentence."""

from typing import Any

import numpy as np

from fedmarket.errors import DataError
from fedmarket.report import plots, words
from fedmarket.report.page import environment
from fedmarket.report.words import percent

FORMAT = "fedmarket-frontier/1"

MODE_NAMES = {
    "distributed": "Noise shared under secure aggregation",
    "local": "Noise at each party",
    "pooled_dp": "All rows in one place, private",
}

CLAIMS = (0.03, 0.05, 0.08)
"""Losses that industry reports promise for federated learning, without an epsilon or a measurement."""


def render_frontier(results: dict[str, Any]) -> str:
    """Return the page of a ``fedmarket-frontier/1`` document as HTML.

    Raises:
        DataError: another format, or a key that is missing.
    """
    if results.get("format") != FORMAT:
        raise DataError(f"frontier: expected format {FORMAT!r}, got {results.get('format')!r}")
    try:
        by_mode = {mode: [row for row in results["rows"] if row["mode"] == mode] for mode in MODE_NAMES}
        content = {
            "headline": headline(results),
            "banner": None if results["generator"] == "operating-system" else words.SEEDED_BANNER,
            "answers": tuple(answer(results, mode, 1.0) for mode in MODE_NAMES),
            "plots": [
                plots.draw_frontier(by_mode, MODE_NAMES, against=against, claims=CLAIMS, title=title)
                for against, title in (
                    ("pooled", "Loss against the same model on all rows"),
                    ("pooled_best", "Loss against the best pooled model"),
                )
            ],
            "modes": MODE_NAMES,
            "table_rows": tuple(_rows(results)),
        }
    except KeyError as error:
        raise DataError(f"frontier: no key {error}") from None
    return environment().get_template("frontier.html.j2").render(results=results, **content)


def headline(results: dict[str, Any]) -> str:
    """Return what epsilon 1, or the epsilon next to it, costs in one sentence."""
    epsilon = nearest(results["epsilons"], 1.0)
    row = _row(results, "distributed", epsilon)
    return (
        f"With epsilon {epsilon:g} per customer, {results['parties']} parties that share their noise lose "
        f"{percent(row['pooled']['mean'], 2)} of AUC against the same model on all rows in one place, and "
        f"{percent(row['pooled_best']['mean'], 2)} against the best pooled model of any class."
    )


def answer(results: dict[str, Any], mode: str, wanted: float) -> str:
    """Return in words what an epsilon near ``wanted`` costs in ``mode``."""
    epsilon = nearest(results["epsilons"], wanted)
    loss = _row(results, mode, epsilon)["pooled"]
    return (
        f"{MODE_NAMES[mode]}: epsilon {epsilon:g} costs {percent(loss['mean'], 2)} of AUC "
        f"(95 % interval {percent(loss['low'], 2)} to {percent(loss['high'], 2)})."
    )


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


def _cells(row: dict[str, Any]) -> tuple[str, str]:
    return _written(row["pooled"]), _written(row["pooled_best"])


def _nothing(results: dict[str, Any]) -> tuple[str, str]:
    """Pooled without privacy loses nothing against itself."""
    return percent(0.0, 2), percent(1 - results["pooled"] / results["best"]["auc"], 2)


def _written(loss: dict[str, float]) -> str:
    return f"{percent(loss['mean'], 2)} \N{PLUS-MINUS SIGN} {percent(loss['standard_error'], 2)}"
