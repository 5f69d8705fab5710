"""Commands for the operator: make the server's folder, start and stop its processes, run a federation on them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from fedmarket.cli.console import Json, err, group, interruptible, out, print_files, print_json, shown, warn
from fedmarket.cli.progress import on_terminal
from fedmarket.errors import UsageError

if TYPE_CHECKING:
    from fedmarket.operator.follow import OnProgress
    from fedmarket.operator.settings import Home
    from fedmarket.operator.superlink import Admitted, Started

server_app = group(
    "The operator's side between organisations.", example="fedmarket server start ~/fedmarket-server/server.toml"
)

SERVER_MADE, PROCESSES, RUN = "fedmarket-server-made/1", "fedmarket-server-processes/1", "fedmarket-server-run/1"

Settings = Annotated[Path, typer.Argument(help="server.toml, as fedmarket server init made it.")]


@server_app.command("init")
def server_init(
    folder: Annotated[Path, typer.Argument(help="A folder of its own; nothing in it is overwritten.")],
    *,
    host: Annotated[list[str], typer.Option(help="Name or address under which partners reach the server; repeatable.")],
    node: Annotated[
        list[str] | None, typer.Option(help="Make a SuperNode's key pair here, for a test consortium; repeatable.")
    ] = None,
    log_name: Annotated[str, typer.Option(help="Name of the log; by default the first host's, and /log.")] = "",
    app: Annotated[Path, typer.Option(help="The checkout whose two apps are shipped.")] = Path(),
    port: Annotated[int, typer.Option(help="Of the SuperLink, on loopback only.")] = 9443,
    fleet_port: Annotated[int, typer.Option(help="Of the proxy, for partners.")] = 8443,
    as_json: Json = False,
) -> None:
    """Make the server's settings, the log's identity, and a test consortium's certificates.

    Between organisations, replace what is in [bold]tls[/] by certificates of your own authority, and let each partner
    make the key of its SuperNode: only the public half comes to [bold]nodes[/].

    [bold]Example[/]

      fedmarket server init ~/fedmarket-server --host federation.example.org
    """
    from fedmarket.operator.making import log_key_of, make_home
    from fedmarket.operator.settings import SETTINGS_FILE

    home = make_home(
        folder,
        hosts=host,
        nodes=node or [],
        log_name=log_name or f"{host[0]}/log",
        app=app,
        port=port,
        fleet_port=fleet_port,
    )
    if not home.has_app:
        warn(
            f"{home.app} is no checkout of the release, and runs ship its apps from there; before the first run set "
            f"app in {shown(folder / SETTINGS_FILE)}"
        )
    if as_json:
        keys = {"log_key": log_key_of(home), "superlink": f"{host[0]}:{fleet_port}"}
        files = {"settings": str(folder / SETTINGS_FILE), "root_certificates": str(home.ca), "nodes": str(home.nodes)}
        print_json({"format": SERVER_MADE, **files, **keys})
        return
    _print("settings", shown(folder / SETTINGS_FILE))
    _print("to every partner", f"{shown(home.ca)}, the certificate its SuperNode trusts (--root-certificates)")
    _print("to every partner", f"{host[0]}:{fleet_port}, where its SuperNode connects (--superlink)")
    _print("to partners and auditors", f"the log's key {log_key_of(home)}")
    for name in node or []:
        _print(
            f"to {name} alone", f"{shown(home.nodes / name)}.key (--auth-supernode-private-key), then delete it here"
        )
    if not node:
        _print("from every partner", f"the public key of its SuperNode, as {shown(home.nodes)}/NAME.pub")
    _print("never leaves", f"the rest of {shown(folder)}")


@server_app.command("start")
def server_start(
    settings: Settings,
    print_: Annotated[bool, typer.Option("--print", help="Only print what would be started, for systemd.")] = False,
    as_json: Json = False,
) -> None:
    """Start the SuperLink and the SuperExec, detached from this terminal.

    They listen on loopback: partners come through the TLS proxy, which lets nothing but the fleet interface through.
    Then it says who may connect: each SuperNode's name, and its key's fingerprint as [bold]ssh-keygen -l[/] has it.

    [bold]Example[/]

      fedmarket server start ~/fedmarket-server/server.toml
    """
    from fedmarket.operator.superlink import shell_lines, start

    home = _home(settings)
    if print_:
        for line in shell_lines(home):
            out.print(escape(line), soft_wrap=True)
        return
    started, admitted = start(home)
    if as_json:
        print_json({"format": PROCESSES, "started": _listed(started), "admitted": _listed(admitted)})
        return
    for one in started:
        out.print(f"{one.name} {one.pid}")
    _tell_admitted(admitted)


@server_app.command("stop")
def server_stop(settings: Settings, as_json: Json = False) -> None:
    """Stop what [bold]fedmarket server start[/] started; a run goes on when it is started and run again.

    [bold]Example[/]

      fedmarket server stop ~/fedmarket-server/server.toml
    """
    from fedmarket.operator.superlink import stop

    stopped = stop(_home(settings))
    if as_json:
        print_json({"format": PROCESSES, "stopped": _listed(stopped)})
        return
    for one in stopped:
        out.print(f"stopped {one.name} {one.pid}")


@server_app.command("admit")
def server_admit(settings: Settings, as_json: Json = False) -> None:
    """Let the SuperNodes connect whose public keys have come to the folder [bold]nodes[/], and say who may.

    Each has a line with its key's fingerprint: its partner sees the same with [bold]ssh-keygen -l -f[/] of its own.

    [bold]Example[/]

      fedmarket server admit ~/fedmarket-server/server.toml
    """
    from fedmarket.operator.superlink import admit

    admitted = admit(_home(settings))
    if as_json:
        print_json({"format": PROCESSES, "admitted": _listed(admitted)})
    else:
        _tell_admitted(admitted)


@server_app.command("run")
def server_run(
    settings: Settings,
    config: Annotated[Path | None, typer.Argument(help="The experiment, one complete TOML document.")] = None,
    *,
    roster: Annotated[Path | None, typer.Option(help="Who takes part.")] = None,
    output: Annotated[Path | None, typer.Option(help="Folder for model, bundle, outcome and state.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Change one key; every partner must hold the same change. Repeatable."
        ),
    ] = None,
    follow_: Annotated[int | None, typer.Option("--follow", metavar="RUN", help="Attach to a run again.")] = None,
    as_json: Json = False,
) -> None:
    """Run a federation, and follow it to its model.

    The run goes on when this terminal is closed; [bold]--follow[/] attaches again. After a fault the same command goes
    on with the same run, after the last round that was closed.

    [bold]Examples[/]

      fedmarket server run ~/fedmarket-server/server.toml config.toml --roster roster.toml --output runs/first

      fedmarket server run ~/fedmarket-server/server.toml --follow 4711
    """
    from fedmarket.operator.follow import BUNDLE, MODEL, OUTCOME, follow, found_run, start_run

    home = _home(settings)
    if follow_ is not None:
        run = found_run(home, follow_)
    elif config and roster and output:
        run = start_run(home, config, roster=roster, output=output, changes=tuple(set_ or ()))
        err.print(f"run {run.number}")
    else:
        raise UsageError("expected CONFIG, --roster and --output, or --follow RUN")
    goes_on = f"the run goes on, and --follow {run.number} attaches again"
    with interruptible(goes_on), _progress() as on_progress:
        follow(home, run, on_progress=on_progress)
    files = [name for name in (MODEL, BUNDLE, OUTCOME) if (run.output / name).exists()]
    if as_json:
        places = {name: str((run.output / name).resolve()) for name in files}
        print_json({"format": RUN, "run": run.number, "files": places})
    else:
        print_files(run.output, files)


@contextmanager
def _progress() -> "Iterator[OnProgress]":
    """Give a callback that shows a bar on a terminal, and elsewhere a line for each round."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    if not on_terminal():
        yield _progress_lines()
        return
    columns = (TextColumn("rounds"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.description}"), console=err, transient=True) as progress:
        bar = progress.add_task("waiting", total=None)
        yield lambda told: progress.update(
            bar, description=escape(_words(told)), completed=told["round"], total=told["rounds"]
        )


def _progress_lines() -> "OnProgress":
    said: list[object] = []

    def tell(told: dict[str, Any]) -> None:
        words = _words(told)
        mark: object = (told["round"], told["void_rounds"])
        line = f"round {told['round']} of {told['rounds']}: {words}"
        if _waits(told):
            mark = line = words
        if mark not in said:
            said.append(mark)
            err.print(escape(line), soft_wrap=True)

    return tell


def _tell_admitted(admitted: "list[Admitted]") -> None:
    for one in admitted:
        _print("admitted", f"{one.name} {one.fingerprint}{'  (new)' if one.new else ''}")
    if not admitted:
        _print("admitted", "nobody yet; put each SuperNode's public key to nodes/NAME.pub, then fedmarket server admit")


def _words(told: dict[str, Any]) -> str:
    if _waits(told):
        return str(told["doing"])
    parts = [f"{told['phase']} {told['doing']}".strip(), f"{len(told['parties'])} parties"]
    parts += [f"{told['void_rounds']} void"] * bool(told["void_rounds"])
    parts += [f"{told['rejections']} rejections, last {told['last_rejection']}"] * bool(told["rejections"])
    return ", ".join(parts)


def _waits(told: dict[str, Any]) -> bool:
    """Whether the run waits for somebody to come; then what it does says for whom."""
    return str(told["doing"]).startswith("waiting ")


def _listed(found: "list[Admitted] | list[Started]") -> list[dict[str, Any]]:
    return [asdict(one) for one in found]


def _home(settings: Path) -> "Home":
    from fedmarket.operator.settings import load_home

    return load_home(settings)


def _print(what: str, value: str) -> None:
    out.print(f"{escape(what)}: {escape(value)}", soft_wrap=True)
