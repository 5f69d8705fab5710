"""A request outside the policy is refused by its reason code, before anything is written for it."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from pydantic import ValidationError

from fedmarket.errors import Refusal
from fedmarket.federation.messages import Invitation, Refused, Replies, Request, Requests
from fedmarket.federation.wire import decoded, encoded
from fedmarket.ledger.entries import Entry, Head, Reserved, Voided, moment
from fedmarket.node.agreement import agreement_of
from fedmarket.node.policy import PolicySection, breaches, need_allowed_now
from fedmarket.node.settings import load_partner

NOON = datetime(2026, 3, 2, 12, 0, tzinfo=UTC)
OTHER = "0" * 64


@pytest.fixture
def terms(nodes):
    return agreement_of(load_partner(nodes.document(0))).terms


@pytest.fixture
def policy(terms) -> PolicySection:
    return PolicySection(contracts=(terms.contract_hash,), largest_epsilon=1.0, least_survivors=3)


def changed(policy: PolicySection, **keys: object) -> PolicySection:
    return PolicySection(**(policy.model_dump() | keys))


def test_terms_that_keep_the_policy_break_nothing(policy, terms):
    strict = changed(policy, terms=terms.hash, models=("logistic",), least_noise=0.1, least_colluders=1)
    assert breaches(strict, terms, rehearsal=True) == ()


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ({"contracts": (OTHER,)}, "policy:contract: contract "),
        ({"terms": OTHER}, "policy:terms: expected terms 000000000000, got "),
        ({"models": ("mlp", "ziln")}, "policy:model: expected one of mlp, ziln, got logistic"),
        ({"least_noise": 1e6}, "policy:noise: expected a noise multiplier of 1e+06 or more, got "),
        ({"largest_epsilon": 0.9}, "policy:epsilon: expected at most 0.9 for a run, got 1.0000"),
        ({"least_survivors": 4}, "policy:survivors: expected 4 or more parties in a sum, got 3"),
    ],
)
def test_each_rule_has_a_code(policy, terms, keys, line):
    (found,) = breaches(changed(policy, **keys), terms, rehearsal=True)
    assert found.startswith(line)


def test_all_broken_rules_are_told_in_one_go(policy, terms):
    found = breaches(changed(policy, contracts=(OTHER,), largest_epsilon=0.5), terms, rehearsal=False)
    assert [line.split(": ")[0] for line in found] == ["policy:contract", "policy:epsilon", "policy:generator"]


def test_shared_noise_must_bear_as_many_colluders_as_the_policy_says(policy, make_nodes, tmp_path):
    shared = make_nodes(('noise = "local"', 'noise = "distributed"'), folder=tmp_path)
    terms = agreement_of(load_partner(shared.document(0))).terms
    assert breaches(changed(policy, least_colluders=1), terms, rehearsal=True) == ()
    (found,) = breaches(changed(policy, least_colluders=2), terms, rehearsal=True)
    assert found == "policy:colluders: expected shared noise to bear 2 or more colluders, got 1"


def test_sums_in_the_open_must_be_allowed(policy, terms):
    in_the_open = replace(terms, secagg="ideal")
    (found,) = breaches(policy, in_the_open, rehearsal=True)
    assert found.startswith("policy:sums: ")
    assert breaches(changed(policy, sums="any"), in_the_open, rehearsal=True) == ()


def test_noise_from_a_seed_is_for_rehearsals_alone_and_no_key_allows_it(policy, terms):
    assert breaches(policy, terms, rehearsal=False) == (
        "policy:generator: expected noise from the operating system, got noise from a seed",
    )


@pytest.mark.parametrize(
    ("hours", "time", "open_"),
    [
        ("08:00-18:00", "08:00", True),
        ("08:00-18:00", "17:59", True),
        ("08:00-18:00", "18:00", False),
        ("08:00-18:00", "07:59", False),
        ("22:00-06:00", "23:00", True),
        ("22:00-06:00", "05:59", True),
        ("22:00-06:00", "06:00", False),
        ("22:00-06:00", "21:59", False),
    ],
)
def test_hours_are_utc_and_may_pass_midnight(policy, hours, time, open_):
    now = datetime.fromisoformat(f"2026-03-02T{time}:00+00:00").astimezone(timezone(timedelta(hours=9)))
    for joining in (True, False):
        if open_:
            need_allowed_now(changed(policy, hours=hours), (), joining=joining, now=now)
        else:
            with pytest.raises(Refusal, match=f"policy:hours: this party answers between {hours} UTC"):
                need_allowed_now(changed(policy, hours=hours), (), joining=joining, now=now)


@pytest.mark.parametrize("wrong", ["8:00-18:00", "24:00-01:00", "08:00", "08:60-09:00", "08:00-18:00 "])
def test_hours_that_are_none_are_refused(policy, wrong):
    with pytest.raises(ValidationError, match="hours"):
        changed(policy, hours=wrong)


def entry(kind: type, at: datetime) -> Entry:
    head = Head.model_construct(time=moment(at))
    return Entry(head=head, statement=kind.model_construct())


def test_rounds_of_the_last_24_hours_are_counted_and_no_others(policy):
    two = changed(policy, most_rounds_a_day=2)
    old = [entry(Reserved, NOON - timedelta(hours=24, seconds=one)) for one in range(5)]
    other = [entry(Voided, NOON - timedelta(hours=1))] * 5
    one = [entry(Reserved, NOON - timedelta(hours=23))]
    need_allowed_now(two, [*old, *other, *one], joining=False, now=NOON)
    need_allowed_now(two, [*old, *one, *one], joining=True, now=NOON)
    with pytest.raises(Refusal, match="policy:rounds-a-day: 2 rounds within 24 hours, at most 2"):
        need_allowed_now(two, [*old, *one, *one], joining=False, now=NOON)
    with pytest.raises(Refusal, match="policy:rounds-a-day"):  # a clock that was put back gives no more
        need_allowed_now(two, [*one, *one], joining=False, now=NOON - timedelta(days=3))


# At the desk.


def reason(desk, action: str, message: object) -> str:
    answer = desk.answer(action, encoded(message))
    if isinstance(message, Requests):
        (reply,) = decoded(Replies, answer).replies
        return reply.reason
    return decoded(Refused, answer).reason


def invitation(desk, run: bytes = bytes(16)) -> Invitation:
    terms = desk.party.terms
    return Invitation(run=run, terms_hash=terms.hash, roster_hash=desk.party.seat.roster.hash.hex())


def advertise(number: int, run: bytes = bytes(16)) -> Requests:
    fields = {"model": None, "packet": b""}
    phase = "update" if number else "centre"
    one = Request(run=run, round_number=number, phase=phase, step="advertise", **fields)
    return Requests(requests=(one,))


def test_what_the_policy_forbids_is_refused_and_nothing_is_written(make_nodes):
    desk = make_nodes(policy="least_noise = 1e6").desk(0)
    try:
        size = desk.party.books.ledger.state.size
        assert reason(desk, "join", invitation(desk)).startswith("policy:noise: ")
        assert reason(desk, "advertise", advertise(0)).startswith("policy:noise: ")
        assert desk.party.books.ledger.state.size == size
    finally:
        desk.close()


def test_numbers_a_day_survive_a_restart(make_nodes):
    nodes = make_nodes(policy="most_rounds_a_day = 2\nmost_runs_a_day = 1")
    for number in range(4):
        desk = nodes.desk(0)
        try:
            if number == 0:
                desk.answer("join", encoded(invitation(desk)))
            assert reason(desk, "join", invitation(desk, bytes([1] * 16))).startswith("policy:runs-a-day: 1 runs")
            if number < 2:
                desk.answer("advertise", encoded(advertise(number)))
                assert desk.party.books.ledger.state.reservations[bytes(16).hex(), number].outcome == "open"
            else:
                assert reason(desk, "advertise", advertise(number)).startswith("policy:rounds-a-day: 2 rounds")
        finally:
            desk.close()


def test_a_round_that_was_entered_is_finished_outside_the_hours(make_nodes):
    desk = make_nodes(policy='hours = "08:00-18:00"').desk(0)
    try:
        desk.clock = lambda: NOON
        desk.answer("join", encoded(invitation(desk)))
        desk.answer("advertise", encoded(advertise(0)))
        desk.clock = lambda: NOON + timedelta(hours=7)
        later = Requests(requests=(replace(advertise(0).requests[0], step="share"),))
        assert not reason(desk, "share", later).startswith("policy:")  # the packet is bad, but it was looked at
        assert reason(desk, "advertise", advertise(1)).startswith("policy:hours: ")
    finally:
        desk.close()
