"""A hostile operator's app as another user of the system: nothing that it tries gets through, and tries are counted."""

import runpy
import tempfile
from pathlib import Path

import pytest

from fedmarket.errors import BadMessage

FOLDER = Path(__file__).resolve().parents[2] / "experiments" / "attack-operator"
TRIED = runpy.run_path(str(FOLDER / "tried.py"))


def fail(error: Exception) -> None:
    raise error


@pytest.mark.attack
def test_nothing_that_a_shipped_app_tries_gets_through():
    attack = runpy.run_path(str(FOLDER / "attack.py"))
    if said := attack["missing"]():
        pytest.skip(said)
    with tempfile.TemporaryDirectory(prefix="fm-") as folder:
        found = attack["attack"](Path(folder))
    assert not [one.line for one in found if not one.good]
    assert len(found) >= 70
    answered = ["the relay's user is answered", "an honest round before", "an honest round after all that"]
    assert [one.what for one in found if one.honest] == answered


@pytest.mark.parametrize(
    ("act", "good"),
    [
        (lambda: fail(BadMessage("terms differ: 1 and 2")), True),
        (lambda: fail(PermissionError(13, "Permission denied")), False),
        (lambda: fail(BadMessage("another refusal")), False),
        (lambda: fail(ValueError("terms differ")), False),
        (lambda: "terms differ", False),
    ],
)
def test_only_the_refusal_that_is_expected_counts_as_one(act, good):
    found = TRIED["tried"]("try", "terms differ", act)
    assert found.good is good
    assert found.line.startswith("refused" if good else "GOT THROUGH")
