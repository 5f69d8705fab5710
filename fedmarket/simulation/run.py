"""``simulate``: seeds in parallel processes, results as JSON, report and model, each appearing whole."""

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedmarket.attacks.measured import RISK, read_measured
from fedmarket.config import load_config
from fedmarket.contract.schema import load_contract
from fedmarket.experiment.arms import JOINT, arm_named, terms_of
from fedmarket.experiment.market import MarketKey, forget_markets, open_market
from fedmarket.files import need_writable, write_text
from fedmarket.ledger.bundle import write_bundle
from fedmarket.models.released import save_model
from fedmarket.simulation.measures import measures_of
from fedmarket.simulation.parts import Parts, parts_of
from fedmarket.simulation.results import BUNDLE, results_of
from fedmarket.simulation.seed import OnProgress, SeedResult, run_seed
from fedmarket.simulation.workers import CONTEXT, pool_of

POLL_SECONDS = 0.1

OnNote = Callable[[str], None]
"""Told, in a line, what a person should know before the first round."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulation:
    """A finished experiment: the results document and where its files are."""

    results: dict[str, Any]
    folder: Path


def simulate(
    config_path: Path,
    *,
    changes: tuple[str, ...] = (),
    on_progress: OnProgress = lambda _seed, _doing, _share: None,
    on_note: OnNote = lambda _: None,
) -> Simulation:
    """Run the experiment at ``config_path`` and write ``results.json``, ``report.html`` and ``model.safetensors``.

    With them goes ``bundle.zip``: the ledgers of the released model's run, for auditors, where they were kept. The
    report shows what attackers attained, where the same experiment's ``risk.json`` is in its folder already.

    An experiment that was stopped goes on where it ended: finished runs are kept (:mod:`fedmarket.simulation.parts`).

    Everything that can be wrong with configuration, contract, data and privacy plan is found before the first round.

    Raises:
        FedmarketError: what was wrong, by file, key or column.
    """
    start = time.perf_counter()
    forget_markets()
    config = load_config(config_path, changes=changes)
    contract = load_contract(Path(config.data.contract))
    terms = terms_of(arm_named(JOINT), config, contract, seed=config.seeds[0])
    measures_of(config, contract)
    keys = [MarketKey(config=config_path, changes=changes, seed=seed) for seed in config.seeds]
    for key in reversed(keys):  # so that the first seed's market is still open when its turn comes
        market = open_market(key)
        market.check(arm_named(JOINT))
    folder = Path(config.output)
    need_writable(folder)
    measured = read_measured(folder / RISK) if (folder / RISK).is_file() else None
    source, parts = market.population.source, parts_of(market)
    _tell_kept(parts, on_note)
    seeds = _seeds(keys, parts, on_progress, workers=min(config.workers, len(keys)))
    for seed in config.seeds:
        on_progress(seed, "evaluating", 1.0)
    results = results_of(config, contract, seeds, source=source, seconds=time.perf_counter() - start)
    document = json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    from fedmarket.report.page import render  # noqa: PLC0415 - draws with matplotlib, which no round needs

    # All is made before anything is written, so that the files belong together.
    page = render(results, measured=measured)
    save_model(
        folder / "model.safetensors", seeds[0].model, model=config.model, contract=contract, private=terms.plan.private
    )
    if seeds[0].bundle is not None:
        write_bundle(seeds[0].bundle, folder / BUNDLE, replace=True)
    else:
        (folder / BUNDLE).unlink(missing_ok=True)  # an older run's would seem to be this one's
    write_text(folder / "results.json", document)
    write_text(folder / "report.html", page)
    parts.drop()
    return Simulation(results=results, folder=folder)


def _tell_kept(parts: Parts, on_note: OnNote) -> None:
    """Remove what another experiment left, and say what there is to go on with."""
    if parts.drop_others():
        on_note("an unfinished simulation of another document, other rows or another version was here: starting afresh")
    if kept := parts.count():
        on_note(f"going on with {kept} finished {'run' if kept == 1 else 'runs'}")


def _seeds(keys: list[MarketKey], parts: Parts, on_progress: OnProgress, *, workers: int) -> list[SeedResult]:
    if workers == 1:
        return [run_seed(one, parts, on_progress) for one in keys]
    said = CONTEXT.SimpleQueue()
    with pool_of(workers, _begin, (said,)) as pool:
        futures = [pool.submit(run_seed, one, parts, _tell) for one in keys]
        for news in _until_done(futures, said):
            on_progress(*news)
        return [future.result() for future in futures]


_said: Any = None
"""In a worker, the queue to the process that shows progress."""


def _begin(said: Any) -> None:
    global _said  # noqa: PLW0603 - a queue cannot travel with a task, only with the process
    _said = said


def _tell(seed: int, doing: str, share: float) -> None:
    _said.put((seed, doing, share))


def _until_done(futures: list[Future[SeedResult]], said: Any) -> Iterator[tuple[int, str, float]]:
    """Yield progress until all futures are done or one has failed; the failure is raised by its result."""
    while True:
        done, waiting = wait(futures, timeout=POLL_SECONDS)
        while not said.empty():
            yield said.get()
        for future in done:
            future.result()
        if not waiting:
            return
