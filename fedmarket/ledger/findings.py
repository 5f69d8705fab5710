"""What an auditor finds: verdicts, what is wrong and where, and what each party spent, as values and a document."""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from fedmarket.ledger.fields import Adjacency

FORMAT = "fedmarket-verdict/1"

Question = Literal["integrity", "completeness", "promise"]
"""What a finding speaks against: that nothing was altered, that nothing is missing, that what was promised is kept."""

LONGEST_TEXT = 120
"""Characters of a value in a finding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that does not hold, in one line.

    Attributes:
        question: what it speaks against.
        source: the file of the bundle that it was found in.
        what: the rule that is broken.
        expected: what would have held.
        found: what is there; numbers, names and first digits of hashes only.
        party: whose it is; None where it is nobody's.
        sequence: of the entry in that party's ledger.
        run: of the entry.
        round: of the entry.
        place: in the log.
    """

    question: Question
    source: str
    what: str
    expected: str
    found: str
    party: str | None = None
    sequence: int | None = None
    run: str | None = None
    round: int | None = None
    place: int | None = None

    def __str__(self) -> str:
        where = [
            self.source,
            f"party {self.party}" if self.party is not None else "",
            f"entry {self.sequence}" if self.sequence is not None else "",
            f"log entry {self.place}" if self.place is not None else "",
            f"run {self.run[:12]}" if self.run is not None else "",
            f"round {self.round}" if self.round is not None else "",
        ]
        said = f"{self.what}: expected {self.expected}, found {self.found}"
        return f"{self.question}: {', '.join(filter(None, where))}: {said}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """Epsilon and cap after one reservation; ``time`` is the party's own clock."""

    sequence: int
    time: str
    run: str
    round: int
    phase: str
    count: int
    epsilon: float
    cap: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DataAccount:
    """What was spent on one data set of a party at the ledger's delta, and how that is read.

    Attributes:
        data_set: its commitment.
        in_use: whether it is the party's last one, and not destroyed.
        accountants: epsilon by accountant; the larger one is ``epsilon``.
        unsampled: epsilon if nothing is gained from sampling; None where nothing was sampled.
        shared: whether any noise was a share of a sum's.
    """

    data_set: str
    in_use: bool
    epsilon: float
    accountants: dict[str, float]
    unsampled: float | None
    shared: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """An entry that a reader should ask about: another cap, data set or key, or a data set destroyed."""

    sequence: int
    time: str
    kind: str
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PartyAccount:
    """One party's ledger as far as it holds; numbers are the auditor's own.

    Attributes:
        epsilon: the largest over its data sets.
        entries: how many of its entries were read without a broken rule.
        open: reservations without outcome.
        given_back: releases that no longer count because the party says that nothing of them had left.
    """

    name: str
    entries: int
    unit: str
    adjacency: Adjacency
    delta: float
    cap: float
    epsilon: float
    data: tuple[DataAccount, ...]
    points: tuple[Point, ...]
    changes: tuple[Change, ...]
    open: int
    given_back: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunAccount:
    """One run: who joined, under which plan, which models came out, and epsilon of the whole plan by observer.

    Attributes:
        plan: as the ledgers write it; that of the first party that joined.
        masked: whether a roster is named, so that the server sees sums only.
        code: versions and hashes of the code that the parties say ran.
        observers: epsilon by observer: name, who that is, at most how much.
        models: hashes of released models; ``withdrawn`` those of them that are no longer to be used.
        private: whether all noise was said to be from the operating system.
    """

    run: str
    parties: tuple[str, ...]
    terms_hash: str
    contract_hash: str
    masked: bool
    plan: dict[str, Any]
    code: tuple[tuple[str, str], ...]
    observers: tuple[tuple[str, str, float], ...]
    models: tuple[str, ...]
    withdrawn: tuple[str, ...]
    private: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """What a customer held by every party spends at worst, and from which delta on that is promised."""

    epsilon: float
    delta: float
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Everything that a bundle shows; made by :func:`fedmarket.ledger.verify.verify`.

    Attributes:
        unread: parties whose ledger is missing, or was read up to a broken entry only: they may have spent more.
    """

    findings: tuple[Finding, ...]
    roster_hash: str
    log_key: str
    log_size: int
    checkpoints: int
    quorum: int
    parties: tuple[PartyAccount, ...]
    runs: tuple[RunAccount, ...]
    unread: tuple[str, ...]
    overlap: Overlap
    assumptions: tuple[str, ...]
    not_protected: tuple[str, ...]
    questions: tuple[str, ...]

    def to_document(self) -> dict[str, Any]:
        """Return the verdict as a document of JSON's types, infinite numbers as text."""
        body = {key: _plain(value) for key, value in asdict(self).items() if key != "findings"}
        findings = [_plain(asdict(finding)) | {"line": str(finding)} for finding in self.findings]
        verdicts = {question: self.holds(question) for question in get_args(Question)}
        return {"format": FORMAT, "good": self.good, "verdicts": verdicts, "findings": findings} | body

    def holds(self, question: Question) -> bool:
        """Return whether nothing was found against ``question``; of a promise only where every ledger could be read."""
        return all(found.question != question for found in self.findings) and not (
            question == "promise" and self.unread
        )

    @property
    def integrity(self) -> bool:
        """Whether nothing was altered: signatures, chains, rules, log, checkpoints, recomputed numbers."""
        return self.holds("integrity")

    @property
    def completeness(self) -> bool:
        """Whether nothing is missing that the bundle itself says there is."""
        return self.holds("completeness")

    @property
    def good(self) -> bool:
        """Whether everything holds."""
        return not self.findings


def clipped(text: str) -> str:
    r"""Return a stranger's text in one line of printable characters, not too long.

    >>> clipped("a" + chr(10) + "b")
    'a\\nb'
    """
    shown = "".join(char if char.isprintable() else repr(char)[1:-1] for char in text[:LONGEST_TEXT])
    return shown if len(text) <= LONGEST_TEXT else f"{shown}..."


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return "infinite" if isinstance(value, float) and not math.isfinite(value) else value
