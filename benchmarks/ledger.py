"""What a ledger costs to write and to check: ``python benchmarks/ledger.py``, full batch and sampled.

Prints three tables: median and largest milliseconds of a reservation over a run's rounds, its signature and its line on
disk included; seconds and memory to verify a bundle, on one core; and the same of small bundles that a stranger made to
cost as much as may be. A process that has computed nothing before checks each bundle. Figures are this machine's.
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
from dataclasses import replace
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
                ledger.reserve(run, next(number), phase=mechanism.phase, count=1)
                seconds.append(time.perf_counter() - start)
    return seconds


def bundle_of(kind: str, parties: int, entries: int) -> Bundle:
    """Return a bundle of about so many entries, a reservation and an outcome a round."""
    rounds = (entries // parties - 3) // 2 - 2
    names = tuple(f"Party {number:02}" for number in range(parties))
    bundle: Bundle = MADE["whole"](names=names, plan=plan_of(kind, rounds), cap="20.0").bundle()
    return bundle


STRANGE = {
    # Noise and sample rate of the updates of each run, and how many of them are reserved in it.
    "mu 8": ([(1 / 7.99, 1.0)], 1),
    "little noise beside samples": ([(0.1, 1.0), (1.5, 0.1)], 1),
    "100 runs, each another full batch": ([(80.0 + number, 1.0) for number in range(100)], 1),
    "100 runs, each another sample, unused": ([(2.0 + number / 100, 0.1) for number in range(100)], 0),
    "64 runs, each another sample": ([(2.0 + number / 100, 0.1) for number in range(64)], 1),
    "64 runs, each of little noise": ([(0.3 + number / 1000, 1e-4) for number in range(64)], 1),
}


def strange_of(name: str) -> Bundle:
    """Return a bundle of one party with runs as in :data:`STRANGE`; figures are made up, so each is recomputed."""
    noises, count = STRANGE[name]
    market = MADE["Market"](names=("Party",), cap="1000000.0").opened()
    made_up = [{"accountant": "pld", "version": "0", "epsilon": "1.0"}]
    for number, (noise, rate) in enumerate(noises):
        run, plan = f"{number:032x}", plan_of("own", 1)
        update = replace(plan.mechanisms[1], noise_multiplier=noise, sample_rate=rate)
        market.plan = replace(plan, mechanisms=(update,))
        market.joined(run)
        if count:
            market.all("reserved", run=run, round=0, phase="update", count=count, figures=made_up,
                       cap=market.cap)  # fmt: skip
    bundle: Bundle = market.logged().bundle()
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
    for name in STRANGE:
        took, memory, findings = afresh(verifying, strange_of(name))
        print(f"{name}: {took:.1f} s, {memory:.0f} MB, {findings} findings", flush=True)


if __name__ == "__main__":
    main()
