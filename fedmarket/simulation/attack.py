"""``attack``: can what a plan claims be refuted, and what would an attacker gain with and without it?

The experiment's own data, code and plan are attacked in memory. Nothing of it is released, and no ledger is touched.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fedmarket import __version__
from fedmarket.arrays import RowNumbers
from fedmarket.attacks.formal import Approximate, Gaussian, Guarantee
from fedmarket.attacks.measured import FORMAT, RISK, Measured
from fedmarket.attacks.rates import Interval
from fedmarket.attacks.reduction import AlreadyLow, Reduction
from fedmarket.config import load_config
from fedmarket.documents import parse_document
from fedmarket.errors import DataError, UsageError
from fedmarket.experiment.arms import JOINT, Arm, arm_named, start_for, terms_of
from fedmarket.experiment.market import Market, MarketKey, forget_markets, open_market
from fedmarket.federation.terms import Terms
from fedmarket.files import need_writable, write_text
from fedmarket.privacy.accountant import gaussian_mu
from fedmarket.privacy.noise import Stream
from fedmarket.risk.canaries import CANARIES
from fedmarket.risk.gate import Judgement, Verdict, gate
from fedmarket.risk.membership import RATES, Figures, membership, reductions
from fedmarket.risk.replica import replica
from fedmarket.risk.shadows import FEWEST_RUNS, VIEWS, RunAll, View, Watch, fair_coins, leverages, most_exposed, shadows
from fedmarket.simulation.reconstruction import BASELINE, federation_of, reconstruction
from fedmarket.simulation.workers import pool_of

CONFIDENCE = 0.95
TARGETS = 200
"""Customers whose membership is in question: half of them at random, half the most exposed."""

RANDOM, EXPOSED = "random customers", "the most exposed customers"

Group = str
Found = dict[Group, dict[View, Figures]]
OnAttack = Callable[[str, float], None]
"""Told what is being done, and which share of it is behind."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attacked:
    """A finished attack: its document, where its files are, and whether the gate is red.

    Attributes:
        unfit: why the simulation's report beside it does not show it; None where it does, or where there is none.
    """

    results: dict[str, Any]
    folder: Path
    red: bool
    unfit: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Targets:
    """Customers of one party whose membership is in question.

    Attributes:
        watched: the party.
        numbers: (m,) their places among its customers, rising.
        groups: which of them are in which group, (m,) booleans.
    """

    watched: str
    numbers: RowNumbers
    groups: Mapping[Group, Any]


def attack(
    config_path: Path,
    *,
    changes: tuple[str, ...] = (),
    canaries: int = CANARIES,
    runs: int = FEWEST_RUNS,
    targets: int = TARGETS,
    watched: str | None = None,
    column: str | None = None,
    on_attack: OnAttack = lambda _doing, _share: None,
) -> Attacked:
    """Attack the released arm of the experiment at ``config_path``; write ``risk.json`` and ``risk.html``.

    Where the same experiment's ``results.json`` is beside them, its report is made anew and shows what was attained.

    Args:
        config_path: the experiment; its first seed deals the rows.
        changes: to the experiment, as of ``simulate``.
        canaries: of the audit's twin.
        runs: of the whole federation, for each of both arms.
        targets: customers whose membership is in question.
        watched: the party that they are of; by default the smallest, whose customers hide among the fewest.
        column: whose cells are guessed; by default the contract's first column of words.
        on_attack: told how far it is.

    Raises:
        FedmarketError: what is wrong with documents, data or plan, by file, key or column.
    """
    forget_markets()
    config = load_config(config_path, changes=changes)
    folder = Path(config.output)
    need_writable(folder)
    market = open_market(MarketKey(config=config_path, changes=changes, seed=config.seeds[0]))
    market.check(arm_named(JOINT))
    chosen = targets_of(market, watched or smallest(market), targets)
    on_attack("auditing with canaries", 0.0)
    judgement = gate(market, canaries=canaries, watched=chosen.watched)
    found: dict[str, Found] = {}
    for name in (BASELINE, JOINT):
        found[name] = measured(market, arm_named(name), chosen, runs=runs, on_attack=on_attack)
    on_attack("reading rows off updates", 0.0)
    read = reconstruction(market, watched=chosen.watched, column=column, confidence=CONFIDENCE)
    results = {**_document(market, judgement, chosen, found, runs=runs), "reconstruction": read}
    from fedmarket.report.risk import render_risk  # noqa: PLC0415 - draws with matplotlib, which no run needs

    page = render_risk(results)
    write_text(folder / RISK, json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    write_text(folder / "risk.html", page)
    unfit = _renew_report(folder, parse_document(Measured, results, source=RISK))
    return Attacked(results=results, folder=folder, red=judgement.verdict is Verdict.VIOLATED, unfit=unfit)


def _renew_report(folder: Path, measured: Measured) -> str | None:
    """Make a simulation's report in ``folder`` anew; return why it does not show what was measured, or None."""
    from fedmarket.report.attained import unfit  # noqa: PLC0415 - as above
    from fedmarket.report.page import render  # noqa: PLC0415

    path = folder / "results.json"
    if not path.is_file():
        return None
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
        write_text(folder / "report.html", render(results, measured=measured))
    except (ValueError, DataError) as error:
        return f"{path}: {error}"
    return unfit(measured, results)


def smallest(market: Market) -> str:
    """Return the party with the fewest training customers."""
    return min(market.names, key=lambda name: market.customers_in(market.deal.train[name]))


def targets_of(market: Market, watched: str, count: int) -> Targets:
    """Return ``count`` customers of ``watched``, half of them drawn, half the most exposed without privacy.

    Raises:
        UsageError: if the party is not there or too small.
    """
    if watched not in market.names:
        raise UsageError(f"watched: expected one of {', '.join(market.names)}, got {watched!r}")
    terms, parties = federation_of(market, BASELINE)
    customers = market.customers_in(market.deal.train[watched])
    if not 4 <= 2 * count <= customers:
        raise UsageError(f"targets: expected 2 to {customers // 2} of the customers of party {watched}, got {count}")
    model = replica(terms, parties, start=start_for(market.config, market.contract)).model
    exposed = most_exposed(leverages(terms, parties[watched].rows, model), count // 2)
    others = np.setdiff1d(np.arange(customers), exposed)
    drawn = np.random.default_rng(market.seed).choice(others, count - count // 2, replace=False)
    numbers = np.sort(np.concatenate([exposed, drawn]))
    return Targets(
        watched=watched,
        numbers=numbers,
        groups={RANDOM: np.isin(numbers, drawn), EXPOSED: np.isin(numbers, exposed)},
    )


def measured(
    market: Market, arm: Arm, chosen: Targets, *, runs: int, on_attack: OnAttack = lambda _doing, _share: None
) -> Found:
    """Return what membership inference attains against ``arm``, of each group of targets and for each view."""
    drawn = Stream.secret()  # of the noise too: from a seed that only the scores of other rows' sums know
    terms, parties = federation_of(market, arm.name, noise_seed=int(drawn.words(1)[0] >> np.uint64(2)))
    watch = Watch(
        terms=terms,
        parties=parties,
        watched=chosen.watched,
        targets=chosen.numbers,
        start=start_for(market.config, market.contract),
    )
    coins = fair_coins(runs, len(chosen.numbers), drawn)
    told = partial(on_attack, f"running {arm.description} {runs} times")
    with _pool(market.config.workers) as pool:
        found = shadows(watch, coins, run_all=partial(_counted, pool.map if pool else map, told, runs))
    return membership(found, chosen.groups, variance="global", confidence=CONFIDENCE)


def _pool(workers: int) -> Any:
    return pool_of(workers) if workers > 1 else nullcontext()


def _counted(
    map_: RunAll, told: Callable[[float], None], runs: int, work: Callable[..., Any], tasks: Iterable[Any]
) -> Iterable[Any]:
    """Apply ``map_``, and tell after each result which share there is."""
    for done, one in enumerate(map_(work, tasks)):
        told((done + 1) / runs)
        yield one


def _document(
    market: Market, judgement: Judgement, chosen: Targets, found: dict[str, Found], *, runs: int
) -> dict[str, Any]:
    terms = terms_of(arm_named(JOINT), market.config, market.contract, seed=market.seed)
    plan, guarantees = terms.plan, guarantees_of(terms)
    spent = plan.spent()
    return {
        "format": FORMAT,
        "name": market.config.name,
        "created": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "source": market.population.source,
        "unit": plan.unit,
        "generator": plan.generator,
        "private": plan.private,
        "epsilon": spent.epsilon,
        "delta": spent.delta,
        "noise": market.config.privacy.noise,
        "full_batch": all(mechanism.sample_rate == 1 for mechanism in plan.mechanisms),
        "gate": gate_document(judgement),
        "membership": {
            "watched": chosen.watched,
            "customers": market.customers_in(market.deal.train[chosen.watched]),
            "groups": {name: int(np.sum(mask)) for name, mask in chosen.groups.items()},
            "runs": runs,
            "confidence": CONFIDENCE,
            "arms": {name: measured_document(one) for name, one in found.items()},
            "limits": {
                view: {"advantage": one.advantage(), **{f"{rate:g}": one.true_positive_rate(rate) for rate in RATES}}
                for view, one in guarantees.items()
            },
            "reductions": reduction_document(
                found[BASELINE], found[JOINT], noise=market.config.privacy.noise, guarantees=guarantees
            ),
        },
        "version": __version__,
    }


def gate_document(judgement: Judgement) -> dict[str, Any]:
    """Return a judgement as JSON."""
    return {
        "verdict": judgement.verdict.name.lower(),
        "words": judgement.verdict.value,
        "canaries": judgement.canaries,
        "runs": judgement.runs,
        "false_alarm_rate": judgement.false_alarm_rate,
        "readings": [
            {**asdict(reading), "verdict": reading.verdict.name.lower(), "words": reading.words}
            for reading in judgement.readings
        ],
    }


def measured_document(found: Found) -> dict[str, Any]:
    """Return figures as JSON: group, view, figure."""
    return {group: {view: asdict(figures) for view, figures in views.items()} for group, views in found.items()}


VIEWED: dict[str, tuple[View, View]] = {
    "local": ("informed update", "informed update"),
    "distributed": ("informed update", "informed aggregate"),
}
"""By the kind of noise: what a server without protection sees, and what is left to see with it.

Both attackers know all rows but the targets', as the guarantee's attacker does.
"""


def guarantees_of(terms: Terms) -> dict[View, Guarantee]:
    """Return what the plan guarantees against who sees what; the targets' party's noise is unknown to all of them.

    On full batches noise is Gaussian, and the mechanism mu-GDP with the mu of its epsilon; shared noise is nearer to it
    than 1e-9 in total variation.
    """
    plan = terms.plan
    alone = plan.epsilon_against(1)
    summed = plan.epsilon_against(terms.minimum_survivors) if plan.shares else alone
    full = all(mechanism.sample_rate == 1 for mechanism in plan.mechanisms)

    def guarantee(epsilon: float) -> Guarantee:
        if full:
            return Gaussian(mu=gaussian_mu(epsilon, plan.delta))
        return Approximate(epsilon=epsilon, delta=plan.delta)

    return {view: guarantee(alone if view.endswith("update") else summed) for view in VIEWS}


def reduction_document(
    before: Found, after: Found, *, noise: str, guarantees: Mapping[View, Guarantee]
) -> list[dict[str, Any]]:
    """Return the certified reductions of each group, from one party's visible update to what is seen with privacy.

    What an attack attains afterwards is at most what its interval says, and at most what the plan allows any attack.
    """
    first, then = VIEWED[noise]
    found = []
    for group in before:
        one = reductions(before[group][first], bounded(after[group][then], guarantees[then]))
        figures = {"advantage": one.advantage}
        for at, each in zip(before[group][first].at_rates, one.at_rates, strict=True):
            figures[f"tpr_{at.asked:g}"] = each
        said = {name: _reduction(each) for name, each in figures.items()}
        found.append({"group": group, "before": first, "after": then, "figures": said})
    return found


def bounded(found: Figures, guarantee: Guarantee) -> Figures:
    """Return figures whose upper ends are no higher than ``guarantee`` allows any attack.

    A true-positive rate is bounded at the upper end of the false-positive rate that it goes with.
    """
    return replace(
        found,
        advantage=_at_most(found.advantage, guarantee.advantage()),
        at_rates=tuple(
            replace(
                at,
                true_positive_rate=_at_most(
                    at.true_positive_rate, guarantee.true_positive_rate(at.false_positive_rate.high)
                ),
            )
            for at in found.at_rates
        ),
    )


def _at_most(one: Interval, limit: float) -> Interval:
    return replace(one, high=max(min(one.high, limit), one.estimate))


def _reduction(found: Reduction | AlreadyLow) -> dict[str, Any]:
    if isinstance(found, AlreadyLow):
        return {"certified": None, "estimate": None, "words": found.words}
    return {"certified": found.certified, "estimate": found.estimate, "words": ""}
