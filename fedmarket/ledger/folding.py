"""Findings for a reader: those that say the same of many entries or checkpoints are one line."""

import re
from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise

from fedmarket.ledger.findings import Finding

MOST_RANGES = 3
"""Ranges of numbers that are written out; of more, how many numbers there are and the ends."""

_CHECKPOINT = re.compile(r"checkpoint-(\d+)\.note")


def folded(findings: Iterable[Finding]) -> tuple[str, ...]:
    """Return a line for each finding, and one with ranges for those that differ in entry, round or checkpoint only.

    A line stands where the first of its findings stood.
    """
    alike: dict[Finding, list[Finding]] = {}
    for finding in findings:
        alike.setdefault(_without_numbers(finding), []).append(finding)
    return tuple(_line(group) for group in alike.values())


def _without_numbers(finding: Finding) -> Finding:
    """What findings must share to be one line: not where they stand, nor a number that rises from each to the next."""
    return replace(
        finding,
        source=_CHECKPOINT.sub("checkpoint", finding.source),
        what=_CHECKPOINT.sub("checkpoint", finding.what),
        expected="" if finding.what.startswith("entries that checkpoint-") else finding.expected,
        found="" if finding.what == "epsilon beyond the cap" else finding.found,
        sequence=None,
        place=None,
        round=None,
    )


def _line(group: list[Finding]) -> str:
    first, last = group[0], group[-1]
    if len(group) == 1:
        return str(first)
    matched = [_CHECKPOINT.fullmatch(one.source) for one in group]
    numbers = [int(one[1]) for one in matched if one]
    source = _ranges(numbers, "checkpoint-{}.note", many="{} checkpoints") if numbers else first.source
    where = [
        source,
        f"party {first.party}" if first.party is not None else "",
        _named([one.sequence for one in group], "entry", "entries"),
        _named([one.place for one in group], "log entry", "log entries"),
        f"run {first.run[:12]}" if first.run is not None else "",
        _named([one.round for one in group], "round", "rounds"),
    ]
    what = first.what if first.what == last.what else _CHECKPOINT.sub("each checkpoint", first.what)
    expected, found = (
        one if one == other else f"{one} to {other}"
        for one, other in ((first.expected, last.expected), (first.found, last.found))
    )
    said = f"{what}: expected {expected}, found {found}"
    return f"{first.question}: {', '.join(filter(None, where))}: {said} ({len(group)} findings)"


def _named(numbers: list[int | None], one: str, many: str) -> str:
    known = sorted({number for number in numbers if number is not None})
    if not known:
        return ""
    return f"{one if len(known) == 1 else many} {_ranges(known, '{}', many='{} of them')}"


def _ranges(numbers: list[int], form: str, *, many: str) -> str:
    """Return numbers as ranges, each end written as ``form``.

    >>> _ranges([0, 1, 2, 7], "{}", many="{} of them")
    '0 to 2, 7'
    """
    known = sorted(set(numbers))
    starts = [known[0], *(after for before, after in pairwise(known) if after > before + 1)]
    ends = [*(before for before, after in pairwise(known) if after > before + 1), known[-1]]
    if len(starts) > MOST_RANGES:
        return f"{form.format(known[0])} to {form.format(known[-1])}, {many.format(len(known))}"
    pairs = zip(starts, ends, strict=True)
    return ", ".join(
        form.format(low) if low == high else f"{form.format(low)} to {form.format(high)}" for low, high in pairs
    )
