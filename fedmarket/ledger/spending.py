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
from fedmarket.ledger.findings import Overlap, PartyAccount, Use
from fedmarket.ledger.planned import Plan
from fedmarket.privacy.accountant import Event, Spent, one_accountant, spent, under, weighed
from fedmarket.privacy.mechanism import Mechanism, Phase
from fedmarket.privacy.observers import observers
from fedmarket.privacy.plan import HELD_OUT

Counts = Counter[Mechanism]
Groups = tuple[Counts, Counts]
"""What rows trained on pay for, and rows held out."""

Sampled = tuple[float, float]
"""Noise multiplier and rate of a sampled mechanism."""

LARGEST_MU = 8.0
"""Beyond this nothing is accounted: epsilon is above 65 at a delta of 1e-5, and accountants would take minutes."""

LEAST_NOISE, MOST_NOISE = 0.2, 1e6
"""Noise multipliers that are accounted: less on a sample takes as long, and none that is drawn is larger."""

WORTHLESS_DELTA = 0.01
"""Above this a customer of all parties is promised next to nothing: that often the bound on epsilon may not hold."""

MOST_SAMPLED = 64
"""How many different sampled mechanisms an auditor accounts: each takes an accountant up to seconds."""


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
        events, distance = events_of(counts), _distance_of(counts)
        _need_moderate(under(events, adjacency))
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

    def found(counts: Counts) -> float:
        events = tuple(replace(event, sample_rate=1.0) for event in events_of(counts))
        return one_accountant(events, delta=delta, adjacency=adjacency, distance=_distance_of(counts))

    try:
        return max(map(found, groups))
    except PlanError:
        return math.inf


def uses_of(counts: Counts) -> tuple[Use, ...]:
    """Return mechanisms used so often as a reader is told of them: enough to find their epsilon again."""
    return tuple(
        Use(
            phase=mechanism.phase,
            count=count,
            clip_norm=mechanism.clip_norm,
            noise_multiplier=mechanism.noise_multiplier,
            sample_rate=mechanism.sample_rate,
            length=mechanism.length,
            resolution=mechanism.grid.resolution if mechanism.grid else None,
            shares=mechanism.grid.shares if mechanism.grid else None,
            slack=mechanism.grid.slack if mechanism.grid else None,
        )
        for mechanism, count in counts.items()
    )


def sampled_of(mechanisms: Iterable[Mechanism]) -> set[Sampled]:
    """Return noise and rate of those that are sampled: what an accountant has to compute anew for."""
    return {(one.noise_multiplier, one.sample_rate) for one in mechanisms if one.sample_rate < 1}


def _distance_of(counts: Counts) -> float:
    return sum(mechanism.distance * count for mechanism, count in counts.items())


def _need_moderate(events: tuple[Event, ...]) -> None:
    """Refuse what takes an accountant hours or all memory, by the central limit of Dong et al. (2022).

    Noise is held within bounds before anything is computed with it: its square may be no number.
    """
    squared = 0.0
    for event in events:
        noise, sampled = event.noise_multiplier, event.sample_rate < 1
        if not (LEAST_NOISE if sampled else 1 / LARGEST_MU) <= noise <= MOST_NOISE:
            words = "too large" if noise > MOST_NOISE else "too small"
            raise PlanError(f"a noise multiplier of {noise:g} is {words} to be accounted")
        strength = noise**-2
        squared += event.count * (event.sample_rate**2 * math.expm1(strength) if sampled else strength)
    if not squared <= LARGEST_MU**2:
        raise PlanError(f"more than mu {LARGEST_MU:g} is not accounted: epsilon is in the dozens or beyond")


def observers_of(plan: Plan, *, masked: bool, accounted: bool = True) -> tuple[tuple[str, str, float], ...]:
    """Return who might look, in words, and epsilon of the whole plan against each; infinite where none is accounted.

    By one accountant, as :meth:`fedmarket.privacy.plan.PrivacyPlan.epsilon_against`, and by the shares of noise that
    each cannot know. Where updates are not ``masked``, the server sees each party's own.
    """
    looking = observers(minimum_survivors=plan.minimum_survivors, colluders=plan.assumed_colluders, masked=masked)
    return tuple(
        (observer.name, observer.words, _against(plan, observer.missed) if accounted else math.inf)
        for observer in looking
    )


def _against(plan: Plan, shares: int) -> float:
    def found(counts: Counts) -> float:
        events = tuple(mechanism.event(count, shares=shares) for mechanism, count in counts.items())
        if any(event.sample_rate < 1 for event in events):  # full batches take no time, however little noise
            _need_moderate(events)
        return one_accountant(events, delta=real(plan.delta), adjacency=plan.adjacency)

    mechanisms = (planned.mechanism() for planned in plan.mechanisms)
    try:
        return max(map(found, grouped((mechanism, mechanism.releases, False) for mechanism in mechanisms)))
    except (PlanError, ArithmeticError, ValueError):
        return math.inf


def overlap_of(parties: tuple[PartyAccount, ...], *, listed: int, unread: int = 0) -> Overlap:
    """Return what a customer whom every party holds spends at worst; ``listed`` is how many parties there should be.

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
    sums, rows = f"{total:.4f}, at delta {delta:.3g}", any(party.unit == "row" for party in parties)
    if unread:
        their = "its" if unread == 1 else "their"
        words = (
            f"{unread} of {listed} ledgers could not be read to {their} end: no bound can be stated for a customer of "
            f"several parties. What was read adds up to {sums}."
        )
    else:
        who = f"with one row at each of all {listed} parties" if rows else f"held by all {listed} parties"
        words = (
            f"A customer {who} spends at most the sum of their epsilons, {sums}. Which customers several parties hold "
            "was not established, so nothing tighter is stated."
        )
    worthless = delta > WORTHLESS_DELTA
    if worthless:
        words += (
            f" At that delta{', as noise is shared,' if shared else ''} such a customer is promised next to nothing."
        )
    title = "One row at each party" if rows else "Customer of all parties"
    return Overlap(title=title, bounded=not unread, worthless=worthless, epsilon=total, delta=delta, words=words)
