"""What all commands share: the two consoles, words or JSON, how a stranger's text is shown, and how a command ends.

Standard output has the answer and nothing else: words, or with ``--json`` one document. Progress, warnings and errors
go to standard error. ``docs/reference/json.md`` describes the documents.
"""

import inspect
import json
import math
import signal
import sys
import webbrowser
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import typer
from rich.console import Console
from rich.markup import escape

INTERRUPTED = 130
"""Exit code of a command that the user stopped (128 + SIGINT)."""

TERMINATED = 143
"""Exit code of a command that was told to stop (128 + SIGTERM)."""

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

WRITTEN = "fedmarket-written/1"
"""What a command that wrote files prints for machines."""

Command = TypeVar("Command", bound=Callable[..., Any])

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of words.")]


class Commands(typer.Typer):
    """Commands whose help is folded by the terminal, and not where the docstring is."""

    def command(self, name: str | None = None, **more: Any) -> Callable[[Command], Command]:
        """See :class:`typer.Typer`."""

        def add(function: Command) -> Command:
            return super(Commands, self).command(name, help=_unfolded(function.__doc__ or ""), **more)(function)

        return add


def group(words: str, *, example: str) -> Commands:
    """Return a group of commands, with one of them as an example."""
    return Commands(help=f"{words}\n\n[bold]Example[/]\n\n  {example}", no_args_is_help=True, rich_markup_mode="rich")


def _unfolded(text: str) -> str:
    r"""Return ``text`` with a line for each paragraph; those that are indented, as examples are, stay so.

    >>> _unfolded("Do it\n    well.\n\n      fedmarket do\n      --well")
    'Do it well.\n\n  fedmarket do --well'
    """
    paragraphs = inspect.cleandoc(text).split("\n\n")
    return "\n\n".join("  " * part.startswith(" ") + " ".join(part.split()) for part in paragraphs)


class _Terminated(SystemExit):
    """SIGTERM came; it unwinds everything, as Ctrl-C does."""


def fail(message: str, code: int) -> NoReturn:
    """Say what went wrong on stderr, in one line, and stop with ``code``."""
    err.print(f"[bold red]error:[/] {escape(message)}", soft_wrap=True)
    sys.exit(code)


def warn(message: str) -> None:
    """Say in one line on stderr what a person should know, though the command goes on."""
    err.print(f"[bold yellow]warning:[/] {escape(message)}", soft_wrap=True)


def print_json(document: Mapping[str, Any]) -> None:
    """Print ``document`` on stdout; a number that is not finite is null, as JSON has no other word for it.

    >>> print_json({"epsilon": float("inf")})
    {
     "epsilon": null
    }
    """
    escaped = (sys.stdout.encoding or "").lower().replace("-", "") != "utf8"
    print(json.dumps(_finite(document), ensure_ascii=escaped, indent=1, allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    return [_finite(inner) for inner in value] if isinstance(value, list | tuple) else value


def shown(path: Path) -> str:
    """Return ``path`` relative to the working folder where it lies below it."""
    path = path.resolve()
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def print_files(folder: Path, names: list[str]) -> None:
    """Print where the files are that were written, one a line."""
    for name in names:
        out.print(f"  {escape(shown(folder / name))}", soft_wrap=True)


def changes_of(set_: list[str] | None, output: Path | None) -> tuple[str, ...]:
    """Return the changes to a document that the options ask for, among them the folder of the results."""
    folder = (f"output={json.dumps(str(output.resolve()), ensure_ascii=False)}",) if output else ()
    return (*(set_ or ()), *folder)


def written(command: str, folder: Path, names: list[str], facts: dict[str, Any]) -> dict[str, Any]:
    """Return the document of a command that wrote files: which, and the facts a machine asks for first."""
    files = {name: str((folder / name).resolve()) for name in names}
    return {"format": WRITTEN, "command": command, "files": files, **facts}


@contextmanager
def interruptible(words: str) -> Iterator[None]:
    """End the command with ``words`` and its code when Ctrl-C or SIGTERM stops the block."""

    def terminated(*_: object) -> None:
        raise _Terminated(TERMINATED)

    before = signal.signal(signal.SIGTERM, terminated)
    try:
        yield
    except (KeyboardInterrupt, _Terminated) as stopped:
        fail(f"interrupted; {words}", TERMINATED if isinstance(stopped, _Terminated) else INTERRUPTED)
    finally:
        signal.signal(signal.SIGTERM, before)


def open_page(page: Path) -> None:
    """Show ``page`` in a browser, where there is one."""
    try:
        webbrowser.get()
    except webbrowser.Error:
        err.print("no browser here; open the report by hand")
    else:
        webbrowser.open(page.resolve().as_uri())
