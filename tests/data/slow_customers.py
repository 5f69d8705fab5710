"""Customers from lines, one at a time, with a stack of purchases for cancellations; slow, and plain to read.

The reference of ``test_transactions.py``, which runs it by path (``runpy``).
"""

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from itertools import pairwise
from typing import Any

import numpy as np

from fedmarket.contract.transactions import TransactionTerms

Line = tuple[str, str, str, str, str, str | None]
"""Customer, time, price, items, order and kind."""


def slow_customers(lines: Sequence[Line], made: TransactionTerms) -> list[dict[str, Any]]:
    mine: dict[str, list[Line]] = {}
    for one in lines:
        if one[0] or made.without_customer == "refuse":
            mine.setdefault(one[0], []).append(one)
    rows = [slow_row(name, mine[name], made) for name in sorted(mine)]
    return [row for row in rows if row is not None]


def slow_row(name: str, lines: Sequence[Line], made: TransactionTerms) -> dict[str, Any] | None:
    kept = slow_purchases(lines, made, made.start, made.cut)[-made.max_transactions :]
    later = slow_purchases(lines, made, made.cut, made.end)
    if not kept:
        return None
    amounts = [min(left, made.max_amount) for _, left, _ in kept]
    days = sorted({when.date() for when, _, _ in kept})
    gaps = [(b - a).days for a, b in pairwise(days)]
    final = made.cut - timedelta(days=1)
    total, future = sum(amounts), min(sum(left for _, left, _ in later), made.max_value)
    row: dict[str, Any] = {
        "id": name,
        "transactions": len(kept),
        "frequency": len(days) - 1,
        "recency_days": (days[-1] - days[0]).days,
        "tenure_days": (final - days[0]).days,
        "days_since_last": (final - days[-1]).days,
        "total_spend": total,
        "average_spend": total / len(kept),
        "last_spend": amounts[-1],
        "gap_mean_days": float(np.mean(gaps)) if gaps else None,
        "gap_min_days": min(gaps) if gaps else None,
        "gap_max_days": max(gaps) if gaps else None,
        "gap_std_days": float(np.std(gaps)) if gaps else None,
    }
    for quarter in (1, 2, 3, 4) if made.seasonality == "quarter" else ():
        spent = sum(paid for (when, _, _), paid in zip(kept, amounts, strict=True) if (when.month + 2) // 3 == quarter)
        row[f"spend_share_q{quarter}"] = spent / total if total else None
    for word in ("book", "disc", "(other)") if made.category else ():
        row[f"kind:{word}"] = sum(word in words for _, _, words in kept)
    return row | {"future_spend": future, "bought_again": future > 0}


def slow_purchases(
    lines: Sequence[Line], made: TransactionTerms, start: date, stop: date
) -> list[tuple[datetime, float, set[str]]]:
    """Time, what is left of the amount, and categories, in the order of the rules."""
    events: dict[Any, list[tuple[datetime, float, str]]] = {}
    for number, (_, time, price, items, order, kind) in enumerate(lines):
        when = datetime.fromisoformat(time)
        if start <= when.date() < stop:
            cancelled = is_cancelled(price, items, order, made)
            value = abs(float(price) * (int(items) if made.amount_is == "unit-price" else 1))
            word = kind if kind in ("book", "disc") else "(other)"
            events.setdefault((cancelled, order if made.order else number), []).append((when, value, word))
    listed = []
    for (cancelled, _), parts in events.items():
        words = {word for _, _, word in parts}
        bits = sum(1 << ("book", "disc", "(other)").index(word) for word in words) if made.category else 0
        value = round(sum(value for _, value, _ in parts), 4)
        listed.append((min(when for when, _, _ in parts), cancelled, value, bits, words))
    stack: list[list[Any]] = []
    for when, cancelled, value, _, words in sorted(listed, key=lambda event: event[:4]):
        if not cancelled:
            stack.append([when, value, words, value])
        elif made.cancellations is not None and made.cancellations.treatment == "net":
            owed = value
            for purchase in reversed(stack):
                taken = min(owed, purchase[1])
                purchase[1], owed = round(purchase[1] - taken, 4), round(owed - taken, 4)
    return [(when, left, words) for when, left, words, first in stack if left > 0 or first == 0]


def is_cancelled(price: str, items: str, order: str, made: TransactionTerms) -> bool:
    if made.cancellations is None:
        return False
    if made.cancellations.kind == "prefix":
        return order.startswith(made.cancellations.prefix)
    return float(price) < 0 or (made.quantity is not None and int(items) < 0)
