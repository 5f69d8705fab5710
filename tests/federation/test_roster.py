"""The roster document: read back as written, and refused in one line that names file and key."""

import pytest

from fedmarket.errors import ConfigError
from fedmarket.federation.roster import Member, load_roster, new_roster


def member(number, name=None):
    return Member(name=name or f"bank-{number}", public_key=bytes([number]) * 32)


@pytest.fixture
def document(tmp_path):
    path = tmp_path / "roster.toml"
    path.write_text(new_roster(member(i) for i in range(1, 6)).to_toml(), encoding="utf-8")
    return path


def test_a_roster_is_read_back_as_it_was_written(tmp_path):
    names = ["Ünïon Bänk", 'quote " and \\ backslash', "a.b-c_d", "zebra"]
    roster = new_roster(member(i, name) for i, name in enumerate(names, start=1))
    path = tmp_path / "roster.toml"
    path.write_text(roster.to_toml(), encoding="utf-8")
    assert load_roster(path) == roster
    assert load_roster(path).hash == roster.hash


def test_members_are_sorted_by_name_and_their_order_in_the_file_is_no_matter():
    listed = [member(i) for i in (3, 1, 4, 2)]
    roster = new_roster(listed)
    assert roster.names == ("bank-1", "bank-2", "bank-3", "bank-4")
    assert roster.hash == new_roster(reversed(listed)).hash
    assert roster.index("bank-3") == 2
    assert roster.index("nobody") is None


def test_every_part_of_a_roster_changes_its_hash():
    base = [member(i) for i in range(1, 6)]
    rosters = [
        new_roster(base),
        new_roster(base, minimum_survivors=5),
        new_roster(base[:4]),
        new_roster([*base[:4], member(5, "other")]),
        new_roster([*base[:4], member(6, "bank-5")]),
    ]
    assert len({roster.hash for roster in rosters}) == len(rosters)


def test_the_threshold_is_two_thirds_and_one():
    assert [new_roster(member(i) for i in range(1, n + 1)).threshold for n in (4, 6, 9, 10, 100)] == [3, 5, 7, 7, 67]


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("threshold = 4", "threshold = 3", "threshold: expected 4 for 5 members"),
        ("threshold = 4", "threshold = 5", "threshold: expected 4 for 5 members"),
        ("minimum_survivors = 4", "minimum_survivors = 3", "minimum_survivors: expected 4"),
        ("minimum_survivors = 4", "minimum_survivors = 6", "minimum_survivors: expected 4"),
        ("shamir/1", "shamir/0", "suite: expected"),
        ("roster/1", "roster/2", "format: "),
        ('"bank-2"', '"bank-1"', "member.name: every member needs a name of its own"),
        ("02" * 32, "01" * 32, "member.public_key: every member needs a key of its own"),
        ("02" * 32, "02" * 31, "public_key: "),
        ("02" * 32, "0G" * 32, "public_key: "),
        ('"bank-2"', '""', "name: "),
        ('"bank-2"', '" bank-2"', "member.name: expected printable"),
        ('"bank-2"', '"bank\\u00002"', "member.name: expected printable"),
        ('"bank-2"', f'"{"x" * 65}"', "member.name: expected 1 to 64 bytes"),
        ("threshold = 4", "threshold = 4\nextra = 1", "extra: unknown key"),
        ("threshold = 4\n", "", "threshold: missing"),
        ("threshold = 4", "threshold = 4.0", "threshold: "),
        ("threshold = 4", "threshold = ", "not a TOML document"),
    ],
)
def test_a_document_that_breaks_a_rule_is_refused_by_file_and_key(document, old, new, why):
    text = document.read_text(encoding="utf-8")
    assert old in text
    document.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_roster(document)
    assert str(caught.value).startswith(f"{document}: ")
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("count", [0, 101])
def test_no_members_or_more_than_a_hundred_are_refused(count):
    with pytest.raises(ConfigError, match="expected 1 to 100 members"):
        new_roster(member(i) for i in range(1, count + 1))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_roster_of_fewer_than_four_is_refused_for_secure_aggregation_alone(count):
    roster = new_roster(member(i) for i in range(1, count + 1))
    with pytest.raises(ConfigError, match=f"secure aggregation needs 4 to 100 members, got {count}"):
        roster.need_maskable()


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.toml: cannot be read"):
        load_roster(tmp_path / "none.toml")
