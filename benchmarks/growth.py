"""What a process holds, round by round, and whether that grows; run by path (``runpy``) from what needs it."""

import os
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAY_GROW = 1.1
"""Resident memory in the last fifth of the rounds, beside that in the second."""


@dataclass(frozen=True)
class Sample:
    """What a process holds at the beginning of a round: bytes resident and its own, files, threads; its CPU seconds."""

    round: int
    resident: int
    own: int
    files: int
    threads: int
    cpu: float = 0.0

    @classmethod
    def of(cls, pid: int, number: int) -> "Sample":
        """Look at a process."""
        folder = Path(f"/proc/{pid}")
        said = dict(line.split(":\t", 1) for line in (folder / "status").read_text().splitlines() if ":\t" in line)
        sizes = [1024 * int(said[name].split()[0]) for name in ("VmRSS", "RssAnon")]
        ticks = sum(map(int, (folder / "stat").read_text().rpartition(")")[2].split()[11:13]))
        cpu = ticks / os.sysconf("SC_CLK_TCK")
        return cls(number, *sizes, files=len(os.listdir(folder / "fd")), threads=int(said["Threads"]), cpu=cpu)


def growth(samples: list[Sample], rounds: int) -> dict[str, Any]:
    """Return what a process held in the second and the last fifth of the rounds, and whether that is flat."""
    fifths = [[one for one in samples if one.round * 5 // rounds == fifth] for fifth in (1, 4)]
    if not all(fifths):
        return {"flat": False, "said": "not enough samples"}
    early, late = (_held(some) for some in fifths)
    apart = 3 * rounds / 5
    flat = late["resident"] <= MAY_GROW * early["resident"]
    flat = flat and late["files"] <= early["files"] + 1 and late["threads"] <= early["threads"] + 1
    ratio = late["resident"] / early["resident"]
    return {"early": early, "late": late, "ratio": ratio, "own_bytes_a_round": (late["own"] - early["own"]) / apart,
            "flat": bool(flat)}  # fmt: skip


def _held(samples: list[Sample]) -> dict[str, float]:
    """Return the median of memory; of files and threads the fewest, as each message has some while it is answered.

    CPU time is a mean, and does not depend on what else the machine does; of a process that was killed it says nothing.
    """
    memory = {name: statistics.median(getattr(one, name) for one in samples) for name in ("resident", "own")}
    fewest = {name: min(getattr(one, name) for one in samples) for name in ("files", "threads")}
    rounds = max(1, samples[-1].round - samples[0].round)
    return memory | fewest | {"cpu_ms_a_round": 1000 * (samples[-1].cpu - samples[0].cpu) / rounds}
