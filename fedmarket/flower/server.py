"""The body of the ServerApp: drives a coordinator over a grid. It can name no row, only terms and sums.

A run with a state folder survives its process: another ServerApp with the same folder goes on after the last round that
was closed, in the same run, so that parties need not join another. Every wait is bounded by the configuration.
"""

import json
import time
from collections.abc import Iterator, Mapping
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
from fedmarket.federation.books import plan_of
from fedmarket.federation.bundling import assumed, bundle_of_log
from fedmarket.federation.coordinator import CLOSE, JOIN, Coordinator
from fedmarket.federation.identity import load_identity
from fedmarket.federation.logbook import Logbook
from fedmarket.federation.messages import Acceptance, Refused, Replies, Requests, Told, Update
from fedmarket.federation.rehearsal import LOG, open_logbook
from fedmarket.federation.resume import begun_rounds, due_round, readmit
from fedmarket.federation.roster import load_roster
from fedmarket.federation.wire import decoded, encoded
from fedmarket.files import write_text
from fedmarket.flower.checkpoint import Nodes, StateFolder
from fedmarket.flower.exchange import exchanged
from fedmarket.flower.nodes import NodeNames
from fedmarket.flower.outcome import outcome_of
from fedmarket.flower.records import frame_in, framed, message_type, model_to_record, statistics_to_record
from fedmarket.flower.relay import SILENT, UNREACHABLE
from fedmarket.ledger.bundle import write_bundle
from fedmarket.models.released import save_model

OUTCOME = "outcome"
MODEL = "model"
STATISTICS = "statistics"

NODE_WAIT_SECONDS = 60.0

TTL_SLACK_SECONDS = 30.0
"""How long after its time-out a message may still be on its way; a node that comes back later never sees it."""

INVITATIONS, INVITATION_PAUSE_SECONDS = 3, 2.0
"""How often a node is asked to join at most, and what is between."""

NO_REPLY = "no reply in time"

DONE = "done"
"""What a run does when its model is handed on."""


def run_federation(grid: Grid, context: Context) -> None:
    """Run one federation from invitation to released model, as ``context.run_config`` says, or go on with one.

    Leaves the model, the rejections and the void rounds in ``context.state``. The model goes to the file ``output``,
    the ledgers as the log has them to the file ``bundle``, and what else the run tells to ``outcome``, where those are
    not empty.

    Raises:
        FedmarketError: if the configuration is wrong or too few parties are left.
    """
    run = context.run_config
    changes = tuple(str(run["changes"]).split("\n")) if run["changes"] else ()
    config = load_config(Path(str(run["config"])), changes=changes)
    contract = load_contract(Path(config.data.contract))
    arm, roster = arm_named(str(run["arm"])), Path(str(run["roster"])) if run["roster"] else None
    folder = StateFolder(Path(str(run["state"])) if run.get("state") else None)
    with _logbook(roster if arm.recorded else None, run) as logbook:
        coordinator = Coordinator(
            terms=terms_of(arm, config, contract, seed=int(str(run["seed"]))),
            max_void_rounds=config.federation.max_void_rounds,
            start=start_for(config, contract),
            roster=load_roster(roster) if roster else None,
            logbook=logbook,
        )
        expected, wait = int(str(run["parties"])), float(str(run.get("wait", NODE_WAIT_SECONDS)))
        names = NodeNames(path=Path(str(run["nodes"])) if run.get("nodes") else None)
        _drive(grid, coordinator, config.federation, folder, names, nodes_expected=expected, wait=wait)
        _hand_on(coordinator, config, contract, run)
    folder.tell(coordinator, DONE, model_hash=coordinator.model.hash.hex())
    context.state[MODEL] = model_to_record(coordinator.model)
    context.state[OUTCOME] = ConfigRecord(
        {
            "run": coordinator.run,
            "rejections": json.dumps([asdict(rejection) for rejection in coordinator.rejections]),
            "void_rounds": json.dumps([asdict(void) for void in coordinator.void_rounds]),
        }
    )
    context.state[STATISTICS] = statistics_to_record(coordinator.statistics)


@contextmanager
def _logbook(roster: Path | None, run: Mapping[str, object]) -> Iterator[Logbook | None]:
    """Give the server's log: the operator's, where the run configuration names one, else that of a rehearsal."""
    if roster is None:
        yield None
        return
    if home := str(run.get("log", "")):
        identity, origin = load_identity(Path(home) / f"{LOG}.pem"), str(run["log_name"])
        logbook = Logbook.open(Path(home) / LOG, identity, origin=origin, roster=load_roster(roster))
    else:
        logbook = open_logbook(roster)
    try:
        yield logbook
    finally:
        logbook.close()


def _drive(
    grid: Grid,
    coordinator: Coordinator,
    config: FederationSection,
    folder: StateFolder,
    names: NodeNames,
    *,
    nodes_expected: int,
    wait: float,
) -> None:
    known = folder.restore(coordinator)
    if known is None:
        folder.keep(coordinator, {})  # who is invited may join: from now on there is only this run
    # A run that goes on needs no more nodes than its rounds do.
    least = nodes_expected if not known else min(nodes_expected, coordinator.terms.minimum_survivors)
    nodes: list[int] = []
    for nodes, missing in _arriving(grid, names, nodes_expected, least=least, wait=wait):
        folder.tell(coordinator, f"waiting for {missing or f'{len(nodes)} nodes to join'}")
    replies = _invite(grid, coordinator, nodes, timeout=config.reply_timeout_seconds)
    parties = _admit(coordinator, nodes, replies, names, known=known or {})
    folder.keep(coordinator, parties)
    while not coordinator.finished:
        before = begun_rounds(coordinator), due_round(coordinator)
        requests = coordinator.requests()
        if begun_rounds(coordinator) != before[0]:
            folder.keep(coordinator, parties)
        folder.tell(coordinator, str(coordinator.step))
        timeout = config.training_timeout_seconds if coordinator.step in RELEASING else config.reply_timeout_seconds
        asked = {node: requests[party] for node, party in parties.items() if party in requests}
        _receive(coordinator, parties, asked, _ask_steps(grid, asked, timeout))
        coordinator.close_step()
        if due_round(coordinator) != before[1]:
            folder.keep(coordinator, parties)
    for last in (False, True):
        folder.tell(coordinator, CLOSE)
        _close(grid, coordinator, parties, last=last, timeout=config.reply_timeout_seconds)
    coordinator.seal()


def _close(grid: Grid, coordinator: Coordinator, parties: dict[int, str], *, last: bool, timeout: float) -> None:
    """Ask for the ledgers' last entries, then for cosignatures of the log that has them."""
    closings = coordinator.closings(last=last)
    asked = {
        node: ("query.close", framed(encoded(closings[party]))) for node, party in parties.items() if party in closings
    }
    replies = _ask(grid, asked, timeout) if asked else {}
    for node in asked:
        try:
            coordinator.receive_closing(parties[node], decoded(Told, _frame(replies, node)))
        except BadMessage as error:
            coordinator.reject(parties[node], str(error))


def _arriving(
    grid: Grid, names: NodeNames, expected: int, *, least: int, wait: float
) -> Iterator[tuple[list[int], str]]:
    """Wait, for a bounded time, until ``expected`` nodes are there; ``least`` must be.

    Gives who is there and who is missing, as often as that changes; at last all that are there, and nobody missing.
    """
    until, told = time.monotonic() + wait, ""
    while len(nodes := sorted(grid.get_node_ids())) < expected:
        missing = names.missing(nodes, expected)
        if time.monotonic() > until:
            if len(nodes) >= least:
                break
            raise FederationStopped(f"{len(nodes)} nodes after {wait:g} s, expected {least}; waited for {missing}")
        if missing != told:
            yield nodes, missing
            told = missing
        time.sleep(0.2)
    yield nodes, ""


def _ask_steps(grid: Grid, asked: dict[int, Requests], timeout: float) -> dict[int, Message]:
    contents = {
        node: (message_type(requests.requests[0].step), framed(encoded(requests))) for node, requests in asked.items()
    }
    return _ask(grid, contents, timeout)


def _ask(grid: Grid, contents: dict[int, tuple[str, RecordDict]], timeout: float) -> dict[int, Message]:
    """Send each node its kind of message and content; return the replies by node, of a silent one none.

    A node that is not connected is not asked: it would cost the whole time.
    """
    there = set(grid.get_node_ids())
    messages = [
        Message(content, dst_node_id=node, message_type=action, ttl=timeout + TTL_SLACK_SECONDS)
        for node, (action, content) in contents.items()
        if node in there
    ]
    return {reply.metadata.src_node_id: reply for reply in exchanged(grid, messages, timeout=timeout)}


def _invite(grid: Grid, coordinator: Coordinator, nodes: list[int], *, timeout: float) -> dict[int, Message]:
    """Return the nodes' answers to the invitation.

    A party that is away for a moment, as one that is started again, is asked again: it would miss the whole run.
    """
    invitation = f"query.{JOIN}", framed(encoded(coordinator.invitation()))
    replies: dict[int, Message] = {}
    for attempt in range(INVITATIONS):
        away = [node for node in nodes if _away(replies, node)]
        if not away:
            break
        time.sleep(INVITATION_PAUSE_SECONDS if attempt else 0.0)
        replies |= _ask(grid, dict.fromkeys(away, invitation), timeout)
    return replies


def _away(replies: dict[int, Message], node: int) -> bool:
    try:
        decoded(Acceptance, _frame(replies, node))
    except BadMessage as error:
        return str(error) in (NO_REPLY, UNREACHABLE, SILENT)
    return False


def _admit(
    coordinator: Coordinator, nodes: list[int], replies: dict[int, Message], names: NodeNames, *, known: Nodes
) -> dict[int, str]:
    """Return the name of the party at each node that joined.

    Of a run that goes on, ``known`` says who was where. Who was in it and is silent now stays in it: what it remembers
    decides whether it answers later.
    """
    parties: dict[int, str] = {}
    for node in nodes:
        try:
            acceptance = decoded(Acceptance, _frame(replies, node))
            if acceptance.party in parties.values():
                raise BadMessage("a second party of the same name")
            readmit(coordinator, acceptance)
            parties[node] = acceptance.party
        except BadMessage as error:
            coordinator.reject(names.of(node), str(error))
    back = set(parties.values())
    return parties | {node: party for node, party in known.items() if node not in replies and party not in back}


def _receive(
    coordinator: Coordinator, parties: dict[int, str], asked: dict[int, Requests], replies: dict[int, Message]
) -> None:
    for node in sorted(asked, key=lambda node: parties[node]):
        requests, party = asked[node].requests, parties[node]
        for request, reply in zip(requests, _replies_of(replies, node, len(requests)), strict=True):
            try:
                if isinstance(reply, Refused):
                    raise BadMessage(reply.line)
                if reply.party != party:
                    raise BadMessage("an update in the name of another party")
                coordinator.receive(reply)
            except BadMessage as error:
                coordinator.reject(party, str(error), request=request)


def _replies_of(replies: dict[int, Message], node: int, expected: int) -> tuple[Update | Refused, ...]:
    """Return a node's reply to each of its requests; what is wrong with all of them is wrong with each."""
    try:
        found = decoded(Replies, _frame(replies, node)).replies
        if len(found) != expected:
            raise BadMessage(f"expected {expected} replies, got {len(found)}")
    except BadMessage as error:
        return (Refused(reason=str(error)),) * expected
    return found


def _frame(replies: dict[int, Message], node: int) -> bytes:
    if node not in replies:
        raise BadMessage(NO_REPLY)
    reply = replies[node]
    if reply.has_error():
        raise BadMessage(f"the node's app failed (Flower error {reply.error.code})")
    return frame_in(reply.content)


def _hand_on(coordinator: Coordinator, config: ExperimentConfig, contract: Contract, run: Mapping[str, object]) -> None:
    model, bundle, outcome = (str(run.get(key, "")) for key in ("output", "bundle", "outcome"))
    if bundle and coordinator.logbook:
        listed = assumed(coordinator.run.hex(), plan_of(coordinator.terms))
        write_bundle(bundle_of_log(coordinator.logbook, [listed]), Path(bundle), replace=True)
    if outcome:
        write_text(Path(outcome), json.dumps(outcome_of(coordinator, contract), indent=1, ensure_ascii=False) + "\n")
    if model:
        private = coordinator.terms.plan.private
        save_model(Path(model), coordinator.model, model=config.model, contract=contract, private=private)
