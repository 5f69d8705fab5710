"""``fedmarket.simulate`` and ``fedmarket.frontier``: the commands of the same names, for notebooks and scripts.

Several seeds run in processes of their own. They load no notebook and no script again
(:mod:`fedmarket.simulation.workers`), so a script needs no ``if __name__ == "__main__":``.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from fedmarket.api.results import Frontier, Result
from fedmarket.errors import UsageError
from fedmarket.simulation import frontier as sweep
from fedmarket.simulation import run

Changes = Mapping[str, Any]
"""Dotted keys of the document -> values: numbers, truth values, texts, and sequences and mappings of these."""


def simulate(
    config: str | Path,
    *,
    changes: Changes | None = None,
    output: str | Path | None = None,
    progress: Callable[[int, str, float], None] | None = None,
) -> Result:
    """Run every arm of the experiment at ``config`` and write its files, as ``fedmarket simulate`` does.

    The experiment is a document and no object, so that what ran can be read, sent and run again; ``results.json`` holds
    all of it with its changes.

    Args:
        config: path of the document; paths in it are relative to its folder.
        changes: for this run alone, such as ``{"privacy.epsilon": 2.0, "seeds": [0, 1]}``.
        output: folder for the files instead of the configured one, relative to the working folder.
        progress: told seed, what is being done, and which share of the seed's work is behind; called in this process.

    Raises:
        FedmarketError: what was wrong, by file, key or column, before anything is trained.
    """
    found = run.simulate(Path(config), changes=_changes(changes, output), on_progress=progress or _ignore)
    return Result(folder=found.folder.resolve(), results=found.results)


def frontier(
    config: str | Path,
    *,
    epsilons: Iterable[float] = sweep.EPSILONS,
    changes: Changes | None = None,
    output: str | Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Frontier:
    """Run every seed of the experiment at every epsilon and write the sweep, as ``fedmarket frontier`` does.

    A sweep that was stopped goes on where it ended.

    Args:
        config: path of the document; paths in it are relative to its folder.
        epsilons: to try, each between 0.02 and 32.
        changes: for this sweep alone, see :func:`simulate`.
        output: folder for the files instead of the configured one, relative to the working folder.
        progress: told how many points are done, and of how many.

    Raises:
        FedmarketError: what was wrong, by file, key or column, before anything is trained.
    """
    changed = _changes(changes, output)
    found = sweep.frontier(Path(config), changes=changed, epsilons=map(float, epsilons), on_point=progress or _ignore)
    return Frontier(folder=found.folder.resolve(), results=found.results)


def _ignore(*_news: object) -> None:
    """Tell nobody."""


def _changes(changes: Changes | None, output: str | Path | None) -> tuple[str, ...]:
    """Return changes as the command line writes them."""
    placed = {} if output is None else {"output": str(Path(output).resolve())}
    return tuple(f"{key}={_toml(value, key)}" for key, value in {**(changes or {}), **placed}.items())


def _toml(value: object, key: str) -> str:
    """Return ``value`` as TOML writes it.

    >>> _toml({"kind": "mlp", "hidden": (8, 4)}, "model")
    '{"kind" = "mlp", "hidden" = [8, 4]}'
    """
    match value:
        case bool() | str():
            return json.dumps(value, ensure_ascii=False)
        case Path():
            return json.dumps(str(value), ensure_ascii=False)
        case Integral():
            return repr(int(value))
        case Real():
            return repr(float(value))
        case Mapping():
            return "{" + ", ".join(f"{_toml(name, key)} = {_toml(inner, key)}" for name, inner in value.items()) + "}"
        case Sequence():
            return "[" + ", ".join(_toml(inner, key) for inner in value) + "]"
    raise UsageError(f"changes: {key}: expected a number, text, sequence or mapping, got {type(value).__name__}")
