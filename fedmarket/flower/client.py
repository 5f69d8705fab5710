"""The body of the ClientApp: opens the node's party and lets it answer. No number of a row passes through here."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial, wraps
from pathlib import Path

from flwr.app import ConfigRecord, Context, Message, RecordDict

from fedmarket.errors import BadMessage, ConfigError, ProtocolError, UsageError
from fedmarket.experiment.arms import arm_named
from fedmarket.experiment.market import Market, MarketKey, open_market
from fedmarket.federation.books import Books
from fedmarket.federation.party import Party, PartyState
from fedmarket.federation.rehearsal import load_seat, open_books
from fedmarket.flower.codec import (
    acceptance_to_records,
    closing_from_records,
    invitation_from_records,
    message_type,
    refusal_to_records,
    request_from_records,
    told_to_records,
    update_to_records,
)
from fedmarket.privacy.budget import Spending

STATE = "fedmarket"

Answer = Callable[[Message, Context], RecordDict]


def _answering(answer: Answer) -> Callable[[Message, Context], Message]:
    """Turn what goes wrong into a refusal: with its reason where that is about messages, else with its type alone."""

    @wraps(answer)
    def reply(message: Message, context: Context) -> Message:
        try:
            return Message(answer(message, context), reply_to=message)
        except (ProtocolError, UsageError) as error:
            return Message(refusal_to_records(str(error)), reply_to=message)
        except Exception as error:  # what is wrong with rows is said with counts, and stays at home
            return Message(refusal_to_records(f"failed: {type(error).__name__}"), reply_to=message)

    return reply


@_answering
def join(message: Message, context: Context) -> RecordDict:
    """Answer an invitation with the party's name, declared size and hash of its own terms."""
    invitation = invitation_from_records(message.content)
    with party_of(context) as party:
        return acceptance_to_records(party.join(_state(context), invitation, keep=partial(_keep, context)))


@_answering
def answer(message: Message, context: Context) -> RecordDict:
    """Answer one step of a round; what is spent is kept before the sum is computed."""
    request = request_from_records(message.content)
    if message.metadata.message_type != message_type(request.step):
        raise BadMessage(f"the step {request.step} came as another kind of message")
    with party_of(context) as party:
        return update_to_records(party.answer(_state(context), request, keep=partial(_keep, context)))


@_answering
def close(message: Message, context: Context) -> RecordDict:
    """Answer a closing with the last entries of the ledger, or the cosignature of the log."""
    closing = closing_from_records(message.content)
    with party_of(context) as party:
        return RecordDict(told_to_records(party.close(_state(context), closing)))


@contextmanager
def party_of(context: Context) -> Iterator[Party]:
    """Give the party that this node is, by its own node configuration, with its books open.

    Raises:
        FedmarketError: if the node or run configuration misses a key, or what it names cannot be used.
    """
    run = context.run_config
    try:
        partition = int(str(context.node_config["partition-id"]))
        changes = tuple(str(run["changes"]).split("\n")) if run["changes"] else ()
        key = MarketKey(config=Path(str(run["config"])), changes=changes, seed=int(str(run["seed"])))
        arm, roster = arm_named(str(run["arm"])), str(run["roster"])
        market = open_market(key)
        party = _simulated_party(market, arm.name, str(run["alone"]), roster, partition)
    except KeyError as error:
        raise ConfigError(f"run or node configuration: {error.args[0]} is missing") from None
    if not (roster and arm.recorded):
        yield party
        return
    with _books(market, party, Path(roster)) as party.books:
        yield party


_kept: dict[tuple[Path, str], Books] | None = None


@contextmanager
def books_kept_open() -> Iterator[None]:
    """Within, books stay open from message to message, as this process alone answers for their parties.

    Elsewhere each message may be answered by another process, so each opens them and gives them up again.
    """
    global _kept  # noqa: PLW0603 - Flower's apps are functions of a module; what they share is a module's
    before, _kept = _kept, {}
    try:
        yield
    finally:
        for books in _kept.values():
            books.close()
        _kept = before


@contextmanager
def _books(market: Market, party: Party, roster: Path) -> Iterator[Books]:
    key = (roster, party.name)
    books = _kept.get(key) if _kept is not None else None
    if books is None:
        cap, rows = market.config.privacy.epsilon, market.row_hashes(party.name)
        books = open_books(roster, party.name, plan=party.terms.plan, cap=cap, rows=rows)
    if _kept is not None:
        _kept[key] = books
        yield books
        return
    try:
        yield books
    finally:
        books.close()


def state_to_record(state: PartyState) -> ConfigRecord:
    """Return the record in which Flower keeps ``state`` at the party between messages, secrets of a round in clear."""
    record = ConfigRecord({str(phase): count for phase, count in state.spending.releases().items()})
    record["run"] = state.run
    record["last_round"] = state.last_round
    record["model_hash"] = state.model_hash
    record["secagg"] = state.secagg
    return record


def state_from_record(record: ConfigRecord) -> PartyState:
    """Return the state kept in ``record``."""
    counts = {name: int(str(record[name])) for name in Spending().releases()}
    return PartyState(
        last_round=int(str(record["last_round"])),
        spending=Spending(**counts),
        **{name: record[name] for name in ("run", "model_hash", "secagg")},  # type: ignore[arg-type]
    )


def _state(context: Context) -> PartyState:
    record = context.state.get(STATE)
    return state_from_record(record) if isinstance(record, ConfigRecord) else PartyState()


def _keep(context: Context, state: PartyState) -> None:
    context.state[STATE] = state_to_record(state)


@lru_cache(maxsize=32)
def _simulated_party(market: Market, arm_name: str, alone: str, roster: str, partition: int) -> Party:
    arm = arm_named(arm_name)
    holders = market.holders(arm, alone=alone)
    if not 0 <= partition < len(holders):
        raise ConfigError(f"partition-id: expected 0 to {len(holders) - 1}, got {partition}")
    name = holders[partition]
    masked = roster and arm.recorded and market.config.aggregation.secagg == "secure"
    return market.party(arm, name, seat=load_seat(Path(roster), name) if masked else None)
