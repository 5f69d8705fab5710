"""What it costs to make customers of lines of sale: ``python benchmarks/transactions.py``, on Online Retail II.

Prints a table: seconds to load the public file by its hash, and to make features under each experiment's contract,
medians over repeats, with the ratio of the two in the same run. Seconds are this machine's.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from fedmarket.contract.schema import load_contract
from fedmarket.data.public import public_set
from fedmarket.data.transactions import customers_with_counts

FOLDER = Path(__file__).resolve().parents[1] / "experiments" / "ltv-online-retail"
CONTRACTS = ("contract-18-6.toml", "contract-12-12.toml")
Made = TypeVar("Made")


def timed(act: Callable[[], Made], *, repeats: int) -> tuple[float, Made]:
    """Return the median seconds of ``act`` and its last result."""
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        made = act()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), made


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    loading, lines = timed(lambda: public_set("online-retail-ii"), repeats=repeats)
    print(f"{lines.height:,} lines, loaded by hash in {loading:.2f} s")
    for name in CONTRACTS:
        terms = load_contract(FOLDER / name).transactions
        if terms is None:
            raise SystemExit(f"{name}: no transactions")
        seconds, found = timed(lambda terms=terms: customers_with_counts(lines, terms), repeats=repeats)
        print(f"{name:22} {found.table.height:6,} customers in {seconds:.2f} s, {seconds / loading:.1f} of loading")


if __name__ == "__main__":
    main()
