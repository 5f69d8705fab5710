"""A party's budget as short tables for a terminal; never is an epsilon rounded down, or what is left rounded up."""

import math
from typing import Any

from rich.console import Console
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

SHORT = 12
"""Digits of a hash that are shown."""

GIVING = ("what", "reason", "counts too", "of planned", "given back", "the whole run against", "noise multiplier")
"""Columns that are folded where the terminal is narrow; numbers, times and hashes of the others stay whole."""

BAR = 50
"""Characters of the bar."""


def print_budget(document: dict[str, Any], console: Console) -> None:
    """Print what :meth:`fedmarket.ledger.look.Look.to_document` tells: spending, data sets, runs, changes."""
    last = document["data_sets"][-1]
    left = left_in_words(last["epsilon"], document["cap"], destroyed=document["destroyed"])
    console.print(Text(f"{document['party']}: {left}", style="bold"), soft_wrap=True)
    if console.is_terminal:
        console.print(_bar(last["epsilon"], document["cap"]), "\n", end="")
    console.print(_facts(document, last))
    if len(document["data_sets"]) > 1:
        _below(_data_sets(document["data_sets"]), console)
    for data in document["data_sets"]:
        if runs := [run for run in document["runs"] if run["data_set"] == data["data_set"]]:
            _below(_runs(runs, of=data["data_set"] if len(document["data_sets"]) > 1 else ""), console)
    if document["changes"]:
        _below(_changes(document["changes"]), console)
    for warning in _warnings(document):
        console.print(Text(f"\n{warning}", style="yellow"), soft_wrap=True)


def print_cost(cost: dict[str, Any], console: Console, *, releases: bool = False) -> None:
    """Print what one run spends by itself, against each observer, and on which releases if ``releases``."""
    if not cost["private"]:
        console.print(
            Text("NOT PRIVATE: this configuration draws noise from a seeded generator", style="bold red"),
            soft_wrap=True,
        )
    said = f"The run by itself: epsilon {_up(cost['epsilon'])} at delta {cost['delta']:g}"
    console.print(Text(f"{said} ({_accountants(cost['accountants'])})", style="bold"), soft_wrap=True)
    table = _table("the whole run against", "epsilon", right=("epsilon",))
    for _, words, epsilon in cost["observers"]:
        table.add_row(Text(words), _up(epsilon))
    _below(table, console)
    if releases:
        _below(_releases(cost["mechanisms"]), console)


def print_fit(fit: dict[str, Any], console: Console) -> None:
    """Print what a party would have spent after a run; what a refusal says stands elsewhere."""
    table = _table(Text(f"{fit['party']}, at delta {fit['delta']:g}"), "epsilon", right=("epsilon",))
    table.add_row("spent before", _up(fit["before"]))
    table.add_row("spent after the run", "refused" if fit["after"] is None else _up(fit["after"]))
    table.add_row("cap", f"{fit['cap']:g}")
    left = fit["before"] if fit["after"] is None else fit["after"]
    table.add_row("left", _down(fit["cap"] - left), style="bold")
    _below(table, console)
    if fit["unfinished"]:
        said = (
            f"{fit['unfinished']} run(s) joined before have no model yet; what they may still release is not counted."
        )
        console.print(Text(said, style="yellow"), soft_wrap=True)


def left_in_words(epsilon: float, cap: float, *, destroyed: bool) -> str:
    """Return what was spent and what is left, in a sentence.

    >>> left_in_words(1.17046, 4.0, destroyed=False)
    'epsilon 1.1705 of 4 is spent, 2.8295 is left'
    >>> left_in_words(1.17046, 1.0, destroyed=False)
    'epsilon 1.1705 is spent, above the cap of 1: nothing more will be released'
    """
    if destroyed:
        return f"epsilon {_up(epsilon)} of {cap:g} was spent; the data set is destroyed, nothing more will be released"
    if not epsilon <= cap:
        return f"epsilon {_up(epsilon)} is spent, above the cap of {cap:g}: nothing more will be released"
    return f"epsilon {_up(epsilon)} of {cap:g} is spent, {_down(cap - epsilon)} is left"


def change_in_words(change: dict[str, Any]) -> tuple[str, str]:
    """Return what an entry that is of no round changed, and the reason that was given for it.

    >>> change_in_words({"kind": "cap-changed", "old": "8.0", "new": "9.0", "reason": "agreed"})
    ('cap from 8 to 9', 'agreed')
    """
    match change["kind"]:
        case "cap-changed":
            what = f"cap from {float(change['old']):g} to {float(change['new']):g}"
        case "data-replaced":
            counts = "what was spent counts on" if change["overlap"] else "no customer is in both"
            what = f"data set {change['old'][:SHORT]} replaced by {change['new'][:SHORT]}; {counts}"
        case "data-destroyed":
            what = f"data set {change['data_set'][:SHORT]} destroyed"
        case "rotated":
            what = f"key {change['public_key'][:SHORT]} signs from here on"
        case "released":
            return f"model {change['model_hash'][:SHORT]} released", f"by run {change['run'][:SHORT]}"
        case _:
            what = f"model {change['model_hash'][:SHORT]} withdrawn"
    return what, change.get("reason", "")


def _facts(document: dict[str, Any], last: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    used = "in use" if last["in_use"] else "DESTROYED, was in use"
    for name, value in {
        "accountants": _accountants(last["accountants"]) or "nothing was released yet",
        "delta": f"{document['delta']:g}",
        "protected": f"each {_unit(document['unit'])}, neighbours by {document['adjacency'].replace('-', ' ')}",
        "data set": f"{last['data_set'][:SHORT]}, {used} since {_minute(last['since'])} UTC",
        "ledger": f"{document['entries']} entries, every signature checked; key {document['public_key'][:SHORT]}",
    }.items():
        table.add_row(name, Text(value))
    return table


def _data_sets(data_sets: list[dict[str, Any]]) -> Table:
    table = _table("data set", "since (UTC)", "epsilon", "counts too", right=("epsilon",))
    for data in data_sets:
        before = ", ".join(other[:SHORT] for other in data["counts_too"]) or "-"
        style = "bold" if data["in_use"] else None
        table.add_row(data["data_set"][:SHORT], _minute(data["since"]), _up(data["epsilon"]), before, style=style)
    return table


def _runs(runs: list[dict[str, Any]], *, of: str) -> Table:
    """A row for each phase of each run, headed by their data set if it is given; lost has a column if something is."""
    counted = {"spent": "spent", "planned": "of planned", "open": "open", "given_back": "given back", "lost": "lost"}
    if not any(one["lost"] for run in runs for one in run["phases"]):
        del counted["lost"]
    table = _table("run", "joined (UTC)", "phase", *counted.values(), right=tuple(counted.values()))
    table.title = f"with data set {of[:SHORT]}" if of else None
    for run in runs:
        begins = (run["run"][:SHORT], _minute(run["joined"]))
        for one in run["phases"]:
            table.add_row(*begins, one["phase"], *(str(one[key]) for key in counted))
            begins = ("", "")
    return table


def _changes(changes: list[dict[str, Any]]) -> Table:
    table = _table("when (UTC)", "what", "reason")
    for change in changes:
        what, why = change_in_words(change)
        table.add_row(_minute(change["time"]), what, Text(why))
    return table


def _releases(mechanisms: tuple[Any, ...]) -> Table:
    numbers = ("releases", "noise multiplier", "clip norm", "sample rate")
    table = _table("phase", *numbers, right=numbers)
    for one in mechanisms:
        rounded = (f"{one.noise_multiplier:.4g}", f"{one.clip_norm:.4g}", f"{one.sample_rate:.3g}")
        table.add_row(one.phase, str(one.releases), *rounded)
    return table


def _warnings(document: dict[str, Any]) -> list[str]:
    said = []
    if document["incomplete_line"]:
        said.append("The last line is not whole and not counted: it is being written just now, or a crash cut it.")
    if document["torn"]:
        said.append(f"Lines that a crash cut are in {', '.join(document['torn'])}; nothing was released for them.")
    return said


def _bar(epsilon: float, cap: float) -> ProgressBar:
    share = min(1.0, epsilon / cap)
    style = "green" if share < 0.7 else "yellow" if share < 1 else "red"
    return ProgressBar(total=1.0, completed=share, width=BAR, complete_style=style, finished_style=style)


def _table(*headings: str | Text, right: tuple[str, ...] = ()) -> Table:
    table = Table(
        box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim", title_justify="left", title_style="dim"
    )
    for heading in headings:
        table.add_column(
            heading,
            justify="right" if heading in right else "left",
            no_wrap=str(heading) not in GIVING,
            overflow="fold",
        )
    return table


def _below(table: Table, console: Console) -> None:
    console.print()
    console.print(table)


def _accountants(found: dict[str, float]) -> str:
    return ", ".join(f"{name} {epsilon:.4f}" for name, epsilon in sorted(found.items()))


def _unit(unit: str) -> str:
    """``row`` stays; ``column:customer`` is read as what the column holds."""
    return unit if unit == "row" else f"value of column {unit.removeprefix('column:')}"


def _minute(time: str) -> str:
    return time[:16].replace("T", " ")


def _up(epsilon: float) -> str:
    return f"{math.ceil(1e4 * epsilon - 1e-7) / 1e4:.4f}" if math.isfinite(epsilon) else "infinite"


def _down(left: float) -> str:
    return f"{math.floor(1e4 * max(0.0, left) + 1e-7) / 1e4:.4f}"
