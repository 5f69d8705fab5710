"""What a round of secure aggregation is about: the value that every key, mask and signature of it is bound to."""

import struct
from dataclasses import dataclass
from functools import cached_property

from fedmarket.aggregation.secagg.roster import Roster
from fedmarket.aggregation.secagg.suite import HASH_SIZE, LABEL_CONTEXT, sha256
from fedmarket.errors import Refusal

LONGEST_VECTOR = 1 << 27
"""Words: with 64 bits each, a gigabyte."""

RUN_SIZE = 16


@dataclass(frozen=True, kw_only=True)
class RoundContext:
    """One round, as one party knows it from its own documents.

    Attributes:
        run: 16 bytes that no other run has.
        round_number: no other round of the run has it, a void one included.
        phase: what is summed, such as ``update``.
        length: words of each vector.
        modulus_bits: 32 or 64.
        terms_hash: of contract, configuration and whatever else was agreed, 32 bytes.
        model_hash: of the global model that the update starts from, 32 bytes.

    Guarantees:
        Parties whose contexts differ anywhere accept none of each other's messages and derive unrelated masks.

    Raises:
        Refusal: if a field is out of its range.
        ConfigError: if the roster has too few members for a sum to hide one.
    """

    run: bytes
    round_number: int
    phase: str
    length: int
    modulus_bits: int
    terms_hash: bytes
    model_hash: bytes
    roster: Roster

    def __post_init__(self) -> None:
        self.roster.need_maskable()
        if len(self.run) != RUN_SIZE:
            raise Refusal(f"expected a run of {RUN_SIZE} bytes, got {len(self.run)}")
        if not 0 <= self.round_number < 2**64:
            raise Refusal("expected a round number from 0 to 2 ** 64 - 1")
        if not 1 <= self.length <= LONGEST_VECTOR:
            raise Refusal(f"expected 1 to {LONGEST_VECTOR} words, got {self.length}")
        if self.modulus_bits not in (32, 64):
            raise Refusal(f"expected words of 32 or 64 bits, got {self.modulus_bits}")
        if len(self.terms_hash) != HASH_SIZE or len(self.model_hash) != HASH_SIZE:
            raise Refusal(f"expected hashes of {HASH_SIZE} bytes")

    @cached_property
    def hash(self) -> bytes:
        """SHA-256 of all fields under the context label; the roster by its own hash."""
        return sha256(
            LABEL_CONTEXT,
            self.roster.suite.encode(),
            self.run,
            struct.pack(">Q", self.round_number),
            self.phase.encode(),
            struct.pack(">Q", self.length),
            struct.pack(">B", self.modulus_bits),
            self.terms_hash,
            self.model_hash,
            self.roster.hash,
        )

    @property
    def vector_size(self) -> int:
        """Bytes of a masked vector."""
        return self.length * self.modulus_bits // 8

    @property
    def least(self) -> int:
        """How many parties a round needs at every step before unmasking: the minimum of survivors."""
        return self.roster.minimum_survivors
