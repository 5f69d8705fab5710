"""How far long work is: bars with the time left on a terminal, and a plain line now and then elsewhere."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fedmarket.cli.console import err

LINES = 4
"""Lines for each task where nobody looks on, after the first: one a quarter."""

OnShare = Callable[[str, str, float], None]
"""Told the task, what of it is being done, and which share of it is behind."""


def on_terminal() -> bool:
    """Return whether somebody looks on; a file with colours forced upon it has no use for bars."""
    return sys.stderr.isatty() and not err.is_dumb_terminal


@contextmanager
def progress(*tasks: str) -> Iterator[OnShare]:
    """Give a callback that shows how far each task is; ``tasks`` are shown before they have begun."""
    if not on_terminal():
        yield _lines()
        return
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.fields[name]}", markup=False), BarColumn(), TaskProgressColumn())
    doing_now = TextColumn("{task.description}", markup=False)
    with Progress(*columns, TimeRemainingColumn(), doing_now, console=err, transient=True) as shown:
        bars = {task: shown.add_task("waiting", total=1.0, name=task) for task in tasks}

        def tell(task: str, doing: str, share: float) -> None:
            if task not in bars:
                bars[task] = shown.add_task("", total=1.0, name=task)
            shown.update(bars[task], description=doing, completed=share)

        yield tell


@contextmanager
def working(doing: str) -> Iterator[None]:
    """Say on a terminal that ``doing`` goes on, where nothing tells how long it takes."""
    if not on_terminal():
        yield
        return
    with err.status(doing):
        yield


def _lines() -> OnShare:
    """Return what says each quarter of each task once, with the time left as the time so far has it."""
    said: dict[str, int] = {}
    begun: dict[str, tuple[float, float]] = {}

    def tell(task: str, doing: str, share: float) -> None:
        began, before = begun.setdefault(task, (time.monotonic(), share))
        quarter = int(LINES * share)
        if said.get(task, -1) >= quarter:
            return
        said[task] = quarter
        took, done = time.monotonic() - began, share - before
        left = f", about {_duration(took / done * (1 - share))} left" if done > 0 and share < 1 else ""
        err.print(f"{task}: {share:4.0%} {doing}".rstrip() + left, markup=False, soft_wrap=True)

    return tell


def _duration(seconds: float) -> str:
    """Return a time in words that is no more exact than a guess may be.

    >>> [_duration(seconds) for seconds in (7, 100, 8000)]
    ['7 s', '2 min', '2.2 h']
    """
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"
