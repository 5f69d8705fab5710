"""Gradient inversion: rows of a small batch, reconstructed from the update that they led to.

What a party sends is made by its own code (:class:`fedmarket.federation.release.Releases`), with its clip, weights and
noise. Two attacks:

* a single row through a linear layer with a bias is solved for: the gradient of a unit's weights is its residual times
  the row, that of its bias the residual, so their ratio is the row (Phong et al. 2018, section 3). Clips and weights
  are factors of both and cancel;
* small batches, and single rows behind noise, are searched for: rows whose update comes nearest to the one seen, by
  gradient descent from several starts (Zhu et al. 2019; Geiping et al. 2020). What is known of the encoding is built
  in: each one-hot group is a distribution, each number is within its bin. With the population's shares as prior, and
  the noise's own size as the scale of distances, the best row is the likeliest one (Balunovic et al. 2022), so that
  noise without end leads to the guess that is made without any update.

The attacker knows the model, the clip, the number of rows, the prior and, beside what a server knows, the targets of
the rows. Behind the sum of several parties it looks for the batch as if nobody else had sent anything, which it cannot
avoid without knowing others' rows. A mask of secure aggregation is uniform, whatever is behind it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
import torch
from torch.func import functional_call, grad, vmap

from fedmarket.arrays import FeatureArray, FloatArray
from fedmarket.attacks.rates import Interval
from fedmarket.contract.layout import Layout, Slots
from fedmarket.errors import DataError
from fedmarket.federation.release import Releases
from fedmarket.federation.rows import Rows
from fedmarket.federation.terms import Terms
from fedmarket.models.network import Network, load_vector, network_of
from fedmarket.models.state import ModelState
from fedmarket.privacy.noise import Stream
from fedmarket.risk.cells import FAINT, Prior, best_matched, is_category, knots_of
from fedmarket.risk.means import mean_of
from fedmarket.training.batch import one_thread

Veil = Literal["none", "sum", "mask"]
"""What is between the batch and the observer: nothing, the sum with another party's update, or a uniform mask."""

Kind = Literal["all", "category", "number"]
KINDS: tuple[Kind, ...] = get_args(Kind)

SHARPEST = 1e-3
"""Without noise, the scale of distances: so much of an update's own root mean square."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """Which update is asked of a party: its terms, the encoding, and the model at which gradients are taken."""

    terms: Terms
    layout: Layout
    model: ModelState = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """How long is searched: starts of each batch, of which the best counts, and steps of each."""

    starts: int
    steps: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Inversion:
    """The share of cells that are recovered, and that is right in the guess without any update, over all trials.

    Each trial's share is one observation: cells of a batch stand or fall together.
    """

    batch: int
    trials: int
    found: Mapping[Kind, Interval]
    prior: Mapping[Kind, Interval]


def sent(scene: Scene, rows: Rows, stream: Stream) -> FloatArray:
    """Return the update that a party with these rows alone sends, (p,): clipped, weighted and noisy by its terms."""
    none = Rows(features=rows.features[:0], targets=rows.targets[:0])
    party = Releases(terms=scene.terms, rows=rows, held_out=none, declared_rows=len(rows.targets))
    return party.of("update", scene.model, stream)


def solved(scene: Scene, update: FloatArray) -> FloatArray:
    """Return the encoded row that alone led to ``update`` (p,), (width,).

    Guarantees:
        Without noise it is the row, up to float64's rounding, if a unit of the first layer learned from it at all. If
        none did, it is NaN.
    """
    network = network_of(scene.terms.model, scene.terms.width, scene.terms.objective)
    weight, bias = network.layers[0].weight, network.layers[0].bias
    by_weight = update[: weight.numel()].reshape(weight.shape)
    by_bias = update[weight.numel() : weight.numel() + bias.numel()]
    unit = int(np.argmax(np.abs(by_bias)))
    if not by_bias[unit]:
        return np.full(scene.terms.width, np.nan)
    return np.asarray(by_weight[unit] / by_bias[unit] / scene.model.scale + scene.model.centre)


def searched(
    scene: Scene,
    updates: FloatArray,
    targets: FeatureArray,
    prior: Prior,
    *,
    search: Search,
    rng: np.random.Generator,
) -> FloatArray:
    """Return the likeliest encoded rows of each batch, (batches, rows, width), in soft one-hot groups.

    Args:
        scene: what was asked.
        updates: (batches, p), each of one batch; all are searched for at once.
        targets: (batches, rows, T), known to the attacker.
        prior: of the rows.
        search: how long.
        rng: for the starts.
    """
    batches, size, _ = targets.shape
    width, starts = scene.terms.width, search.starts
    seen = torch.from_numpy(np.repeat(updates, starts, axis=0))
    told = torch.from_numpy(np.repeat(targets, starts, axis=0)).double()
    first = rng.normal(0.0, 1.0, (batches * starts, size, width))
    free = torch.from_numpy(first).requires_grad_()
    gradient, soft = _Gradient(scene), _Soft(scene.layout, prior)
    floor = SHARPEST * seen.square().mean(dim=1).sqrt()
    scale = floor.clamp(min=scene.terms.plan.mechanism("update").noise_std).clamp(min=1e-12)
    optimizer = torch.optim.Adam([free], lr=0.1)
    with one_thread():
        for step in range(search.steps):
            optimizer.param_groups[0]["lr"] = 0.1 * (1.0 - step / search.steps)
            optimizer.zero_grad()
            rows, surprise = soft(free)
            distance = (gradient(rows, told) - seen).square().sum(dim=1) / (2 * scale**2)
            (distance + surprise).sum().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        with torch.no_grad():
            rows, surprise = soft(free)
            distance = (gradient(rows, told) - seen).square().sum(dim=1) / (2 * scale**2)
    best = (distance + surprise).reshape(batches, starts).argmin(dim=1)
    return np.asarray(rows.detach().reshape(batches, starts, size, width)[torch.arange(batches), best].numpy())


def inversion(
    scene: Scene,
    population: Rows,
    prior: Prior,
    *,
    batch: int,
    trials: int,
    veil: Veil,
    beside: int = 0,
    search: Search,
    stream: Stream,
    rng: np.random.Generator,
    confidence: float,
) -> Inversion:
    """Return how much of random batches of ``population`` is recovered from one update of each.

    Args:
        scene: what is asked, under which terms.
        population: rows that batches are drawn from.
        prior: of other rows than these.
        batch: rows in an update.
        trials: batches, each with noise of its own.
        veil: what is between batch and observer.
        beside: rows of the other party, where the veil is a sum.
        search: how long the search is, where there is one.
        stream: where noise and masks come from.
        rng: for batches and starts.
        confidence: of every interval.

    Raises:
        DataError: fewer rows than a batch and what is beside it.
    """
    rows = len(population.targets)
    if not (batch >= 1 and trials >= 1 and beside >= 0 and batch + beside <= rows):
        raise DataError(f"expected batches and rows beside of {rows} in all, got {batch} and {beside}")
    noisy = scene.terms.plan.mechanism("update").noise_multiplier > 0
    drawn = [rng.choice(rows, batch + beside, replace=False) for _ in range(trials)]
    batches = [population.taken(numbers[:batch]) for numbers in drawn]
    updates = np.stack([sent(scene, own, stream) for own in batches])
    if veil == "sum":
        updates += np.stack([sent(scene, population.taken(numbers[batch:]), stream) for numbers in drawn])
    elif veil == "mask":
        updates = np.stack([_uniform(scene, stream) for _ in batches])
    if batch == 1 and not noisy:
        guesses = np.stack([solved(scene, update) for update in updates])[:, None]
    else:
        targets = np.stack([own.targets for own in batches])
        guesses = searched(scene, updates, targets, prior, search=search, rng=rng)
    alone = np.tile(prior.guess, (batch, 1))
    return Inversion(
        batch=batch,
        trials=trials,
        found=_shares(scene.layout, list(guesses), batches, confidence),
        prior=_shares(scene.layout, [alone] * trials, batches, confidence),
    )


class _Gradient:
    """The sum of clipped gradients of soft rows, which can be differentiated by them; as the engines compute it."""

    def __init__(self, scene: Scene) -> None:
        self._terms = terms = scene.terms
        self._network: Network = network_of(terms.model, terms.width, terms.objective)
        load_vector(self._network, scene.model.parameters)
        self._network.double().requires_grad_(False)
        self._parameters: dict[str, torch.Tensor] = dict(self._network.named_parameters())
        self._centre, self._scale = torch.from_numpy(scene.model.centre), torch.from_numpy(scene.model.scale)
        self._each = vmap(grad(self._loss), in_dims=(None, 0, 0))
        self._clip_norm = terms.plan.mechanism("update").clip_norm

    def __call__(self, rows: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return (k, p) of rows (k, b, width) and targets (k, b, T)."""
        seen = ((rows - self._centre) * self._scale).flatten(end_dim=1)
        found = self._each(self._parameters, seen, targets.flatten(end_dim=1))
        each = torch.cat([part.flatten(start_dim=1) for part in found.values()], dim=1)
        if math.isfinite(self._clip_norm):
            norms = torch.linalg.vector_norm(each, dim=1, keepdim=True).clamp(min=1e-30)
            each = each * (self._clip_norm / norms).clamp(max=1.0)
        return each.reshape(*rows.shape[:2], -1).sum(dim=1)

    def _loss(self, parameters: dict[str, torch.Tensor], row: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        outputs = functional_call(self._network, parameters, (row[None],))
        lost: torch.Tensor = self._terms.objective.losses(outputs, target[None])[0]
        if self._terms.schedule.scaled:
            lost = lost * self._terms.scaling.row_norm / (row.square().sum() + 1.0).sqrt()
        return lost


class _Soft:
    """Encoded rows of free numbers, and how surprising they are under the prior: the logarithm, on average, negated."""

    def __init__(self, layout: Layout, prior: Prior) -> None:
        self._layout, self._prior = layout, prior

    def __call__(self, free: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return rows (k, b, width) and surprises (k,); where all is 0, rows are as the prior has them."""
        columns, surprise = [], free.new_zeros(len(free))
        for slots in self._layout.slots:
            own = free[..., slots.start : slots.stop]
            if is_category(slots):
                shares = self._shares(slots.start, slots.stop)
                places = (own + shares.log()).softmax(dim=-1)
                columns.append(places)
            else:
                number, places, shares, squares = self._number(slots, own)
                columns += [number[..., None], places if slots.binned else places[..., :1]]
                surprise = surprise + squares.sum(dim=1) / 2
            surprise = surprise - (places * shares.log()).sum(dim=(1, 2))
        return torch.cat(columns, dim=-1), surprise

    def _number(self, slots: Slots, own: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the number, its flag and bins (or that it is there), their shares, and its squared distance."""
        middle, spread = float(self._prior.shares[slots.start]), float(self._prior.spreads[slots.start])
        shares = self._shares(slots.start + 1, slots.stop)
        if not slots.binned:
            shares = torch.cat([shares, (1.0 - shares).clamp(min=FAINT)])
        logits = own[..., 1:] if slots.binned else torch.stack([own[..., 1], torch.zeros_like(own[..., 1])], dim=-1)
        places = (logits + shares.log()).softmax(dim=-1)
        knots = torch.from_numpy(knots_of(slots))
        inside = knots[:-1] + (knots[1:] - knots[:-1]) * own[..., :1].sigmoid()  # in every bin at once
        number = (places[..., 1:] * inside).sum(dim=-1)
        return number, places, shares, ((number - middle) / spread).square() * (1.0 - places[..., 0])

    def _shares(self, start: int, stop: int) -> torch.Tensor:
        return torch.from_numpy(self._prior.shares[start:stop]).clamp(min=FAINT)


def _uniform(scene: Scene, stream: Stream) -> FloatArray:
    """Return what an observer decodes of words behind a mask."""
    words = stream.words(scene.terms.parameters)
    if scene.terms.modulus_bits == 32:
        return scene.terms.grid_of("update").decode(words.astype(np.uint32))
    return scene.terms.grid_of("update").decode(words)


def _shares(layout: Layout, guesses: list[FloatArray], batches: list[Rows], confidence: float) -> dict[Kind, Interval]:
    """Return the mean over trials of the share of right cells, by kind of column."""
    right = np.stack(
        [best_matched(guess, own.features[:], layout) for guess, own in zip(guesses, batches, strict=True)]
    )
    words = np.array([is_category(slots) for slots in layout.slots])
    masks: dict[Kind, np.ndarray[tuple[int, ...], np.dtype[np.bool_]]] = {
        "all": np.ones(len(words), dtype=np.bool_),
        "category": words,
        "number": ~words,
    }
    return {
        kind: mean_of(right[:, :, mask].mean(axis=(1, 2)), lower=0.0, upper=1.0, confidence=confidence)
        for kind, mask in masks.items()
        if mask.any()
    }
