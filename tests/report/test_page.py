import json
import math
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from fedmarket.attacks.measured import Measured
from fedmarket.errors import DataError
from fedmarket.report import words
from fedmarket.report.attained import unfit
from fedmarket.report.page import render, write_report

Page = runpy.run_path(str(Path(__file__).with_name("reading.py")))["Page"]


def test_the_page_is_well_formed_and_loads_nothing(page_as_is):
    page = Page(page_as_is)
    assert page.problems == []
    assert page.open == []
    assert "<script" not in page_as_is.lower()
    assert not re.search(r"https?://|@import|javascript:", page_as_is)
    assert "default-src 'none'" in page_as_is


def test_the_checks_above_find_what_they_forbid():
    bad = Page('<p><b>x</p><img src="https://x.org/a.png"><a href="http://x">y</a><i onclick="z"></i>')
    assert len(bad.problems) >= 4


def test_the_page_is_small(page_as_is):
    assert len(page_as_is.encode()) < 300_000


def test_every_number_of_the_headline_is_on_the_page(results, page_as_is):
    said = words.headline(results)
    assert len(re.findall(r"\d+(?:\.\d+)?", said)) >= 5
    assert said in Page(page_as_is).words


def test_all_tables_show_the_numbers_of_the_results(results, page_as_is):
    shown = Page(page_as_is).words
    for arm in results["arms"].values():
        assert f"{arm['mean']:.4f}" in shown
        assert f"{arm['interval'][0]:.4f} to {arm['interval'][1]:.4f}" in shown
        assert f"{arm['metrics']['average_precision']:.4f}" in shown
    for party in results["parties"]:
        assert party["name"] in shown
        assert f"{party['gain']:+.4f}" in shown
    for step in results["decomposition"]:
        assert step["words"] in shown
    for line in results["not_protected"] + results["assumptions"]:
        assert line in shown
    assert "data.source.partition.column job" in shown
    assert "the server saw their sum, and no party's own. 65 rounds of 3 exchanges, 3,912 messages" in shown
    assert "No round was void." in shown
    assert "No party was lost and no message rejected." in shown


def test_sums_in_the_open_are_called_so(results):
    results["federation"].update(secagg="ideal", exchanges_per_round=1)
    shown = Page(render(results)).words
    assert "Updates were summed in the open. 65 rounds of 1 exchange, 3,912 messages" in shown
    assert "masked" not in shown.replace("updates unmasked", "")  # that is an observer


VOID_ROUND = {"seed": 3, "round": 7, "reason": "round 7 is void, share: expected at least 9 parties, 8 are left"}
REJECTION = {"seed": 3, "round": 8, "step": "unmask", "party": "student", "reason": "no reply in time"}


@pytest.mark.parametrize(("number", "said"), [(1, "1 round was void:"), (2, "2 rounds were void:")])
def test_void_rounds_are_shown_with_seed_and_reason(results, number: int, said: str):
    results["federation"]["void_rounds"] = [VOID_ROUND] * number
    page = Page(render(results))
    assert (page.problems, page.open) == ([], [])
    assert said in page.words
    assert page.words.count(f"3 7 {VOID_ROUND['reason']}") == number
    assert "No round was void" not in page.words
    assert "No party was lost and no message rejected." in page.words


@pytest.mark.parametrize(
    ("number", "said"), [(1, "1 answer was missing or rejected:"), (2, "2 answers were missing or rejected:")]
)
def test_lost_answers_are_shown_with_seed_round_and_step(results, number: int, said: str):
    results["federation"]["rejections"] = [REJECTION] * number
    page = Page(render(results))
    assert (page.problems, page.open) == ([], [])
    assert said in page.words
    assert page.words.count("student 3 8 unmask no reply in time") == number
    assert "No party was lost" not in page.words
    assert "No round was void." in page.words


def test_every_observer_has_a_row_with_an_epsilon_that_is_never_rounded_down(results, page_as_is):
    shown = Page(page_as_is).words
    assert "Who looks Epsilon at most" in shown
    for observer, epsilon in zip(results["plan"]["observers"], ("0.95", "0.95", "0.98", "1.00", "3.41"), strict=True):
        assert f"{observer['name'].capitalize()}{observer['words']} {epsilon}" in shown
    results["plan"]["observers"][-1]["epsilon"] = math.inf
    assert "unmasked infinite" in Page(render(results)).words


def test_metrics_from_noisy_counts_stand_beside_the_exact_ones(results, page_as_is):
    shown = Page(page_as_is).words
    assert "What the parties would know" in shown
    for name in ("AUC", "Lift in the best 10 %", "Predicted / observed", "Log-loss", "Response rate"):
        assert shown.partition("What the parties would know")[2].count(name) >= 1
    for found in results["private_evaluation"].values():
        low, high = f"{found['low']:.4f}", f"{found['high']:.4f}"
        assert f"{found['value']:.4f} {low} to {high} {found['exact']:.4f}" in shown


def test_without_private_evaluation_nothing_is_said_of_it(results):
    results["private_evaluation"] = None
    page = Page(render(results))
    assert (page.problems, page.open) == ([], [])
    assert "What the parties would know" not in page.words
    results["configuration"]["privacy"]["private_evaluation"] = True
    assert "Nothing: with so few held-out customers" in Page(render(results)).words


@pytest.mark.parametrize("key", ["auc", "lift_10", "calibration_ratio", "log_loss", "response_rate"])
def test_a_private_evaluation_without_a_metric_is_refused_in_one_line(results, key):
    del results["private_evaluation"][key]
    with pytest.raises(DataError, match=r"^results: ") as refused:
        render(results)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("place", ["value", "low", "high", "exact"])
def test_a_missing_number_is_refused_in_one_line(results, place):
    del results["private_evaluation"]["auc"][place]
    with pytest.raises(DataError, match=r"^results: ") as refused:
        render(results)
    assert "\n" not in str(refused.value)


def test_a_plan_without_observers_is_refused_in_one_line(results):
    del results["plan"]["observers"]
    with pytest.raises(DataError, match="observers"):
        render(results)


def test_drawings_keep_every_digit_of_their_labels(results, page_as_is):
    drawings = "".join(re.findall(r'<div class="drawing".*?</div>', page_as_is, flags=re.DOTALL))
    for arm in results["arms"].values():
        assert f">{arm['mean']:.4f}</text>" in drawings


def test_each_plot_has_words_and_numbers(page_as_is):
    page = Page(page_as_is)
    drawings = [attrs for tag, attrs in page.tags if tag == "div" and attrs.get("class") == "drawing"]
    assert len(drawings) == 6
    assert all(attrs["role"] == "img" and len(attrs["aria-label"]) > 60 for attrs in drawings)
    assert sum(tag == "figure" for tag, _ in page.tags) == sum(tag == "figcaption" for tag, _ in page.tags) == 6
    assert page.words.count("Numbers") >= 6


def test_names_in_plots_refer_to_one_element_only(page_as_is):
    identities = re.findall(r'\bid="([^"]+)"', page_as_is)
    assert len(identities) == len(set(identities))
    assert set(re.findall(r'(?:href="|url\()#([^")]+)', page_as_is)) <= set(identities)


def test_colours_of_plots_come_from_the_page(page_as_is):
    drawings = re.findall(r'<div class="drawing".*?</div>', page_as_is, flags=re.DOTALL)
    assert drawings
    assert not any(re.search(r"#[0-9a-f]{6}\b", drawing) for drawing in drawings)
    used = set(re.findall(r"var\(--([\w-]+)\)", page_as_is))
    assert used <= set(re.findall(r"--([\w-]+):", page_as_is))
    assert "prefers-color-scheme: dark" in page_as_is


def test_a_hostile_or_foreign_name_is_shown_as_text(results):
    hostile = "<script>alert('x')</script><b onclick=x>\"& Co"
    results["parties"][0]["name"] = hostile
    results["parties"][1]["name"] = "招商银行"
    results["privacy"][hostile] = results["privacy"].pop("admin.")
    rejection = {"seed": 0, "round": 3, "step": "<s>mask", "party": hostile, "reason": "expected 3, got <i>4</i>"}
    void = {"seed": 0, "round": 4, "reason": f"<i>void</i> (may be caused by {hostile})"}
    results["federation"].update(rejections=[rejection], void_rounds=[void])
    results["decomposition"][0]["words"] = "</svg><script>1</script>"
    results["arms"]["pooled"]["description"] = "<img src=x onerror=y>"
    results["arms"]["<b>新</b> $x$"] = results["arms"]["pooled"]
    results["configuration"]["<u>"] = "<u>"
    results["plan"]["observers"][0].update(name="<b>x</b>", words="</table><script>2</script>")
    results["name"] = "<title>"
    html = render(results)
    page = Page(html)
    assert page.problems == []
    assert page.open == []
    assert "<script" not in html
    assert page.words.count(hostile) == 4
    assert "<i>void</i> (may be caused by" in page.words
    assert "<s>mask" in page.words
    assert "</table><script>2</script>" in page.words
    assert "招商银行" in page.words
    assert "1 answer was missing or rejected:" in page.words


def test_seeded_noise_gets_a_banner(results, page_as_is):
    assert words.SEEDED_BANNER not in page_as_is
    results["plan"]["generator"] = "seeded-for-tests"
    html = render(results)
    assert 'class="banner"' in html
    assert words.SEEDED_BANNER in Page(html).words


def test_parties_with_one_class_and_missing_curves_are_tolerated(results):
    results["parties"][0].update(alone=None, alone_dp=None, joint_dp=None, gain=None)
    results["curves"] = {"roc": {"pooled": results["curves"]["roc"]["pooled"]}, "gains": {}}
    page = Page(render(results))
    assert page.problems == []
    assert sum(tag == "figure" for tag, _ in page.tags) == 3
    for party in results["parties"]:
        party.update(alone=None, alone_dp=None, joint_dp=None, gain=None)
    assert "at 0 of 0 parties" in Page(render(results)).words


def test_what_was_measured_of_this_experiment_is_shown(results, made_risk):
    known = {"name": results["name"], "epsilon": results["plan"]["observers"][3]["epsilon"]}
    known |= {key: results["plan"][key] for key in ("unit", "generator", "noise", "delta")}
    shown = Page(render(results, measured=Measured(**made_risk(**known)))).words
    for said in ("What attackers attained", "2,000 canaries show", "90.0 % (80.0 % to 100.0 %)", "87.5 %"):
        assert said in shown
    assert "What attackers attained" not in Page(render(results)).words


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, None),
        ({"name": "other"}, "name other and not"),
        ({"generator": "seeded-for-tests"}, "generator seeded-for-tests and not operating-system"),
        ({"delta": 1e-6}, "delta 1e-06 and not 1e-05"),
        ({"epsilon": 0.5}, "epsilon 0.50 and not"),
    ],
)
def test_what_was_measured_of_another_experiment_is_not_shown(results, made_risk, changed, said: str | None):
    known = {"name": results["name"], "epsilon": results["plan"]["observers"][3]["epsilon"]}
    known |= {key: results["plan"][key] for key in ("unit", "generator", "noise", "delta")}
    measured = Measured(**made_risk(**(known | changed)))
    reason = unfit(measured, results)
    if said is None:
        assert reason is None
        return
    assert said in reason
    shown = Page(render(results, measured=measured)).words
    assert f"Not shown: {reason}" in shown
    assert "canaries" not in shown


def test_an_infinite_epsilon_is_not_hidden(results):
    results["privacy"]["student"]["epsilon"] = math.inf
    assert "epsilon at most infinite per customer" in Page(render(results)).words


def test_the_page_survives_a_round_trip_through_json_and_is_reproducible(results, page_as_is):
    assert render(json.loads(json.dumps(results))) == page_as_is


def test_the_file_appears_whole(results, tmp_path, page_as_is):
    write_report(results, tmp_path / "runs" / "report.html")
    assert (tmp_path / "runs" / "report.html").read_text(encoding="utf-8") == page_as_is
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["report.html"]


@pytest.mark.parametrize("key", ["loss", "curves", "value", "parties", "federation", "versions"])
def test_results_without_a_key_are_refused_in_one_line(results, tmp_path, key):
    del results[key]
    with pytest.raises(DataError, match=key) as refused:
        write_report(results, tmp_path / "report.html")
    assert "\n" not in str(refused.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("key", ["secagg", "exchanges_per_round", "bytes_up_per_party", "void_rounds", "rejections"])
def test_a_federation_without_a_key_is_refused_in_one_line(results, key):
    del results["federation"][key]
    with pytest.raises(DataError, match=key):
        render(results)


@pytest.mark.parametrize("document", [{}, {"format": "fedmarket-results/2"}, {"format": None}])
def test_another_format_is_refused(document):
    with pytest.raises(DataError, match="expected format 'fedmarket-results/1'"):
        render(document)


OF_RESPONSE = ["Ranking", "For a campaign", "What the parties would know"]
OF_VALUE = ["Predicted value", "What the parties would know of the value", "Segments"]
OF_ALL = ["For each party", "Federation", "Privacy", "How to make it again"]


@pytest.mark.parametrize(
    ("task", "titles"),
    [
        ("results", [*OF_RESPONSE, *OF_ALL]),
        ("of_value", ["Ranking", *OF_VALUE, "Lines of sale", *OF_ALL]),
        ("of_both", ["Ranking", "Ranking by value", *OF_RESPONSE[1:], *OF_VALUE, "Whom to contact", *OF_ALL]),
    ],
)
def test_each_task_has_its_sections_and_no_other(request, task: str, titles: list[str]):
    html = render(request.getfixturevalue(task))
    page = Page(html)
    assert re.findall("<h2>(.*?)</h2>", html) == titles
    assert (page.problems, page.open) == ([], [])
    identities = re.findall(r'\bid="([^"]+)"', html)
    assert len(identities) == len(set(identities))
    drawings = [attrs for tag, attrs in page.tags if tag == "div" and attrs.get("class") == "drawing"]
    assert all(attrs["role"] == "img" and len(attrs["aria-label"]) > 60 for attrs in drawings)
    assert len(drawings) == {"results": 6, "of_value": 4, "of_both": 10}[task]
    assert not re.search(r"https?://|@import|javascript:", html)


def test_neither_torch_nor_flower_is_needed():
    code = (
        "import sys, fedmarket.report.page, fedmarket.report.summary, fedmarket.evaluation.comparison, "
        "fedmarket.evaluation.curves; sys.exit(bool({'torch', 'flwr', 'sklearn'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
