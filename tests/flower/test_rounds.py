"""Masked and open rounds give the same model, also with parties lost; a void round moves nothing; a step is spent once.

Noise is seeded here, so a run can be repeated; keys and masks are the operating system's, and differ in every run.
"""

from collections.abc import Callable
from pathlib import Path

import msgpack
import pytest
from flwr.app import Context, Message

from fedmarket.aggregation.steps import IN_THE_OPEN, SECURE
from fedmarket.errors import FederationStopped
from fedmarket.experiment.market import MarketKey, open_market
from fedmarket.federation.identity import load_identity
from fedmarket.federation.messages import VoidRound
from fedmarket.flower import inprocess
from fedmarket.flower.inprocess import run_in_process
from fedmarket.flower.records import message_type
from fedmarket.privacy.histogram import SCORE_BINS

STEPS = (*IN_THE_OPEN, *SECURE)
BEFORE_THE_SUM = ("sum", "advertise", "share", "mask")
NAMES = ("bank", "grocer", "insurer", "telecom")
LOST = {2, 3}
LATER_ROUNDS = range(1, 8)


# The same model.


def test_masked_and_open_sums_give_the_same_model_to_the_last_bit(apps, run_config, honest, same):
    one, other = (run_in_process(apps, run_config(), nodes=4) for _ in range(2))
    assert same(one, honest)
    assert same(other, honest)
    assert one.states[0].run != other.states[0].run


@pytest.mark.parametrize("change", ["aggregation.modulus_bits=64", "training.local_steps=2", "seeds=[3]"])
def test_masks_change_no_bit_whatever_the_words_and_the_schedule(apps, run_config, honest, change: str, same):
    seed = 3 if change.startswith("seeds") else 0
    masked = run_in_process(apps, run_config(change, seed=seed), nodes=4)
    assert same(masked, run_in_process(apps, run_config(change, step="sum", seed=seed), nodes=4))
    assert not same(masked, honest)


@pytest.mark.parametrize("node", range(1, 5))
@pytest.mark.parametrize("step", SECURE)
def test_a_party_lost_for_one_round_is_out_of_its_sum_or_in_it(
    silenced, run_config, honest, step: str, node: int, same
):
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
def test_a_void_round_moves_nothing_and_the_next_is_clean(silenced, run_config, step: str, lost_round: int, same):
    outcome = silenced(run_config(step=step), nodes=LOST, step=step, rounds={lost_round})
    said = f"round {lost_round} is void, {step}: expected at least 3 parties, 2 are left"
    assert outcome.void_rounds == (VoidRound(round_number=lost_round, reason=said),)
    assert [(r.round_number, r.step, r.party) for r in outcome.rejections] == [
        (lost_round, step, "grocer"),
        (lost_round, step, "insurer"),
    ]
    assert same(outcome, silenced(run_config(step="sum"), nodes=LOST, step="sum", rounds={lost_round}))


@pytest.mark.parametrize("step", ["sum", "mask"])
def test_a_run_whose_last_round_is_void_has_its_model_and_no_counts_of_scores(
    silenced, run_config, honest, step: str, released
):
    outcome = silenced(run_config(step=step), nodes=LOST, step=step, rounds={7})
    assert outcome.statistics.scores is None
    assert released(outcome)[:-1] == released(honest)[:-1]
    assert [state.spending.evaluate for state in outcome.states] == [1, 0, 0, 1]


def test_counts_of_scores_are_those_of_the_parties_whose_masked_counts_came(silenced, run_config, honest):
    silent = silenced(run_config(), nodes={2}, step="mask", rounds={7})
    whole, fewer = honest.statistics.scores, silent.statistics.scores
    assert whole.counts.shape == fewer.counts.shape == (2, SCORE_BINS)
    assert whole.typical == fewer.typical
    assert fewer.noise_std == pytest.approx(whole.noise_std * (3 / 4) ** 0.5)
    assert (whole.counts != fewer.counts).all()


def test_without_private_evaluation_there_is_a_round_less_and_the_same_model(apps, run_config, honest, released):
    outcome = run_in_process(apps, run_config("privacy.private_evaluation=false"), nodes=4)
    assert outcome.messages == 4 + 4 * (5 + 3 * 6) + 8
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
def test_the_round_after_a_void_one_starts_from_the_same_model(apps, run_config, run_with, fields_of, step: str):
    opened: dict[int, set[bytes]] = {}

    def listening(message: Message, context: Context) -> Message:
        fields = fields_of(message.content)
        number, kind = fields.get("round_number"), message.metadata.message_type
        if fields.get("model") is not None:
            opened.setdefault(number, set()).add(msgpack.packb(fields["model"]))
        if number == 2 and context.node_id in LOST and kind == message_type(step):
            raise RuntimeError
        return apps.client(message, context)

    outcome = run_with(run_config(step=step), listening)
    assert [void.round_number for void in outcome.void_rounds] == [2]
    computed = step not in ("advertise", "share")
    assert (2 in opened) == computed
    assert opened[3] == opened.get(2, opened[3])
    assert {len(models) for models in opened.values()} == {1}
    assert len(set.union(*opened.values())) == 7


@pytest.mark.parametrize("step", STEPS)
def test_void_rounds_in_a_row_stop_the_run_with_their_causes(silenced, run_config, step: str):
    said = (
        rf"^round 3 is void, {step}: expected at least 3 parties, 2 are left, as were all of the last 3 "
        r"\((grocer|insurer): no reply in time; (grocer|insurer): no reply in time\)$"
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
    assert len(outcome.rejections) == 8


# What goes over the wire.


@pytest.mark.parametrize(("step", "exchanges"), [("sum", 8), ("mask", 5 + 3 * 7)])
def test_every_exchange_waits_as_long_as_is_configured_for_it(apps, run_config, monkeypatch, step: str, exchanges: int):
    waited: list[tuple[str, float]] = []
    send = inprocess.InProcessGrid.send_and_receive

    def listening(grid, messages, *, timeout=None):
        sent = list(messages)
        waited.append((*{message.metadata.message_type for message in sent}, timeout))
        return send(grid, sent, timeout=timeout)

    monkeypatch.setattr(inprocess.InProcessGrid, "send_and_receive", listening)
    changes = ("federation.reply_timeout_seconds=11.0", "federation.training_timeout_seconds=22.0")
    run_in_process(apps, run_config(*changes, step=step), nodes=4)
    steps = IN_THE_OPEN * 8 if step == "sum" else (*SECURE, *SECURE[2:] * 7)
    rounds = [(message_type(one), 22.0 if one in ("sum", "mask") else 11.0) for one in steps]
    assert waited == [("query.join", 11.0), *rounds, ("query.close", 11.0), ("query.close", 11.0)]
    assert len(rounds) == exchanges


def test_only_a_step_that_computes_carries_the_model(apps, run_config, run_with, fields_of):
    carried: dict[str, set[str]] = {}

    def listening(message: Message, context: Context) -> Message:
        there = [name for name in ("model", "shown") if fields_of(message.content).get(name) is not None]
        carried.setdefault(message.metadata.message_type, set()).add(" ".join(there))
        return apps.client(message, context)

    run_with(run_config(), listening)
    assert (carried["train.mask"], carried["query.close"]) == ({"model shown"}, {"", "shown"})
    assert all(carried[kind] == {""} for kind in carried.keys() - {"train.mask", "query.close"})


def test_the_server_hears_no_sum_of_a_party_in_the_open(apps, run_config, run_with, fields_of):
    """The words of the open run are in no answer of the masked one."""
    words: dict[bool, dict[tuple[str, int], bytes]] = {False: {}, True: {}}

    def listening(masked: bool) -> Callable[[Message, Context], Message]:
        def answer(message: Message, context: Context) -> Message:
            reply = apps.client(message, context)
            if message.metadata.message_type in ("train.sum", "train.mask"):
                fields = fields_of(reply.content)
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
