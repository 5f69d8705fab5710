"""The page of an audit: verdicts first, nothing loaded, no name markup."""

import copy
import re
import runpy
from pathlib import Path

import pytest

from fedmarket.errors import DataError
from fedmarket.ledger.verify import verify
from fedmarket.report.audit import MOST_ROWS, draw_spending, render_audit

MADE = runpy.run_path(str(Path(__file__).parents[1] / "ledger" / "bundles.py"))


@pytest.fixture(scope="module")
def verdict():
    return verify(MADE["whole"]().bundle()).to_document()


def test_verdicts_come_before_everything_else(verdict):
    page = render_audit(verdict)
    order = ["All 52 entries of 4 parties hold", "Integrity", "Completeness", "Who spent what", "What is assumed",
             "What is not protected", "Open questions"]  # fmt: skip
    places = [page.index(words) for words in order]
    assert places == sorted(places)
    assert 'role="alert"' not in page


def test_each_party_has_a_plot_and_its_numbers(verdict):
    page = render_audit(verdict)
    assert page.count("<svg viewBox") >= 4
    assert page.count("Epsilon after each of 5 reservations") >= 4


def test_the_page_loads_nothing(verdict):
    page = render_audit(verdict)
    assert "default-src 'none'" in page
    assert not re.search(r"(src|href)\s*=\s*\"(?!#)|@import|url\((?!#)|<script", page)


def test_what_does_not_hold_is_said_first():
    page = render_audit(verify(MADE["whole"](cap="1.0").bundle()).to_document())
    assert page.index("This bundle does not hold: promise broken") < page.index("<h1>")
    assert "epsilon beyond the cap" in page


def test_seeded_noise_is_said_first():
    plan = MADE["plan_of"](generator="seeded-for-tests")
    page = render_audit(verify(MADE["whole"](plan=plan).bundle()).to_document())
    assert page.index("NOT PRIVATE") < page.index("<h1>")


def test_no_name_is_markup():
    names = ("<b>Alpha</b>", "Beta & Co", "Gamma $x$", "{{ Delta }}")
    page = render_audit(verify(MADE["whole"](names=tuple(sorted(names))).bundle()).to_document())
    assert "<b>Alpha" not in page
    assert "&lt;b&gt;Alpha" in page


def test_a_long_ledger_has_a_table_that_can_be_read(verdict):
    party = copy.deepcopy(verdict["parties"][0])
    party["points"] = [party["points"][0] | {"sequence": number} for number in range(1000)]
    rows = draw_spending(party).rows
    assert (len(rows), rows[0][0], rows[-1][0]) == (MOST_ROWS, "0", "999")


def test_an_empty_verdict_is_a_page(verdict):
    empty = verdict | {"parties": [], "runs": []}
    assert "<h1>" in render_audit(empty)


def test_another_format_or_a_missing_key_is_an_error(verdict):
    with pytest.raises(DataError, match="expected format"):
        render_audit(verdict | {"format": "x"})
    with pytest.raises(DataError):
        render_audit({key: value for key, value in verdict.items() if key != "overlap"})
