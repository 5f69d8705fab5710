"""A federation between processes of this machine: a SuperLink, and for each party a SuperNode and a party process.

Nothing is simulated: TLS, node authentication, the operator's token and every party's own documents, key and books are
those of a federation between organisations, and so are the commands. Only the machine is one, and the proxy is left
out, as nobody is outside.
"""

import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from fedmarket.errors import FederationStopped
from fedmarket.loopback.documents import Consortium, Site
from fedmarket.loopback.processes import (
    BIN,
    Daemon,
    commanded,
    followed,
    found,
    free_ports,
    need_proc,
    stop_all,
    stop_daemons,
    uninterrupted,
)
from fedmarket.operator.superlink import running

START_SECONDS = 180.0
"""For all party processes to listen."""

Say = Callable[[str], None]


@contextmanager
def sockets_folder() -> Iterator[Path]:
    """Give a folder whose name leaves room for that of a socket, as long as it is needed."""
    folder = Path(tempfile.mkdtemp(prefix="fedmarket-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(slots=True, kw_only=True)
class Federation:
    """The running processes of a consortium; use :meth:`of`.

    Attributes:
        consortium: whose they are.
        parties: the party processes, in the order of the sites.
        nodes: the SuperNodes, in the same order.
    """

    consortium: Consortium
    parties: list[Daemon] = field(default_factory=list)
    nodes: list[Daemon] = field(default_factory=list)

    @classmethod
    @contextmanager
    def of(cls, consortium: Consortium) -> "Iterator[Federation]":
        """Give the federation with everything started, and stop it all afterwards, whatever happens.

        Raises:
            FedmarketError: what keeps a process from starting.
        """
        need_proc()
        ports = free_ports(len(consortium.sites))
        federation = cls(
            consortium=consortium,
            parties=[_party(site) for site in consortium.sites],
            nodes=[_node(consortium, site, port) for site, port in zip(consortium.sites, ports, strict=True)],
        )
        try:
            federation.start()
            yield federation
        finally:
            with uninterrupted():
                federation.stop()

    @property
    def server_home(self) -> Path:
        """The Flower home by which the operator's processes are found."""
        return self.consortium.home.folder / "flower"

    def start(self) -> None:
        """Start the parties, the operator's processes and the SuperNodes."""
        for party in self.parties:
            party.start()
        self.start_server()
        self.wait_for_parties()
        for node in self.nodes:
            node.start()

    def stop(self) -> None:
        """Stop everything that was started and what that started."""
        stop_daemons([*self.nodes, *self.parties])
        try:
            if running(self.consortium.home):
                self.command("server", "stop", self.consortium.settings)
        finally:
            stop_all(self.server_home)

    def start_server(self) -> None:
        """Start what does not run of SuperLink and SuperExec."""
        self.command("server", "start", self.consortium.settings)

    def wait_for_parties(self) -> None:
        """Return when every party process listens.

        Raises:
            FederationStopped: if one ended instead, or does not after :data:`START_SECONDS`.
        """
        until = time.monotonic() + START_SECONDS
        for site, party in zip(self.consortium.sites, self.parties, strict=True):
            while not _listens(site.socket):
                if not party.alive:
                    raise FederationStopped(f"party {site.name} ended at once: {party.last_line()}")
                if time.monotonic() > until:
                    raise FederationStopped(f"party {site.name} does not listen after {START_SECONDS:g} s")
                time.sleep(0.1)

    def preflight(self, say: Say) -> None:
        """Let every partner look at everything once; a node that serves is not disturbed.

        Raises:
            FederationStopped: if one finds something wrong.
        """
        consortium = self.consortium
        for site in consortium.sites:
            said = self.command(
                "party", "preflight", site.document,
                "--server", f"localhost:{consortium.home.settings.server.port}", "--certificates", site.node / "ca.pem",
            )  # fmt: skip
            say(f"party {site.name}: {sum(line.startswith('ok') for line in said.splitlines())} checks hold")

    def run(self, output: Path, *, seconds: float, say: Say) -> None:
        """Run the experiment to its model in ``output``, or go on with the run that stopped there.

        Raises:
            FederationStopped: if it ends without a model, or not within ``seconds``; the message says why.
        """
        consortium = self.consortium
        followed(
            "server", "run", consortium.settings, consortium.config, "--roster", consortium.roster, "--output", output,
            home=consortium.folder / "operator", seconds=seconds, say=say,
        )  # fmt: skip

    def server_apps(self) -> list[int]:
        """Return the process ids of the ServerApps that run."""
        return [
            pid for pid, words in found(self.server_home).items() if any("flwr-serverapp" in word for word in words)
        ]

    def superlink(self) -> int:
        """Return the process id of the SuperLink.

        Raises:
            FederationStopped: if it does not run.
        """
        for one in running(self.consortium.home):
            if one.name == "superlink":
                return one.pid
        raise FederationStopped("the SuperLink does not run")

    def command(self, *words: object) -> str:
        """Give a command as the operator or a partner and return what it printed."""
        return commanded(*words, home=self.consortium.folder / "operator")


def _party(site: Site) -> Daemon:
    command = [str(BIN / "fedmarket"), "party", "serve", str(site.document)]
    return Daemon(name=f"party {site.name}", command=command, home=site.folder, log=site.folder / "party.log")


def _node(consortium: Consortium, site: Site, port: int) -> Daemon:
    command = [
        str(BIN / "flower-supernode"), "--superlink", f"localhost:{consortium.home.settings.server.port}",
        "--root-certificates", str(site.node / "ca.pem"), "--auth-supernode-private-key", str(site.node_key),
        "--port", str(port), "--isolation", "subprocess", "--node-config", f'socket="{site.socket}"',
    ]  # fmt: skip
    return Daemon(name=f"SuperNode of {site.name}", command=command, home=site.node, log=site.node / "supernode.log")


def _listens(path: Path) -> bool:
    """Whether somebody listens at a socket; what a killed process left there is nobody."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True
