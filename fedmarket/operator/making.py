"""A new operator's folder; see :mod:`fedmarket.operator.settings` for what is in it."""

import json
import re
import secrets
from pathlib import Path

from fedmarket.errors import BadMessage, UsageError
from fedmarket.federation.identity import load_identity, new_identity, save_identity
from fedmarket.files import write_new
from fedmarket.ledger.note import VerifierKey
from fedmarket.operator.certificates import PUBLIC, write_authority, write_node_key
from fedmarket.operator.settings import FORMAT, SETTINGS_FILE, Home, load_home

SECRET_BYTES = 32

_TEMPLATE = """\
format = "{format}"

[server]
# Names in the certificate; partners' SuperNodes connect to one of them at fleet_port, where the proxy listens.
hosts = {hosts}
fleet_port = {fleet_port}
# Of the SuperLink itself: on loopback only.
port = {port}

[log]
# Under this name, with the key of log.pem, the log of the parties' ledgers is signed. Partners and auditors hold both.
name = {log_name}

[runs]
# The checkout whose pyproject.toml names server/app.py and clients/app.py.
app = {app}
# How long a run waits for the SuperNodes of all members.
node_wait_seconds = 180.0
"""


def make_home(
    folder: Path, *, hosts: list[str], nodes: list[str], log_name: str, app: Path, port: int, fleet_port: int
) -> Home:
    """Make the folder with everything in it, and return it.

    Args:
        folder: where; anything that is there stays as it is.
        hosts: names and addresses under which partners reach the server.
        nodes: SuperNodes of a test consortium, whose private keys are made here too.
        log_name: name of the log.
        app: folder of the project whose apps are shipped.
        port: of the SuperLink, on loopback.
        fleet_port: of the proxy.

    Raises:
        UsageError: if something is there already, or a name cannot be used.
    """
    for node in nodes:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", node):
            raise UsageError(f"--node {node!r}: expected letters, digits, dots, dashes and underscores")
    _need_log_name(log_name)
    if (folder / SETTINGS_FILE).exists():
        raise UsageError(f"{folder / SETTINGS_FILE}: exists already; nothing is overwritten")
    for inside in (".", "tls", "secrets", "nodes"):
        (folder / inside).mkdir(parents=True, exist_ok=True, mode=0o700)
    write_authority(folder / "tls", hosts)
    for name in ("control.token", "superexec.secret"):
        write_new(folder / "secrets" / name, secrets.token_urlsafe(SECRET_BYTES).encode())
    save_identity(new_identity(), folder / "log.pem")
    for node in nodes:
        write_node_key(folder / "nodes", node)
    settings = _TEMPLATE.format(
        format=FORMAT,
        hosts=json.dumps(hosts),
        fleet_port=fleet_port,
        port=port,
        log_name=json.dumps(log_name),
        app=json.dumps(str(app.resolve())),
    )
    write_new(folder / SETTINGS_FILE, settings.encode(), mode=PUBLIC)
    return load_home(folder / SETTINGS_FILE)


def log_key_of(home: Home) -> VerifierKey:
    """Return the key with which the log is checked, for partners and auditors."""
    return VerifierKey(name=home.settings.log.name, public_key=load_identity(home.folder / "log.pem").public_key)


def _need_log_name(name: str) -> None:
    try:
        VerifierKey(name=name, public_key=new_identity().public_key)
    except BadMessage as error:
        raise UsageError(f"--log-name {name!r}: {error}") from None
