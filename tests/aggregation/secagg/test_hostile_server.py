"""A server that lies: it gets a named refusal or noise, never anything but the sum of enough parties."""

import numpy as np
import pytest

from fedmarket.aggregation.secagg import party
from fedmarket.aggregation.secagg.keys import SEALED_SIZE, Advert, Agreement, pair_mask_key
from fedmarket.aggregation.secagg.suite import public_of
from fedmarket.aggregation.secagg.wire import write_sets
from fedmarket.aggregation.steps import SECURE
from fedmarket.errors import BadMessage, ConfigError, Refusal

RECORD = 107 + 64
CONSENT = 107 + 2


def pieces(content, size):
    return [content[i : i + size] for i in range(0, len(content), size)]


def test_a_swapped_key_is_not_the_members_signature(new_round):
    this = new_round().until("share")
    other = new_round().until("share")
    adverts = pieces(this.server.outgoing("share")["party-0"], RECORD)
    forged = adverts[2][:43] + other.server.outgoing("share")["party-0"][43 : 43 + 64] + adverts[2][-64:]
    with pytest.raises(BadMessage, match="the signature is not party-2's"):
        party.share(this.states[0], b"".join([*adverts[:2], forged, *adverts[3:]]))


def test_the_partys_own_keys_swapped_for_older_ones_of_its_own_are_refused(new_round):
    this, older = new_round().until("share"), new_round().until("share")  # the same round, asked for twice
    adverts = pieces(this.server.outgoing("share")["party-0"], RECORD)
    old = pieces(older.server.outgoing("share")["party-0"], RECORD)
    with pytest.raises(Refusal, match="own advertisement is missing or was changed"):
        party.share(this.states[0], b"".join([old[0], *adverts[1:]]))


def test_a_party_left_out_of_the_advertisements_refuses(new_round):
    this = new_round().until("share")
    adverts = pieces(this.server.outgoing("share")["party-0"], RECORD)
    with pytest.raises(Refusal, match="own advertisement is missing"):
        party.share(this.states[0], b"".join(adverts[1:]))


@pytest.mark.parametrize(
    "changed", [{"round_number": 2}, {"run": b"another run name"}, {"phase": "centre"}, {"length": 7}]
)
def test_messages_of_another_round_or_run_are_named(new_round, changed):
    this, earlier = new_round().until("share"), new_round(**changed).until("share")
    adverts = pieces(this.server.outgoing("share")["party-0"], RECORD)
    replayed = pieces(earlier.server.outgoing("share")["party-0"], RECORD)[3]
    with pytest.raises(BadMessage, match="party-3 is for another run, round, model, terms or roster"):
        party.share(this.states[0], b"".join([*adverts[:3], replayed, *adverts[4:]]))


@pytest.mark.parametrize("field", ["terms_hash", "roster"])
def test_parties_that_were_shown_different_things_refuse_each_other(new_round, tools, field):
    shown = tools.roster_of(5, minimum=5) if field == "roster" else bytes(32)
    other = tools.replace(tools.context_of(5), **{field: shown})
    this = new_round(5, contexts={4: other})
    # The hostile server accepts what an honest one would not, and shows it to all.
    adverts = b"".join(this.answer("advertise", i, b"") for i in range(5))
    for i in range(5):
        with pytest.raises(BadMessage, match="for another run, round, model, terms or roster"):
            party.share(this.states[i], adverts)


def test_parties_that_were_shown_different_inputs_unmask_nothing(new_round, tools):
    """Three of seven are shown another model. Neither group alone has the threshold of five, whatever it is shown."""
    other = tools.replace(tools.context_of(7), inputs=bytes(32))
    this = new_round(7, contexts=dict.fromkeys((4, 5, 6), other)).until("mask")
    for i, incoming in enumerate(this.server.outgoing("mask").values()):
        masked = this.answer("mask", i, incoming)
        if i >= 4:
            with pytest.raises(BadMessage, match="is for another run, round, model, terms or roster"):
                this.server.receive("mask", this.names[i], masked)
    everybody = write_sets(this.context, tuple(range(7)), ())
    consents = [this.answer("consent", i, everybody) for i in range(7)]
    for i, fitting in [(0, consents[:4]), (4, consents[4:])]:
        dump = this.dump(i)
        with pytest.raises(BadMessage, match="is for another run, round, model, terms or roster"):
            party.unmask(this.states[i], b"".join(consents))
        with pytest.raises(Refusal, match="expected 5 signatures of the survivors"):
            party.unmask(this.restored(dump, i), b"".join(fitting))


@pytest.mark.parametrize("field", ["inputs", "terms_hash", "round_number"])
def test_masks_of_parties_with_different_contexts_do_not_cancel(tools, field):
    ours = tools.context_of()
    theirs = tools.replace(ours, **{field: 9 if field == "round_number" else bytes(32)})
    keys = {0: b"\1" * 32, 1: b"\2" * 32}
    adverts = {i: Advert(place=i, channel=bytes(32), mask=public_of(key)) for i, key in keys.items()}
    agreement = Agreement(adverts=adverts, transcript=bytes(32))
    same = [pair_mask_key(ours, agreement, keys[i], own=i, peer=1 - i) for i in (0, 1)]
    assert same[0] == same[1]
    assert pair_mask_key(theirs, agreement, keys[1], own=1, peer=0) != same[0]


def test_different_advertisements_shown_to_two_parties_do_not_pass(new_round):
    this = new_round(7).until("share")
    adverts = pieces(this.server.outgoing("share")["party-0"], RECORD)
    shown = {i: b"".join(adverts[:6] if i == 0 else adverts) for i in range(7)}
    texts = {}
    for i in range(7):
        this.states[i], texts[i] = party.share(this.states[i], shown[i])
    # party-1's text for party-0 is the first of its list; it was sealed under another transcript.
    sealed = texts[1][43 + 32 :][:SEALED_SIZE]
    others = [texts[i][43 + 32 :][:SEALED_SIZE] for i in range(2, 6)]
    incoming = b"".join(i.to_bytes(2, "big") + text for i, text in enumerate([sealed, *others], start=1))
    with pytest.raises(BadMessage, match="the shares from party-1 do not open"):
        party.mask(this.states[0], incoming, this.inputs[0])


def test_too_few_advertisements_or_sharers_are_refused(new_round):
    this = new_round(7).until("share")
    adverts = pieces(this.server.outgoing("share")["party-0"], RECORD)
    with pytest.raises(Refusal, match="expected at least 5 parties that advertise keys, got 4"):
        party.share(this.states[0], b"".join(adverts[:4]))
    this = new_round(7).until("mask")
    incoming = this.server.outgoing("mask")["party-0"]
    with pytest.raises(Refusal, match="expected at least 5 parties that shared their keys, got 4"):
        party.mask(this.states[0], incoming[: 3 * (2 + SEALED_SIZE)], this.inputs[0])


def test_shares_for_another_or_from_another_do_not_open(new_round):
    this = new_round().until("mask")
    dump = this.dump(0)
    for_other = this.server.outgoing("mask")["party-1"]
    mine = this.server.outgoing("mask")["party-0"]
    size = 2 + SEALED_SIZE
    misdirected = mine[:size] + for_other[size : 2 * size] + mine[2 * size :]
    relabelled = mine[:2] + mine[size + 2 : 2 * size] + mine[size : size + 2] + mine[2:size] + mine[2 * size :]
    for incoming in (misdirected, relabelled):
        with pytest.raises(BadMessage, match="do not open"):
            party.mask(this.restored(dump, 0), incoming, this.inputs[0])


def test_equivocation_on_survivors_is_refused_by_whoever_sees_the_other_signature(new_round):
    this = new_round(7).until("consent")
    everyone = tuple(range(7))
    shown = {i: write_sets(this.context, everyone, ()) for i in range(4)}
    shown |= {i: write_sets(this.context, everyone[1:], (0,)) for i in range(4, 7)}
    consents = {}
    for i in everyone:
        this.states[i], consents[i] = party.consent(this.states[i], shown[i])
    for i in everyone:
        dump = this.dump(i)
        with pytest.raises(Refusal, match="was shown other survivors than this party"):
            party.unmask(this.restored(dump, i), b"".join(consents.values()))
        alike = b"".join(consents[j] for j in everyone if shown[j] == shown[i])
        with pytest.raises(Refusal, match="expected 5 signatures of the survivors"):
            party.unmask(this.restored(dump, i), alike)


def test_a_party_in_both_lists_is_refused_by_name(new_round):
    this = new_round().until("consent")
    with pytest.raises(Refusal, match="party-2 is listed both as survivor and as dropped"):
        party.consent(this.states[0], write_sets(this.context, (0, 1, 2, 3, 4), (2,)))


@pytest.mark.parametrize(
    ("survivors", "dropped", "why"),
    [
        ((0, 1, 2, 3), (), "party-4 is listed without"),
        ((1, 2, 3, 4), (0,), "lists this party as dropped"),
        ((0, 1, 2), (3, 4), "expected at least 4 parties that survive, got 3"),
        ((), (0, 1, 2, 3, 4), "lists this party as dropped"),
    ],
)
def test_sets_that_leave_out_drop_too_many_or_drop_us_are_refused(new_round, survivors, dropped, why):
    this = new_round().until("consent")
    with pytest.raises(Refusal, match=why):
        party.consent(this.states[0], write_sets(this.context, survivors, dropped))


def test_a_party_that_never_shared_cannot_be_listed(new_round):
    this = new_round(7).until("consent", absent={"share": {6}})
    with pytest.raises(Refusal, match="party-6 is listed without having shared"):
        party.consent(this.states[0], write_sets(this.context, tuple(range(7)), ()))


def test_fewer_signatures_than_the_threshold_unmask_nothing(new_round):
    this = new_round(7).until("unmask")
    consents = pieces(this.server.outgoing("unmask")["party-0"], CONSENT)
    with pytest.raises(Refusal, match="expected 5 signatures of the survivors, got 4"):
        party.unmask(this.states[0], b"".join(consents[:4]))


def test_the_same_signature_many_times_counts_once(new_round):
    this = new_round(7).until("unmask")
    consents = pieces(this.server.outgoing("unmask")["party-0"], CONSENT)
    with pytest.raises(BadMessage, match="at most once"):
        party.unmask(this.states[0], consents[0] * 5)


def test_signatures_without_our_own_unmask_nothing(new_round):
    this = new_round(7).until("unmask")
    consents = pieces(this.server.outgoing("unmask")["party-0"], CONSENT)
    with pytest.raises(Refusal, match="this party is not among them"):
        party.unmask(this.states[0], b"".join(consents[1:]))


def test_a_second_request_to_unmask_is_refused(new_round):
    this = new_round().until("unmask")
    state, incoming = this.states[0], this.server.outgoing("unmask")["party-0"]
    after, _ = party.unmask(state, incoming)
    for used in (state, after):
        with pytest.raises(Refusal):
            party.unmask(used, incoming)


@pytest.mark.parametrize("step", SECURE[1:])
def test_every_state_answers_once(new_round, step):
    this = new_round().until(step)
    state, incoming = this.states[1], this.server.outgoing(step)["party-1"]
    this.answer(step, 1, incoming)
    this.states[1] = state
    with pytest.raises(Refusal, match="answered already"):
        this.answer(step, 1, incoming)


@pytest.mark.parametrize("step", SECURE[1:])
@pytest.mark.parametrize("due", SECURE[1:])
def test_steps_out_of_order_are_refused(new_round, step, due):
    this = new_round().until(due)
    incoming = this.server.outgoing(due)["party-0"]
    if step == due:
        this.answer(step, 0, incoming)
        return
    with pytest.raises(Refusal, match="the last step answered is"):
        this.answer(step, 0, incoming)
    with pytest.raises(Refusal, match="answered already"):  # a failure ends the round for the party
        this.answer(due, 0, incoming)


def test_a_roster_with_a_lower_threshold_cannot_be_made(tools):
    with pytest.raises(ConfigError, match="threshold: expected 4 for 5 members"):
        tools.replace(tools.roster_of(5), threshold=3)


@pytest.mark.parametrize("step", ["share", "mask", "unmask"])
def test_lists_in_another_order_or_with_a_repeated_record_are_refused(new_round, step):
    this = new_round().until(step)
    dump, incoming = this.dump(0), this.server.outgoing(step)["party-0"]
    size = {"share": RECORD, "mask": 2 + SEALED_SIZE, "unmask": CONSENT}[step]
    parts = pieces(incoming, size)
    for changed in ([parts[1], parts[0], *parts[2:]], [parts[0], *parts], parts[::-1], parts * 60):
        this.states[0] = this.restored(dump, 0)
        with pytest.raises((BadMessage, Refusal)):
            this.answer(step, 0, b"".join(changed))


@pytest.mark.parametrize("step", SECURE[1:])
def test_every_truncation_and_every_changed_byte_is_refused(new_round, step):
    this = new_round(4, length=2).until(step)
    dump, incoming = this.dump(0), this.server.outgoing(step)["party-0"]
    generator = np.random.default_rng(0)
    changed = [incoming[:end] for end in range(len(incoming))] + [incoming + b"\0", b"\0" + incoming]
    for place in range(len(incoming)):
        flipped = bytearray(incoming)
        flipped[place] ^= 1 << int(generator.integers(8))
        changed.append(bytes(flipped))
    for wrong in changed:
        # Whole records may be left out: that is a drop-out, which the numbers of the roster guard.
        this.states[0] = this.restored(dump, 0)
        try:
            this.answer(step, 0, wrong)
        except (BadMessage, Refusal):
            continue
        size = {"share": RECORD, "mask": 2 + SEALED_SIZE, "unmask": CONSENT}[step]
        assert incoming.startswith(wrong)
        assert len(wrong) == len(incoming) - size  # one of four may drop


def test_random_bytes_are_refused_at_every_step(new_round):
    generator = np.random.default_rng(1)
    for step in SECURE[1:]:
        this = new_round(4).until(step)
        dump = this.dump(0)
        for size in [0, 1, 2, 107, RECORD, 4 * RECORD, 3 * (2 + SEALED_SIZE), 4 * CONSENT]:
            this.states[0] = this.restored(dump, 0)
            with pytest.raises((BadMessage, Refusal)):
                this.answer(step, 0, generator.bytes(size))
