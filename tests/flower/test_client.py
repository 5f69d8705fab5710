"""What a node says to a stranger's questions, and to a configuration that is wrong."""

from contextlib import nullcontext

import numpy as np
import pytest
from flwr.app import Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from fedmarket.aggregation.steps import IN_THE_OPEN, SECURE
from fedmarket.errors import BadMessage
from fedmarket.federation.messages import Invitation, Refused, Replies, Request, Requests
from fedmarket.federation.party import PartyState
from fedmarket.federation.wire import decoded, encoded
from fedmarket.flower import client
from fedmarket.flower.inprocess import Apps
from fedmarket.flower.records import frame_in, framed, message_type
from fedmarket.models.state import ModelState
from fedmarket.privacy.budget import Spending

MARKER = "1234.5678"
STEPS = (*IN_THE_OPEN, *SECURE)


@pytest.fixture(autouse=True)
def identified() -> None:
    """Flower stamps every message with the identity of the process that it runs in."""
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 0, 0


def request_for(step: str) -> RecordDict:
    """Return a request, or for ``join`` an invitation."""
    if step == "join":
        return framed(encoded(Invitation(run=bytes(16), terms_hash="0", roster_hash="")))
    one = np.zeros(1)
    model = ModelState(centre=one, scale=one, parameters=one, calibration=one)
    fields = {"run": bytes(16), "round_number": 0, "phase": "centre", "packet": b""}
    return framed(encoded(Requests(requests=(Request(step=step, model=model, **fields),))))


def node(run_config, **changed: object) -> Context:
    config = {"partition-id": 0}
    return Context(run_id=1, node_id=1, node_config=config, state=RecordDict(), run_config=run_config(**changed))


def refused(apps: Apps, context: Context, *, step: str, action: str) -> str:
    reply = apps.client(Message(request_for(step), dst_node_id=1, message_type=action), context)
    try:
        (one,) = decoded(Replies, frame_in(reply.content)).replies
    except BadMessage:  # nothing of the exchange is answered
        one = decoded(Refused, frame_in(reply.content))
    return one.reason


@pytest.mark.parametrize("step", ["join", *STEPS])
def test_an_unforeseen_error_at_a_party_names_its_type_and_nothing_else(apps, run_config, monkeypatch, step: str):
    def broken(_: Context) -> None:
        raise ValueError(f"could not convert string to float: {MARKER!r}")

    monkeypatch.setattr(client, "party_of", broken)
    action = "query.join" if step == "join" else message_type(step)
    assert refused(apps, node(run_config), step=step, action=action) == "failed: ValueError"


@pytest.mark.parametrize("step", STEPS)
def test_a_step_inside_another_kind_of_message_is_refused(apps, run_config, step: str):
    for other in STEPS:
        context = node(run_config, step=step)
        said = refused(apps, context, step=step, action=message_type(other))
        assert (said == f"the step {step} came as another kind of message") == (other != step)
        assert (other == step) or not context.state


@pytest.mark.parametrize(("terms", "step"), [*(("sum", step) for step in SECURE), ("mask", "sum")])
def test_a_step_of_the_other_kind_of_sum_is_refused(apps, run_config, terms: str, step: str):
    expected = ", ".join(IN_THE_OPEN if terms == "sum" else SECURE)
    context = node(run_config, step=terms)
    context.state[client.STATE] = client.state_to_record(PartyState(run=bytes(16)))
    said = refused(apps, context, step=step, action=message_type(step))
    assert said == f"step: expected one of {expected}, got {step!r}"
    assert client.state_from_record(context.state.config_records[client.STATE]) == PartyState(run=bytes(16))


@pytest.mark.parametrize("step", STEPS)
def test_a_party_that_has_not_joined_answers_no_step(apps, run_config, step: str):
    context = node(run_config, step=step)
    assert refused(apps, context, step=step, action=message_type(step)) == "this party has not joined a run"
    assert not context.state


@pytest.mark.parametrize(
    ("node", "changed", "said"),
    [
        ({}, {}, "run or node configuration: partition-id is missing"),
        ({"partition-id": 4}, {}, "partition-id: expected 0 to 3, got 4"),
        ({"partition-id": -1}, {}, "partition-id: expected 0 to 3, got -1"),
        ({"partition-id": 0}, {"arm": "none"}, "arm: expected one of"),
        (
            {"partition-id": 0},
            {"arm": "local_only", "alone": "eve", "roster": ""},
            "party: expected one of bank, grocer",
        ),
        ({"partition-id": 0}, {"config": "/none.toml"}, "/none.toml: cannot be read"),
        ({"partition-id": 0}, {"changes": "privacy.epsilon=0"}, "privacy.epsilon"),
        ({"partition-id": 0}, {"roster": "/none.toml"}, "/none.toml: cannot be read"),
        (
            {"partition-id": 0},
            {"roster": ""},
            "party bank: the terms ask for secure aggregation, but it has no identity",
        ),
    ],
)
def test_a_node_says_what_is_wrong_with_its_configuration(apps, run_config, node, changed, said):
    context = Context(run_id=1, node_id=1, node_config=node, state=RecordDict(), run_config=run_config(**changed))
    own = "0"
    if said.startswith("party bank"):
        with client.party_of(context) as party:
            own = party.terms.hash
    invitation = framed(encoded(Invitation(run=bytes(16), terms_hash=own, roster_hash="")))
    reply = apps.client(Message(invitation, dst_node_id=1, message_type="query.join"), context)
    assert said in decoded(Refused, frame_in(reply.content)).reason


@pytest.mark.parametrize("end", [ValueError, MemoryError, KeyboardInterrupt])
def test_what_was_kept_last_stays_with_the_node_however_its_answer_ends(run_config, monkeypatch, end):
    def cut_short(_, *, keep, **__):
        for spent in (1, 2):
            keep(PartyState(run=bytes(16), spending=Spending(update=spent)))
        raise end

    written: list[PartyState] = []
    written_as = client.state_to_record
    monkeypatch.setattr(client, "answered", cut_short)
    monkeypatch.setattr(client, "state_to_record", lambda state: [written.append(state), written_as(state)][1])
    context = node(run_config, step="sum")
    message = Message(request_for("sum"), dst_node_id=1, message_type="train.sum")
    with pytest.raises(KeyboardInterrupt) if end is KeyboardInterrupt else nullcontext():
        client.answer(message, context)
    found = client.state_from_record(context.state.config_records[client.STATE])
    assert written == [found]
    assert found.spending.update == 2


def test_a_party_answers_nothing_but_its_eight_actions(apps, run_config):
    others = ("train", "train.rows", "train.update", "train.unmask", "query", "query.sum", "query.mask", "evaluate")
    for action in others:
        with pytest.raises(Exception, match=r"(?i)no .*function"):
            apps.client(Message(RecordDict(), dst_node_id=1, message_type=action), node(run_config))


@pytest.mark.parametrize("arm", ["pooled", "pooled_dp", "local_only_dp"])
def test_arms_of_one_party_have_no_seat_and_no_books_and_leave_a_roster_unread(run_config, arm: str):
    context = node(run_config, arm=arm, alone="bank", roster="/none.toml")
    with client.party_of(context) as party:
        assert party.seat is party.books is None
