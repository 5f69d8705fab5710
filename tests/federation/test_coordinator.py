"""A bad party is rejected by name, the round goes on with the others, and too few stop the run."""

from dataclasses import replace

import numpy as np
import pytest

from fedmarket.errors import BadMessage, FederationStopped
from fedmarket.federation.coordinator import Coordinator
from fedmarket.federation.messages import Acceptance, Update


@pytest.fixture
def coordinator(world) -> Coordinator:
    return Coordinator(terms=world.terms("federated"))


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


def test_the_server_knows_no_row_before_a_round_is_open(coordinator: Coordinator):
    with pytest.raises(BadMessage, match="no round is open"):
        coordinator.receive(Update(party="a", round_number=0, words=np.zeros(4, dtype="u8")))
    with pytest.raises(BadMessage, match="no round is open"):
        coordinator.close_round()


def words(coordinator: Coordinator, dtype: str = "u8") -> np.ndarray:
    return np.zeros(coordinator.terms.width, dtype=dtype)


BAD_UPDATES = {
    "a stranger": (lambda c: Update(party="eve", round_number=0, words=words(c)), "did not join"),
    "the next round": (lambda c: Update(party="mallory", round_number=1, words=words(c)), "for round 1, but round 0"),
    "an older round": (lambda c: Update(party="mallory", round_number=-1, words=words(c)), "for round -1"),
    "too short": (lambda c: Update(party="mallory", round_number=0, words=words(c)[1:]), r"shape \(4,\), got \(3,\)"),
    "a matrix": (lambda c: Update(party="mallory", round_number=0, words=words(c)[None]), r"got \(1, 4\)"),
    "a scalar": (lambda c: Update(party="mallory", round_number=0, words=words(c)[0][()]), r"got \(\)"),
    "narrow words": (lambda c: Update(party="mallory", round_number=0, words=words(c, "u4")), "dtype uint64"),
    "signed words": (lambda c: Update(party="mallory", round_number=0, words=words(c, "i8")), "dtype uint64"),
    "real numbers": (lambda c: Update(party="mallory", round_number=0, words=words(c, "f8") * np.nan), "dtype uint64"),
    "other byte order": (lambda c: Update(party="mallory", round_number=0, words=words(c, ">u8")), "dtype uint64"),
    "objects": (lambda c: Update(party="mallory", round_number=0, words=words(c, "O")), "dtype uint64"),
    "a second update": (lambda c: Update(party="honest-0", round_number=0, words=words(c)), "a second update"),
}


@pytest.mark.parametrize("name", BAD_UPDATES)
def test_the_model_is_that_of_the_survivors_alone(world, name: str):
    make, said = BAD_UPDATES[name]
    alone = world.drive(
        Coordinator(terms=world.terms("federated")),
        [world.member(f"honest-{n}", arm="federated", seed=n, rows=40 + n) for n in range(3)],
    )
    members = [world.member(f"honest-{n}", arm="federated", seed=n, rows=40 + n) for n in range(3)]
    coordinator = Coordinator(terms=world.terms("federated"))
    for member in members:
        coordinator.admit(member.party.join(coordinator.invitation()))
    coordinator.admit(acceptance(coordinator, party="mallory", declared_rows=2000))
    while not coordinator.finished:
        request = coordinator.open_round()
        for member in members:
            coordinator.receive(member.answer(request))
        if request.round_number == 0:
            with pytest.raises(BadMessage, match=said):
                coordinator.receive(make(coordinator))
        coordinator.close_round()
    for part in ("centre", "parameters", "calibration"):
        np.testing.assert_array_equal(getattr(coordinator.model, part), getattr(alone, part))


def test_a_party_that_falls_silent_is_left_out_of_sum_and_size(world):
    def run(silent_rows: int) -> np.ndarray:
        coordinator = Coordinator(terms=world.terms("federated"))
        members = [world.member(f"p{n}", arm="federated", seed=n) for n in range(2)]
        for member in members:
            coordinator.admit(member.party.join(coordinator.invitation()))
        coordinator.admit(acceptance(coordinator, party="silent", declared_rows=silent_rows))
        request = coordinator.open_round()
        for member in members:
            coordinator.receive(member.answer(request))
        coordinator.close_round()
        return coordinator.model.centre

    np.testing.assert_array_equal(run(1), run(2000))


def test_too_few_parties_stop_the_run_before_it_starts_and_name_causes(coordinator: Coordinator):
    coordinator.admit(acceptance(coordinator))
    coordinator.reject("node 7", "the party holds other terms")
    with pytest.raises(
        FederationStopped,
        match=r"round 0: 1 parties left, the contract needs 2 \(node 7: the party holds other terms\)",
    ):
        coordinator.open_round()


def test_too_few_survivors_stop_the_round_and_leave_the_model(world):
    coordinator = Coordinator(terms=world.terms("federated"))
    members = [world.member(name, arm="federated") for name in ("a", "b", "c")]
    for member in members:
        coordinator.admit(member.party.join(coordinator.invitation()))
    request = coordinator.open_round()
    coordinator.receive(members[0].answer(request))
    for name in ("b", "c"):
        coordinator.reject(name, "no reply in time")
    with pytest.raises(FederationStopped, match=r"1 parties left.*b: no reply in time; c: no reply in time"):
        coordinator.close_round()
    assert not coordinator.finished
    assert not coordinator.model.centre.any()


def test_one_partys_words_cannot_be_told_from_the_repr_of_the_coordinator(world):
    coordinator = Coordinator(terms=world.terms("federated"))
    for name in ("a", "b"):
        coordinator.admit(acceptance(coordinator, party=name))
    coordinator.open_round()
    coordinator.receive(Update(party="a", round_number=0, words=np.full(4, 123456789, dtype="u8")))
    assert "123456789" not in repr(coordinator)


def test_the_sum_wraps_nowhere_at_full_capacity(world):
    """Every party at the very edge of the range: the exact sum comes out, not its residue."""
    terms = world.terms()
    grid = terms.grid_of("update")
    coordinator = Coordinator(terms=terms)
    for number in range(terms.max_parties):
        coordinator.admit(acceptance(coordinator, party=f"p{number}", declared_rows=terms.max_party_rows))
    for sign in (1.0, -1.0):
        total = sum(grid.encode(np.full(terms.parameters, sign * grid.bound)) for _ in range(terms.max_parties))
        np.testing.assert_allclose(grid.decode(total), sign * grid.bound * terms.max_parties, rtol=1e-6)


def test_joint_training_without_noise_is_training_in_one_place(world):
    sizes = (30, 50, 120)
    parties = [world.member(f"p{n}", arm="federated", rows=size, seed=n) for n, size in enumerate(sizes)]
    joint = world.drive(Coordinator(terms=world.terms("federated")), parties)
    everyone = world.member("all", arm="pooled", rows=sum(sizes))
    everyone.party.features = np.concatenate([member.party.features for member in parties])
    everyone.party.labels = np.concatenate([member.party.labels for member in parties])
    pooled = world.drive(Coordinator(terms=world.terms("pooled")), [everyone])
    assert np.abs(joint.parameters).max() > 0.1
    for part in ("centre", "parameters", "calibration"):
        np.testing.assert_allclose(getattr(joint, part), getattr(pooled, part), atol=1e-6)


def test_the_released_model_recalibrates_around_the_typical_logit(world):
    coordinator = Coordinator(terms=world.terms("federated"))
    model = world.drive(coordinator, [world.member(name, arm="federated", rows=200) for name in ("a", "b")])
    assert coordinator.finished
    assert model.calibration[1] > 0
    assert model.calibration[2] == pytest.approx(model.parameters[-1], abs=1e-6)  # a centred row's logit is the bias


def test_a_run_of_other_terms_is_another_run(world):
    coordinator = Coordinator(terms=replace(world.terms("federated"), initial_seed=1))
    with pytest.raises(BadMessage, match="terms differ"):
        world.member("a", arm="federated").party.join(coordinator.invitation())
