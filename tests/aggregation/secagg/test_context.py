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
    "model_hash": bytes(32),
}


def test_every_field_changes_the_hash(tools):
    contexts = [tools.context_of(), tools.context_of(roster=tools.roster_of(5, shift=1))]
    contexts += [tools.context_of(roster=tools.roster_of(5, minimum=5)), tools.context_of(6)]
    contexts += [tools.context_of(**{field: value}) for field, value in CHANGES.items()]
    assert len({context.hash for context in contexts}) == len(contexts)
    assert tools.context_of().hash == tools.context_of().hash


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
        {"model_hash": bytes(31)},
    ],
)
def test_a_field_out_of_range_is_refused(tools, wrong):
    with pytest.raises(Refusal):
        tools.context_of(**wrong)
