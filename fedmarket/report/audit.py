"""The page of an audit, for whoever must answer for privacy: verdicts first, then who spent what, and what is open."""

from typing import Any

from jinja2 import UndefinedError

from fedmarket.errors import DataError
from fedmarket.report.drawing import HEX, Plot, figure, key_of
from fedmarket.report.page import environment
from fedmarket.report.words import count, short, upwards

FORMAT = "fedmarket-verdict/1"

QUESTIONS = {
    "integrity": ("Integrity", "Was nothing altered?"),
    "completeness": ("Completeness", "Is nothing missing?"),
    "promise": ("Promise", "Was it kept to the cap, with secret noise?"),
}

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
            "headline": headline(verdict),
            "tiles": tuple(_tiles(verdict)),
            "plots": [draw_spending(party) for party in verdict["parties"]],
            "party_rows": [_party_row(party, unread=verdict["unread"]) for party in verdict["parties"]],
            "changes": [
                (change["time"], party["name"], str(change["sequence"]), change["words"])
                for party in verdict["parties"]
                for change in party["changes"]
            ],
            "runs": [_run(run) for run in verdict["runs"]],
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
    broken = [QUESTIONS[question][0].lower() for question, held in verdict["verdicts"].items() if not held]
    return f"This bundle does not hold: {' and '.join(broken)} broken" if broken else None


def headline(verdict: dict[str, Any]) -> str:
    """Return the verdict in a sentence."""
    size, parties = count(verdict["log_size"]), len(verdict["parties"])
    if not verdict["good"]:
        found = len(verdict["findings"])
        return f"{found} {'thing does' if found == 1 else 'things do'} not hold in {size} entries of {parties} parties."
    most = max((_written(party["epsilon"]) for party in verdict["parties"]), default="0.00")
    return f"All {size} entries of {parties} parties hold; no party spent more than epsilon {most} per customer."


def _tiles(verdict: dict[str, Any]) -> list[tuple[str, str, str]]:
    tiles = [
        (QUESTIONS[question][0], "holds" if held else "BROKEN", QUESTIONS[question][1])
        for question, held in verdict["verdicts"].items()
    ]
    overlap = verdict["overlap"]
    return [
        *tiles,
        ("Customer of all parties", _written(overlap["epsilon"]), f"epsilon, delta {short(overlap['delta'])}"),
    ]


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
        f"{_written(party['epsilon'])} or more" if party["name"] in unread else _written(party["epsilon"]),
        _written(max(sampled, key=lambda value: float("inf") if value == "infinite" else value)) if sampled else "-",
        short(party["cap"]),
        short(party["delta"]),
        party["unit"],
        party["adjacency"].replace("-", " "),
        count(party["open"]),
        count(party["given_back"]),
    )


def _run(run: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": run["run"],
        "parties": ", ".join(run["parties"]),
        "generator": run["plan"]["generator"],
        "models": run["models"],
        "mechanisms": [
            (each["phase"], count(each["releases"]), each["noise_multiplier"], each["clip_norm"], each["sampling"],
             each["sample_rate"], str(each["grid"]["shares"]) if each["grid"] else "own")
            for each in run["plan"]["mechanisms"]
        ],
        "observers": [(f"{who[0].upper()}{who[1:]}", _written(epsilon)) for _, who, epsilon in run["observers"]],
    }  # fmt: skip


def _written(epsilon: float | str) -> str:
    return upwards(float("inf") if isinstance(epsilon, str) else epsilon)
