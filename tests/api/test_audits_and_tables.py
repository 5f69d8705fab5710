"""Auditors and partners get from Python what the commands print."""

import subprocess
import sys
import zipfile
from pathlib import Path

import polars as pl
import pytest

import fedmarket
from fedmarket.contract.schema import load_contract
from fedmarket.errors import ContractViolation, UsageError
from fedmarket.models.released import load_model, save_model
from fedmarket.scoring import score_file

ROOT = Path(__file__).parents[2]
CONTRACT = ROOT / "experiments" / "demo" / "contract.toml"
CUSTOMERS = ROOT / "experiments" / "demo" / "customers.csv"


def test_a_whole_bundle_is_good_and_epsilons_are_recomputed(tiny):
    audit = fedmarket.verify(str(tiny.bundle))
    assert audit.good
    assert dict(audit.epsilons.select("party", "epsilon").rows()) == tiny.results["ledger"]["epsilon"]
    assert audit.epsilons["read_whole"].all()
    assert dict(audit.history.group_by("party").agg(pl.col("epsilon").max()).rows()) == dict(
        audit.epsilons.select("party", "epsilon").rows()
    )
    assert repr(audit) == "Audit(integrity holds, completeness holds, promise holds)"


def test_a_bundle_without_a_ledger_is_not_good(tiny, tmp_path: Path):
    with zipfile.ZipFile(tiny.bundle) as archive:
        archive.extractall(tmp_path)
    (tmp_path / "ledger-0.jsonl").unlink()
    audit = fedmarket.verify(tmp_path)
    assert not audit.good
    assert {finding.question for finding in audit.findings} >= {"completeness"}
    assert "<b>completeness</b>: BROKEN" in audit._repr_html_()
    assert "BROKEN" in audit.html.upper()
    with pytest.raises(UsageError):
        fedmarket.verify(tmp_path / "nothing.zip")


def test_an_auditor_opens_results_and_bundles_where_torch_is_missing(tiny):
    script = (
        "import sys\n"
        "class Missing:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name in ('torch', 'flwr', 'safetensors', 'sklearn', 'opacus'): raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Missing())\n"
        "import fedmarket\n"
        f"result = fedmarket.Result.open({str(tiny.folder)!r})\n"
        "result.plot('arms')._repr_html_()\n"
        f"fedmarket.check({str(CUSTOMERS)!r}, contract={str(CONTRACT)!r})\n"
        "print(fedmarket.verify(result.bundle).good)\n"
    )
    ran = subprocess.run([sys.executable, "-"], input=script, capture_output=True, text=True, timeout=120, check=False)
    assert (ran.stdout, ran.stderr[-2000:]) == ("True\n", "")


def test_a_frame_and_a_file_are_checked_alike():
    table = pl.read_csv(CUSTOMERS, infer_schema=False)
    assert fedmarket.check(table, contract=CONTRACT) == fedmarket.check(str(CUSTOMERS), contract=str(CONTRACT))
    with pytest.raises(ContractViolation) as violation:
        fedmarket.check(table.drop("responded"), contract=CONTRACT)
    assert any("responded" in rule for rule in violation.value.broken)


def test_scores_are_those_of_the_command(tiny, market: Path, tmp_path: Path):
    contract = market.with_name("contract.toml")
    score_file(tiny.model, contract=load_contract(contract), data=CUSTOMERS, output=tmp_path / "scores.parquet")
    scores = fedmarket.predict(str(CUSTOMERS), model=tiny.model, contract=contract)
    assert scores.equals(pl.read_parquet(tmp_path / "scores.parquet"))


def test_a_model_without_privacy_is_warned_of(tiny, market: Path, tmp_path: Path):
    agreed = load_contract(market.with_name("contract.toml"))
    released, path = load_model(tiny.model, agreed), tmp_path / "model.safetensors"
    save_model(path, released.state, model=released.model, contract=agreed, private=False)
    with pytest.warns(UserWarning, match="NOT PRIVATE"):
        fedmarket.predict(CUSTOMERS, model=path, contract=market.with_name("contract.toml"))
