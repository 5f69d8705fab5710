"""All commands, and how each ends. Heavy libraries load only when a command needs them.

One module for each kind of user: ``experiments`` for researchers, ``tables`` for whoever holds customers,
``identities`` for those who take part, ``party`` for whoever runs a partner's node, ``budget`` for whoever keeps its
ledger, ``audit`` for those who check what was said, ``attack`` for those who doubt it.
"""

import difflib
import io
import sys
from typing import Annotated

import click
import typer

from fedmarket.cli.attack import attack
from fedmarket.cli.audit import export, verify
from fedmarket.cli.budget import budget_app, ledger_app
from fedmarket.cli.console import INTERRUPTED, TERMINATED, Commands, fail, interruptible, out
from fedmarket.cli.experiments import frontier, pretrain, simulate
from fedmarket.cli.identities import keys_app, roster_app
from fedmarket.cli.party import party_app
from fedmarket.cli.server import server_app
from fedmarket.cli.tables import check, predict
from fedmarket.errors import FedmarketError, UsageError

NOTHING_HALF = "no file is left half written; the same command starts afresh"

EXIT_CODES = {
    0: "done; of verify: everything holds",
    1: "a finding (verify: something does not hold; attack: the epsilon is refuted; check, preflight: "
    "a rule is broken; budget plan: the cap forbids the run), or data, a peer or a bundle that cannot be used",
    2: "usage: an option, a document, a file name or a privacy plan is off, or a library is missing",
    INTERRUPTED: "stopped by Ctrl-C",
    TERMINATED: "stopped by SIGTERM",
}
"""What each exit code says, whatever the command."""

app = Commands(
    help="Train propensity and lifetime-value models together, keep customers' rows at home, and know what privacy "
    "cost.\n\n[bold]Example[/]\n\n  fedmarket simulate experiments/demo/config.toml",
    epilog="[bold]Exit codes[/]\n\n" + "\n\n".join(f"{code}: {words}." for code, words in EXIT_CODES.items()),
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_show_locals=False,
    rich_markup_mode="rich",
)
for command in (simulate, frontier, attack, pretrain, check, predict, verify, export):
    app.command()(command)
app.add_typer(keys_app, name="keys")
app.add_typer(roster_app, name="roster")
app.add_typer(budget_app, name="budget")
app.add_typer(ledger_app, name="ledger")
app.add_typer(server_app, name="server")
app.add_typer(party_app, name="party")


def main() -> None:
    """Run the command line; a foreseen error is one line on stderr and its exit code, never a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that is not of UTF-8 shows escapes, and nothing crashes
            stream.reconfigure(errors="backslashreplace")
    with interruptible(NOTHING_HALF):
        sys.exit(_ran() or 0)


def _ran() -> int | None:
    try:
        code: int | None = app(standalone_mode=False)
    except FedmarketError as error:
        fail(str(error), error.exit_code)
    except ModuleNotFoundError as error:
        fail(f"this command needs {error.name}: pip install 'fedmarket[train,flower]'", UsageError.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(error.exit_code)
    except click.ClickException as error:
        fail(f"{_message(error)} (see {_help_for(error)})", error.exit_code)
    except click.Abort:
        code = INTERRUPTED
    if code == INTERRUPTED:  # Typer makes it of KeyboardInterrupt
        raise KeyboardInterrupt
    return code


def _message(error: click.ClickException) -> str:
    """Return what was wrong; an option that a document may have as a key is told how to give it."""
    if not isinstance(error, click.NoSuchOption):
        return error.format_message()
    options = [name for option in error.ctx.command.params for name in option.opts] if error.ctx else []
    near = difflib.get_close_matches(error.option_name, options, n=1, cutoff=0.7)
    hint = f" Did you mean {near[0]}?" if near else " A key of the document is --set KEY=VALUE." * ("--set" in options)
    return f"No such option: {error.option_name}.{hint}"


def _help_for(error: click.ClickException) -> str:
    """Return the words that show the help of the command that was wrong."""
    context = error.ctx if isinstance(error, click.UsageError) else None
    return f"{context.command_path if context else 'fedmarket'} --help"


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
