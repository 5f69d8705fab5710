"""The operator's folder: one document, and beside it keys, certificates, the log, and what Flower keeps.

::

    server.toml
    tls/      ca.pem (to every partner), ca.key, server.pem, server.key
    secrets/  control.token, superexec.secret
    nodes/    NAME.pub of every SuperNode that may connect; NAME.key only where a test consortium was made
    log.pem   the log's identity
    log/      the log of the parties' ledgers
    flower/, flower.db, logs/, runs/, nodes.json, pids.json
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from fedmarket.documents import Name, Positive, Section, parse_document
from fedmarket.files import read_toml

FORMAT: Literal["fedmarket-server/1"] = "fedmarket-server/1"
SETTINGS_FILE = "server.toml"

_Port = Annotated[int, Field(ge=1024, lt=2**16)]
_LogName = Annotated[str, Field(pattern=r"^[^\s+]{1,200}$")]


class ServerSection(Section):
    """Where partners reach the server, and where its own interfaces listen.

    ``hosts`` are the names in its certificate, ``fleet_port`` is the proxy's. ``port`` is the SuperLink's, on loopback
    and never anywhere else.
    """

    hosts: Annotated[tuple[Name, ...], Field(strict=False, min_length=1)]
    fleet_port: _Port
    port: _Port


class LogSection(Section):
    """The name under which checkpoints are signed; partners and auditors hold it with the log's key."""

    name: _LogName


class RunsSection(Section):
    """``app`` is the folder of the project whose two apps are shipped, ``node_wait_seconds`` how long a run waits."""

    app: Name
    node_wait_seconds: Positive


class ServerSettings(Section):
    """The document ``server.toml``."""

    format: Literal["fedmarket-server/1"]
    server: ServerSection
    log: LogSection
    runs: RunsSection


@dataclass(frozen=True, slots=True, kw_only=True)
class Home:
    """The operator's folder, with its settings."""

    folder: Path
    settings: ServerSettings

    @property
    def address(self) -> str:
        """Where the SuperLink listens."""
        return f"127.0.0.1:{self.settings.server.port}"

    @property
    def app(self) -> Path:
        """The project whose apps are shipped."""
        return self.folder / self.settings.runs.app

    @property
    def has_app(self) -> bool:
        """Whether the project is where the settings say: a checkout, not only the installed package."""
        return (self.app / "pyproject.toml").is_file() and (self.app / "server" / "app.py").is_file()

    @property
    def ca(self) -> Path:
        """The certificate that partners trust."""
        return self.folder / "tls" / "ca.pem"

    @property
    def certificate(self) -> Path:
        """The server's certificate."""
        return self.folder / "tls" / "server.pem"

    @property
    def certificate_key(self) -> Path:
        """The server's private key."""
        return self.folder / "tls" / "server.key"

    @property
    def control_token(self) -> Path:
        """What the control interface asks for."""
        return self.folder / "secrets" / "control.token"

    @property
    def superexec_secret(self) -> Path:
        """What may ask the SuperLink for ServerApps to run."""
        return self.folder / "secrets" / "superexec.secret"

    @property
    def nodes(self) -> Path:
        """The folder of the SuperNodes' public keys."""
        return self.folder / "nodes"

    @property
    def node_names(self) -> Path:
        """The file that says under which name each of Flower's numbers was admitted."""
        return self.folder / "nodes.json"

    @property
    def runs(self) -> Path:
        """The folder in which it is written where each run's results go."""
        return self.folder / "runs"

    @property
    def logs(self) -> Path:
        """The folder of what the processes say."""
        return self.folder / "logs"

    @property
    def pids(self) -> Path:
        """Which processes were started."""
        return self.folder / "pids.json"


def load_home(path: Path) -> Home:
    """Return the operator's folder whose settings are at ``path``.

    Raises:
        ConfigError: one line that names file and key.
    """
    settings = parse_document(ServerSettings, read_toml(path), source=str(path))
    return Home(folder=path.resolve().parent, settings=settings)
