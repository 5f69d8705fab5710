"""The partner's document, ``partner.toml``: what its node is, holds and agrees to.

It is the partner's alone: nothing of it comes from the operator, and no message changes it. It holds no secret, only
where secrets are. Paths are relative to the document.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from fedmarket.data.sources import Source
from fedmarket.documents import Count, Name, Positive, Section, Share, parse_document
from fedmarket.errors import BadMessage
from fedmarket.files import read_toml
from fedmarket.ledger.note import VerifierKey
from fedmarket.node.policy import PolicySection


class SocketSection(Section):
    """Where the node is asked, and by whom; see :mod:`fedmarket.node.door`.

    Attributes:
        path: of the Unix socket; its folder is nobody else's to write.
        group: a group of the operating system that may reach it; without it, the node's own user alone.
        users: users of the operating system that may ask, beside the node's own.
    """

    path: Name
    group: Name | None = None
    users: Annotated[tuple[Name, ...], Field(strict=False)] = ()

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        if bool(self.users) != (self.group is not None):
            raise ValueError("socket: group lets users reach it, and users says who of them may ask; give both or none")
        return self


class MarketRows(Section):
    """The rows that a simulated market deals to this party under its first seed: for rehearsals, and nothing else."""

    kind: Literal["market"]


class TableRows(Section):
    """The party's own table, and how many of its customers are kept for the private evaluation."""

    kind: Literal["table"]
    held_out_share: Share
    source: Source


class PartnerSection(Section):
    """The whole document; see ``docs/reference/partner.md``."""

    format: Literal["fedmarket-partner/1"]
    name: Name
    federation: Name
    roster: Name
    identity: Name
    books: Name
    log_key: Name
    declared_rows: Count
    cap: Positive
    socket: SocketSection
    data: Annotated[MarketRows | TableRows, Field(discriminator="kind")]
    policy: PolicySection

    @model_validator(mode="after")
    def _log_key_is_one(self) -> Self:
        try:
            VerifierKey.from_text(self.log_key)
        except BadMessage as error:
            raise ValueError(f"log_key: {error}") from None
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Partner:
    """The document with its paths made absolute.

    Attributes:
        source: of the document.
        federation: the experiment document that was agreed; its ``[data]`` is a simulation's, and not used.
        roster: see :mod:`fedmarket.federation.roster`.
        identity: file of the private key.
        books: folder of the ledger.
        socket: path of the Unix socket.
    """

    source: Path
    section: PartnerSection
    federation: Path
    roster: Path
    identity: Path
    books: Path
    socket: Path

    @property
    def name(self) -> str:
        """The party's name."""
        return self.section.name

    @property
    def folder(self) -> Path:
        """The folder that relative paths start from."""
        return self.source.parent

    @property
    def log(self) -> VerifierKey:
        """The key of the server's log, as it was agreed."""
        return VerifierKey.from_text(self.section.log_key)


def load_partner(path: Path) -> Partner:
    """Return the partner's document at ``path``.

    Raises:
        ConfigError: one line that names the file and the key, and says what was expected.
    """
    section = parse_document(PartnerSection, read_toml(path), source=str(path))
    source = path.resolve()
    folder = source.parent
    return Partner(
        source=source,
        section=section,
        federation=folder / section.federation,
        roster=folder / section.roster,
        identity=folder / section.identity,
        books=folder / section.books,
        socket=folder / section.socket.path,
    )
