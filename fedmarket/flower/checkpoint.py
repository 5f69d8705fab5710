"""The state folder of a run at the server: what a ServerApp that was killed goes on from, and how far it is.

``checkpoint`` is written before a round is entered and after it is over, by rename; ``progress.json`` is for whoever
follows the run, and nothing depends on it.
"""

import json
import os
import time
from pathlib import Path
from typing import Annotated, Any, Literal

import msgpack
from pydantic import Field

from fedmarket.documents import Section, parse_document
from fedmarket.errors import ConfigError, DataError
from fedmarket.federation.coordinator import Coordinator
from fedmarket.federation.resume import Saved, due_round, restore, saved_of
from fedmarket.files import appearing

FORMAT: Literal["fedmarket-checkpoint/1"] = "fedmarket-checkpoint/1"
CHECKPOINT, PROGRESS = "checkpoint", "progress.json"
LARGEST_CHECKPOINT = 1 << 30
"""Bytes."""

Nodes = dict[int, str]
"""The party at each node."""

_NodeId = Annotated[int, Field(ge=0, lt=2**64)]


class _Checkpoint(Section):
    format: Literal["fedmarket-checkpoint/1"]
    nodes: dict[_NodeId, str]
    coordinator: Saved


class StateFolder:
    """The folder; without a path nothing is kept, as in a simulation.

    Guarantees:
        What :meth:`keep` wrote is on disk, whole, when it returns; a crash at any time leaves the one before or the new
        one.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def restore(self, coordinator: Coordinator) -> Nodes | None:
        """Let ``coordinator`` go on where the run stood; return the party at each node, or None where no run was begun.

        Raises:
            DataError: if the file is damaged.
            ConfigError: if it is of another run.
            FederationStopped: if the round that was open is one void round too many.
        """
        if self._path is None or not (self._path / CHECKPOINT).is_file():
            return None
        path = self._path / CHECKPOINT
        found = _read(path)
        try:
            restore(coordinator, found.coordinator)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None
        return dict(found.nodes)

    def keep(self, coordinator: Coordinator, nodes: Nodes) -> None:
        """Write down where the run stands; before parties are asked to enter a round, and after one is over."""
        if self._path is None:
            return
        found = _Checkpoint(format=FORMAT, nodes=nodes, coordinator=saved_of(coordinator))
        with appearing(self._path / CHECKPOINT, mode=0o600) as temporary:
            temporary.write_bytes(msgpack.packb(found.model_dump(), use_bin_type=True))

    def tell(self, coordinator: Coordinator, doing: str, **more: Any) -> None:
        """Say how far the run is, for whoever follows it."""
        if self._path is None:
            return
        rounds, number = coordinator.terms.rounds, due_round(coordinator)
        told = {
            "time": round(time.time(), 1),
            "run": coordinator.run.hex(),
            "doing": doing,
            "round": number,
            "rounds": rounds,
            "phase": coordinator.terms.phase_of(number) if number < rounds else "",
            "parties": sorted(coordinator.parties),
            "void_rounds": len(coordinator.void_rounds),
            "rejections": len(coordinator.rejections),
            "last_rejection": " ".join(_last(coordinator)),
        }
        temporary = self._path / f".{PROGRESS}"
        self._path.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(told | more), encoding="utf-8")
        os.replace(temporary, self._path / PROGRESS)


def _last(coordinator: Coordinator) -> list[str]:
    return [f"{last.party}: {last.reason}" for last in coordinator.rejections[-1:]]


def _read(path: Path) -> _Checkpoint:
    try:
        content = path.read_bytes()
        if len(content) > LARGEST_CHECKPOINT:
            raise ValueError
        found = msgpack.unpackb(content, raw=False, strict_map_key=False, use_list=False)
        if not isinstance(found, dict):
            raise ValueError
        return parse_document(_Checkpoint, found, source=str(path))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException, ConfigError):
        raise DataError(f"{path}: not a whole checkpoint of a run") from None
