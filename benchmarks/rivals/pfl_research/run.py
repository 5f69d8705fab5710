"""Federated averaging with central noise in pfl-research, in a process of its own: ``run.py FOLDER``.

As its documentation teaches: ``SimulatedBackend``, ``PyTorchModel``, ``FederatedAveraging``, a Gaussian mechanism
applied centrally, every party in every cohort. Each party takes one step on all its rows. Its rows come encoded, as
tensors that are made once; nothing is evaluated on the way and no metric is asked for. Noise is as large on the mean of
the updates as ours on the mean gradient. It protects a party's update as a whole, ours each customer: that pfl clips
twelve vectors a round and we a gradient of every row is work that ours does in addition.

It runs in an environment of its own: ``python -m venv V && V/bin/pip install pfl==0.6.0 torch==2.13.0``.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2])]

import numpy as np
import torch
from measuring import marked
from pfl.aggregate.simulate import SimulatedBackend
from pfl.algorithm.base import NNAlgorithmParams
from pfl.algorithm.federated_averaging import FederatedAveraging
from pfl.callback.base import TrainingProcessCallback
from pfl.data.dataset import Dataset
from pfl.data.federated_dataset import FederatedDataset
from pfl.data.sampling import get_user_sampler
from pfl.hyperparam import NNTrainHyperParams
from pfl.metrics import Metrics
from pfl.model.pytorch import PyTorchModel
from pfl.privacy.gaussian_mechanism import GaussianMechanism
from pfl.privacy.privacy_mechanism import CentrallyAppliedPrivacyMechanism
from torch import nn


class Net(nn.Module):
    """Logistic regression, with the two methods that pfl asks for."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the logits, (n,)."""
        return self.linear(rows).squeeze(1)

    def loss(self, rows: torch.Tensor, targets: torch.Tensor, **_: object) -> torch.Tensor:
        """Return the mean loss."""
        return nn.functional.binary_cross_entropy_with_logits(self(rows), targets)

    def metrics(self, rows: torch.Tensor, targets: torch.Tensor, **_: object) -> dict[str, float]:
        """Return none."""
        del rows, targets
        return {}


class Rounds(TrainingProcessCallback):
    """Marks the end of each round."""

    def after_central_iteration(
        self, aggregate_metrics: Metrics, model: PyTorchModel, *, central_iteration: int
    ) -> tuple[bool, Metrics]:
        """See pfl."""
        del aggregate_metrics, model, central_iteration
        marked("round")
        return False, Metrics()


def main() -> None:
    """Run what the options say."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("folder", type=Path, help="where task.json and rows.npz are")
    options.add_argument("--threads", type=int, default=1, help="of torch; 0 leaves them to it")
    chosen = options.parse_args()
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    marked("imported")
    task = json.loads((chosen.folder / "task.json").read_text(encoding="utf-8"))
    parties = len(task["parties"])
    with np.load(chosen.folder / "rows.npz") as rows:
        held = [
            [torch.from_numpy(rows[f"{kind}_{place}"]) for kind in ("features", "targets")] for place in range(parties)
        ]
        test = torch.from_numpy(rows["test"])
    datasets = [Dataset(raw_data=each, user_id=str(place)) for place, each in enumerate(held)]
    sampler = get_user_sampler("minimize_reuse", list(range(parties)))
    data = FederatedDataset(datasets.__getitem__, sampler)

    # A party's update is its step, so the bound on it is the step's length times the bound on a mean gradient.
    bound = task["rate"] * task["clip_norm"]
    # Noise on the sum of the updates, so that on their mean it is what ours is on the mean gradient, times the step.
    noise = parties * task["rate"] * task["noise_multiplier"] * task["clip_norm"] / task["rows"]
    net = Net(task["width"])
    model = PyTorchModel(
        net,
        local_optimizer_create=torch.optim.SGD,
        central_optimizer=torch.optim.SGD(net.parameters(), lr=1.0, momentum=task["momentum"]),
    )
    backend = SimulatedBackend(
        training_data=data,
        val_data=data,
        postprocessors=[CentrallyAppliedPrivacyMechanism(GaussianMechanism(bound, noise / bound))],
    )
    marked("round")  # as it begins, so that rounds are counted from here
    FederatedAveraging().run(
        algorithm_params=NNAlgorithmParams(
            central_num_iterations=task["rounds"],
            evaluation_frequency=10**9,
            train_cohort_size=parties,
            val_cohort_size=0,
        ),
        backend=backend,
        model=model,
        model_train_params=NNTrainHyperParams(
            local_num_epochs=1, local_learning_rate=task["rate"], local_batch_size=None
        ),
        callbacks=[Rounds()],
        send_metrics_to_platform=False,
    )
    with torch.no_grad():
        np.save(chosen.folder / "scores.npy", net(test).numpy())


if __name__ == "__main__":
    main()
