"""What attackers attained, for the report of the run that was attacked and for the page of its audit."""

from collections.abc import Mapping
from typing import Any

from fedmarket.attacks.measured import Ends, Measured, Row, same_epsilon
from fedmarket.report.words import capital, count, percent, short, upwards

VIEWS = {
    "update": "one party's updates",
    "aggregate": "the sums of all parties",
    "model": "the released model",
    "informed update": "its updates and all other rows",
    "informed aggregate": "the sums and all other rows",
}
"""What an attacker sees; all other rows are all but the targets'."""

SEEN = VIEWS | {"informed update": "the party's updates and all other rows"}
"""The same where no line before it names the party."""

COLUMNS = ("Customers", "Without privacy", "With privacy", "Of any attack, at most", "Reduction, certified")


def attained(measured: Measured) -> dict[str, Any]:
    """Return what a page says of it: a sentence on epsilon, a table, and how it was measured."""
    found = measured.membership
    return {
        "words": lower_bound_words(measured),
        "columns": COLUMNS,
        "rows": [_row(row) for row in measured.rows],
        "how": f"{found.runs} runs of the whole federation with privacy and as many without, targets of party "
        f"{found.watched}; intervals over runs, at {percent(found.confidence, 0)}",
        "made": f"{measured.created}, fedmarket {measured.version}",
    }


def lower_bound_words(measured: Measured) -> str:
    """Return what the audit with canaries shows, in a sentence."""
    gate, claimed = measured.gate, upwards(measured.gate.readings[0].claimed)
    if gate.verdict == "violated":
        return f"The claim of epsilon {claimed} is refuted."
    if gate.verdict == "inconclusive":
        return f"The audit says nothing of epsilon {claimed}: its attack fails without noise too."
    return f"{count(gate.canaries)} canaries show epsilon {short(measured.lower_bound)} at least; {claimed} is claimed."


def unfit(measured: Measured, results: Mapping[str, Any]) -> str | None:
    """Return why it was measured of another experiment than that of a results document, or None."""
    plan = results["plan"]
    there = {"name": results["name"]} | {key: plan[key] for key in ("unit", "generator", "noise", "delta")}
    planned = next(one["epsilon"] for one in plan["observers"] if one["name"] == "coalition")
    differing = [f"{key} {getattr(measured, key)} and not {value}" for key, value in there.items()
                 if getattr(measured, key) != value]  # fmt: skip
    if not same_epsilon(measured.epsilon, planned):
        differing.append(f"epsilon {upwards(measured.epsilon)} and not {upwards(planned)}")
    return f"risk.json is of {', '.join(differing)}; run fedmarket attack again." if differing else None


def _row(row: Row) -> tuple[str, ...]:
    return (
        f"{capital(row.group)} ({count(row.customers)})",
        *(
            f"{_ends(ends)}: {SEEN.get(view, view)}"
            for ends, view in zip((row.before, row.after), row.views, strict=True)
        ),
        percent(row.limit),
        row.cut.words if row.cut.certified is None else percent(row.cut.certified),
    )


def _ends(ends: Ends) -> str:
    return f"{percent(ends.estimate)} ({percent(ends.low)} to {percent(ends.high)})"
