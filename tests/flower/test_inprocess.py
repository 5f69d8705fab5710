"""One bad node is rejected by name and costs the others nothing; a broken project is one error."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, RecordDict
from flwr.serverapp import ServerApp

from fedmarket.errors import ConfigError, FederationStopped
from fedmarket.federation.messages import Acceptance
from fedmarket.flower import client, inprocess
from fedmarket.flower.codec import acceptance_to_records, refusal_to_records
from fedmarket.flower.inprocess import Apps, Outcome, load_apps, run_in_process

NODE = 2
PARTY = "grocer"
MARKER = "1234.5678"

Reply = Callable[[Message, Message], Message]


class Node:
    """The client app of all nodes, of which one answers trainings (or, if ``joining``, invitations) as it likes."""

    def __init__(self, honest: object, reply: Reply, *, joining: bool = False) -> None:
        self._honest = honest
        self._reply = reply
        self._type = "query" if joining else "train"

    def __call__(self, message: Message, context: Context) -> Message:
        answer = self._honest(message, context)
        if context.node_id == NODE and message.metadata.message_type.startswith(self._type):
            return self._reply(message, answer)
        return answer


def run(apps: Apps, run_config, reply: Reply, *, joining: bool = False) -> Outcome:
    hostile = Apps(server=apps.server, client=Node(apps.client, reply, joining=joining))
    return run_in_process(hostile, run_config(), nodes=4)


def same(one: Outcome, other: Outcome) -> bool:
    parts = ("centre", "parameters", "calibration")
    return all(np.array_equal(getattr(one.model, part), getattr(other.model, part)) for part in parts)


def raising(message: Message, answer: Message) -> Message:
    raise RuntimeError(f"row {MARKER}")


def with_content(change: Callable[[RecordDict], object]) -> Reply:
    def reply(message: Message, answer: Message) -> Message:
        change(answer.content)
        return answer

    return reply


def words(change: Callable[[np.ndarray], np.ndarray]) -> Reply:
    def put(content: RecordDict) -> None:
        content["arrays"] = ArrayRecord({"words": Array(change(content.array_records["arrays"]["words"].numpy()))})

    return with_content(put)


def field(name: str, value: object) -> Reply:
    return with_content(lambda content: content.config_records["fields"].update({name: value}))


def archive(message: Message, answer: Message) -> Message:
    array = Array(dtype="uint32", shape=(1,), stype="numpy.ndarray", data=b"PK\x03\x04")
    answer.content["arrays"] = ArrayRecord({"words": array})
    return answer


REPLIES: dict[str, tuple[Reply, str]] = {
    "raises": (raising, "the node's app failed (Flower error 1)"),
    "fails": (lambda m, a: Message(Error(7, MARKER), reply_to=m), "the node's app failed (Flower error 7)"),
    "is empty": (lambda m, a: Message(RecordDict(), reply_to=m), "party: expected str, got NoneType"),
    "refuses": (lambda m, a: Message(refusal_to_records("not\ntoday"), reply_to=m), "not today"),
    "not a number": (words(lambda w: np.full(len(w), np.nan)), "expected an update of dtype uint32, got float64"),
    "other words": (words(lambda w: w.astype(np.uint64)), "expected an update of dtype uint32, got uint64"),
    "one short": (words(lambda w: w[:-1]), "expected an update of shape"),
    "a matrix": (words(lambda w: w[None]), "expected an update of shape"),
    "an archive": (archive, "words: expected a numpy array without pickle, got something else"),
    "no array": (with_content(lambda c: c.pop("arrays")), "words: expected an array, got none"),
    "another party": (field("party", "bank"), "an update in the name of another party"),
    "a stranger": (field("party", "eve"), "an update in the name of another party"),
    "another round": (field("round_number", 77), "for round 77, but round 0 is open"),
    "a truth value": (field("round_number", True), "round_number: expected int, got bool"),
}


@pytest.fixture(scope="module")
def without(apps: Apps, run_config) -> Outcome:
    """What the run gives when one party refuses every training."""
    return run(apps, run_config, REPLIES["refuses"][0])


@pytest.mark.parametrize("name", REPLIES)
def test_a_bad_reply_is_rejected_by_name_and_the_model_is_that_of_the_others(apps, run_config, without, name: str):
    reply, said = REPLIES[name]
    outcome = run(apps, run_config, reply)
    assert len(outcome.rejections) == 7
    assert {(r.party, r.round_number) for r in outcome.rejections} == {(PARTY, n) for n in range(7)}
    assert outcome.rejections[0].reason.startswith(said)
    assert not any(MARKER in rejection.reason for rejection in outcome.rejections)
    assert same(outcome, without)


def test_an_honest_run_has_no_rejections_and_another_model(apps, run_config, without):
    outcome = run_in_process(apps, run_config(), nodes=4)
    assert outcome.rejections == ()
    assert not same(outcome, without)
    assert outcome.messages == 4 * 8
    assert {state.spending.update for state in outcome.states} == {3}


def acceptance_of(**changed: object) -> Reply:
    def reply(message: Message, answer: Message) -> Message:
        said = answer.content.config_records["fields"]
        honest = Acceptance(party=said["party"], declared_rows=said["declared_rows"], terms_hash=said["terms_hash"])
        return Message(acceptance_to_records(replace(honest, **changed)), reply_to=message)

    return reply


ACCEPTANCES: dict[str, tuple[Reply, str]] = {
    "other terms": (acceptance_of(terms_hash="0" * 64), "the party holds other terms"),
    "no rows": (acceptance_of(declared_rows=0), "expected 1 to 2000 declared rows"),
    "all the rows in the world": (acceptance_of(declared_rows=10**12), "expected 1 to 2000 declared rows"),
    "the name of another": (acceptance_of(party="bank"), "a second party of the same name"),
    "two lines": (acceptance_of(party="a\nb"), "expected a name of 1 to 100 characters on one line"),
    "raises": (raising, "the node's app failed (Flower error 1)"),
    "is empty": (lambda m, a: Message(RecordDict(), reply_to=m), "party: expected str, got NoneType"),
}


@pytest.mark.parametrize("name", ACCEPTANCES)
def test_a_bad_acceptance_keeps_the_node_out_and_the_others_in(apps, run_config, without, name: str):
    reply, said = ACCEPTANCES[name]
    outcome = run(apps, run_config, reply, joining=True)
    assert [(r.party, r.reason) for r in outcome.rejections] == [(f"node {NODE}", said)]
    assert outcome.messages == 4 + 3 * 7
    assert same(outcome, without)


@pytest.mark.parametrize("joining", [True, False])
def test_a_silent_node_is_named(apps, run_config, without, monkeypatch: pytest.MonkeyPatch, joining: bool):
    def deaf(grid, messages, *, timeout=None):
        kind = "query" if joining else "train"
        heard = [m for m in messages if m.metadata.dst_node_id != NODE or not m.metadata.message_type.startswith(kind)]
        return grid.pull_messages(grid.push_messages(heard))

    monkeypatch.setattr(inprocess.InProcessGrid, "send_and_receive", deaf)
    outcome = run_in_process(apps, run_config(), nodes=4)
    assert {r.reason for r in outcome.rejections} == {"no reply in time"}
    assert {r.party for r in outcome.rejections} == {f"node {NODE}" if joining else PARTY}
    assert same(outcome, without)


def test_too_few_survivors_stop_the_run_by_name(apps, run_config):
    class Broken(Node):
        def __call__(self, message: Message, context: Context) -> Message:
            if context.node_id != NODE and message.metadata.message_type == "train.update":
                raise RuntimeError(MARKER)
            return apps.client(message, context)

    hostile = Apps(server=apps.server, client=Broken(apps.client, raising))
    with pytest.raises(FederationStopped, match=r"round 1: 1 parties left, the contract needs 2 \(.*bank") as caught:
        run_in_process(hostile, run_config(), nodes=4)
    assert MARKER not in str(caught.value)


def test_nodes_that_never_come_stop_the_run(apps, run_config, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("fedmarket.flower.server.NODE_WAIT_SECONDS", 0.3)
    with pytest.raises(FederationStopped, match=r"4 nodes after 0\.3 s, expected 5"):
        run_in_process(apps, run_config(parties=5), nodes=4)


@pytest.mark.parametrize("action", ["query.join", "train.centre", "train.update", "train.calibrate"])
def test_an_unforeseen_error_at_a_party_names_its_type_and_nothing_else(apps, run_config, monkeypatch, action: str):
    def broken(_: Context) -> None:
        raise ValueError(f"could not convert string to float: {MARKER!r}")

    monkeypatch.setattr(client, "party_of", broken)
    context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config=run_config())
    request = RecordDict(
        {
            "fields": ConfigRecord({"terms_hash": "0", "round_number": 0, "phase": "centre"}),
            "arrays": ArrayRecord({name: Array(np.zeros(1)) for name in ("centre", "parameters", "calibration")}),
        }
    )
    reply = apps.client(Message(request, dst_node_id=1, message_type=action), context)
    assert dict(reply.content.config_records["refused"]) == {"reason": "failed: ValueError"}
    assert list(reply.content) == ["refused"]


@pytest.mark.parametrize(
    ("node", "changed", "said"),
    [
        ({}, {}, "run or node configuration: partition-id is missing"),
        ({"partition-id": 4}, {}, "partition-id: expected 0 to 3, got 4"),
        ({"partition-id": -1}, {}, "partition-id: expected 0 to 3, got -1"),
        ({"partition-id": 0}, {"arm": "none"}, "arm: expected one of"),
        ({"partition-id": 0}, {"arm": "local_only", "alone": "eve"}, "party: expected one of bank, grocer"),
        ({"partition-id": 0}, {"config": "/none.toml"}, "/none.toml: cannot be read"),
        ({"partition-id": 0}, {"changes": "privacy.epsilon=0"}, None),
    ],
)
def test_a_node_says_what_is_wrong_with_its_configuration(apps, run_config, node, changed, said):
    context = Context(run_id=1, node_id=1, node_config=node, state=RecordDict(), run_config=run_config(**changed))
    invitation = RecordDict({"fields": ConfigRecord({"terms_hash": "0"})})
    reply = apps.client(Message(invitation, dst_node_id=1, message_type="query.join"), context)
    reason = str(reply.content.config_records["refused"]["reason"])
    assert said in reason if said else "privacy.epsilon" in reason


def test_a_party_answers_nothing_but_its_four_actions(apps, run_config):
    context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config=run_config())
    for action in ("train", "train.rows", "query", "evaluate"):
        with pytest.raises(Exception, match=r"(?i)no .*function"):
            apps.client(Message(RecordDict(), dst_node_id=1, message_type=action), context)


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
