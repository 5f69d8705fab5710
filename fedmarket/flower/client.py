"""The body of the ClientApp: opens the node's party and lets it answer. No number of a row passes through here."""

from collections.abc import Callable
from functools import lru_cache, partial, wraps
from pathlib import Path

from flwr.app import ConfigRecord, Context, Message, RecordDict

from fedmarket.errors import BadMessage, ConfigError, ProtocolError, UsageError
from fedmarket.experiment.arms import arm_named
from fedmarket.experiment.market import Market, MarketKey, open_market
from fedmarket.federation.party import Party, PartyState
from fedmarket.federation.seat import load_seat
from fedmarket.flower.codec import (
    acceptance_to_records,
    invitation_from_records,
    message_type,
    refusal_to_records,
    request_from_records,
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
    acceptance = party_of(context).join(_state(context), invitation, keep=partial(_keep, context))
    return acceptance_to_records(acceptance)


@_answering
def answer(message: Message, context: Context) -> RecordDict:
    """Answer one step of a round; what is spent is kept before the sum is computed."""
    request = request_from_records(message.content)
    if message.metadata.message_type != message_type(request.step):
        raise BadMessage(f"the step {request.step} came as another kind of message")
    return update_to_records(party_of(context).answer(_state(context), request, keep=partial(_keep, context)))


def party_of(context: Context) -> Party:
    """Return the party that this node is, by its own node configuration.

    Raises:
        ConfigError: if the node or run configuration misses a key.
    """
    run = context.run_config
    try:
        partition = int(str(context.node_config["partition-id"]))
        changes = tuple(str(run["changes"]).split("\n")) if run["changes"] else ()
        market = MarketKey(config=Path(str(run["config"])), changes=changes, seed=int(str(run["seed"])))
        return _simulated_party(open_market(market), str(run["arm"]), str(run["alone"]), str(run["roster"]), partition)
    except KeyError as error:
        raise ConfigError(f"run or node configuration: {error.args[0]} is missing") from None


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
    record = context.state.config_records.get(STATE)
    return state_from_record(record) if record is not None else PartyState()


def _keep(context: Context, state: PartyState) -> None:
    context.state[STATE] = state_to_record(state)


@lru_cache(maxsize=32)
def _simulated_party(market: Market, arm_name: str, alone: str, roster: str, partition: int) -> Party:
    arm = arm_named(arm_name)
    holders = market.holders(arm, alone=alone)
    if not 0 <= partition < len(holders):
        raise ConfigError(f"partition-id: expected 0 to {len(holders) - 1}, got {partition}")
    name = holders[partition]
    masked = roster and arm.holders == "parties"
    return market.party(arm, name, seat=load_seat(Path(roster), name) if masked else None)
