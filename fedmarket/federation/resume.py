"""A coordinator's memory between two rounds, so that a server that was killed goes on where it stood.

What is kept are sums of noisy updates and what follows from them, who joined, and what was rejected: nothing that a
coordinator did not learn anyway, and no row. Rounds that were open are lost: parties may have entered them, and each
enters a round number once. So they are void, and the next number is opened.
"""

from dataclasses import asdict
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from fedmarket.aggregation.optimizer import ServerOptimizer
from fedmarket.arrays import AnyArray, FloatArray
from fedmarket.documents import Section
from fedmarket.errors import BadMessage, ConfigError
from fedmarket.federation.coordinator import BEGUN, JOIN, Coordinator
from fedmarket.federation.messages import Acceptance, Rejection, VoidRound
from fedmarket.privacy.histogram import BinnedCounts, SegmentSums, Statistics

LOST = "the server was stopped in it"
"""Why a round is void that was open when the server stopped."""

_Number = Annotated[int, Field(ge=0, lt=2**63)]


class Vector(Section):
    """An array of float64, little-endian."""

    shape: Annotated[tuple[_Number, ...], Field(strict=False, max_length=2)]
    content: Annotated[bytes, Field(repr=False)]

    @classmethod
    def of(cls, array: AnyArray) -> "Vector":
        """Return ``array`` as it is kept."""
        return cls(shape=array.shape, content=np.ascontiguousarray(array, dtype="<f8").tobytes())

    def array(self) -> FloatArray:
        """Return the array, or raise ValueError if its size is not that of its shape."""
        return np.frombuffer(self.content, "<f8").astype(np.float64).reshape(self.shape)


class Counted(Section):
    """See :class:`fedmarket.privacy.histogram.BinnedCounts`."""

    counts: Vector
    typical: float
    noise_std: float


class Segmented(Section):
    """See :class:`fedmarket.privacy.histogram.SegmentSums`."""

    sums: Vector
    noise_stds: Vector


class Saved(Section):
    """What a coordinator remembers.

    Attributes:
        roster_hash: empty where sums are in the open.
        round_number: the round that is due, or open.
        begun: rounds that parties may have been asked to enter.
        logged: entries in the log, of which none may be missing later.
    """

    run: Annotated[bytes, Field(min_length=16, max_length=16)]
    terms_hash: str
    roster_hash: str
    round_number: _Number
    begun: _Number
    logged: _Number
    declared: dict[str, _Number]
    centre: Vector
    scale: Vector
    parameters: Vector
    velocity: Vector
    iterate_sum: Vector
    averaged: _Number
    calibration: Vector
    scores: Counted | None
    values: Counted | None
    segments: Segmented | None
    rejections: tuple[dict[Literal["round_number", "step", "party", "reason"], int | str], ...] = Field(strict=False)
    void_rounds: tuple[dict[Literal["round_number", "reason"], int | str], ...] = Field(strict=False)


def saved_of(coordinator: Coordinator) -> Saved:
    """Return what ``coordinator`` remembers of the rounds that are over, and which others are begun."""
    told, optimizer = coordinator.statistics, coordinator._optimizer
    return Saved(
        run=coordinator.run,
        terms_hash=coordinator.terms.hash,
        roster_hash=_roster_hash(coordinator),
        round_number=coordinator._rounds.number,
        begun=coordinator._rounds.begun,
        logged=coordinator.logbook.log.size if coordinator.logbook else 0,
        declared=coordinator.parties,
        centre=Vector.of(coordinator._centre),
        scale=Vector.of(coordinator._scale),
        parameters=Vector.of(optimizer.parameters),
        velocity=Vector.of(optimizer.velocity),
        iterate_sum=Vector.of(optimizer.iterate_sum),
        averaged=optimizer.averaged,
        calibration=Vector.of(coordinator._calibration),
        scores=_counted(told.scores),
        values=_counted(told.values),
        segments=_segmented(told.segments),
        rejections=tuple(asdict(rejection) for rejection in coordinator.rejections),
        void_rounds=tuple(asdict(void) for void in coordinator.void_rounds),
    )


def restore(coordinator: Coordinator, saved: Saved) -> None:
    """Let a fresh coordinator go on where the one that ``saved`` is of stood.

    Raises:
        ConfigError: if it was of other terms or another roster, its log had entries that are gone, or its numbers do
            not fit the terms.
        FederationStopped: if the rounds that were open are void rounds in a row too many.
    """
    if saved.terms_hash != coordinator.terms.hash:
        raise ConfigError("this run was begun under other terms: configuration or contract changed since")
    if saved.roster_hash != _roster_hash(coordinator):
        raise ConfigError("this run was begun with another roster")
    if coordinator.logbook and coordinator.logbook.log.size < saved.logged:
        raise ConfigError(
            f"the log has {coordinator.logbook.log.size} entries, but had {saved.logged}: it is not this run's log"
        )
    if saved.begun < saved.round_number:
        raise ConfigError("what was kept of this run does not fit its terms")
    coordinator._run, coordinator._rounds.begun = saved.run, saved.round_number
    coordinator._declared = dict(saved.declared)
    rejections = [Rejection(**fields) for fields in saved.rejections]  # type: ignore[arg-type]
    coordinator.rejections = [said for said in rejections if said.step != JOIN]  # all are invited again
    coordinator.void_rounds = [VoidRound(**fields) for fields in saved.void_rounds]  # type: ignore[arg-type]
    try:
        _restore_numbers(coordinator, saved)
    except ValueError:
        raise ConfigError("what was kept of this run does not fit its terms") from None
    for number in range(saved.round_number, saved.begun):
        coordinator._note_void(number, LOST if number == saved.round_number else BEGUN)
        coordinator._rounds.begun = number + 1
        coordinator._settle()


def readmit(coordinator: Coordinator, acceptance: Acceptance) -> None:
    """Take a party into a run that goes on: one that was in it comes back as what it was.

    Raises:
        BadMessage: as :meth:`Coordinator.admit` does, or if it declares another size now.
    """
    party = acceptance.party
    before = coordinator._declared.pop(party, None)
    try:
        if before not in (None, acceptance.declared_rows):
            raise BadMessage("declares another number of rows than before")
        coordinator.admit(acceptance)
    except BadMessage:
        if before is not None:
            coordinator._declared[party] = before
        raise


def due_round(coordinator: Coordinator) -> int:
    """Return the number of the round that is open or due; of as many as the run has when it is over."""
    return coordinator._rounds.number


def begun_rounds(coordinator: Coordinator) -> int:
    """Return how many rounds were opened so far."""
    return coordinator._rounds.begun


def _restore_numbers(coordinator: Coordinator, saved: Saved) -> None:
    fresh = coordinator.model
    centre, scale, calibration = saved.centre.array(), saved.scale.array(), saved.calibration.array()
    optimizer = ServerOptimizer(
        parameters=saved.parameters.array(),
        velocity=saved.velocity.array(),
        iterate_sum=saved.iterate_sum.array(),
        averaged=saved.averaged,
    )
    pairs = [(centre, fresh.centre), (scale, fresh.scale), (calibration, fresh.calibration)]
    pairs += [(part, fresh.parameters) for part in (optimizer.parameters, optimizer.velocity, optimizer.iterate_sum)]
    if any(kept.shape != known.shape or not np.isfinite(kept).all() for kept, known in pairs):
        raise ValueError
    coordinator._centre, coordinator._scale, coordinator._calibration = centre, scale, calibration
    coordinator._optimizer = optimizer
    coordinator.statistics = Statistics(
        scores=_binned(saved.scores), values=_binned(saved.values), segments=_sums(saved.segments)
    )


def _counted(binned: BinnedCounts | None) -> Counted | None:
    if binned is None:
        return None
    return Counted(counts=Vector.of(binned.counts), typical=float(binned.typical), noise_std=float(binned.noise_std))


def _binned(counted: Counted | None) -> BinnedCounts | None:
    if counted is None:
        return None
    return BinnedCounts(counts=counted.counts.array(), typical=counted.typical, noise_std=counted.noise_std)


def _segmented(sums: SegmentSums | None) -> Segmented | None:
    return None if sums is None else Segmented(sums=Vector.of(sums.sums), noise_stds=Vector.of(sums.noise_stds))


def _sums(segmented: Segmented | None) -> SegmentSums | None:
    if segmented is None:
        return None
    return SegmentSums(sums=segmented.sums.array(), noise_stds=segmented.noise_stds.array())


def _roster_hash(coordinator: Coordinator) -> str:
    return coordinator.roster.hash.hex() if coordinator.roster else ""
