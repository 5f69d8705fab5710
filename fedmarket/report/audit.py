"""The page of an audit, for whoever must answer for privacy: verdicts first, then who spent what, and what is open."""

import math
from typing import Any

from jinja2 import UndefinedError

from fedmarket.attacks.measured import Measured
from fedmarket.errors import DataError
from fedmarket.privacy.mechanism import MECHANISM_WORDS
from fedmarket.report.attained import attained
from fedmarket.report.drawing import HEX, Plot, figure, key_of
from fedmarket.report.limits import limits
from fedmarket.report.page import environment
from fedmarket.report.words import count, short, upwards

FORMAT = "fedmarket-verdict/1"

QUESTIONS = {
    "integrity": ("Integrity", "Was nothing altered?"),
    "completeness": ("Completeness", "Is nothing missing?"),
    "promise": ("Promise", "Was it kept to the cap, with secret noise?"),
}

STANDINGS = {"holds": "holds", "broken": "BROKEN", "not-established": "not established"}

MOST_ROWS = 60
"""Of a plot's table; of a longer ledger evenly chosen, the last always among them."""


def render_audit(verdict: dict[str, Any]) -> str:
    """Return the page of a ``fedmarket-verdict/1`` document as HTML.

    Raises:
        DataError: another format, or a key that is missing.

    Guarantees:
        One file that loads nothing else, in which no name is markup. A bundle that does not hold says so first.
    """
    if verdict.get("format") != FORMAT:
        raise DataError(f"verdict: expected format {FORMAT!r}, got {verdict.get('format')!r}")
    try:
        content = {
            "banner": banner(verdict),
            "unheld": unheld(verdict),
            "headline": headline(verdict),
            "tiles": tuple(_tiles(verdict)),
            "plots": [(draw_spending(party), numbers_of(party)) for party in verdict["parties"]],
            "party_rows": [_party_row(party, unread=verdict["unread"]) for party in verdict["parties"]],
            "limits": _limits(verdict),
            "attained": attained(Measured(**verdict["measured"])) if verdict["measured"] else None,
            "changes": [
                (change["time"], party["name"], str(change["sequence"]), change["words"])
                for party in verdict["parties"]
                for change in party["changes"]
            ],
            "runs": [_run(run) for run in verdict["runs"]],
            "legend": legend(verdict),
            "evidence": evidence(verdict),
        }
        return environment().get_template("audit.html.j2").render(verdict=verdict, **content)
    except KeyError as error:
        raise DataError(f"verdict: no key {error}") from None
    except (UndefinedError, TypeError) as error:
        raise DataError(f"verdict: {error}") from None


def banner(verdict: dict[str, Any]) -> str | None:
    """Return what a reader must know before anything else; None where everything holds."""
    if not all(run["private"] for run in verdict["runs"]):
        return "NOT PRIVATE: noise of a run came from a seed, and protects nobody"
    said = []
    for standing in ("broken", "not-established"):
        names = [QUESTIONS[question][0].lower() for question, found in verdict["verdicts"].items() if found == standing]
        if names:
            said.append(f"{' and '.join(names)} {standing.replace('-', ' ')}")
    return f"This bundle does not hold: {', '.join(said)}" if said else None


def unheld(verdict: dict[str, Any]) -> str | None:
    """Return what is to be said of keys that nobody held against others; None where both were."""
    return None if verdict["roster_compared"] and verdict["log_key_compared"] else f"Keys: {verdict['keys']}"


def headline(verdict: dict[str, Any]) -> str:
    """Return the verdict in a sentence."""
    size, parties = count(verdict["log_size"]), verdict["listed"]
    if not verdict["good"]:
        found = len(verdict["lines"])
        return f"{found} {'thing does' if found == 1 else 'things do'} not hold in {size} entries of {parties} parties."
    most = max((_written(party["epsilon"]) for party in verdict["parties"]), default="0.00")
    return (
        f"All {size} entries of {parties} parties hold; no party spent more than epsilon {most} per {verdict['per']}."
    )


def _tiles(verdict: dict[str, Any]) -> list[tuple[str, str, str, bool]]:
    """Name, value and remark of each key number, and whether it is a warning."""
    tiles = [
        (QUESTIONS[question][0], STANDINGS[found], QUESTIONS[question][1], found != "holds")
        for question, found in verdict["verdicts"].items()
    ]
    overlap, unread = verdict["overlap"], len(verdict["unread"])
    if not overlap["bounded"]:
        remark = f"{unread} of {verdict['listed']} ledgers not read to {'its' if unread == 1 else 'their'} end"
        return [*tiles, (overlap["title"], "unknown", remark, True)]
    remark = f"epsilon, delta {short(overlap['delta'])}{': promises next to nothing' if overlap['worthless'] else ''}"
    return [*tiles, (overlap["title"], _written(overlap["epsilon"]), remark, overlap["worthless"])]


def numbers_of(party: dict[str, Any]) -> str:
    """Return what the table of a party's plot shows of its reservations."""
    there = len(party["points"])
    return f"Numbers ({MOST_ROWS} of {there} reservations; all of them with --json)" if there > MOST_ROWS else "Numbers"


def legend(verdict: dict[str, Any]) -> list[tuple[str, str]]:
    """Return each phase in which something is released, and what that is."""
    phases = {each["phase"]: None for run in verdict["runs"] for each in run["plan"]["mechanisms"]}
    return [(phase, MECHANISM_WORDS.get(phase, phase)) for phase in phases]


def evidence(verdict: dict[str, Any]) -> list[tuple[str, str]]:
    """Return what was checked, by what and when, each with its name."""
    found = verdict["evidence"]
    form = "the zip" if found["bundle_form"] == "zip" else "the list of its files and their hashes"
    version, code = found["checker"]
    return [
        ("Bundle", f"SHA-256 of {form}: {found['bundle_hash']}"),
        ("Checked", f"{found['time']} by fedmarket {version}, code {code}"),
        ("Last checkpoint", _checkpoint(found["checkpoint"])),
        ("Roster", verdict["roster_hash"]),
        ("Log key", verdict["log_key"]),
        ("Keys", verdict["keys"]),
    ]


def _checkpoint(found: dict[str, Any] | None) -> str:
    if found is None:
        return "none that can be read"
    signers = f"{found['cosigners']} {'cosignature' if found['cosigners'] == 1 else 'cosignatures'}"
    latest = f", the latest of {found['time']}" if found["time"] else ""
    return f"{count(found['size'])} entries, root {found['root']}, {signers}{latest}"


def draw_spending(party: dict[str, Any]) -> Plot:
    """Draw a party's epsilon after each reservation, and the cap that was in force."""
    points = party["points"]
    finite = [(place, point) for place, point in enumerate(points, start=1) if point["epsilon"] != "infinite"]
    with figure(f"spending {party['name']}") as (axes, drawn):
        places = [place for place, _ in finite]
        axes.step(places, [point["cap"] for _, point in finite], where="post", color=HEX["orange"], lw=1.4,
                  dashes=(5.0, 2.5))  # fmt: skip
        axes.step(places, [point["epsilon"] for _, point in finite], where="post", color=HEX["accent"], lw=1.8)
        axes.set(xlabel="Reservation", ylabel="Epsilon")
        axes.set_ylim(bottom=0.0)
        svg = drawn()
    first, last = (points[0]["time"], points[-1]["time"]) if points else ("-", "-")
    return Plot(
        title=f"{party['name']}: {_written(party['epsilon'])} of {short(party['cap'])}",
        alternative=f"Epsilon after each of {len(points)} reservations, from {first} to {last}: "
        f"{_written(party['epsilon'])} in the end, the cap is {short(party['cap'])}.",
        svg=svg,
        keys=(key_of("epsilon", "accent", "solid"), key_of("cap", "orange", "dashed")),
        columns=("Entry", "Time, the party's clock", "Run", "Round", "Released", "Epsilon", "Cap"),
        rows=tuple(
            (
                str(point["sequence"]), point["time"], point["run"][:12], str(point["round"]),
                f"{point['count']} of {point['phase']}", _written(point["epsilon"]), short(point["cap"]),
            )
            for point in _chosen(points)
        ),
    )  # fmt: skip


def _chosen(points: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if len(points) <= MOST_ROWS:
        return points
    return [points[(len(points) - 1) * place // (MOST_ROWS - 1)] for place in range(MOST_ROWS)]


def _party_row(party: dict[str, Any], *, unread: list[str]) -> tuple[str, ...]:
    sampled = [data["unsampled"] for data in party["data"] if data["unsampled"] is not None]
    return (
        party["name"],
        count(party["entries"]),
        _at_least(party["epsilon"]) if party["name"] in unread else _written(party["epsilon"]),
        _written(max(sampled, key=lambda value: float("inf") if value == "infinite" else value)) if sampled else "-",
        short(party["cap"]),
        short(party["delta"]),
        party["per"],
        party["adjacency"].replace("-", " "),
        count(party["open"]),
        count(party["given_back"]),
    )


def _limits(verdict: dict[str, Any]) -> dict[str, Any] | None:
    """What is left to an attacker on a customer of the party that spent most; None where nothing bounds that."""
    spent = [party for party in verdict["parties"] if not isinstance(party["epsilon"], str)]
    if len(spent) < len(verdict["parties"]) or not spent or banner(verdict):
        return None
    most = max(spent, key=lambda party: party["epsilon"])
    used = [each for run in verdict["runs"] for each in run["plan"]["mechanisms"]]
    gaussian = all(float(each["sample_rate"]) == 1 for each in used)
    return limits(most["epsilon"], float(most["delta"]), gaussian=gaussian, per=most["per"])


def _run(run: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": run["run"],
        "parties": ", ".join(run["parties"]),
        "generator": run["plan"]["generator"],
        "models": [(model, model in run["withdrawn"]) for model in run["models"]],
        "masked": run["masked"],
        "mechanisms": [
            (each["phase"], count(each["releases"]), _rounded(each["noise_multiplier"]), _rounded(each["clip_norm"]),
             each["sampling"], _rounded(each["sample_rate"]), str(each["grid"]["shares"]) if each["grid"] else "own")
            for each in run["plan"]["mechanisms"]
        ],
        "observers": [(f"{who[0].upper()}{who[1:]}", _written(epsilon)) for _, who, epsilon in run["observers"]],
    }  # fmt: skip


def _rounded(number: str) -> str:
    """Decimal text with four significant digits at most."""
    return f"{float(number):.4g}"


def _at_least(epsilon: float | str) -> str:
    """Of what was read alone: rounded down, as there may be more."""
    return _written(epsilon) if isinstance(epsilon, str) else f"{math.floor(100 * epsilon + 1e-9) / 100:.2f} or more"


def _written(epsilon: float | str) -> str:
    return upwards(float("inf") if isinstance(epsilon, str) else epsilon)
