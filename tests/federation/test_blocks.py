"""A party works on many rows in blocks: no phase has more of them written out, and sums are those of all rows."""

from dataclasses import replace

import numpy as np
import pytest

from fedmarket.federation.rows import Rows
from fedmarket.models.released import predict
from fedmarket.models.state import ModelState
from fedmarket.privacy.noise import Stream

BLOCK = 16


class Watched:
    """Encoded rows that note how many were asked for at once."""

    def __init__(self, rows: np.ndarray) -> None:
        self._rows, self.most, self.shape = rows, 0, rows.shape

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, rows: slice) -> np.ndarray:
        found = self._rows[rows]
        self.most = max(self.most, len(found))
        return found


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    cut_small(monkeypatch)


def cut_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedmarket.arrays.BLOCK", 2 * BLOCK)
    monkeypatch.setattr("fedmarket.arrays.WIDE", BLOCK)


def watched(rows: Rows) -> Rows:
    return replace(rows, features=Watched(rows.features))


def releases_of(party, model: ModelState) -> dict[str, np.ndarray]:
    """Return what a party without noise says in each phase that its terms have."""
    phases = dict.fromkeys(party.terms.phase_of(number) for number in range(party.terms.rounds))
    return {phase: party._releases.of(phase, model, Stream.seeded(0)) for phase in (*phases, "evaluate")}


@pytest.mark.parametrize("several", [False, True], ids=["a row each", "several rows each"])
@pytest.mark.parametrize("make", ["world", "worth"])
def test_no_phase_writes_out_more_than_a_block_and_sums_are_those_of_all_rows(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, make: str, several: bool
):
    world = request.getfixturevalue(make)
    terms = world.terms("federated_schedule")
    customers = np.arange(50) // 3 if several else None
    own, held = world.rows(50, seed=1, customers=customers), world.rows(37, seed=2)
    rng = np.random.default_rng(3)
    model = world.model(
        terms, centre=rng.normal(0, 0.1, 4), scale=np.full(4, 2.0), parameters=rng.normal(0, 1, terms.parameters)
    )
    whole = releases_of(world.party("a", terms, rows=own, held_out=held), model)
    cut_small(monkeypatch)
    cut = world.party("a", terms, rows=watched(own), held_out=watched(held))
    for phase, released in releases_of(cut, model).items():
        np.testing.assert_allclose(released, whole[phase], rtol=1e-5, atol=1e-7, err_msg=phase)
    assert cut.rows.features.most == cut.held_out.features.most == BLOCK


@pytest.mark.usefixtures("small_blocks")
def test_rows_beyond_the_bound_are_counted_in_all_blocks(world):
    rows = world.rows(50)
    rows.features[[1, 20, 49], 0] = [9.0, np.nan, np.inf]
    with pytest.raises(Exception, match="3 encoded rows are not finite or beyond the norm bound"):
        world.party("a", world.terms("federated"), rows=watched(rows))


@pytest.mark.usefixtures("small_blocks")
def test_a_prediction_needs_no_more_than_a_block(world):
    terms, features = world.terms("federated"), Watched(world.rows(50).features)
    said = predict(terms.model, terms.objective, world.model(terms), features).response
    assert said.shape == (50,)
    assert features.most == BLOCK
