"""A twin of a run with canaries: made-up customers whose presence a coin decides, and whom an attack looks for.

A one-run audit (Steinke et al. 2023) asks how well one release tells which of m canaries took part. The twin is the
real run in memory: the same code of party and coordinator, the same plan (noise multipliers, sample rate, clip,
releases), the same schedule. Each canary is a customer of a campaign of its own: a column that is 0 for everybody else,
so that what the model learns there comes from this canary or from noise.

A twin has no books. It writes no ledger and spends nothing of a real budget, since nothing of it leaves the process
that holds all rows: whoever runs it has them already.

What is another than in the real run, and why no guarantee may depend on it:

* columns, parameters and with them the lengths of releases; shared noise is sized for the longer sums, as a real run of
  that width would size it, and so are the integers;
* public numbers: the canary columns' weights, ``row_norm`` and the watched party's size. They are chosen for the
  canaries to fill the clip in each round:

  - a scaled row's gradient has the norm ``row_norm`` times its residual, so ``row_norm`` is :data:`FILLING` clips: the
    clip is full as long as the model is not surer of a canary's label than 1 - 1 / FILLING;
  - the labels of the canaries even out those of the customers as far as they can, so that no intercept is;
  - a canary is the average customer but for its column, where it has all that the bound on a row's norm leaves. The
    centred row then points along that column, and with it the gradient. The weight makes the seen row
    :data:`OWN_REACH` long there: much longer than the 1 of the intercept, and too short for the noise on its own
    parameter to decide its label;
* a public start is left out: it was made for another width.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace

import numpy as np

from fedmarket.aggregation.scaling import Scaling
from fedmarket.arrays import AnyArray, FeatureArray, FloatArray
from fedmarket.errors import ConfigError, PlanError
from fedmarket.federation.party import Party
from fedmarket.federation.release import Releases
from fedmarket.federation.rows import Rows
from fedmarket.federation.terms import Terms
from fedmarket.models.network import first_units, network_of, parameter_count
from fedmarket.models.objectives import Objective
from fedmarket.models.state import ModelState
from fedmarket.privacy.mechanism import ROW_TOLERANCE, Mechanism
from fedmarket.privacy.noise import Stream
from fedmarket.risk.replica import Seen, in_the_open, replica

CANARIES = 2000

FILLING = 8.0
"""``row_norm`` of a twin, in clips, where the real one is not larger."""

OWN_REACH = 6.0
"""How long a canary's seen row is along its own column, at most."""

AVERAGE_SHARE = 0.6
"""Largest share of the bound on a row's norm that a canary spends on being average; 0.8 is left for its column."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Twin:
    """A run that waits for its coins; make it with :func:`twin_of`.

    Attributes:
        terms: of the twin, with sums in the open.
        parties: the real ones under these terms, without canaries.
        watched: the party that the canaries are customers of.
        canaries: all m of them, features (m, width + m).
    """

    terms: Terms
    parties: Mapping[str, Party] = field(repr=False)
    watched: str
    canaries: Rows = field(repr=False)

    @property
    def size(self) -> int:
        """How many canaries there are."""
        return len(self.canaries.features)

    def coins(self) -> AnyArray:
        """Return one fair coin for each canary from the operating system's generator, (m,) booleans."""
        return Stream.secret().coins(self.size, 0.5)

    def run(self, included: AnyArray, *, noise: bool = True) -> Seen:
        """Run the twin with the canaries that ``included`` (m,) says, and return what was seen.

        Without ``noise`` it is the same run, sampling included, but for the noise.

        Raises:
            FedmarketError: what would end a real run.
        """
        terms = self.terms if noise else without_noise(self.terms)
        parties = {name: replace(party, terms=terms) for name, party in self.parties.items()}
        watched = parties[self.watched]
        rows = _together(watched.rows, self.canaries.taken(included))
        return replica(terms, parties | {self.watched: replace(watched, rows=rows)})

    def own(self, vectors: FloatArray, model: ModelState) -> FloatArray:
        """Return what parameters or their updates (..., p) have in the canaries' own places, (..., units, m).

        A row has ``-centre * scale`` in each canary's column that is not its own. So whatever rows add to the first
        layer's intercepts, they add to these columns in known proportion, which is taken off again.
        """
        units, width = first_units(self.terms.model, self.terms.objective), self.terms.width
        columns = vectors[..., : units * width].reshape(*vectors.shape[:-1], units, width)[..., -self.size :]
        intercepts = vectors[..., units * width : units * (width + 1)]
        return np.asarray(columns + intercepts[..., None] * (model.centre * model.scale)[-self.size :])

    def expected(self, models: Sequence[ModelState]) -> FloatArray:
        """Return what each canary adds to the updates at T ``models`` in its own places, (T, units, m).

        The party's own code says so, of all canaries together: none has anything in another's places.
        """
        releases = Releases(
            terms=without_noise(self.terms, sampled=False),
            rows=self.canaries,
            held_out=self.canaries,
            declared_rows=self.parties[self.watched].declared_rows,
        )
        return np.stack([self.own(releases.of("update", model, Stream.secret()), model) for model in models])


def twin_of(
    terms: Terms, parties: Mapping[str, Party], *, watched: str | None = None, canaries: int = CANARIES
) -> Twin:
    """Return the twin of a run of ``parties`` under ``terms``.

    Args:
        terms: of the real run.
        parties: with their rows; nothing of them is changed, and their books are not touched.
        watched: the party whose customers the canaries are; by default the first by name.
        canaries: how many, m.

    Raises:
        PlanError: if the plan promises nothing, its neighbours are not with and without one customer, or the twin's
            noise does not fit the words.
        ConfigError: if there is no such party, or fewer than two canaries.
    """
    if terms.plan.adjacency != "add-or-remove-one":
        raise PlanError(f"canaries come and go: expected the relation add-or-remove-one, got {terms.plan.adjacency}")
    if not all(mechanism.noise_multiplier > 0 for mechanism in terms.plan.mechanisms):
        raise PlanError("a twin audits what a plan promises, and this one has releases without noise")
    name = min(parties) if watched is None else watched
    if name not in parties or not canaries >= 2:
        raise ConfigError(f"twin: expected one of {', '.join(sorted(parties))} and 2 canaries, got {name}, {canaries}")
    home, count = parties[name], sum(party.declared_rows for party in parties.values()) + canaries // 2
    average, value = _average(parties, bound=terms.plan.mechanism("centre").clip_norm)
    wide = in_the_open(_widened(terms, canaries, rows=len(home.rows.features) + canaries))
    std = wide.plan.mechanism("centre").noise_std * math.sqrt(len(parties)) / count
    wide = replace(wide, scaling=_scaling(wide, average, value=value, mean=0.4 * std + value / (2 * count)))
    padded = {one: _padded(party, wide, canaries) for one, party in parties.items()}
    padded[name] = replace(padded[name], declared_rows=home.declared_rows + canaries // 2)
    last = None if home.rows.customers is None else int(np.max(home.rows.customers, initial=0))
    own = np.eye(canaries, dtype=np.float32) * value
    return Twin(
        terms=wide,
        parties=padded,
        watched=name,
        canaries=Rows(
            features=np.concatenate([np.tile(average.astype(np.float32), (canaries, 1)), own], axis=1),
            targets=_targets(terms.objective, parties, canaries),
            segments=None if home.rows.segments is None else np.zeros(canaries, dtype=np.int64),
            customers=None if last is None else last + 1 + np.arange(canaries),
        ),
    )


def without_noise(terms: Terms, *, sampled: bool = True) -> Terms:
    """Return the terms of the same run without noise, and if asked without sampling: as a control, never for real.

    Steps are as long as if there were noise, which they follow.
    """
    silent = (Silent(**{part.name: getattr(one, part.name) for part in fields(one)}) for one in terms.plan.mechanisms)
    bare = (one if sampled else replace(one, sample_rate=1.0) for one in silent)
    return replace(terms, plan=replace(terms.plan, mechanisms=tuple(bare)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Silent(Mechanism):
    """A mechanism that says which noise it adds, and adds none."""

    def noisy_each(self, exact: FloatArray, streams: Sequence[Stream]) -> FloatArray:  # noqa: ARG002 - as its parent
        """Return ``exact``."""
        return exact


def _widened(terms: Terms, more: int, *, rows: int) -> Terms:
    """Return ``terms`` for rows with ``more`` columns, and for a party of so many rows."""
    width, most = terms.width + more, max(terms.max_party_rows, rows)
    parameters = parameter_count(network_of(terms.model, width, terms.objective))
    lengths = {"centre": width, "update": parameters}

    def sized(mechanism: Mechanism) -> Mechanism:
        longer = replace(mechanism, length=lengths.get(mechanism.phase, mechanism.length))
        if mechanism.grid is None:
            return longer
        coarser = 2.0 ** np.ceil(np.log2(most / terms.max_party_rows))
        slack = max(mechanism.grid.slack, ROW_TOLERANCE + 4.0 * float(most) ** 2 * 2.0**-53)
        grid = replace(mechanism.grid, resolution=float(mechanism.grid.resolution * coarser), slack=slack)
        return replace(longer, grid=grid)

    plan = replace(terms.plan, mechanisms=tuple(map(sized, terms.plan.mechanisms)))
    scaling = replace(
        terms.scaling,
        row_norm=max(terms.scaling.row_norm, FILLING * plan.mechanism("update").clip_norm),
        one_hot=terms.scaling.one_hot + (True,) * more,
        weights=terms.scaling.weights + (1.0,) * more,
    )
    found = replace(
        terms, width=width, parameters=parameters, plan=plan, scaling=scaling, max_party_rows=most, start_hash=""
    )
    for mechanism in plan.mechanisms:
        found.grid_of(mechanism.phase)  # what does not fit is found now
    return found


def _scaling(terms: Terms, average: FloatArray, *, value: float, mean: float) -> Scaling:
    """Return the scaling whose canary columns have the largest weight that keeps a canary within its reach.

    ``mean`` is what the noisy centre has there about: half the canaries, and of the noise what is not below 0.
    """
    size = terms.width - len(average)
    centre = terms.scaling.projected(np.concatenate([average, np.full(size, mean)]))
    weights, found = terms.scaling.weights[: len(average)], terms.scaling
    for weight in np.geomspace(1e-3, 10.0, 81):
        tried = replace(terms.scaling, weights=(*weights, *(float(weight),) * size))
        if value * float(tried.of(centre)[-1]) > OWN_REACH:
            break
        found = tried
    return found


def _average(parties: Mapping[str, Party], *, bound: float) -> tuple[FloatArray, float]:
    """Return the mean row of all parties, (width,), shortened if it must be, and what ``bound`` leaves beside it."""
    total = np.sum([party.rows.features[:].sum(axis=0, dtype=np.float64) for party in parties.values()], axis=0)
    average = total / sum(len(party.rows.features) for party in parties.values())
    average *= min(1.0, AVERAGE_SHARE * bound / max(float(np.linalg.norm(average)), 1e-12))
    return average, float(np.sqrt(bound**2 - np.sum(average**2))) * (1 - ROW_TOLERANCE)


def _targets(objective: Objective, parties: Mapping[str, Party], canaries: int) -> FeatureArray:
    """Return targets (m, targets) that even out how many customers responded, or bought, and how many did not."""
    positive = sum(int(np.sum(party.rows.targets[:, 0] > 0)) for party in parties.values())
    negative = sum(len(party.rows.targets) for party in parties.values()) - positive
    share = float(np.clip(0.5 + (negative - positive) / canaries, 0.0, 1.0))  # half of them take part
    found = np.zeros((canaries, objective.targets), dtype=np.float32)
    found[: round(share * canaries)] = 1.0
    if objective.value:
        found[:, -1] *= objective.value.upper
    return found


def _padded(party: Party, terms: Terms, more: int) -> Party:
    """Return the party with ``more`` columns of zeros; it is under no terms yet."""

    def wider(rows: Rows) -> Rows:
        return replace(rows, features=np.pad(rows.features[:], ((0, 0), (0, more))))

    return replace(party, terms=terms, rows=wider(party.rows), held_out=wider(party.held_out), seat=None, books=None)


def _together(first: Rows, second: Rows) -> Rows:
    def both(one: AnyArray | None, other: AnyArray | None) -> AnyArray | None:
        return None if one is None or other is None else np.concatenate([one, other])

    return Rows(
        features=np.concatenate([first.features[:], second.features[:]]),
        targets=np.concatenate([first.targets, second.targets]),
        segments=both(first.segments, second.segments),
        customers=both(first.customers, second.customers),
    )
