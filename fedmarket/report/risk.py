"""The page of an attack: the gate's verdict, who can be told apart with and without privacy, and what that proves."""

from typing import Any

from jinja2 import UndefinedError

from fedmarket.attacks.measured import FORMAT, Measured
from fedmarket.documents import parse_document
from fedmarket.errors import DataError
from fedmarket.report.attained import VIEWS, lower_bound_words
from fedmarket.report.drawing import HEX, Plot, figure, label
from fedmarket.report.limits import limits
from fedmarket.report.page import environment
from fedmarket.report.words import SEEDED_BANNER, capital, count, percent, upwards

VERDICTS = {"violated": "RED", "consistent": "not refuted", "inconclusive": "inconclusive"}

ARMS = {"federated": "Without privacy", "federated_dp": "With privacy"}

FIGURES = {"advantage": "membership advantage", "tpr_0.01": "right alarms at 1 % false ones",
           "tpr_0.001": "right alarms at 0.1 % false ones"}  # fmt: skip


def render_risk(results: dict[str, Any]) -> str:
    """Return the page of a ``fedmarket-risk/1`` document as HTML.

    Raises:
        DataError: another format, or a key that is missing.

    Guarantees:
        One file that loads nothing else, in which no name is markup. A refuted claim says so first.
    """
    if results.get("format") != FORMAT:
        raise DataError(f"risk: expected format {FORMAT!r}, got {results.get('format')!r}")
    try:
        found = results["membership"]
        content = {
            "banner": banner(results),
            "headline": headline(results),
            "tiles": tuple(_tiles(results)),
            "readings": [_reading(reading) for reading in results["gate"]["readings"]],
            "plots": [draw_advantage(found, group) for group in found["groups"]],
            "groups": [
                (capital(group), customers, _rows(found, group)) for group, customers in found["groups"].items()
            ],
            "reductions": [row for one in found["reductions"] for row in _reductions(one)],
            "cells": [_cell(one) for one in (results["reconstruction"] or {"cells": []})["cells"]],
            "attributes": _attributes(results["reconstruction"]),
            "limits": limits(results["epsilon"], results["delta"], gaussian=results["full_batch"], per=results["unit"])
            if results["private"]
            else None,
        }
        return environment().get_template("risk.html.j2").render(results=results, **content)
    except KeyError as error:
        raise DataError(f"risk: no key {error}") from None
    except (UndefinedError, TypeError) as error:
        raise DataError(f"risk: {error}") from None


def banner(results: dict[str, Any]) -> str | None:
    """Return what a reader must know before anything else."""
    if results["generator"] != "operating-system":
        return SEEDED_BANNER
    if results["gate"]["verdict"] == "violated":
        return "The claimed epsilon is refuted: do not release a model of this plan or this code."
    return None


def headline(results: dict[str, Any]) -> str:
    """Return the gate's verdict in a sentence."""
    return lower_bound_words(parse_document(Measured, results, source="risk"))


def _tiles(results: dict[str, Any]) -> list[tuple[str, str, str]]:
    gate, found = results["gate"], results["membership"]
    tiles = [("Gate", VERDICTS[gate["verdict"]], f"false alarm: {percent(gate['false_alarm_rate'])} at most")]
    for one in found["reductions"]:
        cut = one["figures"]["advantage"]
        value = "-" if cut["certified"] is None else percent(max(cut["certified"], 0.0), 0)
        remark = "nothing to reduce" if cut["certified"] is None else "less advantage, certified"
        tiles.append((capital(one["group"]), value, remark))
    return tiles


def _reading(reading: dict[str, Any]) -> tuple[str, ...]:
    return (
        reading["words"].partition(":")[0].capitalize(),
        f"{reading['epsilon']:.2f}",
        "-" if reading["gaussian"] is None else f"{reading['gaussian']:.2f}",
        upwards(reading["claimed"]),
        f"{reading['auc']:.3f}",
        f"{reading['control']:.3f}",
        VERDICTS[reading["verdict"]],
    )


def _rows(found: dict[str, Any], group: str) -> list[tuple[str, ...]]:
    rows = []
    for arm, groups in found["arms"].items():
        for view, figures in groups[group].items():
            limit = found["limits"][view]["advantage"] if arm == "federated_dp" else 1.0
            rows.append(
                (
                    f"{ARMS[arm]}: {VIEWS[view]}",
                    f"{figures['auc']['estimate']:.3f}",
                    _interval(figures["advantage"]),
                    percent(limit),
                    *(_interval(one["true_positive_rate"]) for one in figures["at_rates"]),
                )
            )
    return rows


def _reductions(one: dict[str, Any]) -> list[tuple[str, ...]]:
    return [
        (
            capital(one["group"]),
            FIGURES.get(name, name),
            VIEWS[one["before"]],
            VIEWS[one["after"]],
            "-" if cut["estimate"] is None else percent(cut["estimate"]),
            cut["words"] if cut["certified"] is None else percent(cut["certified"]),
        )
        for name, cut in one["figures"].items()
    ]


VEILS = {"none": "seen as it is", "sum": "in a sum with others", "mask": "behind its mask"}


def _cell(one: dict[str, Any]) -> tuple[str, ...]:
    return (
        f"{ARMS[one['arm']]}, {VEILS[one['veil']]}",
        count(one["batch"]),
        *(_interval(one[whose]["all"]) for whose in ("found", "prior")),
    )


def _attributes(found: dict[str, Any] | None) -> dict[str, Any] | None:
    """What of one column is guessed; None where nothing was tried."""
    if found is None or not found["attribute"]:
        return None
    first = next(iter(found["attribute"].values()))
    return {
        "column": first["column"],
        "targets": first["targets"],
        "imputed": _interval(first["imputed"]),
        "rows": [
            (f"{ARMS[arm]}: {VIEWS[view]}", _interval(right), _interval(one["gain"][view]))
            for arm, one in found["attribute"].items()
            for view, right in one["found"].items()
        ],
    }


def _interval(one: dict[str, Any]) -> str:
    return f"{percent(one['estimate'])} ({percent(one['low'])} to {percent(one['high'])})"


def draw_advantage(found: dict[str, Any], group: str) -> Plot:
    """Draw the membership advantage on a group of customers, by arm and view, with intervals."""
    lines = [
        (arm, view, figures["advantage"])
        for arm, groups in found["arms"].items()
        for view, figures in groups[group].items()
    ]
    private = {arm: arm == "federated_dp" for arm in found["arms"]}
    with figure(f"advantage {group}", rows=len(lines)) as (axes, drawn):
        for at, (arm, view, one) in enumerate(lines):
            colour = HEX["accent" if private[arm] else "orange"]
            name = f"{'With' if private[arm] else 'Without'}: {VIEWS[view]}"
            label(axes, at, name, percent(one["estimate"]))
            axes.plot([100 * one["low"], 100 * one["high"]], [at, at], color=colour, lw=2.2, solid_capstyle="round")
            axes.plot([100 * one["estimate"]], [at], "o", color=colour, ms=5.5)
        axes.axvline(0, color=HEX["grey"], lw=0.8)
        axes.set_xlabel("Right alarms less false ones, %")
        svg = drawn()
    return Plot(
        title=capital(group),
        alternative=f"Membership advantage on {group}, with its interval. "
        + " ".join(
            f"{'With privacy' if private[arm] else 'Without'}, {VIEWS[view]}: {percent(one['estimate'])}."
            for arm, view, one in lines
        ),
        svg=svg,
        keys=(),
        columns=("Arm", "What is seen", "Advantage", "Interval"),
        rows=tuple(
            (ARMS[arm], VIEWS[view], percent(one["estimate"]),
             f"{percent(one['low'])} to {percent(one['high'])}")
            for arm, view, one in lines
        ),
    )  # fmt: skip
