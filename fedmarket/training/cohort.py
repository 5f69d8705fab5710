"""Many parties' local training at once, where one process holds them all, as a simulation does.

Each party has its own sample, clip and noise, from its own stream, in the order in which it would use them alone; only
the arithmetic is shared. Whatever is promised of a sum is promised in :mod:`fedmarket.training.gradients`; this module
changes speed alone. Parties with many rows, or several rows of a customer, train alone: they gain nothing from company.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from fedmarket.arrays import FloatArray, RowNumbers
from fedmarket.models.network import Network
from fedmarket.models.objectives import Objective
from fedmarket.privacy.mechanism import Mechanism
from fedmarket.privacy.noise import Stream
from fedmarket.training.batch import CHUNK, Batch, Exact, one_thread
from fedmarket.training.closed_form import Layers, layers_of, product_of, scales_of, stacked
from fedmarket.training.gradients import Gradients, norms_of
from fedmarket.training.sums import update_sum

MOST_ROWS = 1 << 17
"""Rows that are held at once, whether they are sampled or not."""

ALIGNED = 8
"""Each party's rows begin at a multiple of so many, where memory is aligned as if they were alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One party: its rows, the size that it declares, and where its coins and noise come from."""

    batch: Batch
    declared_rows: int
    stream: Stream

    @property
    def fits(self) -> bool:
        """Whether it gains from company."""
        return self.batch.customers is None and len(self.batch.targets) <= CHUNK


def update_sums(
    network: Network,
    parameters: FloatArray,
    members: Sequence[Member],
    *,
    steps: int,
    learning_rate: float,
    mechanism: Mechanism,
) -> FloatArray:
    """Return what :func:`fedmarket.training.sums.update_sum` gives for each member, (members, p), bit by bit."""
    found = np.zeros((len(members), len(parameters)))
    gradients = None
    for place, member in enumerate(members):
        if not member.fits:
            gradients = gradients or Gradients(network, device=member.batch.features.device)
            found[place] = update_sum(
                gradients,
                parameters,
                member.batch,
                steps=steps,
                learning_rate=learning_rate,
                declared_rows=member.declared_rows,
                mechanism=mechanism,
                stream=member.stream,
            )
    for places in _groups(members, sample_rate=mechanism.sample_rate):
        group = _Group([members[place] for place in places], network)
        found[places] = group.update_sums(parameters, steps=steps, learning_rate=learning_rate, mechanism=mechanism)
    return found


def _groups(members: Sequence[Member], *, sample_rate: float) -> Iterator[list[int]]:
    """Yield the places of members that fit, as many at once as sample the rows of a chunk and have ``MOST_ROWS``."""
    places: list[int] = []
    rows = 0
    for place, member in enumerate(members):
        if not member.fits:
            continue
        size = len(member.batch.targets)
        if places and (sample_rate * (rows + size) > CHUNK or rows + size > MOST_ROWS):
            yield places
            places, rows = [], 0
        places.append(place)
        rows += size
    if places:
        yield places


class _Group:
    """Parties whose rows lie one after the other, each beginning at an aligned place, and a row of zeros at the end."""

    def __init__(self, members: Sequence[Member], network: Network) -> None:
        self._members, self._network = members, network
        self._device = members[0].batch.features.device
        scales = scales_of(network)
        self._scales = None if scales is None else scales.to(self._device)
        self._sizes = [len(member.batch.targets) for member in members]
        self._starts = _starts(self._sizes)
        each = [member.batch.exact for member in members]
        self._whole = Exact(
            rows=self._laid([one.rows for one in each]),
            targets=self._laid([one.targets for one in each]),
            weights=self._laid([_weights(one) for one in each]),
        )

    def update_sums(
        self, parameters: FloatArray, *, steps: int, learning_rate: float, mechanism: Mechanism
    ) -> FloatArray:
        """See :func:`update_sums`."""
        local, total = np.tile(parameters, (len(self._members), 1)), np.zeros((len(self._members), len(parameters)))
        sizes = np.array([mechanism.sample_rate * member.declared_rows for member in self._members])[:, None]
        for _ in range(steps):
            samples = [
                np.flatnonzero(member.stream.coins(size, mechanism.sample_rate))
                for member, size in zip(self._members, self._sizes, strict=True)
            ]
            exact = self._sums(local, samples, clip_norm=mechanism.clip_norm)
            noisy = mechanism.noisy_each(exact, [member.stream for member in self._members])
            local = local - learning_rate * noisy / sizes
            total += noisy
        return total

    def _laid(self, each: Sequence[torch.Tensor]) -> torch.Tensor:
        found = each[0].new_zeros(self._starts[-1] + 1, each[0].shape[1])
        for rows, start in zip(each, self._starts, strict=False):
            found[start : start + len(rows)] = rows
        return found

    def _sums(self, local: FloatArray, samples: Sequence[RowNumbers], *, clip_norm: float) -> FloatArray:
        """Return the clipped sum of each party's sampled gradients at its own parameters, (parties, p)."""
        owned = [
            slice(start, start + len(one)) for start, one in zip(_starts(map(len, samples)), samples, strict=False)
        ]
        with one_thread():
            taken = self._taken(samples)
            parts = stacked(
                self._layers(local),
                self._scales,
                self._objective,
                rows=taken.rows,
                squares=taken.squares,
                targets=taken.targets,
                weights=taken.weights,
                product=partial(_products, owned),
            )
            norms = norms_of(parts)
            factors = (clip_norm / norms).clamp_(max=1.0)
            found = np.stack(
                [torch.cat([p.taken(own).weighted_sum(factors[own]) for p in parts]).cpu().numpy() for own in owned]
            )
            finite = norms.isfinite()
        for party, own in enumerate(owned):
            if not bool(finite[own].all()):
                sample = self._members[party].batch.taken(torch.from_numpy(samples[party]))
                found[party] = Gradients(self._network, device=self._device).clipped_sum(
                    local[party], sample, clip_norm=clip_norm
                )
        return found

    @property
    def _objective(self) -> Objective:
        return self._members[0].batch.objective

    def _taken(self, samples: Sequence[RowNumbers]) -> Exact:
        """Return the sampled rows, laid out as the whole is."""
        starts = _starts(map(len, samples))
        numbers = np.full(starts[-1], self._starts[-1])  # rows of zeros between
        for sample, start, first in zip(samples, starts, self._starts, strict=False):
            numbers[start : start + len(sample)] = first + sample
        rows, whole = torch.from_numpy(numbers), self._whole
        return Exact(
            rows=whole.rows[rows],
            targets=whole.targets[rows],
            weights=None if whole.weights is None else whole.weights[rows],
        )

    def _layers(self, local: FloatArray) -> Layers:
        """Return the layers of all parties, of parameters as a network holds them."""
        rounded = torch.from_numpy(local.astype(np.float32)).to(self._device).double()
        return layers_of(rounded, [parameter.shape for parameter in self._network.parameters()])


def _starts(sizes: "Sequence[int] | map[int]") -> list[int]:
    """Return where each of so many rows begins, and where all end."""
    return [0, *np.cumsum([-(-size // ALIGNED) * ALIGNED for size in sizes]).tolist()]


def _weights(exact: Exact) -> torch.Tensor:
    """Return the weights of rows, (n, 1): 1 where there are none, as the rows of zeros between weigh nothing."""
    return exact.rows.new_ones(len(exact.rows), 1) if exact.weights is None else exact.weights


def _products(
    owned: Sequence[slice], rows: torch.Tensor, matrices: torch.Tensor, biases: torch.Tensor | None
) -> torch.Tensor:
    """Return each party's rows times its matrix, zeros between.

    Party by party: a product of another length, or of several at once, has other bits.
    """
    found = rows.new_zeros(len(rows), matrices.shape[-1])
    for party, own in enumerate(owned):
        found[own] = product_of(rows[own], matrices[party], None if biases is None else biases[party])
    return found
