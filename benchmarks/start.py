"""How long one waits before anything happens: ``python benchmarks/start.py``, medians of interleaved fresh processes.

``fedmarket --help``; ``fedmarket simulate`` up to the end of its first round (the sum of features that centres the
rows) on the demo and on the bank experiment, with one seed and as they stand; beside ``python -c pass`` and the import
of torch and of Flower's server, so that a ratio says the same on every machine. Then what ``--help`` and ``simulate``
import, by ``python -X importtime``: the dearest packages, and the time of each with what it is the first to bring.
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parent)]

from measuring import QUIET, Run, interleaved, ratios, table, timed, times, write

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
TORCH = "python -c 'import torch'"
EXPERIMENTS = {"demo": "experiments/demo/config.toml", "bank": "experiments/bank-marketing/config.toml"}
LINE = re.compile(r"import time:\s+(\d+) \|\s+(\d+) \|( +)(\S+)")

# A spawned worker imports its parent's main module again, so that workers are watched too.
COLD = """
import os, signal, sys
sys.path.insert(0, {folder!r})
from measuring import marked
import fedmarket.flower.inprocess as inprocess
plain, calls = inprocess.InProcessGrid.send_and_receive, []
def watched(self, messages, **more):
    replies = plain(self, messages, **more)
    calls.append(1)
    if len(calls) == {exchanges}:
        marked("first round")
        os._exit(0)
    return replies
inprocess.InProcessGrid.send_and_receive = watched
if __name__ == "__main__":
    from fedmarket.cli.main import main
    sys.argv = ["fedmarket", "simulate", {config!r}, *{more!r}]
    main()
"""
EXCHANGES = 2
"""The invitation, and the first arm's first round."""


def cold(config: Path, folder: Path, more: tuple[str, ...] = ()) -> Run:
    """Return ``fedmarket simulate`` until its first round is over."""
    script = folder / "cold.py"
    script.write_text(
        COLD.format(folder=str(Path(__file__).parent), exchanges=EXCHANGES, config=str(config), more=more),
        encoding="utf-8",
    )
    # With several seeds a worker ends itself and the parent fails for want of it: the mark is what counts.
    run = timed([sys.executable, str(script)], folder=folder, may_fail=True)
    return Run(seconds=run.until("first round"), cpu=run.cpu, marks=run.marks)


def sides(folder: Path) -> dict[str, Callable[[], Run]]:
    """Return what is run in turns."""
    found: dict[str, Callable[[], Run]] = {
        "python -c pass": partial(timed, [sys.executable, "-c", "pass"]),
        TORCH: partial(timed, [sys.executable, "-c", "import torch"]),
        "python -c 'import flwr.serverapp'": partial(timed, [sys.executable, "-c", "import flwr.serverapp"]),
        "fedmarket --help": partial(timed, [str(BIN / "fedmarket"), "--help"]),
    }
    for name, config in EXPERIMENTS.items():
        path = ROOT / config
        found[f"simulate {name}, one seed"] = partial(cold, path, folder, ("--set", "seeds=[0]"))
        found[f"simulate {name}, as it stands"] = partial(cold, path, folder)
    return found


def imports(code: str) -> list[tuple[str, float, float]]:
    """Return each top-level package that ``code`` imports, with its own milliseconds and those with what it brings."""
    command = [sys.executable, "-X", "importtime", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | QUIET)
    return packages(done.stderr)


def packages(said: str) -> list[tuple[str, float, float]]:
    """Return (package, own ms, ms with what it brings) of ``-X importtime`` output, dearest first.

    Own time is of all its modules. What it brings is counted once: where a package is first met from another one.

    >>> packages('''import time:       100 |        100 |   scipy.special
    ... import time:       300 |        400 | fedmarket.x''')
    [('fedmarket', 0.3, 0.4), ('scipy', 0.1, 0.1)]
    """
    own: dict[str, float] = {}
    whole: dict[str, float] = {}
    above: list[str] = []  # packages of the modules that the line is inside of; read backwards, parents come first
    for line in reversed(said.splitlines()):
        match = LINE.match(line)
        if not match:
            continue
        alone, together, indent, module = int(match[1]), int(match[2]), len(match[3]), match[4]
        package = module.split(".")[0]
        del above[(indent - 1) // 2 :]
        own[package] = own.get(package, 0.0) + alone / 1000
        if package not in above:
            whole[package] = whole.get(package, 0.0) + together / 1000
        above.append(package)
    return sorted(((name, own[name], whole[name]) for name in own), key=lambda one: -one[2])


def shown(runs: dict[str, list[Run]]) -> str:
    """Return the table of waiting."""
    rows = []
    for name, own in runs.items():
        seconds = [run.seconds for run in own]
        ratio = times(ratios(seconds, [run.seconds for run in runs[TORCH]]))
        cpu = [run.cpu for run in own]
        of_cpu = times(ratios(cpu, [run.cpu for run in runs[TORCH]]))
        rows.append(
            [name, statistics.median(seconds), min(seconds), max(seconds), ratio, statistics.median(cpu), of_cpu]
        )
    return table(("what", "median s", "least", "most", "of importing torch", "CPU s", "of importing torch"), rows)


def main() -> None:
    """Run what the options choose."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--repeats", type=int, default=5)
    options.add_argument("--only", default="", help="only what has this in its name, and the import of torch")
    options.add_argument("--output", type=Path, default=Path("runs/benchmark-start.json"))
    chosen = options.parse_args()
    with TemporaryDirectory() as folder:
        chosen_sides = {
            name: side for name, side in sides(Path(folder)).items() if chosen.only in name or name == TORCH
        }
        runs = interleaved(chosen_sides, chosen.repeats)
    print(shown(runs))
    dearest: dict[str, Any] = {}
    for name, code in {
        "fedmarket --help": "import fedmarket.cli.main",
        "fedmarket simulate": "import fedmarket.cli.main, fedmarket.simulation.run, fedmarket.report.summary",
    }.items():
        dearest[name] = imports(code)
        print(f"\nwhat {name} imports", table(("package", "own ms", "ms in all"), dearest[name][:14]), sep="\n")
    each = {name: [[run.seconds, run.cpu] for run in own] for name, own in runs.items()}
    write(chosen.output, {"seconds_and_cpu": each, "load": os.getloadavg()[0], "imports": dearest})


if __name__ == "__main__":
    main()
