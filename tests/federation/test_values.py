"""Runs with a value: level and segments are released once each, of training rows, and are what they say."""

from dataclasses import replace

import numpy as np
import pytest

from fedmarket.errors import BadMessage, DataError, Refusal
from fedmarket.federation.party import LARGEST_NUMBER
from fedmarket.federation.rows import Rows
from fedmarket.models.released import predict
from fedmarket.privacy.budget import Spending
from fedmarket.privacy.histogram import VALUE_BINS, value_bins, value_caps
from fedmarket.privacy.shape import LEVEL_REACH, SEGMENT_REACH

MODES = pytest.mark.parametrize("secagg", ["ideal", "secure"])
LEVEL, SEGMENT, EVALUATE = 7, 8, 9
WHOLE = Spending(centre=1, update=3, calibrate=3, level=1, segment=1, evaluate=1)
PARAMETERS = np.random.default_rng(2).normal(0.0, 0.4, 20)
CALIBRATION = np.array([-0.5, 1.2, -0.3, 0.1, 0.9, 0.2, 1.3])
MOVED = {"parameters": PARAMETERS, "calibration": CALIBRATION}


def test_level_and_segments_come_between_recalibration_and_evaluation(worth):
    terms = worth.terms()
    assert terms.phases == ("centre", *["update"] * 3, *["calibrate"] * 3, "level", "segment", "evaluate")
    lengths = {phase: terms.length_of(phase) for phase in terms.phases}
    assert lengths == {
        "centre": 4, "update": 20, "calibrate": 10, "level": 2, "segment": 18, "evaluate": 22 + 3 * VALUE_BINS
    }  # fmt: skip


def test_without_segments_or_recalibrated_probabilities_there_are_no_such_rounds(worth):
    whole = worth.contract.model_copy(update={"segments": None})
    plain = type(worth)(worth.config, whole).terms()
    assert plain.phases == ("centre", *["update"] * 3, *["calibrate"] * 3, "level", "evaluate")
    assert plain.segments == 0


@MODES
def test_an_honest_run_spends_level_and_segments_once_and_no_round_more(worth, secagg: str):
    member = worth.member("a", secagg=secagg)
    terms = member.party.terms
    for number in range(terms.rounds):
        words = worth.released(member, number, **MOVED)
        assert words.shape == (terms.length_of(terms.phase_of(number)),)
    assert member.state.spending == WHOLE
    assert member.state.spending.spent(terms.plan).epsilon <= 1.0
    for number in (LEVEL, SEGMENT):
        with pytest.raises(BadMessage, match=f"round {number} is not open"):
            member.answer(worth.request(terms, number))
    assert member.state.spending == WHOLE


@MODES
@pytest.mark.parametrize(("number", "phase"), [(LEVEL, "level"), (SEGMENT, "segment")])
def test_a_second_level_or_segment_release_is_refused_where_the_rounds_would_not(worth, secagg, number, phase):
    member = worth.member("a", secagg=secagg)
    worth.released(member, number)
    spent = Spending(**{phase: 1})
    assert member.state.spending == spent
    member.state = replace(member.state, last_round=number - 1)
    with pytest.raises(Refusal, match=rf"^budget: 1 more release\(s\) of {phase} asked, 0 left of 1$"):
        worth.released(member, number)
    assert member.state.spending == spent


@MODES
@pytest.mark.parametrize(("number", "phase"), [(LEVEL, "segment"), (SEGMENT, "level"), (6, "level"), (9, "segment")])
def test_the_round_decides_the_phase_of_a_value_too(worth, secagg: str, number: int, phase: str):
    member = worth.member("a", secagg=secagg)
    with pytest.raises(BadMessage, match=f"round {number}: expected phase"):
        member.answer(worth.request(member.party.terms, number, phase=phase))
    assert member.state.spending == Spending()


@MODES
def test_a_void_level_round_leaves_the_level_at_1_and_a_void_segment_round_no_segments(worth, secagg: str):
    def run(*void: int):
        coordinator, members = worth.market(4, secagg=secagg)
        lost = {(number, coordinator.terms.steps[0]): {"p0", "p1"} for number in void}
        model = worth.drive(coordinator, members, lost=lost)
        assert [v.round_number for v in coordinator.void_rounds] == list(void)
        return model, coordinator.statistics

    (whole, told), (level_lost, _), (segments_lost, untold) = run(), run(LEVEL), run(SEGMENT)
    assert whole.calibration[-1] != 1
    assert level_lost.calibration[-1] == 1
    np.testing.assert_array_equal(level_lost.calibration[:-1], whole.calibration[:-1])
    assert worth.same(segments_lost, whole)
    assert untold.segments is None
    assert told.segments is not None
    np.testing.assert_array_equal(untold.values.counts, told.values.counts)


@pytest.mark.parametrize("parties", [4, 5])
def test_masked_or_in_the_open_model_and_statistics_are_the_same_to_the_last_bit(worth, parties: int):
    runs = []
    for mode in ("secure", "ideal"):
        coordinator, members = worth.market(parties, secagg=mode)
        runs.append((worth.drive(coordinator, members), coordinator.statistics))
        assert (coordinator.void_rounds, coordinator.rejections) == ([], [])
        assert {member.state.spending for member in members} == {WHOLE}
    (secure, one), (ideal, other) = runs
    assert worth.same(secure, ideal)
    for name in ("scores", "values"):
        np.testing.assert_array_equal(getattr(one, name).counts, getattr(other, name).counts)
        assert getattr(one, name).typical == getattr(other, name).typical
    np.testing.assert_array_equal(one.segments.sums, other.segments.sums)
    np.testing.assert_array_equal(one.segments.noise_stds, other.segments.noise_stds)


def whole_run(worth, arm: str = "federated"):
    coordinator, members = worth.market(4, arm=arm)
    return worth.drive(coordinator, members), coordinator, members


def said_of(worth, model, rows: Rows):
    terms = worth.terms()
    return predict(terms.model, terms.objective, model, rows.features)


def test_without_noise_the_level_brings_what_is_expected_to_what_was_spent(worth):
    """By hand, from each row's prediction at level 1, in units of what a buyer is expected to spend."""
    model, _, members = whole_run(worth)
    before = replace(model, calibration=np.append(model.calibration[:-1], 1.0))
    spent = expected = 0.0
    for member in members:
        said = said_of(worth, before, member.party.rows)
        spent += np.minimum(member.party.rows.targets[:, 1] / said.conditional, LEVEL_REACH).sum()
        expected += said.purchase.sum()
    assert model.calibration[-1] == pytest.approx(spent / expected, rel=1e-6)
    assert abs(model.calibration[-1] - 1) > 0.01


def test_without_noise_segments_are_sizes_responses_and_predicted_values_of_training_rows(worth):
    model, coordinator, members = whole_run(worth)
    typical = coordinator.statistics.values.typical
    expected = np.zeros((3, 6))
    for member in members:
        rows = member.party.rows
        value = np.minimum(said_of(worth, model, rows).value, SEGMENT_REACH * typical)
        for segment, response, said in zip(rows.segments, rows.targets[:, 0], value, strict=True):
            expected[:, segment] += (1.0, response, said)
    found = coordinator.statistics.segments
    np.testing.assert_allclose(found.sums[:2], expected[:2], atol=1e-3)
    np.testing.assert_allclose(found.sums[2], expected[2], rtol=1e-5)
    assert found.sums[0].sum() == pytest.approx(sum(len(member.party.rows.targets) for member in members), abs=1e-3)
    assert found.noise_stds.tolist() == [0, 0, 0]


def test_without_noise_values_are_counted_by_bin_of_what_the_released_model_says(worth):
    model, coordinator, members = whole_run(worth)
    counted, expected = coordinator.statistics.values, np.zeros((3, VALUE_BINS))
    caps = value_caps(typical=counted.typical)
    for member in members:
        held_out = member.party.held_out
        bins = value_bins(said_of(worth, model, held_out).value, typical=counted.typical)
        for bin_, spent in zip(bins, held_out.targets[:, 1].astype(float), strict=True):
            expected[:, bin_] += (1.0, spent > 0, min(spent / caps[bin_], 1.0))
    np.testing.assert_allclose(counted.counts, expected, atol=1e-3)
    assert expected[0].sum() == coordinator.statistics.scores.counts.sum() == 40
    assert 0 < expected[1].sum() < 40


@pytest.mark.parametrize("lost", [set(), {"p1"}])
def test_the_noise_of_segments_and_values_is_that_of_all_survivors(worth, lost: set[str]):
    coordinator, members = worth.market(4, secagg="ideal")
    worth.drive(coordinator, members, lost={(SEGMENT, "sum"): lost, (EVALUATE, "sum"): lost})
    plan, statistics = coordinator.terms.plan, coordinator.statistics
    each = np.sqrt(4 - len(lost))
    unit = SEGMENT_REACH * statistics.values.typical
    assert statistics.values.noise_std == statistics.scores.noise_std == plan.mechanism("evaluate").noise_std * each
    np.testing.assert_allclose(
        statistics.segments.noise_stds, np.array([2, 2, unit]) * plan.mechanism("segment").noise_std * each
    )


def test_the_held_out_rows_of_a_party_are_in_the_evaluation_alone(worth):
    for number in range(EVALUATE + 1):
        member, other = worth.member("a", secagg="ideal"), worth.member("a", secagg="ideal")
        unused, used = ("rows", "held_out") if number == EVALUATE else ("held_out", "rows")
        worth.swap(member.party, **{unused: None})
        worth.released(member, number, **MOVED)
        worth.swap(other.party, **{used: None})
        with pytest.raises(AttributeError):
            worth.released(other, number, **MOVED)


@MODES
@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("level", [0.0, -1.0, 1e-300, 1e4, -1e4])
def test_the_largest_model_decides_nothing_by_a_row_of_a_value(worth, secagg: str, sign: float, level: float):
    """No refusal may depend on a row: extreme numbers get an answer, with or without the row that overflows."""
    largest = LARGEST_NUMBER
    extreme = {"parameters": np.resize([1.0, 1.0, -1.0, 1.0, -1.0, 1.0, 0.0], 20) * sign * largest}
    extreme["calibration"] = np.append(np.sign(CALIBRATION[:-1]) * largest, level)
    for number in (1, 4, LEVEL, SEGMENT, EVALUATE):
        for count in (40, 0):
            rows = worth.rows(count)
            if count:
                rows.features[0] = [0.9, 0.0, -0.9, 0.0]
            member = worth.member("a", secagg=secagg)
            worth.swap(member.party, rows=rows, held_out=rows)
            words = worth.released(member, number, scale=np.full(4, largest), **extreme)
            terms = member.party.terms
            assert np.isfinite(terms.grid_of(terms.phase_of(number)).decode(words)).all()


@pytest.mark.parametrize("number", [LEVEL, SEGMENT, EVALUATE])
def test_a_customer_with_many_rows_moves_a_sum_by_no_more_than_the_plan_says(worth, number: int):
    """With one customer for all rows, each release is bounded by what one row may move."""
    everyone = worth.rows(40, customers=np.full(40, 5))
    everyone.features[:] = [0.9, 0.0, 0.9, 0.0]
    everyone.targets[:] = [1.0, 1000.0]
    everyone.segments[:] = 3
    apart = replace(everyone, customers=None)
    terms = worth.terms("federated_clipped")
    grid, most = terms.grid_of(terms.phase_of(number)), terms.plan.mechanism(terms.phase_of(number)).clip_norm
    one, many = (
        grid.decode(worth.released(worth.member("a", arm="federated_clipped", rows=own, held_out=own), number, **MOVED))
        for own in (everyone, apart)
    )
    assert 0.5 * most < np.linalg.norm(one) <= most * (1 + 1e-5)
    np.testing.assert_allclose(many, 40 * one, rtol=1e-4, atol=1e-4)


# What a party refuses to work on.


@pytest.mark.parametrize("value", [-1e-3, 1000.1, np.inf, -np.inf, np.nan, 1e30])
def test_values_that_are_no_amounts_within_the_bound_are_refused_with_a_count(worth, value: float):
    for place in ("rows", "held_out"):
        rows = worth.rows(10)
        rows.targets[[3, 6], 1] = value
        said = r"^party a: 2 values are not between 0 and the contract's upper bound$"
        with pytest.raises(DataError, match=said):
            worth.party("a", worth.terms(), **{place: rows})


def test_values_at_the_bounds_are_taken(worth):
    rows = worth.rows(10)
    rows.targets[:2, 1] = [0.0, 1000.0]
    worth.party("a", worth.terms(), rows=rows, held_out=rows)


@pytest.mark.parametrize("label", [2.0, -1.0, 0.5, np.nan])
def test_a_response_beside_a_value_is_0_or_1(worth, label: float):
    rows = worth.rows(10)
    rows.targets[3, 0] = label
    with pytest.raises(DataError, match=r"^party a: expected labels 0 and 1$"):
        worth.party("a", worth.terms(), rows=rows)


def test_targets_of_another_shape_are_refused(worth):
    rows = worth.rows(10)
    swapped = np.stack([rows.targets[:, 0]] * 3, axis=1)
    for targets in (rows.targets[:, :1], rows.targets[:9], rows.targets[:, 1], swapped):
        for place in ("rows", "held_out"):
            with pytest.raises(DataError, match=r"party a: expected rows of width 4 with 2 target\(s\) each, got"):
                worth.party("a", worth.terms(), declared_rows=10, **{place: replace(rows, targets=targets)})


@pytest.mark.parametrize(
    "segments",
    [None, np.full(10, 6), np.full(10, -1), np.zeros(9, dtype=int), np.zeros((10, 1), dtype=int), np.full(10, np.nan)],
    ids=["none", "beyond", "negative", "too few", "a column", "no numbers"],
)
def test_rows_in_no_segment_of_the_contract_are_refused(worth, segments):
    for place in ("rows", "held_out"):
        rows = replace(worth.rows(10), segments=segments)
        with pytest.raises(DataError, match=r"^party a: expected each row in one of 6 segments$"):
            worth.party("a", worth.terms(), declared_rows=10, **{place: rows})


def test_no_repr_of_rows_or_statistics_carries_a_number_of_a_row(worth):
    member = worth.member("a")
    for rows in (member.party.rows, member.party.held_out):
        rows.targets[:, 1] = 123.4375
    _, coordinator, _ = whole_run(worth)
    told = repr(member.party) + repr(member.party.rows) + repr(coordinator) + repr(coordinator.statistics)
    assert "123.4" not in told
    assert "sums" not in told
    assert "counts=" not in told
