"""Nodes by the names under which the operator admitted them, where a line is told to somebody."""

import json
from pathlib import Path

import pytest
from flwr.app import Context, Message

from fedmarket.errors import FederationStopped
from fedmarket.federation.messages import Refused
from fedmarket.federation.wire import encoded
from fedmarket.flower.checkpoint import PROGRESS
from fedmarket.flower.inprocess import InProcessGrid, run_in_process
from fedmarket.flower.nodes import NodeNames
from fedmarket.flower.records import framed


def names_in(folder: Path, **names: int) -> NodeNames:
    path = folder / "nodes.json"
    path.write_text(json.dumps({str(number): name for name, number in names.items()}), encoding="utf-8")
    return NodeNames(path=path)


def test_a_node_has_its_name_beside_flowers_number(tmp_path: Path):
    names = names_in(tmp_path, alpha=7)
    assert (names.of(7), names.of(8)) == ("alpha (node 7)", "node 8")


@pytest.mark.parametrize("content", [None, "", "[]", "[1]", "{", '{"x": 1}'])
def test_without_a_file_that_can_be_read_nobody_has_a_name(tmp_path: Path, content: str | None):
    path = tmp_path / "nodes.json"
    if content is not None:
        path.write_text(content)
    for names in (NodeNames(path=path), NodeNames(path=None)):
        assert names.of(7) == "node 7"
        assert names.missing([7], 3) == "2 nodes"


@pytest.mark.parametrize(
    ("there", "expected", "said"),
    [
        ([1, 2], 4, "delta, gamma"),
        ([1, 2], 3, "1 node (not there: delta, gamma)"),
        ([1, 2, 9], 6, "3 nodes (not there: delta, gamma)"),
        ([1, 2, 3, 4], 5, "1 node"),
    ],
)
def test_who_is_missing_is_named_where_it_is_clear_who_is_meant(tmp_path: Path, there, expected: int, said: str):
    names = names_in(tmp_path, alpha=1, beta=2, gamma=3, delta=4)
    assert names.missing(there, expected) == said


def test_a_run_says_for_whom_it_waits(apps, run_config, tmp_path, monkeypatch):
    names, state, said = names_in(tmp_path, alpha=1, beta=2, gamma=3, delta=4), tmp_path / "state", []
    coming = iter([[1, 2], [1, 2], [1, 2, 3], [1, 2, 3, 4]])

    def arriving(grid: InProcessGrid) -> list[int]:
        if (path := state / PROGRESS).exists():
            said.append(json.loads(path.read_text())["doing"])
        return next(coming, [1, 2, 3, 4])

    monkeypatch.setattr(InProcessGrid, "get_node_ids", arriving)
    run_in_process(apps, run_config("training.rounds=1", state=str(state), nodes=str(names.path)), nodes=4)
    waited = [f"waiting for {who}" for who in ("delta, gamma", "delta, gamma", "delta", "4 nodes to join")]
    assert said[: len(waited)] == waited


def test_who_never_comes_and_who_does_not_join_is_told_by_name(apps, run_config, run_with, tmp_path, monkeypatch):
    names = str(names_in(tmp_path, alpha=1, beta=2, gamma=3, delta=4, late=5).path)
    with pytest.raises(FederationStopped, match=r"^4 nodes after 0\.3 s, expected 5; waited for late$"):
        run_in_process(apps, run_config(parties=5, nodes=names, wait=0.3), nodes=4)

    def shy(message: Message, context: Context) -> Message:
        if context.node_id in (2, 3):
            return Message(framed(encoded(Refused(reason="not today"))), reply_to=message)
        return apps.client(message, context)

    said = r"at least 3 are needed \(beta \(node 2\): not today; gamma \(node 3\): not today\)$"
    with pytest.raises(FederationStopped, match=said):
        run_with(run_config(nodes=names), shy)
