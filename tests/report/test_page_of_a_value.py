"""The report where a value is predicted: its numbers, its segments, and that no name in it is markup."""

import re
import runpy
from pathlib import Path

import pytest

from fedmarket.errors import DataError
from fedmarket.report import words
from fedmarket.report.page import render

Page = runpy.run_path(str(Path(__file__).with_name("reading.py")))["Page"]


def test_the_page_of_a_value_shows_its_numbers(of_value):
    shown = Page(render(of_value)).words
    assert words.headline(of_value) in shown
    assert "GINI" not in shown
    for arm in of_value["arms"].values():
        metrics = arm["metrics"]
        assert f"{metrics['spearman']:.4f} {metrics['value_ratio']:.3f} {100 * metrics['captured_20']:.1f} %" in shown
    assert "Spend of the best 20 % 55.1 % 50.8 % to 59.4 % 56.0 %" in shown
    assert "Mean spend, USD 25.83 23.72 to 27.95 26.94" in shown
    points = of_value["loss"]["pooled"]["points"]
    assert f"{points['mean']:.4f} points, at most {points['upper_95']:.4f} points" in shown
    for found in of_value["value"]["curves"]["deciles"]["past_spend"]["actual"]:
        assert f"{found:,.2f}" in shown
    assert "Buyers" in shown


def test_segments_stand_beside_their_exact_numbers_and_what_noise_hides_is_marked(of_value):
    html = render(of_value)
    rows = re.findall(r"<tr><th scope=\"row\">transactions.*?</tr>", html)
    said = [Page(f"<table>{row}</table>").words for row in rows]
    assert said[0].endswith("7,524 7,434 to 7,614 7,577 13.9 % 12.7 % to 15.1 % 13.9 % 5.32 4.51 to 6.12 6.08")
    assert said[1].endswith("average_spend 30 or more -26 0 to 64 0 - - - -")
    assert [row.count('class="lost"') for row in rows] == [0, 3, 1, 0]
    assert "In 1 of 4 segments that is so of the customers themselves." in Page(html).words
    assert said[2].startswith("transactions 2 or more average_spend below 30 160 71 to 250 126 6.3 % 0.0 % to ")


def test_names_of_columns_and_parties_are_shown_as_text_on_the_page_of_a_value(of_value):
    hostile = "<script>1</script><b onclick=x>"
    of_value["value"]["segments"][0]["tiers"] = [f"{hostile} below 2", "最近_消费 30 or more"]
    of_value["value"]["currency"] = "<i>"
    of_value["arms"]["buyers"]["description"] = hostile
    html = render(of_value)
    page = Page(html)
    assert (page.problems, page.open) == ([], [])
    assert "<script" not in html
    assert f"{hostile} below 2 最近_消费 30 or more" in page.words
    assert "Mean predicted value, <i>" in page.words


def test_policies_are_shown_with_how_they_were_measured(of_both):
    shown = Page(render(of_both)).words
    assert "A contact costs 3.00 USD, and of what a responder spends 30.0 % is earned." in shown
    assert "this market's truth is known" in shown
    assert "Where the joint model expects to earn 28.1 % 448 4,444" in shown
    assert "Profit per 1,000 customers, USD" in shown


@pytest.mark.parametrize("key", ["currency", "calibration", "curves", "segments", "targeting", "lines", "ranking"])
def test_a_value_without_a_key_is_refused_in_one_line(of_value, key: str):
    del of_value["value"][key]
    with pytest.raises(DataError, match=key) as refused:
        render(of_value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("key", ["value_ratio", "captured_20", "purchase_rate", "mean_spend"])
def test_a_private_evaluation_of_a_value_without_a_metric_is_refused(of_value, key: str):
    del of_value["value"]["private_evaluation"][key]
    with pytest.raises(DataError, match=key):
        render(of_value)
