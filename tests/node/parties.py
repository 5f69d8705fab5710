"""Nodes of a tiny market as their partners start them, and a grid that asks them all at once; run by path (``runpy``).

Each node has a document, an identity, books and a socket of its own, all in one folder beside the roster.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import msgpack
from flwr.app import Context, Message

from fedmarket.experiment.market import MarketKey, open_market
from fedmarket.federation.identity import load_identity
from fedmarket.federation.rehearsal import ORIGIN, rehearse
from fedmarket.flower.inprocess import Apps, InProcessGrid, Outcome, RunConfig, run_in_process
from fedmarket.flower.records import frame_in
from fedmarket.ledger.note import VerifierKey
from fedmarket.node.agreement import ARM
from fedmarket.node.desk import Desk
from fedmarket.node.settings import load_partner

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

    def relays(
        self, apps: Apps, before: Callable[[Message], None] = lambda _: None, sockets: dict[int, Path] | None = None
    ) -> Apps:
        """Return apps whose nodes only relay, to the party's own socket or to the one in ``sockets``."""

        def client(message: Message, context: Context) -> Message:
            before(message)
            place = context.node_id - 1
            context.node_config["socket"] = str((sockets or {}).get(place, self.socket(place)))
            return apps.client(message, context)

        return Apps(server=apps.server, client=client)

    def relayed(
        self,
        apps: Apps,
        before: Callable[[Message], None] = lambda _: None,
        sockets: dict[int, Path] | None = None,
        grid_type: type[InProcessGrid] = InProcessGrid,
    ) -> Outcome:
        """Run the federation with relays at the nodes; see :meth:`relays`."""
        relays = self.relays(apps, before, sockets)
        return run_in_process(relays, self.run_config, nodes=len(self.names), grid_type=grid_type)


def nodes_of(config: Path, folder: Path, *, policy: str = "") -> Nodes:
    """Make the nodes of the market at ``config``, which is within ``folder``; nothing is started."""
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


@dataclass
class Process:
    """A party process, as its partner starts it; ``command`` is another program that serves the same document."""

    document: Path
    socket: Path
    log: Path
    code: Path
    command: tuple[object, ...] = (FEDMARKET, "party", "serve")
    running: subprocess.Popen[bytes] | None = field(default=None)

    def start(self) -> None:
        with self.log.open("ab") as log:
            environment = os.environ | {"PYTHONPATH": str(self.code)}
            self.running = subprocess.Popen([*self.command, self.document], stderr=log, env=environment)

    @property
    def listens(self) -> bool:
        """Whether it says so, after its last start."""
        said = self.log.read_text(encoding="utf-8")
        return "listens at" in said.rpartition("stopped")[2].rpartition("KILLED")[2]

    def wait(self) -> None:
        """Until it listens."""
        for _ in range(3600):  # on a busy machine loading takes a minute
            assert self.running is not None
            assert self.running.poll() is None, self.log.read_text(encoding="utf-8")
            if self.listens:
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


class ConcurrentGrid(InProcessGrid):
    """A grid that asks all nodes at once and keeps to the time-out, as Flower's does: who is late has no reply."""

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """See :class:`flwr.serverapp.Grid`."""
        replies: list[Message] = []
        until = time.monotonic() + (timeout or 0.0)
        threads = [
            threading.Thread(target=lambda one=message: replies.extend(self.pull_messages([self._deliver(one)])))
            for message in messages
        ]
        for thread in threads:
            thread.daemon = True
            thread.start()
        for thread in threads:
            thread.join(None if timeout is None else max(0.0, until - time.monotonic()))
        return list(replies)


def asked_in(message: Message) -> tuple[tuple[int, ...], str]:
    """Return the rounds and the first step that a message asks for, no round when joining and closing."""
    fields = msgpack.unpackb(frame_in(message.content), strict_map_key=False)
    rounds = tuple(request["round_number"] for request in fields.get("requests", ()))
    return rounds, message.metadata.message_type.partition(".")[2]
