"""The roster as a TOML document, agreed out of band: who takes part in secure aggregation, and by which numbers.

What the document means, its rules and how it is written are :class:`fedmarket.aggregation.secagg.roster.Roster`'s.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from fedmarket.aggregation.secagg.roster import Member, Roster, parse_public_key, threshold_for
from fedmarket.aggregation.secagg.suite import SUITE
from fedmarket.documents import Name, Section, parse_document
from fedmarket.errors import ConfigError
from fedmarket.files import read_toml

__all__ = ["Member", "Roster", "load_roster", "members_in", "new_roster"]

LARGEST_ROSTER, LONGEST_LINE = 2**16, 2**10
"""Bytes of a document and of one line in it; a hundred members are below a third of that."""

_Number = Annotated[int, Field(ge=0, lt=2**16)]
_Text = Annotated[str, Field(min_length=1, max_length=100)]


class _MemberTable(Section):
    name: Name
    public_key: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _RosterTable(Section):
    format: Literal["fedmarket-roster/1"]
    suite: _Text
    threshold: _Number
    minimum_survivors: _Number
    member: list[_MemberTable]


def new_roster(members: Iterable[Member], *, minimum_survivors: int | None = None) -> Roster:
    """Return the roster of ``members``; where no minimum of survivors is given, it is the threshold.

    Raises:
        ConfigError: if a rule of the roster is broken.
    """
    listed = tuple(members)
    threshold = threshold_for(len(listed))
    least = threshold if minimum_survivors is None else minimum_survivors
    return Roster(members=listed, threshold=threshold, minimum_survivors=least, suite=SUITE)


def members_in(text: str, *, source: str) -> tuple[Member, ...]:
    r"""Return the members that partners' lines name, each as ``fedmarket party init`` printed it: public key and name.

    Empty lines and those that begin with ``#`` are left out.

    >>> [member.name for member in members_in("# ours\n" + "3d" * 32 + "  Alpha Bank\n", source="partners.txt")]
    ['Alpha Bank']

    Raises:
        ConfigError: one line that names the source and the line's number.
    """
    members = []
    for number, line in enumerate(text.split("\n"), start=1):
        key, _, name = line.strip().partition(" ")
        if not key or key.startswith("#"):
            continue
        try:
            members.append(Member(name=name.strip(), public_key=parse_public_key(key)))
        except ConfigError as error:
            raise ConfigError(f"{source}, line {number}: {error}") from None
    return tuple(members)


def load_roster(path: Path) -> Roster:
    """Return the roster in the TOML document at ``path``.

    Raises:
        ConfigError: one line that names file and key.
    """
    document = read_toml(path, largest=LARGEST_ROSTER, longest_line=LONGEST_LINE)
    table = parse_document(_RosterTable, document, source=str(path))
    try:
        return Roster(
            members=tuple(
                Member(name=member.name, public_key=parse_public_key(member.public_key)) for member in table.member
            ),
            threshold=table.threshold,
            minimum_survivors=table.minimum_survivors,
            suite=table.suite,
        )
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None
