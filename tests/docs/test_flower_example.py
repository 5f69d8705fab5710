"""The example app sums what parties released, less a party that left, and parties count what the accountants say."""

import math
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from flwr.app import Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from scipy.special import expit

from fedmarket.evaluation.metrics import auc
from fedmarket.evaluation.ranking import rank
from fedmarket.files import read_toml
from fedmarket.flower.inprocess import InProcessGrid, load_apps
from fedmarket.models.network import load_vector, outputs_of
from fedmarket.privacy.accountant import gaussian_epsilon

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "flower-app"
NODES = 5


@pytest.fixture
def modules(monkeypatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(EXAMPLE)
    for name, value in {"_run_id": 1, "_node_id": 0, "_task_id": 0}.items():  # which Flower stamps messages with
        monkeypatch.setattr(TaskIdentity, name, value)
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "noisyapp"]:
        del sys.modules[name]


@pytest.fixture
def roster(tmp_path: Path) -> str:
    command = [sys.executable, "-m", "noisyapp.keys", str(tmp_path / "keys")]
    return subprocess.run(command, cwd=EXAMPLE, capture_output=True, text=True, timeout=120, check=True).stdout.strip()


@pytest.fixture
def released(modules, monkeypatch) -> dict[bytes, list[np.ndarray]]:
    """Every noisy sum that a party made, by the parameters that it was made at."""
    private = part("private")
    made, real = defaultdict(list), private.noisy_sum

    def recorded(parameters, *given):
        made[parameters.tobytes()].append(noisy := real(parameters, *given))
        return noisy

    monkeypatch.setattr(private, "noisy_sum", recorded)
    return made


def part(name: str) -> ModuleType:
    """Return a module of the example."""
    return import_module(f"noisyapp.{name}")


def ran(**changes) -> Context:
    """Return what the ServerApp leaves behind."""
    config = read_toml(EXAMPLE / "pyproject.toml")["tool"]["flwr"]["app"]["config"] | changes
    apps = load_apps(EXAMPLE)
    contexts = {
        number + 1: Context(
            run_id=1,
            node_id=number + 1,
            node_config={"partition-id": number, "num-partitions": NODES},
            state=RecordDict(),
            run_config=config,
        )
        for number in range(NODES)
    }
    context = Context(run_id=1, node_id=0, node_config={}, state=RecordDict(), run_config=config)
    apps.server(InProcessGrid(apps.client, contexts, on_exchange=lambda _: None), context)
    return context


@pytest.mark.parametrize("masked", [True, False])
def test_the_server_has_the_sum_of_what_the_survivors_released(masked: bool, released, roster: str):
    changes = {"silent-party": "cedar", "silent-round": 1}
    left = ran(masked=masked, roster=roster if masked else "", rounds=3, **changes).state
    survivors = [left[f"survivors-{number}"]["names"] for number in range(3)]
    everyone = ["atlas", "birch", "cedar", "delta", "ember"]
    assert survivors == [everyone, ["atlas", "birch", "delta", "ember"], everyone]
    for number, sums in enumerate(released.values()):
        assert len(sums) == len(survivors[number])
        total = left[f"sum-{number}"]["total"].numpy()
        if masked:  # parties draw on the grid already: nothing is rounded, and nothing may be lost
            assert np.array_equal(total, np.sum(sums, axis=0))
        else:
            assert np.allclose(total, np.sum(sums, axis=0), rtol=0, atol=1e-3)
        assert np.std(total) > 5  # there is noise in it


def test_parties_count_what_the_accountants_say(modules, roster: str):
    said = {"rounds": 3, "silent-party": "cedar", "silent-round": 1}
    for masked in (True, False):
        given = {"masked": masked, "roster": roster, "epsilon": 2.0, "rounds": 3}
        spent, terms = ran(**given | said).state["spent"], part("agreed").Agreement.of(given)
        whole, less = (terms.plan.spent({"update": count}).epsilon for count in (3, 2))
        assert spent == {name: less if name == "cedar" else whole for name in spent}
        assert 1.999 < whole <= 2.0
        if not masked:  # of full batches there is a formula: mu is the square root of the rounds over the multiplier
            mu = math.sqrt(3) / terms.update.noise_multiplier
            assert whole == pytest.approx(gaussian_epsilon(mu, 1e-5), abs=1e-3)


def test_shared_noise_costs_less_than_noise_of_ones_own(modules, roster: str):
    masked, alone = (
        part("agreed").Agreement.of({"masked": masked, "roster": roster, "epsilon": 2.0, "rounds": 20}).update.noise_std
        for masked in (True, False)
    )
    assert masked == pytest.approx(alone / math.sqrt(3), rel=1e-3)  # three shares are sure to be unknown


def test_a_round_that_too_few_survive_is_void(modules, roster: str, monkeypatch):
    private = part("private")
    real = private.rows_of

    def rows_of(place):
        if place in (1, 3):
            raise RuntimeError("no table")
        return real(place)

    monkeypatch.setattr(private, "rows_of", rows_of)
    left = ran(roster=roster, rounds=1).state
    assert "sum-0" not in left
    assert all(epsilon > 1.9 for epsilon in left["spent"].values())  # what was charged is spent


def test_a_share_of_noise_never_leaves_without_a_mask(modules, roster: str):
    config = {"masked": True, "roster": roster, "epsilon": 2.0, "rounds": 1}
    context = Context(run_id=1, node_id=1, node_config={"partition-id": 0}, state=RecordDict(), run_config=config)
    message = Message(RecordDict(), dst_node_id=1, message_type="train.sum")
    with pytest.raises(ValueError, match="must not leave without a mask"):
        part("client_app").in_the_open(message, context)


def test_the_model_learns(modules, roster: str):
    rows = part("private").rows_of(99)  # of nobody who took part

    def reached(parameters: np.ndarray) -> float:
        network = part("agreed").network()
        load_vector(network, parameters)
        return auc(rank(rows.targets[:, 0].numpy(), expit(outputs_of(network, rows.features)[:, 0])))

    assert reached(ran(roster=roster).state["model"]["parameters"].numpy()) > 0.75
