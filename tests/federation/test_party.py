"""Whatever the coordinator sends, a party releases at most what its own plan allows, and tells no cell."""

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmarket.errors import BadMessage, DataError, FedmarketError, PlanError, Refusal
from fedmarket.federation.messages import Invitation
from fedmarket.federation.party import Party, PartyState
from fedmarket.models.released import ModelState
from fedmarket.privacy.budget import Spending

WHOLE = Spending(centre=1, update=6, calibrate=3)
"""What the plan of these tests allows: one round of centre, three of two steps, three of calibration."""


def test_an_honest_run_spends_the_plan_exactly_and_no_round_more(world):
    member = world.member("a")
    terms = member.party.terms
    for number in range(terms.rounds):
        update = member.answer(world.request(terms, number))
        assert (update.party, update.round_number) == ("a", number)
        assert update.words.shape == (terms.length_of(terms.phase_of(number)),)
    assert member.state == PartyState(last_round=terms.rounds - 1, spending=WHOLE)
    assert member.state.spending.spent(terms.plan).epsilon <= 1.0
    with pytest.raises(BadMessage, match="is not open"):
        member.answer(world.request(terms, terms.rounds))
    assert member.state.spending == WHOLE


@pytest.mark.parametrize("number", [-(10**9), -1, 0, 1, 7, 8, 10**18])
def test_a_round_that_is_repeated_older_or_beyond_the_run_is_refused(world, number: int):
    member = world.member("a")
    for done in (0, 1):
        member.answer(world.request(member.party.terms, done))
    before = member.state
    with pytest.raises(BadMessage, match=rf"round {number} is not open: last answered 1, the run has 7"):
        member.answer(replace(world.request(member.party.terms, 1), round_number=number))
    assert member.state == before


def test_skipped_rounds_are_not_spent_and_never_come_back(world):
    member = world.member("a")
    member.answer(world.request(member.party.terms, 5))
    assert member.state == PartyState(last_round=5, spending=Spending(calibrate=1))
    for number in range(6):
        with pytest.raises(BadMessage, match="is not open"):
            member.answer(world.request(member.party.terms, number))


@pytest.mark.parametrize(
    ("number", "phase"),
    [(0, "update"), (0, "calibrate"), (1, "centre"), (3, "calibrate"), (4, "update"), (1, "x" * 99)],
)
def test_the_round_decides_the_phase_not_the_coordinator(world, number: int, phase: str):
    member = world.member("a")
    with pytest.raises(BadMessage, match=f"round {number}: expected phase"):
        member.answer(world.request(member.party.terms, number, phase=phase))
    assert member.state == PartyState()


BAD_MODELS = {
    "nan": {"parameters": np.array([0.0, np.nan, 0.0, 0.0, 0.0])},
    "infinite": {"centre": np.array([0.0, 0.0, -np.inf, 0.0])},
    "beyond float32": {"parameters": np.full(5, 1e39)},
    "nan calibration": {"calibration": np.array([np.nan, 1.0, 0.0])},
    "short": {"parameters": np.zeros(4)},
    "long": {"centre": np.zeros(5)},
    "column": {"parameters": np.zeros((5, 1))},
    "scalar": {"calibration": np.array(0.0)},
    "empty": {"centre": np.zeros(0)},
    "float32": {"parameters": np.zeros(5, dtype=np.float32)},
    "integers": {"parameters": np.zeros(5, dtype=np.int64)},
    "complex": {"parameters": np.zeros(5, dtype=np.complex128)},
    "truth": {"centre": np.zeros(4, dtype=np.bool_)},
    "text": {"centre": np.zeros(4, dtype="U1")},
    "objects": {"parameters": np.array([None] * 5)},
    "big-endian": {"parameters": np.zeros(5, dtype=">f8")},
    "record": {"parameters": np.zeros(5, dtype=[("a", "f8")])},
}


@pytest.mark.parametrize("name", BAD_MODELS)
@pytest.mark.parametrize("number", [0, 1, 4])
def test_a_model_that_is_not_finite_float64_of_the_right_shape_is_refused_before_it_costs(
    world, name: str, number: int
):
    member = world.member("a")
    with pytest.raises(BadMessage, match=r"^(centre|parameters|calibration): expected"):
        member.answer(world.request(member.party.terms, number, **BAD_MODELS[name]))
    assert member.state == PartyState()


def test_the_largest_model_that_is_let_in_decides_nothing_by_a_row(world):
    """No refusal may depend on a row: extreme numbers get an answer, with or without the row that overflows."""
    largest = float(np.finfo(np.float32).max) / 2
    for number in (1, 4):
        for rows in (40, 0):
            member = world.member("a")
            member.party.features, member.party.labels = world.rows(rows)
            if rows:
                member.party.features[0] = [0.9, 0.0, -0.9, 0.0]
            extreme = {"parameters": np.array([1.0, 1.0, -1.0, 1.0, 1.0]) * largest, "centre": np.full(4, -largest)}
            update = member.answer(world.request(member.party.terms, number, **extreme))
            assert np.isfinite(
                member.party.terms.grid_of(member.party.terms.phase_of(number)).decode(update.words)
            ).all()


def test_a_lost_reply_does_not_refund(world):
    member = world.member("a")
    request = world.request(member.party.terms, 1)
    member.answer(request)  # and the reply is lost
    with pytest.raises(BadMessage, match="round 1 is not open"):
        member.answer(request)
    assert member.state.spending == Spending(update=2)


def test_a_release_that_fails_after_the_charge_stays_spent(world):
    """A refusal that depends on noisy numbers has told something: it is paid for, and cannot be asked for again."""
    member = world.member("a", rows=40)
    features, labels = world.rows(40)
    features[:] = [0.9, 0.0, 0.9, 0.0]
    crowd = 20_000  # far more rows than the agreed range of the sum holds
    member.party.features, member.party.labels = np.tile(features, (crowd // 40, 1)), np.tile(labels, crowd // 40)
    request = world.request(member.party.terms, 0)
    with pytest.raises(BadMessage, match="out of the public range"):
        member.answer(request)
    assert member.state == PartyState(last_round=0, spending=Spending(centre=1))
    with pytest.raises(BadMessage, match="is not open"):
        member.answer(request)


def test_nothing_is_computed_when_the_state_cannot_be_kept(world, monkeypatch: pytest.MonkeyPatch):
    member = world.member("a")
    computed: list[object] = []
    monkeypatch.setattr(Party, "_release", lambda *args: computed.append(args))

    def full_disk(_: PartyState) -> None:
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        member.party.answer(PartyState(), world.request(member.party.terms, 0), keep=full_disk)
    assert computed == []


def test_the_budget_refuses_when_the_rounds_would_not(world):
    member = world.member("a")
    member.state = PartyState(last_round=2, spending=WHOLE)
    with pytest.raises(Refusal, match=r"budget: 2 more release\(s\) of update asked, 0 left of 6"):
        member.answer(world.request(member.party.terms, 3))
    assert member.state == PartyState(last_round=2, spending=WHOLE)


messages = st.tuples(
    st.integers(-1, 9),
    st.sampled_from(["centre", "update", "calibrate", None]),
    st.sampled_from([None, None, None, *BAD_MODELS]),
)


@given(st.lists(messages, max_size=25))
def test_no_sequence_of_messages_releases_more_than_the_plan(world, sent):
    member = world.member("a", rows=5)
    terms = member.party.terms
    released = {"centre": 0, "update": 0, "calibrate": 0}
    answered: list[int] = []
    for number, phase, bad in sent:
        changed = (BAD_MODELS[bad] if bad else {}) | ({"phase": phase} if phase else {})
        try:
            update = member.answer(world.request(terms, number, **changed))
        except FedmarketError:
            continue
        answered.append(update.round_number)
        released[terms.phase_of(number)] += terms.releases_in(terms.phase_of(number))
        assert len(update.words) == terms.length_of(terms.phase_of(number))
    assert answered == sorted(set(answered))
    assert released == member.state.spending.releases()
    for mechanism in terms.plan.mechanisms:
        assert released[mechanism.phase] <= mechanism.releases
    assert member.state.spending.spent(terms.plan).epsilon <= 1.0


def test_a_coordinator_with_other_terms_gets_no_acceptance(world):
    party = world.member("a").party
    assert party.join(Invitation(terms_hash=party.terms.hash)).party == "a"
    for other in (world.terms("federated").hash, "", party.terms.hash.upper(), party.terms.hash + "0"):
        with pytest.raises(BadMessage, match="terms differ"):
            party.join(Invitation(terms_hash=other))


def test_the_update_carries_noise_of_the_plan(world):
    """Two parties with the same rows and different names differ by noise alone, of the plan's size."""
    terms = world.terms()
    one, two = (world.member(name).answer(world.request(terms, 1)) for name in ("a", "b"))
    apart = terms.grid_of("update").decode(one.words) - terms.grid_of("update").decode(two.words)
    std = terms.plan.mechanism("update").noise_std * np.sqrt(terms.schedule.local_steps * 2)
    assert 0.2 * std < np.sqrt(np.mean(apart**2)) < 2.5 * std


MARKER = 0.12345678
LARGE = 1234.5678


def test_no_error_and_no_repr_carries_a_number_of_a_row(world):
    member = world.member("a")
    member.party.features[:, 0] = MARKER
    member.party.features[:, 2] = MARKER / 2
    texts = [repr(member.party), str(member.party)]
    for number in (*range(8), 0, -1):
        for changed in ({}, *BAD_MODELS.values(), {"phase": "centre"}):
            request = world.request(member.party.terms, number, **changed)
            texts.append(repr(request))
            try:
                texts.append(repr(member.answer(request)))
            except FedmarketError as error:
                texts += [str(error), repr(error)]
    features, labels = world.rows(3)
    for cell in (LARGE, np.nan, np.inf):
        features[1, 0] = cell
        with pytest.raises(DataError) as caught:
            Party(name="a", terms=world.terms(), features=features, labels=labels, declared_rows=3)
        assert str(caught.value) == "party a: 1 encoded rows are not finite or beyond the norm bound"
        texts += [str(caught.value), repr(caught.value)]
    told = "\n".join(texts)
    assert len(texts) > 100
    assert not re.search(r"0\.1234|0\.0617|1234\.5|array\(|tensor\(", told)


def test_rows_of_another_width_or_without_labels_are_refused(world):
    features, labels = world.rows(10)
    for rows, said in ((features[:, :3], labels), (features, labels[:9]), (features[0], labels)):
        with pytest.raises(DataError, match="expected rows of width 4 with one label each"):
            Party(name="a", terms=world.terms(), features=rows, labels=said, declared_rows=10)


@pytest.mark.parametrize("declared", [0, -1, 2001, 10**12])
def test_a_declared_size_outside_the_terms_is_refused(world, declared: int):
    features, labels = world.rows(10)
    with pytest.raises(PlanError, match=f"party a: declares {declared} rows, expected at most"):
        Party(name="a", terms=world.terms(), features=features, labels=labels, declared_rows=declared)


def test_more_rows_than_the_integer_range_holds_are_refused_whatever_is_declared(world):
    features, labels = world.rows(2001)
    with pytest.raises(DataError, match=r"party a: has more rows than federation\.max_party_rows = 2000"):
        Party(name="a", terms=world.terms(), features=features, labels=labels, declared_rows=2000)


@pytest.mark.parametrize("label", [2.0, -1.0, 0.5, np.nan])
def test_a_label_that_would_break_the_sensitivity_of_the_calibration_is_refused(world, label: float):
    features, labels = world.rows(10)
    labels[3] = label
    with pytest.raises(DataError, match="party a: expected labels 0 and 1"):
        Party(name="a", terms=world.terms(), features=features, labels=labels, declared_rows=10)


def test_a_sample_of_less_than_one_row_is_refused(world):
    features, labels = world.rows(10)
    plan = world.terms().plan
    rare = tuple(replace(m, sample_rate=0.09) if m.phase == "update" else m for m in plan.mechanisms)
    terms = replace(world.terms(), plan=replace(plan, mechanisms=rare))
    with pytest.raises(
        PlanError, match=r"party a: privacy\.sample_rate 0\.09 of 10 declared rows is less than one row"
    ):
        Party(name="a", terms=terms, features=features, labels=labels, declared_rows=10)
    Party(name="a", terms=terms, features=features, labels=labels, declared_rows=12)


def test_the_party_keeps_rows_centred_on_the_model_of_the_round(world):
    """A coordinator that changes the centre between rounds gets an answer about the new one."""
    moved = {"centre": np.full(4, 0.25)}
    one, two = world.member("a", arm="federated"), world.member("a", arm="federated")
    terms = one.party.terms
    one.answer(world.request(terms, 1))
    again = one.answer(world.request(terms, 2, **moved))
    fresh = two.answer(world.request(terms, 2, **moved))
    np.testing.assert_array_equal(again.words, fresh.words)
    unmoved = world.member("a", arm="federated").answer(world.request(terms, 2))
    assert (again.words != unmoved.words).any()


def test_the_model_of_a_request_is_not_in_its_repr(world):
    request = world.request(world.terms(), 1)
    assert isinstance(request.model, ModelState)
    assert "model" not in repr(request)
