"""The page of an audit: verdicts first, nothing loaded, no name markup."""

import copy
import re
import runpy
from dataclasses import replace
from pathlib import Path

import pytest

from fedmarket.attacks.measured import Measured
from fedmarket.errors import DataError
from fedmarket.ledger.verify import verify
from fedmarket.report.audit import MOST_ROWS, draw_spending, render_audit

MADE = runpy.run_path(str(Path(__file__).parents[1] / "ledger" / "bundles.py"))


@pytest.fixture(scope="module")
def verdict():
    return verify(MADE["whole"]().bundle()).to_document()


def test_verdicts_come_before_everything_else(verdict):
    page = render_audit(verdict)
    order = ["All 52 entries of 4 parties hold", "Integrity", "Completeness", "Open questions", "Who spent what",
             "<h2>What is released", "What is assumed", "What is not protected", "Evidence"]  # fmt: skip
    body = page[page.index("<body>") :]
    places = [body.index(words) for words in order]
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


def test_what_was_measured_is_said_to_prove_nothing(made_risk):
    bundle = MADE["whole"]().bundle()
    document = made_risk(epsilon=1.1705, unit="column:customer", name="<b>tiny</b>")
    page = render_audit(verify(bundle, measured=Measured(**document)).to_document())
    for said in ("Measured by whoever wrote this file; not proved by the ledgers", "87.5\N{NO-BREAK SPACE}%",
                 "&lt;b&gt;tiny", "2,000 canaries show epsilon 0.4 at least; 1.18 is claimed"):  # fmt: skip
        assert said in page
    assert "What attackers attained" not in render_audit(verify(bundle).to_document())


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


def test_keys_that_nobody_compared_are_said_first_and_those_compared_are_not(verdict):
    page = render_audit(verdict)
    assert page.index("NOT COMPARED with copies of your own") < page.index("<h1>")
    bundle = MADE["whole"]().bundle()
    known = verify(bundle, roster_hash=bundle.manifest.roster_hash, log_key=bundle.manifest.log_key).to_document()
    page = render_audit(known)
    assert "NOT COMPARED" not in page
    assert 'class="banner' not in page


@pytest.mark.parametrize(("unit", "per"), [("row", "row"), ("column:customer", "customer (column customer)")])
def test_the_unit_is_in_title_and_headline(unit, per):
    page = render_audit(verify(MADE["whole"](plan=replace(MADE["plan_of"](), unit=unit)).bundle()).to_document())
    assert f"<title>Audit of a privacy ledger, epsilon per {per}: holds</title>" in page
    assert f"no party spent more than epsilon 1.18 per {per}." in page
    assert ("One row at each party" in page) is (unit == "row")


def tiles_of(page):
    return [re.sub(r"<[^>]*>", " ", tile).split() for tile in re.findall(r'<div class="warning">(.*?)</div>', page)]


def test_a_worthless_delta_is_said_in_the_warning_colour(verdict):
    assert tiles_of(render_audit(verdict)) == []
    page = render_audit(verdict | {"overlap": verdict["overlap"] | {"worthless": True, "delta": 0.0173}})
    (tile,) = tiles_of(page)
    assert " ".join(tile).endswith("delta 0.0173: promises next to nothing")


def test_of_a_ledger_that_was_not_read_the_tile_says_unknown():
    bundle = MADE["whole"]().bundle()
    page = render_audit(verify(replace(bundle, ledgers=((), *bundle.ledgers[1:]))).to_document())
    assert "This bundle does not hold: completeness broken, promise not established" in page
    tile = tiles_of(page)[-1]
    assert "unknown" in tile
    assert "1 of 4 ledgers not read to its end" in " ".join(tile)
    assert "entries of 4 parties" in page


def test_what_was_read_of_a_cut_ledger_is_rounded_down(verdict):
    document = copy.deepcopy(verdict)
    document["unread"] = [document["parties"][0]["name"]]
    document["parties"][0]["epsilon"] = 0.5525
    page = render_audit(document)
    assert "0.55 or more" in page
    assert "0.56 or more" not in page


def test_the_evidence_is_on_the_page(verdict):
    page = render_audit(verdict)
    found = verdict["evidence"]
    for said in (found["bundle_hash"], found["checker"][1], found["time"], found["checkpoint"]["root"],
                 verdict["runs"][0]["models"][0], verdict["roster_hash"]):  # fmt: skip
        assert said in page


def test_what_is_released_is_said_in_words_and_numbers_are_round(verdict):
    page = render_audit(verdict)
    assert "<b>update</b>: noisy sum of clipped gradients" in page
    assert "The cap is held against the fourth line; the last one is what masking prevents" in page
    long = copy.deepcopy(verdict)
    long["runs"][0]["plan"]["mechanisms"][0]["noise_multiplier"] = "4.358898943540674"
    assert "<td>4.359</td>" in render_audit(long)


def test_a_table_that_leaves_rows_out_says_so(verdict):
    party = copy.deepcopy(verdict["parties"][0])
    party["points"] = [party["points"][0] | {"sequence": number} for number in range(155)]
    page = render_audit(verdict | {"parties": [party]})
    assert "<summary>Numbers (60 of 155 reservations; all of them with --json)</summary>" in page
