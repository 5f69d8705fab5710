"""Whom to contact when responders differ in value, and what that earns against simpler rules.

A response earns ``margin`` times the customer's value and a contact costs ``contact_cost``, so contacting a customer
with response probability p and value v pays, in expectation, where ``p * margin * v`` is above the cost. Nothing is
fitted here and no threshold is tuned on the customers it is measured on.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from fedmarket.errors import DataError
from fedmarket.evaluation.ranking import Floats
from fedmarket.evaluation.value import checked_amounts

TOP_SHARE = 0.1
"""Share of customers that a campaign by past spend contacts."""

Result = dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """What a model expects of each customer, or what is true of them, or what they did.

    Attributes:
        response: probability of a response, or 0 and 1 once it is known, (n,).
        value: of the customer, in money, if there is a response, at least 0, (n,).
    """

    response: ArrayLike
    value: ArrayLike


def policies(
    outcome: Expectation,
    *,
    model: Expectation,
    pooled: Expectation,
    past_spend: ArrayLike,
    margin: float,
    contact_cost: float,
    truth: Expectation | None = None,
) -> dict[str, Result]:
    """Return what each way to choose whom to contact earns on the same customers, ready for JSON.

    Args:
        outcome: what campaigns are measured on: what customers did, or their true expectations where these are known.
        model: what the joint model expects.
        pooled: what the pooled model expects.
        past_spend: of each customer, in money, (n,).
        margin: share of a responder's value that is earned, above 0 and at most 1.
        contact_cost: cost of one contact, above 0, in the money of the values.
        truth: true expectations, where they are known.

    Returns:
        The result of :func:`campaign` for ``model`` and ``pooled`` (where a contact is expected to pay), ``everyone``,
        ``top decile by past spend`` (a tie at its edge shares the places left), ``nobody``, and, if given, ``truth``.

    Raises:
        DataError: lengths differ, a probability outside 0 to 1, a value below zero or not finite, no customers, or a
            cost or margin out of range.

    Guarantees:
        Where ``outcome`` is the truth, no policy earns more than ``truth``, up to rounding.
    """
    customers = _customers(past_spend)
    experts = {"model": model, "pooled": pooled}
    chosen = {name: worth_contacting(one, margin=margin, contact_cost=contact_cost) for name, one in experts.items()}
    contacts: dict[str, ArrayLike] = {
        **chosen,
        "everyone": np.ones(customers),
        "top decile by past spend": _best(checked_amounts(past_spend, name="past_spend"), share=TOP_SHARE),
        "nobody": np.zeros(customers),
    }
    if truth is not None:
        contacts["truth"] = worth_contacting(truth, margin=margin, contact_cost=contact_cost)
    return {
        name: campaign(contacted=contacted, outcome=outcome, margin=margin, contact_cost=contact_cost)
        for name, contacted in contacts.items()
    }


def worth_contacting(expected: Expectation, *, margin: float, contact_cost: float) -> NDArray[np.bool_]:
    """Return where a contact is expected to earn more than it costs, (n,).

    Raises:
        DataError: as :func:`policies`.

    >>> worth_contacting(Expectation(response=[0.1, 0.1], value=[90.0, 110.0]), margin=0.5, contact_cost=5.0).tolist()
    [False, True]
    """
    _check_money(margin=margin, contact_cost=contact_cost)
    response, value = _checked(expected)
    return np.asarray(response * margin * value > contact_cost)


def campaign(*, contacted: ArrayLike, outcome: Expectation, margin: float, contact_cost: float) -> Result:
    """Return what a campaign earns.

    Args:
        contacted: whether each customer is contacted, or the chance of it, (n,).
        outcome: what customers did, or their true expectations.
        margin: share of a responder's value that is earned, above 0 and at most 1.
        contact_cost: cost of one contact, above 0.

    Returns:
        ``profit`` for each customer in the table, contacted or not, in money; ``contacted_share`` of the customers;
        ``responses``, a number of customers.

    Raises:
        DataError: as :func:`policies`.

    >>> did = Expectation(response=[1, 0, 1], value=[90.0, 50.0, 30.0])
    >>> campaign(contacted=[True, True, False], outcome=did, margin=0.5, contact_cost=6.0)["profit"]
    11.0
    """
    _check_money(margin=margin, contact_cost=contact_cost)
    response, value = _checked(outcome)
    chance = checked_amounts(contacted, name="contacted", customers=response.size, most=1)
    return {
        "profit": float(np.mean(chance * (response * margin * value - contact_cost))),
        "contacted_share": float(chance.mean()),
        "responses": float(np.sum(chance * response)),
    }


def _best(scores: Floats, *, share: float) -> Floats:
    """The chance to be among the best ``share`` of customers in a random order of the tied ones, (n,)."""
    above = scores.size - rankdata(scores, method="max")
    tied = scores.size - rankdata(scores, method="min") + 1 - above
    return np.asarray(np.clip((share * scores.size - above) / tied, 0.0, 1.0), dtype=np.float64)


def _checked(expected: Expectation) -> tuple[Floats, Floats]:
    customers = _customers(expected.response)
    response = checked_amounts(expected.response, name="response", most=1)
    return response, checked_amounts(expected.value, name="value", customers=customers)


def _customers(values: ArrayLike) -> int:
    customers = int(np.size(values))
    if customers == 0:
        raise DataError("campaign: expected customers, got none")
    return customers


def _check_money(*, margin: float, contact_cost: float) -> None:
    if not 0 < margin <= 1:
        raise DataError(f"margin: expected above 0 and at most 1, got {margin}")
    if not 0 < contact_cost < np.inf:
        raise DataError(f"contact_cost: expected above 0, got {contact_cost}")
