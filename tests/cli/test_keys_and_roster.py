"""``fedmarket keys new`` and the group ``roster``: keys for their owner alone, a roster by its rules."""

import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedmarket.aggregation.secagg.roster import Member
from fedmarket.federation.identity import load_identity, new_identity, save_identity
from fedmarket.federation.rehearsal import load_seat
from fedmarket.federation.roster import load_roster, new_roster

Fedmarket = Callable[..., Any]


@pytest.fixture
def roster(tmp_path: Path) -> tuple[Path, Path]:
    """A roster of four, and the identity file of its first member."""
    identities = [new_identity() for _ in range(4)]
    path, own = tmp_path / "roster.toml", tmp_path / "own.pem"
    members = [Member(name=f"party-{place}", public_key=one.public_key) for place, one in enumerate(identities)]
    path.write_text(new_roster(members).to_toml(), encoding="utf-8")
    save_identity(identities[0], own)
    return path, own


def test_a_new_key_is_its_owners_alone_and_only_its_public_half_is_shown(fedmarket: Fedmarket, tmp_path: Path):
    path = tmp_path / "identity.pem"
    ran = fedmarket("keys", "new", path)
    assert (ran.code, ran.err) == (0, "")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert ran.out.strip() == load_identity(path).public_hex
    assert "PRIVATE" not in ran.out


def test_a_key_is_never_overwritten(fedmarket: Fedmarket, tmp_path: Path):
    path = tmp_path / "identity.pem"
    fedmarket("keys", "new", path)
    before = path.read_bytes()
    ran = fedmarket("keys", "new", path)
    assert ran.code == 2
    assert "identity.pem: exists already" in ran.err
    assert path.read_bytes() == before


def line_of(folder: Path, fedmarket: Fedmarket, name: str) -> str:
    """Return the line that a partner's own command prints for whoever keeps the roster."""
    return str(fedmarket("party", "init", folder / name, "--name", name).out.splitlines()[-1])


def test_a_roster_is_made_of_the_lines_that_partners_send(fedmarket: Fedmarket, tmp_path: Path):
    names = ["Delta", 'Ga "mm" a', "甲 公司", "Alpha Bank", "Beta"]
    lines = [line_of(tmp_path, fedmarket, name) for name in names]
    (tmp_path / "partners.txt").write_text("# by telephone\n\n" + "\r\n".join(lines), encoding="utf-8")
    path = tmp_path / "roster.toml"
    ran = fedmarket("roster", "new", path, tmp_path / "partners.txt", "--minimum-survivors", "5")
    assert (ran.code, ran.err) == (0, "")
    assert "5 members, threshold 4, at least 5 survivors: 0 may be lost in a round" in ran.out
    assert ran.out == fedmarket("roster", "check", path).out
    roster = load_roster(path)
    assert roster.names == tuple(sorted(names))
    assert [member.public_key.hex() in lines[names.index(member.name)] for member in roster.members] == [True] * 5


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (("0: ", "zz "), "line 1: member.public_key: expected 64 lower-case hexadecimal digits"),
        (("one", ""), "line 2: member.name: expected 1 to 64 bytes of UTF-8, got 0"),
        (("one", "two"), "member.name: every member needs a name of its own"),
        (("2: ", "1: "), "member.public_key: every member needs a key of its own"),
    ],
)
def test_a_line_that_is_none_makes_no_roster(fedmarket: Fedmarket, tmp_path: Path, changed, said: str):
    text = "0: nought\n1: one\n2: two\n3: three\n".replace(*changed)
    for digit in "0123":
        text = text.replace(f"{digit}: ", f"{digit * 64} ")
    (tmp_path / "partners.txt").write_text(text)
    ran = fedmarket("roster", "new", tmp_path / "roster.toml", tmp_path / "partners.txt")
    assert ran.code == 2
    assert ran.error.endswith(said)
    assert not (tmp_path / "roster.toml").exists()


def test_a_roster_is_never_overwritten_and_lines_must_be_text(fedmarket: Fedmarket, roster: tuple[Path, Path]):
    path, _ = roster
    before = path.read_bytes()
    lines = path.with_name("partners.txt")
    assert "partners.txt: cannot be read" in fedmarket("roster", "new", path, lines).error
    lines.write_bytes(b"\xff")
    assert "partners.txt: expected text in UTF-8" in fedmarket("roster", "new", path, lines).error
    lines.write_text("".join(f"{digit * 64} {digit}\n" for digit in "0123"))
    assert "roster.toml: exists already" in fedmarket("roster", "new", path, lines).error
    assert path.read_bytes() == before


def test_a_good_roster_is_shown_with_its_hash_and_how_many_may_be_lost(fedmarket: Fedmarket, roster: tuple[Path, Path]):
    path, own = roster
    ran = fedmarket("roster", "check", path, "--identity", own)
    assert ran.code == 0
    assert "party-0  (this identity)" in ran.out
    assert "4 members, threshold 3, at least 3 survivors: 1 may be lost in a round" in ran.out


def test_a_lower_threshold_is_refused_by_name(fedmarket: Fedmarket, roster: tuple[Path, Path]):
    path, _ = roster
    path.write_text(path.read_text().replace("threshold = 3", "threshold = 2"))
    ran = fedmarket("roster", "check", path)
    assert ran.code == 2
    assert "roster.toml" in ran.err
    assert "threshold" in ran.err


def test_an_identity_that_is_not_in_the_roster_is_told_so(
    fedmarket: Fedmarket, roster: tuple[Path, Path], tmp_path: Path
):
    path, _ = roster
    other = tmp_path / "other.pem"
    save_identity(new_identity(), other)
    ran = fedmarket("roster", "check", path, "--identity", other)
    assert ran.code == 2
    assert "is not in this roster" in ran.err


def test_an_identity_open_to_others_is_refused(fedmarket: Fedmarket, roster: tuple[Path, Path]):
    path, own = roster
    own.chmod(0o644)
    ran = fedmarket("roster", "check", path, "--identity", own)
    assert ran.code == 2
    assert "chmod 600" in ran.err


def rehearse(fedmarket: Fedmarket, write_market: Callable[..., Path], folder: Path, *changed: tuple[str, str]) -> Any:
    return fedmarket("roster", "rehearse", write_market(folder / "market", *changed), folder / "deep" / "roster")


def test_a_rehearsal_has_a_key_for_every_party_of_the_market(fedmarket: Fedmarket, write_market, tmp_path: Path):
    ran = rehearse(fedmarket, write_market, tmp_path)
    folder = tmp_path / "deep" / "roster"
    path = folder / "roster.toml"
    assert (ran.code, ran.err, ran.out) == (0, "", f"4 simulated parties: {path}\n")
    roster = load_roster(path)
    assert roster.names == ("bank", "grocer", "insurer", "telecom")
    assert (roster.threshold, roster.minimum_survivors) == (3, 3)
    files = [folder / f"{place:02}.pem" for place in range(4)]
    assert sorted(folder.iterdir()) == [*files, folder / "log.pem", path]
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    for file, member in zip(files, roster.members, strict=True):
        assert load_seat(path, member.name).identity.public_key == member.public_key
        assert fedmarket("roster", "check", path, "--identity", file).code == 0


def test_a_rehearsals_path_is_short_below_the_working_folder(fedmarket: Fedmarket, write_market, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert rehearse(fedmarket, write_market, tmp_path).out == "4 simulated parties: deep/roster/roster.toml\n"


def test_a_rehearsal_overwrites_no_key(fedmarket: Fedmarket, write_market, tmp_path: Path):
    rehearse(fedmarket, write_market, tmp_path)
    folder = tmp_path / "deep" / "roster"
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    ran = rehearse(fedmarket, write_market, tmp_path)
    assert (ran.code, ran.out) == (2, "")
    assert ran.err == f"error: {folder / '00.pem'}: exists already; nothing is overwritten\n"
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


def test_two_rehearsals_have_no_key_in_common(fedmarket: Fedmarket, write_market, tmp_path: Path):
    keys = []
    for name in ("one", "two"):
        rehearse(fedmarket, write_market, tmp_path / name)
        roster = load_roster(tmp_path / name / "deep" / "roster" / "roster.toml")
        keys += [member.public_key for member in roster.members]
    assert len(set(keys)) == 8


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("parties = 4", "parties = 3", "error: aggregation.secagg: secure aggregation is not possible here ("),
        (
            "minimum_survivors = 3",
            "minimum_survivors = 2",
            "(minimum_survivors: expected 3 (the threshold) to 4, got 2)",
        ),
        ('name = "tiny"', "", "config.toml: name: missing"),
    ],
)
def test_a_market_that_can_have_no_roster_is_told_in_one_line(fedmarket, write_market, tmp_path, old, new, said):
    ran = rehearse(fedmarket, write_market, tmp_path, (old, new))
    assert (ran.code, ran.out) == (2, "")
    assert said in ran.err
    assert ran.err.count("\n") == 1
    assert not (tmp_path / "deep").exists()


def test_a_folder_that_cannot_be_made_is_named(fedmarket: Fedmarket, write_market, tmp_path: Path):
    (tmp_path / "deep").write_text("a file")
    ran = rehearse(fedmarket, write_market, tmp_path)
    assert (ran.code, ran.out) == (2, "")
    assert re.fullmatch(r"error: \S+/deep/roster: cannot be made \(.+\)\n", ran.err)
