"""What counts on each data set of one ledger, kept as the auditor reads on instead of gone through again each time."""

from collections import Counter
from dataclasses import dataclass, field

from fedmarket.ledger.entries import Reserved, Statement, Voided
from fedmarket.ledger.replay import State
from fedmarket.ledger.spending import Counts, Groups, grouped


@dataclass(slots=True)
class Meter:
    """What counts on each data set of one ledger, moved on by each entry that the replay has taken."""

    used: dict[str, Counts] = field(default_factory=dict)
    given_back: int = 0

    def take(self, statement: Statement, state: State) -> str | None:
        """Move on by ``statement``, which ``state`` has just taken; return the data set that it changed."""
        if not isinstance(statement, Reserved | Voided):
            return None
        found = state.reservations[statement.run, statement.round]
        counts = self.used.setdefault(found.data_set, Counter())
        if isinstance(statement, Reserved):
            counts[found.mechanism] += found.count
        elif found.counts:
            return None
        else:
            counts[found.mechanism] -= found.count
            self.given_back += found.count
            if not counts[found.mechanism]:
                del counts[found.mechanism]
        return found.data_set

    def groups(self, data_set: str, state: State) -> Groups:
        """Return what rows trained on pay for, and rows held out."""
        return grouped(
            (mechanism, count, source != data_set)
            for source in sorted(state.lineage.get(data_set, {data_set}))
            for mechanism, count in self.used.get(source, Counter()).items()
        )
