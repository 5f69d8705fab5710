"""What a ledger costs to write and to check: ``python benchmarks/ledger.py``, full batch and sampled.

Prints two tables: median and largest milliseconds of a reservation over a run's rounds, its signature and its line on
disk included; and seconds and memory to verify a bundle, on one core. Each bundle is checked by a process that has
computed nothing before. Figures are this machine's.
"""

import argparse
import itertools
import multiprocessing
import resource
import runpy
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from fedmarket.ledger.bundle import Bundle
from fedmarket.ledger.entries import KINDS
from fedmarket.ledger.planned import planned
from fedmarket.ledger.store import Ledger
from fedmarket.ledger.verify import verify

MADE = runpy.run_path(str(Path(__file__).resolve().parents[1] / "tests" / "ledger" / "bundles.py"))
Found = TypeVar("Found")


def plan_of(kind: str, rounds: int) -> Any:
    """Return a plan of so many updates, with the mean before and a look at held-out rows after."""
    return MADE["plan_of"](rounds=rounds, kind=kind)


def reserving(kind: str, rounds: int) -> list[float]:
    """Return the seconds of each reservation of a run, in a ledger that was just begun."""
    plan, signer, run = plan_of(kind, rounds), MADE["identity_of"]("bench"), MADE["RUN"]
    code, some = {"version": "0", "hash": "0" * 64}, "0" * 64
    opened = {"public_key": signer.public_hex, "data_set": some, "unit": plan.unit, "adjacency": plan.adjacency,
              "delta": "1e-05", "cap": "20.0", "code": code}  # fmt: skip
    joined = {"run": run, "data_set": some, "terms_hash": some, "contract_hash": some, "roster_hash": None,
              "code": code, "plan": planned(plan, assumed_colluders=1, minimum_survivors=3).model_dump()}  # fmt: skip
    seconds, number = [], itertools.count()
    with tempfile.TemporaryDirectory() as folder, Ledger.open(Path(folder), signer, party="bench") as ledger:
        for kind_of_entry, statement in (("opened", opened), ("joined", joined)):
            ledger.append(KINDS[kind_of_entry].model_validate(statement))
        for mechanism in plan.mechanisms:
            for _ in range(mechanism.releases):
                start = time.perf_counter()
                ledger.reserve(run, next(number), phase=mechanism.phase, count=1, model_hash=some)
                seconds.append(time.perf_counter() - start)
    return seconds


def bundle_of(kind: str, parties: int, entries: int) -> Bundle:
    """Return a bundle of about so many entries, a reservation and an outcome a round."""
    rounds = (entries // parties - 3) // 2 - 2
    names = tuple(f"Party {number:02}" for number in range(parties))
    bundle: Bundle = MADE["whole"](names=names, plan=plan_of(kind, rounds), cap="20.0").bundle()
    return bundle


def verifying(bundle: Bundle) -> tuple[float, float, int]:
    """Return seconds, megabytes at the most and the number of findings."""
    start = time.process_time()
    verdict = verify(bundle)
    return (
        time.process_time() - start,
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        len(verdict.findings),
    )


def afresh(act: Callable[..., Found], *arguments: Any) -> Found:
    """Return what ``act`` finds in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(act, *arguments).result()


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=150)
    parser.add_argument("--parties", type=int, default=50)
    parser.add_argument("--entries", type=int, default=10_000)
    asked = parser.parse_args()
    for kind in ("own", "sampled"):
        seconds = afresh(reserving, kind, asked.rounds)
        median, most = 1000 * statistics.median(seconds), 1000 * max(seconds)
        print(f"{kind:8} {len(seconds)} reservations: median {median:.1f} ms, largest {most:.0f} ms", flush=True)
    for kind in ("own", "sampled"):
        bundle = afresh(bundle_of, kind, asked.parties, asked.entries)
        took, memory, findings = afresh(verifying, bundle)
        print(f"{kind:8} {len(bundle.log)} entries of {asked.parties} parties: {took:.1f} s, {memory:.0f} MB, "
              f"{findings} findings", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
