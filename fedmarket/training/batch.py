"""Rows as a network sees them, in chunks that bound the memory of whatever is computed for each row."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from fedmarket.models.objectives import RESPONSE, Objective

CHUNK = 2048
"""Rows that are worked on at once: few enough for a core's cache, many enough for calls to cost little."""

KEPT = 1 << 26
"""Float64 numbers (512 MB) that a lasting batch keeps at most; of a larger one they are made anew in each pass."""


@contextmanager
def one_thread() -> Iterator[None]:
    """Run torch on one thread, so that sums have the same bits in every process."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Rows as the network sees them.

    Attributes:
        features: (n, width) float32.
        targets: (n, targets) float32, see :class:`fedmarket.models.objectives.Objective`.
        weights: (n,) float32 by which each row's loss is multiplied; None for 1.
        customers: (n,) whose row each is, where a customer may have several; they stand together.
        objective: what is learned of the targets.
        lasting: whether there will be several passes over the rows: then what is the same in each is kept.
    """

    features: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor | None = None
    customers: torch.Tensor | None = None
    objective: Objective = RESPONSE
    lasting: bool = False

    def taken(self, rows: torch.Tensor | slice) -> "Batch":
        """Return the rows that a mask, numbers or a slice select."""
        with one_thread():  # for so little work, threads wait for each other longer than they work
            return Batch(
                features=self.features[rows],
                targets=self.targets[rows],
                weights=None if self.weights is None else self.weights[rows],
                customers=None if self.customers is None else self.customers[rows],
                objective=self.objective,
            )

    def on(self, device: str) -> "Batch":
        """Return the rows on ``device``."""
        return replace(
            self,
            features=self.features.to(device),
            targets=self.targets.to(device),
            weights=None if self.weights is None else self.weights.to(device),
            customers=None if self.customers is None else self.customers.to(device),
        )

    @property
    def chunks(self) -> Iterable["Batch"]:
        """The rows in chunks of about ``CHUNK``; no customer is cut in two."""
        return self._kept if self.lasting and self.features.numel() <= KEPT else self._cut()

    @cached_property
    def _kept(self) -> tuple["Batch", ...]:
        return tuple(self._cut())

    def _cut(self) -> Iterator["Batch"]:
        if 0 < len(self.targets) <= CHUNK:
            yield self
            return
        start = 0
        while start < len(self.targets):
            stop = min(start + CHUNK, len(self.targets))
            if self.customers is not None:
                stop = int(torch.searchsorted(self.customers, self.customers[stop - 1], right=True))
            yield self.taken(slice(start, stop))
            start = stop

    @cached_property
    def exact(self) -> "Exact":
        """What of the rows is the same in each pass, in float64."""
        weights = None if self.weights is None else self.weights.double()[:, None]
        return Exact(rows=self.features.double(), targets=self.targets.double(), weights=weights)


@dataclass(frozen=True, kw_only=True)
class Exact:
    """A batch in float64: rows (n, width), targets (n, targets), weights (n, 1) or None."""

    rows: torch.Tensor
    targets: torch.Tensor
    weights: torch.Tensor | None

    @cached_property
    def squares(self) -> torch.Tensor:
        """The squared norms of the rows with the intercept's 1, (n,)."""
        return squares_of(self.rows).add_(1.0)


def squares_of(rows: torch.Tensor) -> torch.Tensor:
    """Return the squared norms of (..., n, width) rows, (..., n)."""
    norms: torch.Tensor = torch.linalg.vector_norm(rows, dim=-1)
    return norms.square_()
