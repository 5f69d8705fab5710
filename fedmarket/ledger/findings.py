"""What an auditor finds: verdicts, what is wrong and where, and what each party spent, as values and a document."""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from fedmarket.ledger.fields import Adjacency

FORMAT = "fedmarket-verdict/1"

Standing = Literal["holds", "broken", "not-established"]
"""What a verdict is: nothing speaks against it, something does, or not all that would have to was there to be read."""

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
class Use:
    """How often a mechanism counts on a data set, and all that its epsilon follows from.

    Attributes:
        resolution: of the grid on which noise is shared; None, as ``shares`` and ``slack``, where each party's own is
            enough.
    """

    phase: str
    count: int
    clip_norm: float
    noise_multiplier: float
    sample_rate: float
    length: int
    resolution: float | None
    shares: int | None
    slack: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DataAccount:
    """What was spent on one data set of a party at the ledger's delta, and how that is read.

    Attributes:
        data_set: its commitment.
        in_use: whether it is the party's last one, and not destroyed.
        accountants: epsilon by accountant; the larger one is ``epsilon``.
        unsampled: epsilon if nothing is gained from sampling; None where nothing was sampled.
        shared: whether any noise was a share of a sum's.
        trained: what rows trained on pay for; epsilon is the larger one of theirs and that of rows ``held_out``.
    """

    data_set: str
    in_use: bool
    epsilon: float
    accountants: dict[str, float]
    unsampled: float | None
    shared: bool
    trained: tuple[Use, ...]
    held_out: tuple[Use, ...]


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
        unit: what one promise is for, as signed; ``per`` in words.
        epsilon: the largest over its data sets.
        entries: how many of its entries were read without a broken rule.
        open: reservations without outcome.
        given_back: releases that no longer count because the party says that nothing of them had left.
    """

    name: str
    entries: int
    unit: str
    per: str
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
    """What a customer held by every party of the manifest spends at worst, and from which delta on that is promised.

    Attributes:
        bounded: whether every ledger was read to its end; else the numbers are what was read, and bound nothing.
        worthless: whether the delta is so large that next to nothing is promised.
        title: who that is, in two or three words.
    """

    title: str
    bounded: bool
    worthless: bool
    epsilon: float
    delta: float
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LastCheckpoint:
    """The newest checkpoint of a bundle; ``time`` is that of its latest cosignature, None where there is none."""

    size: int
    root: str
    cosigners: int
    time: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What was checked, by what, and when.

    Attributes:
        bundle_hash: SHA-256 of what was handed over.
        bundle_form: a zip, whose bytes are hashed, or files, of which :func:`fedmarket.ledger.bundle.hash_of_files` is.
        checker: version and hash of the code that made the verdict.
        time: of the check, UTC.
        checkpoint: None where there is none that can be read.
    """

    bundle_hash: str
    bundle_form: Literal["zip", "files"]
    checker: tuple[str, str]
    time: str
    checkpoint: LastCheckpoint | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Everything that a bundle shows; made by :func:`fedmarket.ledger.verify.verify`.

    Attributes:
        keys: whether roster and log key were held against the auditor's own, in a sentence.
        lines: the findings for a reader: those alike are one line.
        per: what the promise is for, in words.
        listed: how many parties the manifest has.
        unread: parties whose ledger is missing, broken from some entry on, or ends before the log: they may have spent
            more.
        measured: what attackers attained, as the document says that came with the bundle; None where none came.
    """

    keys: str
    roster_compared: bool
    log_key_compared: bool
    evidence: Evidence
    findings: tuple[Finding, ...]
    lines: tuple[str, ...]
    per: str
    listed: int
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
    measured: dict[str, Any] | None

    def to_document(self) -> dict[str, Any]:
        """Return the verdict as a document of JSON's types, infinite numbers as text."""
        body = {key: _plain(value) for key, value in asdict(self).items() if key != "findings"}
        findings = [_plain(asdict(finding)) | {"line": str(finding)} for finding in self.findings]
        verdicts = dict(self.verdicts)
        return {"format": FORMAT, "good": self.good, "verdicts": verdicts, "findings": findings} | body

    @property
    def verdicts(self) -> dict[Question, Standing]:
        """The three verdicts, in their order."""
        return {question: self.verdict(question) for question in get_args(Question)}

    def verdict(self, question: Question) -> Standing:
        """Return what was found on ``question``.

        A promise is broken by what shows that it was, and established only where everything that was spent is there and
        could be accounted.
        """
        against = {found.question for found in self.findings}
        if question in against:
            return "broken"
        spent = (party.epsilon for party in self.parties)
        seen = not (self.unread or "completeness" in against) and all(map(math.isfinite, spent))
        return "holds" if question != "promise" or seen else "not-established"

    def holds(self, question: Question) -> bool:
        """Return whether the verdict on ``question`` is that it holds."""
        return self.verdict(question) == "holds"

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
        return not self.findings and all(map(self.holds, get_args(Question)))


def per(unit: str) -> str:
    """Return what a promise for ``unit`` is per, for a sentence.

    >>> per("row"), per("column:client_id")
    ('row', 'customer (column client_id)')
    """
    return f"customer (column {unit.removeprefix('column:')})" if unit.startswith("column:") else unit


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
