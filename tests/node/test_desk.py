"""The desk: one question at a time, restarts that forget no spend, and a relay that sends what it likes."""

import random
from contextlib import ExitStack, closing
from dataclasses import replace

import pytest
from flwr.app import Context, Message

from fedmarket.errors import BadMessage, ConfigError, PlanError, UsageError
from fedmarket.federation.messages import Acceptance, Closing, Invitation, Refused, Replies, Request, Requests, Update
from fedmarket.federation.wire import decoded, encoded
from fedmarket.flower.inprocess import Apps, run_in_process
from fedmarket.flower.records import frame_in, framed
from fedmarket.ledger.look import look
from fedmarket.node import desk as desks

RUN = bytes(range(16))


def invitation(desk, run: bytes = RUN) -> bytes:
    roster_hash = desk.party.seat.roster.hash.hex()
    return encoded(Invitation(run=run, terms_hash=desk.party.terms.hash, roster_hash=roster_hash))


def request(number: int, step: str = "advertise", run: bytes = RUN) -> bytes:
    fields = {"model": None, "packet": b""}
    phase = "update" if number else "centre"
    one = Request(run=run, round_number=number, phase=phase, step=step, **fields)
    return encoded(Requests(requests=(one,)))


def reply(answer: bytes) -> Update | Refused:
    (one,) = decoded(Replies, answer).replies
    return one


def reason(answer: bytes) -> str:
    """Return why there is no answer to anything, or none to the one request."""
    try:
        return reply(answer).reason
    except BadMessage:
        return decoded(Refused, answer).reason


@pytest.fixture
def desk(nodes):
    with closing(nodes.desk(0)) as opened:
        yield opened


def run_with(nodes, apps, answer):
    """Run the federation; ``answer(place, action, frame)`` is what each node does."""

    def client(message: Message, context: Context) -> Message:
        action = message.metadata.message_type.partition(".")[2]
        return Message(framed(answer(context.node_id - 1, action, frame_in(message.content))), reply_to=message)

    return run_in_process(Apps(server=apps.server, client=client), nodes.run_config, nodes=4)


def test_a_second_node_with_the_same_books_does_not_start(nodes, desk):
    with pytest.raises(UsageError, match="in use by another process"):
        nodes.desk(0)


def test_a_party_joins_once_and_again_where_the_coordinator_asks_again(desk):
    for _ in range(2):
        assert decoded(Acceptance, desk.answer("join", invitation(desk))).declared_rows == 110
    joined = [entry for entry in desk.party.books.ledger.entries if entry.statement.kind == "joined"]
    assert len(joined) == 1


def test_a_round_entered_before_a_second_invitation_is_not_open_again(desk):
    desk.answer("join", invitation(desk))
    assert reply(desk.answer("advertise", request(0))).step == "advertise"
    desk.answer("join", invitation(desk))
    assert reason(desk.answer("advertise", request(0))).startswith("round 0 is not open: last entered 0")


def test_a_restart_keeps_the_run_and_its_rounds_and_forgets_the_secrets(nodes, desk):
    desk.answer("join", invitation(desk))
    for number in range(3):
        desk.answer("advertise", request(number))
    desk.close()
    with closing(nodes.desk(0)) as again:
        assert reason(again.answer("share", request(2, "share"))) == "round 2: this party is not in it; last entered 2"
        assert reason(again.answer("advertise", request(2))).startswith("round 2 is not open: last entered 2")
        assert reply(again.answer("advertise", request(3))).round_number == 3
        state = again.party.books.ledger.state
        outcomes = [found.outcome for found in state.reservations.values()]
        assert outcomes == ["given-back", "given-back", "given-back", "open"]


def test_a_run_that_was_joined_under_other_terms_or_code_is_over_for_this_party(nodes, desk, monkeypatch):
    desk.answer("join", invitation(desk))
    desk.close()
    over = "this run was joined with other terms, roster, rows or code; this party is out of it"
    with closing(nodes.desk(0)) as other:
        other.party.terms = replace(other.party.terms, initial_seed=9)
        assert reason(other.answer("advertise", request(0))) == over
    with closing(nodes.desk(0)) as other, monkeypatch.context() as patch:
        code = desks.installed_code()
        patch.setattr(desks, "installed_code", lambda: code.model_copy(update={"hash": "0" * 64}))
        assert reason(other.answer("advertise", request(0))) == over


def test_what_is_held_does_not_grow_with_runs_or_questions(desk):
    for number in range(3 * desks.MOST_RUNS):
        desk.answer("join", invitation(desk, bytes([number]) * 16))
        desk.answer("share", request(0, "share", run=bytes([100 + number]) * 16))
    assert len(desk._states) == desks.MOST_RUNS
    # One whose state was let go is found again from the ledger.
    assert reason(desk.answer("share", request(0, "share", run=bytes(16)))) == (
        "round 0: this party is not in it; last entered -1"
    )


def test_an_unforeseen_error_says_its_type_alone_and_the_desk_goes_on_from_disk(nodes, desk, monkeypatch, caplog):
    desk.answer("join", invitation(desk))
    desk.answer("advertise", request(0))

    def broken(*_: object, **__: object) -> bytes:
        raise ValueError("could not convert string to float: '1234.5678'")

    with monkeypatch.context() as patch:
        patch.setattr(desks, "answered", broken)
        assert reason(desk.answer("advertise", request(1))) == "failed: ValueError"
    assert "1234" not in caplog.text
    assert reason(desk.answer("share", request(0, "share"))) == "round 0: this party is not in it; last entered 0"
    assert reply(desk.answer("advertise", request(1))).round_number == 1


def test_a_ledger_that_cannot_be_written_is_opened_again_and_its_path_stays_here(nodes, desk, monkeypatch):
    desk.answer("join", invitation(desk))
    with monkeypatch.context() as patch:
        patch.setattr("fedmarket.ledger.lines.os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left")))
        assert reason(desk.answer("advertise", request(0))) == "failed: UsageError"
        assert reason(desk.answer("advertise", request(0))) == "failed: UsageError"
    assert "last entered 0" in reason(desk.answer("share", request(0, "share")))  # its line was on disk after all
    assert reply(desk.answer("advertise", request(1))).round_number == 1


def test_a_document_that_does_not_fit_the_roster_or_the_terms_does_not_start(nodes):
    nodes.change(0, 'name = "bank"', 'name = "Bank"')
    with pytest.raises(ConfigError, match="expected one of bank, grocer"):
        nodes.desk(0)
    nodes.change(0, 'name = "Bank"', 'name = "grocer"')
    with pytest.raises(ConfigError, match=r"knows the key in .* as 'bank'"):
        nodes.desk(0)
    nodes.change(1, "declared_rows = ", "declared_rows = 9")
    with pytest.raises(PlanError, match="max_party_rows"):
        nodes.desk(1)


def test_a_relay_that_repeats_mixes_and_restarts_gets_one_release_a_round_and_none_beyond_the_plan(nodes, apps):
    """Before each message party 0 hears old ones again, under any action, with restarts between."""
    rng, heard, masked = random.Random(5), [], {}

    with ExitStack() as stack:
        opened = [stack.enter_context(closing(nodes.desk(place))) for place in range(4)]

        def answer(place: int, action: str, frame: bytes) -> bytes:
            if place:
                return opened[place].answer(action, frame)
            for _ in range(4 if heard else 0):
                old_action, old = rng.choice(heard)
                noted(opened[0].answer(rng.choice([old_action, old_action, action, "mask"]), old), repeated=True)
            if rng.random() < 0.05:
                opened[0]._forget()
            heard.append((action, frame))
            told = opened[0].answer(action, frame)
            noted(told, repeated=False)
            return told

        def noted(told: bytes, *, repeated: bool) -> None:
            try:
                replies = decoded(Replies, told).replies
            except Exception:
                return
            updates = [one for one in replies if isinstance(one, Update)]
            assert not (repeated and updates)
            for update in updates:
                if update.step == "mask":
                    assert update.round_number not in masked
                    masked[update.round_number] = update.content

        outcome = run_with(nodes, apps, answer)
    assert outcome.model is not None
    state = look(nodes.books(0)).state
    committed = [number for (_, number), found in state.reservations.items() if found.outcome == "committed"]
    assert sorted(masked) == committed
    assert 0 < len(committed) <= 8
    assert state.spent().epsilon <= 1.0


def test_a_closing_of_another_run_is_refused(desk):
    desk.answer("join", invitation(desk))
    other = encoded(Closing(run=bytes(16), model_hash=bytes(32)))
    assert reason(desk.answer("close", other)) == "this party has not joined a run"
