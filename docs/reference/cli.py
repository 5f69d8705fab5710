"""Write ``cli.md``, the reference of every command, from the commands themselves; ``make docs`` runs it."""

import re
from collections.abc import Iterator
from pathlib import Path

import click
from rich.text import Text
from typer.main import get_command, get_params_from_function

from fedmarket.cli.console import INTERRUPTED
from fedmarket.cli.main import app
from fedmarket.errors import FedmarketError, UsageError

PAGE = Path(__file__).with_name("cli.md")

OPENING = f"""\
# Commands

Made from what the commands say of themselves with `--help`.

| a command ends with | when |
|---|---|
| 0 | it is done, and everything that was asked for holds |
| {FedmarketError.exit_code} | data, federation or a party's refusal are in the way, or a check does not hold |
| {UsageError.exit_code} | the words are off: a command, an option, a key of a document, a file that is not there |
| {INTERRUPTED} | it was interrupted |

An error is one line on standard error: [every one with its remedy](errors.md). Whatever a command ends with beyond that
is said with it."""


def page() -> str:
    """Return the whole page."""
    parts = [OPENING]
    for name, command in commands(get_command(app)):
        parts += section(name, command)
    return "\n\n".join(parts) + "\n"


def commands(command: click.Command, name: str = "fedmarket") -> Iterator[tuple[str, click.Command]]:
    """Yield every command that does something, with the words by which it is called."""
    if not isinstance(command, click.Group):
        yield name, command
        return
    for word, inner in command.commands.items():
        yield from commands(inner, f"{name} {word}")


def section(name: str, command: click.Command) -> Iterator[str]:
    """Yield the paragraphs of one command: how it is called, what it says, and what its words mean."""
    yield f"## {name}"
    arguments = [one.make_metavar(click.Context(command)) for one in command.params if isinstance(one, click.Argument)]
    options = ["[OPTIONS]"] * (len(arguments) < len(command.params))
    yield fenced([" ".join([name, *options, *arguments])])
    block: list[str] = []
    for paragraph in [*re.split(r"\n\s*\n", (command.help or "").strip()), ""]:
        if paragraph.startswith("  "):
            block.append(" \\\n    ".join(plain(line.strip()) for line in paragraph.splitlines()))
            continue
        if block:
            yield fenced(block, "sh")
            block = []
        if paragraph:
            yield marked(" ".join(paragraph.split()))
    if command.params:
        yield "\n".join(["| word | meaning |", "|---|---|", *rows(command)])


def rows(command: click.Command) -> Iterator[str]:
    """Yield a line of the table for each argument and option, in the order of the command line's help."""
    said = get_params_from_function(command.callback) if command.callback else {}
    for one in sorted(command.params, key=lambda param: isinstance(param, click.Option)):
        if isinstance(one, click.Option):
            kind = "" if one.is_flag else f" {one.make_metavar(click.Context(command))}"
            words = f"`{', '.join([*one.opts, *one.secondary_opts])}{kind}`"
        else:
            words = f"`{one.make_metavar(click.Context(command))}`"
        shown = one.default not in (None, False, "", ()) and not callable(one.default)
        default = f" Default: `{one.default}`." if shown and "Default" not in str(one.default) else ""
        yield f"| {words} | {marked(said[one.name or ''].default.help or '')}{default} |".replace("||", r"\|\|")


def fenced(lines: list[str], language: str = "") -> str:
    """Return a code block."""
    return "\n".join([f"```{language}", *lines, "```"])


def marked(text: str) -> str:
    """Return Rich's markup as Markdown: names in bold type become code, titles stay bold."""
    alone = re.fullmatch(r"\[bold\]([^\[]*)\[/\w*\]", text)
    if alone:
        return f"**{alone[1]}**"
    return plain(re.sub(r"\[bold\](.*?)\[/\w*\]", r"`\1`", text)).replace("<", r"\<")


def plain(text: str) -> str:
    """Return ``text`` without Rich's markup."""
    return Text.from_markup(text).plain


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
