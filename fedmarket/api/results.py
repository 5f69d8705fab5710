"""Finished experiments and sweeps, read from their folders: documents as data frames and figures.

Everything here is made from ``results.json`` or ``frontier.json`` alone, so it needs neither torch nor Flower, and a
folder that was sent by somebody else is read like one's own.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Self

import polars as pl

from fedmarket.api.figures import Figure, framed
from fedmarket.errors import DataError, UsageError
from fedmarket.report import frontier as sweep
from fedmarket.report import page, plots, words
from fedmarket.report.drawing import Plot
from fedmarket.report.tiles import headline_tiles

_SUMMARY = {"width": 960, "height": 360}


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A finished experiment; :func:`fedmarket.simulate` makes one, and :meth:`open` reads one again.

    Attributes:
        folder: where its files are.
        results: the document ``results.json``, see ``docs/reference/results.md``.
    """

    folder: Path
    results: dict[str, Any] = field(repr=False)

    @classmethod
    def open(cls, folder: str | Path) -> Self:
        """Return the finished experiment in ``folder``; nothing is trained.

        Raises:
            DataError: if it holds no results, or those of another version.
        """
        folder = Path(folder).resolve()
        return cls(folder=folder, results=_document(folder / "results.json", page.FORMAT))

    @property
    def headline(self) -> str:
        """The result in one sentence, as the report opens."""
        return words.headline(self.results)

    @property
    def arms(self) -> pl.DataFrame:
        """One row for each arm and ranking.

        ``mean`` of ``metric`` over seeds with its 95 % interval ``low`` to ``high``, ``loss`` against ``pooled`` and
        ``joint_loss`` of the joint private model against this arm (relative, negative for a gain), and every other
        metric, averaged over seeds; null where an arm has none.
        """
        return _frame(
            {"arm": arm, "metric": ranking["metric"], "mean": found["mean"]}
            | dict(zip(("low", "high"), found["interval"], strict=True))
            | {name: found[name] for name in ("loss", "joint_loss")}
            | (found.get("metrics") or {})
            for ranking in self._rankings()
            for arm, found in ranking["arms"].items()
        )

    @property
    def seeds(self) -> pl.DataFrame:
        """One row for each arm and seed: its ``value`` of the ranking's ``metric``."""
        numbers = self.results["configuration"]["seeds"]
        return _frame(
            {"arm": arm, "metric": ranking["metric"], "seed": seed, "value": value}
            for ranking in self._rankings()
            for arm, found in ranking["arms"].items()
            for seed, value in zip(numbers, found["per_seed"], strict=True)
        )

    @property
    def losses(self) -> pl.DataFrame:
        """What the joint private model loses ``against`` a reference, negative for a gain.

        ``mean`` and one-sided ``upper_95`` are relative, and null where the reference has no share to lose; ``points``
        and ``points_upper_95`` are differences of the metric itself.
        """
        return _frame(
            {
                "against": reference,
                "metric": ranking["metric"],
                "mean": loss["mean"],
                "upper_95": loss["upper_95"],
                "points": loss["points"]["mean"],
                "points_upper_95": loss["points"]["upper_95"],
            }
            for ranking in self._rankings()
            for reference, loss in ranking["loss"].items()
        )

    @property
    def steps(self) -> pl.DataFrame:
        """Where the loss comes from: one row for each step from ``pooled`` to the joint private model."""
        return _frame(
            {"metric": ranking["metric"], **{name: step[name] for name in ("step", "from", "to", "loss")}}
            for ranking in self._rankings()
            for step in ranking["decomposition"]
        )

    @property
    def parties(self) -> pl.DataFrame:
        """One row for each party: its rows, its metrics alone and joined, and the epsilon that it spent at delta."""
        spent = self.results["privacy"]
        return _frame(party | {"delta": spent[party["name"]]["delta"]} for party in self.results["parties"])

    @property
    def figures(self) -> tuple[str, ...]:
        """The names that :meth:`plot` knows for this result."""
        return tuple(self._drawers())

    def plot(self, name: str) -> Figure:
        """Return the report's figure of one of :attr:`figures`.

        Raises:
            UsageError: if the result has no such figure.
        """
        return _drawn(self._drawers(), name)

    @property
    def report(self) -> Path:
        """The report, one self-contained page."""
        return self.folder / "report.html"

    @property
    def model(self) -> Path:
        """The released model, for :func:`fedmarket.predict`."""
        return self.folder / "model.safetensors"

    @property
    def bundle(self) -> Path | None:
        """The ledgers of its run, for :func:`fedmarket.verify`; None where none were kept."""
        return self.folder / "bundle.zip" if self.results["ledger"] else None

    def _rankings(self) -> Iterator[dict[str, Any]]:
        yield self.results
        if self.results["value"] and self.results["value"]["ranking"]:
            yield self.results["value"]["ranking"]

    def _drawers(self) -> dict[str, Callable[[], Plot]]:
        found: dict[str, Callable[[], Plot]] = {}
        for ranking, prefix in zip(self._rankings(), ("", "value_"), strict=False):
            metric, steps = ranking["metric"], ranking["decomposition"]
            found[f"{prefix}arms"] = partial(plots.draw_arms, ranking["arms"], metric=metric)
            if all(step["loss"] is not None for step in steps):
                found[f"{prefix}steps"] = partial(plots.draw_decomposition, steps, metric=metric)
        curves, value = self.results["curves"] or {}, self.results["value"]
        of_response = {
            "roc": plots.draw_roc,
            "gains": plots.draw_gains,
            "calibration": plots.draw_calibration,
            "profit": plots.draw_profit,
        }
        found |= {name: partial(draw, curves[name]) for name, draw in of_response.items() if curves.get(name)}
        if value:
            curves, currency = value["curves"], value["currency"]
            found["deciles"] = partial(plots.draw_deciles, curves["deciles"], currency=currency)
            found["value_gains"] = partial(plots.draw_value_gains, curves["gains"])
        return found

    def _repr_html_(self) -> str:
        banner = None if words.is_private(self.results) else words.SEEDED_BANNER
        tiles = tuple(headline_tiles(self.results))
        return framed(title=self.results["name"], **_SUMMARY, headline=self.headline, tiles=tiles, banner=banner)


@dataclass(frozen=True, slots=True, kw_only=True)
class Frontier:
    """A finished sweep over epsilons; :func:`fedmarket.frontier` makes one, and :meth:`open` reads one again.

    Attributes:
        folder: where its files are.
        results: the document ``frontier.json``.
    """

    folder: Path
    results: dict[str, Any] = field(repr=False)

    @classmethod
    def open(cls, folder: str | Path) -> Self:
        """Return the finished sweep in ``folder``; nothing is trained.

        Raises:
            DataError: if it holds none, or one of another version.
        """
        folder = Path(folder).resolve()
        return cls(folder=folder, results=_document(folder / "frontier.json", sweep.FORMAT))

    @property
    def headline(self) -> str:
        """What epsilon 1, or the epsilon next to it, costs in one sentence."""
        return sweep.headline(self.results)

    @property
    def points(self) -> pl.DataFrame:
        """One row for each mode and epsilon.

        ``score`` is the mean of the metric over seeds; ``loss`` is relative, against the same model on all rows
        (negative for a gain, null where there is no share to lose), with its ``standard_error`` over seeds and its
        95 % interval ``low`` to ``high``; ``loss_best`` is against the best pooled model.
        """
        nothing = dict.fromkeys(("mean", "standard_error", "low", "high"))
        return _frame(
            {name: row[name] for name in ("mode", "epsilon", "score")}
            | {{"mean": "loss"}.get(name, name): value for name, value in row.get("pooled", nothing).items()}
            | {"loss_best": row.get("pooled_best", nothing)["mean"]}
            for row in self.results["rows"]
        )

    @property
    def figures(self) -> tuple[str, ...]:
        """The names that :meth:`plot` knows."""
        return tuple(self._drawers())

    def plot(self, name: str = "pooled") -> Figure:
        """Return the page's figure of the loss against ``pooled``, or against ``pooled_best``.

        Raises:
            UsageError: if there is no such figure.
        """
        return _drawn(self._drawers(), name)

    @property
    def report(self) -> Path:
        """The page, self-contained."""
        return self.folder / "frontier.html"

    def _drawers(self) -> dict[str, Callable[[], Plot]]:
        shown = (against for against in sweep.AGAINST if all(against in row for row in self.results["rows"]))
        return {against: partial(sweep.draw, self.results, against) for against in shown}

    def _repr_html_(self) -> str:
        return self.plot()._repr_html_()


def _document(path: Path, expected: str) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or 'no such file'}); was the run finished?") from None
    except ValueError:
        raise DataError(f"{path}: not a JSON document") from None
    came = found.get("format") if isinstance(found, dict) else None
    if came != expected:
        raise DataError(f"{path}: expected format {expected!r}, got {came!r}")
    return dict(found)


def _frame(rows: Iterator[dict[str, Any]]) -> pl.DataFrame:
    """Return rows as a frame whose columns are all that any row has."""
    return pl.from_dicts(list(rows), infer_schema_length=None)


def _drawn(drawers: dict[str, Callable[[], Plot]], name: str) -> Figure:
    if name not in drawers:
        raise UsageError(f"plot: expected one of {', '.join(drawers)}, got {name!r}")
    return Figure(plot=drawers[name]())
