"""Epsilon as an auditor finds it: recomputed from mechanisms' parameters, once for equal events, and in every reading.

Never is a figure of an entry an input. The bookkeeping is the auditor's own and grows with each entry, where
:meth:`fedmarket.ledger.replay.State.spent` goes through all reservations again; a test holds the two together.
"""

import importlib.util
import math
from collections import Counter
from dataclasses import dataclass, field, replace
from functools import lru_cache

from fedmarket.errors import PlanError
from fedmarket.ledger.canonical import real
from fedmarket.ledger.entries import Reserved, Statement, Voided
from fedmarket.ledger.fields import Adjacency
from fedmarket.ledger.findings import Overlap, PartyAccount
from fedmarket.ledger.planned import Plan
from fedmarket.ledger.replay import State, events_of
from fedmarket.privacy.accountant import Event, Spent, exact_epsilon, one_accountant, spent, under
from fedmarket.privacy.distributed import reduced_delta
from fedmarket.privacy.mechanism import Mechanism
from fedmarket.privacy.observers import observers
from fedmarket.privacy.plan import HELD_OUT, PrivacyPlan

Counts = Counter[Mechanism]

LARGEST_MU = 30.0
"""Beyond this nothing is accounted: epsilon is in the hundreds, and accountants would take hours to say so."""

LEAST_NOISE = 0.2
"""Noise multiplier below which a sampled mechanism is not accounted, for the same reason."""


def second_accountant() -> bool:
    """Return whether the accountant that checks sampled mechanisms is installed; the ``train`` extra has it."""
    return importlib.util.find_spec("opacus") is not None


@dataclass(slots=True)
class Meter:
    """What counts on each data set of one ledger, moved on by each entry that the replay has taken."""

    used: dict[str, Counts] = field(default_factory=dict)
    given_back: int = 0

    def take(self, statement: Statement, state: State) -> str | None:
        """Move on by ``statement``, which ``state`` has just taken; return the data set that it changed."""
        if not isinstance(statement, Reserved | Voided):
            return None
        found = state.reservations[statement.run, statement.round]
        counts = self.used.setdefault(found.data_set, Counter())
        if isinstance(statement, Reserved):
            counts[found.mechanism] += found.count
        elif found.counts:
            return None
        else:
            counts[found.mechanism] -= found.count
            self.given_back += found.count
            if not counts[found.mechanism]:
                del counts[found.mechanism]
        return found.data_set

    def groups(self, data_set: str, state: State) -> tuple[Counts, Counts]:
        """Return what rows trained on pay for, and rows held out; what is carried over counts for both."""
        trained: Counts = Counter()
        held_out: Counts = Counter()
        for source in sorted(state.lineage.get(data_set, {data_set})):
            for mechanism, count in self.used.get(source, Counter()).items():
                if source != data_set or mechanism.phase in HELD_OUT:
                    held_out[mechanism] += count
                if source != data_set or mechanism.phase not in HELD_OUT:
                    trained[mechanism] += count
        return trained, held_out


def epsilon_of(groups: tuple[Counts, ...], *, delta: float, adjacency: Adjacency) -> Spent:
    """Return the largest epsilon of ``groups``, each composed by both accountants.

    Where something was sampled and the second accountant is not installed, it is that of the first alone.

    Raises:
        PlanError: if the accountants disagree, or it is beyond what is accounted.
    """
    found = (
        _spent(events_of(group), delta, adjacency, sum(used.distance * count for used, count in group.items()))
        for group in groups
    )
    return max(found, key=lambda one: one.epsilon)


def exact_of(groups: tuple[Counts, ...], *, delta: float, adjacency: Adjacency) -> float | None:
    """Return epsilon by the exact formula alone, a thousand times faster; None where something was sampled.

    On full batches privacy-loss distributions find the same to 1e-7, so it tells whether announced figures are right.

    Raises:
        PlanError: if it is beyond what is accounted.
    """
    if any(mechanism.sample_rate < 1 for group in groups for mechanism in group):
        return None
    return max(
        _exact(events_of(group), delta, adjacency, sum(used.distance * count for used, count in group.items()))
        for group in groups
    )


def unsampled(groups: tuple[Counts, ...], *, delta: float, adjacency: Adjacency) -> float | None:
    """Return epsilon if nothing is gained from sampling; None where nothing was sampled.

    It is what holds if rows were not drawn each on its own secret coin, but shuffled, or by coins that somebody knows.
    """
    if all(mechanism.sample_rate == 1 for group in groups for mechanism in group):
        return None
    whole: tuple[Counts, ...] = tuple(Counter() for _ in groups)
    for group, made in zip(groups, whole, strict=True):
        for mechanism, count in group.items():
            made[replace(mechanism, sample_rate=1.0)] += count
    try:
        return epsilon_of(whole, delta=delta, adjacency=adjacency).epsilon
    except PlanError:
        return math.inf


@lru_cache(maxsize=4096)
def _exact(events: tuple[Event, ...], delta: float, adjacency: Adjacency, distance: float) -> float:
    _need_moderate(events)
    known = under(events, adjacency)
    found = exact_epsilon(known, delta) if events else 0.0
    if not distance:
        return found
    # As fedmarket.privacy.accountant.spent: the distance is paid for out of delta.
    return exact_epsilon(known, reduced_delta(delta, epsilon=1.001 * found + 0.001, distance=distance))


@lru_cache(maxsize=4096)
def _spent(events: tuple[Event, ...], delta: float, adjacency: Adjacency, distance: float) -> Spent:
    _need_moderate(events)
    if second_accountant() or all(event.sample_rate == 1 for event in events):
        return spent(events, delta=delta, adjacency=adjacency, distance=distance)
    found = one_accountant(events, delta=delta, adjacency=adjacency)
    if distance:
        promised = 1.001 * found + 0.001
        less = reduced_delta(delta, epsilon=promised, distance=distance)
        found = one_accountant(events, delta=less, adjacency=adjacency)
        if not found <= promised:
            raise PlanError(f"delta {delta:g} does not pay for a distance of {distance:.3g}")
    return Spent(epsilon=found, delta=delta, accountants={"pld": found})


def _need_moderate(events: tuple[Event, ...]) -> None:
    """Refuse what takes an accountant hours or all memory, by the central limit of Dong et al. (2022)."""
    squared = 0.0
    for event in events:
        noise = event.noise_multiplier
        if event.sample_rate < 1 and not noise >= LEAST_NOISE:
            raise PlanError(f"a noise multiplier below {LEAST_NOISE:g} is not accounted with sampling")
        gain = 1 / noise**2 if event.sample_rate == 1 else event.sample_rate**2 * math.expm1(1 / noise**2)
        squared += event.count * gain
    if not squared <= LARGEST_MU**2:
        raise PlanError(f"more than mu {LARGEST_MU:g} is not accounted: epsilon is in the hundreds")


def observers_of(plan: Plan, *, masked: bool) -> tuple[tuple[str, str, float], ...]:
    """Return who might look, in words, and epsilon of the whole plan against each; infinite where none is accounted.

    As :meth:`fedmarket.privacy.plan.PrivacyPlan.epsilon_against`: by the shares of noise that each cannot know. Where
    updates are not ``masked``, the server sees each party's own.
    """
    looking = observers(minimum_survivors=plan.minimum_survivors, colluders=plan.assumed_colluders, masked=masked)
    return tuple((observer.name, observer.words, _against(plan, observer.missed)) for observer in looking)


def _against(plan: Plan, shares: int) -> float:
    mechanisms = tuple(planned.mechanism() for planned in plan.mechanisms)
    delta = real(plan.delta)
    groups: tuple[Counts, Counts] = (Counter(), Counter())
    for mechanism in mechanisms:
        groups[mechanism.phase in HELD_OUT][mechanism] += mechanism.releases
    try:
        if mechanisms[0].grid is None:
            return epsilon_of(groups, delta=delta, adjacency=plan.adjacency).epsilon
        _need_moderate(tuple(mechanism.event(shares=shares) for mechanism in mechanisms))
        whole = PrivacyPlan(
            unit=plan.unit,
            adjacency=plan.adjacency,
            delta=delta,
            generator=plan.generator,
            mechanisms=mechanisms,
        )
        return whole.epsilon_against(shares)
    except (PlanError, ArithmeticError, ValueError):
        return math.inf


def overlap_of(parties: tuple[PartyAccount, ...], *, unread: tuple[str, ...] = ()) -> Overlap:
    """Return what a customer whom every party holds spends at worst.

    Epsilons add up. Deltas add up where each party's noise is its own. Where a sum shares its noise, rows at k parties
    are k neighbours of neighbours, and each delta counts as often as e to the epsilons before it (group privacy).
    """
    worst = [max(party.data, key=lambda data: data.epsilon, default=None) for party in parties]
    found = sorted((data.epsilon, party.delta, data.shared) for party, data in zip(parties, worst, strict=True) if data)
    shared = any(one for _, _, one in found)
    total = delta = 0.0
    for epsilon, own, _ in found:
        delta += own * math.exp(min(total, 700.0)) if shared else own
        total += epsilon
    delta = min(delta, 1.0)
    words = (
        f"A customer held by all {len(found)} parties spends at most the sum of their epsilons, {total:.4f}, at delta "
        f"{delta:.3g}. Which customers several parties hold was not established, so nothing tighter is stated."
    )
    worthless = (
        " With noise that is shared, that delta promises such a customer next to nothing." if delta > 0.01 else ""
    )
    if unread:
        words = f"Ledgers of {len(unread)} parties could not be read to their end, so this is too low. {words}"
    return Overlap(epsilon=total, delta=delta, words=words + worthless)
