"""What a round of secure aggregation is about: the value that every key, mask and signature of it is bound to.

Keys are agreed before it is known what the vectors are computed from, so that a round's keys can be agreed while the
round before it ends. What they are computed from, the *inputs*, is bound to everything from the step mask on.
"""

import struct
from dataclasses import dataclass, replace
from functools import cached_property

from fedmarket.aggregation.secagg.roster import Roster
from fedmarket.aggregation.secagg.suite import HASH_SIZE, LABEL_CONTEXT, LABEL_INPUTS, sha256
from fedmarket.aggregation.steps import Step
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
        inputs: hash of what the vectors are computed from, such as the global model, 32 bytes; empty until it is
            known, which is before the step mask.

    Guarantees:
        Parties whose contexts differ anywhere derive unrelated masks and accept none of each other's messages from the
        step mask on; if they differ in more than the inputs, no message at all.

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
    roster: Roster
    inputs: bytes = b""

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
        if len(self.terms_hash) != HASH_SIZE or len(self.inputs) not in (0, HASH_SIZE):
            raise Refusal(f"expected hashes of {HASH_SIZE} bytes")

    def bound_to(self, inputs: bytes) -> "RoundContext":
        """Return the context of the same round with ``inputs``.

        Raises:
            Refusal: if it is bound to others already, or they are no hash.
        """
        if self.inputs not in (b"", inputs) or not inputs:
            raise Refusal("the round is bound to other inputs already" if inputs else "expected the hash of the inputs")
        return replace(self, inputs=inputs)

    def hash_of(self, step: Step) -> bytes:
        """Return what messages of ``step`` are bound to."""
        return self.hash if step in ("advertise", "share") else self.bound_hash

    @cached_property
    def hash(self) -> bytes:
        """SHA-256 of all fields but the inputs under the context label; the roster by its own hash."""
        return sha256(
            LABEL_CONTEXT,
            self.roster.suite.encode(),
            self.run,
            struct.pack(">Q", self.round_number),
            self.phase.encode(),
            struct.pack(">Q", self.length),
            struct.pack(">B", self.modulus_bits),
            self.terms_hash,
            self.roster.hash,
        )

    @cached_property
    def bound_hash(self) -> bytes:
        """SHA-256 of the context and its inputs.

        Raises:
            Refusal: if the inputs are not known yet.
        """
        if not self.inputs:
            raise Refusal("the round's inputs are not known yet")
        return sha256(LABEL_INPUTS, self.hash, self.inputs)

    @property
    def vector_size(self) -> int:
        """Bytes of a masked vector."""
        return self.length * self.modulus_bits // 8

    @property
    def least(self) -> int:
        """How many parties a round needs at every step before unmasking: the minimum of survivors."""
        return self.roster.minimum_survivors
