"""One self-contained page from results: no script, no network, plots inline; it can be mailed, archived and printed.

The page is a function of the results alone, so it can be made again from results.json. Names come from other
companies: everything is escaped, and a content security policy forbids whatever might slip past.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, UndefinedError
from markupsafe import Markup, escape

from fedmarket.attacks.measured import Measured
from fedmarket.errors import DataError
from fedmarket.files import write_text
from fedmarket.report import plots, words
from fedmarket.report.attained import attained, unfit
from fedmarket.report.drawing import Plot
from fedmarket.report.limits import limits
from fedmarket.report.tiles import headline_tiles, value_tiles
from fedmarket.report.value import (
    left_out,
    lines_sentence,
    lost_segments,
    policies_of,
    segments_of,
    targeting_sentence,
)
from fedmarket.report.words import percent, score

FORMAT = "fedmarket-results/1"

Column = tuple[str, str, Callable[[float], str]]
"""A column's or row's name, the key of its metric, and how that is written."""

COLUMNS: dict[str, tuple[Column, ...]] = {
    "auc": (
        ("Log-loss", "log_loss", score),
        ("Average precision", "average_precision", score),
        ("Lift at 10 %", "lift_10", words.times),
    ),
    "gini": (
        ("Spearman", "spearman", score),
        ("Predicted / observed total", "value_ratio", words.thousandths),
        ("Captured by the best 20 %", "captured_20", percent),
        ("AUC of buying", "auc", score),
    ),
}
"""What the table of arms shows beside the metric that they are compared by."""

KNOWN_OF_RESPONSE: tuple[Column, ...] = (
    ("AUC", "auc", score),
    ("Lift in the best 10 %", "lift_10", score),
    ("Predicted / observed", "calibration_ratio", score),
    ("Log-loss", "log_loss", score),
    ("Response rate", "response_rate", score),
)

KNOWN_OF_VALUE: tuple[Column, ...] = (
    ("Predicted / observed total", "value_ratio", words.thousandths),
    ("Spend of the best 20 %", "captured_20", percent),
    ("Share that buys", "purchase_rate", percent),
)


def write_report(results: dict[str, Any], path: Path) -> None:
    """Write the page of ``results`` to ``path``.

    Args:
        results: a document of the format ``fedmarket-results/1``.
        path: the HTML file, appearing by rename.

    Raises:
        DataError: another format, or a key that is missing; nothing is written.

    Guarantees:
        One file that loads nothing else, in which no name is markup. A page of seeded noise says so first.
    """
    write_text(path, render(results))


def render(results: dict[str, Any], *, measured: Measured | None = None) -> str:
    """Return the page of ``results`` as HTML; see :func:`write_report`.

    With what was ``measured`` of attackers on this experiment; on another one, it says that it shows nothing and why.
    """
    if results.get("format") != FORMAT:
        raise DataError(f"results: expected format {FORMAT!r}, got {results.get('format')!r}")
    try:
        return environment().get_template("page.html.j2").render(results=results, **_content(results, measured))
    except KeyError as error:
        raise DataError(f"results: no key {error}") from None
    except (UndefinedError, TypeError) as error:  # a missing number is undefined, or cannot be rounded
        raise DataError(f"results: {error}") from None


def environment() -> Environment:
    """Return the templates, in which everything is escaped and a missing key is an error."""
    templates = Environment(
        loader=PackageLoader("fedmarket.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters.update(
        score=score, percent=percent, count=words.count, short=words.short, signed=words.signed,
        upwards=words.upwards, size=words.size, money=words.money,
        breakable=_breakable, kept=_kept_together, drawn=Markup,
    )  # fmt: skip
    return templates


def _content(results: dict[str, Any], measured: Measured | None) -> dict[str, Any]:
    reason = unfit(measured, results) if measured else None
    value = results["value"]
    compared = [results, value["ranking"]] if value and value["ranking"] else [results]
    return {
        "headline": words.headline(results),
        "banner": None if words.is_private(results) else words.SEEDED_BANNER,
        "setting": words.setting(results),
        "spreads": [words.spread_sentence(ranking) for ranking in compared],
        "bayes": words.bayes_sentence(results),
        "parties_sentence": words.parties_sentence(results),
        "overlap": words.overlap_sentence(results),
        "ledger": words.ledger_sentence(results),
        "limits": _limits(results),
        "attained": attained(measured) if measured and not reason else None,
        "unfit": reason,
        "tiles": tuple(headline_tiles(results)),
        "rankings": [
            _ranking(ranking, title=title)
            for ranking, title in zip(compared, ("Ranking", "Ranking by value"), strict=False)
        ],
        "asked": bool(results["configuration"]["privacy"].get("private_evaluation")),
        "response": _of_response(results) if results["calibration"] else None,
        "value": _of_value(results, value) if value else None,
        "metric": words.capital(words.metric_name(results["metric"])),
        "positives": words.capital(words.positives(results)),
        "parties": _parties(results["parties"]),
        "accountants": sorted({name for spent in results["privacy"].values() for name in spent["accountants"]}),
        "configuration": tuple(_flat(results["configuration"])),
    }


def _limits(results: dict[str, Any]) -> dict[str, Any] | None:
    """What is left to an attacker on a row of the party that spent most; None where nothing protects it."""
    if not words.is_private(results):
        return None
    most = max(results["privacy"].values(), key=lambda spent: float(spent["epsilon"]))
    gaussian = all(mechanism["sample_rate"] == 1 for mechanism in results["plan"]["mechanisms"])
    return limits(most["epsilon"], most["delta"], gaussian=gaussian, per=results["plan"]["unit"])


def _ranking(ranking: dict[str, Any], *, title: str) -> dict[str, Any]:
    """Arms by one metric: two plots and a table."""
    metric, arms = ranking["metric"], ranking["arms"]
    columns = COLUMNS[metric]
    return {
        "title": title,
        "columns": ("Arm", words.capital(words.metric_name(metric)), "95 % interval", *(name for name, *_ in columns)),
        "plots": tuple(_plots_of(ranking)),
        "rows": [
            {
                "chosen": arm == "federated_dp",
                "name": words.arm_name(arm),
                "description": arms[arm]["description"],
                "cells": (
                    score(arms[arm]["mean"]),
                    " to ".join(map(score, arms[arm]["interval"])),
                    *_cells(arms[arm].get("metrics") or {}, columns),
                ),
            }
            for arm in words.in_order(arms)
        ],
    }


def _plots_of(ranking: dict[str, Any]) -> Iterator[Plot]:
    yield plots.draw_arms(ranking["arms"], metric=ranking["metric"])
    if all(step["loss"] is not None for step in ranking["decomposition"]):
        yield plots.draw_decomposition(ranking["decomposition"], metric=ranking["metric"])


def _of_response(results: dict[str, Any]) -> dict[str, Any]:
    curves = results["curves"]
    draw = {"roc": plots.draw_roc, "gains": plots.draw_gains}
    draw |= {"calibration": plots.draw_calibration, "profit": plots.draw_profit}
    return {
        "plots": [drawn(curves[name]) for name, drawn in draw.items() if curves.get(name)],
        "known": _known(results["private_evaluation"], KNOWN_OF_RESPONSE),
    }


def _of_value(results: dict[str, Any], value: dict[str, Any]) -> dict[str, Any]:
    curves, currency = value["curves"], value["currency"]
    segments = segments_of(value)
    return {
        "tiles": tuple(value_tiles(results)) if value["ranking"] else (),
        "plots": [plots.draw_deciles(curves["deciles"], currency=currency), plots.draw_value_gains(curves["gains"])],
        "known": _known(
            value["private_evaluation"],
            (*KNOWN_OF_VALUE, (f"Mean spend, {currency}", "mean_spend", words.money)),
        ),
        "segments": segments,
        "lost_segments": lost_segments(segments),
        "policies": policies_of(value) if value["targeting"] else (),
        "measured": targeting_sentence(value) if value["targeting"] else "",
        "lines": lines_sentence(value["lines"]) if value["lines"] else "",
        "left_out": left_out(value["lines"]) if value["lines"] else (),
    }


def _cells(metrics: dict[str, float], columns: tuple[Column, ...]) -> tuple[str, ...]:
    return tuple(written(metrics[key]) if key in metrics else "-" for _, key, written in columns)


def _known(evaluation: dict[str, Any] | None, shown: tuple[Column, ...]) -> tuple[tuple[str, ...], ...]:
    """Rows of a private evaluation: name, with privacy, interval of the noise, exact."""
    if not evaluation:
        return ()
    return tuple(
        (name, written(found["value"]), f"{written(found['low'])} to {written(found['high'])}", written(found["exact"]))
        for name, key, written in shown
        for found in (evaluation[key],)
    )


def _parties(parties: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Parties with the places of their three metrics on a common scale, in percent of its width."""
    names = ("alone", "alone_dp", "joint_dp")
    known = [party[name] for party in parties for name in names if party[name] is not None]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    width = (high - low) or 1.0
    return [
        {
            **party,
            "places": {name: f"{100 * (party[name] - low) / width:.1f}" for name in names if party[name] is not None},
        }
        for party in parties
    ]


def _flat(document: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested keys as dotted keys with their values as text."""
    for key, value in document.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", str(value)


def _breakable(text: str) -> Markup:
    """A column's name that may be broken after an underscore."""
    return escape(text).replace("_", Markup("_<wbr>"))


def _kept_together(text: str) -> str:
    return text.replace(" %", "\N{NO-BREAK SPACE}%")
