"""The page of a frontier says what epsilon costs, shows every number, and loads nothing."""

import re
import runpy
from pathlib import Path

import pytest

from fedmarket.errors import DataError
from fedmarket.report.frontier import MODE_NAMES, answer, headline, nearest, render_frontier

MADE = runpy.run_path(str(Path(__file__).with_name("documents.py")))
EPSILONS, band = MADE["EPSILONS"], MADE["band"]


@pytest.fixture
def results() -> dict:
    return MADE["frontier"]()


@pytest.fixture
def of_value() -> dict:
    """Results of a value whose modes stand 0.0123 points, or 1.62 %, above past spend."""
    return MADE["frontier_of_value"]()


def test_the_headline_is_the_loss_at_epsilon_one(results: dict):
    assert headline(results) == (
        "With epsilon 1 per customer, 12 parties that share their noise lose 0.31 % of AUC against the same model on "
        "all rows in one place, and lose 0.41 % against the best pooled model of any class."
    )


def test_a_gain_is_called_one(results: dict):
    row = next(row for row in results["rows"] if (row["mode"], row["epsilon"]) == ("distributed", 1.0))
    row["pooled"], row["pooled_best"] = band(-0.004), band(-0.00001)
    assert "gain 0.40 % of AUC against the same model" in headline(results)
    assert "and lose 0.00 % against the best" in headline(results)


def test_an_answer_has_the_interval_of_its_mode(results: dict):
    assert answer(results, "local", 1.0) == (
        "Noise at each party: epsilon 1 costs 1.10 % of AUC (95 % interval 0.90 % to 1.30 %)."
    )


def test_the_page_shows_every_number_and_the_industrys_claims(results: dict):
    page = render_frontier(results)
    for row in results["rows"]:
        for against in ("pooled", "pooled_best"):
            assert f"{100 * row[against]['mean']:.2f}" in page
    assert all(f"claimed: {claim} %" in page for claim in (3, 5, 8))
    assert all(name in page for name in MODE_NAMES.values())
    assert page.count('role="img"') == 2


def test_a_page_of_responses_speaks_of_auc_and_of_no_value(results: dict):
    page = render_frontier(results)
    assert "Pooled AUC 0.8000; best pooled (gradient boosting) 0.8020." in page
    assert "Mean relative loss of AUC" in page
    for word in ("Gini", "past spend", "public start", "Points below", "Decile", "None"):
        assert word not in page, word


def test_the_page_loads_nothing_and_escapes_names(results: dict):
    page = render_frontier(results)
    assert "<b>&</b>" not in page
    assert "&lt;b&gt;" in page
    assert not re.search(r'(src|href)="[^#]', page)
    assert "<script" not in page


def test_seeded_noise_gets_a_banner(results: dict):
    assert "NOT PRIVATE" not in render_frontier(results)
    assert "NOT PRIVATE" in render_frontier(results | {"generator": "seeded-for-tests"})


def test_another_format_or_a_missing_key_is_one_line(results: dict):
    for other in ("else", "fedmarket-frontier/1"):
        with pytest.raises(DataError, match="expected format 'fedmarket-frontier/2', got"):
            render_frontier(results | {"format": other})
    for key in ("rows", "metric"):
        with pytest.raises(DataError, match=f"no key '{key}'"):
            render_frontier({name: value for name, value in results.items() if name != key})


def test_the_nearest_epsilon_is_nearest_in_ratio():
    assert nearest([0.1, 0.5, 8.0], 1.0) == 0.5
    assert nearest([0.1, 3.0], 1.0) == 3.0


def test_one_epsilon_is_enough_for_a_page(results: dict, of_value: dict):
    for found in (results, of_value):
        found["epsilons"] = [1.0]
        found["rows"] = [row for row in found["rows"] if row["epsilon"] == 1.0]
        assert "epsilon 1 costs" in render_frontier(found)


# The value.


def test_a_model_above_past_spend_is_said_to_be(of_value: dict):
    said = headline(of_value)
    assert "lose 0.31 % of normalised Gini against the same model" in said
    assert said.endswith(", and are 1.62 % above past spend times a constant.")


def test_a_model_below_past_spend_is_said_to_be_loudly(of_value: dict):
    for row in of_value["rows"]:
        row["past_spend"], row["points"]["past_spend"] = band(0.0437), band(0.0332)
    assert headline(of_value).endswith(", and are 4.37 % BELOW past spend times a constant.")
    page = render_frontier(of_value)
    assert re.search(r"4\.37.% BELOW past.spend", page)
    assert "-0.0332" in page


@pytest.mark.parametrize(("loss", "said"), [(-0.61, "0.6100 points above"), (0.05, "0.0500 points BELOW")])
def test_past_spend_that_ranks_no_better_than_chance_is_compared_in_points(of_value: dict, loss: float, said: str):
    for row in (*of_value["rows"], of_value["without_privacy"]):
        row["points"]["past_spend"] = band(loss)
        del row["past_spend"]
    assert headline(of_value).endswith(f", and are {said} past spend times a constant.")
    assert ("BELOW" in render_frontier(of_value)) == (loss > 0)


def test_the_page_of_a_value_shows_points_totals_and_deciles(of_value: dict):
    page = render_frontier(of_value)
    assert "AUC" not in page
    assert "Pooled normalised Gini 0.8000" in page
    assert "past spend times a constant 0.7600" in page
    table = page[page.index("The value, with shared noise") :]
    for row in of_value["rows"]:
        shown = f"{row['points']['pooled']['mean']:.4f}"
        assert (shown in table) == (row["mode"] == "distributed"), shown
    assert table.count("0.0123") == len(EPSILONS)
    assert table.count("1.034") == table.count("0.217") == len(EPSILONS)


def test_the_page_shows_the_public_start_alone_where_there_is_one(of_value: dict):
    assert "public start" not in render_frontier(of_value)
    page = render_frontier(of_value | {"public_start": 0.7345})
    assert re.search(r"the public start, before any customer was looked at, 0\.7345", page)
