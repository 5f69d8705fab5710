"""What an epsilon allows an attacker at most: formal limits, in words and as a table, for all pages."""

import math
from typing import Any

from fedmarket.attacks.formal import (
    ADVANTAGE,
    TPR_AT_0_1_PERCENT,
    TPR_AT_1_PERCENT,
    Approximate,
    Family,
    Gaussian,
    Guarantee,
    Measure,
    epsilon_for,
    largest,
)
from fedmarket.errors import PlanError
from fedmarket.privacy.accountant import gaussian_mu
from fedmarket.report.words import capital, percent

MEASURES = (ADVANTAGE, TPR_AT_1_PERCENT, TPR_AT_0_1_PERCENT)
PRESUMED: dict[Family, str] = {
    "gaussian": "Gaussian noise on all rows in every round, whose limits are lower than epsilon alone tells.",
    "approximate": "any mechanism with this epsilon and delta.",
}

CUT = 0.9
"""The reduction that is claimed most often."""


def limits(epsilon: float, delta: float, *, gaussian: bool, per: str) -> dict[str, Any]:
    """Return what a page says of an attacker who asks whether one customer was there, and knows all the others.

    Args:
        epsilon: of the whole run, may be infinite.
        delta: at which it is stated.
        gaussian: whether all releases are Gaussian noise on full batches: then the mechanism is mu-GDP, and its limits
            are lower than those of another mechanism with the same epsilon and delta.
        per: the privacy unit, such as customer.
    """
    family: Family = "gaussian" if gaussian and 0 < epsilon < math.inf else "approximate"
    other = Approximate(epsilon=epsilon, delta=delta)
    bounds: dict[str, Guarantee] = {"At most": other}
    if family == "gaussian":
        bounds = {"At most": Gaussian(mu=gaussian_mu(epsilon, delta)), "If only epsilon were known": other}
    return {
        "per": per,
        "columns": ("What an attacker attains", "By guessing", *bounds, "90 % below a full leak needs epsilon"),
        "rows": [
            (
                capital(measure.words),
                percent(measure.false_positive_rate or 0.0),
                *(percent(largest(bound, measure)) for bound in bounds.values()),
                _needed(measure, delta, family),
            )
            for measure in MEASURES
        ],
        "presumed": PRESUMED[family],
    }


def _needed(measure: Measure, delta: float, family: Family) -> str:
    try:
        return f"{epsilon_for(measure, reduction=CUT, delta=delta, family=family).epsilon:.2g}"
    except PlanError:
        return "-"
