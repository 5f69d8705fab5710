"""The privacy plan: one frozen object from which clip, noise, sampling *and* privacy events are taken.

A run is a fixed sequence of noisy sums over a party's rows, each a :class:`fedmarket.privacy.mechanism.Mechanism`:
the feature means (``centre``), the training steps (``update``), the recalibration (``calibrate``) and the scores of
held-out rows (``evaluate``).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np
from scipy.optimize import brentq

from fedmarket.config import PrivacySection, Schedule
from fedmarket.contract.schema import PrivacyTerms
from fedmarket.errors import PlanError
from fedmarket.privacy.accountant import Spent, exact_epsilon, gaussian_mu, one_accountant, spent, under
from fedmarket.privacy.histogram import SCORE_BINS
from fedmarket.privacy.mechanism import NOISE_REACH, ROW_TOLERANCE, Grid, Mechanism, Phase, finest_step

Generator = Literal["operating-system", "seeded-for-tests"]

CALIBRATION_SENSITIVITY = float(np.sqrt(2.0))
CALIBRATION_LENGTH = 5
"""See :func:`fedmarket.training.sums.calibration_sum`."""

HELD_OUT: tuple[Phase, ...] = ("evaluate",)
"""Phases that look at held-out rows, and at no others."""

EVALUATION_SENSITIVITY = 1.0
EVALUATION_LENGTH = 2 * SCORE_BINS
"""See :func:`fedmarket.training.sums.score_counts`."""

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
        width: coordinates of the feature sum.
        parameters: coordinates of an update.
    """

    shares: int
    parties: int
    party_rows: int
    modulus_bits: Literal[32, 64]
    width: int
    parameters: int

    def length_of(self, phase: Phase) -> int:
        """Return how many coordinates are released in ``phase``."""
        lengths: dict[Phase, int] = {
            "centre": self.width,
            "update": self.parameters,
            "calibrate": CALIBRATION_LENGTH,
            "evaluate": EVALUATION_LENGTH,
        }
        return lengths[phase]


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
        """Return the mechanism of ``phase``."""
        return next(mechanism for mechanism in self.mechanisms if mechanism.phase == phase)

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

    def exact_epsilon(self, releases: dict[Phase, int]) -> float:
        """Return the exact epsilon of ``releases`` uses of full-batch mechanisms, without a second opinion."""
        events = tuple(m.event(releases[m.phase]) for m in self.mechanisms if releases.get(m.phase, 0))
        return exact_epsilon(under(events, self.adjacency), self.delta)

    def epsilon_against(self, shares: int) -> float:
        """Return epsilon of the whole run against an observer who misses ``shares`` shares of noise, or more.

        Where each party's noise is enough alone, that is the same for all observers. One accountant finds it: it is
        a statement beside the promise, which :meth:`spent` makes.
        """
        if self.shares is None:
            return self.spent().epsilon
        return max(
            one_accountant(
                tuple(mechanism.event(shares=shares) for mechanism in group if mechanism.releases),
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
        used = [mechanism for mechanism in group if counts.get(mechanism.phase, 0)]
        events = tuple(mechanism.event(counts[mechanism.phase]) for mechanism in used)
        distance = sum(mechanism.distance * counts[mechanism.phase] for mechanism in used)
        return spent(events, delta=self.delta, adjacency=self.adjacency, distance=distance)


def plan_for(
    privacy: PrivacySection,
    terms: PrivacyTerms,
    schedule: Schedule,
    *,
    feature_norm: float,
    sharing: Sharing | None = None,
) -> PrivacyPlan:
    """Return the plan whose whole run spends at most ``privacy.epsilon`` at the contract's delta.

    The shares for centre and calibration are shares of mu squared, which adds up under composition of
    Gaussian mechanisms (Dong et al. 2022, corollary 3.3); what remains goes to the updates, whose noise is found by
    root finding on the reported epsilon, that is the larger of two accountants.

    ``feature_norm`` is the public bound on the norm of an encoded row, which is the sensitivity of the feature sum.
    ``sharing`` is needed where ``privacy.noise`` is ``distributed``.

    Raises:
        PlanError: if the relation or the schedule is not supported for this noise or sampling, or no noise reaches the
            target.
    """
    outline = _outline(privacy, terms, schedule, feature_norm=feature_norm)
    if privacy.noise == "distributed":
        outline = _on_grids(outline, privacy, schedule, sharing)
    return with_update_noise(outline, _update_noise(outline, privacy.epsilon))


def unprotected_plan(
    privacy: PrivacySection, terms: PrivacyTerms, schedule: Schedule, *, feature_norm: float, clip_norm: float
) -> PrivacyPlan:
    """Return the same releases without noise or sampling, for baselines; ``clip_norm`` may be ``inf``."""
    outline = _outline(privacy, terms, schedule, feature_norm=feature_norm)
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


def _outline(privacy: PrivacySection, terms: PrivacyTerms, schedule: Schedule, *, feature_norm: float) -> PrivacyPlan:
    """Return the plan with all but the noise of its updates, which is 1 for now."""
    _refuse_unsupported(privacy, terms)
    mu = gaussian_mu(privacy.epsilon, terms.delta)
    sensitivity_factor = 2.0 if terms.adjacency == "replace-one" else 1.0
    centre = _mechanism("centre", feature_norm, sensitivity_factor / (np.sqrt(privacy.centre_share) * mu), 1)
    calibrate = _mechanism(
        "calibrate",
        CALIBRATION_SENSITIVITY,
        sensitivity_factor * np.sqrt(privacy.calibration_rounds / privacy.calibration_share) / mu,
        privacy.calibration_rounds,
    )
    evaluate = _mechanism(
        "evaluate", EVALUATION_SENSITIVITY, 1.0001 * sensitivity_factor / mu, int(privacy.private_evaluation)
    )
    update = Mechanism(
        phase="update",
        clip_norm=privacy.clip_norm,
        noise_multiplier=1.0,
        sample_rate=privacy.sample_rate,
        releases=schedule.rounds * schedule.local_steps,
    )
    return PrivacyPlan(
        unit=terms.unit,
        adjacency=terms.adjacency,
        delta=terms.delta,
        generator=privacy.generator,
        mechanisms=(centre, update, calibrate, evaluate),
    )


def _on_grids(plan: PrivacyPlan, privacy: PrivacySection, schedule: Schedule, sharing: Sharing | None) -> PrivacyPlan:
    """Return ``plan`` with a grid for the shared noise of each mechanism."""
    if sharing is None:
        raise PlanError("privacy.noise: distributed noise needs the number of its shares")
    if schedule.local_steps > 1:
        raise PlanError(
            f"local_steps of a private schedule: expected 1 with distributed noise, got {schedule.local_steps} "
            "(a share of noise does not protect a party's own steps)"
        )
    share_of = {
        "centre": privacy.centre_share,
        "calibrate": privacy.calibration_share,
        "evaluate": 1.0,
        "update": 1.0 - privacy.centre_share - privacy.calibration_share,
    }
    mu = gaussian_mu(privacy.epsilon, plan.delta)
    on_grids = []
    for mechanism in plan.mechanisms:
        # A guess at the noise, generous: it decides how fine the grid can be and nothing else.
        noise = 4.0 * mechanism.clip_norm * np.sqrt(max(mechanism.releases, 1) / share_of[mechanism.phase]) / mu
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
        grid = Grid(
            resolution=resolution,
            length=sharing.length_of(mechanism.phase),
            shares=sharing.shares,
            slack=slack,
        )
        on_grids.append(replace(mechanism, grid=grid))
    return replace(plan, mechanisms=tuple(on_grids))


def with_update_noise(plan: PrivacyPlan, noise_multiplier: float) -> PrivacyPlan:
    """Return ``plan`` with another noise multiplier on its updates."""
    changed = (
        replace(mechanism, noise_multiplier=noise_multiplier) if mechanism.phase == "update" else mechanism
        for mechanism in plan.mechanisms
    )
    return replace(plan, mechanisms=tuple(changed))


def _refuse_unsupported(privacy: PrivacySection, terms: PrivacyTerms) -> None:
    if terms.adjacency == "replace-one" and privacy.sample_rate < 1:
        raise PlanError(
            "privacy.sample_rate: expected 1 under the contract's adjacency replace-one, "
            f"got {privacy.sample_rate:g} (no accountant here bounds Poisson sampling under replacement)"
        )


def _mechanism(phase: Phase, clip_norm: float, noise_multiplier: float, releases: int) -> Mechanism:
    return Mechanism(
        phase=phase,
        clip_norm=clip_norm,
        noise_multiplier=_rounded_up(float(noise_multiplier)),
        sample_rate=1.0,
        releases=releases,
    )


@lru_cache(maxsize=64)
def _update_noise(plan: PrivacyPlan, epsilon: float) -> float:
    """Return the smallest noise multiplier of the updates, to six digits, with which training spends ``epsilon``."""
    training: dict[Phase, int] = {m.phase: m.releases for m in plan.mechanisms if m.phase not in HELD_OUT}
    whole = all(mechanism.sample_rate == 1 for mechanism in plan.mechanisms)

    def excess(log_noise: float) -> float:
        tried = with_update_noise(plan, float(np.exp(log_noise)))
        # Of full batches the exact formula finds the root at once; what is promised is checked below.
        found = tried.exact_epsilon(training) if whole else tried.spent(training).epsilon
        return float(np.log(found / epsilon))

    low, high = _bracket(excess, _first_guess(plan, epsilon), epsilon)
    noise = _rounded_up(float(np.exp(brentq(excess, low, high, xtol=1e-6))))
    while not with_update_noise(plan, noise).spent(training).epsilon <= epsilon:  # the promise holds exactly
        noise = _rounded_up(noise * 1.00001)
    return noise


def _first_guess(plan: PrivacyPlan, epsilon: float) -> float:
    """Return log noise near the answer, by the central limit of Dong et al. (2022, corollary 5.4): a guess only."""
    update = plan.mechanism("update")
    others = sum(m.releases / m.noise_multiplier**2 for m in plan.mechanisms if m.phase not in ("update", *HELD_OUT))
    left = max(gaussian_mu(epsilon, plan.delta) ** 2 - others, 1e-12)
    if update.sample_rate == 1:
        return float(np.log(update.releases / left) / 2)
    return float(-np.log(np.log1p(left / (update.sample_rate**2 * update.releases))) / 2)


def _bracket(excess: Callable[[float], float], guess: float, epsilon: float) -> tuple[float, float]:
    """Return log noise that spends too much and log noise that does not, widening around ``guess``."""
    sign = 1.0 if excess(guess) > 0 else -1.0
    near, width = guess, 0.02
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
