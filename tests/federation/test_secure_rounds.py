"""Whole rounds under secure aggregation: the plain sum of the survivors or none, each paid for and answered once."""

from dataclasses import replace
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmarket.aggregation.steps import SECURE
from fedmarket.errors import FederationStopped
from fedmarket.federation.party import PartyState
from fedmarket.federation.release import Releases
from fedmarket.federation.seat import Seat
from fedmarket.privacy.budget import Spending

BEFORE_THE_SUM = ("advertise", "share", "mask")

GROUPS = {
    4: [(place,) for place in range(4)],
    5: [(place,) for place in range(5)],
    7: [(0,), (0, 6), (2, 5), (3, 4)],
}
"""Members -> groups of at most n - t of them."""


def names(places) -> frozenset[str]:
    return frozenset(f"p{place}" for place in places)


def in_the_open(world, parties: int, *lost):
    """Return coordinator and members after rounds in the open, each without the parties in ``lost``."""
    coordinator, members = world.market(parties, secagg="ideal", max_void_rounds=99)
    for number, absent in enumerate(lost):
        world.round(coordinator, members, lost={(number, "sum"): absent})
    return coordinator, members


@cache
def models_in_the_open(world, parties: int, *lost: frozenset[str]):
    """Return the models after each round in the open, without the parties in ``lost``, and after one more with all."""
    return [in_the_open(world, parties, *rounds)[0].model for rounds in (lost, (*lost, frozenset()))]


# The same sum as in the open.


@pytest.mark.parametrize("parties", [4, 5, 7])
def test_a_secure_run_gives_the_model_of_the_run_in_the_open_to_the_last_bit(world, parties: int):
    secure, ideal = (world.drive(*world.market(parties, secagg=mode)) for mode in ("secure", "ideal"))
    assert secure.centre.any()
    assert secure.parameters.any()
    assert world.same(secure, ideal)


def test_words_of_64_bits_give_the_same_model_too(world):
    changed = {"modulus_bits": 64}
    secure, ideal = (world.drive(*world.market(4, secagg=mode, **changed)) for mode in ("secure", "ideal"))
    assert world.same(secure, ideal)


@pytest.mark.parametrize("answered", [False, True], ids=["silent", "answer lost on the way"])
@pytest.mark.parametrize("step", SECURE)
@pytest.mark.parametrize("parties", GROUPS)
def test_any_group_up_to_n_minus_t_may_be_lost_at_any_step(world, parties: int, step: str, answered: bool):
    """Whose vector was lost is not in the sum; who is lost afterwards is. Next time all are in again."""
    for group in GROUPS[parties]:
        coordinator, members = world.market(parties)
        how = "undelivered" if answered else "lost"
        world.round(coordinator, members, **{how: {(0, step): names(group)}})
        left_out = names(group) if step in BEFORE_THE_SUM else frozenset()
        after, later = models_in_the_open(world, parties, left_out)
        assert world.same(coordinator.model, after), group
        assert coordinator.void_rounds == []
        world.round(coordinator, members)
        assert world.same(coordinator.model, later), group


@pytest.mark.parametrize("step", SECURE)
@pytest.mark.parametrize("parties", GROUPS)
def test_one_more_lost_voids_the_round_and_the_next_one_is_clean(world, parties: int, step: str):
    threshold = world.threshold_for(parties)
    lost = names(range(parties - threshold + 1))
    coordinator, members = world.market(parties)
    before = coordinator.model.hash
    world.round(coordinator, members, lost={(0, step): lost})
    assert coordinator.model.hash == before
    (void,) = coordinator.void_rounds
    assert void.reason == (f"round 0 is void, {step}: expected at least {threshold} parties, {threshold - 1} are left")
    world.round(coordinator, members)
    assert world.same(coordinator.model, models_in_the_open(world, parties, names(range(parties)))[1])


def test_more_survivors_than_the_threshold_can_be_demanded_in_the_sum(world):
    coordinator, members = world.market(5, minimum_survivors=5)
    world.round(coordinator, members, lost={(0, "consent"): {"p0"}})
    assert coordinator.void_rounds == []
    world.round(coordinator, members, lost={(1, "mask"): {"p0"}})
    assert [void.round_number for void in coordinator.void_rounds] == [1]


@st.composite
def losses(draw):
    """Draw, for each of three rounds, who is lost where and whether its answer was on the way."""
    parties = draw(st.sampled_from([4, 5, 7]))
    where = st.tuples(st.sampled_from(SECURE), st.booleans())
    each = st.dictionaries(st.integers(0, parties - 1), where, max_size=parties // 3 + 1)
    return parties, draw(st.lists(each, min_size=3, max_size=3))


@settings(max_examples=12)
@given(case=losses())
def test_whoever_is_lost_wherever_the_run_is_one_in_the_open_without_those_before_the_sum(world, case):
    parties, rounds = case
    coordinator, members = world.market(parties, max_void_rounds=99)
    ideal, others = in_the_open(world, parties)
    silent, undelivered = {}, {}
    for number, lost in enumerate(rounds):
        for place, (step, answered) in lost.items():
            (undelivered if answered else silent).setdefault((number, step), set()).add(f"p{place}")
    for number, lost in enumerate(rounds):
        if world.number(coordinator) == number:  # else it was void before its turn
            world.round(coordinator, members, lost=silent, undelivered=undelivered)
        void = parties - len(lost) < world.threshold_for(parties)
        gone = range(parties) if void else [p for p, (step, _) in lost.items() if step in BEFORE_THE_SUM]
        world.round(ideal, others, lost={(number, "sum"): names(gone)})
        assert world.same(coordinator.model, ideal.model)
    assert [v.round_number for v in coordinator.void_rounds] == [v.round_number for v in ideal.void_rounds]


# A party that crashes.


OLDER = [(step, back) for at, step in enumerate(SECURE[1:]) for back in ("nothing", "the round before", *SECURE[:at])]
"""The step that is due -> what the party remembers last, which is not the step before."""


@pytest.mark.parametrize(("step", "back"), OLDER)
def test_a_party_that_comes_back_with_an_older_memory_is_out_until_the_next_round(world, step: str, back: str):
    coordinator, members = world.market(4)
    first, older = members[0], {"the round before": members[0].state, "nothing": PartyState()}
    while coordinator.step != step:
        this = coordinator.step
        world.step(coordinator, members)
        older[this] = first.state
    first.state = older[back]
    request = world.asked(coordinator)["p0"]
    world.refused(first, request)
    assert first.state.open == {}
    world.refused(first, request)
    if back == "nothing":
        assert "this party has not joined a run" in world.refused(first, request)
        first.join(coordinator.invitation())  # and the coordinator knows it already
    lost_rounds = (0, 1) if step == "unmask" else (0,)  # it has forgotten that it entered the next one, too
    lost = {(number, lost): {"p0"} for number in lost_rounds for lost in SECURE}
    world.round(coordinator, members, lost=lost)
    assert coordinator.void_rounds == []
    after, later = models_in_the_open(world, 4, frozenset({"p0"} if step in BEFORE_THE_SUM else ()))
    assert world.same(coordinator.model, after)
    world.round(coordinator, members, lost=lost)
    assert world.same(coordinator.model, later) == (step != "unmask")
    world.round(coordinator, members)
    assert first.state.last_masked == 2


@pytest.mark.parametrize("step", SECURE[1:])
def test_a_memory_of_another_round_answers_nothing_in_this_one(world, step: str):
    coordinator, members = world.market(4)
    first, older = members[0], []
    while coordinator.step != "consent":
        world.step(coordinator, members)
        older.append((first.state, first.state.open[0]))
    world.finish(coordinator, members, 0)
    request = world.until(coordinator, members, step)["p0"]
    number = request.round_number
    for state, memory in older:
        copy = world.fresh(first.party, state)
        assert f"round {number}: this party is not in it; last entered 0" in world.refused(copy, request)
        # Not even with the number in it forged: the keys, masks and signatures of a round are bound to it.
        copy = world.fresh(first.party, replace(state, last_round=number, open={number: memory}))
        assert "of another round or identity" in world.refused(copy, request)
        assert copy.state.open == {}


def test_a_party_that_forgot_a_round_cannot_be_led_through_it_a_second_time(world):
    """It enters with new keys; the others, who remember, have sealed nothing for them, so no second vector leaves."""
    member = world.member("a")
    start = member.state
    circle, request, _ = world.follow(member, 1, until="mask")
    texts = request.packet
    first = member.answer(request)
    again = world.fresh(member.party, start)
    second = again.answer(world.request(member.party.terms, 1))
    adverts = circle.server._joined  # the others' of the first time, still validly signed
    mixed = second.content + adverts[len(second.content) :]
    again.answer(replace(request, step="share", packet=mixed, model=None))
    for packet in (texts, b"", texts[:-68]):
        copy = world.fresh(again.party, again.state)
        world.refused(copy, replace(request, packet=packet))
        assert copy.state.open == {}
    assert first.content


@pytest.mark.parametrize("step", SECURE)
def test_what_an_answer_uses_up_is_forgotten_before_the_answer_is_computed(world, monkeypatch, step: str):
    """A crash at any moment leaves either the memory from before a step and no answer, or none that can repeat it."""
    member = world.member("a")
    _, request, _ = world.follow(member, 1, until=step)
    used, seen = member.state.open.get(1, b""), []

    def spied(method):
        def call(*args, **kwargs):
            seen.append(member.state.open)
            return method(*args, **kwargs)

        return call

    for name in ("enter", "follow"):
        monkeypatch.setattr(Seat, name, spied(getattr(Seat, name)))
    member.kept.clear()
    member.answer(request)
    assert seen == [{}]
    assert len(member.kept) == (3 if step == "mask" else 2)
    assert all(state.open == {} for state in member.kept[:-1])
    assert all(not used or used not in state.open.values() for state in member.kept)
    assert (member.state.open == {}) == (step == "unmask")


@pytest.mark.parametrize("step", SECURE)
def test_a_crash_while_an_answer_is_computed_ends_the_round_for_the_party(world, monkeypatch, step: str):
    member = world.member("a")
    _, request, _ = world.follow(member, 1, until=step)

    def crash(*args, **kwargs):
        raise MemoryError

    monkeypatch.setattr(Seat, "enter" if step == "advertise" else "follow", crash)
    with pytest.raises(MemoryError):
        member.answer(request)
    monkeypatch.undo()
    assert (member.state.last_round, member.state.open) == (1, {})
    world.refused(member, request)
    world.released(member, 2)


@pytest.mark.parametrize("step", SECURE)
def test_the_same_request_twice_gets_one_answer(world, step: str):
    member = world.member("a")
    _, request, _ = world.follow(member, 1, until=step)
    member.answer(request)
    before = member.state
    said = world.refused(member, request)
    if step == "advertise":
        assert "round 1 is not open: last entered 1" in said
        assert member.state == before  # the round goes on
    else:
        assert "is due" in said or "not in it" in said
        assert member.state.open == {}  # the round is over: somebody plays games
    world.released(member, 2)


@pytest.mark.parametrize("step", SECURE[1:])
@pytest.mark.parametrize("packet", [b"", b"garbage", bytes(10_000)], ids=["empty", "garbage", "zeros"])
def test_after_a_failed_step_the_round_is_over_and_no_secret_is_kept(world, step: str, packet: bytes):
    member = world.member("a")
    _, request, _ = world.follow(member, 1, until=step)
    right = request.packet
    world.refused(member, replace(request, packet=packet))
    assert member.state.open == {}
    assert "this party is not in it" in world.refused(member, replace(request, packet=right))
    world.released(member, 2)


# What a round costs.


def test_a_round_is_charged_in_the_step_mask_and_nowhere_else(world):
    coordinator, members = world.market(4)
    for number, cost in ((0, Spending(centre=1)), (1, Spending(centre=1, update=2))):
        while world.number(coordinator) == number:
            step, before = coordinator.step, members[0].state.spending
            world.step(coordinator, members)
            paid = members[0].state.spending
            assert (paid != before) == (step == "mask"), step
        assert paid == cost, number


def test_the_charge_is_kept_before_a_row_is_looked_at(world, monkeypatch: pytest.MonkeyPatch):
    member = world.member("a")
    _, request, _ = world.follow(member, 1, until="mask")

    def crash(*args):
        assert member.state.spending == Spending(update=2)
        assert member.state.open == {}
        raise MemoryError

    monkeypatch.setattr(Releases, "of", crash)
    with pytest.raises(MemoryError):
        member.answer(request)
    assert member.state.spending == Spending(update=2)


@pytest.mark.parametrize("step", SECURE)
def test_a_void_round_stays_spent_if_the_masked_vector_was_asked_for_and_costs_nothing_else(world, step: str):
    coordinator, members = world.market(4)
    world.round(coordinator, members, lost={(0, step): {"p0", "p1"}})
    assert len(coordinator.void_rounds) == 1
    spent = {member.name: member.state.spending.centre for member in members}
    asked = {"advertise": set(), "share": set(), "mask": {"p2", "p3"}}.get(step, {"p0", "p1", "p2", "p3"})
    assert spent == {name: int(name in asked) for name in spent}
    world.round(coordinator, members)
    assert {member.state.spending.update for member in members} == {2}


def test_a_run_of_void_rounds_never_spends_more_than_the_plan(world):
    coordinator, members = world.market(4, max_void_rounds=99)
    with pytest.raises(FederationStopped, match=r"as were all of the last 8$"):
        world.drive(coordinator, members, lost={(number, "unmask"): {"p0", "p1"} for number in range(8)})
    assert len(coordinator.void_rounds) == 8
    assert {member.state.spending for member in members} == {Spending(centre=1, update=6, calibrate=3, evaluate=1)}


@pytest.mark.parametrize("due", ["share", "consent", "unmask"])
def test_a_mask_asked_out_of_order_costs_nothing(world, due: str):
    member = world.member("a")
    _, request, _ = world.follow(member, 1, until=due)
    spent = member.state.spending
    world.refused(member, replace(request, step="mask", model=world.model(member.party.terms)))
    assert member.state.spending == spent
    assert spent == (Spending() if due == "share" else Spending(update=2))


def test_a_mask_request_delivered_twice_takes_no_later_round(world):
    """Spent twice, one round would have used up another one's releases, and the last one would be refused."""
    member = world.member("a")
    _, request, _ = world.follow(member, 1, until="mask")
    member.answer(request)
    assert "asked for the step mask, but consent is due" in world.refused(member, request)
    assert member.state.spending == Spending(update=2)
    for number in range(2, 8):
        world.released(member, number)
    assert member.state.spending == Spending(update=6, calibrate=3, evaluate=1)


@pytest.mark.parametrize("packet", [b"", b"garbage"], ids=["empty", "garbage"])
def test_a_mask_request_whose_shares_are_missing_or_do_not_open_costs_nothing(world, packet: bytes):
    member = world.member("a")
    _, request, _ = world.follow(member, 1, until="mask")
    world.refused(member, replace(request, packet=packet))
    assert (member.state.spending, member.state.open) == (Spending(), {})
    other = world.member("a")
    _, request, _ = world.follow(other, 1, until="mask")
    flipped = request.packet[:-1] + bytes([request.packet[-1] ^ 1])
    assert "do not open" in world.refused(other, replace(request, packet=flipped))
    assert (other.state.spending, other.state.open) == (Spending(), {})


def test_a_second_round_of_the_same_number_gives_nothing_and_costs_nothing(world):
    for until in (*SECURE[1:], ""):
        member = world.member("a")
        world.follow(member, 1, until=until)
        before = member.state
        assert "round 1 is not open" in world.refused(member, world.request(member.party.terms, 1))
        assert member.state == before
