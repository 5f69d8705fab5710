"""Secret sharing over a prime field (Shamir 1979): any ``threshold`` shares give the secret, fewer say nothing.

A share is the value at x = 1, 2, ... of a polynomial of degree ``threshold - 1`` with the secret at x = 0 and the other
coefficients uniform. It is the only mathematics here that no library gives: packaged ones are hundreds of times slower
or end at 16 shares.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from fedmarket.errors import BadMessage

EXCESS = 16
"""Bytes drawn beyond the field's width: a coefficient then differs from uniform by less than 2 ** -128."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """The integers modulo ``prime``, the least prime above 256 ** ``secret_size``."""

    prime: int
    secret_size: int

    @property
    def share_size(self) -> int:
        """Bytes of one share: an element, big-endian, with one byte more than a secret."""
        return self.secret_size + 1


SEED_FIELD = Field(prime=2**128 + 51, secret_size=16)
"""For self-mask seeds."""

KEY_FIELD = Field(prime=2**256 + 297, secret_size=32)
"""For X25519 secret keys."""


def split(
    field: Field, secret: bytes, *, places: int, threshold: int, _random: Callable[[int], bytes] = os.urandom
) -> list[bytes]:
    """Return the shares at x = 1 to ``places``, of which any ``threshold`` give ``secret``."""
    width = field.share_size + EXCESS
    drawn = _random(width * (threshold - 1))
    coefficients = [
        int.from_bytes(drawn[start : start + width], "big") % field.prime for start in range(0, len(drawn), width)
    ]
    coefficients.append(int.from_bytes(secret, "big"))  # Horner's order: the constant term comes last
    return [evaluated(field, coefficients, place).to_bytes(field.share_size, "big") for place in range(1, places + 1)]


def evaluated(field: Field, coefficients: Sequence[int], place: int) -> int:
    """Return the polynomial with ``coefficients``, highest first, at ``place``."""
    value = 0
    for coefficient in coefficients:
        value = (value * place + coefficient) % field.prime
    return value


def element(field: Field, share: bytes) -> int:
    """Return a share as an element of the field.

    Raises:
        BadMessage: if it is not the one encoding of one.
    """
    value = int.from_bytes(share, "big")
    if len(share) != field.share_size or value >= field.prime:
        raise BadMessage("a share is not an element of the field")
    return value


def weights(field: Field, places: Sequence[int], *, at: int = 0) -> list[int]:
    """Return Lagrange's weights: the value at ``at`` is their inner product with the values at ``places``."""
    result = []
    for place in places:
        above, below = 1, 1
        for other in places:
            if other != place:
                above = above * (at - other) % field.prime
                below = below * (place - other) % field.prime
        result.append(above * pow(below, -1, field.prime) % field.prime)
    return result


def inner(field: Field, values: Sequence[int], by: Sequence[int]) -> int:
    """Return the inner product of values and weights in the field."""
    return sum(value * weight for value, weight in zip(values, by, strict=True)) % field.prime


def combined(field: Field, values: Sequence[int], by: Sequence[int]) -> bytes | None:
    """Return the secret from ``values`` under the weights ``by``, None where they give none."""
    secret = inner(field, values, by)
    return secret.to_bytes(field.secret_size, "big") if secret >> (8 * field.secret_size) == 0 else None


def strays(field: Field, values: Mapping[int, int], *, threshold: int) -> frozenset[int] | None:
    """Return the places whose values are off the one polynomial that most are on, None if there is none.

    Up to half of the values beyond ``threshold`` may be off, and then no other polynomial fits as well, whoever made
    up the wrong ones (Welch and Berlekamp 1986): Q(x) = y E(x) is solved for a Q and a monic E that is zero where y is
    wrong.
    """
    places = sorted(values)
    errors = (len(places) - threshold) // 2
    width = threshold + errors
    rows = []
    for place in places:
        powers = [pow(place, power, field.prime) for power in range(width + 1)]
        wrong = [-values[place] * power for power in powers[: errors + 1]]
        rows.append([*powers[:width], *wrong[:errors], -wrong[errors]])
    solution = _solved(field, rows)
    if solution is None:
        return None
    locator = [1, *reversed(solution[width:])]
    good = [place for place in places if evaluated(field, locator, place)][:threshold]
    on = [values[place] for place in good]
    off = [place for place in places if values[place] != inner(field, on, weights(field, good, at=place))]
    return frozenset(off) if len(off) <= errors else None


def _solved(field: Field, rows: list[list[int]]) -> list[int] | None:
    """Return a solution of the linear equations whose last column is the right side, None if there is none."""
    prime, unknowns = field.prime, len(rows[0]) - 1
    rows = [[value % prime for value in row] for row in rows]
    pivots: list[int] = []
    for column in range(unknowns):
        done = len(pivots)
        pivot = next((row for row in range(done, len(rows)) if rows[row][column]), None)
        if pivot is None:
            continue
        rows[done], rows[pivot] = rows[pivot], rows[done]
        inverse = pow(rows[done][column], -1, prime)
        rows[done] = [value * inverse % prime for value in rows[done]]
        for number, row in enumerate(rows):
            if number != done and row[column]:
                factor = row[column]
                rows[number] = [(a - factor * b) % prime for a, b in zip(row, rows[done], strict=True)]
        pivots.append(column)
    if any(row[-1] for row in rows[len(pivots) :]):
        return None
    solution = [0] * unknowns  # what is free stays zero
    for number, column in enumerate(pivots):
        solution[column] = rows[number][-1]
    return solution
