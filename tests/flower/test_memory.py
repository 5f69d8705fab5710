"""What a node remembers between messages: forgotten, put back, asked twice, and never shown."""

import itertools
import re
from collections.abc import Callable
from pathlib import Path

import msgpack
import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from flwr.app import ConfigRecord, Context, Message

from fedmarket.aggregation.secagg.state import unpacked
from fedmarket.aggregation.steps import SECURE
from fedmarket.federation.party import PartyState
from fedmarket.flower.client import STATE, party_of, state_from_record, state_to_record
from fedmarket.flower.records import frame_in, message_type
from fedmarket.privacy.budget import Spending

BEFORE_THE_SUM = ("sum", "advertise", "share", "mask")

# What a party keeps between two messages.


def kept(context: Context) -> PartyState:
    record = context.state.config_records.get(STATE)
    return state_from_record(record) if record is not None else PartyState()


def fields_in(message: Message) -> dict[str, object]:
    """Return the fields of the one request, or of the one reply, in a message."""
    found = msgpack.unpackb(frame_in(message.content), strict_map_key=False)
    (fields,) = found.get("requests") or found.get("replies") or [found]
    return fields


def round_of(message: Message) -> object:
    return fields_in(message).get("round_number")


def before_each(step: str, *, of_round: int, do: Callable[[Context], object], client) -> Callable:
    """Return a client that has something done to node 2 before it hears ``step`` of a round."""

    def answer(message: Message, context: Context) -> Message:
        number = round_of(message)
        if (context.node_id, number, message.metadata.message_type) == (2, of_round, message_type(step)):
            do(context)
        return client(message, context)

    return answer


@pytest.mark.parametrize("step", ["share", "mask", "consent", "unmask"])
def test_a_party_that_forgot_the_round_is_out_of_it_and_in_the_next(
    apps, run_config, run_with, silenced, honest, step, same
):
    def forget(context: Context) -> None:
        context.state[STATE] = state_to_record(kept(context).remembering(2, b""))

    outcome = run_with(run_config(), before_each(step, of_round=2, do=forget, client=apps.client))
    (rejection,) = outcome.rejections
    assert (rejection.round_number, rejection.step, rejection.party) == (2, step, "grocer")
    last = 3 if step == "unmask" else 2
    assert rejection.reason == f"round 2: this party is not in it; last entered {last}"
    out = step in BEFORE_THE_SUM
    assert same(outcome, silenced(run_config(step="sum"), nodes={2}, step="sum", rounds={2}) if out else honest)


@pytest.mark.parametrize("step", SECURE)
def test_a_party_that_forgot_what_it_spent_answers_no_more(apps, run_config, run_with, step: str):
    """With its whole state it lost the name of the run, without which it can make no key: it spends nothing twice."""
    outcome = run_with(
        run_config(), before_each(step, of_round=2, do=lambda context: context.state.pop(STATE), client=apps.client)
    )
    assert {r.party for r in outcome.rejections} == {"grocer"}
    found = [(r.round_number, r.step) for r in outcome.rejections]
    assert (found[0], found[-2:]) == ((2, step), [(8, "close")] * 2)
    assert {number for number, _ in found} >= {2, *range(4, 8)}
    assert outcome.rejections[-3].reason == "this party has not joined a run"
    assert outcome.states[1].spending.update == 0


TWICE = {
    "advertise": r"round \d is not open: last entered \d, the run has 8$",
    "share": "asked for the step share, but mask is due$",
    "mask": "asked for the step mask, but consent is due$",
    "consent": "asked for the step consent, but unmask is due$",
    "unmask": r"round \d: this party is not in it; last entered \d$",
}
LOST_AT = {"share": "mask", "mask": "consent", "consent": "unmask"}


@pytest.mark.parametrize("step", SECURE)
def test_a_message_that_comes_twice_is_answered_and_paid_for_once(
    apps, run_config, run_with, silenced, honest, step, same
):
    """Asked twice a party could be made to say two things; from then on it says nothing more in this round."""
    rounds = range(8)
    said: list[str] = []

    def twice(message: Message, context: Context) -> Message:
        first = apps.client(message, context)
        if context.node_id == 2 and message.metadata.message_type == message_type(step):
            said.append(fields_in(apps.client(message, context))["reason"])
        return first

    outcome = run_with(run_config(), twice)
    assert len(said) == len(rounds)
    assert all(re.match(TWICE[step], line) for line in said), said
    lost = [(number, LOST_AT[step], "grocer") for number in rounds if step in LOST_AT]
    assert [(r.round_number, r.step, r.party) for r in outcome.rejections] == lost
    out = silenced(run_config(step="sum"), nodes={2}, step="sum", rounds=rounds)
    assert same(outcome, out if step == "share" else honest)
    whole = Spending(centre=1, update=3, calibrate=3, evaluate=1)
    assert outcome.states[1].spending == (Spending() if step == "share" else whole)


def restoring(step: str, *, earlier: str, of_round: int, client) -> Callable[[Message, Context], Message]:
    """Return a client whose node 2 hears ``step`` of a round in the state that it had before ``earlier``."""
    before: dict[str, ConfigRecord] = {}

    def answer(message: Message, context: Context) -> Message:
        if (context.node_id, round_of(message)) == (2, of_round):
            if message.metadata.message_type == message_type(earlier):
                before[STATE] = ConfigRecord(dict(context.state.config_records[STATE]))
            if message.metadata.message_type == message_type(step):
                context.state[STATE] = before[STATE]
        return client(message, context)

    return answer


@pytest.mark.parametrize(("step", "earlier"), list(itertools.combinations(reversed(SECURE), 2)))
def test_a_state_of_an_earlier_step_answers_no_later_one(apps, run_config, run_with, step: str, earlier: str):
    outcome = run_with(run_config(), restoring(step, earlier=earlier, of_round=2, client=apps.client))
    rejection, *later = outcome.rejections
    assert (rejection.round_number, rejection.step, rejection.party) == (2, step, "grocer")
    assert {(r.round_number, r.party) for r in later} <= {(3, "grocer")}  # whose keys were agreed by then
    said = r"asked for the step \w+, but \w+ is due$|this party is not in it; last entered 1$"
    assert re.search(said, rejection.reason), rejection
    assert outcome.void_rounds == ()


@pytest.mark.parametrize("step", ["consent", "unmask"])
def test_a_state_put_back_says_the_same_to_the_same_question_after_the_mask(apps, run_config, run_with, step: str):
    said: list[tuple[bytes, bytes]] = []

    def again(message: Message, context: Context) -> Message:
        record = dict(context.state.config_records[STATE]) if STATE in context.state else {}
        first = apps.client(message, context)
        if context.node_id == 2 and message.metadata.message_type == message_type(step):
            left = context.state[STATE]
            context.state[STATE] = ConfigRecord(record)
            second = apps.client(message, context)
            said.append(tuple(fields_in(reply)["content"] for reply in (first, second)))
            context.state[STATE] = left
        return first

    assert run_with(run_config(), again).rejections == ()
    assert len(said) == 8
    assert all(first == second for first, second in said)


def test_nothing_secret_is_left_when_the_round_is_over(apps, run_config, run_with):
    held: dict[str, set[bool]] = {}

    def looking(message: Message, context: Context) -> Message:
        reply = apps.client(message, context)
        held.setdefault(message.metadata.message_type, set()).add(bool(kept(context).open))
        return reply

    outcome = run_with(run_config(), looking)
    assert held == {
        "query.join": {False},
        "query.advertise": {True},
        "query.share": {True},
        "train.mask": {True},
        "query.consent": {True},
        "query.unmask": {True, False},  # of the round that begins, until the last one
        "query.close": {False},
    }
    assert not any(state.open for state in outcome.states)


def shown(secret: bytes, text: str) -> bool:
    """Whether ``text`` shows a piece of ``secret``, as bytes or in hexadecimal."""
    pieces = [secret[start : start + 16] for start in range(0, len(secret) - 15, 16)]
    return any(piece.strip(b"\0") and (repr(piece)[2:-1] in text or piece.hex() in text) for piece in pieces)


def test_no_secret_shows_in_what_is_printed(apps, run_config, run_with):
    config = run_config()
    folder = Path(str(config["roster"])).parent
    files = [(folder / f"{place:02}.pem").read_bytes() for place in range(4)]
    secrets = [load_pem_private_key(file, password=None).private_bytes_raw() for file in files]
    texts: list[str] = []

    def looking(message: Message, context: Context) -> Message:
        reply = apps.client(message, context)
        state = kept(context)
        with party_of(context) as party:
            texts.extend(repr(one) for one in (state, party, party.seat, party.seat.identity, party.books))
        for memory in state.open.values():
            secrets.extend(unpacked(unpacked(memory, 10)[9], 4))
        return reply

    outcome = run_with(config, looking)
    text = "\n".join([*texts, repr(outcome)])
    whole = [secret for secret in secrets if secret]
    assert {len(secret) for secret in whole} >= {16, 32}
    assert shown(whole[0], repr(whole[0]))
    assert shown(whole[-1], whole[-1].hex())
    assert not [secret for secret in whole if shown(secret, text)]
    assert str(outcome.model.parameters[0]) not in text
