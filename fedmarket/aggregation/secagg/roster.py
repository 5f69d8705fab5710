"""Who takes part, and the numbers that guard them: a value that every party holds by itself.

The document it is read from is :mod:`fedmarket.federation.roster`.
"""

import hashlib
import json
import re
import unicodedata
from dataclasses import dataclass
from functools import cached_property

from fedmarket.aggregation.secagg.suite import SUITE
from fedmarket.errors import ConfigError

FORMAT = "fedmarket-roster/1"

FEWEST_MASKED = 4
"""With two a sum gives the other one away; with three a single drop-out leaves two."""

MOST_MEMBERS = 100
"""What the complete graph was measured for; a share's place in the field and the wire format would hold more."""

LONGEST_NAME = 64
"""Bytes of a member's name in UTF-8."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """An organisation: its name and its long-term Ed25519 public key (RFC 8032), 32 bytes."""

    name: str
    public_key: bytes

    def __post_init__(self) -> None:
        name = self.name
        if not (name.isprintable() and name == name.strip() and unicodedata.is_normalized("NFC", name)):
            raise ConfigError("member.name: expected printable NFC text without outer blanks")
        if not 1 <= len(name.encode()) <= LONGEST_NAME:
            raise ConfigError(f"member.name: expected 1 to {LONGEST_NAME} bytes of UTF-8, got {len(name.encode())}")
        if len(self.public_key) != 32:
            raise ConfigError(f"member.public_key: expected 32 bytes for {name}, got {len(self.public_key)}")


def threshold_for(members: int) -> int:
    """Return the number of parties that must act together: floor(2n/3) + 1.

    Against a hostile server that controls fewer than n/3 of the parties two different sets of survivors can then never
    both find enough signatures (Bonawitz et al. 2017, section 6.2).

    >>> [threshold_for(n) for n in (4, 5, 6, 10, 100)]
    [3, 4, 5, 7, 67]
    """
    return 2 * members // 3 + 1


@dataclass(frozen=True, kw_only=True)
class Roster:
    """The members, sorted by name, with threshold, minimum number of survivors and cipher suite.

    Guarantees:
        A value that breaks a rule cannot be made: 1 to 100 members with distinct names and keys, the threshold
        exactly :func:`threshold_for`, ``threshold <= minimum_survivors <= n``, a known suite. Equal rosters have equal
        hashes, and a different name, key or number gives another hash.

    Raises:
        ConfigError: one line that names the key.
    """

    members: tuple[Member, ...]
    threshold: int
    minimum_survivors: int
    suite: str = SUITE

    def __post_init__(self) -> None:
        count = len(self.members)
        if self.suite != SUITE:
            raise ConfigError(f"suite: expected {SUITE!r}, got {self.suite!r}")
        if not 1 <= count <= MOST_MEMBERS:
            raise ConfigError(f"member: expected 1 to {MOST_MEMBERS} members, got {count}")
        object.__setattr__(self, "members", tuple(sorted(self.members, key=lambda member: member.name)))
        if len(set(self.names)) < count:
            raise ConfigError("member.name: every member needs a name of its own")
        if len({member.public_key for member in self.members}) < count:
            raise ConfigError("member.public_key: every member needs a key of its own")
        if self.threshold != threshold_for(count):
            raise ConfigError(
                f"threshold: expected {threshold_for(count)} for {count} members (floor(2n/3) + 1), "
                f"got {self.threshold}"
            )
        if not self.threshold <= self.minimum_survivors <= count:
            raise ConfigError(
                f"minimum_survivors: expected {self.threshold} (the threshold) to {count}, got {self.minimum_survivors}"
            )

    def need_maskable(self) -> None:
        """Raise a ConfigError if secure aggregation could not hide one member's update in a sum."""
        if (count := len(self.members)) < FEWEST_MASKED:
            raise ConfigError(
                f"member: secure aggregation needs {FEWEST_MASKED} to {MOST_MEMBERS} members, got {count}"
            )

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The members' names in order; a member's place in it is its index in every message."""
        return tuple(member.name for member in self.members)

    @cached_property
    def hash(self) -> bytes:
        """SHA-256 of the canonical JSON: sorted keys, no blanks, ASCII escapes, keys in lower-case hexadecimal."""
        document = {
            "format": FORMAT,
            "suite": self.suite,
            "threshold": self.threshold,
            "minimum_survivors": self.minimum_survivors,
            "member": [{"name": member.name, "public_key": member.public_key.hex()} for member in self.members],
        }
        return hashlib.sha256(json.dumps(document, sort_keys=True, separators=(",", ":")).encode("ascii")).digest()

    def index(self, name: str) -> int | None:
        """Return ``name``'s place among the members, None for a stranger."""
        return self.names.index(name) if name in self.names else None

    def index_of_key(self, public_key: bytes) -> int | None:
        """Return the place of the member with this key, None for a stranger."""
        return next((place for place, member in enumerate(self.members) if member.public_key == public_key), None)

    def to_toml(self) -> str:
        """Return the document that :func:`fedmarket.federation.roster.load_roster` reads."""
        head = (
            f'format = "{FORMAT}"\nsuite = "{self.suite}"\n'
            f"threshold = {self.threshold}\nminimum_survivors = {self.minimum_survivors}\n"
        )
        # Names are printable, so their JSON text escapes only quotes and backslashes, as TOML does.
        return head + "".join(
            f"\n[[member]]\nname = {json.dumps(member.name, ensure_ascii=False)}\n"
            f'public_key = "{member.public_key.hex()}"\n'
            for member in self.members
        )


def parse_public_key(text: str) -> bytes:
    """Return the 32 bytes of a public key written as 64 hexadecimal digits.

    Raises:
        ConfigError: if it is anything else.
    """
    if not re.fullmatch(r"[0-9a-f]{64}", text):
        raise ConfigError("member.public_key: expected 64 lower-case hexadecimal digits")
    return bytes.fromhex(text)
