"""The files for service managers and the proxy, held by the programs that read them; without those they are skipped."""

import re
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from fedmarket.loopback.processes import free_ports

Door = tuple[int, ssl.SSLContext]
ROOT = Path(__file__).parents[2]
UNITS = sorted([*(ROOT / "server").glob("*.service"), *(ROOT / "clients").glob("*.service")])
NGINX, ANALYZE = shutil.which("nginx", path="/usr/sbin:/usr/bin:/sbin:/bin"), shutil.which("systemd-analyze")


@pytest.mark.skipif(ANALYZE is None, reason="needs systemd-analyze")
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_a_unit_has_nothing_that_systemd_does_not_know(unit: Path, tmp_path: Path):
    text = re.sub(r"ExecStart=/opt/fedmarket/bin/\S+", f"ExecStart={sys.executable}", unit.read_text(encoding="utf-8"))
    for other in UNITS:
        shutil.copy(other, tmp_path / other.name)
    (tmp_path / unit.name).write_text(text, encoding="utf-8")
    ran = subprocess.run(
        [ANALYZE, "verify", tmp_path / unit.name], capture_output=True, text=True, timeout=60, check=False
    )
    about = [line for line in ran.stderr.splitlines() if unit.name in line]
    assert about == []


class Behind(BaseHTTPRequestHandler):
    """A SuperLink that says what came through."""

    def do_POST(self) -> None:
        size = int(self.headers.get("Content-Length", "0"))
        self.rfile.read(size)
        answer = f"{self.path} {size}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    do_GET = do_POST  # noqa: N815
    do_PUT = do_POST  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def door(make, tmp_path: Path) -> Iterator[Door]:
    """Start nginx with the project's file before a stand-in for the SuperLink; give its port and a partner's trust."""
    home = make(hosts=("localhost",))
    tls = home.folder / "tls"
    (outside,) = free_ports(1)
    behind = ThreadingHTTPServer(("127.0.0.1", 0), Behind)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tls / "server.pem", tls / "server.key")
    behind.socket = context.wrap_socket(behind.socket, server_side=True)
    threading.Thread(target=behind.serve_forever, daemon=True).start()
    conf = (ROOT / "server" / "proxy.conf").read_text(encoding="utf-8")
    for old, new in (
        ("listen 8443 ssl", f"listen 127.0.0.1:{outside} ssl"),
        ("federation.example.org", "localhost"),
        ("/etc/fedmarket-server", str(home.folder)),
        ("127.0.0.1:9443", f"127.0.0.1:{behind.server_port}"),
    ):
        assert old in conf
        conf = conf.replace(old, new)
    folder = tmp_path / "nginx"
    folder.mkdir()
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = "\n".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
    (folder / "proxy.conf").write_text(conf, encoding="utf-8")
    (folder / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log;\n"
        f"events {{}}\nhttp {{ access_log off; {paths}\ninclude {folder}/proxy.conf; }}\n",
        encoding="utf-8",
    )
    command = [NGINX, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]
    checked = subprocess.run([*command, "-t"], capture_output=True, text=True, timeout=30, check=False)
    assert checked.returncode == 0, checked.stderr
    nginx = subprocess.Popen(command)
    try:
        wait_for(outside)
        yield outside, ssl.create_default_context(cafile=str(home.ca))
    finally:
        nginx.terminate()
        nginx.wait(10)
        behind.shutdown()
        behind.server_close()


def wait_for(port: int) -> None:
    until = time.monotonic() + 20
    while time.monotonic() < until:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError("nginx does not listen")


def asked(door: Door, path: str, *, method: str = "POST", content: bytes = b"") -> tuple[int, str]:
    port, trust = door
    request = urllib.request.Request(f"https://localhost:{port}{path}", data=content, method=method)
    try:
        with urllib.request.urlopen(request, context=trust, timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, ""


@pytest.mark.skipif(NGINX is None, reason="needs nginx")
def test_the_proxy_lets_the_fleet_interface_through_and_nothing_else(door):
    assert asked(door, "/v1/fleet/pull-messages", content=b"12345") == (200, "/v1/fleet/pull-messages 5")
    for path in ("/v1/control/start-run", "/v1/runtime/pull", "/health", "/docs", "/", "/v1/fleets/x"):
        assert asked(door, path)[0] == 404, path
    for path in ("/v1/fleet/../control/start-run", "/v1/fleet/%2e%2e/control/start-run", "//v1/control/start-run"):
        assert asked(door, path)[0] == 404, path
    for method in ("GET", "PUT"):
        assert asked(door, "/v1/fleet/pull-messages", method=method)[0] == 403


@pytest.mark.skipif(NGINX is None, reason="needs nginx")
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
def test_the_proxy_takes_no_message_that_is_larger_than_any_and_no_old_tls(door):
    port, trust = door
    plain = socket.create_connection(("127.0.0.1", port))
    with trust.wrap_socket(plain, server_hostname="localhost") as connection:
        connection.sendall(b"POST /v1/fleet/x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 67108865\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 413")
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.set_ciphers("DEFAULT:@SECLEVEL=0")
    old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    with socket.create_connection(("127.0.0.1", port)) as plain, pytest.raises((ssl.SSLError, OSError)):
        old.wrap_socket(plain, server_hostname="localhost")
