"""Nodes of a tiny market: each with a document, an identity, books and a socket of its own."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from flwr.app import Context, Message

from fedmarket.experiment.market import MarketKey, open_market
from fedmarket.federation.identity import load_identity
from fedmarket.federation.rehearsal import ORIGIN, rehearse
from fedmarket.flower.inprocess import Apps, Outcome, RunConfig, load_apps, run_in_process
from fedmarket.ledger.note import VerifierKey
from fedmarket.node.agreement import ARM
from fedmarket.node.desk import Desk
from fedmarket.node.serve import Door, callers_of, listening
from fedmarket.node.settings import load_partner

ROOT = Path(__file__).parents[2]
FEDMARKET = Path(sys.executable).with_name("fedmarket")

DOCUMENT = """
format = "fedmarket-partner/1"
name = "{name}"
federation = "{federation}"
roster = "{roster}"
identity = "{place:02}.pem"
books = "{place:02}"
log_key = "{log_key}"
declared_rows = {declared_rows}
cap = 1.0
[socket]
path = "{place:02}.sock"
[data]
kind = "market"
[policy]
contracts = ["{contract}"]
largest_epsilon = 1.0
least_survivors = 3
{policy}
"""


@dataclass(frozen=True)
class Nodes:
    """The parties of one rehearsed federation, each with its document beside the roster."""

    config: Path
    folder: Path
    names: tuple[str, ...]

    def document(self, place: int) -> Path:
        return self.folder / f"partner-{place:02}.toml"

    def socket(self, place: int) -> Path:
        return self.folder / f"{place:02}.sock"

    def books(self, place: int) -> Path:
        return self.folder / f"{place:02}"

    def change(self, place: int, old: str, new: str) -> None:
        path = self.document(place)
        text = path.read_text(encoding="utf-8")
        assert text.count(old) == 1, old
        path.write_text(text.replace(old, new), encoding="utf-8")

    def desk(self, place: int) -> Desk:
        return Desk.open(load_partner(self.document(place)))

    @property
    def run_config(self) -> RunConfig:
        """What the ServerApp is told; a relay has no use for it."""
        fields = {"config": str(self.config), "arm": "federated_dp", "seed": 0, "alone": "", "parties": len(self.names)}
        return fields | {"output": "", "changes": "", "roster": str(self.folder / "roster.toml")}

    def relayed(self, apps: Apps, before: Callable[[Message], None] = lambda _: None) -> Outcome:
        """Run the federation with relays at the nodes."""

        def client(message: Message, context: Context) -> Message:
            before(message)
            context.node_config["socket"] = str(self.socket(context.node_id - 1))
            return apps.client(message, context)

        return run_in_process(Apps(server=apps.server, client=client), self.run_config, nodes=len(self.names))


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
        config = write(folder / "market", *changes)
        market = open_market(MarketKey(config=config, changes=(), seed=0))
        roster = rehearse(folder, market.names, minimum_survivors=3)
        log_key = VerifierKey(name=ORIGIN, public_key=load_identity(folder / "log.pem").public_key)
        for place, name in enumerate(market.names):
            party = market.party(ARM, name)
            text = DOCUMENT.format(
                name=name,
                federation=config.relative_to(folder),
                roster=roster.name,
                place=place,
                log_key=log_key,
                declared_rows=party.declared_rows,
                contract=market.contract.hash,
                policy=policy,
            )
            (folder / f"partner-{place:02}.toml").write_text(text, encoding="utf-8")
        return Nodes(config=config, folder=folder, names=market.names)

    return make


@pytest.fixture
def nodes(make_nodes: MakeNodes) -> Nodes:
    return make_nodes()


@dataclass
class Process:
    """A party process, as its partner starts it."""

    document: Path
    socket: Path
    log: Path
    code: Path
    running: subprocess.Popen[bytes] | None = field(default=None)

    def start(self) -> None:
        with self.log.open("ab") as log:
            environment = os.environ | {"PYTHONPATH": str(self.code)}
            self.running = subprocess.Popen([FEDMARKET, "party", "serve", self.document], stderr=log, env=environment)

    def wait(self) -> None:
        """Until it listens."""
        for _ in range(1200):
            assert self.running is not None
            assert self.running.poll() is None, self.log.read_text(encoding="utf-8")
            if "listens at" in self.log.read_text(encoding="utf-8").rpartition("stopped")[2].rpartition("KILLED")[2]:
                return
            time.sleep(0.05)
        raise AssertionError("does not listen")

    def kill(self) -> None:
        assert self.running is not None
        self.running.kill()
        self.running.wait()
        with self.log.open("ab") as log:
            log.write(b"KILLED\n")

    def stop(self) -> int:
        assert self.running is not None
        self.running.send_signal(signal.SIGTERM)
        return self.running.wait(timeout=60)

    @property
    def memory(self) -> int:
        """Bytes resident."""
        assert self.running is not None
        pages = Path(f"/proc/{self.running.pid}/statm").read_text(encoding="ascii").split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")


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
