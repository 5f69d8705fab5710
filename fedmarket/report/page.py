"""One self-contained page from results: no script, no network, plots inline; it can be mailed, archived and printed.

The page is a function of the results alone, so it can be made again from results.json. Names come from other
companies: everything is escaped, and a content security policy forbids whatever might slip past.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, UndefinedError
from markupsafe import Markup

from fedmarket.errors import DataError
from fedmarket.files import write_text
from fedmarket.report import plots, words
from fedmarket.report.words import percent, score

FORMAT = "fedmarket-results/1"


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


def render(results: dict[str, Any]) -> str:
    """Return the page of ``results`` as HTML; see :func:`write_report`."""
    if results.get("format") != FORMAT:
        raise DataError(f"results: expected format {FORMAT!r}, got {results.get('format')!r}")
    try:
        return environment().get_template("page.html.j2").render(results=results, **_content(results))
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
        upwards=words.upwards, size=words.size, arm=words.arm_name, kept=_kept_together, drawn=Markup,
    )  # fmt: skip
    return templates


def _content(results: dict[str, Any]) -> dict[str, Any]:
    curves = results["curves"]
    draw = {"roc": plots.draw_roc, "gains": plots.draw_gains, "profit": plots.draw_profit}
    shown = {name: drawn(curves[name]) for name, drawn in draw.items() if curves.get(name)}
    if curves.get("calibration"):
        shown["calibration"] = plots.draw_calibration(curves["calibration"])
    return {
        "headline": words.headline(results),
        "banner": None if words.is_private(results) else words.SEEDED_BANNER,
        "setting": words.setting(results),
        "bayes": words.bayes_sentence(results),
        "parties_sentence": words.parties_sentence(results),
        "overlap": words.overlap_sentence(results),
        "tiles": tuple(_tiles(results)),
        "arms": words.in_order(results["arms"]),
        "arms_plot": plots.draw_arms(results["arms"], metric=results["metric"]),
        "steps_plot": plots.draw_decomposition(results["decomposition"], metric=results["metric"]),
        "curve_plots": [shown[name] for name in ("roc", "gains", "calibration", "profit") if name in shown],
        "parties": _parties(results["parties"]),
        "accountants": sorted({name for spent in results["privacy"].values() for name in spent["accountants"]}),
        "configuration": tuple(_flat(results["configuration"])),
    }


def _tiles(results: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Key numbers as (name, value, remark)."""
    arm, loss = results["arms"]["federated_dp"], results["loss"]
    low, high = arm["interval"]
    after = results["calibration"]["after"]
    epsilon_of = "largest of any party" if words.is_private(results) else "if the noise were not seeded"
    yield "Epsilon per customer", words.upwards(words.largest_epsilon(results)), epsilon_of
    yield results["metric"].upper(), score(arm["mean"]), f"95 % interval {score(low)} to {score(high)}"
    for name, remark in (("pooled", "Loss against pooled"), ("pooled_best", "Loss against best pooled")):
        yield remark, percent(loss[name]["mean"]), f"95 % upper bound {percent(loss[name]['upper_95'])}"
    yield "Lift at 10 %", f"{arm['metrics']['lift_10']:.2f}", f"{percent(arm['metrics']['captured_10'])} of responses"
    yield "Best profit", f"{1000 * arm['metrics']['profit_best']:,.0f}", "per 1,000 customers, in hindsight"
    yield "Predicted / observed", f"{after['calibration_ratio']:.3f}", "after private recalibration"
    rows = words.count(sum(party["rows"] for party in results["parties"]))
    yield "Parties", words.count(len(results["parties"])), f"{rows} rows"


def _parties(parties: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Parties with the places of their three AUCs on a common scale, in percent of its width."""
    names = ("auc_alone", "auc_alone_dp", "auc_joint_dp")
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


def _kept_together(text: str) -> str:
    return text.replace(" %", "\N{NO-BREAK SPACE}%")
