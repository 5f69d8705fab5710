"""The door: who may come in, how much, for how long; whatever comes, the process goes on and does not grow."""

import os
import signal
import socket
import struct
import threading
import time
import tracemalloc
from contextlib import suppress
from pathlib import Path

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedmarket.errors import UsageError
from fedmarket.federation.messages import Invitation, Refused
from fedmarket.federation.wire import decoded, encoded
from fedmarket.node import serve as serving
from fedmarket.node.question import MAGIC, ask
from fedmarket.node.serve import Callers, callers_of, listening, need_safe_folder
from fedmarket.node.settings import SocketSection

NOBODY = 65534
HELD = ("ledger.jsonl", "salt")
OWN = Callers(users=frozenset({os.geteuid()}), group=None)
HEADER = struct.Struct(">4sBQ")
INVITATION = encoded(Invitation(run=bytes(16), terms_hash="0", roster_hash=""))


def said(path: Path, action: str = "join", frame: bytes = INVITATION) -> str:
    return decoded(Refused, ask(path, action, frame, largest=1 << 20, seconds=30.0)).reason


def sent(path: Path, content: bytes, *, hang_up: bool = True) -> bytes:
    """Return all that comes back for raw bytes."""
    back = b""
    with socket.socket(socket.AF_UNIX) as connection, suppress(OSError):  # it may be ended before all is said
        connection.settimeout(30.0)
        connection.connect(str(path))
        with suppress(BrokenPipeError):
            connection.sendall(content)
        if hang_up:
            connection.shutdown(socket.SHUT_WR)
        while piece := connection.recv(65536):
            back += piece
    return back


def reason_in(answer: bytes) -> str:
    return msgpack.unpackb(answer[HEADER.size :])["reason"]


@pytest.fixture
def door(nodes, served):
    with served(nodes, 0, question_seconds=1.0) as door:
        yield door


@pytest.fixture
def path(nodes, door) -> Path:
    return nodes.socket(0)


def alive(path: Path) -> bool:
    return said(path).startswith("terms differ: ")


def test_a_question_is_answered_by_the_party(path):
    assert said(path).startswith("terms differ: the coordinator holds 0, this party ")
    assert said(path, "unmask") == "requests: missing"


def test_the_socket_is_the_owners_alone_and_goes_with_the_process(short_folder):
    path = short_folder / "s"
    with listening(path, OWN):
        assert path.stat().st_mode & 0o777 == 0o600
    assert not path.exists()


def test_a_group_may_be_let_in(short_folder):
    path = short_folder / "s"
    with listening(path, Callers(users=OWN.users, group=os.getegid())):
        assert path.stat().st_mode & 0o777 == 0o660


def test_what_a_killed_process_left_is_taken_away_and_a_living_one_is_not(short_folder):
    path = short_folder / "s"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    with listening(path, OWN), pytest.raises(UsageError, match="another process answers there"), listening(path, OWN):
        pass
    path.write_text("mine", encoding="utf-8")
    with pytest.raises(UsageError, match="something else than a socket"), listening(path, OWN):
        pass
    assert path.read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777, 0o1777])
def test_a_folder_where_others_write_is_refused(short_folder, mode):
    (short_folder / "open").mkdir()
    (short_folder / "open").chmod(mode)
    with pytest.raises(UsageError, match="others can write there"):
        need_safe_folder(short_folder / "open" / "s")


def test_a_path_that_no_socket_can_have_is_refused(short_folder):
    with pytest.raises(UsageError, match="at most 107 bytes"):
        need_safe_folder(short_folder / ("s" * 120))


def test_users_and_groups_that_do_not_exist_are_named():
    with pytest.raises(UsageError, match="nobody-of-the-name"):
        callers_of(SocketSection(path="s", group="daemon", users=("nobody-of-the-name",)))
    assert callers_of(SocketSection(path="s", group="daemon", users=("nobody",))).users == {os.geteuid(), NOBODY}


def as_nobody(action) -> int:
    """Return how a child ends that acts as another user: 0 if it could."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            action()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_cannot_connect_and_is_turned_away_if_the_socket_is_opened(nodes, door, path):
    def connect() -> None:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(path))

    def be_answered() -> None:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5.0)
            connection.connect(str(path))
            connection.sendall(HEADER.pack(MAGIC, 4, len(INVITATION)) + b"join" + INVITATION)
            assert connection.recv(1)

    nodes.folder.chmod(0o711)
    assert as_nobody(connect) == 1
    path.chmod(0o666)  # even where somebody opened it by mistake
    assert as_nobody(connect) == 0
    assert as_nobody(be_answered) == 1
    assert alive(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_relay_of_another_user_is_answered_and_can_read_nothing_of_the_node(nodes, served):
    nodes.change(0, 'path = "00.sock"', 'path = "00.sock"\ngroup = "nogroup"\nusers = ["nobody"]')
    nodes.folder.chmod(0o711)
    path, held = nodes.socket(0), [nodes.folder / "00.pem", *(nodes.books(0) / name for name in HELD)]
    with served(nodes, 0):
        assert path.stat().st_mode & 0o777 == 0o660
        assert all(one.exists() for one in held)

        def relay() -> None:
            assert said(path).startswith("terms differ: ")
            for one in held:
                with pytest.raises(PermissionError):
                    one.read_bytes()

        assert as_nobody(relay) == 0


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n", "not a question"),
        (HEADER.pack(MAGIC, 17, 0), "not a question"),
        (HEADER.pack(MAGIC, 4, 1 << 62) + b"join", "expected a frame of at most"),
        (HEADER.pack(MAGIC, 4, 100) + b"join" + b"x", "ended before"),
        (HEADER.pack(MAGIC, 4, 3) + "jöi".encode() + b"xyz", "not a question"),
        (HEADER.pack(MAGIC, 4, 1) + b"join" + b"xx", "one question for a connection"),
        (HEADER.pack(MAGIC, 4, 3) + b"join" + b"xyz", "not a frame of this protocol"),
        (HEADER.pack(MAGIC, 0, 0), "not a frame of this protocol"),
    ],
)
def test_what_is_no_question_gets_a_refusal(path, content, reason):
    # Nobody who hung up is answered, so what is whole or too long must wait.
    answer = sent(path, content, hang_up=reason == "ended before")
    assert reason in reason_in(answer)
    assert alive(path)


def test_what_trickles_is_ended(path):
    began = time.monotonic()
    with socket.socket(socket.AF_UNIX) as connection, suppress(OSError):
        connection.connect(str(path))
        for byte in HEADER.pack(MAGIC, 4, 10_000) + b"join" + bytes(10_000):
            connection.sendall(bytes([byte]))
            time.sleep(0.05)
    assert time.monotonic() - began < 8
    assert alive(path)


def test_more_connections_than_are_served_wait_and_are_served(path):
    """All places are taken by silent ones; who comes later gets an answer when their time is over."""
    silent = [socket.socket(socket.AF_UNIX) for _ in range(2 * serving.MOST_CONNECTIONS)]
    for connection in silent:
        connection.connect(str(path))
    threads = threading.active_count()
    assert alive(path)
    assert threads < 3 * serving.MOST_CONNECTIONS
    for connection in silent:
        connection.close()


def test_nothing_is_done_for_who_hung_up(door, path, monkeypatch, caplog):
    asked = []
    monkeypatch.setattr(type(door.desk), "_answered", lambda *_: asked.append(1) or b"")
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        with door.desk._one:
            connection.sendall(HEADER.pack(MAGIC, 4, len(INVITATION)) + b"join" + INVITATION)
            time.sleep(0.1)
            connection.close()
    time.sleep(0.2)
    assert not asked


RAW = st.one_of(
    st.binary(max_size=200),
    st.tuples(
        st.sampled_from([MAGIC, b"fmp2"]), st.integers(0, 255), st.integers(0, 2**64 - 1), st.binary(max_size=200)
    ).map(lambda drawn: HEADER.pack(*drawn[:3]) + drawn[3]),
    st.tuples(st.sampled_from(["join", "close", "sum", "mask", "x"]), st.binary(max_size=300)).map(
        lambda drawn: HEADER.pack(MAGIC, len(drawn[0]), len(drawn[1])) + drawn[0].encode() + drawn[1]
    ),
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=RAW, hang_up=st.booleans())
def test_any_bytes_leave_the_process_answering(path, content, hang_up):
    if not hang_up and len(content) >= HEADER.size:  # else it would wait for the clock each time
        sent(path, content, hang_up=HEADER.unpack(content[: HEADER.size])[2] > len(content))
    else:
        sent(path, content)
    assert alive(path)


def test_memory_stays_flat_whatever_comes(path, door):
    """Large frames that claim to be more than they are: each is let go with its connection."""
    largest = door.desk.largest_question
    heaviest = HEADER.pack(MAGIC, 4, largest) + b"join" + b"\xdd" + struct.pack(">I", largest - 5) + bytes(largest - 5)

    def bother() -> None:
        for _ in range(10):
            sent(path, heaviest, hang_up=False)
            sent(path, HEADER.pack(MAGIC, 4, largest + 1) + b"join" + bytes(1000))
            sent(path, HEADER.pack(MAGIC, 4, largest) + b"join")

    bother()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        bother()
        assert tracemalloc.get_traced_memory()[0] - before < 200_000
    finally:
        tracemalloc.stop()
    assert alive(path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_process_in_order_and_a_process_stays_flat(nodes, process_of, number):
    process, path = process_of(nodes, 0), nodes.socket(0)
    process.wait()
    junk = HEADER.pack(MAGIC, 4, 1 << 20) + b"join" + b"\x93" * (1 << 20)
    for _ in range(5):
        sent(path, junk, hang_up=False)
    before = process.memory
    for _ in range(40):
        sent(path, junk, hang_up=False)
    assert alive(path)
    assert process.memory < 1.1 * before
    process.running.send_signal(number)
    assert process.running.wait(timeout=60) == 0
    assert not path.exists()
    log = process.log.read_text(encoding="utf-8")
    assert "Traceback" not in log
    assert "join -: refused: not a frame of this protocol" in log
    assert log.rstrip().endswith("stopped")
    assert process.running.returncode == 0
