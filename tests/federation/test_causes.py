"""The end of a line that says why too few are left: every party that there is room for, once."""

from dataclasses import replace

import pytest

from fedmarket.errors import FederationStopped
from fedmarket.federation.causes import MOST_NAMED, causes_of
from fedmarket.federation.messages import Rejection


def said(*lines: tuple[str, str]) -> str:
    return causes_of(Rejection(round_number=0, step="sum", party=party, reason=reason) for party, reason in lines)


def test_a_party_that_is_rejected_again_and_again_hides_no_other():
    assert said(("b", "late"), *5 * [("a", "no reply in time")]) == " (a: no reply in time; b: late)"


def test_of_equally_frequent_reasons_the_last_is_told():
    assert said(("a", "one"), ("a", "two")) == " (a: two)"
    assert said(("a", "one"), ("a", "two"), ("a", "one"), ("a", "three")) == " (a: one)"


@pytest.mark.parametrize(("parties", "end"), [(MOST_NAMED, "p4: late)"), (MOST_NAMED + 2, "p4: late; and 2 more)")])
def test_of_those_that_have_no_room_it_says_how_many(parties: int, end: str):
    assert said(*((f"p{place}", "late") for place in range(parties))).endswith(end)


def test_nobody_rejected_is_nothing_said():
    assert said() == ""


def test_what_was_before_the_void_rounds_is_no_cause_and_who_did_not_join_is(world):
    coordinator, members = world.market(4, secagg="ideal", max_void_rounds=1)
    coordinator.reject("node 9", "terms differ")
    world.round(coordinator, members)
    request = coordinator.requests()["p2"].requests[0]
    coordinator.reject("p3", "an older matter", request=replace(request, round_number=0))
    coordinator.reject("p2", "no reply in time", request=request)
    with pytest.raises(FederationStopped, match=r"all of the last 1 \(node 9: terms differ; p2: no reply in time\)$"):
        world.step(coordinator, members[:2])
