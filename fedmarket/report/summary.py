"""Results as a short table for a terminal."""

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fedmarket.report import words
from fedmarket.report.words import percent, score


def print_summary(results: dict[str, Any], console: Console, *, bundle: str = "") -> None:
    """Print every arm with what the joint model loses to it, then what each party spent, and where ``bundle`` is.

    Where a response and a value are predicted, arms come in both orders. Names are printed as text: markup in a
    party's name is not obeyed.
    """
    if not words.is_private(results):
        console.print(Text(words.SEEDED_BANNER, style="bold red"))
    console.print(Text(words.headline(results)))
    console.print(_arms(results))
    if results["value"] and results["value"]["ranking"]:
        console.print(_arms(results["value"]["ranking"]))
    console.print(_spent(results))
    said = words.ledger_sentence(results, bundle=bundle)
    console.print(Text(said, style="dim" if _holds(results) else "red"))


def _arms(ranking: dict[str, Any]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("arm")
    for name in (f"mean {words.metric_name(ranking['metric'])}", "95 % interval", "joint model loses"):
        table.add_column(name, justify="right", no_wrap=True)
    for arm in words.in_order(ranking["arms"]):
        value = ranking["arms"][arm]
        low, high = value["interval"]
        table.add_row(
            Text(words.arm_name(arm)),
            score(value["mean"]),
            f"{score(low)} to {score(high)}",
            "" if arm == "federated_dp" else _share(value["joint_loss"]),
            style="bold" if arm == "federated_dp" else None,
        )
    return table


def _share(loss: float | None) -> str:
    return "-" if loss is None else percent(loss, 2)


def _holds(results: dict[str, Any]) -> bool:
    return results["ledger"] is None or bool(results["ledger"]["good"])


def _spent(results: dict[str, Any]) -> Text:
    """Epsilon of every party in one paragraph, rounded up."""
    delta = words.short(results["plan"]["delta"])
    spent = [f"{name} {words.upwards(entry['epsilon'])}" for name, entry in results["privacy"].items()]
    return Text(f"epsilon at delta {delta}: {', '.join(spent)}", style="dim" if words.is_private(results) else "red")
