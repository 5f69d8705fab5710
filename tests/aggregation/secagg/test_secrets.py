"""Secrets of a round: shown nowhere, overwritten after an answer or a failure, never pickled."""

import copy
import pickle
import traceback

import pytest

from fedmarket.aggregation.secagg.state import unpacked
from fedmarket.aggregation.steps import SECURE
from fedmarket.errors import FedmarketError, Refusal


def secrets_of(dump):
    return [part for part in unpacked(unpacked(dump, 10)[9], 4) if part]


def spellings(secret):
    """Every way in which a careless repr may spell a secret."""
    for start in range(0, max(1, len(secret) - 8), 4):
        part = secret[start : start + 8]
        if len(set(part)) < 4:  # padding, which is no secret and spells like any number
            continue
        yield from (part.hex(), repr(part)[2:-1], str(list(part))[1:-1], str(int.from_bytes(part, "big")))


def shows(text, secrets):
    return any(spelling in text for secret in secrets for spelling in spellings(secret))


def test_the_search_for_secrets_finds_them_where_they_are():
    secret = bytes(range(100, 132))
    assert shows(f"key={secret!r}", [secret])
    assert shows(f"key={secret.hex()}", [secret])
    assert not shows("key=...", [secret])


@pytest.mark.parametrize("step", SECURE[1:])
def test_repr_str_and_errors_show_no_secret(new_round, step):
    this = new_round(4).until(step)
    state = this.states[0]
    secrets = secrets_of(state.to_bytes())
    assert secrets
    text = f"{state!r} {state} {state.secrets!r} {state.secrets} {state.identity!r} {state.identity}"
    try:
        this.answer(step, 0, b"\1" * 40)
    except FedmarketError as error:
        text += repr(error) + "".join(traceback.TracebackException.from_exception(error).format())
    assert "Error" in text or "BadMessage" in text or "Refusal" in text
    assert not shows(text, secrets)


def test_states_secrets_and_identities_are_neither_pickled_nor_copied(new_round):
    this = new_round(4).until("share")
    state = this.states[0]
    for thing in (state, state.secrets, state.identity):
        for act in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError):
                act(thing)


def test_the_long_term_key_is_never_in_a_states_bytes(new_round, tools):
    this = new_round(4)
    private = tools.identities[0]._key.private_bytes_raw()
    for step in SECURE:
        this.ask(step)
        this.server.close(step)
        assert private not in this.dump(0)


def test_after_unmasking_no_secret_is_left_in_the_state(new_round):
    this = new_round(4)
    this.run()
    for state in this.states.values():
        assert secrets_of(state.to_bytes()) == []


def test_the_mask_key_and_seed_are_gone_as_soon_as_the_vector_is_masked(new_round):
    this = new_round(4).until("mask")
    channel, mask, seed, _ = secrets_of(this.dump(0))
    this.ask("mask")
    for secret in (channel, mask, seed):
        assert secret not in this.dump(0)


@pytest.mark.parametrize("step", SECURE[1:])
def test_a_failure_overwrites_the_secrets_in_place(new_round, step):
    this = new_round(4).until(step)
    state = this.states[0]
    held = [getattr(state.secrets, name) for name in ("channel", "mask", "seed", "shares")]
    assert any(any(buffer) for buffer in held)
    with pytest.raises(FedmarketError):
        this.answer(step, 0, b"\1")
    assert not any(any(buffer) for buffer in held)
    with pytest.raises(Refusal):
        state.to_bytes()


def test_unmasking_overwrites_the_shares_in_place(new_round):
    this = new_round(4).until("unmask")
    held = this.states[0].secrets.shares
    assert any(held)
    this.ask("unmask")
    assert not any(held)


def test_fresh_secrets_come_for_every_round(new_round):
    first, second = new_round(4).until("mask"), new_round(4).until("mask")
    assert not set(map(bytes, secrets_of(first.dump(0)))) & set(map(bytes, secrets_of(second.dump(0))))


def test_a_survivors_mask_secret_and_a_drop_outs_seed_are_released_by_nobody(new_round):
    this = new_round(5).until("unmask", absent={"mask": {4}})
    dumps = {i: secrets_of(this.dump(i))[-1] for i in range(4)}
    this.ask("unmask")
    for i, shares in dumps.items():
        for owner in range(5):
            seed_share, key_share = shares[owner * 50 : owner * 50 + 17], shares[owner * 50 + 17 : owner * 50 + 50]
            assert (seed_share in this.sent["unmask"][i]) == (owner != 4)
            assert (key_share in this.sent["unmask"][i]) == (owner == 4)
