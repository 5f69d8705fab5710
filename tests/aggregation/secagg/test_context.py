"""A round's context: every field changes its hash, and nothing out of range can be made."""

import pytest

from fedmarket.errors import Refusal

CHANGES = {
    "run": b"another run name",
    "round_number": 4,
    "phase": "centre",
    "length": 7,
    "modulus_bits": 64,
    "terms_hash": bytes(32),
}


def test_every_field_changes_the_hash(tools):
    contexts = [tools.context_of(), tools.context_of(roster=tools.roster_of(5, shift=1))]
    contexts += [tools.context_of(roster=tools.roster_of(5, minimum=5)), tools.context_of(6)]
    contexts += [tools.context_of(**{field: value}) for field, value in CHANGES.items()]
    assert len({context.hash for context in contexts}) == len(contexts)
    assert len({context.bound_hash for context in contexts}) == len(contexts)
    assert tools.context_of().hash == tools.context_of().hash


def test_inputs_change_what_masks_are_bound_to_and_nothing_before(tools):
    unknown, ours, theirs = (tools.context_of(inputs=inputs) for inputs in (b"", bytes(32), bytes([1]) * 32))
    assert unknown.hash == ours.hash == theirs.hash
    assert ours.bound_hash != theirs.bound_hash
    assert ours.hash_of("share") == theirs.hash_of("share") == unknown.hash
    for step in ("mask", "consent", "unmask"):
        assert ours.hash_of(step) == ours.bound_hash
        with pytest.raises(Refusal, match="inputs are not known yet"):
            unknown.hash_of(step)
    assert unknown.bound_to(bytes(32)) == ours == ours.bound_to(bytes(32))


@pytest.mark.parametrize(("inputs", "said"), [(b"", "hash of the inputs"), (bytes([2]) * 32, "other inputs already")])
def test_a_round_is_bound_once(tools, inputs, said):
    with pytest.raises(Refusal, match=said):
        tools.context_of(inputs=bytes(32)).bound_to(inputs)


@pytest.mark.parametrize(
    "wrong",
    [
        {"run": b"short"},
        {"round_number": -1},
        {"round_number": 2**64},
        {"length": 0},
        {"length": 2**27 + 1},
        {"modulus_bits": 16},
        {"terms_hash": b""},
        {"inputs": bytes(31)},
    ],
)
def test_a_field_out_of_range_is_refused(tools, wrong):
    with pytest.raises(Refusal):
        tools.context_of(**wrong)
