"""The folders of a consortium whose every member is played by this machine: documents, keys and tables, each its own.

::

    config.toml, contract.toml, roster.toml   what all agreed on
    partners.txt                              what each partner sent for the roster
    server/                                   the operator's (:mod:`fedmarket.operator.settings`)
    parties/00/                               a partner's: partner.toml, identity.pem, customers.csv, its copies
    parties/00/node/                          of its SuperNode: supernode.key, and what Flower keeps

A real party reads its own csv file and draws its noise from the operating system. Under an experiment whose noise comes
from a seed, which a party with rows of its own refuses, the simulated market deals the rows.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedmarket.config import ExperimentConfig, load_config
from fedmarket.errors import ConfigError, FederationStopped
from fedmarket.experiment.arms import JOINT, arm_named, terms_of
from fedmarket.experiment.market import Market, MarketKey, declared_rows, open_market
from fedmarket.federation.terms import Terms
from fedmarket.files import write_text
from fedmarket.loopback.processes import commanded, free_ports
from fedmarket.operator.settings import SETTINGS_FILE, Home, load_home

LOG_NAME = "localhost/log"
TABLE = "customers.csv"


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A partner's machine: its folder, and where its socket is."""

    name: str
    folder: Path
    socket: Path

    @property
    def document(self) -> Path:
        """The node's ``partner.toml``."""
        return self.folder / "partner.toml"

    @property
    def books(self) -> Path:
        """The folder of its ledger."""
        return self.folder / "books"

    @property
    def node(self) -> Path:
        """The folder of its SuperNode."""
        return self.folder / "node"

    @property
    def node_key(self) -> Path:
        """The SuperNode's private key."""
        return self.node / "supernode.key"


@dataclass(frozen=True, slots=True, kw_only=True)
class Consortium:
    """Everything that was agreed, and everybody's folder.

    Attributes:
        log_key: of the server's log, as partners and auditors hold it.
        seeded: whether noise comes from a seed, so that a simulation gives the same model.
        terms: what the documents mean; its rounds are those of the whole run.
    """

    folder: Path
    config: Path
    roster: Path
    log_key: str
    home: Home
    sites: tuple[Site, ...]
    seeded: bool
    terms: Terms

    @property
    def settings(self) -> Path:
        """The operator's document."""
        return self.home.folder / SETTINGS_FILE


def make_consortium(
    folder: Path,
    config: Path,
    *,
    app: Path,
    sockets: Path,
    changes: Mapping[str, Any] | None = None,
    cap: float | None = None,
) -> Consortium:
    """Make the folders of server and parties, by the commands that each of them gives.

    Args:
        folder: where; it must not be there yet.
        config: the experiment, whose market says who takes part with which rows.
        app: the checkout whose apps are shipped.
        sockets: a folder with a short name, for the parties' sockets.
        changes: values of keys of the experiment, such as ``{"training.rounds": 3}``.
        cap: of each party, on epsilon over all runs; the experiment's epsilon where it is None.

    Raises:
        FedmarketError: what is wrong with a document, or what a command said.
    """
    if folder.exists():
        raise ConfigError(f"{folder}: is there already; a new federation needs a folder of its own")
    folder.mkdir(parents=True, mode=0o700)
    path = _agreed(folder, config, changes or {})
    settings = load_config(path)
    market = open_market(MarketKey(config=path, changes=(), seed=settings.seeds[0]))
    sites = tuple(
        Site(name=name, folder=folder / "parties" / f"{place:02}", socket=sockets / f"{place:02}.sock")
        for place, name in enumerate(market.names)
    )
    home, log_key = _server(folder / "server", app, sites)
    roster = _roster(folder, sites, settings)
    seeded = settings.privacy.generator == "seeded-for-tests"
    for site in sites:
        _fill_in(site, market, roster, log_key=log_key, cap=cap or settings.privacy.epsilon, seeded=seeded)
    return Consortium(
        folder=folder,
        config=path,
        roster=roster,
        log_key=log_key,
        home=home,
        sites=sites,
        seeded=seeded,
        terms=terms_of(arm_named(JOINT), settings, market.contract, seed=market.seed),
    )


def with_values(text: str, values: Mapping[str, Any]) -> str:
    r"""Return a TOML document with other values at keys that it has, each on a line of its own.

    >>> with_values("[a]\nrounds = 3\n[b]\nrounds = 4  # many\n", {"b.rounds": 5})
    '[a]\nrounds = 3\n[b]\nrounds = 5\n'

    Raises:
        ConfigError: if a key is not there.
    """
    lines, section, missing = text.splitlines(keepends=True), "", dict(values)
    for place, line in enumerate(lines):
        if line.startswith("["):
            section = line.strip().strip("[]") + "."
        key = section + line.partition("=")[0].strip()
        if "=" in line and key in missing:
            lines[place] = f"{line.partition('=')[0].strip()} = {_toml(missing.pop(key))}\n"
    if missing:
        raise ConfigError(f"{', '.join(sorted(missing))}: no such key on a line of its own")
    return "".join(lines)


def _toml(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _agreed(folder: Path, config: Path, changes: Mapping[str, Any]) -> Path:
    """Copy experiment and contract, with the changes; return the experiment's path."""
    contract = Path(load_config(config).data.contract)
    shutil.copyfile(contract, folder / "contract.toml")
    text = with_values(config.read_text(encoding="utf-8"), {"data.contract": "contract.toml", **changes})
    write_text(folder / "config.toml", text)
    return folder / "config.toml"


def _server(folder: Path, app: Path, sites: tuple[Site, ...]) -> tuple[Home, str]:
    """Make the operator's folder; a test consortium's node keys move to the nodes. Return it with the log's key."""
    nodes = [word for site in sites for word in ("--node", site.folder.name)]
    port, fleet_port = free_ports(2)
    said = commanded(
        "server", "init", folder, "--host", "localhost", "--log-name", LOG_NAME, "--app", app,
        "--port", port, "--fleet-port", fleet_port, *nodes,
        home=folder.parent,
    )  # fmt: skip
    home = load_home(folder / SETTINGS_FILE)
    for site in sites:
        site.node.mkdir(parents=True, mode=0o700)
        (home.nodes / f"{site.folder.name}.key").rename(site.node_key)
        shutil.copyfile(home.ca, site.node / "ca.pem")
    return home, _told(said, "the log's key ")


def _roster(folder: Path, sites: tuple[Site, ...], settings: ExperimentConfig) -> Path:
    """Begin every party's folder, and make the roster of the lines that are printed for its keeper."""
    said = [commanded("party", "init", site.folder, "--name", site.name, home=folder) for site in sites]
    lines, path = folder / "partners.txt", folder / "roster.toml"
    write_text(lines, "".join(f"{one.splitlines()[-1]}\n" for one in said))
    least = settings.federation.minimum_survivors
    commanded("roster", "new", path, lines, "--minimum-survivors", least, home=folder)
    return path


def _fill_in(site: Site, market: Market, roster: Path, *, log_key: str, cap: float, seeded: bool) -> None:
    """Give a partner its copies and its table, and fill in its document."""
    agreed = site.folder / "federation"
    agreed.mkdir(mode=0o700)
    for name in ("config.toml", "contract.toml", "roster.toml"):
        shutil.copyfile(roster.with_name(name), agreed / name)
    train, test = market.deal.train[site.name], market.deal.test[site.name]
    values = {
        "log_key": log_key,
        "declared_rows": declared_rows(market.customers_in(train)),
        "cap": cap,
        "socket.path": str(site.socket),
        "policy.contracts": [market.contract.hash],
        "policy.largest_epsilon": market.config.privacy.epsilon,
        "policy.least_survivors": market.config.federation.minimum_survivors,
    }
    text = site.document.read_text(encoding="utf-8")
    if seeded:
        before, _, after = text.partition("[data]\n")
        text = "".join([before, '[data]\nkind = "market"\n\n', *after.partition("[policy]\n")[1:]])
    else:
        market.population.table[np.concatenate([train, test])].write_csv(site.folder / TABLE)
        values |= {"data.held_out_share": market.config.data.test_share, "data.source.path": TABLE}
    write_text(site.document, with_values(text, values))
    site.document.chmod(0o600)


def _told(said: str, what: str) -> str:
    """Return the rest of the line in which a command says ``what``."""
    for line in said.splitlines():
        if what in line:
            return line.partition(what)[2].strip()
    raise FederationStopped(f"a command did not say {what.strip()}: {' '.join(said.split())[:200]}")
