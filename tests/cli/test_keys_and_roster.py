"""``fedmarket keys new`` and ``roster check``: an identity for its owner alone, a roster held to its rules."""

import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedmarket.aggregation.secagg.roster import Member
from fedmarket.federation.identity import load_identity, new_identity, save_identity
from fedmarket.federation.roster import new_roster

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
