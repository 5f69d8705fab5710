"""One bad node is rejected by name and costs the others nothing; a broken project is one error."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, RecordDict
from flwr.serverapp import ServerApp

from fedmarket.aggregation.steps import IN_THE_OPEN, SECURE
from fedmarket.errors import ConfigError, FederationStopped, PlanError
from fedmarket.federation.messages import Acceptance, Refused
from fedmarket.federation.rehearsal import rehearse
from fedmarket.federation.wire import decoded, encoded
from fedmarket.flower.inprocess import Apps, Outcome, load_apps, run_in_process
from fedmarket.flower.records import frame_in, framed, message_type
from fedmarket.flower.relay import UNREACHABLE
from fedmarket.flower.server import INVITATIONS
from fedmarket.node.question import refusal_of
from fedmarket.privacy.budget import Spending

NODE = 2
PARTY = "grocer"
MARKER = "1234.5678"
SHORT = ("training.rounds=1", "privacy.calibration_rounds=1")
ROUNDS = range(4)
STEPS = (*IN_THE_OPEN, *SECURE)

Reply = Callable[[Message, Message], Message]


@pytest.fixture(scope="session")
def run(apps: Apps, run_config, run_with) -> Callable[..., Outcome]:
    """Return a runner of a short federation in which one node answers one kind of message as it likes."""

    def bad(reply: Reply, *, step: str, joining: bool = False) -> Outcome:
        kind = "query.join" if joining else message_type(step)

        def answer(message: Message, context: Context) -> Message:
            honest = apps.client(message, context)
            meant = context.node_id == NODE and message.metadata.message_type == kind
            return reply(message, honest) if meant else honest

        return run_with(run_config(*SHORT, step=step), answer)

    return bad


def raising(message: Message, answer: Message) -> Message:
    raise RuntimeError(f"row {MARKER}")


def with_fields(change: Callable[[dict[str, Any]], object]) -> Reply:
    def reply(message: Message, answer: Message) -> Message:
        found = msgpack.unpackb(frame_in(answer.content))
        change(found["replies"][0])
        return Message(framed(msgpack.packb(found)), reply_to=message)

    return reply


def field(name: str, value: object) -> Reply:
    return with_fields(lambda fields: fields.update({name: value}))


def content(change: Callable[[bytes], object]) -> Reply:
    return with_fields(lambda fields: fields.update({"content": change(fields["content"])}))


another_step = with_fields(lambda fields: fields.update({"step": "mask" if fields["step"] == "sum" else "sum"}))


SIZE = r"expected (an update of )?\d+ bytes (in|for) the step {step}, got \d+( in sum)?$"
REPLIES: dict[str, tuple[Reply, str]] = {
    "raises": (raising, r"the node's app failed \(Flower error 1\)$"),
    "fails": (lambda m, a: Message(Error(7, MARKER), reply_to=m), r"the node's app failed \(Flower error 7\)$"),
    "is empty": (lambda m, a: Message(RecordDict(), reply_to=m), "expected a message of one frame$"),
    "is no frame": (lambda m, a: Message(framed(b"\xc1"), reply_to=m), "not a frame of this protocol$"),
    "refuses": (lambda m, a: Message(framed(encoded(Refused(reason="not\ntoday"))), reply_to=m), "not today$"),
    "not bytes": (content(lambda c: c.hex()), "content: expected a valid bytes$"),
    "real numbers": (content(lambda c: [float("nan")] * len(c)), "content: expected a valid bytes$"),
    "twice as long": (content(lambda c: c + c), SIZE),
    "one word more": (content(lambda c: c + bytes(4)), SIZE),
    "one byte short": (content(lambda c: c[:-1]), SIZE),
    "nothing": (content(lambda c: b""), SIZE),
    "no content": (with_fields(lambda fields: fields.pop("content")), "content: missing$"),
    "an array": (
        lambda m, a: Message(RecordDict({"fedmarket": ArrayRecord({"frame": Array(np.zeros(3))})}), reply_to=m),
        "expected a message of one frame$",
    ),
    "another party": (field("party", "bank"), "an update in the name of another party$"),
    "a stranger": (field("party", "eve"), "an update in the name of another party$"),
    "another round": (field("round_number", 77), r"for round 77, but round \d is open$"),
    "a truth value": (field("round_number", True), "round_number: expected a valid integer$"),
    "another step": (another_step, r"for the step (sum|mask), but {step} is due$"),
    "no step": (field("step", "dance"), "step: expected 'sum', 'advertise', 'share', 'mask', 'consent' or 'unmask'$"),
}
SIGNED: dict[str, tuple[Reply, str]] = {
    "the signature of nobody": (content(lambda c: c[:-64] + bytes(64)), f"the signature is not {PARTY}'s$"),
    "one bit else": (content(lambda c: c[:50] + bytes([c[50] ^ 1]) + c[51:]), f"the signature is not {PARTY}'s$"),
    "zeros": (content(lambda c: bytes(len(c))), "not a message of this protocol$"),
}
CASES = [(step, name) for step in STEPS for name in (REPLIES if step == "sum" else REPLIES | SIGNED)]


@pytest.mark.parametrize(
    ("replies", "said"),
    [
        (b"\xc1", "not a frame of this protocol"),
        (msgpack.packb({"replies": []}), "expected 2 replies, got 0"),
        (msgpack.packb({"reason": "not today"}), "not today"),
    ],
)
def test_what_is_wrong_with_a_whole_exchange_is_wrong_with_each_request(apps, run_config, replies: bytes, said: str):
    def answer(message: Message, context: Context) -> Message:
        reply = apps.client(message, context)
        meant = context.node_id == NODE and message.metadata.message_type == message_type("consent")
        return Message(framed(replies), reply_to=message) if meant else reply

    outcome = run_in_process(Apps(server=apps.server, client=answer), run_config(*SHORT), nodes=4)
    assert [(r.round_number, r.step) for r in outcome.rejections[:2]] == [(0, "consent"), (1, "advertise")]
    assert {(r.party, r.reason) for r in outcome.rejections[:2]} == {(PARTY, said)}
    assert outcome.void_rounds == ()


@pytest.fixture(scope="session")
def without(run) -> Outcome:
    """What the run gives in the open when one party refuses every training."""
    return run(REPLIES["refuses"][0], step="sum")


@pytest.fixture(scope="session")
def honest(apps: Apps, run_config) -> Outcome:
    """What the run gives in the open when all parties answer."""
    return run_in_process(apps, run_config(*SHORT, step="sum"), nodes=4)


@pytest.mark.parametrize(("step", "name"), CASES)
def test_a_bad_reply_is_rejected_by_name_and_the_model_is_that_of_the_others(run, without, honest, step, name, same):
    """Of all whose masked sums came, that is: who is lost later is in the sum."""
    reply, said = (REPLIES | SIGNED)[name]
    outcome = run(reply, step=step)
    assert [(r.round_number, r.step, r.party) for r in outcome.rejections] == [(n, step, PARTY) for n in ROUNDS]
    assert all(re.match(said.format(step=step), rejection.reason) for rejection in outcome.rejections), outcome
    assert not any(MARKER in rejection.reason for rejection in outcome.rejections)
    assert outcome.void_rounds == ()
    assert same(outcome, honest if step in ("consent", "unmask") else without)


def test_an_honest_run_has_no_rejections_and_another_model(run_config, apps, without, honest, same):
    for step, messages in (("sum", 4 + 4 * 8 + 8), ("mask", 4 + 4 * (5 + 3 * 7) + 8)):
        outcome = run_in_process(apps, run_config(step=step), nodes=4)
        assert (outcome.rejections, outcome.void_rounds) == ((), ())
        assert outcome.messages == messages
        assert {state.spending for state in outcome.states} == {Spending(centre=1, update=3, calibrate=3, evaluate=1)}
    assert not same(honest, without)


def acceptance_of(**changed: object) -> Reply:
    def reply(message: Message, answer: Message) -> Message:
        honest = decoded(Acceptance, frame_in(answer.content))
        return Message(framed(encoded(replace(honest, **changed))), reply_to=message)

    return reply


ACCEPTANCES: dict[str, tuple[Reply, str]] = {
    "other terms": (acceptance_of(terms_hash="0" * 64), "the party holds other terms"),
    "no rows": (acceptance_of(declared_rows=0), "expected 1 to 2000 declared rows"),
    "all the rows in the world": (acceptance_of(declared_rows=10**12), "expected 1 to 2000 declared rows"),
    "the name of another": (acceptance_of(party="bank"), "a second party of the same name"),
    "two lines": (acceptance_of(party="a\nb"), "expected a name of 1 to 100 characters on one line"),
    "raises": (raising, "the node's app failed (Flower error 1)"),
    "is empty": (lambda m, a: Message(RecordDict(), reply_to=m), "expected a message of one frame"),
}
STRANGER = {"a stranger": (acceptance_of(party="eve"), "the party is not in the roster")}


@pytest.mark.parametrize(
    ("step", "name"), [("sum", name) for name in ACCEPTANCES] + [("mask", name) for name in ACCEPTANCES | STRANGER]
)
def test_a_bad_acceptance_keeps_the_node_out_and_the_others_in(run, without, step: str, name: str, same):
    reply, said = (ACCEPTANCES | STRANGER)[name]
    outcome = run(reply, step=step, joining=True)
    assert [(r.round_number, r.step, r.party, r.reason) for r in outcome.rejections] == [
        (0, "join", f"node {NODE}", said)
    ]
    assert outcome.messages == 4 + 3 * (4 if step == "sum" else 5 + 3 * 3) + 3 * 2
    assert same(outcome, without)


@pytest.mark.parametrize("step", ["sum", "mask"])
def test_a_node_that_is_silent_at_the_start_is_named_and_out(silenced, run_config, without, step: str, same):
    outcome = silenced(run_config(*SHORT, step=step), nodes={NODE}, step="join", rounds={None})
    assert [(r.step, r.party, r.reason) for r in outcome.rejections] == [("join", f"node {NODE}", "no reply in time")]
    assert same(outcome, without)


@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_party_that_is_away_for_a_moment_at_the_start_is_asked_again(
    apps, run_with, run_config, monkeypatch, times: int
):
    monkeypatch.setattr("fedmarket.flower.server.INVITATION_PAUSE_SECONDS", 0.0)
    asked: list[int] = []

    def restarting(message: Message, context: Context) -> Message:
        if message.metadata.message_type == "query.join":
            asked.append(context.node_id)
            if context.node_id == NODE and asked.count(NODE) <= times:
                return Message(framed(refusal_of(UNREACHABLE)), reply_to=message)
        return apps.client(message, context)

    outcome = run_with(run_config(*SHORT), restarting)
    out = [(0, "join", f"node {NODE}", UNREACHABLE)] if times == INVITATIONS else []
    assert [(r.round_number, r.step, r.party, r.reason) for r in outcome.rejections] == out
    assert [asked.count(node) for node in range(1, 5)] == [
        min(times + 1, INVITATIONS) if node == NODE else 1 for node in range(1, 5)
    ]


@pytest.mark.parametrize("step", STEPS)
def test_a_silent_node_is_named(silenced, run_config, without, honest, step: str, same):
    outcome = silenced(run_config(*SHORT, step=step), nodes={NODE}, step=step, rounds=ROUNDS)
    assert [(r.round_number, r.step) for r in outcome.rejections] == [(n, step) for n in ROUNDS]
    assert {(r.party, r.reason) for r in outcome.rejections} == {(PARTY, "no reply in time")}
    assert same(outcome, honest if step in ("consent", "unmask") else without)


@pytest.mark.parametrize("step", STEPS)
def test_too_few_survivors_stop_the_run_by_name(apps, run_config, run_with, step: str):
    def broken(message: Message, context: Context) -> Message:
        if context.node_id != NODE and message.metadata.message_type == message_type(step):
            raise RuntimeError(MARKER)
        return apps.client(message, context)

    said = rf"^round 2 is void, {step}: expected at least 3 parties, 1 are left, as were all of the last 3 \(bank: the "
    with pytest.raises(FederationStopped, match=said) as caught:
        run_with(run_config(step=step), broken)
    assert all(party in str(caught.value) for party in ("bank", "insurer", "telecom"))
    assert MARKER not in str(caught.value)


@pytest.mark.parametrize("step", ["sum", "mask"])
def test_too_few_acceptances_stop_the_run_before_the_first_round(apps, run_config, run_with, step: str):
    asked: set[str] = set()

    def shy(message: Message, context: Context) -> Message:
        asked.add(message.metadata.message_type)
        if context.node_id in (2, 3):
            return Message(framed(encoded(Refused(reason="not today"))), reply_to=message)
        return apps.client(message, context)

    said = r"^2 parties joined, at least 3 are needed \(node 2: not today; node 3: not today\)$"
    with pytest.raises(FederationStopped, match=said):
        run_with(run_config(step=step), shy)
    assert asked == {"query.join"}


def test_nodes_that_never_come_stop_the_run(apps, run_config, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("fedmarket.flower.server.NODE_WAIT_SECONDS", 0.3)
    with pytest.raises(FederationStopped, match=r"4 nodes after 0\.3 s, expected 5"):
        run_in_process(apps, run_config(parties=5), nodes=4)


def test_secure_aggregation_without_a_roster_stops_before_a_message(run_with, run_config):
    asked: list[Message] = []

    def never(message: Message, context: Context) -> Message:
        asked.append(message)
        return message

    with pytest.raises(ConfigError, match=r"^roster: aggregation\.secagg is secure, which needs a roster$"):
        run_with(run_config(roster=""), never)
    with pytest.raises(ConfigError, match=r"none\.toml: cannot be read"):
        run_with(run_config(roster="/none.toml"), never)
    with pytest.raises(PlanError, match=r"^federation\.minimum_survivors: the roster says 3, got 4$"):
        run_with(run_config("federation.minimum_survivors=4"), never)
    with pytest.raises(PlanError, match=r"^federation\.max_parties: the roster has 4 members, got 3$"):
        run_with(run_config("federation.max_parties=3"), never)
    assert asked == []


def test_sums_in_the_open_need_no_roster_and_leave_one_unread(apps, run_config, honest, same):
    outcome = run_in_process(apps, run_config(*SHORT, step="sum", roster=""), nodes=4)
    assert same(outcome, honest)


def test_a_party_with_another_roster_stays_out(apps, run_config, run_with, without, tmp_path: Path, same):
    """Same names, other keys: no signature of theirs would be believed."""
    other = rehearse(tmp_path, ("bank", "grocer", "insurer", "telecom"), minimum_survivors=3)

    def answer(message: Message, context: Context) -> Message:
        if context.node_id == NODE:
            context.run_config["roster"] = str(other)
        return apps.client(message, context)

    outcome = run_with(run_config(*SHORT), answer)
    (rejection,) = outcome.rejections
    assert (rejection.step, rejection.party) == ("join", f"node {NODE}")
    assert re.match(r"rosters differ: the coordinator holds [0-9a-f]{12}, this party [0-9a-f]{12}$", rejection.reason)
    assert same(outcome, without)


def test_a_member_of_the_roster_that_never_comes_costs_nothing(apps, run_config, honest, tmp_path: Path, same):
    names = ("absent", "bank", "grocer", "insurer", "telecom")
    roster = rehearse(tmp_path, names, minimum_survivors=4)
    outcome = run_in_process(apps, run_config(*SHORT, "federation.minimum_survivors=4", roster=str(roster)), nodes=4)
    assert (outcome.rejections, outcome.void_rounds) == ((), ())
    assert same(outcome, honest)


def project(folder: Path, components: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "pyproject.toml").write_text(f"[tool.flwr.app.components]\n{components}\n")
    return folder


def test_apps_are_found_at_or_above_the_start_and_only_with_both_named(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    project(tmp_path, 'serverapp = "a:app"')
    with pytest.raises(ConfigError, match=r"no pyproject\.toml with \[tool\.flwr\.app\.components\]"):
        load_apps(tmp_path)
    project(tmp_path, 'serverapp = "one:app"\nclientapp = "one:other"')
    (tmp_path / "one.py").write_text("app, other = 'server', 'client'\n")
    (tmp_path / "below").mkdir()
    for start in (tmp_path, tmp_path / "below"):
        assert load_apps(start) == Apps(server="server", client="client")


def test_the_working_folder_is_the_fallback(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(Path(__file__).parent)
    assert isinstance(load_apps(tmp_path).server, ServerApp)


def test_a_missing_file_or_name_of_an_app_is_named(tmp_path: Path):
    project(tmp_path, 'serverapp = "one.two:app"\nclientapp = "one:app"')
    with pytest.raises(ConfigError, match=r"one/two\.py: no such file, although pyproject\.toml names one\.two:app"):
        load_apps(tmp_path)
    project(tmp_path, 'serverapp = "one:app"\nclientapp = "one:other"')
    (tmp_path / "one.py").write_text("app = 1\n")
    with pytest.raises(ConfigError, match=r"one\.py: no 'other' there, although pyproject\.toml names one:other"):
        load_apps(tmp_path)


def test_a_server_app_that_is_not_ours_is_named(apps, run_config):
    stranger = ServerApp()

    @stranger.main()
    def main(grid: object, context: Context) -> None:
        context.state["something"] = ConfigRecord({"else": 1})

    with pytest.raises(ConfigError, match="the ServerApp left no model and outcome"):
        run_in_process(Apps(server=stranger, client=apps.client), run_config(), nodes=1)


def test_the_model_file_appears_where_the_run_configuration_says(apps, run_config, tmp_path: Path):
    path = tmp_path / "deep" / "model.safetensors"
    run_in_process(apps, run_config(output=str(path)), nodes=4)
    assert [file.name for file in path.parent.iterdir()] == ["model.safetensors"]
