"""A whole federation through relays and party processes: the simulated one's model, and what a kill costs."""

import threading
from contextlib import ExitStack

import msgpack
from flwr.app import Message

from fedmarket.config import load_config
from fedmarket.contract.schema import load_contract
from fedmarket.experiment.arms import terms_of
from fedmarket.federation.rehearsal import bundle_of_rehearsal
from fedmarket.flower.inprocess import run_in_process
from fedmarket.flower.records import MODEL_ARRAYS, frame_in
from fedmarket.ledger.look import look
from fedmarket.ledger.verify import verify
from fedmarket.node.agreement import ARM

VICTIM = 1


def fields_in(message: Message) -> dict[str, object]:
    return msgpack.unpackb(frame_in(message.content), strict_map_key=False)


def verdict_of(nodes, outcome):
    terms = terms_of(ARM, load_config(nodes.config), load_contract(nodes.config.with_name("contract.toml")), seed=0)
    return verify(bundle_of_rehearsal(nodes.folder / "roster.toml", outcome.run, terms))


def numbers_of(outcome) -> list[bytes]:
    return [getattr(outcome.model, part).tobytes() for part in MODEL_ARRAYS]


def test_processes_behind_relays_give_the_simulated_model_to_the_last_bit(
    nodes, make_nodes, apps, process_of, tmp_path
):
    processes = [process_of(nodes, place) for place in range(4)]
    for process in processes:
        process.wait()
    relayed = nodes.relayed(apps)
    assert relayed.rejections == relayed.void_rounds == ()
    simulated = run_in_process(apps, make_nodes(folder=tmp_path).run_config, nodes=4)
    assert numbers_of(relayed) == numbers_of(simulated)
    assert relayed.statistics.scores.counts.tobytes() == simulated.statistics.scores.counts.tobytes()
    assert [process.stop() for process in processes] == [0] * 4
    verdict = verdict_of(nodes, relayed)
    assert verdict.integrity
    assert verdict.completeness
    assert not any(nodes.socket(place).exists() for place in range(4))


def test_a_party_killed_before_any_exchange_is_out_of_the_rounds_that_were_open_alone(nodes, apps, process_of, served):
    """Killed before it hears a step: what it does not remember any more it refuses, and enters the next round.

    Whose masked words left stays in the sum. In round 6 it is killed while it answers, at whatever point that is.
    """
    killed_before = {0: "share", 1: "mask", 2: "consent", 4: "unmask"}
    process = process_of(nodes, VICTIM)
    waiting = dict(killed_before)

    def kill(message: Message) -> None:
        if message.metadata.dst_node_id != VICTIM + 1:
            return
        step, (first, *_) = message.metadata.message_type.partition(".")[2], fields_in(message).get("requests", [{}])
        number = first.get("round_number")
        if waiting.get(number) == step:
            del waiting[number]
            process.kill()
        if process.running.poll() is not None:
            process.start()
            process.wait()
        if (number, step) == (6, "mask"):
            threading.Timer(0.003, process.kill).start()

    with ExitStack() as others:
        for place in {0, 1, 2, 3} - {VICTIM}:
            others.enter_context(served(nodes, place))
        process.wait()
        outcome = nodes.relayed(apps, before=kill)
    assert not waiting, outcome.rejections
    assert outcome.void_rounds == ()
    told = [said for said in outcome.rejections if said.round_number != 6]
    # With the end of round 4 it forgot the keys of round 5, which were agreed by then.
    expected = [*killed_before.items(), (5, "share")]
    assert [(said.round_number, said.step) for said in told] == expected
    assert {said.party for said in outcome.rejections} == {nodes.names[VICTIM]}
    assert [said.reason.partition("; ")[0] for said in told] == [
        f"round {number}: this party is not in it" for number, _ in expected
    ]
    assert process.stop() == 0
    # Nothing was spent beside what left, everything that left is paid for, and the cap is kept.
    state = look(nodes.books(VICTIM)).state
    outcomes = {number: found.outcome for (_, number), found in state.reservations.items()}
    assert outcomes.pop(6) in ("committed", "given-back")
    assert outcomes == dict.fromkeys((2, 3, 4, 7), "committed") | dict.fromkeys((0, 1, 5), "given-back")
    assert state.spent().epsilon <= 1.0
    verdict = verdict_of(nodes, outcome)
    assert verdict.integrity
    assert verdict.completeness
