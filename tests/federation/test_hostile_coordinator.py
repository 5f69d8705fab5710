"""Whatever a coordinator sends, nothing leaves a party unmasked, twice, or to be unmasked in two ways."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmarket.aggregation.secagg.keys import ADVERT_SIZE, SEALED_SIZE
from fedmarket.aggregation.secagg.wire import ENVELOPE_SIZE, from_bitmap, write_sets
from fedmarket.aggregation.steps import SECURE
from fedmarket.errors import BadMessage, ConfigError, PlanError, Refusal
from fedmarket.federation.party import PartyState
from fedmarket.federation.roster import Roster
from fedmarket.federation.seat import Seat

ADVERT, TEXT, CONSENT = ENVELOPE_SIZE + ADVERT_SIZE, 2 + SEALED_SIZE, ENVELOPE_SIZE + 2
"""Bytes of the records that a party of four gets."""


def pieces(content: bytes, size: int) -> list[bytes]:
    return [content[start : start + size] for start in range(0, len(content), size)]


# Joining.


def test_a_second_invitation_is_refused_with_the_same_run_or_another(world):
    member = world.member("a")
    before = member.state
    for run in (world.run, b"another run's no"):
        with pytest.raises(BadMessage, match="this party has joined a run already"):
            member.join(world.invitation(member.party, run=run))
    assert member.state == before


@pytest.mark.parametrize("run", [b"", b"short", bytes(15), bytes(17), bytes(1000)])
def test_a_run_of_another_length_is_refused(world, run: bytes):
    member = world.fresh(world.party("a", world.terms()))
    with pytest.raises(BadMessage, match=f"expected a run of 16 bytes, got {len(run)}"):
        member.join(world.invitation(member.party, run=run))
    assert member.kept == []


def test_a_coordinator_with_another_roster_gets_no_acceptance(world):
    member = world.fresh(world.party("a", world.terms()))
    own = member.party.seat.roster.hash.hex()
    for other in ("", "0" * 64, own.upper(), own[:-1], world.roster_of(("a", "b", "c", "e")).hash.hex()):
        with pytest.raises(BadMessage, match="rosters differ: the coordinator holds"):
            member.join(world.invitation(member.party, roster_hash=other))
    assert member.kept == []


def test_in_the_open_a_roster_is_refused_too(world):
    member = world.fresh(world.party("a", world.terms(secagg="ideal")))
    with pytest.raises(BadMessage, match="rosters differ: the coordinator holds 000000000000, this party none"):
        member.join(world.invitation(member.party, roster_hash="0" * 64))


@pytest.mark.parametrize(
    ("roster", "minimum", "said"),
    [
        ("abcd", 4, r"federation\.minimum_survivors: the roster says 4, got 3"),
        ("abcde", 5, r"federation\.minimum_survivors: the roster says 5, got 3"),
        ("abcdefghi", None, r"federation\.max_parties: the roster has 9 members, got 8"),
    ],
)
def test_a_party_does_not_join_with_a_roster_of_other_terms(world, roster: str, minimum: int | None, said: str):
    seat = Seat(identity=world.identity_of("a"), roster=world.roster_of(roster, minimum=minimum))
    member = world.fresh(world.party("a", world.terms(), seat=seat))
    with pytest.raises(PlanError, match=said):
        member.join(world.invitation(member.party))
    assert member.kept == []


def test_a_roster_with_a_lower_threshold_or_fewer_survivors_than_it_cannot_be_made(world):
    roster = world.roster_of("abcdefg")
    for threshold in (1, 2, 4, 6):
        with pytest.raises(ConfigError, match="threshold: expected 5 for 7 members"):
            Roster(members=roster.members, threshold=threshold, minimum_survivors=5)
    with pytest.raises(ConfigError, match=r"minimum_survivors: expected 5 \(the threshold\) to 7, got 4"):
        world.roster_of("abcdefg", minimum=4)
    for few in ("ab", "abc"):
        with pytest.raises(ConfigError, match="secure aggregation needs 4 to 100 members"):
            Seat(identity=world.identity_of("a"), roster=world.roster_of(few))


def test_a_party_that_is_not_in_its_roster_has_no_seat(world):
    with pytest.raises(ConfigError, match="this party's identity is not in its roster"):
        Seat(identity=world.identity_of("eve"), roster=world.roster_of("abcd"))


def test_a_party_without_a_seat_neither_joins_nor_answers(world):
    member = world.fresh(world.party("a", world.terms(), seat=None))
    with pytest.raises(ConfigError, match="the terms ask for secure aggregation, but it has no identity"):
        member.join(world.invitation(member.party))
    assert member.kept == []
    member.state = PartyState(run=world.run)
    with pytest.raises(ConfigError, match="it has no identity"):
        member.answer(world.request(member.party.terms, 0))
    assert member.kept == []


# Requests that are not the next step.


@pytest.mark.parametrize("until", SECURE)
@pytest.mark.parametrize("asked", ["sum", "", "Advertise", "masked", None])
def test_a_sum_in_the_open_or_an_unknown_step_is_refused_and_the_round_goes_on(world, until: str, asked):
    member = world.member("a")
    circle, request, _ = world.follow(member, 0, until=until)
    before = member.state
    model = world.model(member.party.terms)
    with pytest.raises(BadMessage, match="step: expected one of advertise, share, mask, consent, unmask"):
        member.answer(replace(request, step=asked, model=model))
    assert member.state == before
    circle.take(member.answer(request))


@pytest.mark.parametrize("until", SECURE[1:])
@pytest.mark.parametrize("asked", SECURE[1:])
def test_steps_out_of_order_get_no_answer_and_end_the_round(world, until: str, asked: str):
    if asked == until:
        return
    member = world.member("a")
    _, request, _ = world.follow(member, 1, until=until)
    model = world.model(member.party.terms)
    with pytest.raises(Refusal, match=f"asked for the step {asked}, but {until} is due"):
        member.answer(replace(request, step=asked, model=model if asked == "mask" else None))
    assert member.state.open == {}
    with pytest.raises(Refusal, match="this party is not in it"):
        member.answer(request)


@pytest.mark.parametrize("asked", SECURE[1:])
@pytest.mark.parametrize("number", [-1, 0, 2, 10**18])
def test_a_later_step_of_another_round_gets_no_answer_and_the_open_round_goes_on(world, asked: str, number: int):
    member = world.member("a")
    circle, request, _ = world.follow(member, 1, until=asked)
    before = member.state
    with pytest.raises(Refusal, match=f"round {number}: this party is not in it; last entered 1"):
        member.answer(replace(request, round_number=number))
    assert member.state == before
    circle.take(member.answer(request))


def test_after_the_first_step_the_phase_of_a_request_changes_nothing(world):
    """A party goes by the round's number."""
    for step in SECURE[1:]:
        member = world.member("a")
        circle, request, _ = world.follow(member, 1, until=step)
        circle.take(member.answer(replace(request, phase="centre")))


# Different things told to different parties.


@pytest.mark.parametrize("shown", list(product([0, 1], repeat=4)), ids=str)
def test_parties_shown_different_models_unmask_nothing_unless_enough_saw_the_same(world, shown):
    coordinator, members = world.market(4)
    requests = world.until(coordinator, members, "mask")
    models = [coordinator.model, replace(coordinator.model, parameters=np.full(5, 1e-9))]
    everybody = write_sets(coordinator._rounds.first.sum.context, (0, 1, 2, 3), ())
    signed = {}
    for member, which in zip(members, shown, strict=True):
        request = requests[member.name]
        member.answer(replace(request, model=models[which]))
        agreed = replace(request, step="consent", model=None, packet=everybody)
        signed[member.name] = member.answer(agreed).content
    for member, which in zip(members, shown, strict=True):
        group = [one.name for one, other in zip(members, shown, strict=True) if other == which]
        everyone, alike = b"".join(signed.values()), b"".join(signed[name] for name in group)
        request = replace(requests[member.name], step="unmask", model=None, packet=everyone)
        again = world.fresh(member.party, member.state)
        if len(group) < 4:
            with pytest.raises(BadMessage, match="is for another run, round, model, terms or roster"):
                member.answer(request)
        if len(group) >= 3:
            again.answer(replace(request, packet=alike))
        else:
            with pytest.raises(Refusal, match=f"expected 3 signatures of the survivors, got {len(group)}"):
                again.answer(replace(request, packet=alike))


def test_parties_of_different_runs_refuse_each_other(world):
    terms = world.terms()
    members = [world.fresh(world.party(name, terms)) for name in world.four]
    for number, member in enumerate(members):
        member.join(world.invitation(member.party, run=bytes([number]) * 16))
    with pytest.raises(Refusal, match=r"^this party has joined another run$"):
        members[0].answer(world.request(terms, 1))
    asked = [{"run": member.state.run, "model": None} for member in members]
    joined = b"".join(
        member.answer(world.request(terms, 1, **own)).content for member, own in zip(members, asked, strict=True)
    )
    for member, own in zip(members, asked, strict=True):
        with pytest.raises(BadMessage, match="is for another run, round, model, terms or roster"):
            member.answer(world.request(terms, 1, step="share", packet=joined, **own))


@pytest.mark.parametrize("shown", list(product([0, 1], repeat=4)), ids=str)
def test_no_two_sets_of_survivors_are_both_unmasked(world, shown):
    """Each party signs one of two sets; the coordinator then picks, for each, the signatures that it likes best."""
    coordinator, members = world.market(4)
    requests = world.until(coordinator, members, "consent")
    context = coordinator._rounds.first.sum.context
    sets = [write_sets(context, (0, 1, 2, 3), ()), write_sets(context, (0, 1, 2), (3,))]
    signed = [{}, {}]
    for place, (member, which) in enumerate(zip(members, shown, strict=True)):
        request = replace(requests[member.name], packet=sets[which])
        if (place, which) == (3, 1):
            with pytest.raises(Refusal, match="lists this party as dropped"):
                member.answer(request)
        else:
            signed[which][place] = member.answer(request).content
    released = [0, 0]
    for place, member in enumerate(members):
        start = member.state
        best = (b"".join(signed[which].values()) for which in (0, 1))
        mixed = [(signed[0] | signed[1])[key] for key in sorted(signed[0] | signed[1])]
        for packet in (*best, b"".join(mixed)):
            copy = world.fresh(member.party, start)
            try:
                copy.answer(replace(requests[member.name], step="unmask", packet=packet))
            except (Refusal, BadMessage):
                assert copy.state.open == {}
            else:
                released[0 if place in signed[0] else 1] += 1
    assert min(released) == 0
    for which in (0, 1):
        assert bool(released[which]) == (len(signed[which]) >= 3)


def test_who_is_survivor_and_dropped_or_neither_or_too_few_is_refused(world):
    member = world.member("b")
    _, request, _ = world.follow(member, 1, until="consent")
    said = {
        ((0, 1, 2, 3), (3,)): "d is listed both as survivor and as dropped",
        ((0, 1, 2), ()): "d is listed without having shared its keys, or shared them and is not listed",
        ((0, 2, 3), (1,)): "lists this party as dropped although it has answered",
        ((0, 1), (2, 3)): "expected at least 3 parties that survive, got 2",
        ((), ()): "a is listed without having shared",
    }
    for sets, reason in said.items():
        copy = world.fresh(member.party, member.state)
        bits = [sum(1 << place for place in places) for places in sets]
        with pytest.raises(Refusal, match=reason):
            copy.answer(replace(request, packet=bytes(bits)))
        assert copy.state.open == {}


# Packets.


@pytest.fixture(scope="module")
def moments(world):
    """Return one party and, for each step but the first, what it remembers and the right request."""
    member = world.member("b")
    found = {}
    for step in SECURE[1:]:
        then = world.fresh(member.party, member.state)
        _, request, _ = world.follow(then, 1, until=step)
        found[step] = (then.state, request)
    return member.party, found


def acceptable(step: str, right: bytes, packet: bytes) -> bool:
    """Whether a coordinator may say ``packet``: fewer parties than there are, but enough, and all in order."""
    if step == "consent":
        survivors, dropped = (
            (from_bitmap(packet[i : i + 1], members=4) for i in (0, 1)) if len(packet) == 2 else ((), ())
        )
        return sorted(survivors + dropped) == [0, 1, 2, 3] and 1 in survivors and len(survivors) >= 3
    size, least = {"share": (ADVERT, 3), "mask": (TEXT, 2), "unmask": (CONSENT, 3)}[step]
    listed, all_of_them = pieces(packet, size), pieces(right, size)
    places = [all_of_them.index(record) if record in all_of_them else -1 for record in listed]
    return (
        len(places) >= least and -1 not in places and places == sorted(set(places)) and (step == "mask" or 1 in places)
    )


def held_against(world, moments, step: str, packet: bytes) -> None:
    party, found = moments
    state, request = found[step]
    member = world.fresh(party, state)
    try:
        ok = acceptable(step, request.packet, packet)
    except BadMessage:
        ok = False
    if ok:
        member.answer(replace(request, packet=packet))
        return
    with pytest.raises((BadMessage, Refusal)) as caught:
        member.answer(replace(request, packet=packet))
    assert member.state.open == {}
    assert len(str(caught.value)) < 200


@given(step=st.sampled_from(SECURE[1:]), packet=st.binary(max_size=400))
def test_any_bytes_get_a_named_refusal(world, moments, step: str, packet: bytes):
    held_against(world, moments, step, packet)


@st.composite
def edits(draw):
    """Draw edits of bytes, and of records: cut, repeat, swap, leave out, flip."""
    edit = st.tuples(
        st.sampled_from(["cut", "flip", "swap", "repeat", "leave out", "add"]), st.floats(0, 1), st.floats(0, 1)
    )
    return draw(st.lists(edit, min_size=1, max_size=3))


def edited(packet: bytes, size: int, how: str, where: float, what: float) -> bytes:
    at, listed = int(where * max(len(packet) - 1, 0)), pieces(packet, size)
    one, other = (int(x * (len(listed) - 1)) if listed else 0 for x in (where, what))
    if how == "cut":
        return packet[:at]
    if how == "add":
        return packet[:at] + bytes([int(what * 255)]) + packet[at:]
    if not listed:
        return packet
    if how == "flip":
        return packet[:at] + bytes([packet[at] ^ (1 << int(what * 7))]) + packet[at + 1 :]
    if how == "swap":
        listed[one], listed[other] = listed[other], listed[one]
    elif how == "repeat":
        listed.insert(other, listed[one])
    else:
        del listed[one]
    return b"".join(listed)


@settings(max_examples=200)
@given(step=st.sampled_from(SECURE[1:]), changes=edits())
def test_a_right_packet_that_was_changed_anywhere_gets_a_named_refusal(world, moments, step: str, changes):
    packet = moments[1][step][1].packet
    size = {"share": ADVERT, "mask": TEXT, "consent": 1, "unmask": CONSENT}[step]
    for how, where, what in changes:
        packet = edited(packet, size, how, where, what)
    held_against(world, moments, step, packet)


@pytest.mark.parametrize("step", ["share", "mask", "unmask"])
def test_messages_of_the_round_before_are_refused(world, step: str):
    member = world.member("b")
    older = world.fresh(member.party, member.state)
    _, replayed, _ = world.follow(older, 1, until=step)
    _, request, _ = world.follow(member, 2, until=step)
    with pytest.raises((BadMessage, Refusal)):
        member.answer(replace(request, packet=replayed.packet))
    assert member.state.open == {}
