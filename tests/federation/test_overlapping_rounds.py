"""Two rounds at once: one ends while the keys of the next are agreed, and neither can be used against the other."""

from dataclasses import replace

import pytest

from fedmarket.aggregation.steps import SECURE


@pytest.mark.parametrize("until", ["share", "mask"])
def test_a_newer_round_ends_one_of_which_nothing_left_and_forgets_its_secrets(world, until: str):
    member = world.member("a")
    _, request, _ = world.follow(member, 1, until=until)
    member.answer(world.request(member.party.terms, 2, model=None))
    assert set(member.state.open) == {2}
    assert "round 1: this party is not in it; last entered 2" in world.refused(member, request)


@pytest.mark.parametrize("until", ["consent", "unmask"])
def test_a_round_whose_words_left_ends_while_the_next_one_begins(world, until: str):
    member = world.member("a")
    circle, request, _ = world.follow(member, 1, until=until)
    begun = world.circle(member, opening := world.request(member.party.terms, 2, model=None))
    begun.take(member.answer(opening))
    assert set(member.state.open) == {1, 2}
    member.answer(request)
    begun.take(member.answer(replace(opening, step="share", packet=begun.packet("share"))))
    assert set(member.state.open) == ({1, 2} if until == "consent" else {2})
    assert circle.server._step == SECURE.index(until)


def test_masked_words_of_a_newer_round_end_the_older_one_and_forget_its_shares(world):
    member = world.member("a")
    _, request, _ = world.follow(member, 1, until="unmask")
    world.follow(member, 2, until="consent")
    assert set(member.state.open) == {2}
    assert "round 1: this party is not in it; last entered 2" in world.refused(member, request)


def test_of_three_rounds_the_oldest_is_over(world):
    member = world.member("a")
    _, oldest, _ = world.follow(member, 1, until="consent")
    member.answer(world.request(member.party.terms, 2, model=None))
    member.answer(world.request(member.party.terms, 3, model=None))
    assert set(member.state.open) == {1, 3}
    world.follow(member, 4, until="consent")
    assert set(member.state.open) == {4}
    world.refused(member, oldest)


def test_a_failed_step_of_one_round_leaves_the_other_as_it_was(world):
    member = world.member("a")
    circle, request, _ = world.follow(member, 1, until="consent")
    begun = world.circle(member, opening := world.request(member.party.terms, 2, model=None))
    begun.take(member.answer(opening))
    world.refused(member, replace(opening, step="share", packet=b"garbage"))
    assert set(member.state.open) == {1}
    circle.take(member.answer(request))
    circle.take(member.answer(replace(request, step="unmask", packet=circle.packet("unmask"))))
    assert member.state.open == {}


def test_a_round_after_the_first_costs_three_exchanges_and_one_without_sum_no_more_than_it_had_come_to(world):
    coordinator, members = world.market(4, max_void_rounds=99)
    exchanges, lost = {}, {(2, "mask"): {"p0", "p1"}, (4, "advertise"): {"p2", "p3"}}
    while not coordinator.finished:
        number = world.number(coordinator)
        exchanges[number] = exchanges.get(number, 0) + 1
        world.exchange(coordinator, members, lost=lambda at: lost.get(at, ()))
    # Round 2 is void after one; keys of round 3 are then agreed alone. Round 4 is void before its turn: 5 begins late.
    assert exchanges == {0: 5, 1: 3, 2: 1, 3: 5, 5: 4, 6: 3, 7: 3}
    assert [void.round_number for void in coordinator.void_rounds] == [2, 4]
