"""Finished runs of a simulation that is under way: what the same command goes on with after it was stopped.

One file a run, in a folder beside the results that is named by all that a run depends on: document, contract, public
start, rows, version and code. Another experiment finds none of it, and no part is a result: the folder is gone when the
results are written. A part holds a run's model, what its parties spent, and the bundle of its ledgers; no row and no
prediction of one. Runs are kept whole or not at all: one that was cut off is made again with keys, ledgers and noise
of its own, so that every bundle tells of one run and nothing in it is charged twice.
"""

import io
import json
import shutil
from dataclasses import asdict, dataclass, field, fields, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgpack
import numpy as np

from fedmarket.arrays import blocks_of
from fedmarket.data.population import Population
from fedmarket.errors import BadMessage
from fedmarket.experiment.arms import start_for
from fedmarket.experiment.market import Market
from fedmarket.federation.messages import Rejection, VoidRound
from fedmarket.federation.party import PartyState
from fedmarket.files import appearing, sha256_of
from fedmarket.flower.inprocess import Outcome
from fedmarket.ledger.bundle import Bundle, bundle_of
from fedmarket.ledger.code import installed_code
from fedmarket.models.state import ModelState
from fedmarket.privacy.budget import Spending
from fedmarket.privacy.histogram import BinnedCounts, SegmentSums, Statistics

FORMAT = "fedmarket-part/1"

FOLDER = "unfinished"
"""Beside the results, while there are none."""

_ARRAY = 1
"""MessagePack's extension type of an array, as numpy writes it without pickle."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One finished run: what it left behind, how long it took, and its ledgers where some were kept."""

    outcome: Outcome
    seconds: float
    bundle: Bundle | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Parts:
    """The folder of an experiment's finished runs.

    Guarantees:
        A part that is there is whole, also after a crash, and readable by its owner alone; one that cannot be read is
        not there.
    """

    folder: Path

    def find(self, seed: int, arm: str, *, alone: str = "") -> Part | None:
        """Return the finished run of ``arm`` under ``seed``, by the party ``alone``; None where there is none."""
        try:
            return _unpacked(self._path(seed, arm, alone).read_bytes())
        except (OSError, ValueError, KeyError, TypeError, BadMessage, msgpack.UnpackException):
            return None

    def keep(self, part: Part, seed: int, arm: str, *, alone: str = "") -> None:
        """Put a finished run where :meth:`find` finds it.

        Raises:
            UsageError: if it cannot be written.
        """
        with appearing(self._path(seed, arm, alone), mode=0o600) as temporary:
            temporary.write_bytes(_packed(part))

    def count(self) -> int:
        """Return how many runs are kept."""
        return sum(1 for _ in self.folder.glob("*.part"))

    def drop_others(self) -> bool:
        """Remove what other experiments, rows or versions left beside these parts; return whether there was any."""
        others = [path for path in self.folder.parent.glob("*") if path != self.folder]
        for path in others:
            shutil.rmtree(path, ignore_errors=True)
        return bool(others)

    def drop(self) -> None:
        """Remove all parts: the results are written."""
        shutil.rmtree(self.folder.parent, ignore_errors=True)

    def _path(self, seed: int, arm: str, alone: str) -> Path:
        name = f"{seed}-{arm}" + (f"-{sha256_of(alone.encode())[:16]}" if alone else "")
        return self.folder / f"{name}.part"


def parts_of(market: Market) -> Parts:
    """Return the folder of the parts of the experiment that ``market`` belongs to, whatever its seed."""
    config, contract, code = market.config, market.contract, installed_code()
    document = config.model_dump(mode="json", exclude={"output", "seeds", "workers", "start"})
    document["data"]["contract"] = contract.hash
    start = start_for(config, contract)
    known = [FORMAT, code.version, code.hash, document, start.hash if start else "", _hash_of(market.population)]
    fingerprint = sha256_of(json.dumps(known, sort_keys=True).encode())
    return Parts(Path(config.output) / FOLDER / fingerprint)


def _hash_of(population: Population) -> str:
    """Return the SHA-256 of all rows, of which a block at a time is there as text."""
    digest, table = sha256(), population.table
    for block in blocks_of(table.height):
        digest.update(table[block].write_csv(include_header=block.start == 0).encode())
    for name in (one.name for one in fields(population)):
        values = getattr(population, name)
        if isinstance(values, np.ndarray):
            digest.update(f"{name} {values.dtype.str} {values.shape}\n".encode() + values.tobytes())
    return digest.hexdigest()


def _packed(part: Part) -> bytes:
    spent = [asdict(state.spending) for state in part.outcome.states]  # all that is wanted of it: no secret of a round
    document = {
        "format": FORMAT,
        "outcome": asdict(replace(part.outcome, states=())) | {"states": spent},
        "seconds": part.seconds,
        "bundle": part.bundle.files() if part.bundle else None,
    }
    packed: bytes = msgpack.packb(document, default=_array_packed)
    return packed


def _unpacked(content: bytes) -> Part:
    document = msgpack.unpackb(content, ext_hook=_array_unpacked)
    if document["format"] != FORMAT:
        raise ValueError(f"expected a {FORMAT}")
    kept, bundle = document["outcome"], document["bundle"]
    statistics = kept["statistics"]
    binned = {name: statistics[name] and BinnedCounts(**statistics[name]) for name in ("scores", "values")}
    segments = statistics["segments"] and SegmentSums(**statistics["segments"])
    outcome = Outcome(
        **kept
        | {
            "model": ModelState(**kept["model"]),
            "states": tuple(PartyState(run=kept["run"], spending=Spending(**spent)) for spent in kept["states"]),
            "rejections": tuple(Rejection(**one) for one in kept["rejections"]),
            "void_rounds": tuple(VoidRound(**one) for one in kept["void_rounds"]),
            "statistics": Statistics(**binned, segments=segments),
        }
    )
    return Part(outcome=outcome, seconds=document["seconds"], bundle=None if bundle is None else bundle_of(bundle))


def _array_packed(value: Any) -> msgpack.ExtType:
    content = io.BytesIO()
    np.save(content, value, allow_pickle=False)
    return msgpack.ExtType(_ARRAY, content.getvalue())


def _array_unpacked(_: int, content: bytes) -> Any:
    return np.load(io.BytesIO(content), allow_pickle=False)
