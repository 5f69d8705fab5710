"""What pages say of an attacker follows from epsilon, delta and the kind of noise."""

import math

import pytest

from fedmarket.report.limits import limits


def cells(epsilon: float, *, gaussian: bool, delta: float = 1e-5) -> list[tuple[str, ...]]:
    return limits(epsilon, delta, gaussian=gaussian, per="customer")["rows"]


def test_gaussian_noise_has_lower_limits_than_an_epsilon_alone():
    for row in cells(1.0, gaussian=True):
        assert float(row[2].split()[0]) < float(row[3].split()[0])
    advantage, at_one, at_a_tenth = cells(1.0, gaussian=True)
    assert advantage[1:4] == ("0.0 %", "10.7 %", "46.2 %")  # mu = 0.268; tanh(1 / 2)
    assert (at_one[1], at_a_tenth[1]) == ("1.0 %", "0.1 %")


@pytest.mark.parametrize(("gaussian", "expected"), [(True, ["0.93", "4.6", "8.8"]), (False, ["0.2", "2.3", "4.6"])])
def test_each_line_says_which_epsilon_is_ninety_percent_below_a_full_leak(gaussian: bool, expected: list[str]):
    assert [row[-1] for row in cells(1.0, gaussian=gaussian)] == expected


def test_without_a_bound_everything_is_possible():
    for gaussian in (True, False):
        assert [row[2] for row in cells(math.inf, gaussian=gaussian)] == ["100.0 %"] * 3


def test_a_large_delta_leaves_no_epsilon_for_a_rare_alarm():
    assert cells(1.0, gaussian=False, delta=0.2)[0][-1] == "-"


def test_columns_fit_rows():
    for gaussian in (True, False):
        found = limits(2.0, 1e-6, gaussian=gaussian, per="row")
        assert {len(found["columns"])} == {len(row) for row in found["rows"]}
        assert found["per"] == "row"
