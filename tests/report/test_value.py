"""What is said of segments, campaigns and lines of sale: the noise of a ratio, what it hides, and words for counts."""

import numpy as np
import pytest

from fedmarket.report import value
from fedmarket.report.value import Noisy, ratio


def noisy(number: float, reach: float) -> Noisy:
    return Noisy(value=number, low=max(number - reach, 0.0), high=number + reach)


def test_the_interval_of_a_ratio_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    stds, truth = (900.0, 45.0), (8000.0, 200.0)
    draws = truth + rng.normal(size=(4000, 2)) * stds
    found = [ratio(noisy(top, 1.96 * stds[0]), noisy(bottom, 1.96 * stds[1])) for top, bottom in draws]
    covered = np.mean([one is not None and one.low <= 40.0 <= one.high for one in found if one is not None])
    assert covered == pytest.approx(0.95, abs=0.012)
    naive = np.mean([abs(top / bottom - 40.0) <= 1.96 * stds[0] / 200 for top, bottom in draws])
    assert naive < 0.9


def test_nothing_is_known_of_a_ratio_whose_denominator_may_be_zero():
    assert ratio(noisy(10, 1), noisy(89, 90)) is None
    assert ratio(noisy(10, 1), noisy(-5, 90)) is None
    assert ratio(noisy(0, 0), noisy(0, 0)) is None
    assert ratio(noisy(10, 1), noisy(91, 90)) is not None


def test_a_ratio_of_exact_numbers_is_exact():
    assert ratio(noisy(30, 0), noisy(120, 0)) == Noisy(value=0.25, low=0.25, high=0.25)


@pytest.mark.parametrize(("number", "reach", "lost"), [(10, 9, False), (10, 10, True), (10, 11, True), (-3, 1, True)])
def test_a_number_is_lost_where_its_noise_is_larger(number: float, reach: float, lost: bool):
    assert noisy(number, reach).lost == lost


def test_a_ratio_is_lost_where_the_noise_of_its_numerator_is_larger():
    customers = noisy(500, 90)
    assert ratio(noisy(80, 89), customers).lost
    assert not ratio(noisy(90, 89), customers).lost


def test_every_segment_says_what_is_known_and_what_is_true(of_value):
    segments = value.segments_of(of_value["value"])
    assert [segment.tiers for segment in segments] == [tuple(s["tiers"]) for s in of_value["value"]["segments"]]
    assert [[cell.lost for cell in segment.cells] for segment in segments] == [
        [False, False, False], [True, True, True], [False, True, False], [False, False, False],
    ]  # fmt: skip
    assert value.lost_segments(segments) == 1
    assert segments[3].cells[1].interval.endswith("to 100.0 %")
    assert (segments[1].cells[2].value, segments[1].cells[2].exact) == ("-", "-")


def test_segments_without_exact_numbers_show_what_is_known(of_value):
    of_value["value"]["segments"][0]["exact"] = None
    customers, *_ = value.segments_of(of_value["value"])[0].cells
    assert (customers.value, customers.exact) == ("7,524", "-")


def test_without_segments_there_are_no_rows(of_value):
    of_value["value"]["segments"] = []
    assert value.segments_of(of_value["value"]) == ()


def test_lines_of_sale_are_told_in_words_and_what_did_not_happen_is_not(of_value):
    lines = of_value["value"]["lines"]
    assert value.lines_sentence(lines) == (
        "69,659 lines of sale, 48,831 of them in the calibration window and 20,573 in the prediction window, became "
        "23,570 customers with 48,831 transactions."
    )
    assert value.left_out(lines) == (
        "255 lines were copies of another and left out.",
        "7 transactions were beyond the latest that count for a customer.",
        "2 amounts were cut to the largest that counts.",
    )
    told = {"lines", "calibration", "prediction", "customers", "transactions"}
    assert set(value.LEFT_OUT) | told == set(lines)


def test_how_a_campaign_was_measured_is_said(of_both):
    assert "as this market's truth is known" in value.targeting_sentence(of_both["value"])
    of_both["value"]["targeting"]["measured_by"] = "what happened"
    assert value.targeting_sentence(of_both["value"]).endswith(
        "Measured by what the customers did, on the first seed's test customers."
    )
    assert value.policies_of(of_both["value"])[2] == ("Nobody", "0.0 %", "0", "0")
