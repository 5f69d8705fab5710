"""A ledger as its owner may look at it at any time: no lock, no key, no byte written.

A node may be writing meanwhile. Its file only grows, so what is there up to the last newline is the ledger as it was a
moment ago, and it is held to the same rules as when the node opens it.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedmarket.errors import DataError, ProtocolError, UsageError
from fedmarket.ledger.canonical import real
from fedmarket.ledger.entries import (
    CapChanged,
    DataDestroyed,
    DataReplaced,
    Entry,
    Joined,
    Opened,
    Released,
    Rotated,
    Withdrawn,
)
from fedmarket.ledger.replay import Outcome, State, take
from fedmarket.privacy.mechanism import Phase

FORMAT = "fedmarket-budget/1"

CHANGES = CapChanged | DataReplaced | DataDestroyed | Rotated | Released | Withdrawn
"""What a budget's reader wants to know beside runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """A ledger up to its last whole line.

    Attributes:
        opened: its first entry.
        state: what it means; to be read, not changed.
        entries: all of them, signatures and rules checked.
        incomplete: whether more was there that is no whole line: it is being written, or a crash cut it.
        torn: names of the files beside it that hold what crashes cut before.
    """

    opened: Opened = field(repr=False)
    state: State = field(repr=False)
    entries: tuple[Entry, ...] = field(repr=False)
    incomplete: bool
    torn: tuple[str, ...]

    def to_document(self) -> dict[str, Any]:
        """Return what was spent, by data set and run, and what changed; every epsilon is found anew.

        Raises:
            PlanError: if the accountants do not agree, or one that is needed is not installed.
        """
        state, opened = self.state, self.opened
        return {
            "format": FORMAT,
            "party": state.party,
            "public_key": state.public_key.hex(),
            "entries": state.size,
            "last": state.last,
            "incomplete_line": self.incomplete,
            "torn": list(self.torn),
            "unit": opened.unit,
            "adjacency": opened.adjacency,
            "delta": real(opened.delta),
            "cap": real(state.cap),
            "destroyed": state.destroyed,
            "data_sets": list(self._data_sets()),
            "runs": list(self._runs()),
            "released": [{"model_hash": model, "run": run} for model, run in state.released.items()],
            "changes": [
                {"time": entry.head.time, **entry.statement.model_dump()}
                for entry in self.entries
                if isinstance(entry.statement, CHANGES)
            ],
        }

    def _data_sets(self) -> Iterator[dict[str, Any]]:
        """Give one for each data set that was ever in use, the one in use last."""
        since: dict[str, str] = {}
        for entry in self.entries:
            if isinstance(entry.statement, Opened | DataReplaced):
                data_set = entry.statement.data_set if isinstance(entry.statement, Opened) else entry.statement.new
                since.pop(data_set, None)  # one that comes back is the last again
                since[data_set] = entry.head.time
        for data_set, time in since.items():
            spent = self.state.spent(data_set=data_set)
            yield {
                "data_set": data_set,
                "in_use": data_set == self.state.data_set and not self.state.destroyed,
                "since": time,
                "counts_too": sorted(self.state.lineage[data_set] - {data_set}),
                "epsilon": spent.epsilon,
                "left": max(0.0, real(self.state.cap) - spent.epsilon),
                "accountants": spent.accountants,
            }

    def _runs(self) -> Iterator[dict[str, Any]]:
        counts: Counter[tuple[str, Phase, Outcome]] = Counter()
        for found in self.state.reservations.values():
            counts[found.run, found.mechanism.phase, found.outcome] += found.count
        for entry in self.entries:
            if isinstance(entry.statement, Joined):
                run = self.state.runs[entry.statement.run]
                yield {
                    "run": entry.statement.run,
                    "joined": entry.head.time,
                    "data_set": entry.statement.data_set,
                    "generator": entry.statement.plan.generator,
                    "phases": [
                        {
                            "phase": phase,
                            "planned": mechanism.releases,
                            "spent": run.used[phase],
                            "open": counts[entry.statement.run, phase, "open"],
                            "lost": counts[entry.statement.run, phase, "lost"],
                            "given_back": counts[entry.statement.run, phase, "given-back"],
                        }
                        for phase, mechanism in run.mechanisms.items()
                    ],
                }


def look(folder: Path) -> Look:
    """Return the ledger in ``folder`` as it is now.

    Raises:
        UsageError: if there is none, it cannot be read, or nothing was entered yet.
        DataError: one line that names the damaged line or the broken rule.
    """
    path = folder / "ledger.jsonl"
    try:
        *lines, tail = path.read_bytes().split(b"\n")
        torn = tuple(sorted(found.name for found in folder.glob("ledger.torn-*")))
    except FileNotFoundError:
        raise UsageError(f"{path}: no such ledger; name the folder that the party's node keeps it in") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror or error})") from None
    if not tail and lines and b"\0" in lines[-1]:  # as fedmarket.ledger.lines: its blocks were never written
        tail = lines.pop()
    state, entries = State(), list[Entry]()
    for number, line in enumerate(lines, start=1):
        try:
            entries.append(take(state, line))
        except ProtocolError as error:
            raise DataError(f"{path}: line {number}: {error}; a ledger is never repaired") from None
    if state.opened is None:
        raise UsageError(f"{path}: nothing was entered yet; the party's node opens it when it first takes part")
    return Look(opened=state.opened, state=state, entries=tuple(entries), incomplete=bool(tail), torn=torn)
