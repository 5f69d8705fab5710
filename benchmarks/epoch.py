"""Private epochs with their Poisson sampling, ours beside Opacus: ``python benchmarks/epoch.py``.

Two tables. An epoch over the rows of one party, against Opacus with its own DPDataLoader, by hooks or ghost clipping,
whichever is faster. And ten steps of each of a hundred parties, ours together and one by one, against Opacus party by
party, whose engines are made before the clock starts. All run on one thread, in turns; times are CPU
seconds, which other programs hardly change, and ratios medians over turns.
"""

import argparse
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parent)]

import step
import torch
from measuring import ratios, say, table, times, write
from opacus import PrivacyEngine
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from fedmarket.models.network import vector_of
from fedmarket.privacy.mechanism import Mechanism
from fedmarket.privacy.noise import Stream
from fedmarket.training.batch import Batch
from fedmarket.training.cohort import Member, update_sums
from fedmarket.training.gradients import Gradients
from fedmarket.training.sums import update_sum

ROWS, PARTIES, STEPS = 16_384, 100, 10
"""Of one party; and of many, each with a thousand rows, how many and how far they go."""

EXPECTED = (256, 1024, 4096)
"""Rows of a step, in the mean."""

MODES = ("hooks", "ghost")

Work = Callable[[], object]


def mechanism_for(network: nn.Module, rate: float, steps: int) -> Mechanism:
    """Return what a step does to gradients."""
    size = sum(parameter.numel() for parameter in network.parameters())
    return Mechanism(
        phase="update",
        clip_norm=step.CLIP,
        noise_multiplier=step.NOISE,
        sample_rate=rate,
        releases=steps,
        length=size,
    )


def our_epoch(name: str, expected: int) -> Work:
    """Return an epoch of ours over the rows of one party."""
    network, (features, labels), stream = step.network_called(name), step.rows_for(name, ROWS), Stream.secret()
    steps = ROWS // expected
    mechanism = mechanism_for(network, expected / ROWS, steps)
    batch = Batch(features=features, targets=labels, lasting=True)
    common: dict[str, Any] = {"steps": steps, "learning_rate": step.RATE, "declared_rows": ROWS}
    start, gradients = vector_of(network), Gradients(network)
    return lambda: update_sum(gradients, start, batch, mechanism=mechanism, stream=stream, **common)


def opacus(name: str, held: tuple[torch.Tensor, torch.Tensor], expected: int, *, mode: str, steps: int) -> Work:
    """Return so many steps of Opacus over its own loader."""
    network = step.network_called(name)
    loader = DataLoader(TensorDataset(*held), batch_size=expected)
    made = PrivacyEngine(accountant="prv").make_private(
        module=network,
        optimizer=torch.optim.SGD(network.parameters(), lr=step.RATE),
        data_loader=loader,
        criterion=step.OneEach(reduction="mean"),
        noise_multiplier=step.NOISE,
        max_grad_norm=step.CLIP,
        grad_sample_mode=mode,
    )
    model, optimizer = made[0], made[1]
    loss, loader = (made[2], made[3]) if mode == "ghost" else (nn.BCEWithLogitsLoss(), made[-1])

    def work() -> None:
        for rows, targets in islice(loader, steps):
            optimizer.zero_grad()
            loss(model(rows), targets).backward()
            optimizer.step()

    return work


def parties_of(name: str, rows: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return the rows of each party."""
    return [step.rows_for(name, rows) for _ in range(PARTIES)]


def ours_for_parties(name: str, rows: int, expected: int, *, together: bool) -> Work:
    """Return the steps of all parties by ours."""
    network = step.network_called(name)
    mechanism, start = mechanism_for(network, expected / rows, STEPS), vector_of(network)
    members = [
        Member(batch=Batch(features=features, targets=labels), declared_rows=rows, stream=Stream.secret())
        for features, labels in parties_of(name, rows)
    ]
    common: dict[str, Any] = {"steps": STEPS, "learning_rate": step.RATE, "mechanism": mechanism}
    if together:
        return lambda: update_sums(network, start, members, **common)
    gradients = Gradients(network)
    return lambda: [
        update_sum(gradients, start, one.batch, declared_rows=rows, stream=one.stream, **common) for one in members
    ]


def opacus_for_parties(name: str, rows: int, expected: int, mode: str) -> Work:
    """Return the steps of all parties by Opacus, one party after the other."""
    each = [opacus(name, held, expected, mode=mode, steps=STEPS) for held in parties_of(name, rows)]
    return lambda: [work() for work in each]


def turns_of(works: dict[str, Work], turns: int) -> list[dict[str, float]]:
    """Return the seconds of each work in each turn, after one that does not count."""
    for work in works.values():
        work()
    return [{name: seconds(work) for name, work in works.items()} for _ in range(turns)]


def seconds(work: Work) -> float:
    """Return the CPU seconds of a work."""
    start = time.process_time()
    work()
    return time.process_time() - start


def row(took: list[dict[str, float]]) -> dict[str, Any]:
    """Return the ratio of each time to ours, and that of the best of Opacus.

    >>> row([{"ours": 0.5, "Opacus hooks": 2.0, "Opacus ghost": 1.0}])["ratios"]["best Opacus"]["median"]
    2.0
    """
    ours = [turn["ours"] for turn in took]
    found = {name: ratios([turn[name] for turn in took], ours) for name in took[0] if name != "ours"}
    best = [min(turn[name] for name in found if name.startswith("Opacus")) for turn in took]
    return {"milliseconds": 1000 * statistics.median(ours), "ratios": found | {"best Opacus": ratios(best, ours)}}


def shown(found: list[dict[str, Any]]) -> str:
    """Return rows of one kind as a table."""
    names = list(found[0]["ratios"])
    head = ("model", "rows a step", "ours ms", *(f"{name} / ours" for name in names))
    return table(
        head,
        [(f["model"], f["expected"], f["milliseconds"], *(times(f["ratios"][name]) for name in names)) for f in found],
    )


def middle(found: list[dict[str, Any]]) -> float:
    """Return the median over rows of how much longer the best of Opacus takes."""
    return statistics.median(one["ratios"]["best Opacus"]["median"] for one in found)


def main() -> None:
    """Measure what the options choose."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--turns", type=int, default=5)
    options.add_argument("--output", type=Path, default=Path("runs/benchmark-epoch.json"))
    chosen = options.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    epochs, parties = [], []
    for name in step.MODELS:
        for expected in EXPECTED:
            held = step.rows_for(name, ROWS)
            works = {"ours": our_epoch(name, expected)}
            works |= {f"Opacus {m}": opacus(name, held, expected, mode=m, steps=ROWS // expected) for m in MODES}
            found = row(turns_of(works, chosen.turns)) | {"model": name, "expected": expected}
            epochs.append(found)
            say(f"epoch, {name}, {expected} a step: {times(found['ratios']['best Opacus'])}")
    for name in ("logistic", "mlp 64-32"):
        for rows, expected in ((1000, 50), (1000, 250)):
            works = {
                "ours": ours_for_parties(name, rows, expected, together=True),
                "one by one": ours_for_parties(name, rows, expected, together=False),
            } | {f"Opacus {mode}": opacus_for_parties(name, rows, expected, mode) for mode in MODES}
            found = row(turns_of(works, chosen.turns)) | {"model": name, "expected": expected}
            parties.append(found)
            say(f"100 parties, {name}, {expected} a step: {times(found['ratios']['best Opacus'])}")
    figures = {"best Opacus / ours, an epoch": middle(epochs), "best Opacus / ours, 100 parties": middle(parties)}
    print(shown(epochs), shown(parties), table(("", "times"), list(figures.items())), sep="\n\n")
    write(chosen.output, {"epochs": epochs, "parties": parties, "figures": figures})


if __name__ == "__main__":
    main()
