"""The coordinator's side of a run: opens rounds, takes what is valid, sums, and moves the model.

It never holds a row. A bad reply is rejected by name and the round goes on with the others; below the agreed minimum
of parties the run stops.
"""

import math
from dataclasses import dataclass, field
from unicodedata import category

import numpy as np
import torch

from fedmarket.aggregation.calibration import newton_step
from fedmarket.aggregation.optimizer import ServerOptimizer
from fedmarket.aggregation.summation import IdealSum, RoundSum
from fedmarket.arrays import FloatArray
from fedmarket.errors import BadMessage, FederationStopped
from fedmarket.federation.messages import Acceptance, Invitation, Rejection, Request, Update
from fedmarket.federation.terms import Terms
from fedmarket.models.propensity import initial_vector, load_vector, logits, network_of
from fedmarket.models.released import UNCALIBRATED, ModelState

LONGEST_NAME = 100
"""Characters of a party's name: it stands in one-line messages and in reports."""


@dataclass(slots=True, kw_only=True)
class Coordinator:
    """A run from invitation to released model; drive it with the methods in the order in which they stand."""

    terms: Terms
    rejections: list[Rejection] = field(default_factory=list)
    _declared: dict[str, int] = field(default_factory=dict)
    _round: int = 0
    _sum: RoundSum | None = None
    _centre: FloatArray = field(init=False, repr=False)
    _optimizer: ServerOptimizer = field(init=False, repr=False)
    _calibration: FloatArray = field(default_factory=UNCALIBRATED.copy, repr=False)

    def __post_init__(self) -> None:
        """Start from the public initial parameters."""
        start = initial_vector(self.terms.model, self.terms.width, seed=self.terms.initial_seed)
        self._centre = np.zeros(self.terms.width)
        self._optimizer = ServerOptimizer.starting_at(start)

    def invitation(self) -> Invitation:
        """Return what is sent to every node before the first round."""
        return Invitation(terms_hash=self.terms.hash)

    def admit(self, acceptance: Acceptance) -> None:
        """Take a party into the run.

        Raises:
            BadMessage: if it holds other terms, or its name or size cannot be used.
        """
        if acceptance.terms_hash != self.terms.hash:
            raise BadMessage("the party holds other terms")
        if not _usable(acceptance.party):
            raise BadMessage(f"expected a name of 1 to {LONGEST_NAME} characters on one line")
        if acceptance.party in self._declared:
            raise BadMessage("a second party of the same name")
        if not 0 < acceptance.declared_rows <= self.terms.max_party_rows:
            raise BadMessage(f"expected 1 to {self.terms.max_party_rows} declared rows")
        if len(self._declared) >= self.terms.max_parties:
            raise BadMessage(f"more than {self.terms.max_parties} parties")
        self._declared[acceptance.party] = acceptance.declared_rows

    def open_round(self) -> Request:
        """Return the request of the next round, the same for every party.

        Raises:
            FederationStopped: if fewer parties than the agreed minimum are in the run.
        """
        self._need(len(self._declared))
        phase = self.terms.phase_of(self._round)
        grid = self.terms.grid_of(phase)
        self._sum = IdealSum(length=self.terms.length_of(phase), word_dtype=grid.word_dtype)
        if phase == "calibrate" and self._round == self.terms.schedule.rounds + 1:
            self._calibration = self._identity_around_typical_logit()
        return Request(round_number=self._round, phase=phase, model=self.model)

    def receive(self, update: Update) -> None:
        """Take one party's update into the sum of the open round.

        Raises:
            BadMessage: if it is from a stranger, for another round, malformed, or the second of its party.
        """
        if self._sum is None:
            raise BadMessage("no round is open")
        if update.party not in self._declared:
            raise BadMessage("from a party that did not join")
        if update.round_number != self._round:
            raise BadMessage(f"for round {update.round_number}, but round {self._round} is open")
        self._sum.add(update.party, update.words)

    def reject(self, party: str, reason: str) -> None:
        """Note that ``party``'s message in this round was not used, and why."""
        self.rejections.append(Rejection(round_number=self._round, party=party, reason=reason))

    def close_round(self) -> None:
        """Move the model by the sum of the survivors and go to the next round.

        Raises:
            FederationStopped: if fewer parties than the agreed minimum survived.
        """
        if self._sum is None:
            raise BadMessage("no round is open")
        survivors = self._sum.survivors
        self._need(len(survivors))
        phase = self.terms.phase_of(self._round)
        total = self.terms.grid_of(phase).decode(self._sum.total())
        rows = sum(self._declared[party] for party in survivors)
        if phase == "centre":
            self._centre = total / rows
        elif phase == "update":
            self._step(total / (self.terms.plan.mechanism("update").sample_rate * rows))
        else:
            noise_std = self.terms.plan.mechanism("calibrate").noise_std * math.sqrt(len(survivors))
            self._calibration = newton_step(self._calibration, total, noise_std=noise_std)
        self._sum = None
        self._round += 1

    @property
    def finished(self) -> bool:
        """Whether all rounds are closed."""
        return self._round >= self.terms.rounds

    @property
    def parties(self) -> dict[str, int]:
        """The parties that joined, with the rows that they declared."""
        return dict(self._declared)

    @property
    def model(self) -> ModelState:
        """The model as it stands: the current iterate while training, the average afterwards."""
        training = self._round <= self.terms.schedule.rounds
        parameters = self._optimizer.parameters if training else self._optimizer.released
        return ModelState(centre=self._centre, parameters=parameters, calibration=self._calibration)

    def _step(self, gradient: FloatArray) -> None:
        schedule = self.terms.schedule
        self._optimizer = self._optimizer.step(
            gradient + schedule.weight_decay * self._optimizer.parameters,
            learning_rate=schedule.learning_rate,
            momentum=schedule.momentum,
            average=self._round > schedule.average_after * schedule.rounds,
        )

    def _need(self, parties: int) -> None:
        if parties < self.terms.minimum_parties:
            causes = "; ".join(f"{r.party}: {r.reason}" for r in self.rejections[-3:])
            raise FederationStopped(
                f"round {self._round}: {parties} parties left, the contract needs {self.terms.minimum_parties}"
                + (f" ({causes})" if causes else "")
            )

    def _identity_around_typical_logit(self) -> FloatArray:
        """Return the calibration that changes nothing, pivoted on the logit of the average row."""
        network = network_of(self.terms.model, self.terms.width)
        load_vector(network, self.model.parameters)
        average_row = torch.zeros(1, self.terms.width)  # rows are centred before the network sees them
        pivot = float(logits(network, average_row)[0])
        return np.array([pivot, 1.0, pivot])


def _usable(name: str) -> bool:
    """Whether ``name`` can stand in a one-line message: no control characters, line ends or halves of a character."""
    odd = {"Cc", "Cs", "Zl", "Zp"}
    return 0 < len(name.strip()) <= len(name) <= LONGEST_NAME and not any(category(c) in odd for c in name)
