"""The layout of encoded rows: which places are words or numbers, and what each is expected to matter."""

import math

import pytest
from pydantic import ValidationError

from fedmarket.contract.layout import Layout, layout_of
from fedmarket.contract.schema import CategoryColumn, Contract, Label, NumericColumn, PrivacyTerms

AGE = {"name": "age", "kind": "numeric", "lower": 0, "upper": 100, "edges": (20, 50)}
COLOUR = {"name": "colour", "kind": "category", "vocabulary": ("red", "blue")}


def contract(*, age: dict[str, object] | None = None, colour: dict[str, object] | None = None) -> Contract:
    return Contract(
        format="fedmarket-contract/1",
        name="test",
        task="propensity",
        minimum_parties=1,
        label=Label(column="y", positive="yes", negative="no"),
        privacy=PrivacyTerms(unit="row", adjacency="add-or-remove-one", delta=1e-5),
        columns=(NumericColumn(**AGE | (age or {})), CategoryColumn(**COLOUR | (colour or {}))),
    )


def by_name(layout: Layout, values: tuple[object, ...]) -> dict[str, object]:
    return dict(zip(layout.names, values, strict=True))


@pytest.mark.parametrize("binning", [False, True])
def test_every_place_but_the_scaled_number_is_a_word(binning: bool):
    layout = layout_of(contract(), binning=binning)
    assert [name for name, word in by_name(layout, layout.one_hot).items() if not word] == ["age"]
    assert len(layout.names) == len(layout.one_hot) == len(layout.weights) == layout.width
    assert layout.width == (2 + 3 * binning) + 4


def test_a_column_without_a_weight_has_weight_one():
    assert set(layout_of(contract(), binning=True).weights) == {1.0}
    assert contract().columns[0].weight == contract().columns[1].weight == 1.0


def test_all_places_of_a_column_have_its_weight():
    layout = layout_of(contract(age={"weight": 2.5}, colour={"weight": 0.125}), binning=True)
    weights = by_name(layout, layout.weights)
    assert {weight for name, weight in weights.items() if name.startswith("age")} == {2.5}
    assert {weight for name, weight in weights.items() if name.startswith("colour")} == {0.125}


def test_a_weight_moves_no_place_and_no_bound():
    plain, weighted = (layout_of(one, binning=True) for one in (contract(), contract(age={"weight": 10})))
    assert (plain.width, plain.names, plain.one_hot) == (weighted.width, weighted.names, weighted.one_hot)
    assert plain.norm_bound == weighted.norm_bound == math.sqrt(3)


@pytest.mark.parametrize("column", ["age", "colour"])
@pytest.mark.parametrize("weight", [0, -1, 10.001, math.inf, math.nan, "2", True])
def test_a_weight_is_a_number_above_0_and_at_most_10(column: str, weight: object):
    with pytest.raises(ValidationError, match="weight"):
        contract(**{column: {"weight": weight}})


@pytest.mark.parametrize("column", ["age", "colour"])
@pytest.mark.parametrize("weight", [1e-9, 1, 10])
def test_the_least_and_the_largest_weight_are_allowed(column: str, weight: float):
    assert {one.weight for one in contract(**{column: {"weight": weight}}).columns} == {1.0, weight}


@pytest.mark.parametrize("column", ["age", "colour"])
def test_parties_with_other_weights_have_another_contract(column: str):
    assert contract(**{column: {"weight": 2}}).hash != contract().hash
    assert contract(**{column: {"weight": 1}}).hash == contract(**{column: {"weight": 1.0}}).hash == contract().hash
    assert contract(age={"weight": 2}).hash != contract(colour={"weight": 2}).hash
