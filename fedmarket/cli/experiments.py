"""Commands for researchers: run an experiment, sweep its epsilons, make its public start."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedmarket.cli.console import INTERRUPTED, err, fail, open_page, out, shown
from fedmarket.errors import UsageError

if TYPE_CHECKING:
    from fedmarket.config import ExperimentConfig
    from fedmarket.simulation.frontier import OnPoint
    from fedmarket.simulation.seed import OnProgress


def simulate(
    config: Annotated[Path, typer.Argument(help="The experiment, one complete TOML document.")],
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one key for this run; repeatable.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Folder for the results instead of the configured one.")] = None,
    open_: Annotated[bool, typer.Option("--open", help="Show the report in a browser, where there is one.")] = False,
) -> None:
    """Run every arm of an experiment and write its report.

    Trains the model federated with privacy, and every baseline beside it, through the same two Flower apps in this
    process. Writes [bold]results.json[/], [bold]report.html[/], [bold]model.safetensors[/], and in [bold]bundle.zip[/]
    the privacy ledgers of its run, for [bold]fedmarket verify[/].

    [bold]Examples[/]

      fedmarket simulate experiments/demo/config.toml

      fedmarket simulate experiments/bank-marketing/config.toml --set privacy.epsilon=2 --output runs/bank-2
    """
    from fedmarket.config import load_config
    from fedmarket.simulation.workers import prepare

    changes = [*(set_ or ()), *([f"output={json.dumps(str(output.resolve()))}"] if output else ())]
    document = load_config(config, changes=tuple(changes))
    prepare(min(document.workers, len(document.seeds)))  # they import while this process does
    from fedmarket.report.summary import print_summary
    from fedmarket.simulation.results import BUNDLE
    from fedmarket.simulation.run import simulate as run

    with _progress(document) as on_progress:
        simulation = run(config, changes=tuple(changes), on_progress=on_progress)
    print_summary(simulation.results, out)
    for name in (
        "report.html",
        "results.json",
        "model.safetensors",
        *([BUNDLE] if simulation.results["ledger"] else []),
    ):
        out.print(f"  {shown(simulation.folder / name)}", soft_wrap=True)
    if open_:
        open_page(simulation.folder / "report.html")


def frontier(
    config: Annotated[Path, typer.Argument(help="The experiment, one complete TOML document.")],
    epsilons: Annotated[str, typer.Option(help="The epsilons to try, with commas between.")] = "",
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one key for the sweep; repeatable.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Folder for the results instead of the configured one.")] = None,
    open_: Annotated[bool, typer.Option("--open", help="Show the page in a browser, where there is one.")] = False,
) -> None:
    """Show what each epsilon costs: noise shared between parties, at each party, and with all rows in one place.

    Runs every seed of the experiment at every epsilon. A sweep that was stopped goes on where it ended. Writes
    [bold]frontier.json[/], [bold]frontier.html[/] and [bold]points.jsonl[/].

    [bold]Examples[/]

      fedmarket frontier experiments/accuracy-frontier/bank-additional.toml

      fedmarket frontier experiments/demo/config.toml --epsilons 0.5,1,2 --output runs/demo-frontier
    """
    from fedmarket.report.frontier import answer, headline
    from fedmarket.simulation.frontier import EPSILONS
    from fedmarket.simulation.frontier import frontier as run

    changes = [*(set_ or ()), *([f"output={json.dumps(str(output.resolve()))}"] if output else ())]
    wanted = _epsilons(epsilons) or EPSILONS
    try:
        with _points_progress() as on_point:
            found = run(config, changes=tuple(changes), epsilons=wanted, on_point=on_point)
    except KeyboardInterrupt:
        fail("interrupted; finished points are kept, and the same command goes on with them", INTERRUPTED)
    out.print(headline(found.results), soft_wrap=True)
    for mode in ("distributed", "local", "pooled_dp"):
        out.print(f"  {answer(found.results, mode, 1.0)}", soft_wrap=True)
    for name in ("frontier.html", "frontier.json", "points.jsonl"):
        out.print(f"  {shown(found.folder / name)}", soft_wrap=True)
    if open_:
        open_page(found.folder / "frontier.html")


def pretrain(
    config: Annotated[Path, typer.Argument(help="The experiment, whose key start names the file to write.")],
) -> None:
    """Make the public start of an experiment: parameters learned from imagined customers.

    No row of anybody is read, and it costs no epsilon. Customers are imagined under the contract's own terms, so its
    windows and bounds decide what they look like; the same contract gives the same start.

    [bold]Example[/]

      fedmarket pretrain experiments/ltv-cdnow/config.toml
    """
    from fedmarket.simulation.pretrain import pretrain as run

    out.print(f"public start: {shown(run(config))}", soft_wrap=True)


@contextmanager
def _progress(config: "ExperimentConfig") -> "Iterator[OnProgress]":
    """Give a callback that shows a bar for each seed on a terminal, and a line for each finished one elsewhere."""
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    if not err.is_terminal:
        yield _progress_lines()
        return
    columns = (TextColumn("seed {task.fields[seed]}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.description}"), console=err, transient=True) as progress:
        bars = {seed: progress.add_task("waiting", total=1.0, seed=seed) for seed in config.seeds}
        yield lambda seed, doing, share: progress.update(bars[seed], description=doing, completed=share)


@contextmanager
def _points_progress() -> "Iterator[OnPoint]":
    """Give a callback that shows one bar on a terminal, and a line now and then elsewhere."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    if not err.is_terminal:
        yield lambda done, all_: err.print(f"{done} of {all_} points") if done % 10 == 0 or done == all_ else None
        return
    columns = (TextColumn("points"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True) as progress:
        bar = progress.add_task("points")
        yield lambda done, all_: progress.update(bar, completed=done, total=all_)


def _epsilons(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise UsageError(f"--epsilons: expected numbers with commas between, got {text!r}") from None


def _progress_lines() -> "OnProgress":
    said: dict[int, int] = {}

    def tell(seed: int, doing: str, share: float) -> None:
        quarter = int(share * 4)
        if said.get(seed, -1) < quarter:
            said[seed] = quarter
            err.print(f"seed {seed}: {share:4.0%} {doing}")

    return tell
