"""All arms of one seed: trained through Flower's apps in this process, scored on the common test rows."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from shutil import disk_usage
from tempfile import TemporaryDirectory

import numpy as np

from fedmarket.aggregation.secagg.roster import MOST_MEMBERS
from fedmarket.arrays import FeatureArray, FloatArray, RowNumbers
from fedmarket.data.transactions import Counts
from fedmarket.experiment.arms import ARMS, JOINT, Arm, terms_of
from fedmarket.experiment.market import Market, MarketKey, declared_rows, open_market
from fedmarket.federation.messages import Rejection, VoidRound
from fedmarket.federation.party import PartyState
from fedmarket.federation.rehearsal import bundle_of_rehearsal, rehearse
from fedmarket.federation.terms import Terms
from fedmarket.flower.inprocess import Apps, OnExchange, Outcome, RunConfig, load_apps, run_in_process
from fedmarket.ledger.bundle import Bundle
from fedmarket.models.prediction import Prediction
from fedmarket.models.state import ModelState
from fedmarket.privacy.histogram import SegmentSums, Statistics
from fedmarket.simulation.parts import Part, Parts
from fedmarket.simulation.predictions import (
    BOOSTED,
    arm_prediction,
    boosted_prediction,
    past_spend_of,
    simple_predictions,
)

MEMORY, ROOM = "/dev/shm", 1 << 30  # noqa: S108 - what is put there goes into a folder for its owner alone
"""Where Linux keeps files in memory, and the bytes that must be free there."""

EXACT = "federated"
"""The arm whose sums of segments have no noise."""

OnProgress = Callable[[int, str, float], None]
"""Told the seed, what is being done, and which share of the seed's work is behind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedResult:
    """What one seed found. Rows are the common test rows, parties' one after the other.

    Attributes:
        labels: (m,) whether each responded, where the contract has a label.
        spent: (m,) what each really spent, where the contract has a value.
        past_spend: (m,) what each had spent before, where that is known.
        owners: (m,) each test row's party, as a place in ``names``.
        predictions: of each pooled and federated arm, and of the other learners.
        raw: of the released model before its recalibration.
        alone: for each local arm, those by each party's own model, in the order of ``names``.
        truth: (m,) true response probabilities, where they are known.
        expected_value: (m,) true expectations of what each will spend, where they are known.
        exact_segments: the sums of the segments of training rows without noise.
        states: what each party of the released model spent.
        bundle: what an auditor is handed of the released model's run; None where no ledger was kept.
    """

    seed: int
    names: tuple[str, ...]
    labels: FeatureArray | None = field(repr=False)
    spent: FloatArray | None = field(repr=False)
    past_spend: FloatArray | None = field(repr=False)
    owners: RowNumbers = field(repr=False)
    predictions: dict[str, Prediction] = field(repr=False)
    raw: Prediction = field(repr=False)
    alone: dict[str, tuple[Prediction, ...]] = field(repr=False)
    truth: FloatArray | None = field(repr=False)
    expected_value: FloatArray | None = field(repr=False)
    train_rows: tuple[int, ...]
    train_positives: tuple[int, ...]
    declared: tuple[int, ...]
    counts: Counts | None
    states: dict[str, PartyState]
    model: ModelState = field(repr=False)
    rejections: tuple[Rejection, ...]
    void_rounds: tuple[VoidRound, ...]
    statistics: Statistics = field(repr=False)
    exact_segments: SegmentSums | None = field(repr=False)
    messages: int
    bytes_up: int
    seconds: dict[str, float]
    bundle: Bundle | None = field(repr=False)


def run_seed(key: MarketKey, parts: Parts, on_progress: OnProgress = lambda _seed, _doing, _share: None) -> SeedResult:
    """Return what every arm of the experiment finds for one seed; runs that ``parts`` has are not made again.

    Raises:
        FedmarketError: what configuration, contract, data or federation got wrong.
    """
    on_progress(key.seed, "reading", 0.0)
    market = open_market(key)
    predictions: dict[str, Prediction] = {}
    alone: dict[str, tuple[Prediction, ...]] = {}
    with rehearsed(market) as roster:
        apps = load_apps(key.config.resolve().parent)
        runs = _Runs(key=key, market=market, apps=apps, roster=roster, parts=parts, on_progress=on_progress)
        found: dict[str, Part] = {}
        for arm in ARMS:
            if arm.holders == "alone":
                own = [runs.run(arm, alone=name) for name in market.names]
                alone[arm.name] = tuple(arm_prediction(market, part.outcome.model) for part in own)
                continue
            found[arm.name] = runs.run(arm)
            predictions[arm.name] = arm_prediction(market, found[arm.name].outcome.model)
    predictions |= {BOOSTED: runs.boosted()} | simple_predictions(market)
    return _result(market, runs, predictions=predictions, alone=alone, found=found)


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


@contextmanager
def rehearsed(market: Market) -> Iterator[str]:
    """Give the path of a roster with fresh identities, beside which parties and server keep their books.

    It is empty where sums are in the open among more parties than a roster holds: such a run has no ledger.
    """
    federation, secure = market.config.federation, market.config.aggregation.secagg == "secure"
    if not secure and len(market.names) > MOST_MEMBERS:
        yield ""
        return
    with TemporaryDirectory(dir=_in_memory()) as folder:  # for its owner alone, and keys are gone with it
        least = federation.minimum_survivors if secure else None
        yield str(rehearse(Path(folder), market.names, minimum_survivors=least))


def _in_memory() -> str | None:
    """Return a folder in memory, where there is room: no key touches a disk, and books need not wait for one."""
    try:
        return MEMORY if disk_usage(MEMORY).free >= ROOM and os.access(MEMORY, os.W_OK) else None
    except OSError:
        return None


@dataclass(slots=True, kw_only=True)
class _Runs:
    """Runs of one seed, with their progress and their seconds; those that are finished are kept."""

    key: MarketKey
    market: Market
    apps: Apps
    roster: str
    parts: Parts
    on_progress: OnProgress
    seconds: dict[str, float] = field(default_factory=dict)
    _done: int = 0
    _planned: int = 0

    def __post_init__(self) -> None:
        for arm in ARMS:
            runs = len(self.market.names) if arm.holders == "alone" else 1
            self._planned += runs * self._exchanges(arm)

    def run(self, arm: Arm, *, alone: str = "") -> Part:
        """Return the run that was kept, or make it and keep it."""
        where = (self.key.seed, arm.name)
        part = self.parts.find(*where, alone=alone)
        if part is None:
            part = self._made(arm, alone)
            self.parts.keep(part, *where, alone=alone)
        else:
            self._done += self._exchanges(arm)
            self.on_progress(*where, self._done / self._planned)
        self._add(arm.name, part.seconds)
        return part

    def boosted(self) -> Prediction:
        start = time.perf_counter()
        prediction = boosted_prediction(self.market)
        self._add(BOOSTED, time.perf_counter() - start)
        return prediction

    def _made(self, arm: Arm, alone: str) -> Part:
        def exchanged(_: str) -> None:
            self._done += 1
            if self._done % 10 == 0:
                self.on_progress(self.key.seed, arm.name, self._done / self._planned)

        start = time.perf_counter()
        outcome = run_arm(self.key, arm, self.apps, alone=alone, roster=self.roster, on_exchange=exchanged)
        seconds = time.perf_counter() - start
        bundle = bundle_of_rehearsal(Path(self.roster), outcome.run, self._terms(arm)) if self._recorded(arm) else None
        return Part(outcome=outcome, seconds=seconds, bundle=bundle)

    def _recorded(self, arm: Arm) -> bool:
        return arm.recorded and bool(self.roster)

    def _terms(self, arm: Arm) -> Terms:
        return terms_of(arm, self.market.config, self.market.contract, seed=self.key.seed)

    def _exchanges(self, arm: Arm) -> int:
        terms = self._terms(arm)
        return terms.rounds * len(terms.steps) + 1

    def _add(self, name: str, seconds: float) -> None:
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds


def _result(
    market: Market,
    runs: _Runs,
    *,
    predictions: dict[str, Prediction],
    alone: dict[str, tuple[Prediction, ...]],
    found: dict[str, Part],
) -> SeedResult:
    names, rows, population, released = market.names, market.test_rows, market.population, found[JOINT].outcome
    train = [market.deal.train[name] for name in names]
    positive = population.targets[:, 0] > 0
    return SeedResult(
        seed=market.seed,
        names=names,
        labels=population.labels[rows] if market.contract.label else None,
        spent=_at(population.spent, rows),
        past_spend=_at(past_spend_of(market), rows),
        owners=np.repeat(np.arange(len(names)), [len(market.deal.test[name]) for name in names]),
        predictions=predictions,
        raw=arm_prediction(market, released.model, calibrated=False),
        alone=alone,
        truth=_at(population.truth, rows),
        expected_value=_at(population.expected_value, rows),
        train_rows=tuple(len(members) for members in train),
        train_positives=tuple(int(positive[members].sum()) for members in train),
        declared=tuple(declared_rows(market.customers_in(members)) for members in train),
        counts=population.counts,
        states=dict(zip(names, released.states, strict=True)),
        model=released.model,
        rejections=released.rejections,
        void_rounds=released.void_rounds,
        statistics=released.statistics,
        exact_segments=found[EXACT].outcome.statistics.segments,
        messages=released.messages,
        bytes_up=released.largest_bytes_up,
        seconds=runs.seconds,
        bundle=found[JOINT].bundle,
    )


def _at(values: FloatArray | None, rows: RowNumbers) -> FloatArray | None:
    return None if values is None else values[rows]
