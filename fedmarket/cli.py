"""The command line: words in, library calls, words out. Heavy libraries load only when a command needs them."""

import json
import sys
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import click
import typer
from rich.console import Console

from fedmarket.errors import ContractViolation, FedmarketError, UsageError

if TYPE_CHECKING:
    from fedmarket.config import ExperimentConfig
    from fedmarket.contract.check import Profile
    from fedmarket.simulation.frontier import OnPoint
    from fedmarket.simulation.seed import OnProgress

app = typer.Typer(
    help="Train propensity models together, keep customers' rows at home, and know what privacy cost.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_show_locals=False,
    rich_markup_mode="rich",
)
keys_app = typer.Typer(help="This party's long-term identity.", no_args_is_help=True)
roster_app = typer.Typer(help="Who takes part in secure aggregation.", no_args_is_help=True)
app.add_typer(keys_app, name="keys")
app.add_typer(roster_app, name="roster")
INTERRUPTED = 130
"""Exit code of a command that the user stopped (128 + SIGINT)."""

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


def main() -> None:
    """Run the command line; a foreseen error is one line on stderr and its exit code, never a traceback."""
    try:
        code = app(standalone_mode=False)
    except FedmarketError as error:
        _fail(str(error), error.exit_code)
    except ModuleNotFoundError as error:
        _fail(f"this command needs {error.name}: pip install 'fedmarket[train,flower]'", UsageError.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(error.exit_code)
    except click.ClickException as error:
        _fail(f"{error.format_message()} (see fedmarket --help)", error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        code = INTERRUPTED
    if code == INTERRUPTED:
        _fail("interrupted; nothing was written", INTERRUPTED)
    sys.exit(code or 0)


def _fail(message: str, code: int) -> NoReturn:
    err.print(f"[bold red]error:[/] {_escaped(message)}", soft_wrap=True)
    sys.exit(code)


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    if version:
        from fedmarket import __version__

        out.print(__version__)
        raise typer.Exit
    if context.invoked_subcommand is None:
        out.print(context.get_help())


@app.command()
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
    process. Writes [bold]results.json[/], [bold]report.html[/] and [bold]model.safetensors[/].

    [bold]Examples[/]

      fedmarket simulate experiments/demo/config.toml

      fedmarket simulate experiments/bank-marketing/config.toml --set privacy.epsilon=2 --output runs/bank-2
    """
    from fedmarket.config import load_config
    from fedmarket.report.summary import print_summary
    from fedmarket.simulation.run import simulate as run

    changes = [*(set_ or ()), *([f"output={json.dumps(str(output.resolve()))}"] if output else ())]
    with _progress(load_config(config, changes=tuple(changes))) as on_progress:
        simulation = run(config, changes=tuple(changes), on_progress=on_progress)
    print_summary(simulation.results, out)
    for name in ("report.html", "results.json", "model.safetensors"):
        out.print(f"  {_shown(simulation.folder / name)}", soft_wrap=True)
    if open_:
        _open(simulation.folder / "report.html")


@app.command()
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
        _fail("interrupted; finished points are kept, and the same command goes on with them", INTERRUPTED)
    out.print(headline(found.results), soft_wrap=True)
    for mode in ("distributed", "local", "pooled_dp"):
        out.print(f"  {answer(found.results, mode, 1.0)}", soft_wrap=True)
    for name in ("frontier.html", "frontier.json", "points.jsonl"):
        out.print(f"  {_shown(found.folder / name)}", soft_wrap=True)
    if open_:
        _open(found.folder / "frontier.html")


@app.command()
def check(
    contract: Annotated[Path, typer.Option(help="The contract, a TOML document.")],
    data: Annotated[Path, typer.Option(help="Your table: csv (also .gz) or parquet.")],
) -> None:
    """Hold your own table against a contract; it stays on this machine.

    Lists every broken rule with counts and column names, never a value, and exits with 1; a table that keeps the
    contract gets a short profile of counts.

    [bold]Example[/]

      fedmarket check --contract experiments/bank-marketing/contract.toml --data customers.csv
    """
    from fedmarket.contract.check import check_table
    from fedmarket.contract.schema import load_contract
    from fedmarket.data.tables import read_table
    from fedmarket.data.transactions import customers_of

    agreed = load_contract(contract)
    table = read_table(data)
    try:
        if agreed.transactions is not None:
            table = customers_of(table, agreed.transactions, source=str(data))
        profile = check_table(table, agreed, source=str(data))
    except ContractViolation as violation:
        err.print(f"[bold red]{_escaped(str(data))} breaks {len(violation.broken)} rule(s) of {agreed.name}:[/]")
        for rule in violation.broken:
            err.print(f"  {_escaped(rule)}", soft_wrap=True)
        raise typer.Exit(1) from None
    _print_profile(profile, title=f"{data} keeps contract {agreed.name} ({agreed.hash[:12]})")


@app.command()
def predict(
    model: Annotated[Path, typer.Option(help="A model.safetensors that fedmarket wrote.")],
    contract: Annotated[Path, typer.Option(help="The contract under which it was trained.")],
    data: Annotated[Path, typer.Option(help="Your table; it needs no label column.")],
    output: Annotated[Path, typer.Option(help="Where the scores go: .csv or .parquet.")],
) -> None:
    """Score your own customers with a released model; no row leaves this machine.

    Writes your row number (or customer column) with [bold]response_probability[/].

    [bold]Example[/]

      fedmarket predict --model runs/demo/model.safetensors --contract experiments/demo/contract.toml
      --data customers.csv --output scores.csv
    """
    from fedmarket.contract.schema import load_contract
    from fedmarket.scoring import score_file

    scored = score_file(model, contract=load_contract(contract), data=data, output=output)
    if not scored.private:
        err.print(
            "[bold red]NOT PRIVATE:[/] this model was trained without secret noise; do not release it or its scores"
        )
    out.print(f"{scored.customers} customers scored: {_shown(output)}", soft_wrap=True)


@keys_app.command("new")
def keys_new(
    path: Annotated[Path, typer.Argument(help="Where the private key goes; readable by you alone, never overwritten.")],
) -> None:
    """Make this party's long-term identity and print its public key, for the roster.

    [bold]Example[/]

      fedmarket keys new ~/.config/fedmarket/identity.pem
    """
    from fedmarket.federation.identity import new_identity, save_identity

    identity = new_identity()
    save_identity(identity, path)
    out.print(identity.public_hex)


@roster_app.command("check")
def roster_check(
    path: Annotated[Path, typer.Argument(help="The roster, a TOML document.")],
    identity: Annotated[Path | None, typer.Option(help="Your private key: is it in the roster?")] = None,
) -> None:
    """Hold a roster against the rules, and print who is in it and how many may be lost.

    [bold]Example[/]

      fedmarket roster check roster.toml --identity ~/.config/fedmarket/identity.pem
    """
    from fedmarket.errors import ConfigError
    from fedmarket.federation.identity import load_identity
    from fedmarket.federation.roster import load_roster

    roster = load_roster(path)
    own = roster.index_of_key(load_identity(identity).public_key) if identity else None
    if identity and own is None:
        raise ConfigError(f"{path}: the key in {identity} is not in this roster")
    for place, member in enumerate(roster.members):
        mark = "  (this identity)" if place == own else ""
        out.print(f"{member.public_key.hex()}  {_escaped(member.name)}{mark}", soft_wrap=True)
    spare = len(roster.members) - roster.minimum_survivors
    out.print(
        f"{len(roster.members)} members, threshold {roster.threshold}, at least {roster.minimum_survivors} survivors: "
        f"{spare} may be lost in a round",
        soft_wrap=True,
    )
    out.print(f"hash {roster.hash.hex()}", soft_wrap=True)


@roster_app.command("rehearse")
def roster_rehearse(
    config: Annotated[Path, typer.Argument(help="The experiment whose parties are simulated.")],
    folder: Annotated[Path, typer.Argument(help="Where roster.toml and the private keys go; a folder of their own.")],
) -> None:
    """Make fresh keys and a roster for the simulated parties of an experiment.

    One machine then holds every party's key, which is good for a simulation under Flower's own runtime and for nothing
    else. [bold]fedmarket simulate[/] does not need it: it makes keys of its own for each run.

    [bold]Example[/]

      fedmarket roster rehearse experiments/demo/config.toml runs/flower/roster
    """
    from fedmarket.config import load_config
    from fedmarket.experiment.market import MarketKey, open_market
    from fedmarket.federation.seat import rehearsal_roster

    settings = load_config(config)
    names = open_market(MarketKey(config=config, changes=(), seed=settings.seeds[0])).names
    path = rehearsal_roster(folder, names, minimum_survivors=settings.federation.minimum_survivors)
    out.print(f"{len(names)} simulated parties: {_shown(path)}", soft_wrap=True)


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


def _print_profile(profile: "Profile", *, title: str) -> None:
    from rich.table import Table

    table = Table("column", "missing", "other", title=_escaped(title), title_justify="left", box=None)
    for column in profile.columns:
        table.add_row(_escaped(column.name), str(column.missing), str(column.other))
    out.print(table)
    counts = {"positive": profile.positives, "buyers": profile.buyers, "clipped values": profile.clipped_values}
    told = [f"{count} {name}" for name, count in counts.items() if count is not None]
    out.print(", ".join([f"{profile.rows} rows", *told]))
    if profile.ignored:
        out.print(f"not in the contract and not read: {_escaped(', '.join(profile.ignored))}", soft_wrap=True)


def _shown(path: Path) -> str:
    """Return ``path`` relative to the working folder where it lies below it."""
    path = path.resolve()
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _open(page: Path) -> None:
    try:
        webbrowser.get()
    except webbrowser.Error:
        out.print("no browser here; open the report by hand")
    else:
        webbrowser.open(page.resolve().as_uri())


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)
