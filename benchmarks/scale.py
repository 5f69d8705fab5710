"""How time and memory grow: ``python benchmarks/scale.py``, by parties and by rows, each run a process of its own.

``--parties``: the released arm with so many parties of 1,000 training rows each, sums in the open (a roster holds 100,
so there is no ledger beyond). ``--rows``: one party's private training on its own with so many rows, among four parties
of which the others are small. Sizes are few rounds of the demo's model on the synthetic market, whose rows are repeated
where more are asked for than one market makes. "us each" is a round's time for each party or row: where growth is
linear it stays as it is, and the last column says by what factor it changed since the line before; below 1, what a
round costs at any size weighs less. Time is that of the rounds, from the first exchange to the last; memory is the
process' peak, and a run that passes ``--gigabytes`` is stopped and counts as failed.
"""

import argparse
import itertools
import os
import sys
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parent)]

import polars as pl
from measuring import Failed, Run, say, table, timed, write

from fedmarket.data.synthetic import synthetic_market

ROOT = Path(__file__).resolve().parents[1]
OURS = Path(__file__).resolve().parent / "rivals" / "ours.py"
CONFIG = ROOT / "experiments" / "demo" / "config.toml"
MADE = 200_000
"""Customers that are made; more are these again."""

LINEAR = 1.2
"""By how much a party's or a row's time may grow from one size to the next."""

DELTA = "delta = 1e-5", "delta = 1e-8"
"""The demo's delta, and one that a contract may have with ten million rows."""

OPEN = (
    'aggregation.secagg="ideal"',
    'privacy.noise="local"',
    "privacy.private_evaluation=false",
    "federation.minimum_survivors=4",
)


def rows_in(path: Path, sizes: dict[str, int]) -> None:
    """Write a table with so many customers of each company."""
    total = sum(sizes.values())
    made = synthetic_market(customers=min(total, MADE), parties=1, seed=7).table
    table_ = pl.concat([made] * -(-total // len(made))).head(total)
    companies = pl.concat([pl.repeat(name, count, eager=True) for name, count in sizes.items()])
    table_.with_columns(companies.alias("company")).write_parquet(path)


def run_on(sizes: dict[str, int], folder: Path, *, rounds: int, alone: str = "", most_bytes: float) -> dict[str, Any]:
    """Return seconds of all rounds, of the whole process, and its peak memory."""
    data, schedule = folder / "rows.parquet", "alone_training" if alone else "training"
    rows_in(data, sizes)
    source = f'{{ kind = "file", path = "{data}", partition = {{ kind = "column", column = "company" }} }}'
    contract = folder / "contract.toml"
    contract.write_text(CONFIG.with_name("contract.toml").read_text(encoding="utf-8").replace(*DELTA), encoding="utf-8")
    changes = [
        *OPEN,
        f"data.contract={contract}",
        f"data.source={source}",
        f"{schedule}.rounds={rounds}",
        f"federation.max_parties={max(len(sizes), 4)}",
        f"federation.max_party_rows={max(sizes.values())}",
    ]
    arm = ["--arm", "local_only_dp", "--alone", alone] if alone else []
    command = [sys.executable, str(OURS), str(CONFIG), *(f"--set={one}" for one in changes), *arm]
    run = timed([*command, "--output", str(folder)], folder=folder, env={"OMP_NUM_THREADS": "1"}, most_bytes=most_bytes)
    data.unlink()
    return told(run, rounds)


def told(run: Run, rounds: int) -> dict[str, Any]:
    """Return what a run says of its cost; the first exchange is the invitation, and then come centre and rounds.

    >>> told(Run(seconds=9.0, cpu=5.0, peak=7, marks={"exchange": [1.0, 2.0, 3.0, 4.0]}), 2)
    {'wall_s': 9.0, 'cpu_s': 5.0, 'round_s': 1.0, 'peak_bytes': 7}
    """
    moments = run.marks["exchange"][1 : rounds + 2]
    return {
        "wall_s": run.seconds,
        "cpu_s": run.cpu,
        "round_s": (moments[-1] - moments[0]) / rounds,
        "peak_bytes": run.peak,
    }


def grown(found: list[dict[str, Any]], unit: str) -> list[dict[str, Any]]:
    """Return ``found`` with a round's time for each unit, and by what factor that changed from one to the next.

    >>> grown([{"round_s": 1.0, "n": 10}, {"round_s": 11.0, "n": 100}], "n")[1]["change"]
    1.1
    """
    if not found:
        return []
    units = [one["round_s"] / one[unit] for one in found]
    changes = [None, *(round(after / before, 3) for before, after in itertools.pairwise(units))]
    return [one | {"us": 1e6 * each, "change": change} for one, each, change in zip(found, units, changes, strict=True)]


def shown(found: list[dict[str, Any]], unit: str) -> str:
    """Return a table of growth by ``unit``."""
    head = (unit, "round ms", "us each", "wall s", "CPU s", "peak GB", "change")
    rows = [
        [str(one[unit]), 1e3 * one["round_s"], one["us"], one["wall_s"], one["cpu_s"], one["peak_bytes"] / 1e9,
         "" if one["change"] is None else f"{one['change']:.2f}"]
        for one in found
    ]  # fmt: skip
    return table(head, rows) + f"\nlinear within {LINEAR - 1:.0%}: {'yes' if linear(found) else 'no'}\n"


def linear(found: list[dict[str, Any]]) -> bool:
    """Return whether no step makes a unit's share of a round dearer than ``LINEAR`` allows."""
    return all(one["change"] <= LINEAR for one in found if one["change"] is not None)


def main() -> None:
    """Run what the options choose."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--parties", type=int, nargs="*", default=[10, 100, 1000])
    options.add_argument("--rows", type=int, nargs="*", default=[10_000, 100_000, 1_000_000, 10_000_000])
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--gigabytes", type=float, default=8.0, help="a run that holds more is stopped")
    options.add_argument("--output", type=Path, default=Path("runs/benchmark-scale.json"))
    chosen = options.parse_args()
    folder = Path("runs/benchmark-scale").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {"rounds": chosen.rounds, "load": os.getloadavg()[0]}
    for unit, sizes in {"parties": chosen.parties, "rows": chosen.rows}.items():
        found = []
        for size in sizes:
            # A fifth of each party's rows is kept for the test.
            held = {f"company {place:04d}": 1250 for place in range(size if unit == "parties" else 4)}
            alone = "" if unit == "parties" else "company 0000"
            held |= {alone: size * 5 // 4} if alone else {}
            try:
                one = run_on(held, folder, rounds=chosen.rounds, alone=alone, most_bytes=1e9 * chosen.gigabytes)
            except Failed as error:
                say(f"{size} {unit}: {error}")
                results.setdefault("failed", []).append({unit: size, "said": str(error)[-500:]})
                continue
            found.append({unit: size} | one)
            say(f"{size} {unit}: {one['round_s']:.3f} s a round, peak {one['peak_bytes'] / 1e9:.2f} GB")
        results[unit] = grown(found, unit)
        if found:
            print(shown(results[unit], unit))
    write(chosen.output, results)


if __name__ == "__main__":
    main()
