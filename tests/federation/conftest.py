"""Terms, parties and an honest coordinator, in memory."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from fedmarket.config import ExperimentConfig, load_config
from fedmarket.contract.schema import Contract
from fedmarket.experiment.arms import arm_named, terms_of
from fedmarket.federation.coordinator import Coordinator
from fedmarket.federation.messages import Request, Update
from fedmarket.federation.party import Party, PartyState
from fedmarket.federation.terms import Terms
from fedmarket.models.released import UNCALIBRATED, ModelState

CONTRACT = Contract.model_validate(
    {
        "format": "fedmarket-contract/1",
        "name": "test",
        "task": "propensity",
        "minimum_parties": 2,
        "label": {"column": "y", "positive": "yes", "negative": "no"},
        "privacy": {"unit": "row", "adjacency": "add-or-remove-one", "delta": 1e-5},
        "columns": [
            {"name": "a", "kind": "numeric", "lower": 0, "upper": 1},
            {"name": "b", "kind": "numeric", "lower": 0, "upper": 1},
        ],
    }
)


@dataclass
class Member:
    """A party with what it remembers, as a node keeps it."""

    party: Party
    state: PartyState = field(default_factory=PartyState)

    def answer(self, request: Request) -> Update:
        return self.party.answer(self.state, request, keep=self._keep)

    def _keep(self, state: PartyState) -> None:
        self.state = state


class World:
    """Makes terms, parties and runs; every number in it is public."""

    def __init__(self, config: ExperimentConfig) -> None:
        self.config = config

    def terms(self, arm: str = "federated_dp") -> Terms:
        return terms_of(arm_named(arm), self.config, CONTRACT, seed=0)

    def rows(self, count: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        features = np.zeros((count, 4), dtype=np.float32)
        features[:, [0, 2]] = rng.uniform(-0.9, 0.9, (count, 2))
        labels = (rng.uniform(size=count) < 0.3 + 0.3 * features[:, 0]).astype(np.float32)
        return features, labels

    def member(self, name: str, *, arm: str = "federated_dp", rows: int = 40, seed: int = 0) -> Member:
        features, labels = self.rows(rows, seed=seed)
        party = Party(name=name, terms=self.terms(arm), features=features, labels=labels, declared_rows=rows)
        return Member(party)

    def request(self, terms: Terms, round_number: int, **changed: object) -> Request:
        model = {
            "centre": np.zeros(terms.width),
            "parameters": np.zeros(terms.parameters),
            "calibration": UNCALIBRATED.copy(),
        }
        phase = terms.phase_of(round_number) if round_number < terms.rounds else "calibrate"
        fields = {"round_number": round_number, "phase": phase} | {k: v for k, v in changed.items() if k not in model}
        return Request(model=ModelState(**(model | {k: v for k, v in changed.items() if k in model})), **fields)

    def drive(self, coordinator: Coordinator, members: list[Member]) -> ModelState:
        """Run honest ``members`` to the end."""
        for member in members:
            coordinator.admit(member.party.join(coordinator.invitation()))
        while not coordinator.finished:
            request = coordinator.open_round()
            for member in members:
                coordinator.receive(member.answer(request))
            coordinator.close_round()
        return coordinator.model


@pytest.fixture(scope="session")
def world(write_market, tmp_path_factory: pytest.TempPathFactory) -> World:
    path: Path = write_market(
        tmp_path_factory.mktemp("world"),
        (
            "rounds = 3\nlocal_steps = 1\nlocal_learning_rate = 1.0\nlearning_rate = 1.0",
            "rounds = 3\nlocal_steps = 2\nlocal_learning_rate = 1.0\nlearning_rate = 1.0",
        ),
    )
    return World(load_config(path))
