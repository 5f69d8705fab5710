"""Many parties' local training at once, where one process holds them all, as a simulation does.

Each party has its own sample, clip and noise, from its own stream, in the order in which it would use them alone; only
the arithmetic is shared. Whatever is promised of a sum is promised in :mod:`fedmarket.training.gradients`; this module
changes speed alone, and gives way to it where rows are not finite, stand for customers, or are many.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from fedmarket.arrays import FloatArray
from fedmarket.models.network import Network, load_vector, parameter_count
from fedmarket.models.objectives import Objective
from fedmarket.privacy.mechanism import Mechanism
from fedmarket.privacy.noise import Stream
from fedmarket.training.batch import CHUNK, Batch, one_thread
from fedmarket.training.closed_form import layers_of, stacked
from fedmarket.training.gradients import clipped_gradient_sum, norms_of
from fedmarket.training.sums import sample_of

MOST_NUMBERS = 1 << 23
"""Float64 numbers (64 MB) of rows that are worked on at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One party: its rows, the size that it declares, and where its coins and noise come from."""

    batch: Batch
    declared_rows: int
    stream: Stream


def update_sums(
    network: Network,
    parameters: FloatArray,
    members: Sequence[Member],
    *,
    steps: int,
    learning_rate: float,
    mechanism: Mechanism,
) -> FloatArray:
    """Return what :func:`fedmarket.training.sums.update_sum` gives for each member, (members, p)."""
    local, total = np.tile(parameters, (len(members), 1)), np.zeros((len(members), len(parameters)))
    rates = np.array([learning_rate / (mechanism.sample_rate * member.declared_rows) for member in members])
    for _ in range(steps):
        samples = [sample_of(member.batch, mechanism, member.stream) for member in members]
        exact = clipped_gradient_sums(network, local, samples, clip_norm=mechanism.clip_norm)
        noisy = np.stack([mechanism.noisy(one, member.stream) for one, member in zip(exact, members, strict=True)])
        local -= rates[:, None] * noisy
        total += noisy
    return total


def clipped_gradient_sums(
    network: Network, parameters: FloatArray, batches: Sequence[Batch], *, clip_norm: float
) -> FloatArray:
    """Return each party's clipped gradient sum at its own parameters (parties, p), (parties, p)."""
    found = np.zeros((len(batches), parameter_count(network)))
    alone = [place for place, batch in enumerate(batches) if batch.customers is not None or len(batch.targets) > CHUNK]
    with one_thread():
        for places in _groups(batches, without=set(alone)):
            sums = _together(network, parameters[places], [batches[place] for place in places], clip_norm)
            if sums is None:
                alone += places
            else:
                found[places] = sums
    for place in alone:
        load_vector(network, parameters[place])
        found[place] = clipped_gradient_sum(network, batches[place], clip_norm=clip_norm)
    return found


def _groups(batches: Sequence[Batch], *, without: set[int]) -> list[list[int]]:
    """Return places by size, so that little is padded, as many at once as ``MOST_NUMBERS`` allows."""
    places = sorted(
        (place for place in range(len(batches)) if place not in without), key=lambda p: len(batches[p].targets)
    )
    groups: list[list[int]] = []
    for place in reversed(places):
        largest = len(batches[groups[-1][0]].targets) if groups else 0
        numbers = largest * (batches[place].features.shape[1] + 1)
        if not groups or (len(groups[-1]) + 1) * numbers > MOST_NUMBERS or 2 * len(batches[place].targets) < largest:
            groups.append([])
        groups[-1].append(place)
    return groups


def _together(
    network: Network, parameters: FloatArray, batches: Sequence[Batch], clip_norm: float
) -> FloatArray | None:
    """Return the sums of parties whose rows are padded to one length; None where a gradient is not finite."""
    rounded = torch.from_numpy(parameters.astype(np.float32)).double()  # as a network holds them
    shapes = [parameter.shape for parameter in network.parameters()]
    split = torch.split(rounded, [shape.numel() for shape in shapes], dim=1)
    layers = layers_of([part.reshape(len(batches), *shape) for part, shape in zip(split, shapes, strict=True)])
    rows, targets, weights = map(_padded, zip(*map(_exact, batches), strict=True))
    objective: Objective = batches[0].objective
    squares = torch.linalg.vector_norm(rows, dim=-1).square_()
    counts = [len(batch.targets) for batch in batches]
    parts = stacked(
        layers,
        network.scales.double(),
        objective,
        rows=rows,
        squares=squares,
        targets=targets,
        weights=weights,
        product=partial(_products, counts),
    )
    norms = norms_of(parts)
    if not bool(norms.isfinite().all()):
        return None
    factors = (clip_norm / norms).clamp_(max=1.0)
    owned = [(party, slice(count)) for party, count in enumerate(counts)]
    return np.stack([torch.cat([p.taken(own).weighted_sum(factors[own]) for p in parts]).numpy() for own in owned])


def _products(counts: Sequence[int], rows: torch.Tensor, matrices: torch.Tensor) -> torch.Tensor:
    """Return each party's rows times its matrix, (parties, m, o), zeros behind its rows.

    Party by party: a product of another length, or of several at once, has other bits.
    """
    found = rows.new_zeros(*rows.shape[:2], matrices.shape[-1])
    for own, matrix, out, count in zip(rows, matrices, found, counts, strict=True):
        torch.mm(own[:count], matrix, out=out[:count])
    return found


def _exact(batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return rows, targets and weights in float64; a padded row's weight will be 0."""
    exact = batch.exact
    weights = exact.rows.new_ones(len(exact.rows), 1) if exact.weights is None else exact.weights
    return exact.rows, exact.targets, weights


def _padded(each: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return (n, k) tensors as one (parties, m, k), zeros behind each party's n rows.

    With m a multiple of 8, each party's rows begin where memory is aligned as if they were alone; else products would
    have other bits.
    """
    longest = -(-max(map(len, each)) // 8) * 8
    found = each[0].new_zeros(len(each), longest, each[0].shape[1])
    for place, rows in enumerate(each):
        found[place, : len(rows)] = rows
    return found
