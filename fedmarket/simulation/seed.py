"""All arms of one seed: trained through Flower's apps in this process, scored on the common test rows."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from fedmarket.arrays import FeatureArray, FloatArray, RowNumbers
from fedmarket.contract.layout import layout_of
from fedmarket.data.encode import encode
from fedmarket.experiment.arms import ARMS, Arm, terms_of
from fedmarket.experiment.market import Market, MarketKey, declared_rows, open_market
from fedmarket.federation.messages import Rejection, VoidRound
from fedmarket.federation.party import PartyState
from fedmarket.federation.seat import rehearsal_roster
from fedmarket.flower.inprocess import Apps, OnExchange, Outcome, RunConfig, load_apps, run_in_process
from fedmarket.models.released import ModelState, predict
from fedmarket.privacy.histogram import ScoreCounts
from fedmarket.training.baselines import boosted_probabilities

JOINT = "federated_dp"
"""The arm that is released."""

BOOSTED = "gradient boosting"

OnProgress = Callable[[int, str, float], None]
"""Told the seed, what is being done, and which share of the seed's work is behind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedResult:
    """What one seed found. Rows are the common test rows, parties' one after the other.

    Attributes:
        labels: (m,) what happened.
        owners: (m,) each test row's party, as a place in ``names``.
        scores: (m,) probabilities of each pooled and federated arm, and of the boosted trees.
        raw: (m,) probabilities of the released model before its recalibration.
        alone: for each local arm, (parties, m) probabilities by each party's own model.
        truth: (m,) true probabilities, where they are known.
        states: what each party of the released model spent.
    """

    seed: int
    names: tuple[str, ...]
    labels: FeatureArray = field(repr=False)
    owners: RowNumbers = field(repr=False)
    scores: dict[str, FloatArray] = field(repr=False)
    raw: FloatArray = field(repr=False)
    alone: dict[str, FloatArray] = field(repr=False)
    truth: FloatArray | None = field(repr=False)
    train_rows: tuple[int, ...]
    train_positives: tuple[int, ...]
    declared: tuple[int, ...]
    states: dict[str, PartyState]
    model: ModelState = field(repr=False)
    rejections: tuple[Rejection, ...]
    void_rounds: tuple[VoidRound, ...]
    score_counts: ScoreCounts | None = field(repr=False)
    messages: int
    bytes_up: int
    seconds: dict[str, float]


def run_seed(key: MarketKey, on_progress: OnProgress = lambda _seed, _doing, _share: None) -> SeedResult:
    """Return what every arm of the experiment finds for one seed.

    Raises:
        FedmarketError: what configuration, contract, data or federation got wrong.
    """
    on_progress(key.seed, "reading", 0.0)
    market = open_market(key)
    scores: dict[str, FloatArray] = {}
    alone: dict[str, FloatArray] = {}
    with rehearsed(market) as roster:
        apps = load_apps(key.config.resolve().parent)
        runs = _Runs(key=key, market=market, apps=apps, roster=roster, on_progress=on_progress)
        for arm in ARMS:
            if arm.holders == "alone":
                alone[arm.name] = np.stack([runs.scores(runs.run(arm, alone=name)) for name in market.names])
                continue
            outcome = runs.run(arm)
            scores[arm.name] = runs.scores(outcome)
            if arm.name == JOINT:
                released = outcome
    scores[BOOSTED] = runs.boosted()
    return _result(market, runs, scores=scores, alone=alone, released=released)


def run_arm(
    key: MarketKey,
    arm: Arm,
    apps: Apps,
    *,
    alone: str = "",
    roster: str = "",
    on_exchange: OnExchange = lambda _: None,
) -> Outcome:
    """Return what one federation of ``arm`` leaves behind; ``alone`` names the party that trains on its own."""
    holders = open_market(key).holders(arm, alone=alone)
    run_config: RunConfig = {
        "config": str(key.config.resolve()),
        "changes": "\n".join(key.changes),
        "arm": arm.name,
        "seed": key.seed,
        "alone": alone,
        "parties": len(holders),
        "roster": roster if arm.holders == "parties" else "",
        "output": "",
    }
    return run_in_process(apps, run_config, nodes=len(holders), on_exchange=on_exchange)


def boosted_scores(market: Market) -> FloatArray:
    """Return the test rows' probabilities by gradient boosting on all training rows in one place."""
    layout = layout_of(market.contract, binning=False)
    features = encode(market.population.table, market.contract, layout).features
    train = np.concatenate([market.deal.train[name] for name in market.names])
    labels = market.population.labels[train]
    return boosted_probabilities(features[train], labels, features[market.test_rows], seed=market.seed)


@contextmanager
def rehearsed(market: Market) -> Iterator[str]:
    """Give the path of a roster with fresh identities, where the market sums securely; else nothing."""
    if market.config.aggregation.secagg == "ideal":
        yield ""
        return
    with TemporaryDirectory() as folder:  # only its owner may enter it, and the parties' keys are gone with it
        least = market.config.federation.minimum_survivors
        yield str(rehearsal_roster(Path(folder), market.names, minimum_survivors=least))


@dataclass(slots=True, kw_only=True)
class _Runs:
    """Runs of one seed, with their progress and their seconds."""

    key: MarketKey
    market: Market
    apps: Apps
    roster: str
    on_progress: OnProgress
    seconds: dict[str, float] = field(default_factory=dict)
    _done: int = 0
    _planned: int = 0

    def __post_init__(self) -> None:
        for arm in ARMS:
            runs = len(self.market.names) if arm.holders == "alone" else 1
            terms = terms_of(arm, self.market.config, self.market.contract, seed=self.key.seed)
            self._planned += runs * (terms.rounds * len(terms.steps) + 1)

    def run(self, arm: Arm, *, alone: str = "") -> Outcome:
        def exchanged(_: str) -> None:
            self._done += 1
            if self._done % 10 == 0:
                self.on_progress(self.key.seed, arm.name, self._done / self._planned)

        with self._timed(arm.name):
            return run_arm(self.key, arm, self.apps, alone=alone, roster=self.roster, on_exchange=exchanged)

    def scores(self, outcome: Outcome, *, calibrated: bool = True) -> FloatArray:
        test = self.market.features[self.market.test_rows]
        return predict(self.market.config.model, outcome.model, test, calibrated=calibrated)

    def boosted(self) -> FloatArray:
        with self._timed(BOOSTED):
            return boosted_scores(self.market)

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def _result(
    market: Market, runs: _Runs, *, scores: dict[str, FloatArray], alone: dict[str, FloatArray], released: Outcome
) -> SeedResult:
    names, rows, labels = market.names, market.test_rows, market.population.labels
    truth = market.population.truth
    train = [market.deal.train[name] for name in names]
    return SeedResult(
        seed=market.seed,
        names=names,
        labels=labels[rows],
        owners=np.repeat(np.arange(len(names)), [len(market.deal.test[name]) for name in names]),
        scores=scores,
        raw=runs.scores(released, calibrated=False),
        alone=alone,
        truth=None if truth is None else truth[rows],
        train_rows=tuple(len(members) for members in train),
        train_positives=tuple(int(labels[members].sum()) for members in train),
        declared=tuple(declared_rows(market.customers_in(members)) for members in train),
        states=dict(zip(names, released.states, strict=True)),
        model=released.model,
        rejections=released.rejections,
        void_rounds=released.void_rounds,
        score_counts=released.score_counts,
        messages=released.messages,
        bytes_up=released.largest_bytes_up,
        seconds=runs.seconds,
    )
