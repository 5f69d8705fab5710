"""The project's two apps, a tiny market for them, and runs in which a node answers as it likes or not at all."""

from collections.abc import Callable, Container
from pathlib import Path

import msgpack
import pytest
from flwr.app import Context, Message, RecordDict

from fedmarket.errors import BadMessage
from fedmarket.experiment.market import MarketKey, open_market
from fedmarket.federation.messages import Replies
from fedmarket.federation.rehearsal import rehearse
from fedmarket.federation.wire import decoded
from fedmarket.flower import inprocess
from fedmarket.flower.inprocess import Apps, Outcome, RunConfig, load_apps, run_in_process
from fedmarket.flower.records import MODEL_ARRAYS, frame_in, framed, message_type

ROOT = Path(__file__).parents[2]
OPEN = "aggregation.secagg=ideal"


MakeRunConfig = Callable[..., RunConfig]
Client = Callable[[Message, Context], Message]


def fields_in(records: RecordDict) -> dict[str, object]:
    """Return the fields of the message in records, of several requests or replies those of the first."""
    found = msgpack.unpackb(frame_in(records), strict_map_key=False)
    first, *_ = found.get("requests") or found.get("replies") or [found]
    return first


@pytest.fixture(scope="session")
def fields_of() -> Callable[[RecordDict], dict[str, object]]:
    """Return a reader of the fields of the message in records."""
    return fields_in


def one_by_one(client: Client) -> Client:
    """Return a client that hears each request of an exchange as a message of its own, and may fail in each."""

    def answer(message: Message, context: Context) -> Message:
        found = msgpack.unpackb(frame_in(message.content), strict_map_key=False)
        if len(found.get("requests", ())) < 2:
            return client(message, context)
        replies = [reply for request in found["requests"] for reply in replies_to(request, message, context)]
        return Message(framed(msgpack.packb({"replies": replies})), reply_to=message)

    def replies_to(request: dict[str, object], message: Message, context: Context) -> list[object]:
        content = framed(msgpack.packb({"requests": [request]}))
        alone = Message(content, message.metadata.dst_node_id, message_type(request["step"]))
        alone.metadata.__dict__["_message_id"] = message.metadata.message_id
        try:
            reply = client(alone, context)
        except Exception:
            return [{"reason": "the node's app failed (Flower error 1)"}]
        if reply.has_error():
            return [{"reason": f"the node's app failed (Flower error {reply.error.code})"}]
        try:
            decoded(Replies, frame_in(reply.content))
        except BadMessage as error:
            return [{"reason": str(error)}]
        return msgpack.unpackb(frame_in(reply.content), strict_map_key=False)["replies"]

    return answer


@pytest.fixture(scope="session")
def apps() -> Apps:
    return load_apps(ROOT)


@pytest.fixture(scope="session")
def run_config(write_market, tmp_path_factory: pytest.TempPathFactory) -> MakeRunConfig:
    """Return a maker of run configurations for four parties of the tiny market, masked or, for ``sum``, in the open.

    Keys and books are new in each: with the same, a second run would pass the cap.
    """
    path = write_market(tmp_path_factory.mktemp("market"))
    names = open_market(MarketKey(config=path, changes=(), seed=0)).names

    def make(*changes: str, step: str = "mask", **changed: object) -> RunConfig:
        secure = step != "sum"
        roster = rehearse(tmp_path_factory.mktemp("roster"), names, minimum_survivors=3 if secure else None)
        fields = {"config": str(path), "arm": "federated_dp", "seed": 0, "alone": "", "parties": 4, "output": ""}
        fields |= {"changes": "\n".join(changes if secure else (OPEN, *changes)), "roster": str(roster)}
        return fields | changed

    return make


@pytest.fixture(scope="session")
def run_with(apps: Apps) -> Callable[..., Outcome]:
    """Return a runner of a federation whose nodes are the given function."""

    def run(run_config: RunConfig, client: Client) -> Outcome:
        return run_in_process(Apps(server=apps.server, client=one_by_one(client)), run_config, nodes=4)

    return run


@pytest.fixture
def silenced(apps: Apps, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """Return a runner of a federation in which ``nodes`` hear nothing of ``step`` in ``rounds``."""

    def run(run_config: RunConfig, *, nodes: Container[int], step: str, rounds: Container[int]) -> Outcome:
        def deaf(grid, messages, *, timeout=None):
            return grid.pull_messages(grid.push_messages(m for m in messages if not (alone(m) and lost(m))))

        def alone(message: Message) -> bool:
            found = msgpack.unpackb(frame_in(message.content), strict_map_key=False)
            return len(found.get("requests", ())) < 2

        def lost(message: Message) -> bool:
            action = message.metadata.message_type.partition(".")[2]
            number = fields_in(message.content).get("round_number")
            return message.metadata.dst_node_id in nodes and action == step and number in rounds

        def half_deaf(message: Message, context: Context) -> Message:
            if lost(message):
                return Message(framed(msgpack.packb({"reason": "no reply in time"})), reply_to=message)
            return apps.client(message, context)

        with monkeypatch.context() as patch:
            patch.setattr(inprocess.InProcessGrid, "send_and_receive", deaf)
            return run_in_process(Apps(server=apps.server, client=one_by_one(half_deaf)), run_config, nodes=4)

    return run


Released = Callable[[Outcome], tuple[object, ...]]


@pytest.fixture(scope="session")
def released() -> Released:
    """Return what leaves a run, to the last bit: the model's numbers, and the counts of its scores."""

    def of(outcome: Outcome) -> tuple[object, ...]:
        scores = outcome.statistics.scores
        model = (getattr(outcome.model, part).tobytes() for part in MODEL_ARRAYS)
        return *model, scores and (scores.counts.tobytes(), scores.typical, scores.noise_std)

    return of


@pytest.fixture(scope="session")
def same(released: Released) -> Callable[[Outcome, Outcome], bool]:
    """Return whether the same left two runs."""
    return lambda one, other: released(one) == released(other)


@pytest.fixture(scope="session")
def honest(apps: Apps, run_config) -> Outcome:
    """What the run gives in the open."""
    return run_in_process(apps, run_config(step="sum"), nodes=4)
