"""The privacy plan: one frozen object from which clip, noise, sampling *and* privacy events are taken.

A run is a fixed sequence of noisy sums over a party's rows, each a :class:`fedmarket.privacy.mechanism.Mechanism`:
the feature means (``centre``), the training steps (``update``), the recalibration of probabilities (``calibrate``) and
of the value's level (``level``), the sums of each segment (``segment``), and the scores of held-out rows
(``evaluate``). Those that a run does not have are not in its plan.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np
from scipy.optimize import brentq

from fedmarket.config import PrivacySection, Schedule
from fedmarket.contract.schema import PrivacyTerms
from fedmarket.errors import PlanError
from fedmarket.privacy.accountant import Event, Spent, gaussian_mu, one_accountant, spent
from fedmarket.privacy.mechanism import NOISE_REACH, ROW_TOLERANCE, Grid, Mechanism, Phase, finest_step
from fedmarket.privacy.shape import Shape

Generator = Literal["operating-system", "seeded-for-tests"]

HELD_OUT: tuple[Phase, ...] = ("evaluate",)
"""Phases that look at held-out rows, and at no others."""

FINEST_STEP = 2.0**-24
"""Least step of a grid of shared noise, in clip norms: rounding then costs next to nothing."""

FINEST_IN_FLOAT64 = 2.0**-51
"""Least step of such a grid, in the largest sums: float64 then holds every number of steps exactly."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharing:
    """How many shares of noise there are, and the public bounds of the integer sums that carry them.

    Attributes:
        shares: how many parties' noise an observer is sure not to know; the noise is sized for these.
        parties: most parties in a sum.
        party_rows: most rows of a party.
        modulus_bits: width of a word.
    """

    shares: int
    parties: int
    party_rows: int
    modulus_bits: Literal[32, 64]


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacyPlan:
    """What one party releases in a run, and under which neighbouring relation it is protected."""

    unit: str
    adjacency: Literal["add-or-remove-one", "replace-one"]
    delta: float
    generator: Generator
    mechanisms: tuple[Mechanism, ...]

    @property
    def private(self) -> bool:
        """Whether every release carries noise from a generator that an observer cannot predict."""
        noisy = all(mechanism.noise_multiplier > 0 for mechanism in self.mechanisms)
        return noisy and self.generator == "operating-system"

    def mechanism(self, phase: Phase) -> Mechanism:
        """Return the mechanism of ``phase``.

        Raises:
            PlanError: if the run has no such phase.
        """
        for mechanism in self.mechanisms:
            if mechanism.phase == phase:
                return mechanism
        raise PlanError(f"this run releases nothing in the phase {phase}")

    def releases_of(self, phase: Phase) -> int:
        """Return how often ``phase`` may run; 0 where the run has no such phase."""
        return sum(mechanism.releases for mechanism in self.mechanisms if mechanism.phase == phase)

    @property
    def shares(self) -> int | None:
        """How many parties' noise together is enough; None where each one's is enough alone."""
        grid = self.mechanisms[0].grid
        return grid.shares if grid is not None else None

    def spent(self, releases: dict[Phase, int] | None = None) -> Spent:
        """Return epsilon after ``releases`` uses of each mechanism (by default after the whole run).

        Guarantees:
            Epsilon is composed over all releases of the run together, never per round. A row is either trained on or
            held out, which is fixed before the run, so it pays for its own releases alone, and the larger epsilon is
            that of every row (parallel composition, McSherry 2009, theorem 4). Where noise is shared it holds against
            an observer who misses no more shares than the plan counts on.
        """
        counts = releases if releases is not None else {m.phase: m.releases for m in self.mechanisms}
        return max((self._spent(group, counts) for group in self._groups()), key=lambda found: found.epsilon)

    def sought(self, releases: dict[Phase, int]) -> float:
        """Return what one accountant finds after ``releases`` uses of each mechanism: for a search, not a promise."""
        found = []
        for group in self._groups():
            events, distance = self._events(group, releases)
            found.append(one_accountant(events, delta=self.delta, adjacency=self.adjacency, distance=distance))
        return max(found)

    def epsilon_against(self, shares: int) -> float:
        """Return epsilon of the whole run against an observer who misses ``shares`` shares of noise, or more.

        Where each party's noise is enough alone, that is the same for all observers. One accountant finds it: it is
        a statement beside the promise, which :meth:`spent` makes.
        """
        if self.shares is None:
            return self.spent().epsilon
        return max(
            one_accountant(
                tuple(mechanism.event(shares=shares) for mechanism in group),
                delta=self.delta,
                adjacency=self.adjacency,
            )
            for group in self._groups()
        )

    def _groups(self) -> tuple[tuple[Mechanism, ...], tuple[Mechanism, ...]]:
        """Return the mechanisms of training rows and those of held-out rows."""
        held_out = tuple(mechanism for mechanism in self.mechanisms if mechanism.phase in HELD_OUT)
        return tuple(mechanism for mechanism in self.mechanisms if mechanism not in held_out), held_out

    def _spent(self, group: tuple[Mechanism, ...], counts: dict[Phase, int]) -> Spent:
        events, distance = self._events(group, counts)
        return spent(events, delta=self.delta, adjacency=self.adjacency, distance=distance)

    @staticmethod
    def _events(group: tuple[Mechanism, ...], counts: dict[Phase, int]) -> tuple[tuple[Event, ...], float]:
        """Return the events of so many uses, and their distance from what really happens."""
        used = [mechanism for mechanism in group if counts.get(mechanism.phase, 0)]
        distance = sum(mechanism.distance * counts[mechanism.phase] for mechanism in used)
        return tuple(mechanism.event(counts[mechanism.phase]) for mechanism in used), distance


def plan_for(
    privacy: PrivacySection,
    terms: PrivacyTerms,
    schedule: Schedule,
    *,
    shape: Shape,
    sharing: Sharing | None = None,
) -> PrivacyPlan:
    """Return the plan whose whole run spends at most ``privacy.epsilon`` at the contract's delta.

    The shares of ``privacy.shares`` are shares of mu squared, which adds up under composition of Gaussian mechanisms
    (Dong et al. 2022, corollary 3.3); what remains goes to the updates, whose noise is found by root finding with one
    accountant, then held against both: the reported epsilon is the larger one.

    ``shape`` says what is released. ``sharing`` is needed where ``privacy.noise`` is ``distributed``.

    Raises:
        PlanError: if the relation or the schedule is not supported for this noise or sampling, or no noise reaches the
            target.
    """
    outline = _outline(privacy, terms, schedule, shape)
    if privacy.noise == "distributed":
        if sharing is None:
            raise PlanError("privacy.noise: distributed noise needs the number of its shares")
        if schedule.local_steps > 1:
            raise PlanError(
                f"local_steps of a private schedule: expected 1 with distributed noise, got {schedule.local_steps} "
                "(a share of noise does not protect a party's own steps)"
            )
        share_of = {**privacy.shares, "evaluate": 1.0, "update": 1.0 - sum(privacy.shares.values())}
        outline = _on_grids(outline, privacy.epsilon, share_of, sharing)
    return with_update_noise(outline, _update_noise(outline, privacy.epsilon))


def gradient_plan(
    terms: PrivacyTerms,
    *,
    epsilon: float,
    clip_norm: float,
    sample_rate: float,
    releases: int,
    length: int,
    sharing: Sharing | None = None,
    generator: Generator = "operating-system",
) -> PrivacyPlan:
    """Return the plan of training that is not an experiment's: noisy gradient sums, phase ``update``, and no more.

    Args:
        terms: what is protected, by which relation, at which delta.
        epsilon: of all releases together, at most.
        clip_norm: bound on what one customer adds to a sum.
        sample_rate: probability with which each customer takes part in a sum; 1 is the full batch.
        releases: how many sums a party may release in all.
        length: numbers in a sum, which is how many the model learns.
        sharing: where parties share the noise under secure aggregation; None where each one's is enough alone.
        generator: of the noise.

    Raises:
        PlanError: if the relation is not supported for this sampling, or no noise reaches ``epsilon``.

    >>> terms = PrivacyTerms(unit="row", adjacency="add-or-remove-one", delta=1e-5)
    >>> plan = gradient_plan(terms, epsilon=1.0, clip_norm=1.0, sample_rate=1.0, releases=25, length=10)
    >>> round(plan.mechanism("update").noise_multiplier, 2), round(plan.spent().epsilon, 4)
    (18.65, 1.0)
    """
    _refuse_unsupported(terms, sample_rate)
    update = Mechanism(
        phase="update",
        clip_norm=clip_norm,
        noise_multiplier=1.0,
        sample_rate=sample_rate,
        releases=releases,
        length=length,
    )
    plan = PrivacyPlan(
        unit=terms.unit, adjacency=terms.adjacency, delta=terms.delta, generator=generator, mechanisms=(update,)
    )
    if sharing is not None:
        plan = _on_grids(plan, epsilon, {"update": 1.0}, sharing)
    return with_update_noise(plan, _update_noise(plan, epsilon))


def unprotected_plan(
    privacy: PrivacySection, terms: PrivacyTerms, schedule: Schedule, *, shape: Shape, clip_norm: float
) -> PrivacyPlan:
    """Return the same releases without noise or sampling, for baselines; ``clip_norm`` may be ``inf``."""
    outline = _outline(privacy, terms, schedule, shape)
    bare = (
        replace(
            mechanism,
            noise_multiplier=0.0,
            clip_norm=clip_norm if mechanism.phase == "update" else mechanism.clip_norm,
            sample_rate=1.0,
        )
        for mechanism in outline.mechanisms
    )
    return replace(outline, mechanisms=tuple(bare))


def _outline(privacy: PrivacySection, terms: PrivacyTerms, schedule: Schedule, shape: Shape) -> PrivacyPlan:
    """Return the plan with all but the noise of its updates, which is 1 for now."""
    _refuse_unsupported(terms, privacy.sample_rate)
    if shape.value and privacy.value is None:
        raise PlanError("privacy.value: missing, but a value is to be predicted, whose level and segments cost")
    mu = gaussian_mu(privacy.epsilon, terms.delta) / (2.0 if terms.adjacency == "replace-one" else 1.0)
    releases: dict[Phase, int] = {
        "centre": 1,
        "update": schedule.rounds * schedule.local_steps,
        "calibrate": privacy.calibration_rounds,
        "level": 1,
        "segment": 1,
        "evaluate": int(privacy.private_evaluation),
    }

    def outlined(phase: Phase) -> Mechanism:
        if phase == "update":
            noise_multiplier, clip_norm, sample_rate = 1.0, privacy.clip_norm, privacy.sample_rate
        else:
            # Held-out rows have the whole budget; a little less, for root finding must not decide who pays most.
            share = privacy.shares[phase] if phase not in HELD_OUT else 1.0001**-2
            noise_multiplier = _rounded_up(float(np.sqrt(releases[phase] / share) / mu))
            clip_norm, sample_rate = shape.sensitivity_of(phase), 1.0
        return Mechanism(
            phase=phase,
            clip_norm=clip_norm,
            noise_multiplier=noise_multiplier,
            sample_rate=sample_rate,
            releases=releases[phase],
            length=shape.length_of(phase),
        )

    return PrivacyPlan(
        unit=terms.unit,
        adjacency=terms.adjacency,
        delta=terms.delta,
        generator=privacy.generator,
        mechanisms=tuple(outlined(phase) for phase in releases if releases[phase] and shape.has(phase)),
    )


def _on_grids(plan: PrivacyPlan, epsilon: float, share_of: Mapping[str, float], sharing: Sharing) -> PrivacyPlan:
    """Return ``plan`` with a grid for the shared noise of each mechanism, whose share of mu squared is known."""
    mu = gaussian_mu(epsilon, plan.delta)
    on_grids = []
    for mechanism in plan.mechanisms:
        # A guess at the noise, generous: it decides how fine the grid can be and nothing else.
        noise = 4.0 * mechanism.clip_norm * np.sqrt(mechanism.releases / share_of[mechanism.phase]) / mu
        rows = mechanism.clip_norm * sharing.party_rows
        bound = rows + NOISE_REACH * float(noise)
        resolution = finest_step(
            bound,
            parties=sharing.parties,
            modulus_bits=sharing.modulus_bits,
            no_finer_than=max(mechanism.clip_norm * FINEST_STEP, bound * FINEST_IN_FLOAT64),
        )
        # Worst case of adding n numbers up to C in any order: n^2 C units in the last place (Higham 2002, section 4.2).
        # Twice, for the sum with the row and without; the factor covers what goes into each number.
        slack = ROW_TOLERANCE + 4.0 * float(sharing.party_rows) ** 2 * 2.0**-53
        on_grids.append(replace(mechanism, grid=Grid(resolution=resolution, shares=sharing.shares, slack=slack)))
    return replace(plan, mechanisms=tuple(on_grids))


def with_update_noise(plan: PrivacyPlan, noise_multiplier: float) -> PrivacyPlan:
    """Return ``plan`` with another noise multiplier on its updates."""
    changed = (
        replace(mechanism, noise_multiplier=noise_multiplier) if mechanism.phase == "update" else mechanism
        for mechanism in plan.mechanisms
    )
    return replace(plan, mechanisms=tuple(changed))


def _refuse_unsupported(terms: PrivacyTerms, sample_rate: float) -> None:
    if terms.adjacency == "replace-one" and sample_rate < 1:
        raise PlanError(
            "privacy.sample_rate: expected 1 under the contract's adjacency replace-one, "
            f"got {sample_rate:g} (no accountant here bounds Poisson sampling under replacement)"
        )


@lru_cache(maxsize=64)
def _update_noise(plan: PrivacyPlan, epsilon: float) -> float:
    """Return the smallest noise multiplier of the updates, to six digits, with which training spends ``epsilon``."""
    training: dict[Phase, int] = {m.phase: m.releases for m in plan.mechanisms if m.phase not in HELD_OUT}

    def by_one(noise: float) -> float:
        return with_update_noise(plan, noise).sought(training)

    def by_both(noise: float) -> float:
        return with_update_noise(plan, noise).spent(training).epsilon

    noise = _root(by_one, epsilon, near=_first_guess(plan, epsilon))
    if by_both(noise) > 1.0001 * epsilon:  # the other accountant finds more
        noise = _root(by_both, epsilon, near=float(np.log(noise)))
    while not by_both(noise) <= epsilon:  # the promise holds exactly
        noise = _rounded_up(noise * 1.00001)
    return noise


def _root(spends: Callable[[float], float], epsilon: float, *, near: float) -> float:
    """Return the noise multiplier that ``spends`` epsilon, sought around the log noise ``near``, rounded up."""

    def excess(log_noise: float) -> float:
        return float(np.log(spends(float(np.exp(log_noise))) / epsilon))

    low, high = _bracket(excess, near, epsilon)
    return _rounded_up(float(np.exp(brentq(excess, low, high, xtol=1e-6))))


def _first_guess(plan: PrivacyPlan, epsilon: float) -> float:
    """Return log noise near the answer, by the central limit of Dong et al. (2022, corollary 5.4): a guess only."""
    update = plan.mechanism("update")
    others = sum(m.releases / m.noise_multiplier**2 for m in plan.mechanisms if m.phase not in ("update", *HELD_OUT))
    left = max(gaussian_mu(epsilon, plan.delta) ** 2 - others, 1e-12)
    if update.sample_rate == 1:
        return float(np.log(update.releases / left) / 2)
    return float(-np.log(np.log1p(left / (update.sample_rate**2 * update.releases))) / 2)


def _bracket(excess: Callable[[float], float], guess: float, epsilon: float) -> tuple[float, float]:
    """Return log noise that spends too much and log noise that does not, widening around ``guess``.

    Epsilon falls at least about as fast as noise grows, so the first step is as wide as the guess is wrong.
    """
    wrong = excess(guess)
    sign = 1.0 if wrong > 0 else -1.0
    near, width = guess, min(max(0.02, abs(wrong)), 1.0)
    for _ in range(12):
        far = near + sign * width
        if sign * excess(far) <= 0:
            return (near, far) if sign > 0 else (far, near)
        near, width = far, 2 * width
    raise PlanError(f"privacy.epsilon: no noise multiplier was found that spends {epsilon:g} with these shares")


def _rounded_up(value: float) -> float:
    """Round up to six significant digits, so that a plan reads well and never spends more."""
    scale = 10.0 ** (5 - np.floor(np.log10(value)))
    return float(np.ceil(value * scale) / scale)
