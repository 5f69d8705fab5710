"""What of a customer can be read off an update, and what would have been guessed without any."""

from dataclasses import asdict
from typing import Any

import numpy as np

from fedmarket.experiment.arms import JOINT, arm_named, start_for, terms_of
from fedmarket.experiment.market import Market
from fedmarket.federation.party import Party
from fedmarket.federation.rows import Rows
from fedmarket.federation.terms import Terms
from fedmarket.privacy.noise import Stream
from fedmarket.risk.attributes import Secret, attribute_inference
from fedmarket.risk.cells import is_category, prior_of
from fedmarket.risk.inversion import Scene, Search, Veil, inversion
from fedmarket.risk.replica import in_the_open, replica, seeded

BASELINE = "federated"
"""The arm without privacy: what is at stake."""

CASES: tuple[tuple[str, Veil, int], ...] = (
    (BASELINE, "none", 1),
    (BASELINE, "none", 4),
    (BASELINE, "sum", 1),
    (BASELINE, "mask", 1),
    (JOINT, "none", 1),
    (JOINT, "none", 4),
)
"""Arm, what is between an update and who looks at it, and how many customers the update is of."""

TRIALS, BESIDE = 32, 100
"""Batches of each case; rows of another party in a sum."""

SEARCH = Search(starts=4, steps=300)
GUESSED = 200
"""Customers whose cell of one column is guessed, at most."""


def federation_of(market: Market, arm_name: str, *, noise_seed: int | None = None) -> tuple[Terms, dict[str, Party]]:
    """Return the terms of an arm with sums in the open, and all who hold its rows under them.

    With a seed their noise is from there, so that it can be taken off again.
    """
    arm = arm_named(arm_name)
    terms = in_the_open(terms_of(arm, market.config, market.contract, seed=market.seed))
    terms = terms if noise_seed is None else seeded(terms)
    parties = {name: market.party(arm, name, terms=terms) for name in market.holders(arm, alone="")}
    for party in parties.values():
        party.test_seed = market.seed if noise_seed is None else noise_seed
    return terms, parties


def reconstruction(market: Market, *, watched: str, column: str | None, confidence: float) -> dict[str, Any] | None:
    """Return shares of cells that are recovered, beside what is right in a guess without any update.

    Args:
        market: whose rows are attacked.
        watched: the party that they are of.
        column: of words, guessed of each customer; by default the first of the contract.
        confidence: of every interval.

    Returns:
        A part of the risk document; None where customers have several rows, which these attacks are not made for.

    Raises:
        DataError: if the contract has no such column.
    """
    if market.population.customers is not None:
        return None
    known = np.concatenate([market.deal.test[name] for name in market.names if name != watched])
    reference = Rows(features=market.features[known], targets=market.population.targets[known])
    start, rng = start_for(market.config, market.contract), np.random.default_rng()
    cells, attribute = [], {}
    words = [slots.column.name for slots in market.layout.slots if is_category(slots)]
    for arm in (BASELINE, JOINT):
        terms, parties = federation_of(market, arm)
        seen = replica(terms, parties, start=start)
        rows = parties[watched].rows
        scene = Scene(terms=terms, layout=market.layout, model=seen.asked[len(seen.asked) // 2])
        for case in CASES:
            if case[0] == arm:
                found = inversion(
                    scene,
                    rows,
                    prior_of(reference.features[:], market.layout),
                    batch=case[2],
                    trials=TRIALS,
                    veil=case[1],
                    beside=min(BESIDE, len(rows.targets) - case[2]) if case[1] == "sum" else 0,
                    search=SEARCH,
                    stream=Stream.secret(),
                    rng=rng,
                    confidence=confidence,
                )
                cells.append({"arm": arm, "veil": case[1], **asdict(found)})
        if column or words:
            targets = rng.choice(len(rows.targets), min(GUESSED, len(rows.targets) // 2), replace=False)
            secret = Secret(layout=market.layout, column=column or words[0], reference=reference, targets=targets)
            guesses = attribute_inference(secret, seen, parties, watched=watched, confidence=confidence)
            attribute[arm] = asdict(guesses)
    return {"cells": cells, "attribute": attribute}
