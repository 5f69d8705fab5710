"""Whatever the coordinator sends, a party releases at most what its own plan allows, and tells no cell."""

import re
from dataclasses import fields, replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmarket.errors import BadMessage, DataError, FedmarketError, PlanError, Refusal
from fedmarket.federation.party import LARGEST_NUMBER, PartyState
from fedmarket.federation.release import Releases
from fedmarket.federation.rows import Rows
from fedmarket.models.state import ModelState
from fedmarket.privacy.budget import Spending

WHOLE = Spending(centre=1, update=6, calibrate=3, evaluate=1)
"""What the plan of these tests allows: one round of centre, three of two steps, three of calibration, one of scores."""


MODES = pytest.mark.parametrize("secagg", ["ideal", "secure"])


@MODES
def test_an_honest_run_spends_the_plan_exactly_and_no_round_more(world, secagg: str):
    member = world.member("a", secagg=secagg)
    terms = member.party.terms
    for number in range(terms.rounds):
        assert world.released(member, number).shape == (terms.length_of(terms.phase_of(number)),)
    assert (member.state.run, member.state.last_round, member.state.open) == (world.run, terms.rounds - 1, {})
    assert member.state.spending == WHOLE
    assert member.state.spending.spent(terms.plan).epsilon <= 1.0
    with pytest.raises(BadMessage, match="is not open"):
        member.answer(world.request(terms, terms.rounds))
    assert member.state.spending == WHOLE


@MODES
def test_an_answer_says_who_it_is_from_and_what_it_answers(world, secagg: str):
    member = world.member("a", secagg=secagg)
    terms = member.party.terms
    update = member.answer(world.request(terms, 0))
    assert (update.party, update.round_number, update.step) == ("a", 0, terms.steps[0])
    assert [field.name for field in fields(update)] == ["party", "round_number", "step", "content", "told"]
    assert update.told is None


@MODES
@pytest.mark.parametrize("number", [-(10**9), -1, 0, 1, 8, 9, 10**18])
def test_a_round_that_is_repeated_older_or_beyond_the_run_is_refused(world, secagg: str, number: int):
    member = world.member("a", secagg=secagg)
    for done in (0, 1):
        world.released(member, done)
    before = member.state
    with pytest.raises(BadMessage, match=rf"round {number} is not open: last entered 1, the run has 8"):
        member.answer(replace(world.request(member.party.terms, 1), round_number=number))
    assert member.state == before


@MODES
def test_skipped_rounds_are_not_spent_and_never_come_back(world, secagg: str):
    member = world.member("a", secagg=secagg)
    world.released(member, 5)
    assert member.state.last_round == 5
    assert member.state.spending == Spending(calibrate=1)
    for number in range(6):
        with pytest.raises(BadMessage, match="is not open"):
            member.answer(world.request(member.party.terms, number))


@MODES
@pytest.mark.parametrize(
    ("number", "phase"),
    [
        (0, "update"),
        (0, "calibrate"),
        (1, "centre"),
        (3, "calibrate"),
        (4, "update"),
        (6, "evaluate"),
        (7, "calibrate"),
        (1, "x" * 99),
    ],
)
def test_the_round_decides_the_phase_not_the_coordinator(world, secagg: str, number: int, phase: str):
    member = world.member("a", secagg=secagg)
    with pytest.raises(BadMessage, match=f"round {number}: expected phase"):
        member.answer(world.request(member.party.terms, number, phase=phase))
    assert member.state == PartyState(run=world.run)


BAD_MODELS = {
    "nan": {"parameters": np.array([0.0, np.nan, 0.0, 0.0, 0.0])},
    "infinite scale": {"scale": np.array([1.0, 1.0, np.inf, 1.0])},
    "infinite": {"centre": np.array([0.0, 0.0, -np.inf, 0.0])},
    "beyond float32": {"parameters": np.full(5, 1e39)},
    "larger than any honest one": {"parameters": np.full(5, LARGEST_NUMBER * 1.001)},
    "a calibration as large": {"calibration": np.array([0.0, -2e4, 0.0])},
    "nan calibration": {"calibration": np.array([np.nan, 1.0, 0.0])},
    "short": {"parameters": np.zeros(4)},
    "short scale": {"scale": np.ones(3)},
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


@MODES
@pytest.mark.parametrize("name", BAD_MODELS)
@pytest.mark.parametrize("number", [0, 1, 4, 7])
def test_a_model_that_is_not_finite_float64_of_the_right_shape_is_refused_before_it_costs(
    world, secagg: str, name: str, number: int
):
    member = world.member("a", secagg=secagg)
    with pytest.raises(BadMessage, match=r"^(centre|scale|parameters|calibration): expected"):
        world.released(member, number, **BAD_MODELS[name])
    assert member.state.spending == Spending()
    assert member.state.open == {}


@MODES
def test_a_request_without_a_model_is_refused_before_it_costs(world, secagg: str):
    member = world.member("a", secagg=secagg)
    request = world.request(world.terms(secagg=secagg), 1)
    if secagg == "secure":
        _, request, _ = world.follow(member, 1, until="mask")
    with pytest.raises(BadMessage, match="model: expected one in this step"):
        member.answer(replace(request, model=None))
    assert member.state.spending == Spending()


@MODES
@pytest.mark.parametrize("moved", ["centre", "scale", "both"])
def test_the_largest_model_that_is_let_in_decides_nothing_by_a_row(world, secagg: str, moved: str):
    """No refusal may depend on a row: extreme numbers get an answer, with or without the row that overflows."""
    largest = LARGEST_NUMBER
    extreme = {"parameters": np.array([1.0, 1.0, -1.0, 1.0, 1.0]) * largest}
    if moved != "scale":
        extreme["centre"] = np.full(4, -largest)
    if moved != "centre":
        extreme["scale"] = np.full(4, largest)
    for number in (1, 4, 7):
        for count in (40, 0):
            rows = world.rows(count)
            if count:
                rows.features[0] = [0.9, 0.0, -0.9, 0.0]
            member = world.member("a", secagg=secagg)
            world.swap(member.party, rows=rows, held_out=rows)
            words = world.released(member, number, **extreme)
            assert np.isfinite(member.party.terms.grid_of(member.party.terms.phase_of(number)).decode(words)).all()


@MODES
def test_a_lost_reply_does_not_refund(world, secagg: str):
    member = world.member("a", secagg=secagg)
    world.released(member, 1)  # and the reply is lost
    with pytest.raises(BadMessage, match="round 1 is not open"):
        member.answer(world.request(member.party.terms, 1))
    assert member.state.spending == Spending(update=2)


@MODES
def test_a_release_that_fails_after_the_charge_stays_spent(world, secagg: str):
    """A refusal that depends on noisy numbers has told something: it is paid for, and cannot be asked for again."""
    member = world.member("a", secagg=secagg)
    crowd = world.rows(20_000)  # far more rows than the agreed range of the sum holds
    crowd.features[:] = [0.9, 0.0, 0.9, 0.0]
    world.swap(member.party, rows=crowd)
    with pytest.raises(BadMessage, match="out of the public range"):
        world.released(member, 0)
    assert (member.state.last_round, member.state.spending, member.state.open) == (0, Spending(centre=1), {})
    with pytest.raises(BadMessage, match="is not open"):
        member.answer(world.request(member.party.terms, 0))


@MODES
def test_nothing_is_computed_when_the_state_cannot_be_kept(world, monkeypatch: pytest.MonkeyPatch, secagg: str):
    member = world.member("a", secagg=secagg)
    request = world.request(member.party.terms, 0)
    if secagg == "secure":
        _, request, _ = world.follow(member, 0, until="mask")
    computed: list[object] = []
    monkeypatch.setattr(Releases, "of", lambda *args: computed.append(args))
    for fails in range(1 if secagg == "ideal" else 2):  # under masks that the round is used up, then the charge
        kept: list[PartyState] = []

        def full_disk(state: PartyState, kept: list[PartyState] = kept, fails: int = fails) -> None:
            if len(kept) == fails:
                raise OSError("no space left")
            kept.append(state)

        with pytest.raises(OSError, match="no space left"):
            member.party.answer(member.state, request, keep=full_disk)
    assert computed == []


@MODES
def test_nothing_leaves_when_the_last_state_cannot_be_kept(world, secagg: str):
    """Of every step: what could not be recorded as done is not said."""
    member = world.member("a", secagg=secagg)
    for step in member.party.terms.steps:
        request = world.request(member.party.terms, 0)
        if secagg == "secure":
            member = world.member("a", secagg=secagg)
            _, request, _ = world.follow(member, 0, until=step)
        keeps: list[PartyState] = []
        member.party.answer(member.state, request, keep=keeps.append)

        def full_disk(state: PartyState, before: list[PartyState] = keeps) -> None:
            before.pop()
            if not before:
                raise OSError("no space left")

        with pytest.raises(OSError, match="no space left"):
            member.party.answer(member.state, request, keep=full_disk)


@MODES
def test_the_budget_refuses_when_the_rounds_would_not(world, secagg: str):
    member = world.member("a", secagg=secagg)
    member.state = replace(member.state, last_round=2, spending=WHOLE)
    with pytest.raises(Refusal, match=r"budget: 2 more release\(s\) of update asked, 0 left of 6"):
        world.released(member, 3)
    assert member.state.spending == WHOLE
    assert member.state.open == {}


messages = st.tuples(
    st.integers(-1, 9),
    st.sampled_from(["centre", "update", "calibrate", "evaluate", None]),
    st.sampled_from([None, None, None, *BAD_MODELS]),
)


@given(st.lists(messages, max_size=25))
def test_no_sequence_of_messages_releases_more_than_the_plan(world, sent):
    member = world.member("a", secagg="ideal", rows=5)
    terms = member.party.terms
    released = dict.fromkeys(Spending().releases(), 0)
    answered: list[int] = []
    for number, phase, bad in sent:
        changed = (BAD_MODELS[bad] if bad else {}) | ({"phase": phase} if phase else {})
        try:
            update = member.answer(world.request(terms, number, **changed))
        except FedmarketError:
            continue
        answered.append(update.round_number)
        released[terms.phase_of(number)] += terms.releases_in(terms.phase_of(number))
        assert len(update.content) == terms.length_of(terms.phase_of(number)) * terms.modulus_bits // 8
    assert answered == sorted(set(answered))
    assert released == member.state.spending.releases()
    for mechanism in terms.plan.mechanisms:
        assert released[mechanism.phase] <= mechanism.releases
    assert member.state.spending.spent(terms.plan).epsilon <= 1.0


@MODES
def test_a_coordinator_with_other_terms_gets_no_acceptance(world, secagg: str):
    party = world.member("a", secagg=secagg).party
    assert world.fresh(party).join(world.invitation(party)).party == "a"
    other_mode = world.terms(secagg="ideal" if secagg == "secure" else "secure").hash
    for other in (world.terms("federated").hash, other_mode, "", party.terms.hash.upper(), party.terms.hash + "0"):
        fresh = world.fresh(party)
        with pytest.raises(BadMessage, match="terms differ"):
            fresh.join(world.invitation(party, terms_hash=other))
        assert fresh.kept == []


@MODES
def test_the_update_carries_noise_of_the_plan(world, secagg: str):
    """Two parties with the same rows and different names differ by noise alone, of the plan's size."""
    terms = world.terms(secagg=secagg)
    one, two = (world.released(world.member(name, secagg=secagg), 1) for name in ("a", "b"))
    apart = terms.grid_of("update").decode(one) - terms.grid_of("update").decode(two)
    std = terms.plan.mechanism("update").noise_std * np.sqrt(terms.schedule.local_steps * 2)
    assert 0.2 * std < np.sqrt(np.mean(apart**2)) < 2.5 * std


@pytest.mark.parametrize("number", [0, 2, 5, 7])
def test_masked_or_in_the_open_the_words_are_the_same(world, number: int):
    secure, ideal = (world.released(world.member("a", secagg=mode), number) for mode in ("secure", "ideal"))
    np.testing.assert_array_equal(secure, ideal)


MARKER = 0.12345678
LARGE = 1234.5678


@MODES
def test_no_error_and_no_repr_carries_a_number_of_a_row(world, secagg: str):
    member = world.member("a", secagg=secagg)
    for rows in (member.party.rows, member.party.held_out):
        rows.features[:, 0] = MARKER
        rows.features[:, 2] = MARKER / 2
    texts = [repr(member.party), str(member.party), repr(member.party.rows)]
    for number in (*range(9), 0, -1):
        for changed in (*BAD_MODELS.values(), {"phase": "centre"}, {}):
            if secagg == "secure":
                member.state = replace(member.state, last_round=min(number, 7) - 1)
            texts.append(repr(world.request(member.party.terms, number, **changed)))
            try:
                if number in range(8):
                    world.released(member, number, **changed)
                else:
                    member.answer(world.request(member.party.terms, number, **changed))
            except FedmarketError as error:
                texts += [str(error), repr(error)]
            texts.append(repr(member.state))
    marked = world.rows(3)
    for cell, place in product((LARGE, np.nan, np.inf), ("rows", "held_out")):
        marked.features[1, 0] = cell
        with pytest.raises(DataError) as caught:
            world.party("a", world.terms(), **{place: marked})
        assert str(caught.value) == "party a: 1 encoded rows are not finite or beyond the norm bound"
        texts += [str(caught.value), repr(caught.value)]
    told = "\n".join(texts)
    assert len(texts) > 100
    assert not re.search(r"0\.1234|0\.0617|1234\.5|array\(|tensor\(", told)


def test_rows_of_another_width_or_without_labels_are_refused(world):
    features, labels = world.rows(10).features, world.rows(10).targets
    more = np.hstack([labels, labels])
    wrong = ((features[:, :3], labels), (features, labels[:9]), (features[0], labels), (features, labels[:, 0]))
    for found, said in (*wrong, (features, more), (features, labels[:, :0])):
        for place in ("rows", "held_out"):
            with pytest.raises(DataError, match=r"expected rows of width 4 with 1 target\(s\) each"):
                world.party("a", world.terms(), declared_rows=10, **{place: Rows(features=found, targets=said)})


@pytest.mark.parametrize("declared", [0, -1, 2001, 10**12])
def test_a_declared_size_outside_the_terms_is_refused(world, declared: int):
    with pytest.raises(PlanError, match=f"party a: declares {declared} rows, expected at most"):
        world.party("a", world.terms(), declared_rows=declared)


def test_more_rows_than_the_integer_range_holds_are_refused_whatever_is_declared(world):
    for place in ("rows", "held_out"):
        with pytest.raises(DataError, match=r"party a: has more rows than federation\.max_party_rows = 2000"):
            world.party("a", world.terms(), declared_rows=2000, **{place: 2001})


@pytest.mark.parametrize("label", [2.0, -1.0, 0.5, np.nan])
def test_a_label_that_would_break_the_sensitivity_of_calibration_or_counts_is_refused(world, label: float):
    for place in ("rows", "held_out"):
        rows = world.rows(10)
        rows.targets[3] = label
        with pytest.raises(DataError, match="party a: expected labels 0 and 1"):
            world.party("a", world.terms(), **{place: rows})


def test_a_sample_of_less_than_one_row_is_refused(world):
    plan = world.terms().plan
    rare = tuple(replace(m, sample_rate=0.09) if m.phase == "update" else m for m in plan.mechanisms)
    terms = replace(world.terms(), plan=replace(plan, mechanisms=rare))
    with pytest.raises(
        PlanError, match=r"party a: privacy\.sample_rate 0\.09 of 10 declared rows is less than one row"
    ):
        world.party("a", terms, declared_rows=10)
    world.party("a", terms, declared_rows=12)


def test_the_party_keeps_rows_centred_and_scaled_by_the_model_of_the_round(world):
    """A coordinator that changes centre or scale between rounds gets an answer about the new one."""
    for moved in ({"centre": np.full(4, 0.25)}, {"scale": np.full(4, 0.5)}):
        one, two = world.member("a", arm="federated"), world.member("a", arm="federated")
        world.released(one, 1)
        again = world.released(one, 2, **moved)
        fresh = world.released(two, 2, **moved)
        np.testing.assert_array_equal(again, fresh)
        unmoved = world.released(world.member("a", arm="federated"), 2)
        assert (again != unmoved).any()


def test_what_a_message_carries_is_not_in_its_repr(world):
    member = world.member("a")
    _, request, updates = world.follow(member, 1, until="mask")
    assert isinstance(request.model, ModelState)
    assert request.packet
    assert "model" not in repr(request)
    assert repr(request.packet)[2:40] not in repr(request)
    assert repr(updates[0]) == "Update(party='a', round_number=1, step='advertise', told=None)"
    spent = "Spending(centre=0, update=0, calibrate=0, level=0, segment=0, evaluate=0)"
    assert repr(member.state) == f'PartyState(run=b"one run\'s number", last_round=1, last_masked=-1, spending={spent})'
