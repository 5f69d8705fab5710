"""One DP-SGD step, ours beside plain torch and Opacus: ``python benchmarks/step.py``.

A step takes rows that are in memory and leaves new parameters: gradients, clipping, noise, one step of descent. Plain
torch neither clips nor adds noise. Opacus does, in float32 and with torch's generator, by per-example gradients
("hooks") or by ghost clipping. Ours computes in float64, so that no row's part depends on the others', with noise from
the operating system's stream; plain torch in float64 is therefore timed too. All run on one thread, in turns, in one
process; times are CPU seconds, which other programs hardly change, and ratios medians over turns.
"""

import argparse
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).resolve().parent)]

import numpy as np
import torch
from measuring import ratios, say, table, times, write
from opacus import GradSampleModule
from opacus.grad_sample import GradSampleModuleFastGradientClipping
from opacus.optimizers import DPOptimizer
from opacus.optimizers.optimizer_fast_gradient_clipping import DPOptimizerFastGradientClipping
from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping
from torch import nn

from fedmarket.models.network import Network, vector_of
from fedmarket.privacy.noise import Stream
from fedmarket.training.batch import Batch
from fedmarket.training.gradients import Gradients

WIDTH, COLUMNS, VOCABULARY, DIMENSIONS = 61, 20, 100, 8
"""Encoded columns of the bank data; columns of the embedding model, values of each, numbers of a value."""

CLIP, NOISE, RATE = 1.0, 1.0, 0.1
MODELS = ("logistic", "mlp 64-32", "embedding")
BATCHES = (256, 1024, 8192)

Step = Callable[[], object]


class Embedded(nn.Module):
    """Twenty columns of ids through one embedding, and a hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(COLUMNS * VOCABULARY, DIMENSIONS)
        self.body = nn.Sequential(nn.Linear(COLUMNS * DIMENSIONS, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Return (n, 1) log-odds of (n, columns) ids, which come as floats."""
        return self.body(self.table(features.long()).flatten(start_dim=1))  # type: ignore[no-any-return]


def network_called(name: str) -> nn.Module:
    """Return one of ``MODELS``, the same parameters each time."""
    torch.manual_seed(0)
    if name == "embedding":
        return Embedded()
    return Network(WIDTH, (64, 32) if name == "mlp 64-32" else (), (1.0,))


def rows_for(name: str, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return features and (n, 1) labels."""
    rng = np.random.default_rng(0)
    labels = torch.from_numpy((rng.random((count, 1)) < 0.1).astype(np.float32))
    if name == "embedding":
        ids = rng.integers(0, VOCABULARY, (count, COLUMNS)) + VOCABULARY * np.arange(COLUMNS)
        return torch.from_numpy(ids.astype(np.float32)), labels
    return torch.from_numpy(rng.standard_normal((count, WIDTH)).astype(np.float32)), labels


def ours(name: str, count: int) -> Step:
    """Return our step."""
    network, (features, labels), stream = network_called(name), rows_for(name, count), Stream.secret()
    gradients, parameters = Gradients(network), vector_of(network)

    def step() -> None:
        batch = Batch(features=features, targets=labels)  # nothing is kept from the step before
        total = gradients.clipped_sum(parameters, batch, clip_norm=CLIP)
        noisy = total + CLIP * NOISE * stream.normals(len(total))
        parameters[:] = parameters - RATE * noisy / count

    return step


def stepping(network: nn.Module, optimizer: Any, loss: Any, *held: torch.Tensor) -> Step:
    """Return a step of torch's kind on features and labels."""
    features, labels = held

    def step() -> None:
        optimizer.zero_grad()
        loss(network(features), labels).backward()
        optimizer.step()

    return step


class OneEach(nn.BCEWithLogitsLoss):
    """The loss of each row, (n,): of shape (n, 1) Opacus 1.6 would not clip at all in ghost mode."""

    def forward(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """See :class:`torch.nn.BCEWithLogitsLoss`."""
        return super().forward(outputs, targets).reshape(-1)


def plain(name: str, count: int, dtype: torch.dtype = torch.float32) -> Step:
    """Return torch's step, without privacy."""
    network, (features, labels) = network_called(name).to(dtype), rows_for(name, count)
    if name != "embedding":
        features = features.to(dtype)
    labels = labels.to(dtype)
    if isinstance(network, Network):
        network.scales = network.scales.to(dtype)
    return stepping(network, torch.optim.SGD(network.parameters(), lr=RATE), nn.BCEWithLogitsLoss(), features, labels)


def hooks(name: str, count: int) -> Step:
    """Return Opacus' step by per-example gradients."""
    network, (features, labels) = GradSampleModule(network_called(name)), rows_for(name, count)
    optimizer = DPOptimizer(
        torch.optim.SGD(network.parameters(), lr=RATE),
        noise_multiplier=NOISE,
        max_grad_norm=CLIP,
        expected_batch_size=count,
    )
    return stepping(network, optimizer, nn.BCEWithLogitsLoss(), features, labels)


def ghost(name: str, count: int) -> Step:
    """Return Opacus' step by ghost clipping: two backward passes, no gradient written out."""
    network = GradSampleModuleFastGradientClipping(network_called(name), max_grad_norm=CLIP, use_ghost_clipping=True)
    features, labels = rows_for(name, count)
    optimizer = DPOptimizerFastGradientClipping(
        torch.optim.SGD(network.parameters(), lr=RATE),
        noise_multiplier=NOISE,
        max_grad_norm=CLIP,
        expected_batch_size=count,
    )

    loss = DPLossFastGradientClipping(network, optimizer, OneEach(reduction="mean"), "mean")
    return stepping(network, optimizer, loss, features, labels)


CONTENDERS: dict[str, Callable[[str, int], Step]] = {
    "ours": ours,
    "plain": plain,
    "plain float64": lambda name, count: plain(name, count, torch.float64),
    "Opacus hooks": hooks,
    "Opacus ghost": ghost,
}


def timed(step: Step, seconds: float) -> float:
    """Return the least CPU seconds of a step in about so many seconds."""
    best, until = float("inf"), time.perf_counter() + seconds
    while True:
        start = time.process_time()
        step()
        best = min(best, time.process_time() - start)
        if time.perf_counter() > until:
            return best


def measured(name: str, count: int, *, turns: int, seconds: float) -> dict[str, Any]:
    """Return the ratio of each contender's time to ours, with its spread over turns."""
    steps = {contender: make(name, count) for contender, make in CONTENDERS.items()}
    for step in steps.values():
        step()
    took = [{contender: timed(step, seconds) for contender, step in steps.items()} for _ in range(turns)]
    each = {contender: [turn[contender] for turn in took] for contender in CONTENDERS}
    return {
        "model": name,
        "batch": count,
        "microseconds": {contender: 1e6 * statistics.median(times_) for contender, times_ in each.items()},
        "ours / plain": ratios(each["ours"], each["plain"]),
        "ours / plain float64": ratios(each["ours"], each["plain float64"]),
        "Opacus hooks / ours": ratios(each["Opacus hooks"], each["ours"]),
        "Opacus ghost / ours": ratios(each["Opacus ghost"], each["ours"]),
    }


RATIOS = ("ours / plain", "ours / plain float64", "Opacus hooks / ours", "Opacus ghost / ours")


def summary(found: list[dict[str, Any]]) -> dict[str, float]:
    """Return the figures that are aimed at.

    >>> one = {name: {"median": 2.0} for name in RATIOS} | {"batch": 256}
    >>> summary([one])
    {'ours / plain, median': 2.0, 'ours / plain, worst': 2.0, 'best Opacus / ours at 256, median': 2.0}
    """
    cost = [one["ours / plain"]["median"] for one in found]
    best: dict[int, list[float]] = {}
    for one in found:
        best.setdefault(one["batch"], []).append(min(one[rival]["median"] for rival in RATIOS[2:]))
    figures = {"ours / plain, median": statistics.median(cost), "ours / plain, worst": max(cost)}
    return figures | {f"best Opacus / ours at {count}, median": statistics.median(r) for count, r in best.items()}


def main() -> None:
    """Measure what the options choose."""
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--turns", type=int, default=7)
    options.add_argument("--seconds", type=float, default=0.3, help="of each contender in each turn")
    options.add_argument("--output", type=Path, default=Path("runs/benchmark-step.json"))
    chosen = options.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    found = []
    for name in MODELS:
        for count in BATCHES:
            found.append(measured(name, count, turns=chosen.turns, seconds=chosen.seconds))
            say(f"{name}, {count} rows: {times(found[-1]['ours / plain'])} plain")
    head = ("model", "batch", "ours us", *RATIOS)
    print(
        table(
            head, [(f["model"], f["batch"], f["microseconds"]["ours"], *(times(f[r]) for r in RATIOS)) for f in found]
        )
    )
    figures = summary(found)
    print(table(("", "times"), list(figures.items())))
    write(chosen.output, {"cells": found, "figures": figures})


if __name__ == "__main__":
    main()
