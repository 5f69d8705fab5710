"""The bank task as Flower's and Opacus' own documentation teaches it; run by ``run.py``.

A ClientApp with Flower's Message API, whose training is Opacus' ``PrivacyEngine.make_private`` on the received model,
as in Flower's own example of the two; a ServerApp with the FedAvg strategy. One epoch of Poisson samples a round.

Choices that are in the rival's favour: its rows come encoded, from one file that each worker reads once and keeps; no
model is evaluated on the way; noise is given and not searched; one torch thread in each worker, as there is a worker on
each core. ``loader = "indexed"`` goes beyond the documentation: it takes a sample by indexing tensors at once, where
the documented ``TensorDataset`` collates it row by row. Opacus' engines were tried on this task, CPU time of a round's
training without Ray, relative to the default ``hooks`` under the documented loader: ``ew`` 0.7, ``functorch`` 1.1,
``ghost`` 0.6; under the indexed one ``hooks`` 0.4, ``ew`` 0.5, ``functorch`` 1.1, ``ghost`` 0.4. So the indexed loader
with ``hooks`` is close to the best there is. What it does not do, and ours does: compose epsilon over rounds (each
round has an accountant of its own, as in the example), secure sums, ledgers, noise from the operating system's
generator, recalibration.
"""

import json
import math
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from measuring import marked
from opacus import PrivacyEngine
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

client_app = ClientApp()


class Net(nn.Module):
    """Logistic regression."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 1)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the logits, (n,)."""
        return self.linear(rows).squeeze(1)


class Indexed(Dataset):
    """Rows that are taken together: ``__getitems__`` is torch's hook for it, and the loader collates nothing."""

    def __init__(self, features: torch.Tensor, targets: torch.Tensor) -> None:
        self.features, self.targets = features, targets

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, place: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.features[place], self.targets[place]

    def __getitems__(self, places: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the rows at ``places``, stacked."""
        taken = torch.tensor(places, dtype=torch.long)
        return self.features[taken], self.targets[taken]


def as_they_are(batch: Any) -> Any:
    """Collate what is already stacked."""
    return batch


@lru_cache(maxsize=1)
def task_in(folder: str) -> dict[str, Any]:
    """Return the task, read once in each process."""
    found: dict[str, Any] = json.loads((Path(folder) / "task.json").read_text(encoding="utf-8"))
    return found


@lru_cache(maxsize=64)
def rows_of(folder: str, place: int, loader: str) -> Dataset:
    """Return a party's encoded rows, read once in each process."""
    with np.load(Path(folder) / "rows.npz") as rows:
        tensors = [torch.from_numpy(rows[f"{kind}_{place}"]) for kind in ("features", "targets")]
    return Indexed(*tensors) if loader == "indexed" else TensorDataset(*tensors)


@client_app.train()
def train(message: Message, context: Context) -> Message:
    """Train the received model for one private epoch on this party's rows."""
    config = message.content["config"]
    folder, threads = str(config["task"]), int(config["threads"])
    if threads:
        torch.set_num_threads(threads)
    task = task_in(folder)
    rows = rows_of(folder, int(context.node_config["partition-id"]), str(config["loader"]))

    model = Net(task["width"])
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=task["rate"])
    collate = {"collate_fn": as_they_are} if config["loader"] == "indexed" else {}
    loader = DataLoader(rows, batch_size=math.ceil(len(rows) / task["steps"]), **collate)
    criterion = nn.BCEWithLogitsLoss()
    made = PrivacyEngine(secure_mode=False).make_private(
        module=model,
        optimizer=optimizer,
        data_loader=loader,
        criterion=criterion,
        noise_multiplier=task["noise_multiplier"],
        max_grad_norm=task["clip_norm"],
        grad_sample_mode=str(config["mode"]),
    )
    private, optimizer, loader = made[0], made[1], made[-1]
    criterion = made[2] if len(made) == 4 else criterion  # the ghost engine clips in the loss
    private.train()
    for features, targets in loader:
        optimizer.zero_grad()
        criterion(private(features), targets).backward()
        optimizer.step()

    told = RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": MetricRecord({"num-examples": len(rows)})})
    return Message(told, reply_to=message)


def server_app_for(folder: Path, *, rounds: int, config: dict[str, str | int]) -> ServerApp:
    """Return the ServerApp: FedAvg over all parties in each round; marks the end of each."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        del context
        task = task_in(str(folder))
        model = Net(task["width"])
        nn.init.zeros_(model.linear.weight)  # ours starts there too
        nn.init.zeros_(model.linear.bias)
        parties = len(task["parties"])
        strategy = FedAvg(fraction_train=1.0, fraction_evaluate=0.0, min_train_nodes=parties,
                          min_available_nodes=parties)  # fmt: skip

        def after(number: int, arrays: ArrayRecord) -> MetricRecord:
            del arrays
            marked("round")
            return MetricRecord({"round": number})

        result = strategy.start(
            grid=grid,
            initial_arrays=ArrayRecord(model.state_dict()),
            train_config=ConfigRecord({"task": str(folder), **config}),
            num_rounds=rounds,
            evaluate_fn=after,
        )
        model.load_state_dict(result.arrays.to_torch_state_dict())
        with np.load(folder / "rows.npz") as rows, torch.no_grad():
            np.save(folder / "scores.npy", model(torch.from_numpy(rows["test"])).numpy())

    return app
