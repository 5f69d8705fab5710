"""`attack`: what it writes, what it refuses, and how it ends."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import fedmarket.simulation.attack as module
from fedmarket.attacks.formal import Gaussian
from fedmarket.attacks.rates import Interval
from fedmarket.cli.main import app
from fedmarket.errors import DataError, UsageError
from fedmarket.experiment.market import MarketKey, open_market
from fedmarket.report.risk import headline, render_risk
from fedmarket.risk.gate import Judgement, Reading
from fedmarket.risk.membership import AtRate, Figures
from fedmarket.simulation.attack import EXPOSED, RANDOM, attack, bounded, smallest, targets_of
from fedmarket.simulation.reconstruction import reconstruction
from fedmarket.simulation.run import simulate

QUICK = ("training.rounds=3", "baseline_training.rounds=20", 'privacy.generator="operating-system"')


def judgement(*, refuted: bool = False, control: float = 1.0) -> Judgement:
    reading = Reading(
        score="updates",
        claimed=1.0,
        delta=1e-5,
        epsilon=2.0 if refuted else 0.3,
        gaussian=None,
        refuted=refuted,
        auc=0.6,
        control=control,
    )
    return Judgement(canaries=40, runs=2, readings=(reading,), false_alarm_rate=1e-3)


@pytest.fixture(scope="module")
def attacked(write_market, tmp_path_factory: pytest.TempPathFactory) -> module.Attacked:
    folder = tmp_path_factory.mktemp("attacked")
    with pytest.MonkeyPatch.context() as patch:  # gates have tests of their own, which take longer
        patch.setattr(module, "gate", lambda *_, **__: judgement())
        return attack(write_market(folder), changes=QUICK, targets=20)


def test_it_says_what_each_sees_with_and_without_privacy(attacked: module.Attacked):
    written = json.loads((attacked.folder / "risk.json").read_text(encoding="utf-8"))
    assert written == json.loads(json.dumps(attacked.results))
    found = written["membership"]
    assert found["groups"] == {RANDOM: 10, EXPOSED: 10}
    for group in found["groups"]:
        before, after = (found["arms"][arm][group]["informed update"]["auc"] for arm in ("federated", "federated_dp"))
        assert before["low"] > 0.9  # who knows all other rows, and sees one party's sums, knows who was there
        assert after["estimate"] < before["low"]
    exact = [one["figures"]["advantage"] for one in found["reductions"]]
    assert all(0.0 < one["certified"] <= one["estimate"] for one in exact)


def test_no_attack_is_said_to_attain_more_than_the_guarantee(attacked: module.Attacked):
    found = attacked.results["membership"]
    for group in found["arms"]["federated_dp"].values():
        for view, figures in group.items():
            assert figures["advantage"]["low"] <= found["limits"][view]["advantage"]


def test_the_page_is_one_file_that_says_it_all(attacked: module.Attacked):
    page = (attacked.folder / "risk.html").read_text(encoding="utf-8")
    assert page.count("<svg") >= 2
    assert "http" not in page.replace("http-equiv", "").replace("http://www.w3.org", "")
    for said in ("not refuted", "Random customers", "What that leaves an attacker", "No audit can show"):
        assert said in page
    assert not attacked.red


@pytest.mark.parametrize(
    ("found", "said"),
    [
        (judgement(), "40 canaries show epsilon 0.3 at least; 1.00 is claimed."),
        (judgement(refuted=True), "The claim of epsilon 1.00 is refuted."),
        (judgement(control=0.6), "The audit says nothing of epsilon 1.00: its attack fails without noise too."),
    ],
)
def test_the_headline_is_the_gates_verdict(attacked: module.Attacked, found: Judgement, said: str):
    results = attacked.results | {"gate": module.gate_document(found)}
    assert headline(results) == said
    assert ("do not release" in render_risk(results)) == (found.verdict.name == "VIOLATED")


def test_rows_are_read_off_open_updates_and_no_more_than_guessed_off_private_ones(attacked: module.Attacked):
    cells = {(one["arm"], one["veil"], one["batch"]): one for one in attacked.results["reconstruction"]["cells"]}
    assert cells["federated", "none", 1]["found"]["all"]["estimate"] == 1.0
    for case in (("federated", "mask", 1), ("federated_dp", "none", 1), ("federated_dp", "none", 4)):
        found, prior = (cells[case][whose]["all"] for whose in ("found", "prior"))
        assert found["low"] <= prior["high"]
    column = attacked.results["reconstruction"]["attribute"]
    assert column["federated"]["found"]["informed update"]["estimate"] > 0.95
    assert column["federated_dp"]["gain"]["informed update"]["low"] < 0.1


def test_a_column_that_is_not_there_is_named(write_market, tmp_path: Path):
    market = open_market(MarketKey(config=write_market(tmp_path), changes=QUICK, seed=0))
    with pytest.raises(DataError, match="column 'nothing': expected a column of words"):
        reconstruction(market, watched=smallest(market), column="nothing", confidence=0.95)


def test_the_simulations_report_shows_it_where_it_is_of_the_same_experiment(
    attacked: module.Attacked, write_market, tmp_path: Path
):
    shutil.copytree(attacked.folder, folder := tmp_path / "out")
    path = write_market(tmp_path)
    simulate(path, changes=QUICK)
    report = folder / "report.html"
    assert "40 canaries show epsilon" in report.read_text(encoding="utf-8")
    found = module.parse_document(module.Measured, attacked.results, source="risk.json")
    assert module._renew_report(folder, found) is None
    assert "What attackers attained" in report.read_text(encoding="utf-8")
    reason = module._renew_report(folder, found.model_copy(update={"delta": 1e-6}))
    assert reason == "risk.json is of delta 1e-06 and not 1e-05; run fedmarket attack again."
    assert f"Not shown: {reason}" in report.read_text(encoding="utf-8")
    (folder / "results.json").write_text("{", encoding="utf-8")
    assert "results.json: " in module._renew_report(folder, found)
    assert module._renew_report(tmp_path, found) is None


def test_a_document_of_another_kind_or_without_a_key_is_refused(attacked: module.Attacked):
    with pytest.raises(DataError, match="expected format"):
        render_risk(attacked.results | {"format": "other"})
    with pytest.raises(DataError, match="no key 'gate'"):
        render_risk({key: value for key, value in attacked.results.items() if key != "gate"})


def test_a_red_gate_ends_with_one_and_writes_what_it_found(
    attacked: module.Attacked, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, write_market
):
    results: dict[str, Any] = attacked.results | {"gate": module.gate_document(judgement(refuted=True))}
    red = replace(attacked, results=results, red=True)
    monkeypatch.setattr(module, "attack", lambda *_, **__: red)
    done = CliRunner().invoke(app, ["attack", str(write_market(tmp_path))])
    assert done.exit_code == 1
    assert "refuted" in done.stdout
    told = CliRunner().invoke(app, ["attack", str(tmp_path / "config.toml"), "--json"])
    document = json.loads(told.stdout)
    assert told.exit_code == 1
    assert (document["command"], document["gate"]) == ("attack", results["gate"])
    assert set(document["files"]) == {"risk.html", "risk.json"}


def test_a_report_of_another_experiment_is_said_to_show_nothing(
    attacked: module.Attacked, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, write_market
):
    unfit = replace(attacked, unfit="risk.json is of name [tiny] and not other")
    monkeypatch.setattr(module, "attack", lambda *_, **__: unfit)
    done = CliRunner().invoke(app, ["attack", str(write_market(tmp_path))])
    assert done.exit_code == 0
    assert "report.html does not show it: risk.json is of name [tiny] and not other" in done.stderr


def test_targets_are_of_one_party_half_of_them_drawn(write_market, tmp_path: Path):
    market = open_market(MarketKey(config=write_market(tmp_path), changes=QUICK, seed=0))
    name = smallest(market)
    chosen = targets_of(market, name, 20)
    assert len(set(chosen.numbers.tolist())) == 20
    assert (np.diff(chosen.numbers) > 0).all()
    assert not (chosen.groups[RANDOM] & chosen.groups[EXPOSED]).any()
    with pytest.raises(UsageError, match="watched: expected one of"):
        targets_of(market, "nobody", 20)
    with pytest.raises(UsageError, match="targets: expected 2 to"):
        targets_of(market, name, 10_000)


def test_an_upper_end_is_what_the_guarantee_allows_and_never_below_what_was_found():
    wide = Interval(estimate=0.02, low=0.0, high=0.5, confidence=0.95, method="betting")
    found = Figures(
        auc=wide,
        advantage=wide,
        at_rates=(AtRate(asked=0.01, true_positive_rate=wide, false_positive_rate=replace(wide, high=0.02)),),
        runs=64,
        targets=10,
    )
    limit = Gaussian(mu=0.25)
    assert bounded(found, limit).advantage.high == limit.advantage()
    assert bounded(found, limit).at_rates[0].true_positive_rate.high == limit.true_positive_rate(0.02)
    assert bounded(found, Gaussian(mu=0.0)).advantage.high == 0.02
    assert bounded(found, Gaussian(mu=9.0)) == found
