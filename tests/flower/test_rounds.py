"""Masked and open rounds give the same model, also with parties lost; a void round moves nothing; a step is spent once.

Noise is seeded here, so a run can be repeated; keys and masks are the operating system's, and differ in every run.
"""

import itertools
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from flwr.app import ConfigRecord, Context, Message

from fedmarket.aggregation.secagg.state import unpacked
from fedmarket.aggregation.steps import IN_THE_OPEN, SECURE
from fedmarket.errors import FederationStopped
from fedmarket.experiment.market import MarketKey, open_market
from fedmarket.federation.identity import load_identity
from fedmarket.federation.messages import VoidRound
from fedmarket.federation.party import PartyState
from fedmarket.flower import inprocess
from fedmarket.flower.client import STATE, party_of, state_from_record
from fedmarket.flower.codec import MODEL_ARRAYS, message_type
from fedmarket.flower.inprocess import Apps, Outcome, run_in_process
from fedmarket.privacy.budget import Spending
from fedmarket.privacy.histogram import SCORE_BINS

STEPS = (*IN_THE_OPEN, *SECURE)
BEFORE_THE_SUM = ("sum", "advertise", "share", "mask")
NAMES = ("bank", "grocer", "insurer", "telecom")
LOST = {2, 3}
LATER_ROUNDS = range(1, 8)


def released(outcome: Outcome) -> tuple[object, ...]:
    """What leaves a run, to the last bit: the model's numbers, and the counts of its scores."""
    scores = outcome.score_counts
    model = (getattr(outcome.model, part).tobytes() for part in MODEL_ARRAYS)
    return *model, scores and (scores.counts.tobytes(), scores.typical, scores.noise_std)


def same(one: Outcome, other: Outcome) -> bool:
    return released(one) == released(other)


@pytest.fixture(scope="module")
def honest(apps: Apps, run_config) -> Outcome:
    """What the run gives in the open."""
    return run_in_process(apps, run_config(step="sum"), nodes=4)


# The same model.


def test_masked_and_open_sums_give_the_same_model_to_the_last_bit(apps, run_config, honest):
    one, other = (run_in_process(apps, run_config(), nodes=4) for _ in range(2))
    assert same(one, honest)
    assert same(other, honest)
    assert one.states[0].run != other.states[0].run


@pytest.mark.parametrize("change", ["aggregation.modulus_bits=64", "training.local_steps=2", "seeds=[3]"])
def test_masks_change_no_bit_whatever_the_words_and_the_schedule(apps, run_config, honest, change: str):
    seed = 3 if change.startswith("seeds") else 0
    masked = run_in_process(apps, run_config(change, seed=seed), nodes=4)
    assert same(masked, run_in_process(apps, run_config(change, step="sum", seed=seed), nodes=4))
    assert not same(masked, honest)


@pytest.mark.parametrize("node", range(1, 5))
@pytest.mark.parametrize("step", SECURE)
def test_a_party_lost_for_one_round_is_out_of_its_sum_or_in_it(silenced, run_config, honest, step: str, node: int):
    masked = silenced(run_config(), nodes={node}, step=step, rounds={2})
    party = NAMES[node - 1]
    assert [(r.round_number, r.step, r.party) for r in masked.rejections] == [(2, step, party)]
    assert masked.void_rounds == ()
    if step in BEFORE_THE_SUM:
        assert same(masked, silenced(run_config(step="sum"), nodes={node}, step="sum", rounds={2}))
        assert not same(masked, honest)
    else:
        assert same(masked, honest)
    assert [state.spending.update for state in masked.states] == [
        2 if place == node and step in BEFORE_THE_SUM else 3 for place in range(1, 5)
    ]


# Void rounds.


@pytest.mark.parametrize("lost_round", [0, 2, 7])
@pytest.mark.parametrize("step", STEPS)
def test_a_void_round_moves_nothing_and_the_next_is_clean(silenced, run_config, step: str, lost_round: int):
    outcome = silenced(run_config(step=step), nodes=LOST, step=step, rounds={lost_round})
    said = f"round {lost_round} is void, {step}: expected at least 3 parties, 2 are left"
    assert outcome.void_rounds == (VoidRound(round_number=lost_round, reason=said),)
    assert [(r.round_number, r.step, r.party) for r in outcome.rejections] == [
        (lost_round, step, "grocer"),
        (lost_round, step, "insurer"),
    ]
    assert same(outcome, silenced(run_config(step="sum"), nodes=LOST, step="sum", rounds={lost_round}))


@pytest.mark.parametrize("step", ["sum", "mask"])
def test_a_run_whose_last_round_is_void_has_its_model_and_no_counts_of_scores(silenced, run_config, honest, step: str):
    outcome = silenced(run_config(step=step), nodes=LOST, step=step, rounds={7})
    assert outcome.score_counts is None
    assert released(outcome)[:-1] == released(honest)[:-1]
    assert [state.spending.evaluate for state in outcome.states] == [1, 0, 0, 1]


def test_counts_of_scores_are_those_of_the_parties_whose_masked_counts_came(silenced, run_config, honest):
    whole, fewer = honest.score_counts, silenced(run_config(), nodes={2}, step="mask", rounds={7}).score_counts
    assert whole.counts.shape == fewer.counts.shape == (2, SCORE_BINS)
    assert whole.typical == fewer.typical
    assert fewer.noise_std == pytest.approx(whole.noise_std * (3 / 4) ** 0.5)
    assert (whole.counts != fewer.counts).all()


def test_without_private_evaluation_there_is_a_round_less_and_the_same_model(apps, run_config, honest):
    outcome = run_in_process(apps, run_config("privacy.private_evaluation=false"), nodes=4)
    assert outcome.messages == 4 + 4 * 5 * 7
    assert released(outcome) == (*released(honest)[:-1], None)
    assert {state.spending.evaluate for state in outcome.states} == {0}


@pytest.mark.parametrize("step", STEPS)
def test_a_run_of_void_rounds_alone_stops_however_many_are_allowed(silenced, run_config, step: str):
    said = rf"^round 7 is void, {step}: .*, as were all of the last 8 \("
    config = run_config("federation.max_void_rounds=100", step=step)
    with pytest.raises(FederationStopped, match=said):
        silenced(config, nodes=LOST, step=step, rounds=range(8))


@pytest.mark.parametrize("step", STEPS)
def test_what_a_void_round_cost_stays_spent(silenced, run_config, step: str):
    outcome = silenced(run_config(step=step), nodes=LOST, step=step, rounds={2})
    asked_to_compute = {
        node: step not in ("advertise", "share") and not (node in LOST and step in ("sum", "mask"))
        for node in range(1, 5)
    }
    spent = [state.spending for state in outcome.states]
    assert [spending.update for spending in spent] == [3 if asked_to_compute[node] else 2 for node in range(1, 5)]
    assert {(spending.centre, spending.calibrate, spending.evaluate) for spending in spent} == {(1, 3, 1)}


@pytest.mark.parametrize("step", STEPS)
def test_the_round_after_a_void_one_starts_from_the_same_model(apps, run_config, run_with, step: str):
    opened: dict[int, set[bytes]] = {}

    def listening(message: Message, context: Context) -> Message:
        fields = message.content["fields"]
        number, kind = fields.get("round_number"), message.metadata.message_type
        if number is not None:
            opened.setdefault(number, set()).add(fields["model_hash"])
        if number == 2 and context.node_id in LOST and kind == message_type(step):
            raise RuntimeError
        return apps.client(message, context)

    outcome = run_with(run_config(step=step), listening)
    assert [void.round_number for void in outcome.void_rounds] == [2]
    assert opened[3] == opened[2]
    assert [len(hashes) for hashes in opened.values()] == [1] * 8
    assert len(set.union(*opened.values())) == 7


@pytest.mark.parametrize("step", STEPS)
def test_void_rounds_in_a_row_stop_the_run_with_their_causes(silenced, run_config, step: str):
    said = (
        rf"^round 3 is void, {step}: expected at least 3 parties, 2 are left, as were all of the last 3 "
        r"\(insurer: no reply in time; grocer: no reply in time; insurer: no reply in time\)$"
    )
    with pytest.raises(FederationStopped, match=said):
        silenced(run_config(step=step), nodes=LOST, step=step, rounds=LATER_ROUNDS)


@pytest.mark.parametrize(("most", "last"), [(1, 1), (2, 2), (4, 4)])
def test_so_many_void_rounds_in_a_row_as_are_configured_stop_the_run(silenced, run_config, most: int, last: int):
    config = run_config(f"federation.max_void_rounds={most}")
    with pytest.raises(FederationStopped, match=rf"^round {last} is void, .*all of the last {most} \("):
        silenced(config, nodes=LOST, step="advertise", rounds=LATER_ROUNDS)


@pytest.mark.parametrize("step", ["sum", "mask"])
def test_void_rounds_that_are_not_in_a_row_do_not_stop_the_run(silenced, run_config, step: str):
    outcome = silenced(run_config(step=step), nodes=LOST, step=step, rounds={1, 2, 4, 5})
    assert [void.round_number for void in outcome.void_rounds] == [1, 2, 4, 5]
    assert outcome.messages < 4 + 4 * 5 * 8


# What a party keeps between two messages.


def kept(context: Context) -> PartyState:
    record = context.state.config_records.get(STATE)
    return state_from_record(record) if record is not None else PartyState()


def before_each(step: str, *, of_round: int, do: Callable[[Context], object], client) -> Callable:
    """Return a client that has something done to node 2 before it hears ``step`` of a round."""

    def answer(message: Message, context: Context) -> Message:
        number = message.content["fields"].get("round_number")
        if (context.node_id, number, message.metadata.message_type) == (2, of_round, message_type(step)):
            do(context)
        return client(message, context)

    return answer


@pytest.mark.parametrize("step", ["share", "mask", "consent", "unmask"])
def test_a_party_that_forgot_the_round_is_out_of_it_and_in_the_next(apps, run_config, run_with, silenced, honest, step):
    def forget(context: Context) -> None:
        context.state.config_records[STATE]["secagg"] = b""

    outcome = run_with(run_config(), before_each(step, of_round=2, do=forget, client=apps.client))
    (rejection,) = outcome.rejections
    assert (rejection.round_number, rejection.step, rejection.party) == (2, step, "grocer")
    assert rejection.reason == "round 2: this party is not in it; last entered 2"
    out = step in BEFORE_THE_SUM
    assert same(outcome, silenced(run_config(step="sum"), nodes={2}, step="sum", rounds={2}) if out else honest)


@pytest.mark.parametrize("step", SECURE)
def test_a_party_that_forgot_what_it_spent_answers_no_more(apps, run_config, run_with, step: str):
    """With its whole state it lost the name of the run, without which it can make no key: it spends nothing twice."""
    outcome = run_with(
        run_config(), before_each(step, of_round=2, do=lambda context: context.state.pop(STATE), client=apps.client)
    )
    assert {r.party for r in outcome.rejections} == {"grocer"}
    expected = [(2, step), *((number, "advertise") for number in range(3, 8))]
    assert [(r.round_number, r.step) for r in outcome.rejections] == expected
    assert outcome.rejections[-1].reason == "this party has not joined a run"
    assert outcome.states[1].spending.update == 0


TWICE = {
    "advertise": r"round \d is not open: last entered \d, the run has 8$",
    "share": "asked for the step share, but mask is due$",
    "mask": "asked for the step mask, but consent is due$",
    "consent": "asked for the step consent, but unmask is due$",
    "unmask": r"round \d: this party is not in it; last entered \d$",
}
LOST_AT = {"share": "mask", "mask": "consent", "consent": "unmask"}


@pytest.mark.parametrize("step", SECURE)
def test_a_message_that_comes_twice_is_answered_and_paid_for_once(apps, run_config, run_with, silenced, honest, step):
    """Asked twice a party could be made to say two things; from then on it says nothing more in this round."""
    rounds = range(8)
    said: list[str] = []

    def twice(message: Message, context: Context) -> Message:
        first = apps.client(message, context)
        if context.node_id == 2 and message.metadata.message_type == message_type(step):
            said.append(str(apps.client(message, context).content.config_records["refused"]["reason"]))
        return first

    outcome = run_with(run_config(), twice)
    assert len(said) == len(rounds)
    assert all(re.match(TWICE[step], line) for line in said), said
    lost = [(number, LOST_AT[step], "grocer") for number in rounds if step in LOST_AT]
    assert [(r.round_number, r.step, r.party) for r in outcome.rejections] == lost
    out = silenced(run_config(step="sum"), nodes={2}, step="sum", rounds=rounds)
    assert same(outcome, out if step == "share" else honest)
    whole = Spending(centre=1, update=3, calibrate=3, evaluate=1)
    assert outcome.states[1].spending == (Spending() if step == "share" else whole)


def restoring(step: str, *, earlier: str, of_round: int, client) -> Callable[[Message, Context], Message]:
    """Return a client whose node 2 hears ``step`` of a round in the state that it had before ``earlier``."""
    before: dict[str, ConfigRecord] = {}

    def answer(message: Message, context: Context) -> Message:
        if (context.node_id, message.content["fields"].get("round_number")) == (2, of_round):
            if message.metadata.message_type == message_type(earlier):
                before[STATE] = ConfigRecord(dict(context.state.config_records[STATE]))
            if message.metadata.message_type == message_type(step):
                context.state[STATE] = before[STATE]
        return client(message, context)

    return answer


@pytest.mark.parametrize(("step", "earlier"), list(itertools.combinations(reversed(SECURE), 2)))
def test_a_state_of_an_earlier_step_answers_no_later_one(apps, run_config, run_with, step: str, earlier: str):
    outcome = run_with(run_config(), restoring(step, earlier=earlier, of_round=2, client=apps.client))
    (rejection,) = outcome.rejections
    assert (rejection.round_number, rejection.step, rejection.party) == (2, step, "grocer")
    said = r"asked for the step \w+, but \w+ is due$|this party is not in it; last entered 1$"
    assert re.search(said, rejection.reason), rejection
    assert outcome.void_rounds == ()


@pytest.mark.parametrize("step", ["consent", "unmask"])
def test_a_state_put_back_says_the_same_to_the_same_question_after_the_mask(apps, run_config, run_with, step: str):
    said: list[tuple[bytes, bytes]] = []

    def again(message: Message, context: Context) -> Message:
        record = dict(context.state.config_records[STATE]) if STATE in context.state else {}
        first = apps.client(message, context)
        if context.node_id == 2 and message.metadata.message_type == message_type(step):
            left = context.state[STATE]
            context.state[STATE] = ConfigRecord(record)
            second = apps.client(message, context)
            said.append((first.content["fields"]["content"], second.content["fields"]["content"]))
            context.state[STATE] = left
        return first

    assert run_with(run_config(), again).rejections == ()
    assert len(said) == 8
    assert all(first == second for first, second in said)


def test_nothing_secret_is_left_when_the_round_is_over(apps, run_config, run_with):
    held: dict[str, set[bool]] = {}

    def looking(message: Message, context: Context) -> Message:
        reply = apps.client(message, context)
        held.setdefault(message.metadata.message_type, set()).add(bool(kept(context).secagg))
        return reply

    outcome = run_with(run_config(), looking)
    assert held == {
        "query.join": {False},
        "query.advertise": {True},
        "query.share": {True},
        "train.mask": {True},
        "query.consent": {True},
        "query.unmask": {False},
    }
    assert not any(state.secagg for state in outcome.states)


def shown(secret: bytes, text: str) -> bool:
    """Whether ``text`` shows a piece of ``secret``, as bytes or in hexadecimal."""
    pieces = [secret[start : start + 16] for start in range(0, len(secret) - 15, 16)]
    return any(piece.strip(b"\0") and (repr(piece)[2:-1] in text or piece.hex() in text) for piece in pieces)


def test_no_secret_shows_in_what_is_printed(apps, run_config, run_with):
    config = run_config()
    folder = Path(str(config["roster"])).parent
    files = [(folder / f"{place:02}.pem").read_bytes() for place in range(4)]
    secrets = [load_pem_private_key(file, password=None).private_bytes_raw() for file in files]
    texts: list[str] = []

    def looking(message: Message, context: Context) -> Message:
        reply = apps.client(message, context)
        state, party = kept(context), party_of(context)
        texts.extend(repr(one) for one in (state, party, party.seat, party.seat.identity))
        if state.secagg:
            secrets.extend(unpacked(unpacked(state.secagg, 9)[8], 4))
        return reply

    outcome = run_with(config, looking)
    text = "\n".join([*texts, repr(outcome)])
    whole = [secret for secret in secrets if secret]
    assert {len(secret) for secret in whole} >= {16, 32}
    assert shown(whole[0], repr(whole[0]))
    assert shown(whole[-1], whole[-1].hex())
    assert not [secret for secret in whole if shown(secret, text)]
    assert str(outcome.model.parameters[0]) not in text


# What goes over the wire.


@pytest.mark.parametrize(("step", "per_round"), [("sum", 1), ("mask", 5)])
def test_every_exchange_waits_as_long_as_is_configured_for_it(apps, run_config, monkeypatch, step: str, per_round: int):
    waited: list[tuple[str, float]] = []
    send = inprocess.InProcessGrid.send_and_receive

    def listening(grid, messages, *, timeout=None):
        sent = list(messages)
        waited.append((*{message.metadata.message_type for message in sent}, timeout))
        return send(grid, sent, timeout=timeout)

    monkeypatch.setattr(inprocess.InProcessGrid, "send_and_receive", listening)
    changes = ("federation.reply_timeout_seconds=11.0", "federation.training_timeout_seconds=22.0")
    run_in_process(apps, run_config(*changes, step=step), nodes=4)
    steps = IN_THE_OPEN if step == "sum" else SECURE
    each_round = [(message_type(one), 22.0 if one in ("sum", "mask") else 11.0) for one in steps]
    assert waited == [("query.join", 11.0), *each_round * 8]
    assert len(waited) == 1 + per_round * 8


def test_only_a_step_that_computes_carries_the_model(apps, run_config, run_with):
    carried: dict[str, set[str]] = {}

    def listening(message: Message, context: Context) -> Message:
        carried.setdefault(message.metadata.message_type, set()).add(" ".join(sorted(message.content)))
        return apps.client(message, context)

    run_with(run_config(), listening)
    assert {kind for kind, records in carried.items() if records == {"arrays fields"}} == {"train.mask"}
    assert all(records == {"fields"} for kind, records in carried.items() if kind != "train.mask")


def test_the_server_hears_no_sum_of_a_party_in_the_open(apps, run_config, run_with):
    """The words of the open run are in no answer of the masked one."""
    words: dict[bool, dict[tuple[str, int], bytes]] = {False: {}, True: {}}

    def listening(masked: bool) -> Callable[[Message, Context], Message]:
        def answer(message: Message, context: Context) -> Message:
            reply = apps.client(message, context)
            fields = reply.content["fields"]
            if message.metadata.message_type in ("train.sum", "train.mask"):
                words[masked][fields["party"], fields["round_number"]] = fields["content"]
            return reply

        return answer

    for step in ("sum", "mask"):
        run_with(run_config(step=step), listening(step == "mask"))
    assert len(words[False]) == len(words[True]) == 4 * 8
    for place, plain in words[False].items():
        masked = words[True][place][43:-64]
        assert len(masked) == len(plain) >= 20
        assert not {plain[at : at + 4] for at in range(0, len(plain), 4)} & {
            masked[at : at + 4] for at in range(0, len(masked), 4)
        }


def test_the_names_here_are_the_markets(run_config):
    path = Path(str(run_config()["config"]))
    assert open_market(MarketKey(config=path, changes=(), seed=0)).names == NAMES
    folder = Path(str(run_config()["roster"])).parent
    assert len({load_identity(folder / f"{place:02}.pem").public_key for place in range(4)}) == 4
