import re

import matplotlib
import pytest

from fedmarket.report import plots


def test_gains_and_losses_of_steps_are_signed_and_summed(results):
    steps = [
        {"step": "clipping", "from": "federated", "to": "federated_clipped", "loss": 0.012, "words": "a"},
        {"step": "noise", "from": "federated_clipped", "to": "federated_dp", "loss": -0.0025, "words": "b"},
    ]
    plot = plots.draw_decomposition(steps, metric="auc")
    assert [row[1] for row in plot.rows] == ["1.20 %", "-0.25 %"]
    assert ">0.95 %</text>" in plot.svg
    assert "Noise: -0.25 %." in plot.alternative


def test_numbers_of_a_curve_are_read_at_tenths(results):
    curve = {"contacted": [0.0, 0.5, 1.0], "captured": [0.0, 0.8, 1.0]}
    plot = plots.draw_gains({"pooled": curve})
    assert dict(plot.rows)["10 %"] == "16.0 %"
    assert dict(plot.rows)["50 %"] == "80.0 %"
    assert len(plot.rows) == 11


def test_profit_is_shown_for_a_thousand_customers():
    plot = plots.draw_profit({"pooled": {"contacted": [0.0, 1.0], "profit": [0.0, 2.5]}})
    assert dict(plot.rows)["100 %"] == "2,500"


def test_arms_differ_in_more_than_colour(results):
    keys = plots.draw_roc(results["curves"]["roc"]).keys
    assert len({key.dashes for key in keys}) == len(keys) == 4


def test_tenths_of_the_joint_model_and_of_past_spend_stand_side_by_side(of_value):
    deciles = of_value["value"]["curves"]["deciles"]
    plot = plots.draw_deciles(deciles, currency="USD")
    assert [key.name.rpartition(", ")[2] for key in plot.keys] == ["spent", "predicted"] * 2
    assert len(plot.rows) == 20
    assert plot.rows[0][:4] == (
        "1",
        "Federated with privacy",
        f"{deciles['federated_dp']['predicted'][0]:,.2f}",
        f"{deciles['federated_dp']['actual'][0]:,.2f}",
    )
    assert f"{deciles['past_spend']['predicted'][-1]:,.2f} predicted" in plot.alternative
    alone = plots.draw_deciles({"federated_dp": deciles["federated_dp"]}, currency="USD")
    assert len(alone.rows) == 10


def test_captured_spend_is_read_at_tenths():
    curve = {"contacted": [0.0, 0.5, 1.0], "captured": [0.0, 0.9, 1.0]}
    plot = plots.draw_value_gains({"past_spend": curve})
    assert dict(plot.rows)["50 %"] == "90.0 %"
    assert plot.columns == ("Customers, highest value first", "Past spend times a constant")


def test_calibration_may_be_known_on_one_side_only(results):
    plot = plots.draw_calibration({"after": results["curves"]["calibration"]["after"]})
    assert [key.name for key in plot.keys] == ["After recalibration"]
    assert {row[0] for row in plot.rows} == {"After recalibration"}


def test_a_drawing_is_text_without_fonts_or_metadata_and_reproducible(results):
    draw = plots.draw_arms
    plot = draw(results["arms"], metric=results["metric"])
    assert plot.svg.startswith("<svg viewBox=")
    assert ">Federated with privacy</text>" in plot.svg
    assert not re.search(r"metadata|font-family|xmlns|<style", plot.svg)
    assert plot == draw(results["arms"], metric=results["metric"])


@pytest.mark.parametrize("name", ["svg.fonttype", "font.size", "text.color"])
def test_drawing_leaves_matplotlibs_settings_alone(results, name):
    before = matplotlib.rcParams[name]
    plots.draw_roc(results["curves"]["roc"])
    assert matplotlib.rcParams[name] == before
