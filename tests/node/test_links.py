"""Slow and dead lines between relay and party: a slow one changes nothing, a cut or dead one costs its party rounds."""

import runpy
import time
from collections import Counter
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from fedmarket.errors import FederationStopped
from fedmarket.flower.inprocess import run_in_process
from fedmarket.flower.records import MODEL_ARRAYS

HERE = Path(__file__).parent
PARTIES, LINKS = (runpy.run_path(str(HERE / f"{name}.py")) for name in ("parties", "links"))
asked_in, linked, ConcurrentGrid = PARTIES["asked_in"], LINKS["linked"], PARTIES["ConcurrentGrid"]
VICTIM = 1
SHORT = (
    ("reply_timeout_seconds = 60.0", "reply_timeout_seconds = 3.0"),
    ("training_timeout_seconds = 60.0", "training_timeout_seconds = 3.0"),
)
"""A party in this process answers in milliseconds; who is silent for seconds is away."""


@pytest.fixture
def reached(served):
    """Return a context in which all nodes are served, those at ``places`` over links, which it gives with sockets."""

    @contextmanager
    def over(nodes, *places: int):
        with ExitStack() as ending:
            for place in range(4):
                ending.enter_context(served(nodes, place))
            sockets = {place: nodes.folder / f"link-{place}" for place in places}
            yield [ending.enter_context(linked(sockets[place], nodes.socket(place))) for place in places], sockets

    return over


def numbers_of(outcome) -> list[bytes]:
    return [getattr(outcome.model, part).tobytes() for part in MODEL_ARRAYS]


def test_a_run_over_slow_links_gives_the_same_model_to_the_last_bit(nodes, make_nodes, apps, reached, tmp_path):
    with reached(nodes, 0, VICTIM) as ((late, narrow), sockets):
        late.seconds, narrow.rate = 0.02, 100_000.0
        outcome = nodes.relayed(apps, sockets=sockets, grid_type=ConcurrentGrid)
    assert min(late.connections, narrow.connections) > 20
    assert outcome.rejections == outcome.void_rounds == ()
    assert numbers_of(outcome) == numbers_of(run_in_process(apps, make_nodes(folder=tmp_path).run_config, nodes=4))


@pytest.mark.parametrize("where", ["header", "question", "answer"])
def test_a_cut_connection_costs_its_party_the_rounds_of_that_exchange_and_no_other(nodes, apps, reached, where):
    """Every fifth message to the victim is cut, of all that is asked in rounds; one may be about two of them."""
    count, cut_in = Counter(), []

    def before(message) -> None:
        rounds, _ = asked_in(message)
        if message.metadata.dst_node_id != VICTIM + 1:
            return
        count["asked"] += bool(rounds)
        carried = {"header": 5, "question": 60, "answer": len(PARTIES["frame_in"](message.content)) + 30}[where]
        link.cut_after = carried if rounds and count["asked"] % 5 == 2 else None
        if link.cut_after is not None:
            cut_in.append(rounds)

    with reached(nodes, VICTIM) as ((link,), sockets):
        outcome = nodes.relayed(apps, before, sockets=sockets, grid_type=ConcurrentGrid)
    assert link.cuts == len(cut_in) >= 4
    assert {len(rounds) for rounds in cut_in} == {1, 2}
    assert [(said.round_number, said.party) for said in outcome.rejections] == [
        (number, nodes.names[VICTIM]) for rounds in cut_in for number in rounds
    ]
    assert {said.reason for said in outcome.rejections} <= {
        "the connection ended before a question or an answer was whole", "party process not reachable",
    }  # fmt: skip
    assert outcome.void_rounds == ()


@pytest.mark.parametrize("step", ["join", "close"])
def test_a_cut_outside_of_rounds_is_told_by_name_and_the_run_ends_with_a_model(nodes, apps, reached, step):
    """Who is cut off while joining is out of the whole run; at the end it costs nothing but one question of two."""
    done = []

    def before(message) -> None:
        if message.metadata.dst_node_id == VICTIM + 1:
            link.cut_after = 5 if asked_in(message)[1] == step and not done else None
            done.extend([step] * (link.cut_after is not None))

    with reached(nodes, VICTIM) as ((link,), sockets):
        outcome = nodes.relayed(apps, before, sockets=sockets, grid_type=ConcurrentGrid)
    (said,) = outcome.rejections
    assert (said.step, said.party) == (step, "node 2" if step == "join" else nodes.names[VICTIM])
    assert (link.connections == 1) is (step == "join")
    assert outcome.void_rounds == ()


def test_a_dead_link_costs_the_time_out_and_the_party_is_back_when_it_lives_again(make_nodes, apps, reached):
    nodes = make_nodes(*SHORT)

    def before(message) -> None:
        if message.metadata.dst_node_id == VICTIM + 1:
            link.dead = 2 in asked_in(message)[0]

    with reached(nodes, VICTIM) as ((link,), sockets):
        began = time.monotonic()
        outcome = nodes.relayed(apps, before, sockets=sockets, grid_type=ConcurrentGrid)
        assert time.monotonic() - began < 60
    assert link.swallowed > 0
    assert [(said.round_number, said.party, said.reason) for said in outcome.rejections] == [
        (number, nodes.names[VICTIM], "no reply in time")
        for number in (1, 2)  # one that ends, one that begins
    ]
    assert outcome.void_rounds == ()


def test_with_too_many_dead_links_the_run_ends_in_time_and_says_why(make_nodes, apps, reached):
    nodes = make_nodes(*SHORT, ("max_void_rounds = 3", "max_void_rounds = 1"))

    def before(message) -> None:
        if 2 in asked_in(message)[0]:
            links[0].dead = links[1].dead = True

    with reached(nodes, 0, VICTIM) as (links, sockets):
        began = time.monotonic()
        with pytest.raises(FederationStopped, match="expected at least 3 parties, 2 are left") as stopped:
            nodes.relayed(apps, before, sockets=sockets, grid_type=ConcurrentGrid)
        assert time.monotonic() - began < 60
    assert "no reply in time" in str(stopped.value)
