"""A party that sends something else: named and left out, or, where nobody could tell, in the sum."""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmarket.aggregation.fixedpoint import words_to_bytes
from fedmarket.aggregation.secagg.wire import HEADER, sign_message
from fedmarket.aggregation.steps import SECURE
from fedmarket.errors import BadMessage, FederationStopped
from fedmarket.federation.coordinator import Coordinator
from fedmarket.federation.messages import Update
from fedmarket.federation.release import Releases
from fedmarket.privacy.budget import Spending

MALLORY = "p4"
"""The last of five; all that the others need is each other."""

BEFORE_THE_SUM = ("advertise", "share", "mask")


def payload_of(content: bytes) -> bytes:
    return content[HEADER.size : -64]


def answers_at(world, coordinator: Coordinator, members, step: str) -> dict[str, Update]:
    """Run the steps before ``step`` and return everyone's honest answers to it, none of them delivered."""
    world.until(coordinator, members, step)
    return world.answers(coordinator, members, step)


def signed(world, coordinator: Coordinator, step: str, payload: bytes, *, by: str = MALLORY, place: int = 4) -> bytes:
    """Return a message that is signed as it should be, whatever is in it."""
    context = coordinator._rounds.first.sum.context
    return sign_message(context, step, sender=place, payload=payload, signer=world.identity_of(by))


CASES = {
    "nothing": (lambda w, c, s, own, others: b"", "bytes for the step"),
    "garbage": (lambda w, c, s, own, others: bytes(range(256)), "bytes for the step"),
    "zeros of the right length": (lambda w, c, s, own, others: bytes(len(own)), "not a message of this protocol"),
    "cut": (lambda w, c, s, own, others: own[:-1], "bytes for the step"),
    "one byte more": (lambda w, c, s, own, others: own + b"\0", "bytes for the step"),
    "a flipped bit": (
        lambda w, c, s, own, others: own[: HEADER.size] + bytes([own[HEADER.size] ^ 1]) + own[HEADER.size + 1 :],
        "the signature is not p4's",
    ),
    "the message of another": (lambda w, c, s, own, others: others[0], "presents a message of p0"),
    "in the name of another": (
        lambda w, c, s, own, others: signed(w, c, s, payload_of(own), place=0),
        "the signature is not p0's",
    ),
    "signed by a stranger": (
        lambda w, c, s, own, others: signed(w, c, s, payload_of(own), by="eve"),
        "the signature is not p4's",
    ),
    "from beyond the roster": (
        lambda w, c, s, own, others: signed(w, c, s, payload_of(own), place=0)[:5] + b"\0\x05" + own[7:],
        "the sender is not in the roster",
    ),
    "for another step": (
        lambda w, c, s, own, others: own[:4] + bytes([own[4] % 5 + 1]) + own[5:],
        "expected a message of the step",
    ),
}


@pytest.mark.parametrize("step", SECURE)
@pytest.mark.parametrize("name", CASES)
def test_a_party_that_sends_something_else_is_named_and_the_round_goes_on_without_it(world, name: str, step: str):
    make, said = CASES[name]
    coordinator, members = world.market(5)
    honest = answers_at(world, coordinator, members, step)
    others = [honest[member.name].content for member in members[:4]]
    bad = make(world, coordinator, step, honest[MALLORY].content, others)
    with pytest.raises(BadMessage, match=rf"^p4: .*{said}"):
        coordinator.receive(replace(honest[MALLORY], content=bad))
    # It is out: not even its honest answer helps it now.
    with pytest.raises(BadMessage, match=r"p4 is out of this round"):
        coordinator.receive(honest[MALLORY])
    rest_of_a_round(world, coordinator, members, honest)
    assert world.same(coordinator.model, without_mallory(world, in_sum=step not in BEFORE_THE_SUM))


def rest_of_a_round(world, coordinator, members, honest) -> None:
    for member in members[:4]:
        coordinator.receive(honest[member.name])
    coordinator.close_step()
    world.finish(coordinator, members[:4], 0)
    assert coordinator.void_rounds == []


def without_mallory(world, *, in_sum: bool):
    """Return the model after a first round in the open, with or without the fifth party's honest sum."""
    coordinator, members = world.market(5, secagg="ideal")
    world.round(coordinator, members if in_sum else members[:4])
    return coordinator.model


@pytest.mark.parametrize("step", SECURE)
def test_a_message_of_the_round_before_is_named(world, step: str):
    coordinator, members = world.market(5)
    older = {}
    while coordinator.requests() and len(older) < 5:
        this = coordinator.step
        older[this] = world.step(coordinator, members)[MALLORY]
    honest = answers_at(world, coordinator, members, step)
    number = honest[MALLORY].round_number
    with pytest.raises(BadMessage, match=r"for round 0, but round 1 is open"):
        coordinator.receive(older[step])
    if len(older[step].content) == len(honest[MALLORY].content):
        said = "^p4: the message of p4 is for another run, round, model, terms or roster"
    else:
        said = "^p4: expected .* bytes for the step mask"  # the rounds' vectors have different lengths
    with pytest.raises(BadMessage, match=said):
        coordinator.receive(replace(older[step], round_number=number))


@pytest.mark.parametrize("step", SECURE)
def test_another_round_or_step_is_refused_and_the_right_answer_still_taken(world, step: str):
    coordinator, members = world.market(5)
    honest = answers_at(world, coordinator, members, step)
    for number in (-1, 2, 99):
        with pytest.raises(BadMessage, match=f"for round {number}, but round 0 is open"):
            coordinator.receive(replace(honest[MALLORY], round_number=number))
    for other in ("sum", "unmasked", *(other for other in SECURE if other != step)):
        with pytest.raises(BadMessage, match=f"for the step {other}, but {step} is due"):
            coordinator.receive(replace(honest[MALLORY], step=other))
    coordinator.receive(honest[MALLORY])


@pytest.mark.parametrize("step", SECURE)
def test_of_two_answers_the_first_one_stays(world, step: str):
    coordinator, members = world.market(5)
    honest = answers_at(world, coordinator, members, step)
    for update in honest.values():
        coordinator.receive(update)
    for content in (honest[MALLORY].content, b"", bytes(200)):
        with pytest.raises(BadMessage, match=f"p4: a second message for the step {step}"):
            coordinator.receive(replace(honest[MALLORY], content=content))
    coordinator.close_step()
    world.finish(coordinator, members, 0)
    assert world.same(coordinator.model, without_mallory(world, in_sum=True))


@pytest.mark.parametrize("step", SECURE[:4])
def test_a_late_answer_is_refused_and_the_party_stays_out(world, step: str):
    coordinator, members = world.market(5)
    honest = answers_at(world, coordinator, members, step)
    for member in members[:4]:
        coordinator.receive(honest[member.name])
    coordinator.close_step()
    with pytest.raises(BadMessage, match="no round is open"):
        coordinator.receive(honest[MALLORY])
    coordinator.requests()
    with pytest.raises(BadMessage, match=f"for the step {step}, but {coordinator.step} is due"):
        coordinator.receive(honest[MALLORY])
    assert MALLORY not in world.asked(coordinator)


def test_an_answer_to_a_round_that_is_void_or_over_is_refused(world):
    coordinator, members = world.market(4)
    late = answers_at(world, coordinator, members, "unmask")
    coordinator.close_step()
    assert len(coordinator.void_rounds) == 1
    with pytest.raises(BadMessage, match="no round is open"):
        coordinator.receive(late["p0"])
    coordinator.requests()
    with pytest.raises(BadMessage, match="for round 0, but round 1 is open"):
        coordinator.receive(late["p0"])


def test_whom_the_transport_names_is_believed_so_a_forgery_costs_that_party_the_round(world):
    """Transport must say who sends: a name in the message is no proof, but the signature keeps forgeries out."""
    coordinator, members = world.market(5)
    honest = answers_at(world, coordinator, members, "mask")
    with pytest.raises(BadMessage, match="p0: presents a message of p4"):
        coordinator.receive(replace(honest[MALLORY], party="p0"))
    with pytest.raises(BadMessage, match="p0 is out of this round"):
        coordinator.receive(honest["p0"])


@pytest.fixture(scope="module")
def moments(world):
    """Return a coordinator waiting for the answers of each step."""
    found = {}
    for step in SECURE:
        found[step], members = world.market(5)
        world.until(found[step], members, step)
    return found


@given(content=st.binary(max_size=600), step=st.sampled_from(SECURE))
def test_any_bytes_are_refused_by_name(moments, content: bytes, step: str):
    with pytest.raises(BadMessage, match=r"^p4: "):
        deepcopy(moments[step]).receive(Update(party=MALLORY, round_number=0, step=step, content=content))


# What is out of range never leaves.


def test_a_vector_out_of_range_does_not_leave_and_the_others_go_on(world):
    coordinator, members = world.market(5)
    crowd = world.rows(20_000)
    crowd.features[:] = [0.9, 0.0, 0.9, 0.0]
    world.swap(members[4].party, rows=crowd)
    requests = world.until(coordinator, members, "mask")
    for member in members[:4]:
        coordinator.receive(member.answer(requests[member.name]))
    with pytest.raises(BadMessage, match=r"^update out of the public range$"):
        members[4].answer(requests[MALLORY])
    assert members[4].state.open == {}
    coordinator.reject(MALLORY, "update out of the public range")
    coordinator.close_step()
    world.finish(coordinator, members[:4], 0)
    assert world.same(coordinator.model, without_mallory(world, in_sum=False))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_numbers_that_are_none_do_not_leave(world, monkeypatch: pytest.MonkeyPatch, value: float):
    member = world.member("a")
    _, request, _ = world.follow(member, 1, until="mask")
    monkeypatch.setattr(Releases, "of", lambda *_: np.array([0.0, 0.0, value, 0.0, 0.0]))
    with pytest.raises(BadMessage, match="out of the public range"):
        member.answer(request)
    assert member.state.open == {}


# What nobody can tell.


def test_a_well_formed_lie_goes_into_the_sum_unnoticed(world, monkeypatch: pytest.MonkeyPatch):
    """Masks hide a poisoned sum as they hide an honest one; only the range bounds it, and that of means the centre."""
    grid = world.terms(parties=5).grid_of("centre")
    honest, (coordinator, members) = without_mallory(world, in_sum=True), world.market(5)
    release, liar = Releases.of, members[4].party._releases
    assert members[4].name == MALLORY
    monkeypatch.setattr(
        Releases, "of", lambda self, *args: np.full(4, grid.bound) if self is liar else release(self, *args)
    )
    world.round(coordinator, members)
    assert coordinator.rejections == []
    assert coordinator.void_rounds == []
    np.testing.assert_array_equal(coordinator.model.centre, np.ones(4))
    assert (honest.centre < 0.5).all()


def test_declared_rows_are_believed_and_weigh_the_step(world):
    """A size is a public promise that nobody can check: declaring more than there is makes every step smaller."""

    def centre(declared: int) -> np.ndarray:
        terms = world.terms()
        coordinator = world.coordinator(terms, world.four)
        members = [world.fresh(world.party(name, terms)) for name in "abc"]
        members.append(world.fresh(world.party("d", terms, declared_rows=declared)))
        world.join(coordinator, members)
        world.round(coordinator, members)
        assert coordinator.rejections == []
        return coordinator.model.centre

    np.testing.assert_allclose(centre(40) * 160, centre(2000) * 2120, rtol=1e-12)


# Wrong shares.


def test_a_wrong_share_that_was_used_voids_the_round_and_the_reason_names_who_may_have_sent_it(world):
    coordinator, members = world.market(7)
    before = coordinator.model.hash
    honest = answers_at(world, coordinator, members, "unmask")
    payload = bytearray(payload_of(honest["p0"].content))
    for start in range(0, len(payload), 17):
        payload[start + 16] ^= 1
    wrong = signed(world, coordinator, "unmask", bytes(payload), by="p0", place=0)
    for update in [replace(honest["p0"], content=wrong), *list(honest.values())[1:]]:
        coordinator.receive(update)
    coordinator.close_step()
    (void,) = coordinator.void_rounds
    assert void.round_number == 0
    assert void.reason.startswith("round 0 is void, unmask: the share of p0 that p0 released is wrong")
    assert void.reason.endswith("(and 6 more) (may be caused by p0)")
    assert coordinator.model.hash == before
    world.round(coordinator, members[1:])  # the next round can do without it
    assert len(coordinator.void_rounds) == 1
    assert coordinator.model.hash != before


def test_suspects_are_named_where_void_rounds_end_the_run(world):
    coordinator, members = world.market(7, max_void_rounds=1)
    honest = answers_at(world, coordinator, members, "unmask")
    wrong = signed(world, coordinator, "unmask", bytes(7 * 17), by="p0", place=0)
    for update in [replace(honest["p0"], content=wrong), *list(honest.values())[1:]]:
        coordinator.receive(update)
    with pytest.raises(FederationStopped, match=r"\(may be caused by p0\), as were all of the last 1$"):
        coordinator.close_step()


def test_shares_that_do_not_open_make_their_holders_refuse_and_cost_nothing_but_the_round(world):
    """Whoever seals bad shares can stop a round, but not by having the others pay for a sum that nobody gets."""
    coordinator, members = world.market(5)
    honest = answers_at(world, coordinator, members, "share")
    payload = bytearray(payload_of(honest[MALLORY].content))
    payload[32:] = bytes(len(payload) - 32)
    bad = signed(world, coordinator, "share", bytes(payload))
    for member in members[:4]:
        coordinator.receive(honest[member.name])
    coordinator.receive(replace(honest[MALLORY], content=bad))  # nobody but the holders can see it
    coordinator.close_step()
    requests = world.asked(coordinator)
    for member in members[:4]:
        with pytest.raises(BadMessage, match="the shares from p4 do not open"):
            member.answer(requests[member.name])
        assert (member.state.last_round, member.state.open, member.state.spending) == (0, {}, Spending())
    coordinator.close_step()
    assert [void.round_number for void in coordinator.void_rounds] == [0]
    world.round(coordinator, members[:4])
    assert len(coordinator.void_rounds) == 1
    assert {member.state.spending for member in members[:4]} == {Spending(update=2)}


@pytest.mark.parametrize("bad", [1, 2, 4])
def test_in_every_round_bad_shares_cost_nobody_a_release_and_leave_the_whole_plan(world, bad: int):
    """Rounds that one party spoils are lost; those that it lets be are paid for as if nothing had been."""
    coordinator, members = world.market(5, max_void_rounds=99)
    for number in range(bad):
        honest = answers_at(world, coordinator, members, "share")
        spoilt = signed(world, coordinator, "share", bytes(len(payload_of(honest[MALLORY].content))))
        for name, update in honest.items():
            coordinator.receive(replace(update, content=spoilt) if name == MALLORY else update)
        coordinator.close_step()
        for name, request in world.asked(coordinator).items():
            if name != MALLORY:
                with pytest.raises(BadMessage, match="the shares from p4 do not open"):
                    members[int(name[1])].answer(request)
        coordinator.close_step()
        assert {member.state.spending for member in members[:4]} == {Spending()}
        assert len(coordinator.void_rounds) == number + 1
    world.drive(coordinator, members)
    paid = Spending(update=2 * max(4 - bad, 0), calibrate=3, evaluate=1)
    assert {member.state.spending for member in members} == {paid}


def test_a_masked_vector_of_other_words_is_noise_and_nothing_else(world):
    """A party may also send any words it likes: the sum is wrong then, and tells nothing about anybody."""
    coordinator, members = world.market(5)
    honest = answers_at(world, coordinator, members, "mask")
    words = np.zeros(4, dtype=np.uint32)
    bad = signed(world, coordinator, "mask", words_to_bytes(words))
    for update in {**honest, MALLORY: replace(honest[MALLORY], content=bad)}.values():
        coordinator.receive(update)
    coordinator.close_step()
    world.finish(coordinator, members, 0)
    assert coordinator.void_rounds == []
    assert not world.same(coordinator.model, without_mallory(world, in_sum=True))
