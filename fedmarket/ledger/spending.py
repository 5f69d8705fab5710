"""Epsilon of what ledgers say was used, recomputed from mechanisms' parameters; party and auditor use the same code.

Never is a figure of an entry an input. What is used is counted twice: by :class:`fedmarket.ledger.replay.State`, which
goes through all reservations again, and by the auditor's :class:`fedmarket.ledger.reading.Meter`, which grows with each
entry. A test holds the two together.
"""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace

from fedmarket.errors import PlanError
from fedmarket.ledger.canonical import real
from fedmarket.ledger.fields import Adjacency
from fedmarket.ledger.findings import Overlap, PartyAccount
from fedmarket.ledger.planned import Plan
from fedmarket.privacy.accountant import Event, Spent, spent, weighed
from fedmarket.privacy.mechanism import Mechanism, Phase
from fedmarket.privacy.observers import observers
from fedmarket.privacy.plan import HELD_OUT, PrivacyPlan

Counts = Counter[Mechanism]
Groups = tuple[Counts, Counts]
"""What rows trained on pay for, and rows held out."""

LARGEST_MU = 30.0
"""Beyond this nothing is accounted: epsilon is in the hundreds, and accountants would take hours to say so."""

LEAST_NOISE = 0.2
"""Noise multiplier below which a sampled mechanism is not accounted, for the same reason."""


def grouped(used: Iterable[tuple[Mechanism, int, bool]]) -> Groups:
    """Return who pays for mechanisms that were ``used`` so often; what is carried from other data counts for both."""
    trained: Counts = Counter()
    held_out: Counts = Counter()
    for mechanism, count, carried in used:
        if carried or mechanism.phase not in HELD_OUT:
            trained[mechanism] += count
        if carried or mechanism.phase in HELD_OUT:
            held_out[mechanism] += count
    return trained, held_out


def epsilon_of(groups: Groups, *, delta: float, adjacency: Adjacency, cap: float | None = None) -> Spent:
    """Return the largest epsilon of ``groups``, each composed by both accountants.

    With ``cap`` it is a bound that is good enough to tell whether the cap is kept, at most times by one accountant
    (:func:`fedmarket.privacy.accountant.weighed`): what a reservation says.

    Raises:
        PlanError: if the accountants disagree, or it is beyond what is accounted.
    """

    def found(counts: Counts) -> Spent:
        events = events_of(counts)
        _need_moderate(events)
        distance = sum(mechanism.distance * count for mechanism, count in counts.items())
        if cap is None:
            return spent(events, delta=delta, adjacency=adjacency, distance=distance)
        return weighed(events, delta=delta, adjacency=adjacency, distance=distance, cap=cap)

    return max(map(found, groups), key=lambda one: one.epsilon)


def events_of(counts: Counts) -> tuple[Event, ...]:
    """Return the events of mechanisms used so often; a phase that several runs release alike is one event.

    In their order and never over phases, so that of one run these are the very events of its plan: the last digits of
    an accountant's sum must not decide whether a cap that is exactly the plan's epsilon is kept.
    """
    together: Counter[tuple[Phase, float, float]] = Counter()
    for mechanism, count in counts.items():
        together[mechanism.phase, mechanism.noise_multiplier, mechanism.sample_rate] += count
    return tuple(
        Event(noise_multiplier=noise_multiplier, sample_rate=sample_rate, count=count)
        for (_, noise_multiplier, sample_rate), count in together.items()
    )


def unsampled(groups: Groups, *, delta: float, adjacency: Adjacency) -> float | None:
    """Return epsilon if nothing is gained from sampling; None where nothing was sampled.

    It is what holds if rows were not drawn each on its own secret coin, but shuffled, or by coins that somebody knows.
    A statement beside the promise, by the exact formula alone.
    """
    if all(mechanism.sample_rate == 1 for group in groups for mechanism in group):
        return None
    whole: Groups = (Counter(), Counter())
    for group, made in zip(groups, whole, strict=True):
        for mechanism, count in group.items():
            made[replace(mechanism, sample_rate=1.0)] += count
    try:
        return epsilon_of(whole, delta=delta, adjacency=adjacency, cap=math.inf).epsilon
    except PlanError:
        return math.inf


def second_accountant() -> bool:
    """Return True: every install has both accountants."""
    return True


def _need_moderate(events: tuple[Event, ...]) -> None:
    """Refuse what takes an accountant hours or all memory, by the central limit of Dong et al. (2022)."""
    squared = 0.0
    for event in events:
        noise, sampled = event.noise_multiplier, event.sample_rate < 1
        if not noise >= (LEAST_NOISE if sampled else 1 / LARGEST_MU):
            raise PlanError(f"a noise multiplier of {noise:g} is too small to be accounted")
        squared += event.count * (event.sample_rate**2 * math.expm1(1 / noise**2) if sampled else 1 / noise**2)
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
    groups = grouped((mechanism, mechanism.releases, False) for mechanism in mechanisms)
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
