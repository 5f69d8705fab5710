"""What the benchmarks share: a run in a process of its own, ratios of interleaved runs, a table, the JSON beside it."""

import json
import math
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np

QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}
"""Environment under which neither Flower nor Ray phones home or installs anything."""


LOOK_SECONDS = 0.25
"""How often CPU time and memory of a measured process are looked at."""


class Failed(Exception):
    """A measured process ended badly; the message is the end of what it said."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One process from its start to its end, in seconds.

    Attributes:
        seconds: all of it.
        cpu: seconds of all cores by it and all its descendants, which another program's load hardly changes.
        peak: most bytes resident in it and its descendants together, as often as was looked.
        marks: what the process itself said of its way (:func:`marked`), in seconds since it was started.
    """

    seconds: float
    cpu: float = 0.0
    peak: int = 0
    marks: dict[str, list[float]] = field(default_factory=dict)

    def until(self, mark: str) -> float:
        """Return the seconds until the first ``mark``."""
        return self.marks[mark][0]

    def between(self, mark: str) -> float:
        """Return the seconds from the first to the last ``mark``."""
        return self.marks[mark][-1] - self.marks[mark][0]


def timed(
    command: Sequence[str],
    *,
    folder: Path | None = None,
    limit: float = 1800.0,
    env: dict[str, str] | None = None,
    may_fail: bool = False,
    most_bytes: float = math.inf,
) -> Run:
    """Run ``command`` and say how long it took; marks are read from ``folder``, where it is given.

    Raises:
        Failed: if it did not end well, unless it ``may_fail``, took longer than ``limit`` seconds, or held more than
            ``most_bytes``.
    """
    marks = folder / "marks.jsonl" if folder else None
    if marks:
        marks.unlink(missing_ok=True)
    environment = os.environ | QUIET | (env or {}) | ({"MARKS": str(marks)} if marks else {})
    start, before = time.time(), _waited_for()
    with TemporaryFile("w+") as said:
        process = subprocess.Popen(list(command), stdout=said, stderr=subprocess.STDOUT, env=environment)
        watch = _Watch(process.pid)
        try:
            while True:
                try:
                    code = process.wait(timeout=LOOK_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    watch.look()
                    if time.time() - start > limit:
                        raise Failed(f"not done after {limit:.0f} s") from None
                    if watch.peak > most_bytes:
                        raise Failed(f"stopped when it held {watch.peak / 1e9:.1f} GB") from None
        finally:
            process.kill()
            process.wait()
        seconds = time.time() - start
        if code and not may_fail:
            said.seek(0)
            raise Failed(f"exit code {code}: {said.read().strip()[-2000:]}")
    found = _marks(marks, start) if marks and marks.is_file() else {}
    cpu = max(watch.cpu, _waited_for() - before)  # the system's count is exact, but not of those whom nobody waited for
    return Run(seconds=seconds, cpu=cpu, peak=watch.peak, marks=found)


def _waited_for() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class _Watch:
    """CPU time and memory of a process and its descendants, of whom each counts what it was last seen with."""

    def __init__(self, pid: int) -> None:
        self.peak = 0
        self._root = pid
        self._cpu: dict[int, float] = {}

    @property
    def cpu(self) -> float:
        return sum(self._cpu.values())

    def look(self) -> None:
        found: dict[int, tuple[int, float, int]] = {}
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError, ValueError, IndexError):
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                cpu = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
                found[int(folder.name)] = int(fields[1]), cpu, int(fields[21]) * os.sysconf("SC_PAGE_SIZE")
        family, new = {self._root}, True
        while new:
            new = {pid for pid, (parent, _, _) in found.items() if parent in family} - family
            family |= new
        family &= set(found)
        self._cpu |= {pid: found[pid][1] for pid in family}
        self.peak = max(self.peak, sum(found[pid][2] for pid in family))


def marked(name: str) -> None:
    """Note that this process has come to ``name`` now; nothing happens where nobody measures."""
    path = os.environ.get("MARKS")
    if path:
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(json.dumps([name, time.time()]) + "\n")


def _marks(path: Path, start: float) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        name, moment = json.loads(line)
        found.setdefault(name, []).append(moment - start)
    return found


def interleaved(sides: dict[str, Callable[[], Run]], repeats: int) -> dict[str, list[Run]]:
    """Return ``repeats`` runs of each side, taken in turns so that what else the machine does meets all alike."""
    runs: dict[str, list[Run]] = {name: [] for name in sides}
    for number in range(repeats):
        for name, run in sides.items():
            runs[name].append(run())
            say(f"run {number + 1} of {repeats}: {name}, {runs[name][-1].seconds:.1f} s")
    return runs


def ratios(slow: Sequence[float], quick: Sequence[float]) -> dict[str, float]:
    """Return how many times ``quick`` goes into ``slow``: median, least and most over the interleaved pairs.

    >>> ratios([10.0, 30.0, 20.0], [1.0, 2.0, 1.0])
    {'median': 15.0, 'least': 10.0, 'most': 20.0}
    """
    each = [one / other for one, other in zip(slow, quick, strict=True)]
    return {"median": statistics.median(each), "least": min(each), "most": max(each)}


def times(found: dict[str, float]) -> str:
    """Return a ratio with its spread, for a table.

    >>> times({"median": 27.34, "least": 25.0, "most": 31.2})
    '27.3x (25.0 to 31.2)'
    """
    digits = 1 if found["median"] >= 1 else 2
    return f"{found['median']:.{digits}f}x ({found['least']:.{digits}f} to {found['most']:.{digits}f})"


def table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a table, the first column to the left and the others to the right.

    >>> print(table(["side", "s"], [["ours", 1.234], ["rival", 20]]))
    side      s
    ours   1.23
    rival    20
    """
    cells = [[_cell(one) for one in row] for row in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = (
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in cells
    )
    return "\n".join(line.rstrip() for line in lines)


def _cell(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def auc(labels: np.ndarray, scores: np.ndarray) -> float:
    """Return the share of pairs of a responder and another that are ranked rightly, ties counted half.

    >>> auc(np.array([0, 1, 0, 1]), np.array([0.1, 0.4, 0.4, 0.8]))
    0.875
    """
    _, place, count = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(count) - (count - 1) / 2)[place]
    positive = np.asarray(labels) > 0
    many = int(positive.sum())
    return float((ranks[positive].sum() - many * (many + 1) / 2) / (many * (len(labels) - many)))


def machine() -> dict[str, Any]:
    """Return what stands beside every figure: cores, processor family and versions, and nothing that names a host."""
    return {"cores": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()}


def write(path: Path, found: dict[str, Any]) -> None:
    """Write what was found as JSON, with the machine."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"machine": machine(), **found}, indent=1) + "\n", encoding="utf-8")


def say(line: str) -> None:
    """Tell on stderr how far it is; the table alone goes to stdout."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
