"""Commands for researchers: run an experiment, sweep its epsilons, make its public start."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from fedmarket.cli.console import (
    Json,
    changes_of,
    err,
    interruptible,
    open_page,
    out,
    print_files,
    print_json,
    shown,
    written,
)
from fedmarket.cli.progress import progress, working
from fedmarket.errors import UsageError

GOES_ON = "finished {} are kept, and the same command goes on with them"


def simulate(
    config: Annotated[Path, typer.Argument(help="The experiment, one complete TOML document.")],
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one key for this run; repeatable.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Folder for the results instead of the configured one.")] = None,
    open_: Annotated[bool, typer.Option("--open", help="Show the report in a browser, where there is one.")] = False,
    as_json: Json = False,
) -> None:
    """Run every arm of an experiment and write its report.

    Trains the model federated with privacy, and every baseline beside it, through the same two Flower apps in this
    process. Writes [bold]results.json[/], [bold]report.html[/], [bold]model.safetensors[/], and in [bold]bundle.zip[/]
    the privacy ledgers of its run, for [bold]fedmarket verify[/].

    When it is stopped, by Ctrl-C or otherwise, finished runs stay in the folder [bold]unfinished[/] beside the results,
    and the same command goes on with them, as long as document, rows and version are the same.

    [bold]Examples[/]

      fedmarket simulate experiments/demo/config.toml

      fedmarket simulate experiments/bank-marketing/config.toml --set privacy.epsilon=2 --output runs/bank-2
    """
    from fedmarket.config import load_config
    from fedmarket.simulation.workers import prepare

    changes = changes_of(set_, output)
    document = load_config(config, changes=changes)
    prepare(min(document.workers, len(document.seeds)))  # they import while this process does
    from fedmarket.report.summary import print_summary
    from fedmarket.simulation.results import BUNDLE
    from fedmarket.simulation.run import simulate as run

    seeds = {seed: f"seed {seed}" for seed in document.seeds}
    with interruptible(GOES_ON.format("runs")), progress(*seeds.values()) as tell:
        simulation = run(
            config,
            changes=changes,
            on_progress=lambda seed, doing, share: tell(seeds[seed], doing, share),
            on_note=lambda line: err.print(line, soft_wrap=True),
        )
    results = simulation.results
    files = ["report.html", "results.json", "model.safetensors", *([BUNDLE] if results["ledger"] else [])]
    if as_json:
        print_json(written("simulate", simulation.folder, files, _simulated(results)))
    else:
        print_summary(results, out, bundle=shown(simulation.folder / BUNDLE))
        print_files(simulation.folder, files)
    if open_:
        open_page(simulation.folder / "report.html")


def frontier(
    config: Annotated[Path, typer.Argument(help="The experiment, one complete TOML document.")],
    *,
    epsilons: Annotated[str, typer.Option(help="The epsilons to try, with commas between.")] = "",
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one key for the sweep; repeatable.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Folder for the results instead of the configured one.")] = None,
    open_: Annotated[bool, typer.Option("--open", help="Show the page in a browser, where there is one.")] = False,
    as_json: Json = False,
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

    wanted = _epsilons(epsilons) or EPSILONS
    with interruptible(GOES_ON.format("points")), progress("sweep") as tell:
        found = run(
            config,
            changes=changes_of(set_, output),
            epsilons=wanted,
            on_point=lambda done, all_: tell("sweep", f"{done} of {all_} points", done / all_),
        )
    files = ["frontier.html", "frontier.json", "points.jsonl"]
    if as_json:
        facts = {key: found.results[key] for key in ("name", "metric", "delta", "rows")}
        print_json(written("frontier", found.folder, files, facts))
    else:
        out.print(headline(found.results), soft_wrap=True, markup=False)
        for mode in ("distributed", "local", "pooled_dp"):
            out.print(f"  {answer(found.results, mode, 1.0)}", soft_wrap=True, markup=False)
        print_files(found.folder, files)
    if open_:
        open_page(found.folder / "frontier.html")


def pretrain(
    config: Annotated[Path, typer.Argument(help="The experiment, whose key start names the file to write.")],
    as_json: Json = False,
) -> None:
    """Make the public start of an experiment: parameters learned from imagined customers.

    No row of anybody is read, and it costs no epsilon. Customers are imagined under the contract's own terms, so its
    windows and bounds decide what they look like; the same contract gives the same start.

    [bold]Example[/]

      fedmarket pretrain experiments/ltv-cdnow/config.toml
    """
    from fedmarket.simulation.pretrain import pretrain as run

    with working("learning from imagined customers"):
        path = run(config)
    if as_json:
        print_json(written("pretrain", path.parent, [path.name], {}))
    else:
        out.print(f"public start: {escape(shown(path))}", soft_wrap=True)


def _simulated(results: dict[str, Any]) -> dict[str, Any]:
    """Return what a run is asked for first; all of it is in results.json."""
    from fedmarket.report.words import is_private

    return {
        "name": results["name"],
        "metric": results["metric"],
        "arms": {arm: found["mean"] for arm, found in results["arms"].items()},
        "epsilon": {party: spent["epsilon"] for party, spent in results["privacy"].items()},
        "delta": results["plan"]["delta"],
        "private": is_private(results),
        "bundle_holds": results["ledger"]["good"] if results["ledger"] else None,
    }


def _epsilons(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(",") if part.strip())
    except ValueError:
        raise UsageError(f"--epsilons: expected numbers with commas between, such as 0.5,1,2; got {text!r}") from None
