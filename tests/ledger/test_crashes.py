"""A party that is killed while it appends: everything it was told had been appended is there, and it goes on.

``LEDGER_CRASHES=200 pytest tests/ledger/test_crashes.py`` kills more often.
"""

import multiprocessing
import os
import random
import time

import pytest

from fedmarket.ledger import lines as lines_module
from fedmarket.ledger.replay import replay
from fedmarket.ledger.store import Ledger

CRASHES = int(os.environ.get("LEDGER_CRASHES", "50"))
RELEASES = 10**6


def appending(folder, identity, statements, told, *, in_pieces):
    """Append without end and tell the number of entries after each append; in pieces, a line is long under way."""
    if in_pieces:

        def slow(handle, content):
            for start in range(0, len(content), 200):
                os.write(handle, content[start : start + 200])
                time.sleep(0.002)

        lines_module._write = slow
    ledger = Ledger.open(folder, identity, party="Alpha Bank")
    told.send(ledger.state.size)
    for kind, changed in statements(ledger.state):
        ledger.append(kind(**changed))
        told.send(ledger.state.size)


@pytest.fixture
def endless(say, known):
    """Reservations with rising rounds, each with its outcome."""
    joined = say("joined", plan=known.plan(known.mechanism(releases=RELEASES)))

    def statements(state):
        if not state.size:
            yield (lambda: say("opened")), {}
        if not state.runs:
            yield (lambda: joined), {}
        number = max((found.round for found in state.reservations.values()), default=-1)
        while True:
            number += 1
            yield (lambda **changed: say("reserved", **changed)), {"round": number}
            yield (lambda **changed: say("committed", **changed)), {"round": number}

    return statements


def last_told(told):
    """Return the last number that came whole through the pipe; the writer is dead."""
    number = -1
    while told.poll():
        try:
            number = told.recv()
        except (EOFError, OSError):
            break
    return number


def test_a_killed_party_has_every_entry_it_was_told_of_and_goes_on(tmp_path, endless, known, say):
    process = multiprocessing.get_context("fork")
    luck = random.Random(7)
    torn = size = entries = 0
    for crash in range(CRASHES):
        if crash % 10 == 0:  # a ledger of its own for ten crashes: opening one replays all of it
            folder, size = tmp_path / f"{crash}", 0
        told, teller = process.Pipe(duplex=False)
        child = process.Process(
            target=appending, args=(folder, known.alpha, endless, teller), kwargs={"in_pieces": crash % 2 == 1}
        )
        child.start()
        teller.close()
        told.poll(10)
        time.sleep(luck.uniform(0.0, 0.06))
        child.kill()
        child.join()
        number = max(last_told(told), size)
        with Ledger.open(folder, known.alpha, party="Alpha Bank") as ledger:
            # One more may be whole on disk: it was killed before it could say so.
            assert number <= ledger.state.size <= number + 1
            torn += ledger.torn is not None
            if ledger.state.size:
                ledger.append(say("cap-changed", old="8.0", new="9.0"))
                ledger.append(say("cap-changed", old="9.0", new="8.0"))
            entries += ledger.state.size - size
            size = ledger.state.size
            assert replay(ledger.envelopes) == ledger.state
    assert entries > 3 * CRASHES
    assert torn  # otherwise nothing was put to the test
    assert len(list(tmp_path.glob("*/ledger.torn-*"))) == torn
