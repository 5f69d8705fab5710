"""Key numbers as tiles: a name, a number and a remark each."""

from collections.abc import Iterator
from typing import Any

from fedmarket.report import words
from fedmarket.report.words import percent, score

Tile = tuple[str, str, str]

_REFERENCES = {
    "pooled": "Loss against pooled",
    "pooled_best": "Loss against best pooled",
    "past_spend": "Gain over past spend",
}


def headline_tiles(results: dict[str, Any]) -> Iterator[Tile]:
    """Yield what was promised, what is said of the target in the headline, and who took part."""
    epsilon_of = "largest of any party" if words.is_private(results) else "if the noise were not seeded"
    yield "Epsilon per customer", words.upwards(words.largest_epsilon(results)), epsilon_of
    yield from ranking_tiles(results)
    yield from _of_value(results) if results["calibration"] is None else _of_response(results)
    rows = words.count(sum(party["rows"] for party in results["parties"]))
    yield "Parties", words.count(len(results["parties"])), f"{rows} rows"


def value_tiles(results: dict[str, Any]) -> Iterator[Tile]:
    """Yield what is said of a value where a response has the headline."""
    yield from ranking_tiles(results["value"]["ranking"])
    yield from _of_value(results)


def ranking_tiles(ranking: dict[str, Any]) -> Iterator[Tile]:
    """Yield the joint model's metric and what it loses, in percent and in the metric's own points."""
    arm, loss = ranking["arms"]["federated_dp"], ranking["loss"]
    low, high = arm["interval"]
    name = words.capital(words.metric_name(ranking["metric"]))
    yield name, score(arm["mean"]), f"95 % interval {score(low)} to {score(high)}"
    for reference, title in _REFERENCES.items():
        if reference in loss:
            yield _compared(title, loss[reference], gain=reference == "past_spend")


def _compared(title: str, loss: dict[str, Any], *, gain: bool) -> Tile:
    """A loss, or a gain with its sign turned; in points alone where the reference has no share to lose."""
    sign, bound = (-1.0, "95 % lower bound") if gain else (1.0, "95 % upper bound")
    mean, least = (words.points(sign * loss["points"][key]) for key in ("mean", "upper_95"))
    if loss["mean"] is None:
        return title, mean, f"{bound} {least}"
    share = "" if loss["upper_95"] is None else f"{bound} {percent(sign * loss['upper_95'])}; "
    return title, percent(sign * loss["mean"]), f"{share}{mean}, at {'least' if gain else 'most'} {least}"


def _of_response(results: dict[str, Any]) -> Iterator[Tile]:
    metrics, after = results["arms"]["federated_dp"]["metrics"], results["calibration"]["after"]
    yield "Lift at 10 %", f"{metrics['lift_10']:.2f}", f"{percent(metrics['captured_10'])} of responses"
    yield "Best profit", f"{1000 * metrics['profit_best']:,.0f}", "per 1,000 customers, in hindsight"
    yield "Predicted / observed", f"{after['calibration_ratio']:.3f}", "after private recalibration"


def _of_value(results: dict[str, Any]) -> Iterator[Tile]:
    after = results["value"]["calibration"]["after"]
    remark = f"of all spend; the best 20 %: {percent(after['captured_20'])}"
    yield "Captured by the best 10 %", percent(after["captured_10"]), remark
    yield "Predicted / observed total", f"{after['value_ratio']:.3f}", "after the private level"
