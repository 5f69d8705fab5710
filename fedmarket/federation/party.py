"""The party's side of a run: checks each request against its own terms and budget, then releases one noisy sum.

The steps of a round, in this order:

1. check the request: known round, not answered before, right phase, right shapes, finite numbers;
2. charge the budget and keep the new state, or refuse;
3. compute the sum over the own rows, clip and noise as the own plan says;
4. round to integers, or refuse if out of range.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

from fedmarket.arrays import AnyArray, FeatureArray, FloatArray
from fedmarket.errors import BadMessage, DataError, PlanError
from fedmarket.federation.messages import Acceptance, Invitation, Request, Update
from fedmarket.federation.terms import Terms
from fedmarket.models.propensity import network_of
from fedmarket.models.released import ModelState, centred
from fedmarket.privacy.budget import Spending
from fedmarket.privacy.noise import Stream
from fedmarket.training.sums import calibration_sum, feature_sum, update_sum


@dataclass(frozen=True, slots=True, kw_only=True)
class PartyState:
    """What a party must remember between rounds: the last round that it answered, and what it spent."""

    last_round: int = -1
    spending: Spending = field(default_factory=Spending)


@dataclass(slots=True, kw_only=True)
class Party:
    """One party with its own encoded rows.

    Attributes:
        features: (n, width) encoded rows.
        labels: (n,) 0 or 1.
        declared_rows: the size that the party makes public; sampling and step sizes use it, never ``n``.
        test_seed: with the plan's generator ``seeded-for-tests``, where reproducible noise starts.

    Guarantees:
        Whatever the coordinator sends, over any number of messages, the party releases at most what its own plan
        allows, each release with the plan's clip and noise, and one release for each round number.
    """

    name: str
    terms: Terms
    features: FeatureArray = field(repr=False)
    labels: FeatureArray = field(repr=False)
    declared_rows: int
    test_seed: int = 0
    _centred: tuple[FloatArray, torch.Tensor] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Refuse rows that would break the guarantee, and sizes that the terms do not allow."""
        if self.features.shape[1:] != (self.terms.width,) or self.labels.shape != self.features.shape[:1]:
            raise DataError(f"party {self.name}: expected rows of width {self.terms.width} with one label each")
        if not np.all((self.labels == 0) | (self.labels == 1)):
            raise DataError(f"party {self.name}: expected labels 0 and 1")
        norms = np.linalg.norm(self.features, axis=1)
        bound = self.terms.plan.mechanism("centre").clip_norm * (1 + 1e-6)
        if not np.all(norms <= bound):
            count = int(np.count_nonzero(~(norms <= bound)))
            raise DataError(f"party {self.name}: {count} encoded rows are not finite or beyond the norm bound")
        most = self.terms.max_party_rows
        if not 0 < self.declared_rows <= most:
            raise PlanError(
                f"party {self.name}: declares {self.declared_rows} rows, "
                f"expected at most federation.max_party_rows = {most}"
            )
        if len(self.labels) > most:  # the integer range holds the sum of so many rows and no more
            raise DataError(f"party {self.name}: has more rows than federation.max_party_rows = {most}")
        rate = self.terms.plan.mechanism("update").sample_rate
        if rate * self.declared_rows < 1:
            raise PlanError(
                f"party {self.name}: privacy.sample_rate {rate:g} of {self.declared_rows} declared rows "
                "is less than one row a step"
            )

    def join(self, invitation: Invitation) -> Acceptance:
        """Answer an invitation.

        Raises:
            BadMessage: if the coordinator holds other terms.
        """
        if invitation.terms_hash != self.terms.hash:
            raise BadMessage(
                f"terms differ: the coordinator holds {invitation.terms_hash[:12]}, this party {self.terms.hash[:12]}"
            )
        return Acceptance(party=self.name, declared_rows=self.declared_rows, terms_hash=self.terms.hash)

    def answer(self, state: PartyState, request: Request, *, keep: Callable[[PartyState], None]) -> Update:
        """Return the update, after ``keep`` has stored the state that pays for it.

        The state is kept before anything is computed: what fails afterwards is spent, and cannot be asked for again.

        Raises:
            BadMessage: if the request is malformed, repeated, or out of order, or the result out of range.
            Refusal: if the budget does not allow the release.
        """
        self._check(state, request)
        count = self.terms.releases_in(request.phase)
        charged = PartyState(
            last_round=request.round_number,
            spending=state.spending.charged(self.terms.plan, request.phase, count),
        )
        keep(charged)
        released = self._release(request)
        words = self.terms.grid_of(request.phase).encode(released)
        return Update(party=self.name, round_number=request.round_number, words=words)

    def _check(self, state: PartyState, request: Request) -> None:
        if not state.last_round < request.round_number < self.terms.rounds:
            raise BadMessage(
                f"round {request.round_number} is not open: last answered {state.last_round}, "
                f"the run has {self.terms.rounds}"
            )
        expected = self.terms.phase_of(request.round_number)
        if request.phase != expected:
            raise BadMessage(f"round {request.round_number}: expected phase {expected}, got {request.phase!r}")
        _check_vector("centre", request.model.centre, self.terms.width)
        _check_vector("parameters", request.model.parameters, self.terms.parameters)
        _check_vector("calibration", request.model.calibration, 3)

    def _release(self, request: Request) -> FloatArray:
        mechanism = self.terms.plan.mechanism(request.phase)
        stream = self._stream(request.round_number)
        if request.phase == "centre":
            return feature_sum(self.features, mechanism=mechanism, stream=stream)
        network = network_of(self.terms.model, self.terms.width)
        features = self._features_around(request.model)
        if request.phase == "calibrate":
            return calibration_sum(
                network,
                request.model.parameters,
                request.model.calibration,
                features,
                self.labels,
                mechanism=mechanism,
                stream=stream,
            )
        return update_sum(
            network,
            request.model.parameters,
            features,
            torch.from_numpy(self.labels),
            steps=self.terms.schedule.local_steps,
            learning_rate=self.terms.schedule.local_learning_rate,
            declared_rows=self.declared_rows,
            mechanism=mechanism,
            stream=stream,
        )

    def _stream(self, round_number: int) -> Stream:
        if self.terms.plan.generator == "seeded-for-tests":
            return Stream.seeded(self.test_seed, self.name, str(round_number))
        return Stream.secret()

    def _features_around(self, model: ModelState) -> torch.Tensor:
        """Return the rows minus the model's centre; the centre is the same in all rounds but the first."""
        if self._centred is None or not np.array_equal(self._centred[0], model.centre):
            self._centred = (model.centre, centred(self.features, model.centre))
        return self._centred[1]


def _check_vector(name: str, vector: AnyArray, length: int) -> None:
    if vector.dtype != np.float64 or vector.shape != (length,):
        raise BadMessage(f"{name}: expected float64 of shape ({length},), got {vector.dtype} of shape {vector.shape}")
    # Beyond float32 the network's arithmetic would overflow.
    if not np.all(np.abs(vector) < np.finfo(np.float32).max):
        raise BadMessage(f"{name}: expected finite numbers")
