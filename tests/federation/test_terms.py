"""Both sides hold the same terms or the hashes differ, whichever number is another."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest
from pydantic import BaseModel

from fedmarket.config import MlpModel
from fedmarket.errors import BadMessage, PlanError
from fedmarket.federation.terms import Terms


def other(value: Any) -> Any:
    """Return a value of the same type that is not ``value``."""
    if value is None or isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return value + "x"
    return value + 1 if isinstance(value, int) else value * 1.001 + 1e-9


def variants(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield ``value`` with each leaf changed, one after the other."""
    if is_dataclass(value):
        for field in fields(value):
            for where, changed in variants(getattr(value, field.name), f"{path}.{field.name}"):
                yield where, replace(value, **{field.name: changed})
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            for where, changed in variants(getattr(value, name), f"{path}.{name}"):
                yield where, value.model_copy(update={name: changed})
    elif isinstance(value, tuple):
        if value:
            yield f"{path}[:-1]", value[:-1]
        for place, item in enumerate(value):
            for where, changed in variants(item, f"{path}[{place}]"):
                yield where, (*value[:place], changed, *value[place + 1 :])
    else:
        yield path, other(value)


def test_every_field_is_in_the_hash(world, sharing, worth):
    terms = world.terms()
    mlp = replace(terms, model=MlpModel(kind="mlp", binning=True, hidden=(8, 4)))
    hashes = {}
    shared = sharing.terms()
    for name, base in (("logistic", terms), ("mlp", mlp), ("shared noise", shared), ("value", worth.terms())):
        hashes[name] = base.hash
        for where, changed in variants(base):
            hashes[f"{name}{where}"] = changed.hash
    assert len(hashes) > 250
    assert len(set(hashes.values())) == len(hashes), hashes


def test_the_hash_is_stable_and_the_same_for_equal_terms(world):
    assert world.terms().hash == world.terms().hash == replace(world.terms()).hash
    assert len(world.terms().hash) == 64


def test_masked_and_in_the_open_are_other_terms_and_nothing_else_changes(world):
    secure, ideal = world.terms(), world.terms(secagg="ideal")
    assert secure.secagg == "secure"
    assert secure.hash != ideal.hash
    assert (secure.steps, ideal.steps) == (("advertise", "share", "mask", "consent", "unmask"), ("sum",))
    for phase in ("centre", "update", "calibrate", "evaluate"):
        assert secure.grid_of(phase) == ideal.grid_of(phase)
    assert secure.plan == ideal.plan


def test_only_the_arms_with_noise_are_masked(world):
    bare = ("pooled", "pooled_dp", "federated", "federated_schedule", "federated_clipped", "federated_rounded")
    assert {world.terms(arm).secagg for arm in bare} == {"ideal"}
    assert world.terms("federated_dp").secagg == "secure"


def test_a_roster_fits_terms_of_its_survivors_that_leave_room_for_its_members(world):
    terms = world.terms(parties=4)
    terms.need_fitting(world.roster_of(world.four))
    with pytest.raises(PlanError, match=r"federation\.minimum_survivors: the roster says 4, got 3"):
        terms.need_fitting(world.roster_of(world.four, minimum=4))
    with pytest.raises(PlanError, match=r"federation\.minimum_survivors: the roster says 4, got 3"):
        terms.need_fitting(world.roster_of([f"p{n}" for n in range(5)]))
    eight = [f"p{n}" for n in range(8)]
    world.terms(parties=8).need_fitting(world.roster_of(eight))
    with pytest.raises(PlanError, match=r"federation\.max_parties: the roster has 9 members, got 8"):
        world.terms(parties=8).need_fitting(world.roster_of([*eight, "p8"]))


def test_the_context_of_a_round_says_all_that_its_masks_depend_on(world):
    terms, roster = world.terms(), world.roster_of(world.four)
    for number, phase, length in ((0, "centre", 4), (1, "update", 5), (6, "calibrate", 5), (7, "evaluate", 22)):
        context = terms.context_of(number, run=world.run, roster=roster)
        assert (context.round_number, context.phase, context.length) == (number, phase, length)
        assert context.modulus_bits == terms.modulus_bits
        assert context.terms_hash.hex() == terms.hash
        assert context.inputs == b""


def test_arms_differ_in_their_terms(world):
    arms = ("pooled", "pooled_dp", "federated", "federated_schedule", "federated_clipped", "federated_rounded")
    assert len({world.terms(arm).hash for arm in (*arms, "federated_dp")}) == 7


@pytest.mark.parametrize("phase", ["centre", "update", "calibrate", "evaluate"])
def test_the_range_holds_the_rows_and_the_noise_of_all_parties(world, phase):
    terms: Terms = world.terms()
    mechanism, grid = terms.plan.mechanism(phase), terms.grid_of(phase)
    once = terms.max_party_rows * mechanism.clip_norm + 16 * mechanism.noise_std
    assert grid.bound >= terms.releases_in(phase) * once
    assert terms.max_parties * grid.bound / grid.resolution <= 2**30


def test_rounds_are_one_centre_then_updates_then_calibrations_then_one_evaluation(world):
    terms = world.terms()
    phases = [terms.phase_of(number) for number in range(terms.rounds)]
    assert phases == ["centre", *["update"] * 3, *["calibrate"] * 3, "evaluate"]


@pytest.mark.parametrize("number", [-9, -1, 8, 10**9])
def test_a_round_that_the_run_does_not_have_has_no_phase(world, number: int):
    with pytest.raises(BadMessage, match=f"^round {number}: the run has 8$"):
        world.terms().phase_of(number)


def test_without_private_evaluation_there_is_no_such_round(world):
    plan = world.terms().plan
    unasked = tuple(replace(m, releases=0) if m.phase == "evaluate" else m for m in plan.mechanisms)
    terms = world.terms(plan=replace(plan, mechanisms=unasked))
    assert [terms.phase_of(number) for number in range(terms.rounds)][-2:] == ["calibrate", "calibrate"]
    assert terms.rounds == 7
