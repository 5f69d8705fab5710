"""The command for whoever doubts a claim: attack an experiment's own run."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from fedmarket.cli.console import Json, changes_of, err, out, print_files, print_json, written
from fedmarket.cli.progress import progress

REFUTED = 1
"""Exit code of a gate that is red."""


def attack(
    config: Annotated[Path, typer.Argument(help="The experiment, one complete TOML document.")],
    *,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one key for this run; repeatable.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Folder for the results instead of the configured one.")] = None,
    runs: Annotated[int, typer.Option(min=64, help="Runs of the whole federation, with and without privacy.")] = 64,
    party: Annotated[str | None, typer.Option(help="Whose customers; by default the smallest party's.")] = None,
    column: Annotated[str | None, typer.Option(help="Whose cells are guessed; by default the first of words.")] = None,
    as_json: Json = False,
) -> None:
    """Attack an experiment: can its epsilon be refuted, and what does an attacker gain with and without privacy?

    Audits the released arm with canaries in a twin run, and tries membership inference on whole federations that are
    run again in memory. Nothing is released and no ledger is touched. Writes [bold]risk.json[/] and
    [bold]risk.html[/], and shows what was attained in the report of [bold]fedmarket simulate[/], where that is in the
    same folder. Ends with 1 if the claimed epsilon is refuted.

    [bold]Examples[/]

      fedmarket attack experiments/demo/config.toml

      fedmarket attack experiments/bank-marketing/config.toml --party student --set privacy.epsilon=4
    """
    from fedmarket.config import load_config
    from fedmarket.simulation.workers import prepare

    changes = changes_of(set_, output)
    prepare(load_config(config, changes=changes).workers)
    from fedmarket.report.risk import headline
    from fedmarket.simulation.attack import attack as run

    with progress() as tell:
        found = run(
            config,
            changes=changes,
            runs=runs,
            watched=party,
            column=column,
            on_attack=lambda doing, share: tell(doing, "", share),
        )
    files = ["risk.html", "risk.json"]
    if as_json:
        facts = {key: found.results[key] for key in ("name", "epsilon", "delta", "gate")}
        print_json(written("attack", found.folder, files, facts))
    else:
        out.print(headline(found.results), soft_wrap=True, markup=False)
        for reading in found.results["gate"]["readings"]:
            out.print(f"  {reading['words']}", soft_wrap=True, markup=False)
        print_files(found.folder, files)
    if found.unfit:
        err.print(f"[bold]report.html[/] does not show it: {escape(found.unfit)}", soft_wrap=True)
    if found.red:
        raise typer.Exit(REFUTED)
