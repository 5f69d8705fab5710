"""An exchange with Flower's own grid ends within its time, whatever nodes do."""

import time
from types import SimpleNamespace

import pytest
from flwr.superlink.grid import HttpGrid

from fedmarket.errors import FederationStopped
from fedmarket.flower import exchange
from fedmarket.flower.exchange import exchanged
from fedmarket.flower.inprocess import InProcessGrid, run_in_process


class Nodes(HttpGrid):
    """A grid in which some nodes answer at a later question, some never, and some are gone."""

    def __init__(self, answers: dict[str, int]) -> None:
        self.answers, self.asked = answers, 0

    def push_messages(self, messages):
        return [None if message == "gone" else message for message in messages]

    def pull_messages(self, message_ids):
        assert None not in message_ids
        self.asked += 1
        there = [number for number in message_ids if self.answers.get(number, 99) <= self.asked]
        return [SimpleNamespace(metadata=SimpleNamespace(reply_to_message_id=number)) for number in there]


def replied(grid: Nodes, *messages: str, timeout: float) -> set[str]:
    return {reply.metadata.reply_to_message_id for reply in exchanged(grid, messages, timeout=timeout)}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "POLL_SECONDS", 0.01)


def test_all_replies_are_waited_for_and_no_longer():
    grid = Nodes({"a": 1, "b": 3})
    assert replied(grid, "a", "b", timeout=60.0) == {"a", "b"}
    assert grid.asked == 3


def test_a_silent_node_costs_the_time_out_and_a_gone_one_nothing():
    began = time.monotonic()
    assert replied(Nodes({"a": 1}), "a", "silent", "gone", timeout=0.2) == {"a"}
    assert 0.2 <= time.monotonic() - began < 2.0
    assert replied(Nodes({}), "gone", timeout=60.0) == set()
    assert replied(Nodes({}), timeout=60.0) == set()


def test_a_node_that_is_not_connected_is_not_asked(apps, run_config, monkeypatch):
    """Its part of the rounds is lost, by name, and the run goes on with the others."""
    here = {"joined": False}

    def node_ids(grid):
        joined, here["joined"] = here["joined"], here["joined"] or grid.messages >= 4
        return [1, 2, 3] if joined else [1, 2, 3, 4]

    monkeypatch.setattr(InProcessGrid, "get_node_ids", node_ids)
    outcome = run_in_process(apps, run_config(), nodes=4)
    assert outcome.void_rounds == ()
    assert {rejection.reason for rejection in outcome.rejections} == {"no reply in time"}
    assert len({rejection.party for rejection in outcome.rejections}) == 1
    assert outcome.messages < 4 + 3 * 5 * 8 + 8 + 4


def test_with_too_few_nodes_the_run_ends_and_says_so(apps, run_config):
    with pytest.raises(FederationStopped, match=r"4 nodes after 0\.3 s, expected 5"):
        run_in_process(apps, run_config(parties=5, wait=0.3), nodes=4)
