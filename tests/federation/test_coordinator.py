"""A bad party is rejected by name, the round goes on with the others, and too few stop the run."""

from dataclasses import replace

import numpy as np
import pytest

from fedmarket.errors import BadMessage, ConfigError, FederationStopped, PlanError
from fedmarket.federation.coordinator import Coordinator
from fedmarket.federation.messages import Acceptance, Update
from fedmarket.federation.rows import Rows

MODES = pytest.mark.parametrize("secagg", ["ideal", "secure"])


@pytest.fixture
def coordinator(world) -> Coordinator:
    return world.coordinator(world.terms("federated"))


def acceptance(coordinator: Coordinator, **changed: object) -> Acceptance:
    fields = {"party": "a", "declared_rows": 40, "terms_hash": coordinator.terms.hash} | changed
    return Acceptance(**fields)


@pytest.mark.parametrize("rows", [0, -5, 2001, 10**12])
def test_a_declared_size_outside_the_terms_is_not_admitted(coordinator: Coordinator, rows: int):
    with pytest.raises(BadMessage, match="expected 1 to 2000 declared rows"):
        coordinator.admit(acceptance(coordinator, declared_rows=rows))
    assert coordinator.parties == {}


@pytest.mark.parametrize("name", ["", "   ", "a\nb", "a\x1b[2J", "\u2028", "\ud800", "x" * 101])
def test_a_name_that_does_not_fit_a_line_is_not_admitted(coordinator: Coordinator, name: str):
    with pytest.raises(BadMessage, match="expected a name of 1 to 100 characters on one line"):
        coordinator.admit(acceptance(coordinator, party=name))


@pytest.mark.parametrize("name", ["甲公司", "Société Générale", "a　b", "بنك", "x" * 100])
def test_a_name_in_any_script_is_admitted(coordinator: Coordinator, name: str):
    coordinator.admit(acceptance(coordinator, party=name))
    assert coordinator.parties == {name: 40}


def test_other_terms_a_second_party_of_a_name_and_one_party_too_many_are_not_admitted(coordinator: Coordinator):
    with pytest.raises(BadMessage, match="the party holds other terms"):
        coordinator.admit(acceptance(coordinator, terms_hash="0" * 64))
    for number in range(8):
        coordinator.admit(acceptance(coordinator, party=f"p{number}"))
    with pytest.raises(BadMessage, match="more than 8 parties"):
        coordinator.admit(acceptance(coordinator, party="p8"))
    with pytest.raises(BadMessage, match="a second party of the same name"):
        coordinator.admit(acceptance(coordinator, party="p3", declared_rows=1))
    assert coordinator.parties == {f"p{number}": 40 for number in range(8)}


def test_under_secure_aggregation_only_members_of_the_roster_are_admitted_each_once(world):
    coordinator = world.coordinator(world.terms())
    with pytest.raises(BadMessage, match="the party is not in the roster"):
        coordinator.admit(acceptance(coordinator, party="eve"))
    for name in world.four:
        coordinator.admit(acceptance(coordinator, party=name))
    with pytest.raises(BadMessage, match="a second party of the same name"):
        coordinator.admit(acceptance(coordinator, party="a"))
    assert list(coordinator.parties) == list(world.four)


def test_a_coordinator_needs_a_roster_made_for_its_terms(world):
    terms = world.terms()
    with pytest.raises(ConfigError, match=r"aggregation\.secagg is secure, which needs a roster"):
        Coordinator(terms=terms, max_void_rounds=3)
    with pytest.raises(PlanError, match=r"federation\.minimum_survivors: the roster says 4, got 3"):
        Coordinator(terms=terms, max_void_rounds=3, roster=world.roster_of(world.four, minimum=4))
    with pytest.raises(PlanError, match=r"federation\.max_parties: the roster has 9 members, got 8"):
        Coordinator(terms=terms, max_void_rounds=3, roster=world.roster_of([f"p{n}" for n in range(9)]))


def test_in_the_open_a_roster_is_not_used(world):
    coordinator = Coordinator(
        terms=world.terms("federated"), max_void_rounds=3, roster=world.roster_of(world.four, minimum=4)
    )
    assert coordinator.invitation().roster_hash == ""
    coordinator.admit(acceptance(coordinator, party="not in any roster"))


@MODES
def test_every_run_has_a_number_of_its_own_and_one_for_all_parties(world, secagg: str):
    coordinators = [world.coordinator(world.terms(secagg=secagg)) for _ in range(3)]
    assert len({coordinator.invitation().run for coordinator in coordinators}) == 3
    assert len(coordinators[0].invitation().run) == 16
    assert coordinators[0].invitation() == coordinators[0].invitation()


def update(coordinator: Coordinator, **changed: object) -> Update:
    terms = coordinator.terms
    content = bytes(terms.length_of("centre") * terms.modulus_bits // 8)
    fields = {"party": "mallory", "round_number": 0, "step": coordinator.step, "content": content} | changed
    return Update(**fields)


@MODES
def test_no_answer_is_taken_before_a_round_is_open(world, secagg: str):
    coordinator = world.coordinator(world.terms(secagg=secagg))
    coordinator.admit(acceptance(coordinator))
    with pytest.raises(BadMessage, match="no round is open"):
        coordinator.receive(update(coordinator, party="a"))
    with pytest.raises(BadMessage, match="no round is open"):
        coordinator.close_step()


BAD_UPDATES = {
    "a stranger": ({"party": "eve"}, "did not join"),
    "the next round": ({"round_number": 1}, "for round 1, but round 0 is open"),
    "an older round": ({"round_number": -1}, "for round -1, but round 0 is open"),
    "a masked vector": ({"step": "mask"}, "for the step mask, but sum is due"),
    "a step that there is not": ({"step": "SUM"}, "for the step SUM, but sum is due"),
    "too short": ({"content": bytes(24)}, "expected an update of 32 bytes in the step sum, got 24"),
    "half a word": ({"content": bytes(31)}, "expected an update of 32 bytes in the step sum, got 31"),
    "too long": ({"content": bytes(40)}, "expected an update of 32 bytes in the step sum, got 40"),
    "narrow words": ({"content": bytes(16)}, "expected an update of 32 bytes in the step sum, got 16"),
    "nothing": ({"content": b""}, "expected an update of 32 bytes in the step sum, got 0"),
    "a second update": ({"party": "p0"}, "a second update"),
}


@pytest.mark.parametrize("name", BAD_UPDATES)
def test_the_model_is_that_of_the_survivors_alone(world, name: str):
    changed, said = BAD_UPDATES[name]
    alone = world.drive(*world.market(4, arm="federated"))
    coordinator, members = world.market(4, arm="federated")
    coordinator.admit(acceptance(coordinator, party="mallory", declared_rows=2000))
    for member in members:
        coordinator.receive(member.answer(coordinator.requests()[member.name].requests[0]))
    with pytest.raises(BadMessage, match=said):
        coordinator.receive(update(coordinator, **changed))
    coordinator.close_step()
    world.drive(coordinator, members)
    for part in world.parts:
        np.testing.assert_array_equal(getattr(coordinator.model, part), getattr(alone, part))


@MODES
def test_a_party_that_falls_silent_is_left_out_of_sum_and_size(world, secagg: str):
    def run(silent_rows: int) -> np.ndarray:
        terms = world.terms(parties=4, secagg=secagg)
        coordinator = world.coordinator(terms, world.four)
        members = [world.fresh(world.party(name, terms, seed=seed)) for seed, name in enumerate("abc")]
        world.join(coordinator, members)
        coordinator.admit(acceptance(coordinator, party="d", declared_rows=silent_rows))
        world.round(coordinator, members)
        return coordinator.model.centre

    assert run(1).any()
    np.testing.assert_array_equal(run(1), run(2000))


@MODES
def test_too_few_parties_stop_the_run_before_it_starts_and_name_causes(world, secagg: str):
    coordinator = world.coordinator(world.terms(secagg=secagg))
    coordinator.admit(acceptance(coordinator))
    coordinator.reject("node 7", "the party holds other terms")
    with pytest.raises(
        FederationStopped, match=r"^1 parties joined, at least 3 are needed \(node 7: the party holds other terms\)$"
    ):
        coordinator.requests()


@MODES
def test_a_round_of_too_few_survivors_is_void_and_leaves_the_model(world, secagg: str):
    coordinator, members = world.market(4, secagg=secagg)
    world.step(coordinator, members, absent={"p2", "p3"})
    step = coordinator.terms.steps[0]
    (void,) = coordinator.void_rounds
    assert (void.round_number, void.reason) == (
        0,
        f"round 0 is void, {step}: expected at least 3 parties, 2 are left",
    )
    assert not coordinator.finished
    assert not coordinator.model.centre.any()
    assert coordinator.requests()["p0"].requests[0].round_number == 1


@MODES
@pytest.mark.parametrize("most", [1, 2, 3])
def test_void_rounds_in_a_row_end_the_run_and_name_the_last_causes(world, secagg: str, most: int):
    coordinator, members = world.market(4, secagg=secagg, max_void_rounds=most)
    for number in range(most):
        coordinator.requests()
        for name in ("p1", "p2", "p3"):
            coordinator.reject(name, f"no reply in time to {number}")
        if number < most - 1:
            world.step(coordinator, members[:1])
    last = most - 1
    with pytest.raises(
        FederationStopped,
        match=rf"round {last} is void, .* 1 are left, as were all of the last {most} "
        rf"\(p1: no reply in time to {last}; p2: no reply in time to {last}; p3: no reply in time to {last}\)$",
    ):
        world.step(coordinator, members[:1])


@MODES
def test_void_rounds_with_a_good_one_between_them_do_not_end_the_run(world, secagg: str):
    coordinator, members = world.market(4, secagg=secagg, max_void_rounds=2)
    first = coordinator.terms.steps[0]
    lost = {(number, first): {"p0", "p1"} for number in (0, 2, 4, 6)}
    world.drive(coordinator, members, lost=lost)
    assert [void.round_number for void in coordinator.void_rounds] == [0, 2, 4, 6]


@MODES
def test_a_rejection_names_round_step_party_and_reason(world, secagg: str):
    coordinator, members = world.market(4, secagg=secagg)
    steps = coordinator.terms.steps
    coordinator.reject("node 3", "another roster")
    for step in steps:
        request = world.asked(coordinator)["p1"]
        coordinator.reject("p1", f"p1: late for {step}", request=request)
        world.step(coordinator, members)
    assert [(r.round_number, r.step, r.party, r.reason) for r in coordinator.rejections] == [
        (0, "join", "node 3", "another roster"),
        *((0, step, "p1", f"late for {step}") for step in steps),
    ]


@MODES
def test_one_partys_words_cannot_be_told_from_the_repr_of_the_coordinator(world, secagg: str):
    coordinator, members = world.market(4, secagg=secagg)
    for step in coordinator.terms.steps:
        sent = {}
        for name, asked in coordinator.requests().items():
            for request in asked.requests:
                sent[name] = next(member for member in members if member.name == name).answer(request)
                coordinator.receive(sent[name])
        shown = repr(coordinator)
        for update in sent.values():
            assert repr(update.content)[2:30] not in shown
            assert str(int.from_bytes(update.content[:4], "little")) not in shown, step
        assert "array" not in shown
        coordinator.close_step()


def test_the_same_requests_go_out_until_the_step_is_closed(world):
    coordinator, members = world.market(4)
    for _ in coordinator.terms.steps:
        assert str(coordinator.requests()) == str(coordinator.requests())
        one, two = world.asked(coordinator), world.asked(coordinator)
        assert {name: request.packet for name, request in one.items()} == {n: r.packet for n, r in two.items()}
        assert {request.step for request in one.values()} == {coordinator.step}
        assert {request.model is None for request in one.values()} == {coordinator.step != "mask"}
        world.step(coordinator, members)


def run(world, terms, members):
    coordinator = world.coordinator(terms)
    world.join(coordinator, members)
    return world.drive(coordinator, members)


def joined(parts: list[Rows]) -> Rows:
    return Rows(
        features=np.concatenate([rows.features for rows in parts]),
        targets=np.concatenate([rows.targets for rows in parts]),
    )


def test_joint_training_without_noise_is_training_in_one_place(world):
    sizes = (30, 50, 120)
    parties = [
        world.fresh(world.party(f"p{n}", world.terms("federated"), rows=size, seed=n)) for n, size in enumerate(sizes)
    ]
    coordinator = world.coordinator(world.terms("federated"))
    world.join(coordinator, parties)
    joint = world.drive(coordinator, parties)
    together = {place: joined([getattr(m.party, place) for m in parties]) for place in ("rows", "held_out")}
    in_one_place = world.coordinator(world.terms("pooled"))
    everyone = [world.fresh(world.party("all", world.terms("pooled"), **together))]
    world.join(in_one_place, everyone)
    pooled = world.drive(in_one_place, everyone)
    assert np.abs(joint.parameters).max() > 0.1
    for part in world.parts:
        np.testing.assert_allclose(getattr(joint, part), getattr(pooled, part), atol=1e-6)
    np.testing.assert_array_equal(coordinator.statistics.scores.counts, in_one_place.statistics.scores.counts)
    assert coordinator.statistics.scores.counts.sum() == 30


def test_the_released_model_recalibrates_around_the_typical_logit(world):
    terms = world.terms("federated")
    model = run(world, terms, [world.fresh(world.party(name, terms, rows=200)) for name in "abc"])
    assert model.calibration[1] > 0
    assert model.calibration[2] == pytest.approx(model.parameters[-1], abs=1e-6)  # a centred row's logit is the bias


def test_a_run_of_other_terms_is_another_run(world):
    terms = world.terms("federated")
    coordinator = world.coordinator(replace(terms, initial_seed=1))
    with pytest.raises(BadMessage, match="terms differ"):
        world.fresh(world.party("a", terms)).join(coordinator.invitation())


# Centre and scale.


@MODES
def test_columns_are_scaled_by_the_projected_centre(world, secagg: str):
    coordinator, members = world.market(4, secagg=secagg)
    assert (coordinator.model.scale == 1).all()
    world.round(coordinator, members)
    scaling, centre = coordinator.terms.scaling, coordinator.model.centre
    np.testing.assert_array_equal(centre, scaling.projected(centre))
    np.testing.assert_array_equal(coordinator.model.scale, scaling.of(centre))
    assert (coordinator.model.scale != 1).all()
    scale = coordinator.model.scale
    assert (world.drive(coordinator, members).scale == scale).all()


def test_a_schedule_that_does_not_scale_leaves_columns_as_they_are(world):
    coordinator, members = world.market(4, arm="federated")
    world.round(coordinator, members)
    assert coordinator.model.centre.any()
    assert (coordinator.model.scale == 1).all()


@MODES
def test_a_void_centre_round_leaves_centre_and_scale_for_the_whole_run(world, secagg: str):
    coordinator, members = world.market(4, secagg=secagg)
    world.round(coordinator, members, lost={(0, coordinator.terms.steps[0]): {"p0", "p1"}})
    assert [void.round_number for void in coordinator.void_rounds] == [0]
    model = world.drive(coordinator, members)
    np.testing.assert_array_equal(model.centre, np.zeros(4))
    np.testing.assert_array_equal(model.scale, np.ones(4))
    assert model.parameters.any()
