"""Replay: entries follow one another by the rules, and every ledger that breaks one is refused by name of the entry."""

import json

import pytest

from fedmarket.errors import BadMessage
from fedmarket.ledger.canonical import canonical
from fedmarket.ledger.entries import KINDS
from fedmarket.ledger.replay import replay

WHOLE = ("opened", "joined", "reserved", "committed", "released", "withdrawn", "cap-changed", "data-replaced")


def test_a_whole_ledger_is_understood(chain, known):
    state = replay(chain(*WHOLE).envelopes)
    assert state.size == len(WHOLE)
    assert state.party == "Alpha Bank"
    assert state.cap == "9.0"
    assert state.data_set == known.B
    assert state.released == {}
    assert [found.outcome for found in state.reservations.values()] == ["committed"]
    assert state.runs[known.run].left == {"centre": 1, "update": 9, "evaluate": 1}


def test_no_entries_are_a_ledger_that_is_not_opened_yet():
    assert replay([]).opened is None


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "opened"])
def test_a_ledger_begins_with_its_opening(chain, kind):
    with pytest.raises(BadMessage, match=r"^entry 0: "):
        replay(chain(kind).envelopes)


@pytest.mark.parametrize(
    ("kinds", "said"),
    [
        (("opened", "opened"), "opened by its first entry"),
        (("opened", "reserved"), "run: not joined"),
        (("opened", "released"), "run: not joined"),
        (("opened", "committed"), "nothing was reserved"),
        (("opened", "joined", "voided"), "nothing was reserved"),
        (("opened", "joined", "joined"), "joined before"),
        (("opened", "joined", "reserved", "reserved"), "expected one after 0, got 0"),
        (("opened", "joined", "reserved", "committed", "committed"), "has an outcome already"),
        (("opened", "joined", "reserved", "committed", "voided"), "has an outcome already"),
        (("opened", "joined", "reserved", "voided", "committed"), "has an outcome already"),
        (("opened", "joined", "reserved", "voided", "reserved"), "expected one after 0, got 0"),
        (("opened", "withdrawn"), "no such model is released"),
        (("opened", "joined", "released", "released"), "released already"),
        (("opened", "joined", "released", "withdrawn", "withdrawn"), "no such model is released"),
        (("opened", "cap-changed", "cap-changed"), "old: not the one in force"),
        (("opened", "cap-changed", "joined", "reserved"), "cap: not the one in force"),
        (("opened", "data-replaced", "data-replaced"), "old: not the one in force"),
        (("opened", "data-replaced", "joined"), "data_set: not the one in force"),
        (("opened", "joined", "data-replaced", "reserved"), "no longer in use"),
        (("opened", "data-replaced", "data-destroyed"), "data_set: not the one in force"),
        (("opened", "data-destroyed", "data-destroyed"), "destroyed"),
        (("opened", "data-destroyed", "cap-changed"), "destroyed"),
        (("opened", "data-destroyed", "data-replaced"), "destroyed"),
        (("opened", "data-destroyed", "joined"), "destroyed"),
        (("opened", "joined", "data-destroyed", "reserved"), "destroyed"),
        (("opened", "rotated", "joined"), "signed by the key"),
    ],
)
def test_an_entry_out_of_order_is_refused(chain, kinds, said):
    with pytest.raises(BadMessage, match=f"^entry {len(kinds) - 1}: .*{said}"):
        replay(chain(*kinds).envelopes)


@pytest.mark.parametrize(
    "kinds",
    [
        ("opened", "joined", "reserved", "data-replaced", "committed"),
        ("opened", "joined", "reserved", "data-destroyed", "voided", "released", "withdrawn"),
        ("opened", "joined", "released", "withdrawn", "released"),
        ("opened", "data-destroyed", "rotated"),
    ],
)
def test_statements_about_what_was_are_taken_later(chain, kinds):
    assert replay(chain(*kinds).envelopes).size == len(kinds)


@pytest.mark.parametrize(
    ("head", "said"),
    [
        ({"sequence": 3}, "sequence: expected 2, got 3"),
        ({"sequence": 1}, "sequence: expected 2, got 1"),
        ({"previous": "0" * 64}, "previous: not the hash"),
        ({"party": "Beta Bank"}, "party: not the one"),
    ],
)
def test_a_head_that_does_not_follow_is_refused(chain, head, said):
    with pytest.raises(BadMessage, match=f"^entry 2: {said}"):
        replay(chain("opened", "joined").add("reserved", head=head).envelopes)


def test_after_a_rotation_the_new_key_signs_and_the_old_one_no_more(chain, known):
    begun = chain("opened", "rotated")
    begun.signer = known.beta
    begun.add("joined")
    assert replay(begun.envelopes).public_key == known.beta.public_key
    begun.signer = known.alpha
    with pytest.raises(BadMessage, match="entry 3: signed by the key"):
        replay(begun.add("reserved").envelopes)


def test_a_ledger_opened_with_anothers_key_is_refused(chain, known):
    with pytest.raises(BadMessage, match="entry 0: signed by the key"):
        replay(chain("opened", signer=known.beta).envelopes)


def test_a_run_is_of_the_unit_and_relation_of_the_ledger(chain, known):
    for changed in ({"unit": "column:id"}, {"adjacency": "replace-one"}):
        with pytest.raises(BadMessage, match="unit and adjacency"):
            replay(chain("opened").add("joined", plan=known.plan(**changed)).envelopes)


def test_a_mechanism_that_cannot_be_accounted_is_refused_when_the_run_is_joined(chain, known):
    sampled = known.plan(known.mechanism(sample_rate="0.5", sampling="poisson"), adjacency="replace-one")
    with pytest.raises(BadMessage, match="update cannot be accounted"):
        replay(chain().add("opened", adjacency="replace-one").add("joined", plan=sampled).envelopes)
    for resolution in ("1e-300", "1e-308", "1e+308"):
        grid = {"resolution": resolution, "shares": 3, "slack": "0.0"}
        with pytest.raises(BadMessage, match="cannot be accounted"):
            replay(chain("opened").add("joined", plan=known.plan(known.mechanism(grid=grid))).envelopes)


def test_a_phase_is_reserved_as_often_as_the_plan_says(chain):
    begun = chain("opened", "joined").add("reserved", count=9).add("reserved", round=1)
    assert replay(begun.envelopes).size == 4
    with pytest.raises(BadMessage, match=r"entry 4: budget: 1 more release\(s\) of update asked, 0 left of 10"):
        replay(begun.add("reserved", round=2).envelopes)


def test_a_phase_that_the_plan_does_not_have_is_refused(chain):
    with pytest.raises(BadMessage, match="releases nothing in the phase segment"):
        replay(chain("opened", "joined").add("reserved", phase="segment").envelopes)


def test_what_is_given_back_can_be_used_in_a_later_round(chain, known):
    begun = chain("opened", "joined").add("reserved", count=10).add("voided").add("reserved", round=1, count=10)
    state = replay(begun.envelopes)
    assert state.runs[known.run].left["update"] == 0
    assert len(state.counting()) == 1


def test_what_left_is_never_given_back(chain, known):
    begun = chain("opened", "joined").add("reserved", count=10).add("voided", left=True)
    state = replay(begun.envelopes)
    assert state.runs[known.run].left["update"] == 0
    assert [found.outcome for found in state.counting()] == ["lost"]
    with pytest.raises(BadMessage, match="0 left of 10"):
        replay(begun.add("reserved", round=1).envelopes)


def test_a_reservation_without_an_outcome_counts(chain):
    assert len(replay(chain("opened", "joined", "reserved").envelopes).counting()) == 1


def test_another_data_set_starts_afresh_only_where_no_customer_is_in_both(chain, known):
    begun = ("opened", "joined", "reserved")
    assert len(replay(chain(*begun, "data-replaced").envelopes).counting()) == 0
    carried = replay(chain(*begun).add("data-replaced", overlap=True).envelopes)
    assert len(carried.counting()) == 1
    assert len(carried.counting(known.A)) == 1


def test_going_back_to_a_data_set_resets_nothing(chain, known):
    back = chain("opened", "joined", "reserved", "data-replaced").add("data-replaced", old=known.B, new=known.A)
    assert len(replay(back.envelopes).counting()) == 1
    both = chain("opened", "joined", "reserved").add("data-replaced", overlap=True)
    both.add("joined", run=known.other, data_set=known.B).add("reserved", run=known.other)
    both.add("data-replaced", old=known.B, new=known.A, overlap=True)
    state = replay(both.envelopes)
    assert len(state.counting(known.A)) == len(state.counting(known.B)) == 2
    with pytest.raises(BadMessage, match="the same"):
        replay(both.add("data-replaced", old=known.A, new=known.A).envelopes)


def changed_ledgers(envelopes, strangers):
    """Give the ledger with each entry dropped, repeated, swapped with the next, or taken from another ledger."""
    for place in range(len(envelopes)):
        if place < len(envelopes) - 1:  # without its last entry it is a shorter ledger, see below
            yield "dropped", envelopes[:place] + envelopes[place + 1 :]
            yield "swapped", [*envelopes[:place], envelopes[place + 1], envelopes[place], *envelopes[place + 2 :]]
        yield "repeated", envelopes[: place + 1] + envelopes[place:]
        yield "replaced", [*envelopes[:place], strangers[place], *envelopes[place + 1 :]]


def test_no_entry_can_be_dropped_repeated_moved_or_replaced(chain, known):
    strangers = chain().add("opened", cap="7.0").add("joined", run=known.other)
    for kind in WHOLE[2:]:
        strangers.add(kind)
    tried = list(changed_ledgers(chain(*WHOLE).envelopes, strangers.envelopes))
    assert {how for how, _ in tried} == {"dropped", "swapped", "repeated", "replaced"}
    for _, envelopes in tried:
        with pytest.raises(BadMessage, match=r"^entry "):
            replay(envelopes)


def test_a_cut_ledger_is_intact_but_shorter(chain):
    # Integrity and completeness are two things: nothing in a prefix says that more was written.
    envelopes = chain(*WHOLE).envelopes
    for length in range(len(envelopes) + 1):
        assert replay(envelopes[:length]).size == length


def test_a_changed_payload_needs_another_signature(chain):
    envelopes = chain("opened", "joined").envelopes
    document = json.loads(envelopes[1])
    document["payload"] = json.loads(envelopes[0])["payload"]
    with pytest.raises(BadMessage, match="entry 1: the signature is not"):
        replay([envelopes[0], canonical(document)])
