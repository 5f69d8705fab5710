"""What each layer has of the gradients of many rows, without the gradients themselves.

Of a linear layer a row's gradient is an outer product, residuals times inputs, and of an embedding it is residuals in
the places of few ids. Norms of such gradients, and weighted sums over rows, need only the factors (Goodfellow 2015;
Li et al. 2022; Bu et al. 2023). Everything is float64: products of finite float32 do not overflow, and what a sum is
rounded to tells nothing of a row.
"""

from dataclasses import dataclass
from typing import Protocol, Self

import torch

from fedmarket.training.batch import squares_of


class Part(Protocol):
    """The gradients of n rows by the parameters of one layer, (n, p) if they were written out."""

    def squared_norms(self) -> torch.Tensor:
        """Return the squared norm of each row's gradient, (n,)."""

    def weighted_sum(self, factors: torch.Tensor) -> torch.Tensor:
        """Return the sum over rows of ``factors`` (n,) times their gradients, (p,)."""

    def rows(self) -> torch.Tensor:
        """Return the gradients written out, (n, p)."""

    def taken(self, rows: torch.Tensor | slice) -> Self:
        """Return the part of the rows that a mask (n,) or a slice selects."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dense:
    """Of a linear layer: inputs (n, in) with their squared norms (n,), residuals (n, out).

    With ``intercept`` there is a bias: the squared norms count an input of 1 more.
    """

    inputs: torch.Tensor
    squares: torch.Tensor
    residuals: torch.Tensor
    intercept: bool = True

    def squared_norms(self) -> torch.Tensor:
        """See :class:`Part`; the norm of an outer product is the product of the norms."""
        return squares_of(self.residuals) * self.squares

    def weighted_sum(self, factors: torch.Tensor) -> torch.Tensor:
        """See :class:`Part`."""
        weighted = self.residuals * factors[:, None]
        total = (weighted.T @ self.inputs).flatten()
        return torch.cat([total, weighted.sum(dim=0)]) if self.intercept else total

    def rows(self) -> torch.Tensor:
        """See :class:`Part`."""
        products = (self.residuals[:, :, None] * self.inputs[:, None, :]).flatten(start_dim=1)
        return torch.cat([products, self.residuals], dim=1) if self.intercept else products

    def taken(self, rows: torch.Tensor | slice) -> Self:
        """See :class:`Part`."""
        return type(self)(
            inputs=self.inputs[rows],
            squares=self.squares[rows],
            residuals=self.residuals[rows],
            intercept=self.intercept,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Lookup:
    """Of an embedding of ``size`` vectors: ids (n, k), and residuals (n, k, d) of the vectors that they stand for."""

    ids: torch.Tensor
    residuals: torch.Tensor
    size: int

    def squared_norms(self) -> torch.Tensor:
        """See :class:`Part`; places of a row with one id add up before their norm is taken."""
        if self._apart:
            return squares_of(self.residuals.flatten(start_dim=1))
        same = (self.ids[:, :, None] == self.ids[:, None, :]).to(self.residuals.dtype)
        return (same * (self.residuals @ self.residuals.mT)).sum(dim=(1, 2)).clamp_(min=0.0)

    @property
    def _apart(self) -> bool:
        """Whether no row can have an id twice, as each place has a range of ids of its own."""
        if not len(self.ids):
            return True
        least, most = self.ids.amin(dim=0).cpu().numpy(), self.ids.amax(dim=0).cpu().numpy()
        order = least.argsort()
        return bool((least[order][1:] > most[order][:-1]).all())

    def weighted_sum(self, factors: torch.Tensor) -> torch.Tensor:
        """See :class:`Part`."""
        weighted = (self.residuals * factors[:, None, None]).flatten(end_dim=1)
        total = weighted.new_zeros(self.size, weighted.shape[1])
        return total.index_add_(0, self.ids.flatten(), weighted).flatten()

    def rows(self) -> torch.Tensor:
        """See :class:`Part`."""
        count, _, width = self.residuals.shape
        total = self.residuals.new_zeros(count * self.size, width)
        places = self.ids + self.size * torch.arange(count, device=self.ids.device)[:, None]
        return total.index_add_(0, places.flatten(), self.residuals.flatten(end_dim=1)).reshape(
            count, self.size * width
        )

    def taken(self, rows: torch.Tensor | slice) -> Self:
        """See :class:`Part`."""
        return type(self)(ids=self.ids[rows], residuals=self.residuals[rows], size=self.size)


@dataclass(frozen=True, slots=True)
class Written:
    """Gradients written out, (n, p): of layers without a closed form, or summed over a customer's rows."""

    gradients: torch.Tensor

    def squared_norms(self) -> torch.Tensor:
        """See :class:`Part`."""
        return squares_of(self.gradients)

    def weighted_sum(self, factors: torch.Tensor) -> torch.Tensor:
        """See :class:`Part`."""
        return factors @ self.gradients

    def rows(self) -> torch.Tensor:
        """See :class:`Part`."""
        return self.gradients

    def taken(self, rows: torch.Tensor | slice) -> Self:
        """See :class:`Part`."""
        return type(self)(self.gradients[rows])
