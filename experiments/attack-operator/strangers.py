"""Somebody on the network who has no token of the operator's, against the real SuperLink with its real flags."""

import socket
import ssl
from functools import partial
from pathlib import Path

import httpx
from tried import Tried, tried

from fedmarket.files import write_new
from fedmarket.flower.control import Control
from fedmarket.operator.certificates import write_node_key
from fedmarket.operator.making import make_home
from fedmarket.operator.superlink import start, stop

REFUSED = "(?i)authentication|401|unauthorized"


def strangers(folder: Path, app: Path) -> list[Tried]:
    """Start a SuperLink in ``folder`` and try what needs the token, without it and with another; stop it again."""
    home = make_home(
        folder / "server",
        hosts=["localhost"],
        nodes=[],
        log_name="attack.example/log",
        app=app,
        port=_free_port(),
        fleet_port=_free_port(),
    )
    stranger = folder / "stranger"
    stranger.mkdir()
    write_new(stranger / "token", b"x" * 43)
    write_node_key(stranger, "node")
    try:
        start(home)
        with Control.of(home.address, ca=home.ca, token=stranger / "token") as control:
            found = [
                tried("start a run with another token", REFUSED, partial(control.start, app, {})),
                tried("stop a run with another token", REFUSED, partial(control.stop, 1)),
                tried("register a node with another token", REFUSED, partial(control.register, stranger / "node.pub")),
                tried("list nodes with another token", REFUSED, control.healthy),
            ]
        url = f"https://{home.address}/v1/control/start-run"
        found.append(tried("start a run without a token", REFUSED, partial(_posted, url, str(home.ca))))
        plain = url.replace("https", "http")
        found.append(tried("start a run without TLS", "HTTPError|disconnected|RemoteProtocol", partial(_posted, plain)))
    finally:
        stop(home)
    return found


def _posted(url: str, ca: str | None = None) -> None:
    verify = ssl.create_default_context(cafile=ca) if ca else True
    try:
        answer = httpx.post(url, content=b"", verify=verify, timeout=20.0)
    except httpx.HTTPError as error:
        raise ConnectionError(f"{type(error).__name__}: {error}") from None
    if answer.status_code >= httpx.codes.BAD_REQUEST:
        raise ConnectionError(f"{answer.status_code}: {answer.text[:60]}")


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
