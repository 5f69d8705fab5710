"""The relay: light, and whatever is wrong with the party's process is a refusal and no error."""

import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from fedmarket.federation.messages import Refused
from fedmarket.federation.wire import decoded, encoded
from fedmarket.flower import relay
from fedmarket.flower.records import frame_in, framed
from fedmarket.node.question import MAGIC, receive, send

ROOT = Path(__file__).parents[2]
HEADER = struct.Struct(">4sBQ")


@pytest.fixture(autouse=True)
def identified() -> None:
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 0, 0


@pytest.fixture
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="fm-") as made:
        yield Path(made)


@pytest.fixture
def process(folder: Path):
    """Return a setter of what a party's process does with a connection."""
    path, threads = folder / "s", []

    def at(attend) -> Path:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen()

        def once() -> None:
            connection, _ = listener.accept()
            with connection, listener:
                attend(connection)

        threads.append(threading.Thread(target=once))
        threads[0].start()
        return path

    yield at
    for thread in threads:
        thread.join(timeout=10)


def asked(apps, path: object, content: RecordDict | None = None, action: str = "query.join") -> bytes:
    context = Context(
        run_id=1, node_id=1, node_config={"socket": str(path)}, state=RecordDict(), run_config={"config": "/none"}
    )
    reply = apps.client(Message(content or framed(b"asked"), dst_node_id=1, message_type=action), context)
    assert not context.state
    return frame_in(reply.content)


def reason(frame: bytes) -> str:
    return decoded(Refused, frame).reason


def test_action_and_frame_go_through_as_they_are(apps, process):
    heard = []

    def attend(connection: socket.socket) -> None:
        heard.append(receive(connection, largest=100, until=time.monotonic() + 30))
        send(connection, "", b"answered", until=time.monotonic() + 30)

    assert asked(apps, process(attend), action="train.mask") == b"answered"
    assert heard == [("mask", b"asked")]


def test_a_refusal_made_without_the_protocols_code_is_the_same_frame():
    assert relay.refusal_of("because") == encoded(Refused(reason="because"))


@pytest.mark.parametrize("path", ["/none/s", "", "/etc/passwd", "/" + "s" * 200, "s\0s"])
def test_a_party_process_that_is_away_is_a_refusal(apps, path):
    assert reason(asked(apps, path)) == "party process not reachable"


def test_a_killed_processes_socket_is_a_refusal(apps, folder):
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(folder / "s"))
    assert reason(asked(apps, folder / "s")) == "party process not reachable"


def test_a_process_that_is_silent_is_a_refusal(apps, process, monkeypatch):
    monkeypatch.setattr(relay, "LONGEST_WAIT", 0.3)
    path = process(lambda connection: connection.recv(1) and threading.Event().wait(0.6))
    assert reason(asked(apps, path)) == "party process did not answer in time"


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"", "ended before a question or an answer was whole"),
        (b"fmp1", "ended before a question or an answer was whole"),
        (b"HTTP/1.1 200 OK\r\n\r\n", "not a question or an answer"),
        (HEADER.pack(MAGIC, 0, 1 << 40), f"expected a frame of at most {relay.LARGEST_ANSWER} bytes"),
        (HEADER.pack(MAGIC, 1, 1) + b"xy", "expected an answer, got a question"),
    ],
)
def test_what_is_no_answer_is_a_refusal(apps, process, answer, said):
    def attend(connection: socket.socket) -> None:
        receive(connection, largest=100, until=time.monotonic() + 30)
        connection.sendall(answer)

    assert said in reason(asked(apps, process(attend)))


@pytest.mark.parametrize("content", [RecordDict(), RecordDict({"fedmarket": ConfigRecord({"frame": "text"})})])
def test_a_message_without_a_frame_is_refused_before_anything_is_asked(apps, content):
    context = Context(run_id=1, node_id=1, node_config={"socket": "/none"}, state=RecordDict(), run_config={})
    reply = apps.client(Message(content, dst_node_id=1, message_type="query.join"), context)
    assert reason(frame_in(reply.content)) == "expected a message of one frame"


def test_a_relay_loads_nothing_that_trains_reads_or_signs():
    script = (
        "import flwr.app, flwr.clientapp, sys, time\n"
        "before, began = set(sys.modules), time.process_time()\n"
        "import clients.app, fedmarket.flower.relay\n"
        "print(time.process_time() - began, *sorted(set(sys.modules) - before))"
    )
    ran = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    seconds, *loaded = ran.stdout.split()
    assert float(seconds) < 1
    assert "fedmarket.node.question" in loaded
    heavy = ("torch", "scipy", "polars", "pydantic", "fedmarket.data", "fedmarket.training", "fedmarket.ledger")
    held = (
        "fedmarket.federation.party",
        "fedmarket.federation.identity",
        "fedmarket.experiment",
        "fedmarket.node.desk",
    )
    assert not [name for name in loaded if name.startswith((*heavy, *held))]
