"""A party that lies to the server: it is dropped by name, or the round is void, and the others' sum is right."""

import copy

import numpy as np
import pytest

from fedmarket.aggregation.secagg import party
from fedmarket.aggregation.secagg.keys import SHARES_SIZE, Agreement, channel, read_adverts
from fedmarket.aggregation.secagg.state import unpacked
from fedmarket.aggregation.secagg.suite import packed, sealed
from fedmarket.aggregation.secagg.wire import sign_message
from fedmarket.aggregation.steps import SECURE
from fedmarket.errors import BadMessage, RoundVoid


def signed(this, tools, step, i, payload, context=None):
    return sign_message(context or this.context, step, sender=i, payload=payload, signer=tools.identities[i])


@pytest.mark.parametrize("step", SECURE)
def test_garbage_drops_its_sender_and_the_round_goes_on(new_round, step):
    this = new_round(5).until(step)
    with pytest.raises(BadMessage, match=r"party-1: expected .* bytes"):
        this.server.receive(step, "party-1", b"garbage")
    with pytest.raises(BadMessage, match="party-1 is out of this round"):
        this.server.receive(step, "party-1", b"garbage")
    for last in SECURE[SECURE.index(step) :]:
        this.ask(last)
        this.server.close(last)
    inside = {0, 2, 3, 4} if step in ("advertise", "share", "mask") else {0, 1, 2, 3, 4}
    np.testing.assert_array_equal(this.server.total(), this.plain_sum(inside))
    assert this.server.dropped["party-1"].startswith(f"{step}: expected")


@pytest.mark.parametrize("step", SECURE)
def test_every_changed_byte_and_truncation_is_a_bad_message(new_round, step):
    this = new_round(4, length=2).until(step)
    message = this.answer(step, 0, this.server.outgoing(step)["party-0"])
    generator = np.random.default_rng(0)
    changed = [message[:end] for end in range(0, len(message), 7)] + [message + b"\0", b"", message * 2]
    for place in range(len(message)):
        flipped = bytearray(message)
        flipped[place] ^= 1 << int(generator.integers(8))
        changed.append(bytes(flipped))
    for wrong in changed:
        server = copy.deepcopy(this.server)
        with pytest.raises(BadMessage, match="party-0: "):
            server.receive(step, "party-0", wrong)
        assert "party-0" in server.dropped
    this.server.receive(step, "party-0", message)


@pytest.mark.parametrize("step", SECURE)
def test_a_message_of_one_party_presented_as_anothers_is_refused(new_round, step):
    this = new_round().until(step)
    outgoing = this.server.outgoing(step)
    message = this.answer(step, 0, outgoing["party-0"])
    with pytest.raises(BadMessage, match=r"party-1: presents a message of party-0|party-1: expected"):
        this.server.receive(step, "party-1", message)
    this.server.receive(step, "party-0", message)


@pytest.mark.parametrize("step", SECURE)
@pytest.mark.parametrize("changed", [{"round_number": 2}, {"run": b"another run name"}])
def test_a_stale_message_is_named(new_round, step, changed):
    this, earlier = new_round().until(step), new_round(**changed).until(step)
    stale = earlier.answer(step, 2, earlier.server.outgoing(step)["party-2"])
    with pytest.raises(BadMessage, match=r"party-2: .*another run, round, model, terms or roster"):
        this.server.receive(step, "party-2", stale)


def test_a_second_message_is_refused_and_the_first_stays(new_round):
    this = new_round().until("mask")
    this.ask("mask")
    with pytest.raises(BadMessage, match="party-3: a second message"):
        this.server.receive("mask", "party-3", this.sent["mask"][3])
    this.server.close("mask")
    for step in ("consent", "unmask"):
        this.ask(step)
        this.server.close(step)
    np.testing.assert_array_equal(this.server.total(), this.plain_sum())


def test_a_stranger_is_refused_and_nobody_is_dropped(new_round):
    this = new_round()
    with pytest.raises(BadMessage, match="not in the roster"):
        this.server.receive("advertise", "mallory", b"")
    assert this.server.dropped == {}


def test_a_message_for_another_step_drops_its_sender(new_round):
    this = new_round().until("share")
    with pytest.raises(BadMessage, match="party-0: a message for the step mask, which is not open"):
        this.server.receive("mask", "party-0", b"")
    assert this.server.dropped["party-0"].startswith("share: ")


def test_a_vector_of_another_length_is_refused_by_party_and_server(new_round, tools):
    this = new_round().until("mask")
    for payload in (bytes(20), bytes(28), b""):
        server = copy.deepcopy(this.server)
        with pytest.raises(BadMessage, match="party-0: expected"):
            server.receive("mask", "party-0", signed(this, tools, "mask", 0, payload))
    incoming = this.server.outgoing("mask")["party-0"]
    dump = this.dump(0)
    for words in (np.zeros(5, np.uint32), np.zeros((6, 1), np.uint32), np.zeros(6, np.int32), np.zeros(6)):
        with pytest.raises(BadMessage, match="expected words uint32"):
            party.mask(this.restored(dump, 0), incoming, words)


@pytest.mark.parametrize("bad", [0, 6])
@pytest.mark.parametrize("gone", [(), (3,)])
def test_wrong_shares_void_the_round_and_name_their_holder(new_round, tools, bad, gone):
    this = new_round(7).until("unmask", absent={"mask": set(gone)})
    self_made = this.answer("unmask", bad, this.server.outgoing("unmask")[f"party-{bad}"])
    payload = bytearray(self_made[43:-64])
    start = 0
    for owner in range(7):
        payload[start + 5] ^= 1
        start += 33 if owner in gone else 17
    this.server.receive("unmask", f"party-{bad}", signed(this, tools, "unmask", bad, bytes(payload)))
    this.ask_rest = [i for i in range(7) if i not in (*gone, bad)]
    for i in this.ask_rest:
        message = this.answer("unmask", i, this.server.outgoing("unmask")[f"party-{i}"])
        this.server.receive("unmask", f"party-{i}", message)
    if bad == 6:  # the first five shares are right, and each secret is held against its commitment
        this.server.close("unmask")
        survivors = set(range(7)) - set(gone)
        np.testing.assert_array_equal(this.server.total(), this.plain_sum(survivors))
        return
    if gone:  # a single share to spare shows that one is wrong, and not which
        why, suspects = r"the shares of party-0 do not combine \(its fault, or their holders'\)", ()
    else:
        why, suspects = r"the share of party-0 that party-0 released is wrong", ("party-0",)
    with pytest.raises(RoundVoid, match=why):
        this.server.close("unmask")
    assert this.server.suspects == suspects
    with pytest.raises(RoundVoid):
        this.server.total()


def test_a_wrong_share_where_none_is_spare_is_detected_too(new_round, tools):
    this = new_round(4).until("unmask", absent={"consent": {3}})
    message = this.answer("unmask", 0, this.server.outgoing("unmask")["party-0"])
    payload = bytearray(message[43:-64])
    payload[10] ^= 1
    this.server.receive("unmask", "party-0", signed(this, tools, "unmask", 0, bytes(payload)))
    for i in (1, 2):
        this.server.receive("unmask", f"party-{i}", this.answer("unmask", i, this.server.outgoing("unmask")["party-1"]))
    with pytest.raises(RoundVoid, match="the shares of party-0 do not combine"):
        this.server.close("unmask")


def test_a_share_beyond_the_field_is_a_bad_message(new_round, tools):
    this = new_round(4).until("unmask")
    payload = b"\xff" * (4 * 17)
    with pytest.raises(BadMessage, match="party-0: a share is not an element of the field"):
        this.server.receive("unmask", "party-0", signed(this, tools, "unmask", 0, payload))


def test_a_commitment_to_another_seed_voids_the_round_and_names_its_owner(new_round, tools):
    this = new_round(5).until("share")
    for i in range(5):
        message = this.answer("share", i, this.server.outgoing("share")[f"party-{i}"])
        if i == 2:
            payload = bytearray(message[43:-64])
            payload[0] ^= 1
            message = signed(this, tools, "share", 2, bytes(payload))
        this.server.receive("share", f"party-{i}", message)
    this.server.close("share")
    for step in ("mask", "consent"):
        this.ask(step)
        this.server.close(step)
    this.ask("unmask")
    with pytest.raises(RoundVoid, match="the shares that party-2 dealt do not combine to what it signed"):
        this.server.close("unmask")
    assert this.server.suspects == ("party-2",)


def deal(this, tools, dealer, spoil):
    """Let ``dealer`` seal spoiled shares for everyone, as only it can."""
    this.ask("share", absent={dealer})
    outgoing = this.server.outgoing("share")[f"party-{dealer}"]
    before = this.dump(dealer)
    message = this.answer("share", dealer, outgoing)
    secret = unpacked(unpacked(before, 10)[9], 4)[0]
    agreement: Agreement = read_adverts(this.context, outgoing)
    texts = []
    for peer in range(len(this.names)):
        if peer != dealer:
            key, associated = channel(this.context, agreement, secret, own=dealer, peer=peer, sender=dealer)
            texts.append(sealed(key, spoil(peer), associated))
    payload = message[43 : 43 + 32] + b"".join(texts)
    this.server.receive("share", f"party-{dealer}", signed(this, tools, "share", dealer, payload))
    this.server.close("share")


def test_shares_that_do_not_combine_void_the_round_and_name_whose_they_are(new_round, tools):
    this = new_round(5).until("share")
    deal(this, tools, 1, lambda peer: bytes([0] * 16 + [peer + 1] + [0] * 31 + [peer + 1, 7])[:SHARES_SIZE])
    for step in ("mask", "consent"):
        this.ask(step)
        this.server.close(step)
    this.ask("unmask")
    with pytest.raises(RoundVoid, match="the shares of party-1 do not combine"):
        this.server.close("unmask")
    assert this.server.suspects == ()


def test_shares_beyond_the_field_are_refused_by_their_holder(new_round, tools):
    this = new_round(5).until("share")
    deal(this, tools, 1, lambda peer: b"\xff" * SHARES_SIZE)
    with pytest.raises(BadMessage, match="not an element of the field"):
        party.mask(this.states[0], this.server.outgoing("mask")["party-0"], this.inputs[0])


def test_a_key_that_is_another_members_or_both_of_ones_own_is_refused(new_round, tools):
    this = new_round()
    first = this.answer("advertise", 0, b"")
    this.server.receive("advertise", "party-0", first)
    own, copied = b"\5" * 32, bytes(first[43 + 32 : 43 + 64])
    for i, payload in ((1, own + copied), (2, own + own)):
        with pytest.raises(BadMessage, match="advertise the same key"):
            this.server.receive("advertise", f"party-{i}", signed(this, tools, "advertise", i, payload))
        adverts = first + signed(this, tools, "advertise", i, payload)
        with pytest.raises(BadMessage, match="advertise the same key"):
            party.share(*(this.restored(this.dump(0), 0), adverts))


@pytest.mark.parametrize("low", [bytes(32), b"\1" + bytes(31), (2**255 - 20).to_bytes(32, "little")])
def test_a_key_of_low_order_is_refused_by_name(new_round, tools, low):
    this = new_round(4)
    adverts = [this.answer("advertise", i, b"") for i in range(4)]
    adverts[2] = signed(this, tools, "advertise", 2, low + b"\7" * 32)
    with pytest.raises(BadMessage, match="party-2: advertises a key of low order"):
        this.server.receive("advertise", "party-2", adverts[2])
    with pytest.raises(BadMessage, match="party-2 advertises a key of low order"):
        party.share(this.states[0], b"".join(adverts))


def test_a_consent_to_other_sets_drops_its_signer(new_round, tools):
    this = new_round(4).until("consent")
    with pytest.raises(BadMessage, match="party-1: signed other survivors than it was shown"):
        this.server.receive("consent", "party-1", signed(this, tools, "consent", 1, b"\x07\x08"))


def test_bytes_of_a_state_that_were_damaged_are_refused(new_round):
    this = new_round(4).until("mask")
    dump = this.dump(0)
    for end in range(0, len(dump), 11):
        with pytest.raises(BadMessage):
            this.restored(dump[:end], 0)
    with pytest.raises(BadMessage, match="another round or identity"):
        this.restored(dump, 1)
    with pytest.raises(BadMessage):
        this.restored(packed(*[b""] * 9), 0)
