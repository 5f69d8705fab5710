"""A party process under a flood: its resident memory, files and threads, measured while strangers do their worst."""

import runpy
import socket
import struct
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import pytest

from fedmarket.node import serve as serving
from fedmarket.node.desk import ROOM_FOR_THE_REST
from fedmarket.node.question import LONGEST_ACTION, MAGIC, ask, receive

HEADER = struct.Struct(">4sBQ")
ROOT = Path(__file__).parents[2]
PARTIES = runpy.run_path(str(Path(__file__).with_name("parties.py")))
SAMPLE = runpy.run_path(str(ROOT / "benchmarks" / "growth.py"))["Sample"]
MEGABYTE = 1 << 20


@pytest.fixture(scope="module")
def flooded(write_market, installed) -> Iterator[tuple[Any, Any]]:
    """One party process for all floods, after what is loaded or allocated once."""
    with tempfile.TemporaryDirectory(prefix="fm-") as made:
        nodes = PARTIES["nodes_of"](write_market(Path(made) / "market"), Path(made))
        process = PARTIES["Process"](nodes.document(0), nodes.socket(0), nodes.folder / "00.log", installed)
        process.start()
        try:
            process.wait()
            for _ in range(20):
                assert alive(nodes.socket(0))
            time.sleep(0.5)
            yield nodes, process
        finally:
            process.running.kill()
            process.running.wait()


def alive(path: Path) -> bool:
    return b"not a frame" in ask(path, "join", b"junk", largest=1 << 20, seconds=120.0)


def held(process):
    return SAMPLE.of(process.running.pid, 0)


def lets_go(process, before) -> bool:
    """Whether it has no more files and threads than before; if not, a moment later it may have let go."""
    after = held(process)
    time.sleep(0.05)
    return after.files <= before.files and after.threads <= before.threads


class Peak:
    """The most that a process holds while something is done to it."""

    def __init__(self, process) -> None:
        self.process, self.most, self.done = process, 0, threading.Event()
        self.thread = threading.Thread(target=self.watch)

    def watch(self) -> None:
        while not self.done.wait(0.005):
            self.most = max(self.most, held(self.process).resident)

    def __enter__(self) -> "Peak":
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.thread.join()


def test_what_is_announced_is_not_allocated(flooded):
    """A gigabyte, and the most that is a question at all: neither costs anything before it comes."""
    nodes, process = flooded
    path, before = nodes.socket(0), held(process)
    with Peak(process) as peak:
        for _ in range(100):
            with socket.socket(socket.AF_UNIX) as connection:
                connection.connect(str(path))
                connection.sendall(HEADER.pack(MAGIC, 4, 1 << 30) + b"join")
                _, answer = receive(connection, largest=1000, until=time.monotonic() + 60)
                assert b"expected a frame of at most" in answer
        for _ in range(100):
            with socket.socket(socket.AF_UNIX) as connection, suppress(OSError):
                connection.connect(str(path))
                connection.sendall(HEADER.pack(MAGIC, 4, ROOM_FOR_THE_REST) + b"join" + bytes(100))
    assert alive(path)
    assert peak.most < before.resident + 5 * MEGABYTE


def test_hundreds_of_connections_cost_a_few_threads(flooded):
    """Most wait at the operating system, or are not let in at all; those that are let in are ended by the clock."""
    nodes, process = flooded
    path, before, turned_away = nodes.socket(0), held(process), 0
    with Peak(process) as peak, ExitStack() as ending:
        for number in range(400):
            connection = ending.enter_context(socket.socket(socket.AF_UNIX))
            connection.setblocking(False)
            try:
                connection.connect(str(path))
                connection.sendall(HEADER.pack(MAGIC, 4, 1000)[: number % HEADER.size])
            except BlockingIOError:
                turned_away += 1
        time.sleep(0.5)
        during = held(process)
        assert during.threads <= before.threads + serving.MOST_CONNECTIONS
        assert during.files <= before.files + serving.MOST_CONNECTIONS
    assert turned_away > 200
    assert alive(path)
    assert peak.most < before.resident + 10 * MEGABYTE
    assert any(lets_go(process, before) for _ in range(100))


def test_the_largest_questions_from_all_sides_cost_a_bounded_amount_once(flooded):
    """Each as large as may be and packed so that it takes most to read; a second flood costs no more than one."""
    nodes, process = flooded
    with closing(nodes.desk(1)) as desk:  # all have the same terms
        largest = desk.largest_question
    packed = b"\xdd" + struct.pack(">I", largest - 5) + bytes(largest - 5)
    path, before = nodes.socket(0), held(process)

    def flood() -> None:
        for _ in range(10):
            with socket.socket(socket.AF_UNIX) as connection, suppress(OSError):
                connection.connect(str(path))
                connection.sendall(HEADER.pack(MAGIC, 4, largest) + b"join" + packed)
                connection.recv(1000)

    def most() -> int:
        with Peak(process) as peak:
            threads = [threading.Thread(target=flood) for _ in range(2 * serving.MOST_CONNECTIONS)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        return peak.most

    first = most()
    assert first < before.resident + 10 * serving.MOST_CONNECTIONS * largest
    assert most() < first + largest * serving.MOST_CONNECTIONS
    assert alive(path)


def test_who_trickles_does_not_keep_others_out_for_longer_than_the_clock(nodes, served):
    """All places are taken by those who send a byte at a time; an honest question is answered when their time is up."""
    path, stopped = nodes.socket(0), threading.Event()
    content = HEADER.pack(MAGIC, LONGEST_ACTION, 1000) + b"x" * 500

    def trickle() -> None:
        with socket.socket(socket.AF_UNIX) as connection, suppress(OSError):
            connection.connect(str(path))
            for byte in content:
                connection.sendall(bytes([byte]))
                if stopped.wait(0.05):
                    return

    with served(nodes, 0, question_seconds=1.0):
        threads = [threading.Thread(target=trickle) for _ in range(serving.MOST_CONNECTIONS)]
        for thread in threads:
            thread.start()
        time.sleep(0.2)
        began = time.monotonic()
        assert alive(path)
        assert time.monotonic() - began < 5
        stopped.set()
        for thread in threads:
            thread.join()
