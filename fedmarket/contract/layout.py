"""Where each column goes in the encoded row: a layout computed from the contract alone.

A numeric column becomes its value scaled from the public bounds to [-1, 1], with bins by public edges beside it
where the model wants them, and a flag for "missing". A category becomes one place for each word of the vocabulary
and two more: "other" and "missing".
"""

import itertools
import math
from dataclasses import dataclass

from fedmarket.contract.columns import CategoryColumn, Column, NumericColumn
from fedmarket.contract.schema import Contract


@dataclass(frozen=True, slots=True, kw_only=True)
class Slots:
    """The places ``start`` to ``stop`` of the encoded row that one column fills."""

    column: Column
    start: int
    stop: int
    binned: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """The encoded row: its slots in order, its width and a bound on its Euclidean norm.

    Attributes:
        one_hot: for each place, whether it is 0 or 1, and not a scaled number.
        weights: for each place, the contract's weight of its column.

    Guarantees:
        Every row that :func:`fedmarket.data.encode.encode` makes under this layout has norm at most ``norm_bound``.
    """

    slots: tuple[Slots, ...]
    width: int
    norm_bound: float
    names: tuple[str, ...]
    one_hot: tuple[bool, ...]
    weights: tuple[float, ...]


def layout_of(contract: Contract, *, binning: bool) -> Layout:
    """Return the layout of ``contract``; with ``binning``, numeric columns with edges get one-hot bins too."""
    slots: list[Slots] = []
    names: list[str] = []
    one_hot: list[bool] = []
    weights: list[float] = []
    squared_norm = 0.0
    for column in contract.columns:
        binned = binning and isinstance(column, NumericColumn) and bool(column.edges)
        new = _names(column, binned=binned)
        slots.append(Slots(column=column, start=len(names), stop=len(names) + len(new), binned=binned))
        names += new
        one_hot += [isinstance(column, CategoryColumn) or place > 0 for place in range(len(new))]
        weights += [column.weight] * len(new)
        # Scaled value and bin may both be 1 in size; "missing" excludes them. A category fills one place.
        squared_norm += 2.0 if binned else 1.0
    return Layout(
        slots=tuple(slots),
        width=len(names),
        norm_bound=math.sqrt(squared_norm),
        names=tuple(names),
        one_hot=tuple(one_hot),
        weights=tuple(weights),
    )


def _names(column: Column, *, binned: bool) -> list[str]:
    if isinstance(column, CategoryColumn):
        return [f"{column.name}={word}" for word in (*column.vocabulary, "(other)", "(missing)")]
    names = [column.name, f"{column.name}=(missing)"]
    if binned:
        steps = ["-inf", *(f"{edge:g}" for edge in column.edges), "inf"]
        names += [f"{column.name}:[{low},{high})" for low, high in itertools.pairwise(steps)]
    return names
