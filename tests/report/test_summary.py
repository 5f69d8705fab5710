import io

import pytest
from rich.console import Console

from fedmarket.report import words
from fedmarket.report.summary import print_summary


def printed(results, *, width=100):
    out = io.StringIO()
    print_summary(results, Console(file=out, width=width))
    return out.getvalue()


def line_of(text, start):
    return next(line for line in text.splitlines() if line.startswith(start))


def test_every_arm_has_its_mean_interval_and_loss(results):
    shown = printed(results)
    for arm, value in results["arms"].items():
        line = line_of(shown, f"{words.arm_name(arm)}  ")
        assert f"{value['mean']:.4f}" in line
        assert f"{value['interval'][0]:.4f} to {value['interval'][1]:.4f}" in line
        if arm != "federated_dp":
            assert line.rstrip().endswith(f" {100 * value['joint_loss']:.2f} %")
    pooled = results["loss"]["pooled"]["mean"]
    assert line_of(shown, "Pooled  ").rstrip().endswith(f" {100 * pooled:.2f} %")


def test_a_value_is_printed_by_its_own_metric(of_value):
    shown = printed(of_value)
    assert "mean normalised Gini" in shown
    assert "GINI" not in shown
    past = of_value["arms"]["past_spend"]
    assert f"{past['mean']:.4f}" in line_of(shown, "Past spend times a constant")


def test_an_arm_that_has_no_share_to_lose_has_a_dash(of_value):
    of_value["arms"]["past_spend"]["joint_loss"] = None
    assert line_of(printed(of_value), "Past spend times a constant").rstrip().endswith(" -")


def test_a_joint_run_prints_both_orders(of_both):
    shown = printed(of_both)
    assert shown.index("mean AUC") < shown.index("mean normalised Gini") < shown.index("epsilon at delta")
    assert shown.count("Federated with privacy") == 2


def test_every_party_has_its_epsilon(results):
    results["privacy"]["student"]["epsilon"] = 0.501
    shown = " ".join(printed(results).split())
    assert "epsilon at delta 1e-05: admin. 1.00," in shown
    assert "student 0.51," in shown


@pytest.mark.parametrize("width", [60, 80, 200])
def test_no_line_is_wider_than_the_terminal(results, width):
    assert max(len(line) for line in printed(results, width=width).splitlines()) <= width


def test_seeded_noise_is_said_first(results):
    assert words.SEEDED_BANNER not in printed(results)
    results["plan"]["generator"] = "seeded-for-tests"
    assert printed(results).startswith(words.SEEDED_BANNER)


def test_markup_in_a_name_is_not_obeyed(results):
    results["privacy"]["[bold]x[/bold] [/nope]"] = results["privacy"].pop("student")
    assert "[bold]x[/bold] [/nope] 1.00" in " ".join(printed(results).split())
