"""What all commands share: the two consoles, how a path or a stranger's text is shown, and how a command ends."""

import sys
import webbrowser
from pathlib import Path
from typing import NoReturn

from rich.console import Console
from rich.markup import escape

INTERRUPTED = 130
"""Exit code of a command that the user stopped (128 + SIGINT)."""

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)


def fail(message: str, code: int) -> NoReturn:
    """Say what went wrong on stderr, in one line, and stop with ``code``."""
    err.print(f"[bold red]error:[/] {escape(message)}", soft_wrap=True)
    sys.exit(code)


def shown(path: Path) -> str:
    """Return ``path`` relative to the working folder where it lies below it."""
    path = path.resolve()
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def open_page(page: Path) -> None:
    """Show ``page`` in a browser, where there is one."""
    try:
        webbrowser.get()
    except webbrowser.Error:
        out.print("no browser here; open the report by hand")
    else:
        webbrowser.open(page.resolve().as_uri())
