"""The coordinator's side of a run: opens rounds, passes messages on, sums what is valid, and moves the model.

It never holds a row. A bad reply is rejected by name and the round goes on with the others. A round with too few of
them is void: it moves nothing, and the next one starts afresh under its own number.
"""

import math
import os
from dataclasses import dataclass, field, replace
from unicodedata import category

import numpy as np
import torch

from fedmarket.aggregation.calibration import level_step, newton_step
from fedmarket.aggregation.optimizer import ServerOptimizer
from fedmarket.aggregation.secagg.context import RUN_SIZE
from fedmarket.aggregation.secagg.roster import Roster
from fedmarket.aggregation.secagg.server import SecureSum
from fedmarket.aggregation.steps import RELEASING, Step
from fedmarket.aggregation.summation import IdealSum, RoundSum
from fedmarket.arrays import FloatArray, WordArray
from fedmarket.errors import BadMessage, ConfigError, FederationStopped
from fedmarket.federation.causes import causes_of
from fedmarket.federation.logbook import Logbook
from fedmarket.federation.messages import (
    Acceptance,
    Closing,
    Invitation,
    Rejection,
    Request,
    Requests,
    Shown,
    Told,
    Update,
    VoidRound,
)
from fedmarket.federation.rounds import OpenRound, Rounds
from fedmarket.federation.terms import Terms
from fedmarket.models.network import first_units, initial_vector, load_vector, network_of, outputs_of
from fedmarket.models.released import typical_customer
from fedmarket.models.start import Start, placed
from fedmarket.models.state import ModelState
from fedmarket.privacy.histogram import SCORE_BINS, BinnedCounts, SegmentSums, Statistics
from fedmarket.privacy.shape import CALIBRATION_LENGTH, LEVEL_REACH, SEGMENT_REACH

LONGEST_NAME = 100
"""Characters of a party's name: it stands in one-line messages and in reports."""

BEGUN = "the server was stopped when it was only begun"
"""Why a round is void that was lost with the one before it; with that it counts as one."""

JOIN, CLOSE = "join", "close"
"""What a rejection names as its step before the first round and after the last."""


@dataclass(slots=True, kw_only=True)
class Coordinator:
    """A run from invitation to released model; drive it with the methods in the order in which they stand.

    Attributes:
        roster: who takes part in secure aggregation, where the terms ask for it.
        start: the public starting parameters that the terms name, where they name any.
        logbook: the log of the parties' ledgers; None only where a simulation makes a baseline to compare with.
        max_void_rounds: how many void rounds in a row end the run.
        statistics: what the run tells beside its model, as far as it has been released.

    Raises:
        UsageError: if the terms ask for secure aggregation and the roster is missing or was made for other terms, or
            the start is not the one that they name.
    """

    terms: Terms
    max_void_rounds: int
    start: Start | None = field(default=None, repr=False)
    roster: Roster | None = field(default=None, repr=False)
    logbook: Logbook | None = field(default=None, repr=False)
    rejections: list[Rejection] = field(default_factory=list)
    void_rounds: list[VoidRound] = field(default_factory=list)
    statistics: Statistics = field(default_factory=Statistics)
    _run: bytes = field(default_factory=lambda: os.urandom(RUN_SIZE))
    _declared: dict[str, int] = field(default_factory=dict)
    _rounds: Rounds = field(init=False, repr=False)
    _centre: FloatArray = field(init=False, repr=False)
    _scale: FloatArray = field(init=False, repr=False)
    _optimizer: ServerOptimizer = field(init=False, repr=False)
    _calibration: FloatArray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Start from the public initial parameters."""
        if self.terms.secagg == "ideal":
            self.roster = None
        elif self.roster is None:
            raise ConfigError("roster: aggregation.secagg is secure, which needs a roster")
        else:
            self.terms.need_fitting(self.roster)
        terms = self.terms
        self._rounds = Rounds(total=terms.rounds, begin=self._begun)
        if (self.start.hash if self.start else "") != terms.start_hash:
            raise ConfigError("start: not the public starting parameters that the terms name")
        start = initial_vector(terms.model, terms.width, terms.objective, seed=terms.initial_seed)
        start = self.start.parameters if self.start else start
        self._calibration = terms.objective.uncalibrated
        self._centre = np.zeros(self.terms.width)
        self._scale = np.ones(self.terms.width)
        self._optimizer = ServerOptimizer.starting_at(start)

    def invitation(self) -> Invitation:
        """Return what is sent to every node before the first round."""
        roster_hash = self.roster.hash.hex() if self.roster else ""
        return Invitation(run=self._run, terms_hash=self.terms.hash, roster_hash=roster_hash)

    def admit(self, acceptance: Acceptance) -> None:
        """Take a party into the run.

        Raises:
            BadMessage: if it holds other terms, or its name or size cannot be used.
        """
        if acceptance.terms_hash != self.terms.hash:
            raise BadMessage("the party holds other terms")
        if not _usable(acceptance.party):
            raise BadMessage(f"expected a name of 1 to {LONGEST_NAME} characters on one line")
        if self.roster and self.roster.index(acceptance.party) is None:
            raise BadMessage("the party is not in the roster")
        if acceptance.party in self._declared:
            raise BadMessage("a second party of the same name")
        if not 0 < acceptance.declared_rows <= self.terms.max_party_rows:
            raise BadMessage(f"expected 1 to {self.terms.max_party_rows} declared rows")
        if len(self._declared) >= self.terms.max_parties:
            raise BadMessage(f"more than {self.terms.max_parties} parties")
        if self.logbook:
            self.logbook.take(acceptance.party, acceptance.told)
        self._declared[acceptance.party] = acceptance.declared_rows

    def requests(self) -> dict[str, Requests]:
        """Return what goes to each party in the exchange that is due; opens the rounds that are to be opened.

        Raises:
            FederationStopped: if too few parties joined, or the run is over.
        """
        if self.finished:
            raise FederationStopped("the run is over")
        asked: dict[str, list[Request]] = {}
        for opened in self._rounds.due():
            for party, request in self._requests_of(opened).items():
                asked.setdefault(party, []).append(request)
        return {party: Requests(requests=tuple(requests)) for party, requests in asked.items()}

    def receive(self, update: Update) -> None:
        """Take one party's answer to a request of this exchange.

        Raises:
            BadMessage: if it is from a stranger, for another round or step, malformed, or the second of its party.
        """
        opened = self._rounds.asked(update.round_number, update.step)
        if update.party not in self._declared:
            raise BadMessage("from a party that did not join")
        if self.logbook and (opened.place == 0 or opened.step in RELEASING):
            self.logbook.take(update.party, update.told)
            self.logbook.need_reserved(update.party, self._run, opened.number)
        opened.sum.receive(update.step, update.party, update.content)

    def reject(self, party: str, reason: str, *, request: Request | None = None) -> None:
        """Note that ``party``'s answer was not used, and why; outside of the rounds there is no ``request``."""
        number = request.round_number if request else self._rounds.number
        step = request.step if request else CLOSE if self.finished else JOIN
        reason = reason.removeprefix(f"{party}: ")
        self.rejections.append(Rejection(round_number=number, step=step, party=party, reason=reason))

    def close_step(self) -> None:
        """End the exchange; after a round's last one move the model by the sum of the survivors.

        A void round moves nothing.

        Raises:
            FederationStopped: if more rounds in a row were void than is allowed.
        """
        if self.logbook and self.step in RELEASING:
            self.logbook.seal()
        self._rounds.close_steps()
        while over := self._rounds.next_over():
            if over.void:
                self._note_void(over.number, over.void)
            else:
                self._move(over.sum.total(), over.sum.survivors)
            self._rounds.leave()
            self._settle()

    def closings(self, *, last: bool) -> dict[str, Closing]:
        """Return what goes to each party when the rounds are over: the model that is handed on, then the whole log."""
        if not self.logbook:
            return {}
        if last:
            self.logbook.draw()
        return {
            party: Closing(run=self._run, shown=self._shown_to(party))
            if last
            else Closing(run=self._run, model_hash=self.model.hash)
            for party in self._declared
        }

    def receive_closing(self, party: str, told: Told | None) -> None:
        """Take a party's last entries, or its cosignature of the whole log.

        Raises:
            BadMessage: if they are bad.
        """
        if self.logbook:
            self.logbook.take(party, told)

    def seal(self) -> None:
        """Keep the checkpoint over the whole log, if a quorum cosigned it."""
        if self.logbook:
            self.logbook.seal()

    @property
    def run(self) -> bytes:
        """What no other run has, 16 bytes."""
        return self._run

    @property
    def step(self) -> Step:
        """The step that is due in the round that is worked on."""
        return self._rounds.first.step if self._rounds.first else self.terms.steps[0]

    @property
    def finished(self) -> bool:
        """Whether all rounds are closed."""
        return self._rounds.finished

    @property
    def parties(self) -> dict[str, int]:
        """The parties that joined, with the rows that they declared."""
        return dict(self._declared)

    @property
    def model(self) -> ModelState:
        """The model as it stands: the current iterate while training, the average afterwards."""
        training = self._rounds.number <= self.terms.schedule.rounds
        parameters = self._optimizer.parameters if training else self._optimizer.released
        return ModelState(centre=self._centre, scale=self._scale, parameters=parameters, calibration=self._calibration)

    def _shown_to(self, party: str) -> Shown | None:
        return self.logbook.shown_to(party) if self.logbook else None

    def _requests_of(self, opened: OpenRound) -> dict[str, Request]:
        """Return what one round asks of the parties that are still in it."""
        releasing = opened.step in RELEASING
        if self.logbook and releasing:
            self.logbook.draw()
        template = Request(
            run=self._run,
            round_number=opened.number,
            phase=self.terms.phase_of(opened.number),
            step=opened.step,
            model=self.model if releasing else None,
            packet=b"",
        )
        asked = {
            party: replace(template, packet=packet, shown=self._shown_to(party) if releasing else None)
            for party, packet in opened.sum.outgoing(opened.step).items()
            if party in self._declared
        }
        if releasing and asked:  # all parties are shown one model and one checkpoint
            opened.sum.bind(next(iter(asked.values())).inputs)
        return asked

    def _begun(self, number: int) -> RoundSum:
        """Open a round; the parties of the run are known by now."""
        least, joined = self.terms.minimum_survivors, len(self._declared)
        if joined < least:
            raise FederationStopped(f"{joined} parties joined, at least {least} are needed{self._causes(number)}")
        if self.roster:
            return SecureSum(self.terms.context_of(number, run=self._run, roster=self.roster))
        return IdealSum(
            round_number=number,
            parties=tuple(self._declared),
            least=least,
            length=self.terms.length_of(self.terms.phase_of(number)),
            modulus_bits=self.terms.modulus_bits,
        )

    def _settle(self) -> None:
        """Make the model ready for the round that is due now."""
        first_after_training = self._rounds.number == self.terms.schedule.rounds + 1
        if first_after_training and not self.finished and self.terms.phase_of(self._rounds.number) == "calibrate":
            self._calibration = self._identity_around_typical_logits()

    def _move(self, words: WordArray, survivors: tuple[str, ...]) -> None:
        phase = self.terms.phase_of(self._rounds.number)
        total = self.terms.grid_of(phase).decode(words)
        rows = sum(self._declared[party] for party in survivors)
        if phase == "centre":
            self._centre = self.terms.scaling.projected(total / rows)
            if self.terms.schedule.scaled:
                self._scale = self.terms.scaling.of(self._centre)
            if self.start:
                self._optimizer = ServerOptimizer.starting_at(self._placed(self.start))
            return
        mechanism = self.terms.plan.mechanism(phase)
        noise_std = mechanism.noise_std * math.sqrt(len(survivors) * self.terms.releases_in(phase))
        if phase == "update":
            drawn = mechanism.sample_rate * rows
            self._step(total / drawn, noise_std=noise_std / drawn)
        elif phase == "calibrate":
            self._recalibrate(total, noise_std=noise_std)
        elif phase == "level":
            factor = level_step(total, reach=LEVEL_REACH, noise_std=noise_std)
            self._calibration = np.append(self._calibration[:-1], factor * self._calibration[-1])
        elif phase == "segment":
            unit = SEGMENT_REACH * self._typical_value()
            segments = SegmentSums.of(total.reshape(-1, 3), unit=unit, noise_std=noise_std)
            self.statistics = replace(self.statistics, segments=segments)
        else:
            self._count(total, noise_std=noise_std)

    def _placed(self, start: Start) -> FloatArray:
        """Return the start for rows as the network sees them from now on."""
        units = first_units(self.terms.model, self.terms.objective)
        return placed(start.parameters, units=units, centre=self._centre, scale=self._scale)

    def _recalibrate(self, total: FloatArray, *, noise_std: float) -> None:
        """Move each probability's three numbers by its own statistics."""
        moved = self._calibration.copy()
        for head in range(self.terms.objective.probabilities):
            own = slice(3 * head, 3 * head + 3)
            statistics = total[CALIBRATION_LENGTH * head : CALIBRATION_LENGTH * (head + 1)]
            moved[own] = newton_step(moved[own], statistics, noise_std=noise_std)
        self._calibration = moved

    def _count(self, total: FloatArray, *, noise_std: float) -> None:
        """Keep the private evaluation: counts of scores first, then of values."""
        objective, scores, values = self.terms.objective, None, None
        split = 2 * SCORE_BINS * objective.response
        if objective.response:
            counts, typical = total[:split].reshape(2, -1), float(self._calibration[0])
            scores = BinnedCounts(counts=counts, typical=typical, noise_std=noise_std)
        if objective.value:
            counts, typical = total[split:].reshape(3, -1), self._typical_value()
            values = BinnedCounts(counts=counts, typical=typical, noise_std=noise_std)
        self.statistics = replace(self.statistics, scores=scores, values=values)

    def _typical_value(self) -> float:
        return typical_customer(self.terms.model, self.terms.objective, self.model).value_or_zero

    def _note_void(self, number: int, reason: str) -> None:
        self.void_rounds.append(VoidRound(round_number=number, reason=reason))
        row, first = 0, number
        for before, void in enumerate(reversed(self.void_rounds)):
            if void.round_number != number - before:
                break
            row += void.reason != BEGUN  # lost with the round before it, for one cause
            first = void.round_number
        # A run of void rounds alone has no model to release.
        if row >= self.max_void_rounds or len(self.void_rounds) == self.terms.rounds:
            raise FederationStopped(f"{reason}, as were all of the last {row}{self._causes(first)}")

    def _causes(self, first: int) -> str:
        """Say who was missing since round ``first``; who did not join is missing in every round."""
        return causes_of(said for said in self.rejections if said.step == JOIN or said.round_number >= first)

    def _step(self, gradient: FloatArray, *, noise_std: float) -> None:
        schedule = self.terms.schedule
        learning_rate = schedule.learning_rate
        if schedule.noise_walk and noise_std:
            # Momentum turns one step's noise into 1 / (1 - momentum) of it; over all rounds it is a random walk.
            walked = noise_std * math.sqrt(schedule.rounds) / (1.0 - schedule.momentum)
            learning_rate = min(learning_rate, schedule.noise_walk / walked)
        self._optimizer = self._optimizer.step(
            gradient + schedule.weight_decay * self._optimizer.parameters,
            learning_rate=learning_rate,
            momentum=schedule.momentum,
            average=self._rounds.number > schedule.average_after * schedule.rounds,
        )

    def _identity_around_typical_logits(self) -> FloatArray:
        """Return the calibration that changes nothing, pivoted on the logits of the average row."""
        objective = self.terms.objective
        network = network_of(self.terms.model, self.terms.width, objective)
        load_vector(network, self.model.parameters)
        # Rows are centred before the network sees them.
        pivots = outputs_of(network, torch.zeros(1, self.terms.width))[0, : objective.probabilities]
        numbers = [(pivot, 1.0, pivot) for pivot in pivots.tolist()]
        return np.array([*np.ravel(numbers), *self._calibration[3 * objective.probabilities :]])


def _usable(name: str) -> bool:
    """Whether ``name`` can stand in a one-line message: no control characters, line ends or halves of a character."""
    odd = {"Cc", "Cs", "Zl", "Zp"}
    return 0 < len(name.strip()) <= len(name) <= LONGEST_NAME and not any(category(c) in odd for c in name)
