"""Both apps in one process: Flower's ``Grid`` without sockets, processes or Ray.

A message costs about a millisecond instead of seconds. Flower does not promise that a ``Grid`` can be written outside
of it, so its version is pinned exactly.
"""

import itertools
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from fedmarket.errors import ConfigError
from fedmarket.federation.messages import Rejection, VoidRound
from fedmarket.federation.party import PartyState
from fedmarket.files import read_toml
from fedmarket.flower.client import STATE, books_kept_open, state_from_record
from fedmarket.flower.records import ARRAYS, FRAME, RECORD, model_from_record, statistics_from_record
from fedmarket.flower.server import MODEL, OUTCOME, STATISTICS
from fedmarket.models.state import ModelState
from fedmarket.privacy.histogram import Statistics

RunConfig = dict[str, bool | float | int | str]
OnExchange = Callable[[str], None]

RUN_ID = 1
SERVER_NODE = 0

APP_FAILED = 1
"""Flower's error code for a client app that raised."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Apps:
    """The ServerApp and the ClientApp of a project folder."""

    server: ServerApp
    client: ClientApp


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one run leaves behind: its id, the model, each node's state, what was rejected, and what travelled."""

    run: bytes
    model: ModelState = field(repr=False)
    states: tuple[PartyState, ...]
    rejections: tuple[Rejection, ...]
    void_rounds: tuple[VoidRound, ...]
    statistics: Statistics = field(repr=False)
    messages: int
    largest_bytes_up: int


class InProcessGrid(Grid):
    """A grid whose nodes are contexts in this process, asked one after the other.

    Attributes:
        messages: how many messages reached a node.
        bytes_up: bytes of its answers that each node has sent.
    """

    def __init__(self, client: ClientApp, contexts: dict[int, Context], *, on_exchange: OnExchange) -> None:
        self._client = client
        self._contexts = contexts
        self._on_exchange = on_exchange
        self._run = Run.create_empty(run_id=RUN_ID)
        self._numbers = itertools.count(1)
        self._replies: dict[str, Message] = {}
        self.messages = 0
        self.bytes_up = dict.fromkeys(contexts, 0)

    def set_run(self, run: Run) -> None:
        """See :class:`flwr.serverapp.Grid`."""
        self._run = run

    @property
    def run(self) -> Run:
        """See :class:`flwr.serverapp.Grid`."""
        return self._run

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """See :class:`flwr.serverapp.Grid`."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> Iterable[int]:
        """See :class:`flwr.serverapp.Grid`."""
        return list(self._contexts)

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        """Deliver each message at once; the node's reply waits to be pulled."""
        return [self._deliver(message) for message in messages]

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        """Return the replies that wait, each once."""
        return [self._replies.pop(number) for number in message_ids if number in self._replies]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> Iterable[Message]:
        """Deliver the messages and return the replies; nodes answer before it returns, so nothing times out."""
        del timeout
        sent = list(messages)
        replies = self.pull_messages(self.push_messages(sent))
        if sent:
            self._on_exchange(sent[0].metadata.message_type)
        return replies

    def _deliver(self, message: Message) -> str:
        number = str(next(self._numbers))
        node = message.metadata.dst_node_id
        message.metadata.__dict__["_message_id"] = number  # as a SuperLink does
        self.messages += 1
        try:
            reply = self._client(message, self._contexts[node])
        except Exception as error:
            reply = Message(Error(APP_FAILED, type(error).__name__), reply_to=message)
        reply.metadata.__dict__["_src_node_id"] = node
        if reply.has_content():
            self.bytes_up[node] += _content_size(reply.content)
        self._replies[number] = reply
        return number


def run_in_process(
    apps: Apps,
    run_config: RunConfig,
    *,
    nodes: int,
    on_exchange: OnExchange = lambda _: None,
    grid_type: type[InProcessGrid] = InProcessGrid,
) -> Outcome:
    """Run one federation of ``nodes`` nodes with both apps in this process.

    Args:
        apps: of the project.
        run_config: what the ServerApp is told.
        nodes: how many.
        on_exchange: told what was asked, after each exchange.
        grid_type: what carries the messages.

    Raises:
        FedmarketError: whatever stops the run, as the ServerApp raises it.
    """
    contexts = {
        number + 1: Context(
            run_id=RUN_ID,
            node_id=number + 1,
            node_config={"partition-id": number, "num-partitions": nodes},
            state=RecordDict(),
            run_config=dict(run_config),
        )
        for number in range(nodes)
    }
    # Flower stamps every message with the identity of the process that it runs in.
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = RUN_ID, SERVER_NODE, 0
    grid = grid_type(apps.client, contexts, on_exchange=on_exchange)
    context = Context(
        run_id=RUN_ID, node_id=SERVER_NODE, node_config={}, state=RecordDict(), run_config=dict(run_config)
    )
    with books_kept_open():
        apps.server(grid, context)
    if not {MODEL, STATISTICS, OUTCOME} <= set(context.state):
        raise ConfigError("the ServerApp left no model and outcome; is it fedmarket's?")
    return Outcome(
        run=_run_of(context),
        model=model_from_record(RecordDict({"arrays": context.state[MODEL]})),
        states=tuple(_state(node) for node in contexts.values()),
        rejections=tuple(Rejection(**fields) for fields in _listed(context, "rejections")),
        void_rounds=tuple(VoidRound(**fields) for fields in _listed(context, "void_rounds")),
        statistics=statistics_from_record(RecordDict({ARRAYS: context.state[STATISTICS]})),
        messages=grid.messages,
        largest_bytes_up=max(grid.bytes_up.values()),
    )


def load_apps(start: Path) -> Apps:
    """Return the apps that the nearest ``pyproject.toml`` at or above ``start`` (or the working folder) names.

    Raises:
        ConfigError: if none names them.
    """
    for folder in (start, *start.parents, Path.cwd(), *Path.cwd().parents):
        project = folder / "pyproject.toml"
        if project.is_file():
            components = read_toml(project).get("tool", {}).get("flwr", {}).get("app", {}).get("components", {})
            if {"serverapp", "clientapp"} <= set(components):
                return Apps(
                    server=_load(folder, components["serverapp"]), client=_load(folder, components["clientapp"])
                )
    raise ConfigError(f"{start}: no pyproject.toml with [tool.flwr.app.components] here or above; run in a checkout")


def _load(folder: Path, reference: str) -> Any:
    """Load ``package.module:name`` from its file, under a name of its own that no installed package can shadow."""
    module_name, _, attribute = reference.partition(":")
    path = folder.joinpath(*module_name.split(".")).with_suffix(".py")
    spec = spec_from_file_location(f"fedmarket_app.{module_name}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ConfigError(f"{path}: no such file, although pyproject.toml names {reference}")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    try:
        return getattr(module, attribute)
    except AttributeError:
        raise ConfigError(f"{path}: no {attribute!r} there, although pyproject.toml names {reference}") from None


def _content_size(records: RecordDict) -> int:
    record = records.get(RECORD)
    frame = record.get(FRAME) if isinstance(record, ConfigRecord) else None
    return len(frame) if isinstance(frame, bytes) else 0


def _state(context: Context) -> PartyState:
    record = context.state.config_records.get(STATE)
    return state_from_record(record) if record is not None else PartyState()


def _run_of(context: Context) -> bytes:
    run = context.state.config_records[OUTCOME]["run"]
    return run if isinstance(run, bytes) else b""


def _listed(context: Context, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(str(context.state.config_records[OUTCOME][name]))
    return found
