"""Nodes of a tiny market: each with a document, an identity, books and a socket of its own."""

import runpy
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fedmarket.flower.inprocess import Apps, load_apps
from fedmarket.node.serve import Door, callers_of, listening
from fedmarket.node.settings import load_partner

ROOT = Path(__file__).parents[2]
PARTIES = runpy.run_path(str(Path(__file__).with_name("parties.py")))
Nodes, Process, nodes_of = PARTIES["Nodes"], PARTIES["Process"], PARTIES["nodes_of"]

MakeNodes = Callable[..., Nodes]


@pytest.fixture(scope="session")
def apps() -> Apps:
    return load_apps(ROOT)


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder whose path leaves room for a socket's name."""
    with tempfile.TemporaryDirectory(prefix="fm-") as folder:
        yield Path(folder)


@pytest.fixture
def make_nodes(write_market, short_folder: Path) -> MakeNodes:
    """Return a maker of the four parties of a tiny market, with changes to the experiment's document."""

    def make(*changes: tuple[str, str], folder: Path = short_folder, policy: str = "", write=write_market) -> Nodes:
        return nodes_of(write(folder / "market", *changes), folder, policy=policy)

    return make


@pytest.fixture
def nodes(make_nodes: MakeNodes) -> Nodes:
    return make_nodes()


@pytest.fixture
def process_of(installed: Path) -> Iterator[Callable[[Nodes, int], Process]]:
    """Return a maker of party processes, which are ended with the test."""
    made: list[Process] = []

    def make(nodes: Nodes, place: int) -> Process:
        process = Process(nodes.document(place), nodes.socket(place), nodes.folder / f"{place:02}.log", installed)
        made.append(process)
        process.start()
        return process

    yield make
    for process in made:
        if process.running is not None and process.running.poll() is None:
            process.running.kill()
            process.running.wait()


@contextmanager
def _served(nodes: Nodes, place: int, **settings: float) -> Iterator[Door]:
    partner = load_partner(nodes.document(place))
    callers, desk = callers_of(partner.section.socket), nodes.desk(place)
    door = Door(desk=desk, callers=callers, **settings)
    with listening(partner.socket, callers) as listener:
        thread = threading.Thread(target=door.serve, args=(listener,))
        thread.start()
        try:
            yield door
        finally:
            door.stop()
            thread.join(timeout=60)
            desk.close()
            assert not thread.is_alive()


@pytest.fixture
def served():
    """Return a context in which a node is served by a thread of this process."""
    return _served
