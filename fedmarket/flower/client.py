"""The body of the ClientApp: opens the node's party and lets it answer. No number of a row passes through here."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from flwr.app import ConfigRecord, Context, Message

from fedmarket.errors import ConfigError
from fedmarket.experiment.arms import arm_named
from fedmarket.experiment.market import Market, MarketKey, open_market
from fedmarket.federation.answering import answered, question_in, refusal
from fedmarket.federation.books import Books
from fedmarket.federation.party import Party, PartyState
from fedmarket.federation.rehearsal import load_seat, open_books
from fedmarket.federation.wire import encoded
from fedmarket.flower.records import frame_in, framed
from fedmarket.privacy.budget import Spending

STATE = "fedmarket"


def answer(message: Message, context: Context) -> Message:
    """Answer a coordinator's message; what the party is to remember is in the context before its answer leaves.

    One record of the last state is enough. Flower takes answer and context when its app returns; an answer that fails
    leaves the record behind, what was spent included; and what ends the whole process before lets nothing leave.
    """
    kept: list[PartyState] = []
    try:
        action = message.metadata.message_type.partition(".")[2]
        with party_of(context) as party:
            question = question_in(action, frame_in(message.content))
            frame = encoded(answered(question, party=party, state=_state(context), keep=kept.append))
    except Exception as error:
        frame = refusal(error)
    finally:
        if kept:
            context.state[STATE] = state_to_record(kept[-1])
    return Message(framed(frame), reply_to=message)


@contextmanager
def party_of(context: Context) -> Iterator[Party]:
    """Give the party that this node is, by its own node configuration, with its books open.

    Raises:
        FedmarketError: if the node or run configuration misses a key, or what it names cannot be used.
    """
    run = context.run_config
    try:
        partition = int(str(context.node_config["partition-id"]))
        arm, roster = arm_named(str(run["arm"])), str(run["roster"])
        market = open_market(_market_key(str(run["config"]), str(run["changes"]), int(str(run["seed"]))))
        party = _party(market, arm.name, str(run["alone"]), roster, partition)
    except KeyError as error:
        raise ConfigError(f"run or node configuration: {error.args[0]} is missing") from None
    if not (roster and arm.recorded):
        yield party
        return
    with _books(market, party, Path(roster)) as party.books:
        yield party


@dataclass(frozen=True, slots=True)
class _Kept:
    """What a run's parties hold in this process: themselves by their partition, and their open books."""

    parties: dict[int, Party] = field(default_factory=dict)
    books: dict[tuple[Path, str], Books] = field(default_factory=dict)


_kept: _Kept | None = None


@contextmanager
def books_kept_open() -> Iterator[None]:
    """Within one run, parties and their books stay from message to message, as this process alone answers for them.

    Elsewhere each message may be answered by another process, so each opens the books and gives them up again.
    """
    global _kept  # noqa: PLW0603 - Flower's apps are functions of a module; what they share is a module's
    before, _kept = _kept, _Kept()
    try:
        yield
    finally:
        for books in _kept.books.values():
            books.close()
        _kept = before


@contextmanager
def _books(market: Market, party: Party, roster: Path) -> Iterator[Books]:
    key = (roster, party.name)
    books = _kept.books.get(key) if _kept is not None else None
    if books is None:
        cap, rows = market.config.privacy.epsilon, market.row_hashes(party.name)
        books = open_books(roster, party.name, plan=party.terms.plan, cap=cap, rows=rows)
    if _kept is not None:
        _kept.books[key] = books
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
    record["last_round"], record["last_masked"] = state.last_round, state.last_masked
    record["open"], record["secagg"] = list(state.open), list(state.open.values())
    return record


def state_from_record(record: ConfigRecord) -> PartyState:
    """Return the state kept in ``record``."""
    counts = {name: int(str(record[name])) for name in Spending().releases()}
    kept: dict[str, Any] = dict(record)
    return PartyState(
        run=kept["run"],
        last_round=kept["last_round"],
        last_masked=kept["last_masked"],
        spending=Spending(**counts),
        open=dict(zip(kept["open"], kept["secagg"], strict=True)),
    )


def _state(context: Context) -> PartyState:
    record = context.state.get(STATE)
    return state_from_record(record) if isinstance(record, ConfigRecord) else PartyState()


@lru_cache(maxsize=32)
def _market_key(config: str, changes: str, seed: int) -> MarketKey:
    return MarketKey(config=Path(config), changes=tuple(changes.split("\n")) if changes else (), seed=seed)


def _party(market: Market, arm_name: str, alone: str, roster: str, partition: int) -> Party:
    if _kept is None:
        return _found(market, arm_name, alone, roster, partition)
    if partition not in _kept.parties:
        _kept.parties[partition] = _simulated_party(market, arm_name, alone, roster, partition)
    return _kept.parties[partition]


@lru_cache(maxsize=32)
def _found(market: Market, arm_name: str, alone: str, roster: str, partition: int) -> Party:
    """Return a party of a process that answers for some of several runs."""
    return _simulated_party(market, arm_name, alone, roster, partition)


def _simulated_party(market: Market, arm_name: str, alone: str, roster: str, partition: int) -> Party:
    arm = arm_named(arm_name)
    holders = market.holders(arm, alone=alone)
    if not 0 <= partition < len(holders):
        raise ConfigError(f"partition-id: expected 0 to {len(holders) - 1}, got {partition}")
    name = holders[partition]
    masked = roster and arm.recorded and market.config.aggregation.secagg == "secure"
    return market.party(arm, name, seat=load_seat(Path(roster), name) if masked else None)
