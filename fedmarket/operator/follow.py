"""A run on the operator's SuperLink: started once, followed as often as one likes, gone on with after a fault.

The run lives in the processes of :mod:`fedmarket.operator.superlink`; who follows it only reads. Everything that it
leaves is in one folder: ``model.safetensors``, ``bundle.zip``, ``outcome.json``, and in ``state`` what it goes on from.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedmarket.config import load_config
from fedmarket.contract.schema import load_contract
from fedmarket.errors import ConfigError, DataError, FederationStopped, UsageError
from fedmarket.experiment.arms import JOINT, arm_named, start_for, terms_of
from fedmarket.federation.roster import load_roster
from fedmarket.files import need_writable, write_text
from fedmarket.flower.checkpoint import PROGRESS
from fedmarket.flower.control import RunConfig, RunStatus, Unreachable
from fedmarket.operator.settings import Home
from fedmarket.operator.superlink import control_of

MODEL, BUNDLE, OUTCOME, STATE = "model.safetensors", "bundle.zip", "outcome.json", "state"

POLL_SECONDS = 1.0
SILENT_SECONDS = 120.0
"""How long a SuperLink may be silent, as when it is started again, before nobody follows any more."""

OnProgress = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class StartedRun:
    """A run: Flower's number of it, and the folder of what it leaves."""

    number: int
    output: Path


def start_run(home: Home, config: Path, *, roster: Path, output: Path, changes: tuple[str, ...] = ()) -> StartedRun:
    """Start the run, or go on with the one that stopped half-way in ``output``; one that still runs is only found.

    Raises:
        FedmarketError: what keeps it from being started: a document, a roster that does not fit, a finished run.
    """
    if (output / MODEL).exists():
        raise UsageError(f"{output / MODEL}: this run is finished; choose another folder for a new one")
    run_config = _run_config(home, config, roster, output, changes)
    need_writable(output / STATE)
    with control_of(home) as control:
        before = _last_in(home, output)
        if before is not None and not control.status(before).finished:
            return StartedRun(number=before, output=output)
        number = control.start(home.app, run_config)
    write_text(_record(home, number), json.dumps({"output": str(output.resolve())}))
    write_text(output / STATE / "flower-run", str(number))
    return StartedRun(number=number, output=output)


def found_run(home: Home, number: int) -> StartedRun:
    """Return the run that was started under this number.

    Raises:
        UsageError: if none was.
    """
    try:
        known = json.loads(_record(home, number).read_text(encoding="utf-8"))
        return StartedRun(number=number, output=Path(known["output"]))
    except FileNotFoundError:
        raise UsageError(f"run {number}: was not started from {home.folder}") from None
    except (OSError, ValueError, KeyError, TypeError):
        raise DataError(f"{_record(home, number)}: cannot be read") from None


def follow(home: Home, run: StartedRun, *, on_progress: OnProgress) -> None:
    """Return when the run has handed on its model; until then tell how far it is, about once a second.

    Raises:
        FederationStopped: if it ended without a model; the message says why.
        Unreachable: if the SuperLink is silent for :data:`SILENT_SECONDS`.
    """
    last_heard = time.monotonic()
    with control_of(home) as control:
        while True:
            try:
                status = control.status(run.number)
                last_heard = time.monotonic()
            except Unreachable:
                if time.monotonic() - last_heard > SILENT_SECONDS:
                    raise
                status = None
            if told := progress_of(run.output):
                on_progress(told)
            if status is not None and status.finished:
                _need_completed(run, status)
                return
            time.sleep(POLL_SECONDS)


def progress_of(output: Path) -> dict[str, Any] | None:
    """Return what the ServerApp said last; None where it said nothing yet."""
    try:
        told = json.loads((output / STATE / PROGRESS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return told if isinstance(told, dict) else None


def _need_completed(run: StartedRun, status: RunStatus) -> None:
    if status.completed and (run.output / MODEL).is_file():
        return
    said = " ".join(status.details.split()).removeprefix("ServerApp failed with exception: ")
    reason = said or f"Flower says {status.sub_status or status.status}"
    raise FederationStopped(f"run {run.number} ended without a model: {reason}")


def _run_config(home: Home, config: Path, roster: Path, output: Path, changes: tuple[str, ...]) -> RunConfig:
    """Return what the ServerApp is told, after all that can be checked before it starts."""
    settings = load_config(config, changes=changes)
    contract = load_contract(Path(settings.data.contract))
    members, seed = load_roster(roster), settings.seeds[0]
    terms = terms_of(arm_named(JOINT), settings, contract, seed=seed)
    start_for(settings, contract)
    if terms.secagg == "secure":
        terms.need_fitting(members)
    if not home.has_app:
        raise ConfigError(f"runs.app: no pyproject.toml or server/app.py in {home.app}")
    return {
        "config": str(config.resolve()),
        "changes": "\n".join(changes),
        "seed": seed,
        "parties": len(members.members),
        "roster": str(roster.resolve()),
        "output": str((output / MODEL).resolve()),
        "bundle": str((output / BUNDLE).resolve()),
        "outcome": str((output / OUTCOME).resolve()),
        "state": str((output / STATE).resolve()),
        "log": str(home.folder),
        "log_name": home.settings.log.name,
        "nodes": str(home.node_names),
        "wait": float(home.settings.runs.node_wait_seconds),
    }


def _last_in(home: Home, output: Path) -> int | None:
    try:
        number = int((output / STATE / "flower-run").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return number if _record(home, number).is_file() else None


def _record(home: Home, number: int) -> Path:
    return home.runs / f"{number}.json"
