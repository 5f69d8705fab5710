"""The body of the ServerApp: drives a coordinator over a grid. It can name no row, only terms and sums."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid

from fedmarket.aggregation.steps import RELEASING
from fedmarket.config import ExperimentConfig, FederationSection, load_config
from fedmarket.contract.schema import Contract, load_contract
from fedmarket.errors import BadMessage, FederationStopped
from fedmarket.experiment.arms import arm_named, start_for, terms_of
from fedmarket.federation.coordinator import Coordinator
from fedmarket.federation.logbook import Logbook
from fedmarket.federation.messages import Acceptance, Told, Update
from fedmarket.federation.rehearsal import open_logbook
from fedmarket.federation.roster import load_roster
from fedmarket.federation.wire import decoded, encoded
from fedmarket.flower.records import frame_in, framed, message_type, model_to_record, statistics_to_record
from fedmarket.models.released import save_model

OUTCOME = "outcome"
MODEL = "model"
STATISTICS = "statistics"

NODE_WAIT_SECONDS = 60.0


def run_federation(grid: Grid, context: Context) -> None:
    """Run one federation from invitation to released model, as ``context.run_config`` says.

    Leaves the model, the rejections and the void rounds in ``context.state``, and the model in the file ``output`` if
    that is not empty.

    Raises:
        FedmarketError: if the configuration is wrong or too few parties are left.
    """
    run = context.run_config
    changes = tuple(str(run["changes"]).split("\n")) if run["changes"] else ()
    config = load_config(Path(str(run["config"])), changes=changes)
    contract = load_contract(Path(config.data.contract))
    arm, roster = arm_named(str(run["arm"])), Path(str(run["roster"])) if run["roster"] else None
    with _logbook(roster if arm.recorded else None) as logbook:
        coordinator = Coordinator(
            terms=terms_of(arm, config, contract, seed=int(str(run["seed"]))),
            max_void_rounds=config.federation.max_void_rounds,
            start=start_for(config, contract),
            roster=load_roster(roster) if roster else None,
            logbook=logbook,
        )
        _drive(grid, coordinator, config.federation, nodes_expected=int(str(run["parties"])))
    context.state[MODEL] = model_to_record(coordinator.model)
    context.state[OUTCOME] = ConfigRecord(
        {
            "run": coordinator.run,
            "rejections": json.dumps([asdict(rejection) for rejection in coordinator.rejections]),
            "void_rounds": json.dumps([asdict(void) for void in coordinator.void_rounds]),
        }
    )
    context.state[STATISTICS] = statistics_to_record(coordinator.statistics)
    _save(coordinator, config, contract, output=str(run["output"]))


@contextmanager
def _logbook(roster: Path | None) -> Iterator[Logbook | None]:
    if roster is None:
        yield None
        return
    logbook = open_logbook(roster)
    try:
        yield logbook
    finally:
        logbook.close()


def _drive(grid: Grid, coordinator: Coordinator, config: FederationSection, *, nodes_expected: int) -> None:
    nodes = _nodes(grid, nodes_expected)
    invitation = framed(encoded(coordinator.invitation()))
    replies = _ask(grid, dict.fromkeys(nodes, invitation), "query.join", config.reply_timeout_seconds)
    parties = _admit(coordinator, nodes, replies)
    while not coordinator.finished:
        requests = coordinator.requests()
        computing = coordinator.step in RELEASING
        asked = {node: framed(encoded(requests[party])) for node, party in parties.items() if party in requests}
        timeout = config.training_timeout_seconds if computing else config.reply_timeout_seconds
        replies = _ask(grid, asked, message_type(coordinator.step), timeout)
        _receive(coordinator, {node: parties[node] for node in asked}, replies)
        coordinator.close_step()
    for last in (False, True):
        _close(grid, coordinator, parties, last=last, timeout=config.reply_timeout_seconds)
    coordinator.seal()


def _close(grid: Grid, coordinator: Coordinator, parties: dict[int, str], *, last: bool, timeout: float) -> None:
    """Ask for the ledgers' last entries, then for cosignatures of the log that has them."""
    closings = coordinator.closings(last=last)
    asked = {node: framed(encoded(closings[party])) for node, party in parties.items() if party in closings}
    replies = _ask(grid, asked, "query.close", timeout) if asked else {}
    for node in asked:
        try:
            coordinator.receive_closing(parties[node], decoded(Told, _frame(replies, node)))
        except BadMessage as error:
            coordinator.reject(parties[node], str(error))


def _nodes(grid: Grid, expected: int) -> list[int]:
    """Wait, for a bounded time, until ``expected`` nodes are there, and return them all."""
    until = time.monotonic() + NODE_WAIT_SECONDS
    while len(nodes := sorted(grid.get_node_ids())) < expected:
        if time.monotonic() > until:
            raise FederationStopped(f"{len(nodes)} nodes after {NODE_WAIT_SECONDS:g} s, expected {expected}")
        time.sleep(0.2)
    return nodes


def _ask(grid: Grid, contents: dict[int, RecordDict], action: str, timeout: float) -> dict[int, Message]:
    """Send each node its content and return the replies by node; one silent for ``timeout`` seconds has none."""
    messages = [Message(content, dst_node_id=node, message_type=action) for node, content in contents.items()]
    return {reply.metadata.src_node_id: reply for reply in grid.send_and_receive(messages, timeout=timeout)}


def _admit(coordinator: Coordinator, nodes: list[int], replies: dict[int, Message]) -> dict[int, str]:
    """Return the name of the party at each node that joined."""
    parties: dict[int, str] = {}
    for node in nodes:
        try:
            acceptance = decoded(Acceptance, _frame(replies, node))
            coordinator.admit(acceptance)
            parties[node] = acceptance.party
        except BadMessage as error:
            coordinator.reject(f"node {node}", str(error))
    return parties


def _receive(coordinator: Coordinator, parties: dict[int, str], replies: dict[int, Message]) -> None:
    for node, party in sorted(parties.items(), key=lambda item: item[1]):
        try:
            update = decoded(Update, _frame(replies, node))
            if update.party != party:
                raise BadMessage("an update in the name of another party")
            coordinator.receive(update)
        except BadMessage as error:
            coordinator.reject(party, str(error))


def _frame(replies: dict[int, Message], node: int) -> bytes:
    if node not in replies:
        raise BadMessage("no reply in time")
    reply = replies[node]
    if reply.has_error():
        raise BadMessage(f"the node's app failed (Flower error {reply.error.code})")
    return frame_in(reply.content)


def _save(coordinator: Coordinator, config: ExperimentConfig, contract: Contract, *, output: str) -> None:
    if output:
        private = coordinator.terms.plan.private
        save_model(Path(output), coordinator.model, model=config.model, contract=contract, private=private)
