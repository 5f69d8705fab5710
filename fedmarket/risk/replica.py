"""A federation run again in memory: the same party and coordinator, without Flower, masks or ledgers.

Secure aggregation gives the same sum to the last bit, so sums in the open show what each observer would see: the server
that sees every party's update, the one that sees only sums, and whoever is given the model.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np

from fedmarket.aggregation.fixedpoint import bytes_to_words
from fedmarket.arrays import FloatArray, WordArray
from fedmarket.federation.coordinator import Coordinator
from fedmarket.federation.messages import Update
from fedmarket.federation.party import Party, PartyState
from fedmarket.federation.terms import Terms
from fedmarket.models.start import Start
from fedmarket.models.state import ModelState


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a run showed: T rounds of updates of p parameters.

    Attributes:
        terms: of the run, with sums in the open.
        model: the released one.
        asked: the model at which each round's updates were computed.
        updates: each party's noisy sums, (T, p).
        totals: the sums over parties, (T, p): all that secure aggregation shows.
        rounds: the numbers of these rounds.
    """

    terms: Terms
    model: ModelState = field(repr=False)
    asked: tuple[ModelState, ...] = field(repr=False)
    updates: Mapping[str, FloatArray] = field(repr=False)
    totals: FloatArray = field(repr=False)
    rounds: tuple[int, ...] = field(repr=False)


def in_the_open(terms: Terms) -> Terms:
    """Return the terms under which parties show their updates: for attacks on one's own data alone."""
    return replace(terms, secagg="ideal")


def seeded(terms: Terms) -> Terms:
    """Return the terms under which whoever knows the parties' seeds can take their noise off again."""
    return replace(terms, plan=replace(terms.plan, generator="seeded-for-tests"))


def replica(terms: Terms, parties: Mapping[str, Party], *, start: Start | None = None) -> Seen:
    """Run a whole federation of ``parties``, all of them under ``terms``, and return what was seen.

    Raises:
        FedmarketError: what would have ended the real run.
    """
    coordinator = Coordinator(terms=terms, max_void_rounds=1, start=start)
    states = {name: PartyState() for name in parties}
    keep = {name: partial(states.__setitem__, name) for name in parties}
    for name, party in parties.items():
        coordinator.admit(party.join(states[name], coordinator.invitation(), keep=keep[name]))
    asked: dict[int, ModelState] = {}
    words: dict[str, list[WordArray]] = {name: [] for name in parties}
    while not coordinator.finished:
        for name, due in coordinator.requests().items():
            for request in due.requests:
                update = parties[name].answer(states[name], request, keep=keep[name])
                coordinator.receive(update)
                if request.phase == "update":
                    words[name].append(_words(terms, update))
        if request.phase == "update" and request.model is not None:
            asked[request.round_number] = request.model
        coordinator.close_step()
    grid = terms.grid_of("update")
    stacked = {name: np.array(own) for name, own in words.items()}
    return Seen(
        terms=terms,
        model=coordinator.model,
        asked=tuple(asked.values()),
        updates={name: grid.decode(own) for name, own in stacked.items()},
        totals=grid.decode(np.sum(list(stacked.values()), axis=0, dtype=next(iter(stacked.values())).dtype)),
        rounds=tuple(asked),
    )


def noise_of(party: Party, seen: Seen) -> FloatArray:
    """Return the noise in each of a party's updates, (T, p), drawn again from its seed.

    Only if terms are :func:`seeded`, each round is one local step, and nobody tosses a coin for taking part.
    """
    mechanism = seen.terms.plan.mechanism("update")
    nothing = np.zeros(mechanism.length)
    if not mechanism.noise_multiplier:
        return np.zeros_like(seen.totals)
    return np.stack([mechanism.noisy(nothing, party.stream_of(number)) for number in seen.rounds])


def _words(terms: Terms, update: Update) -> WordArray:
    return bytes_to_words(update.content, modulus_bits=terms.modulus_bits)
