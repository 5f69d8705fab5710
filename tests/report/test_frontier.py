"""The page of a frontier says what epsilon costs, shows every number, and loads nothing."""

import re

import pytest

from fedmarket.errors import DataError
from fedmarket.report.frontier import MODE_NAMES, headline, nearest, render_frontier


def band(mean: float) -> dict[str, float]:
    return {"mean": mean, "standard_error": 0.001, "low": mean - 0.002, "high": mean + 0.002}


@pytest.fixture
def results() -> dict:
    epsilons = [0.1, 1.0, 8.0]
    losses = {"distributed": (0.02, 0.0031, 0.0001), "local": (0.05, 0.011, 0.002), "pooled_dp": (0.018, 0.003, 0.0)}
    rows = [
        {"mode": mode, "epsilon": epsilon, "auc": 0.79, "pooled": band(loss), "pooled_best": band(loss + 0.001)}
        for mode, found in losses.items()
        for epsilon, loss in zip(epsilons, found, strict=True)
    ]
    return {
        "format": "fedmarket-frontier/1",
        "name": "bank <b>&</b> co",
        "created": "2026-11-22T00:00:00Z",
        "source": "public set bank",
        "parties": 12,
        "seeds": list(range(10)),
        "delta": 1e-5,
        "unit": "row",
        "generator": "operating-system",
        "shares": 10,
        "secagg": "ideal",
        "epsilons": epsilons,
        "pooled": 0.8,
        "best": {"name": "gradient boosting", "auc": 0.802},
        "without_privacy": {"auc": 0.8, "pooled": band(0.0), "pooled_best": band(0.0025)},
        "rows": rows,
        "version": "0.1.0",
    }


def test_the_headline_is_the_loss_at_epsilon_one(results: dict):
    said = headline(results)
    assert "epsilon 1 per customer, 12 parties" in said
    assert "0.31 %" in said
    assert "0.41 %" in said


def test_the_page_shows_every_number_and_the_industrys_claims(results: dict):
    page = render_frontier(results)
    for row in results["rows"]:
        for against in ("pooled", "pooled_best"):
            assert f"{100 * row[against]['mean']:.2f}" in page
    assert all(f"claimed: {claim} %" in page for claim in (3, 5, 8))
    assert all(name in page for name in MODE_NAMES.values())
    assert page.count('role="img"') == 2


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
    with pytest.raises(DataError, match="expected format"):
        render_frontier(results | {"format": "else"})
    with pytest.raises(DataError, match="no key 'rows'"):
        render_frontier({key: value for key, value in results.items() if key != "rows"})


def test_the_nearest_epsilon_is_nearest_in_ratio():
    assert nearest([0.1, 0.5, 8.0], 1.0) == 0.5
    assert nearest([0.1, 3.0], 1.0) == 3.0


def test_one_epsilon_is_enough_for_a_page(results: dict):
    results["epsilons"] = [1.0]
    results["rows"] = [row for row in results["rows"] if row["epsilon"] == 1.0]
    assert "epsilon 1 costs" in render_frontier(results)
