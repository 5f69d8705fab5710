"""Why too few parties are left, as the end of a line: no party hides another, however often it is rejected."""

from collections import Counter
from collections.abc import Iterable

from fedmarket.federation.messages import Rejection

MOST_NAMED = 5
"""Parties with their reasons in one line; of the others it says how many."""


def causes_of(rejections: Iterable[Rejection]) -> str:
    """Return each party once, the most rejected first, with its most frequent reason; of equal ones the last.

    >>> said = [("a", "late"), ("b", "late"), ("c", "no reply"), ("c", "no reply"), ("c", "late")]
    >>> causes_of(Rejection(round_number=3, step="sum", party=party, reason=reason) for party, reason in said)
    ' (c: no reply; a: late; b: late)'
    """
    reasons: dict[str, list[str]] = {}
    for rejection in rejections:
        reasons.setdefault(rejection.party, []).append(rejection.reason)
    parties = sorted(reasons, key=lambda party: -len(reasons[party]))
    causes = [f"{party}: {Counter(reversed(reasons[party])).most_common(1)[0][0]}" for party in parties[:MOST_NAMED]]
    if len(parties) > MOST_NAMED:
        causes.append(f"and {len(parties) - MOST_NAMED} more")
    return f" ({'; '.join(causes)})" if causes else ""
