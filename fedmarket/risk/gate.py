"""The gate of an experiment: can what its plan claims be refuted by runs of the real code on canaries?

A twin (:mod:`fedmarket.risk.canaries`) is run with noise and fresh coins :data:`RUNS` times, and scores
(:mod:`fedmarket.risk.scores`) guess the coins. Lower bounds on epsilon are read in two ways, both of
:mod:`fedmarket.attacks.one_run`. One holds for every mechanism, the delta term kept (Steinke et al. 2023). The other,
read where batches are full, holds only for a mechanism that is mu-GDP, and is tighter (Mahloujifar et al. 2025). All
runs must agree: if each bound is false with probability a on its own, all of them are with a to the power of their
number, as runs are independent. So few right guesses more are needed from each, which is worth more than one run of as
many canaries: the bounds lose much where they have to be very sure.

The gate is red where the claim is refuted in all runs: not only epsilon at one delta but the whole trade-off between an
attacker's two errors that follows from the plan's events. Of full batches that is the mu whose epsilon is claimed, and
a red gate means that the tighter lower bound is above the claim. Of sampled ones it is the privacy-loss distribution.

The gate can never say that a run is private: it says that these attacks did not refute the claim, and only if they are
attacks at all. A score must tell the coins of the same run *without* noise with an AUC of :data:`LEAST_CONTROL`; one
that does not has found nothing out, and is inconclusive.

What the gate cannot see at all:

* an epsilon that is understated by less than the audit loses, which is about a half;
* missing noise where the claim is beyond what m canaries refute: about 10 with 2,000 of them, 4 with 200;
* books, secure aggregation, and releases of other phases than training, which have tests of their own.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial

import numpy as np
from scipy.special import ndtr, ndtri

from fedmarket.arrays import AnyArray, FloatArray
from fedmarket.attacks import rates
from fedmarket.attacks.one_run import Bound, Ends, audit, guessed, refuted
from fedmarket.errors import ConfigError
from fedmarket.experiment.arms import JOINT, arm_named, terms_of
from fedmarket.experiment.market import Market
from fedmarket.federation.party import Party
from fedmarket.federation.terms import Terms
from fedmarket.privacy.accountant import gaussian_mu, pld_epsilon
from fedmarket.privacy.plan import HELD_OUT, PrivacyPlan
from fedmarket.risk.canaries import CANARIES, Twin, twin_of
from fedmarket.risk.replica import in_the_open
from fedmarket.risk.scores import SCORES, Look, look_at, scores_of

FALSE_ALARMS = 1e-3
"""Chance at most that a gate is red for a right claim: among fifty gates there is one with 5 % at most."""

SIGNIFICANCE = 0.05
"""Chance at most that a lower bound that is told is above the truth; each one has it."""

RUNS = 2
"""How many twins with noise must agree."""

LEAST_CONTROL = 0.9
"""AUC that a score must reach without noise to say anything."""

TOLD = {name: (0.05, 0.05) for name in SCORES if name != "rounds"} | {"rounds": (0.1, 0.0)}
"""Shares of the canaries that are guessed to be in and out for a lower bound: fixed here, before any coin is tossed.

A tenth gives the largest bounds of Gaussian noise for epsilon from 2 to 8. Whom two rounds do not tell apart may have
taken part in both or in neither.
"""

ALL = (0.4, 0.4)
"""The same shares for a second try at refuting: where noise is missing, more right guesses are surer."""

FEWEST = 40
"""Canaries of which a share of 0.05 is still a few."""

INVERSE_AT = np.geomspace(1e-8, 0.9, 80)
"""The deltas at which a claimed trade-off is read off; between them it is bounded by these."""


class Verdict(StrEnum):
    """What a gate says; there is no fourth word."""

    VIOLATED = "the claim is refuted"
    CONSISTENT = "an attack that works without noise did not refute the claim"
    INCONCLUSIVE = "the attack does not work even without noise, so that it says nothing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What one score says of the claim, from all runs of a twin.

    Attributes:
        score: a key of :data:`fedmarket.risk.scores.SCORES`.
        claimed: the plan's epsilon for the whole run, as a ledger has it, at ``delta`` of the contract.
        epsilon: lower bound on epsilon at ``delta``, whatever the mechanism is.
        gaussian: the same for a mechanism that is mu-GDP; None where batches are sampled and it cannot be.
        refuted: whether the claim is, at this score's share of :data:`FALSE_ALARMS`.
        auc: of the score, with noise, in the first run.
        control: of the same score on a twin without noise.
    """

    score: str
    claimed: float
    delta: float
    epsilon: float
    gaussian: float | None
    refuted: bool
    auc: float
    control: float

    @property
    def verdict(self) -> Verdict:
        """The verdict of this score."""
        if self.refuted:
            return Verdict.VIOLATED
        return Verdict.CONSISTENT if self.control >= LEAST_CONTROL else Verdict.INCONCLUSIVE

    @property
    def words(self) -> str:
        """The reading, for a sentence."""
        tighter = "" if self.gaussian is None else f" ({self.gaussian:.2f} if it is Gaussian)"
        said = f"epsilon at least {self.epsilon:.2f}{tighter} of {self.claimed:.2f} claimed"
        aucs = f"AUC {self.auc:.3f}, without noise {self.control:.3f}"
        return f"{SCORES[self.score]}: {said}; {aucs}: {self.verdict.name.lower()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """The gate's verdict over all readings of a twin.

    Attributes:
        canaries: how many there were in each run.
        false_alarm_rate: chance at most that the verdict is VIOLATED although the claim is right.
    """

    canaries: int
    runs: int
    readings: tuple[Reading, ...]
    false_alarm_rate: float

    @property
    def verdict(self) -> Verdict:
        """VIOLATED if any reading is; else what the strongest attack says, which is the first."""
        violated = any(reading.verdict is Verdict.VIOLATED for reading in self.readings)
        return Verdict.VIOLATED if violated else self.readings[0].verdict


def gate(market: Market, *, canaries: int = CANARIES, watched: str | None = None) -> Judgement:
    """Return the judgement over the claim of the experiment's joint private arm, from a twin on the market's rows.

    Raises:
        PlanError: see :func:`fedmarket.risk.canaries.twin_of`.
        FedmarketError: what would end the real run.
    """
    arm = arm_named(JOINT)
    terms = in_the_open(terms_of(arm, market.config, market.contract, seed=market.seed))
    parties = {name: market.party(arm, name, terms=terms) for name in market.names}
    return judged(terms, parties, canaries=canaries, watched=watched)


def judged(
    terms: Terms, parties: Mapping[str, Party], *, canaries: int = CANARIES, watched: str | None = None
) -> Judgement:
    """Return the judgement over what ``terms`` claim, from a twin of the run of ``parties``.

    Guarantees:
        If the claim holds, the verdict is VIOLATED with probability :data:`FALSE_ALARMS` at most: that is divided among
        all scores and both numbers of guesses (Bonferroni). The claimed trade-off leaves out how far shared noise is
        from a Gaussian, 1e-15 or so.

    Raises:
        PlanError: see :func:`fedmarket.risk.canaries.twin_of`.
        ConfigError: see there, or fewer than :data:`FEWEST` canaries.
        FedmarketError: what would end the real run.
    """
    twin = twin_of(terms, parties, watched=watched, canaries=canaries)
    return judgement_of(twin, control=control_of(twin))


def control_of(twin: Twin) -> dict[str, float]:
    """Return the AUC of each score on the twin without noise, by its name."""
    coins = twin.coins()
    first, second = (look_at(twin, twin.run(included, noise=False)) for included in (coins, np.zeros_like(coins)))
    return {name: _auc(score, coins) for name, score in scores_of(first, other=second).items()}


def judgement_of(twin: Twin, *, control: Mapping[str, float]) -> Judgement:
    """Return the judgement from runs of ``twin``; see :func:`judged`, and :func:`control_of` for ``control``.

    All runs are held against one without canaries. Given that one they are still independent.
    """
    if not twin.size >= FEWEST:
        raise ConfigError(f"canaries: expected at least {FEWEST} to guess about, got {twin.size}")
    other = look_at(twin, twin.run(np.zeros_like(twin.coins())))
    runs = [_guessing(twin, other) for _ in range(RUNS)]
    names, plan = tuple(runs[0][1]), twin.terms.plan
    claimed, curve = plan.spent(), _claimed_inverse(plan)
    full = _full(plan)

    def read(name: str) -> Reading:
        scored = [(found[name], coins) for coins, found in runs]
        least = partial(_least, scored, ends=_ends(TOLD[name], twin.size), delta=claimed.delta)
        tries = [_ends(shares, twin.size) for shares in (TOLD[name], ALL)]
        share = FALSE_ALARMS / (len(names) * len(tries))
        return Reading(
            score=name,
            claimed=claimed.epsilon,
            delta=claimed.delta,
            epsilon=least(bound="approximate"),
            gaussian=least(bound="gaussian") if full else None,
            refuted=any(_all_refute(scored, ends, curve, significance=share) for ends in tries),
            auc=_auc(*scored[0]),
            control=control[name],
        )

    return Judgement(canaries=twin.size, runs=RUNS, readings=tuple(map(read, names)), false_alarm_rate=FALSE_ALARMS)


Scored = tuple[FloatArray, AnyArray]
"""A run's scores and its coins, (m,) each."""


def _guessing(twin: Twin, other: Look) -> tuple[AnyArray, dict[str, FloatArray]]:
    """Return the coins of a new run, and what each score says of them without having seen them."""
    coins = twin.coins()
    return coins, scores_of(look_at(twin, twin.run(coins)), other=other)


def _least(runs: Sequence[Scored], *, ends: Ends, delta: float, bound: Bound) -> float:
    """Return the largest epsilon that all runs put below the truth, surely but for SIGNIFICANCE."""
    each, rng = SIGNIFICANCE ** (1 / len(runs)), np.random.default_rng()  # for ties only
    return min(
        audit(score, coins, ends=[ends], delta=delta, significance=each, bound=bound, rng=rng).epsilon
        for score, coins in runs
    )


def _all_refute(runs: Sequence[Scored], ends: Ends, curve: Callable[[float], float], *, significance: float) -> bool:
    """Return whether each run has so many right guesses that all of them have a chance below ``significance``."""
    each, rng = significance ** (1 / len(runs)), np.random.default_rng()  # for ties only
    counts = (guessed(score, coins, ends=[ends], rng=rng)[0] for score, coins in runs)
    return all(refuted(count, significance=each, inverse=curve) for count in counts)


def _claimed_inverse(plan: PrivacyPlan) -> Callable[[float], float]:
    """Return the least false-positive rate at a true-positive rate, as ``plan`` claims for training rows."""
    claimed = plan.spent()
    if _full(plan):
        mu = gaussian_mu(claimed.epsilon, claimed.delta)
        return lambda rate: float(ndtr(ndtri(rate) - mu))
    events = tuple(mechanism.event() for mechanism in plan.mechanisms if mechanism.phase not in HELD_OUT)
    at = np.array([pld_epsilon(events, delta) for delta in INVERSE_AT.tolist()])

    grow = np.exp(at)

    def inverse(rate: float) -> float:
        steep, flat = (rate - INVERSE_AT) / grow, 1 - INVERSE_AT - grow * (1 - rate)
        return float(max(steep.max(), flat.max(), 0.0))

    return inverse


def _full(plan: PrivacyPlan) -> bool:
    return all(mechanism.sample_rate == 1 for mechanism in plan.mechanisms)


def _ends(shares: tuple[float, float], canaries: int) -> Ends:
    top, bottom = (int(share * canaries) for share in shares)
    return Ends(top=top, bottom=bottom)


def _auc(score: FloatArray, coins: AnyArray) -> float:
    return rates.auc(rates.scores_of(score[coins], score[~coins]), confidence=1 - SIGNIFICANCE).estimate
