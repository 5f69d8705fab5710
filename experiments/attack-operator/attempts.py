"""What the shipped code tries at a node: each attempt with the refusal that is expected, and no other will do."""

import os
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from frames import Operator, Round
from tried import Tried, tried

from fedmarket.federation.identity import new_identity
from fedmarket.federation.roster import Member, new_roster

HEADER = struct.Struct(">4sBQ")
DENIED = "Permission denied|Operation not permitted"


def honest_round(operator: Operator, when: str) -> Tried:
    """Do everything right: if that did not work, no refusal would mean anything."""
    what = f"an honest round {when}"
    try:
        found = operator.round_at("unmask")
        found.go_on("unmask")
        return Tried(what, f"the sum of {len(found.sum.total())} numbers", True, True)
    except Exception as error:
        return Tried(what, f"{type(error).__name__}: {error}", False, True)


def on_the_machine(node: Path, pid: int, uid: int, listed: dict[str, str]) -> Iterator[Tried]:
    """Try what another user of the system may try: files, the process, the socket's place.

    Args:
        node: the party's folder.
        pid: of its process.
        uid: of its user.
        listed: its files, by what they are.
    """
    for what, path in listed.items():
        yield tried(f"read the {what}", DENIED, Path(path).read_bytes)
        yield tried(f"append to the {what}", DENIED, lambda path=path: os.open(path, os.O_WRONLY | os.O_APPEND))
    yield tried("list the party's folder", DENIED, lambda: os.listdir(node))
    yield tried("write a file into it", DENIED, lambda: (node / "mine").write_bytes(b"x"))
    path = node / "run" / "party.sock"
    yield tried("put a socket of its own in the place of the party's", DENIED, path.unlink)
    for what, act in {
        "read the process's memory": lambda: os.open(f"/proc/{pid}/mem", os.O_RDONLY),
        "read its environment": lambda: Path(f"/proc/{pid}/environ").read_bytes(),
        "list its open files": lambda: os.listdir(f"/proc/{pid}/fd"),
        "kill it": lambda: os.kill(pid, signal.SIGKILL),
        "stop it": lambda: os.kill(pid, signal.SIGSTOP),
        "become its user": lambda: os.setuid(uid),
        "become root": lambda: os.setuid(0),
    }.items():
        yield tried(what, DENIED, act)


def about_terms(operator: Operator) -> Iterator[Tried]:
    """Try to have the victim join something else than was agreed."""
    for what, change in {
        "epsilon 8": "privacy.epsilon=8.0",
        "sums in the open": "aggregation.secagg=ideal",
        "noise that is not shared": "privacy.noise=local",
        "less clipping": "privacy.clip_norm=100.0",
        "noise from a seed": "privacy.generator=seeded-for-tests",
    }.items():
        other = operator.terms_with(change).hash
        yield tried(f"invite under terms with {what}", "terms differ", partial(operator.invite, terms_hash=other))
    made_up = new_roster(
        [Member(name=name, public_key=new_identity().public_key) for name in operator.roster.names], minimum_survivors=3
    )
    for what, hash_ in (("a roster of his own", made_up.hash.hex()), ("no roster", "")):
        yield tried(f"invite under {what}", "rosters differ", partial(operator.invite, roster_hash=hash_))
    yield tried("a run whose name is a path", "16 bytes", lambda: operator.invite(run=b"../../../../tmp/x"))


Deviation = tuple[str, str, str, Callable[[Round], dict[str, Any]]]
"""What it is, what is expected of the refusal, until which step all is honest, and what is changed in that one."""


def _moved(by: float) -> Callable[[Round], dict[str, Any]]:
    def changed(found: Round) -> dict[str, Any]:
        model = found.operator.model
        return {"model": replace(model, parameters=model.parameters + by)}

    return changed


FEW = "expected at least 3 parties"
AGAIN = {"packet": b""}
DEVIATIONS: tuple[Deviation, ...] = (
    ("ask for the sum itself", "expected one of advertise", "advertise", lambda _: {"step": "sum"}),
    ("ask for another phase than is due", "expected phase", "advertise", lambda _: {"phase": "evaluate"}),
    ("ask for a round beyond the plan", "is not open", "advertise", lambda f: {"round_number": f.beyond}),
    ("ask for a round that is over", "is not open", "advertise", lambda _: {"round_number": 0}),
    ("ask for the masked sum first", "share is due", "share", lambda f: {"step": "mask", "model": f.operator.model}),
    ("show two parties' keys", FEW, "share", lambda f: {"packet": f.without_last("share", keep=2)}),
    ("show keys of sybils", "the signature is not", "share", lambda f: {"packet": f.sybils()}),
    ("show shares of one other", FEW, "mask", lambda f: {"packet": f.without_last("mask", keep=1)}),
    ("show shares of another round", "do not open", "mask", lambda f: {"packet": f.stale("mask")}),
    ("send a model of huge numbers", "expected finite numbers", "mask", _moved(1e300)),
    ("show no log", "expected a checkpoint, got none", "mask", lambda _: {"shown": None}),
    ("show a log without the reservation", "the reservation is not in it", "mask", lambda f: {"shown": f.shown_before}),
    ("name two survivors", FEW, "consent", lambda f: {"packet": f.sets((0, 1), (2, 3))}),
    ("name it as dropped", "lists this party as dropped", "consent", lambda f: {"packet": f.sets((1, 2, 3), (0,))}),
    ("name one as both", "both as survivor", "consent", lambda f: {"packet": f.sets((0, 1, 2, 3), (3,))}),
    ("show others' consent to another set", "was shown other survivors", "unmask", lambda f: {"packet": f.two_sets()}),
    ("show two consents", "expected 3 signatures", "unmask", lambda f: {"packet": f.without_last("unmask", keep=2)}),
    ("show others another model", "is for another run, round", "unmask", lambda f: {"packet": f.of_another_model()}),
    ("show consents of another round", "is for another run, round", "unmask", lambda f: {"packet": f.stale("unmask")}),
)
TWICE = (
    ("ask for keys twice in a round", "is not open", "advertise", lambda _: AGAIN),
    ("ask for the masked sum twice", "consent is due", "mask", lambda _: AGAIN),
    ("have it consent to two sets", "unmask is due", "consent", lambda f: {"packet": f.sets((0, 1, 2), (3,))}),
    ("ask for shares twice", "is not in it", "unmask", lambda _: AGAIN),
)
"""The same, after that step was answered once."""


def about_masks(operator: Operator) -> Iterator[Tried]:
    """Try to see one update: a round for each attempt, honest up to the step where it is not."""

    def act(step: str, changed: Callable[[Round], dict[str, Any]], *, once: bool) -> bytes:
        found = operator.round_at(step)
        if not once:
            found.go_on(step)
        return found.ask(step, **changed(found)).content[:20]

    for once, deviations in ((True, DEVIATIONS), (False, TWICE)):
        for what, expected, step, changed in deviations:
            yield tried(what, expected, partial(act, step, changed, once=once))


def about_the_log(operator: Operator) -> Iterator[Tried]:
    """Try to show another log than before; the victim keeps the proof, and nothing gets through any more."""

    def show(**changed: Any) -> object:
        return operator.round_at("mask").ask("mask", **changed).content[:20]

    yield tried("show a fork of the log", "inconsistent", lambda: show(shown=operator.fork()))
    yield tried("show the true log after that", "contradicted itself", show)


def about_budget(operator: Operator, most_rounds: int) -> Iterator[Tried]:
    """Try to get more than was agreed: another run, and round after round."""
    other = partial(operator.invite, run=bytes(16))
    yield tried("invite to a second run beside the first", "would bring epsilon", other)

    def on_and_on() -> int:
        for _ in range(most_rounds + 1):
            operator.round_at("share")
        return len(operator.rounds)

    yield tried(f"more than {most_rounds} rounds a day", "policy:rounds-a-day", on_and_on)


def junk(largest: int) -> Iterator[tuple[str, bytes]]:
    """Give bytes that might end a process or fill its memory, and what they are."""
    yield "an announced gigabyte", HEADER.pack(b"fmp1", 4, 1 << 30) + b"join"
    yield "an announced 2^63 bytes", HEADER.pack(b"fmp1", 4, 1 << 63) + b"join"
    for what, content in {
        "a map of a million maps": b"\xdf\x00\x10\x00\x00" + b"\x80" * (largest - 5),
        "lists a million deep": b"\x91" * largest,
        "a list of a million numbers": b"\xdd" + struct.pack(">I", largest - 5) + b"\x00" * (largest - 5),
        "zeros": bytes(largest),
    }.items():
        yield what, HEADER.pack(b"fmp1", 4, largest) + b"join" + content


def about_life(operator: Operator, largest: int) -> Iterator[Tried]:
    """Try to end the process, or to fill its memory; whether it grew is for who started it to say."""
    for what, content in junk(largest):
        for _ in range(20):
            with socket.socket(socket.AF_UNIX) as connection, suppress(OSError):
                connection.settimeout(60.0)
                connection.connect(str(operator.victim))
                connection.sendall(content)
                connection.recv(1000)
        yield tried(f"end it with {what}", "terms differ", lambda: operator.invite(terms_hash="0"))
    many = []
    for _ in range(200):
        with suppress(BlockingIOError):
            many.append(socket.socket(socket.AF_UNIX))
            many[-1].setblocking(False)
            many[-1].connect(str(operator.victim))
    time.sleep(0.2)
    for connection in many:
        connection.close()
    yield tried("end it with 200 connections", "terms differ", lambda: operator.invite(terms_hash="0"))
