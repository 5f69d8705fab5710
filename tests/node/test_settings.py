"""The partner's document: every key known, and one line that says what is wrong."""

import pytest

from fedmarket.errors import ConfigError
from fedmarket.node.settings import MarketRows, load_partner


def test_paths_are_relative_to_the_document(nodes):
    partner = load_partner(nodes.document(0))
    assert partner.roster == nodes.folder.resolve() / "roster.toml"
    assert partner.books == nodes.folder.resolve() / "00"
    assert partner.socket == nodes.folder.resolve() / "00.sock"
    assert isinstance(partner.section.data, MarketRows)
    assert str(partner.log) == partner.section.log_key


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('name = "bank"', 'nane = "bank"', "nane: unknown key"),
        ("cap = 1.0", "cap = 0.0", "cap: Input should be greater than 0"),
        ("cap = 1.0", "cap = inf", "cap: "),
        ("cap = 1.0\n", "", "cap: missing"),
        ('log_key = "fedmarket', 'log_key = "x', "log_key: "),
        ('kind = "market"', 'kind = "mark"', "data: "),
        ('kind = "market"', 'kind = "market"\nseed = 1', "seed: unknown key"),
        ('kind = "market"', 'kind = "table"', "held_out_share: missing"),
        ("largest_epsilon = 1.0\n", "", "policy.largest_epsilon: missing"),
        ("least_survivors = 3", "least_survivors = 3\ngenerator = 'any'", "policy.generator: unknown key"),
        ('path = "00.sock"', 'path = "00.sock"\nusers = ["nobody"]', "give both or none"),
        ('path = "00.sock"', 'path = "00.sock"\ngroup = "nogroup"', "give both or none"),
    ],
)
def test_what_is_wrong_is_named(nodes, old, new, said):
    nodes.change(0, old, new)
    with pytest.raises(ConfigError) as told:
        load_partner(nodes.document(0))
    assert said in str(told.value)
    assert "\n" not in str(told.value)
