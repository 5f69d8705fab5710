"""The party's ledger: reserve, then speak; reopened it knows all it ever said."""

import itertools
import os
from datetime import UTC, datetime, timedelta

import pytest

from fedmarket.errors import BadMessage, DataError, Refusal, UsageError
from fedmarket.ledger import lines as lines_module
from fedmarket.ledger.replay import replay
from fedmarket.ledger.store import Ledger

BEGUN = ("opened", "joined")
PARTY = "Alpha Bank"


@pytest.fixture
def ledger_at(known):
    made = []

    def opening(folder, *, identity=known.alpha, party=PARTY):
        moments = (datetime(2026, 1, 31, tzinfo=UTC) + timedelta(seconds=n) for n in itertools.count())
        made.append(Ledger.open(folder, identity, party=party, clock=lambda: next(moments)))
        return made[-1]

    yield opening
    for ledger in made:
        ledger.close()


def test_a_reopened_ledger_means_what_it_meant(ledger_at, tmp_path, write, known):
    with ledger_at(tmp_path) as ledger:
        write(ledger, BEGUN)
        ledger.reserve(known.run, 0, phase="update", count=2)
        write(ledger, ("committed", "released", "withdrawn", "cap-changed"))
        state, entries, envelopes = ledger.state, ledger.entries, ledger.envelopes
    again = ledger_at(tmp_path)
    assert (again.state, again.entries, again.envelopes) == (state, entries, envelopes)
    assert replay(envelopes) == state
    assert again.torn is None


def test_a_reservation_says_what_is_spent_with_it(ledger_at, tmp_path, write, known):
    ledger = ledger_at(tmp_path)
    write(ledger, BEGUN)
    foreseen = ledger.state.after(known.run, 0, phase="update", count=2)
    envelope = ledger.reserve(known.run, 0, phase="update", count=2)
    reserved = ledger.entries[-1].statement
    assert ledger.envelopes[-1] == envelope
    assert {figure.accountant: float(figure.epsilon) for figure in reserved.figures} == foreseen.accountants
    assert all(figure.version != "unknown" for figure in reserved.figures)
    assert set(foreseen.accountants) == {"exact"}
    assert ledger.state.spent().accountants["exact"] == foreseen.epsilon
    assert ledger.entries[-1].head.time == "2026-01-31T00:00:02Z"


def test_the_reservation_is_on_disk_when_reserve_returns(ledger_at, tmp_path, write, known):
    ledger = ledger_at(tmp_path)
    write(ledger, BEGUN)
    envelope = ledger.reserve(known.run, 0, phase="update", count=2)
    assert (tmp_path / "ledger.jsonl").read_bytes().endswith(envelope + b"\n")


def test_beyond_the_cap_nothing_is_written(ledger_at, tmp_path, say, known):
    ledger = ledger_at(tmp_path)
    ledger.append(say("opened", cap="0.5"))
    ledger.append(say("joined"))
    before = (tmp_path / "ledger.jsonl").read_bytes()
    with pytest.raises(Refusal, match=r"the cap is 0\.5"):
        ledger.reserve(known.run, 0, phase="update", count=10)
    beyond = [{"accountant": "pld", "version": "1", "epsilon": "0.6"}]
    with pytest.raises(Refusal, match=r"beyond the cap of 0\.5"):
        ledger.append(say("reserved", cap="0.5", figures=beyond))
    assert (tmp_path / "ledger.jsonl").read_bytes() == before
    assert ledger.state.counting() == ()


@pytest.mark.parametrize("kind", ["opened", "committed", "withdrawn", "joined"])
def test_what_does_not_follow_is_never_written(ledger_at, tmp_path, write, say, kind):
    ledger = ledger_at(tmp_path)
    write(ledger, BEGUN)
    state = replay(ledger.envelopes)
    with pytest.raises(BadMessage):
        ledger.append(say(kind))
    assert ledger.state == state
    assert replay(ledger.envelopes) == state


def test_spending_is_kept_across_runs_and_restarts(ledger_at, tmp_path, say, known):
    epsilons = []
    for number in range(3):
        with ledger_at(tmp_path) as ledger:
            if not number:
                ledger.append(say("opened", cap="4.0"))
            run = f"{number:032x}"
            ledger.append(say("joined", run=run))
            ledger.reserve(run, 0, phase="update", count=3)
            epsilons.append(ledger.state.spent().epsilon)
    assert epsilons == sorted(set(epsilons))
    ledger = ledger_at(tmp_path)
    ledger.append(say("joined", run=known.other))
    with pytest.raises(Refusal, match=r"the cap is 4\.0"):
        ledger.reserve(known.other, 0, phase="update", count=10)


def test_a_ledger_is_of_one_party_and_one_key(ledger_at, tmp_path, write, known):
    with ledger_at(tmp_path) as ledger:
        write(ledger, BEGUN)
    with pytest.raises(UsageError, match="another party"):
        ledger_at(tmp_path, party="Beta Bank")
    with pytest.raises(UsageError, match="another key"):
        ledger_at(tmp_path, identity=known.beta)
    ledger_at(tmp_path)


def test_after_a_rotation_only_the_new_identity_goes_on(ledger_at, tmp_path, write, known, say):
    with ledger_at(tmp_path) as ledger:
        write(ledger, (*BEGUN, "rotated"))
        with pytest.raises(UsageError, match="another key"):
            ledger.append(say("cap-changed"))
    with pytest.raises(UsageError, match="another key"):
        ledger_at(tmp_path)
    with ledger_at(tmp_path, identity=known.beta) as ledger:
        write(ledger, ("cap-changed",))
        assert replay(ledger.envelopes).size == 4


def test_a_damaged_line_is_named_and_nothing_goes_on(ledger_at, tmp_path, write):
    with ledger_at(tmp_path) as ledger:
        write(ledger, (*BEGUN, "reserved", "committed"))
    path = tmp_path / "ledger.jsonl"
    good = path.read_bytes()
    lines = good.splitlines(keepends=True)
    for number in range(len(lines)):
        damaged = lines[number].replace(b'"sig":"', b'"sig":"A', 1)
        path.write_bytes(b"".join([*lines[:number], damaged, *lines[number + 1 :]]))
        with pytest.raises(DataError, match=f"line {number + 1} is damaged"):
            ledger_at(tmp_path)
        without = b"".join([*lines[:number], *lines[number + 1 :]])
        if number < len(lines) - 1:
            path.write_bytes(without)
            with pytest.raises(DataError, match=f"line {number + 1}: "):
                ledger_at(tmp_path)
    path.write_bytes(good)
    assert ledger_at(tmp_path).state.size == 4


def test_wherever_the_last_line_was_cut_every_other_entry_counts(ledger_at, tmp_path, write, say):
    with ledger_at(tmp_path) as ledger:
        write(ledger, (*BEGUN, "reserved", "committed"))
    path = tmp_path / "ledger.jsonl"
    good = path.read_bytes()
    start = good[:-1].rindex(b"\n") + 1
    for cut in (*range(start + 1, len(good) - 1, 97), len(good) - 2):
        path.write_bytes(good[:cut])
        with ledger_at(tmp_path) as ledger:
            assert [found.outcome for found in ledger.state.counting()] == ["open"]
            assert ledger.torn is not None
            ledger.append(say("committed"))
            assert replay(ledger.envelopes).size == 4
    path.write_bytes(good[:-1])
    with ledger_at(tmp_path) as ledger:
        assert ledger.torn is None
        assert [found.outcome for found in ledger.state.counting()] == ["committed"]


def test_after_a_failed_write_the_reservation_counts_or_was_never_there(ledger_at, tmp_path, write, known, monkeypatch):
    ledger = ledger_at(tmp_path)
    write(ledger, BEGUN)
    monkeypatch.setattr(lines_module.os, "fsync", lambda handle: (_ for _ in ()).throw(OSError(5, "I/O error")))
    with pytest.raises(UsageError, match="I/O error"):
        ledger.reserve(known.run, 0, phase="update", count=1)
    monkeypatch.undo()
    with pytest.raises(UsageError, match="open it again"):
        ledger.reserve(known.run, 1, phase="update", count=1)
    assert len(ledger_at(tmp_path).state.counting()) == 1


def test_neither_error_nor_repr_shows_a_private_key(ledger_at, tmp_path, known):
    seed = known.alpha._key.private_bytes_raw()
    assert seed.hex() not in repr(vars(ledger_at(tmp_path)))
    assert sorted(os.listdir(tmp_path)) == ["ledger.jsonl", "ledger.lock"]
