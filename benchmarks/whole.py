"""A whole training run beside rivals: ``python benchmarks/whole.py``, ours and each rival in turn, in fresh processes.

``--against flower``: the bank task, 12 parties, 30 rounds, noise at each party, ten gradient steps a party and
round, as Flower's simulation runtime (Ray) and Opacus run it. ``--against pfl``: twelve parties, 150 rounds of one step
on all rows, central noise, as pfl-research's simulator runs it. Model, rows, clip, noise, sampling and steps are the
same, and all must end at about the same AUC. Wall-clock and CPU seconds of each process and its children, from start to
end, and from the first round to the last; ratios are medians over the interleaved runs with their spread.
"""

import argparse
import importlib.util
import os
import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parent)]

import numpy as np
from measuring import Run, auc, interleaved, ratios, say, table, timed, times, write
from rivals.task import CONFIG, Task, prepare

RIVALS = Path(__file__).resolve().parent / "rivals"
SAME = 0.015
"""Points of AUC by which the sides may differ before the comparison is called unfair: noise and one seed."""

HEAD = ("side", "wall s", "CPU s", "start s", "ms a round", "AUC", "wall", "CPU", "rounds alone")
NOTE = """\
"start": until the first round begins. "ms a round": from the first round's end to the last's, of the rounds between.
Ratios: how many times longer than ours, median (least to most) of the pairs of interleaved runs.
Ours does in addition: reads and encodes the table, finds its noise by two accountants, secure aggregation where it says
"secure", signed ledgers and cosigned checkpoints, integer sums, noise from the operating system's generator, a private
centre before the rounds, three rounds of recalibration and one of evaluation after them (all in its time)."""

Side = Callable[[], Run]


def sides_against_flower(task: Task, folder: Path) -> dict[str, Side]:
    """Return ours, secure and in the open, and Flower with Opacus, as documented and with a quicker loader."""
    rival = [sys.executable, str(RIVALS / "flower_opacus" / "run.py"), str(folder)]
    return {
        "ours, secure": partial(_ours, task, "secure", folder),
        "Flower + Opacus": partial(timed, [*rival, "--loader", "documented"], folder=folder),
        "ours, open": partial(_ours, task, "ideal", folder),
        "Flower + Opacus, quicker loader": partial(timed, [*rival, "--loader", "indexed"], folder=folder),
    }


def sides_against_pfl(task: Task, folder: Path, python: Path) -> dict[str, Side]:
    """Return ours and pfl-research, which runs under an interpreter of its own."""
    rival = [str(python), str(RIVALS / "pfl_research" / "run.py"), str(folder)]
    return {
        "ours, open": partial(_ours, task, "ideal", folder),
        "pfl-research": partial(timed, rival, folder=folder),
    }


def _ours(task: Task, secagg: str, folder: Path) -> Run:
    """Run ours with one torch thread, as ``fedmarket simulate`` gives to each of two workers on two cores."""
    changes = [f"--set={change}" for change in (*task.changes, f"aggregation.secagg={secagg}")]
    command = [sys.executable, str(RIVALS / "ours.py"), str(CONFIG), *changes, "--output", str(folder)]
    return timed(command, folder=folder, env={"OMP_NUM_THREADS": "1"})


def scored(side: Side, folder: Path, found: list[float]) -> Run:
    """Run ``side`` and add the AUC of the model that it left to ``found``."""
    scores = folder / "scores.npy"
    scores.unlink(missing_ok=True)
    run = side()
    with np.load(folder / "rows.npz") as rows:
        found.append(auc(rows["labels"], np.load(scores)))
    return run


def milliseconds_a_round(run: Run, rounds: int) -> float:
    """Return what a round takes once all is warm; of ours the rounds before and after training are part of it.

    >>> milliseconds_a_round(Run(seconds=9, marks={"round": [3.0, 5.0, 5.5, 6.0]}), 3)
    500.0
    """
    ends = run.marks.get("round")
    if ends:  # the first is the start, the second the end of a round that loads what the workers need
        return 1000 * (ends[-1] - ends[1]) / (rounds - 1)
    return 1000 * run.between("exchange") / rounds


def begins(run: Run) -> float:
    """Return the seconds until the first round begins."""
    return run.until("round" if "round" in run.marks else "exchange")


def compared(runs: dict[str, list[Run]], aucs: dict[str, list[float]], rounds: int) -> dict[str, Any]:
    """Return medians of each side and its ratios to the first one, which is ours."""
    ours, found = next(iter(runs)), {}
    for name, own in runs.items():
        series: dict[str, list[Callable[[Run], float]]] = {
            "wall": [lambda run: run.seconds],
            "cpu": [lambda run: run.cpu],
            "rounds": [lambda run: milliseconds_a_round(run, rounds)],
        }
        found[name] = {
            "wall_s": statistics.median(run.seconds for run in own),
            "cpu_s": statistics.median(run.cpu for run in own),
            "start_s": statistics.median(begins(run) for run in own),
            "ms_a_round": statistics.median(milliseconds_a_round(run, rounds) for run in own),
            "auc": statistics.median(aucs[name]),
            "peak_bytes": max(run.peak for run in own),
            "times_ours": {
                what: ratios([of(run) for run in own], [of(run) for run in runs[ours]])
                for what, (of,) in series.items()
            },
            "each": [{"wall": run.seconds, "cpu": run.cpu, "marks": _ends(run)} for run in own],
        }
    return found


def _ends(run: Run) -> dict[str, list[float]]:
    return {name: [moments[0], moments[-1]] for name, moments in run.marks.items()}


def shown(found: dict[str, Any]) -> str:
    """Return the table."""
    rows = []
    for name, one in found.items():
        ratio = [times(one["times_ours"][what]) for what in ("wall", "cpu", "rounds")]
        numbers = [one["wall_s"], one["cpu_s"], one["start_s"], one["ms_a_round"]]
        rows.append([name, *numbers, f"{one['auc']:.4f}", *ratio])
    return table(HEAD, rows)


def fair(found: dict[str, Any]) -> bool:
    """Return whether all sides ended at about the same AUC."""
    aucs = [one["auc"] for one in found.values()]
    return max(aucs) - min(aucs) <= SAME


def missing(against: str, python: Path) -> str:
    """Return why a rival cannot run here, or nothing."""
    if against == "flower":
        return "" if importlib.util.find_spec("ray") else "Ray is missing: pip install 'flwr[simulation]' ray==2.55.1"
    if python.is_file():
        return ""
    return f"pfl-research is missing: python -m venv V && V/bin/pip install pfl==0.6.0 torch==2.13.0 ({python})"


def main() -> None:
    """Run what the options choose."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--against", choices=["flower", "pfl"], default="flower")
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--rounds", type=int, help="instead of the task's own number")
    options.add_argument("--steps", type=int, default=10, help="gradient steps of a party and round, against Flower")
    options.add_argument("--pfl-python", type=Path, default=Path("runs/venv-pfl/bin/python"))
    options.add_argument("--output", type=Path, help="instead of runs/benchmark-whole-RIVAL.json")
    chosen = options.parse_args()
    if reason := missing(chosen.against, chosen.pfl_python):
        sys.exit(reason)
    if chosen.against == "flower":
        task = Task(rounds=chosen.rounds or 30, steps=chosen.steps, rate=0.5)
    else:
        task = Task(rounds=chosen.rounds or 150, steps=1, rate=0.3, momentum=0.9, noise="distributed", secagg="ideal")
    folder = Path("runs/benchmark-whole").resolve()
    prepare(task, folder)
    sides = (
        sides_against_flower(task, folder)
        if chosen.against == "flower"
        else sides_against_pfl(task, folder, chosen.pfl_python.absolute())
    )
    aucs: dict[str, list[float]] = {name: [] for name in sides}
    runs = interleaved(
        {name: partial(scored, side, folder, aucs[name]) for name, side in sides.items()}, chosen.repeats
    )
    found = compared(runs, aucs, task.rounds)
    print(shown(found), NOTE, sep="\n")
    load = os.getloadavg()[0]
    if load > (os.cpu_count() or 1):
        say(f"the machine was busy (load {load:.1f}): trust CPU seconds more than wall-clock ones")
    if not fair(found):
        say(f"the sides differ by more than {SAME} of AUC: this comparison is not fair")
    output = chosen.output or Path(f"runs/benchmark-whole-{chosen.against}.json")
    write(output, {"task": task.changes, "repeats": chosen.repeats, "load": load, "fair": fair(found), "sides": found})


if __name__ == "__main__":
    main()
