"""What attackers attained, as far as the pages of the run that was attacked carry it: a part of a risk document.

The file may come from a stranger: every key that is used is checked, and none that is not. It says what somebody
measured; nothing in it is proved by being read.
"""

import json
import math
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from fedmarket.documents import parse_document
from fedmarket.errors import ConfigError

FORMAT = "fedmarket-risk/1"
RISK = "risk.json"
"""Its name, beside ``results.json``."""

LARGEST = 1 << 22
"""Bytes of a document."""

NEAR = 1e-4
"""By which share of itself an epsilon may differ from another accountant's of the same plan."""

WITHOUT, WITH = "federated", "federated_dp"
"""The arms that are compared."""


class _Part(BaseModel):
    """A table of the document; what is not used may be anything."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, allow_inf_nan=False)


class Ends(_Part):
    """An estimate with its interval."""

    estimate: float
    low: float
    high: float


class _Attained(_Part):
    advantage: Ends


class _Limit(_Part):
    advantage: float


class Cut(_Part):
    """A reduction: certified at least, or none and why."""

    certified: float | None
    words: str


class _Cuts(_Part):
    advantage: Cut


class _Reduction(_Part):
    group: str
    before: str
    after: str
    figures: _Cuts


class Reading(_Part):
    """What an audit's score shows of epsilon, from below."""

    epsilon: float
    gaussian: float | None
    claimed: float


class Gate(_Part):
    """The audit with canaries."""

    verdict: Literal["violated", "consistent", "inconclusive"]
    canaries: int
    runs: int
    readings: list[Reading] = Field(min_length=1)


class _Membership(_Part):
    watched: str
    runs: int
    confidence: float
    groups: dict[str, int]
    arms: dict[str, dict[str, dict[str, _Attained]]]
    limits: dict[str, _Limit]
    reductions: list[_Reduction]


class Row(_Part):
    """What is attained on one group of customers: the advantage without privacy and with it, by what is seen."""

    group: str
    customers: int
    views: tuple[str, str]
    before: Ends
    after: Ends
    limit: float
    cut: Cut


class Measured(_Part):
    """The part of a risk document that other pages carry; see ``docs/reference/risk.md``."""

    format: Literal["fedmarket-risk/1"]
    name: str
    created: str
    version: str
    unit: str
    generator: str
    noise: str
    epsilon: float
    delta: float
    gate: Gate
    membership: _Membership

    @property
    def lower_bound(self) -> float:
        """What the audit shows of epsilon at least, by the score that sees every round."""
        first = self.gate.readings[0]
        return max(first.epsilon, first.gaussian or 0.0)

    @property
    def rows(self) -> tuple[Row, ...]:
        """One for each group of customers."""
        found = self.membership
        return tuple(
            Row(
                group=one.group,
                customers=found.groups[one.group],
                views=(one.before, one.after),
                before=found.arms[WITHOUT][one.group][one.before].advantage,
                after=found.arms[WITH][one.group][one.after].advantage,
                limit=found.limits[one.after].advantage,
                cut=one.figures.advantage,
            )
            for one in found.reductions
        )

    @model_validator(mode="after")
    def _need_whole(self) -> Self:
        """Refuse a reduction of what was not measured."""
        try:
            _ = self.rows
        except KeyError as error:
            raise ValueError(f"membership: a reduction of {error}, which was not measured") from None
        return self


def read_measured(path: Path) -> Measured:
    """Return what the risk document at ``path`` says.

    Raises:
        ConfigError: one line that names the file and the first wrong keys.
    """
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror or error})") from None
    try:
        document = json.loads(content) if len(content) <= LARGEST else None
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: expected a JSON document of at most {LARGEST} bytes, as fedmarket attack writes it")
    return parse_document(Measured, document, source=str(path))


def same_epsilon(one: float, other: float) -> bool:
    """Return whether two accountants can have found these of one plan.

    >>> same_epsilon(1.0, 1.00001), same_epsilon(1.0, 1.01)
    (True, False)
    """
    return math.isclose(one, other, rel_tol=NEAR)
