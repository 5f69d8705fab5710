"""At the edges of the integer range the exact sum comes out; beyond them nothing leaves; nothing ever wraps."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmarket.aggregation.fixedpoint import FixedPoint
from fedmarket.aggregation.scaling import Scaling
from fedmarket.errors import BadMessage
from fedmarket.federation.release import Releases
from fedmarket.federation.terms import Terms
from fedmarket.privacy.budget import Spending

BITS = pytest.mark.parametrize("bits", [32, 64])
MODES = pytest.mark.parametrize("secagg", ["ideal", "secure"])
PHASES = ("centre", "update", "calibrate", "evaluate")


def integers(grid: FixedPoint, vector: np.ndarray) -> list[int]:
    """Return the integers that stand for ``vector``, of any size; the resolution is a power of two."""
    return [round(value / grid.resolution) for value in vector.tolist()]


def bare_means(patch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """Return where the means of the first rounds will stand, before they are moved into the range of means."""
    means: list[np.ndarray] = []
    projected = Scaling.projected

    def watched(scaling: Scaling, centre: np.ndarray) -> np.ndarray:
        means.append(centre)
        return projected(scaling, centre)

    patch.setattr(Scaling, "projected", watched)
    return means


def release(patch: pytest.MonkeyPatch, members, vectors: dict[str, np.ndarray]) -> None:
    """Let each party release its one of ``vectors``, whatever it is asked for."""
    names = {id(member.party._releases): member.name for member in members}
    patch.setattr(Releases, "of", lambda releases, *_: vectors[names[id(releases)]])


def summed(world, coordinator, members, vectors: dict[str, np.ndarray]) -> np.ndarray:
    """Run the first round with each party's ``vectors`` instead of its feature sum; return their mean."""
    with pytest.MonkeyPatch.context() as patch:
        means = bare_means(patch)
        release(patch, members, vectors)
        world.round(coordinator, members)
    (mean,) = means
    return mean


def check_exact(world, vectors: list[np.ndarray], *, bits: int, secagg: str) -> None:
    """Hold the mean of a round of ``vectors`` against their sum in Python's own integers."""
    coordinator, members = world.market(len(vectors), secagg=secagg, modulus_bits=bits)
    grid = coordinator.terms.grid_of("centre")
    mean = summed(world, coordinator, members, {f"p{n}": vector for n, vector in enumerate(vectors)})
    assert coordinator.void_rounds == []
    exact = [sum(column) for column in zip(*(integers(grid, vector) for vector in vectors), strict=True)]
    assert max(map(abs, exact)) < 2 ** (bits - 1)
    rows = sum(coordinator.parties.values())
    np.testing.assert_array_equal(mean, np.array(exact, dtype=np.float64) * grid.resolution / rows)


@BITS
@MODES
@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("loud", ["one", "all", "all but one", "half against half"])
def test_parties_at_the_limit_give_the_exact_sum_at_full_capacity(world, bits, secagg: str, sign: float, loud: str):
    parties = world.terms().max_parties
    bound = world.terms(parties=parties, modulus_bits=bits).grid_of("centre").bound
    at = {
        "one": [sign] + [0.0] * (parties - 1),
        "all": [sign] * parties,
        "all but one": [sign] * (parties - 1) + [-sign],
        "half against half": [sign, -sign] * (parties // 2),
    }[loud]
    check_exact(world, [np.full(4, bound * edge) for edge in at], bits=bits, secagg=secagg)


@BITS
@settings(max_examples=25)
@given(data=st.data())
def test_any_mixture_of_edges_gives_the_exact_sum(world, bits: int, data):
    grid = world.terms(modulus_bits=bits).grid_of("centre")
    step, bound = grid.resolution, grid.bound
    edges = [bound, np.nextafter(bound, 0), bound - step, bound / 2, step, step / 2, 0.49 * step, 0.0]
    element = st.sampled_from([*edges, *(-edge for edge in edges)]) | st.floats(-bound, bound)
    vectors = [np.array(data.draw(st.lists(element, min_size=4, max_size=4))) for _ in range(4)]
    check_exact(world, vectors, bits=bits, secagg="secure")


@BITS
@MODES
@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("beyond", ["the next number", "a step", "twice", "half of the modulus", "the modulus"])
def test_beyond_the_limit_nothing_leaves_and_the_others_go_on(world, bits, secagg: str, sign: float, beyond: str):
    """Even half a modulus or a whole one, whose residue would look like nothing."""
    coordinator, members = world.market(4, secagg=secagg, modulus_bits=bits)
    grid = coordinator.terms.grid_of("centre")
    vector = np.zeros(4)
    vector[2] = (
        sign
        * {
            "the next number": np.nextafter(grid.bound, np.inf),
            "a step": grid.bound * (1 + 2.0**-40) + grid.resolution,
            "twice": 2 * grid.bound,
            "half of the modulus": 2.0 ** (bits - 1) * grid.resolution,
            "the modulus": 2.0**bits * grid.resolution,
        }[beyond]
    )
    vectors = {"p0": vector} | {f"p{n}": np.full(4, 1.0) for n in (1, 2, 3)}
    with pytest.MonkeyPatch.context() as patch:
        release(patch, members, vectors)
        requests = world.until(coordinator, members, coordinator.terms.steps[0 if secagg == "ideal" else 2])
        with pytest.raises(BadMessage, match=r"^update out of the public range$"):
            members[0].answer(requests["p0"])
        world.round(coordinator, members[1:])
    assert members[0].state.open == {}
    assert members[0].state.spending == Spending(centre=1)
    rows = sum(rows for name, rows in coordinator.parties.items() if name != "p0")
    np.testing.assert_allclose(coordinator.model.centre * rows, np.full(4, 3.0), atol=3 * grid.resolution)


def capacities() -> st.SearchStrategy[dict]:
    return st.fixed_dictionaries(
        {"modulus_bits": st.sampled_from([32, 64]), "max_parties": st.integers(1, 10_000)}
        | {"max_party_rows": st.integers(1, 10**9)}
    )


@given(changed=capacities(), phase=st.sampled_from(PHASES), arm=st.sampled_from(["federated_dp", "federated"]))
def test_all_parties_at_the_limit_stay_below_half_of_the_modulus(world, changed: dict, phase: str, arm: str):
    terms: Terms = replace(world.terms(arm), **changed)
    grid = terms.grid_of(phase)
    largest = round(grid.bound / grid.resolution)
    assert terms.max_parties * largest < 2 ** (terms.modulus_bits - 1)
    for edge in (grid.bound, -grid.bound):
        words = grid.encode(np.array([edge]))
        total = (int(words.view(f"i{terms.modulus_bits // 8}")[0]) * terms.max_parties) % 2**terms.modulus_bits
        summed = np.array([total], dtype=np.uint64).astype(grid.word_dtype)
        assert grid.decode(summed)[0] == float(round(edge / grid.resolution) * terms.max_parties) * grid.resolution


@given(changed=capacities(), phase=st.sampled_from(PHASES))
def test_the_range_holds_what_honest_parties_can_release(world, changed: dict, phase: str):
    terms = replace(world.terms(), **changed)
    mechanism = terms.plan.mechanism(phase)
    reach = terms.releases_in(phase) * (mechanism.clip_norm * terms.max_party_rows + 16 * mechanism.noise_std)
    terms.grid_of(phase).encode(np.array([reach, -reach]))


@BITS
def test_one_step_more_than_half_of_the_modulus_would_change_its_sign(world, bits: int):
    """What the range keeps from happening: a sum of 2 ** 31, or 2 ** 63, reads as its negative."""
    grid = world.terms(modulus_bits=bits).grid_of("centre")
    edge = np.array([2 ** (bits - 1) - 1, 2 ** (bits - 1)], dtype=grid.word_dtype)
    below, at = grid.decode(edge)
    assert below > 0 > at
    assert at == -(2.0 ** (bits - 1)) * grid.resolution


@BITS
def test_the_limit_is_as_near_to_half_of_the_modulus_as_powers_of_two_allow(world, bits: int):
    """No bits are wasted either: one more bit and all parties together could wrap."""
    terms = world.terms("federated", modulus_bits=bits)
    for phase in PHASES:
        grid = terms.grid_of(phase)
        assert 2 ** (bits - 3) < terms.max_parties * grid.bound / grid.resolution <= 2 ** (bits - 2)
