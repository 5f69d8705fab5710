"""An auditor's commands: exit codes, one finding a line, and nothing heavy loaded."""

import json
import re
import runpy
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from fedmarket.files import sha256_of
from fedmarket.ledger.bundle import read_bundle, write_bundle
from fedmarket.models.state import ModelState

MADE = runpy.run_path(str(Path(__file__).parents[1] / "ledger" / "bundles.py"))


@pytest.fixture
def bundle(tmp_path):
    write_bundle(MADE["whole"]().bundle(), tmp_path / "bundle.zip")
    return tmp_path / "bundle.zip"


@pytest.fixture
def broken(tmp_path):
    """A bundle in which one entry of one party is another."""
    write_bundle(MADE["whole"]().bundle(), tmp_path / "broken")
    path = tmp_path / "broken" / "ledger-1.jsonl"
    lines = path.read_bytes().split(b"\n")
    lines[3], lines[4] = lines[4], lines[3]
    path.write_bytes(b"\n".join(lines))
    return tmp_path / "broken"


def test_a_folder_of_results_says_where_its_bundle_is(fedmarket, bundle):
    ran = fedmarket("verify", bundle.parent)
    assert ran.code == 2
    assert f"the bundle in it is {bundle}" in ran.error


def test_a_bundle_that_holds_ends_with_zero(fedmarket, bundle, tmp_path):
    (tmp_path / "roster.toml").write_text(MADE["whole"]().roster.to_toml(), encoding="utf-8")
    key = read_bundle(bundle).manifest.log_key
    ran = fedmarket("verify", bundle, "--roster", tmp_path / "roster.toml", "--log-key", key)
    assert ran.code == 0
    verdicts = "integrity: holds\ncompleteness: holds\npromise: holds\n"
    said = f"{verdicts}Alpha Bank: epsilon 1.1705 of a cap of 4 per customer (column customer), delta 1e-05\n"
    assert said in ran.out
    assert "--roster" not in ran.out
    assert ran.out.startswith("keys: the roster and the log's key are those you gave\nroster: ")
    assert f"log key: {key}\nbundle: SHA-256 of the zip {sha256_of(bundle.read_bytes())}\nchecked: " in ran.out
    assert ran.out.count("integrity: holds") == 1


def test_keys_that_nobody_compared_are_the_first_line(fedmarket, bundle):
    said = "keys: NOT COMPARED with copies of your own (--roster, --log-key); all below is by the bundle's own keys\n"
    assert fedmarket("verify", bundle).out.startswith(said)


def test_a_bundle_that_does_not_hold_ends_with_one_and_a_finding_a_line(fedmarket, broken):
    ran = fedmarket("verify", broken)
    assert ran.code == 1
    said = "integrity: ledger-1.jsonl, party Beta Insurance, entry 3: entry: expected one that follows"
    verdicts = "integrity: BROKEN\ncompleteness: holds\npromise: not established\n"
    assert f"{verdicts}{said}" in ran.out
    assert ran.out.endswith(verdicts)


def test_a_party_of_whom_nothing_was_read_is_named(fedmarket, broken):
    (broken / "ledger-0.jsonl").unlink()
    assert "Alpha Bank: epsilon unknown, as nothing was read" in fedmarket("verify", broken).out


def test_what_attacks_measured_is_on_the_page_and_can_break_a_bundle(fedmarket, bundle, made_risk, tmp_path):
    known = {"epsilon": 1.1705, "unit": "column:customer"}
    for lower, code in ((0.4, 0), (2.0, 1)):
        (tmp_path / "risk.json").write_text(json.dumps(made_risk(lower=lower, **known)), encoding="utf-8")
        ran = fedmarket("verify", bundle, "--risk", tmp_path / "risk.json", "--html", tmp_path / "audit.html")
        assert ran.code == code
        assert ("promise: risk document: epsilon, measured from below" in ran.out) == bool(code)
        assert "risk document: read; what contradicts" in ran.out
        assert "not proved by the ledgers" in (tmp_path / "audit.html").read_text(encoding="utf-8")
    assert fedmarket("verify", bundle, "--risk", tmp_path / "none.json").code == 2


def test_where_there_is_nothing_it_ends_with_two(fedmarket, tmp_path):
    assert fedmarket("verify", tmp_path / "none.zip").code == 2


def test_what_is_no_bundle_is_one_line_and_one(fedmarket, tmp_path):
    (tmp_path / "bundle.zip").write_bytes(b"nothing")
    ran = fedmarket("verify", tmp_path / "bundle.zip")
    assert (ran.code, ran.error.count("\n")) == (1, 0)
    assert "neither a folder nor a zip" in ran.error


def test_what_was_cut_or_is_another_file_is_told_apart(fedmarket, bundle, tmp_path):
    whole = bundle.read_bytes()
    for content, words in ((whole[: len(whole) // 2], "cut on its way"), (b"#" * 100, "is it the file that you meant")):
        (tmp_path / "other.zip").write_bytes(content)
        assert words in fedmarket("verify", tmp_path / "other.zip").error


def test_a_folder_around_the_bundle_says_which_one_to_name(fedmarket, broken):
    assert "name the folder in which manifest.json is" in fedmarket("verify", broken.parent).error


@pytest.mark.parametrize("name", ["bundle", "broken"])
def test_the_verdict_as_json_is_one_document(fedmarket, name, request):
    ran = fedmarket("verify", request.getfixturevalue(name), "--json")
    document = json.loads(ran.out)
    assert document["format"] == "fedmarket-verdict/1"
    assert document["good"] is (ran.code == 0) is (name == "bundle")


def test_another_log_key_is_found(fedmarket, bundle):
    ran = fedmarket("verify", bundle, "--log-key", "ledger.example/market+00000000+AAAA")
    assert ran.code == 1
    assert "log_key, by your copy" in ran.out


@pytest.mark.parametrize("name", ["bundle", "broken"])
def test_the_page_is_written_whether_it_holds_or_not(fedmarket, name, request, tmp_path):
    fedmarket("verify", request.getfixturevalue(name), "--html", tmp_path / "audit.html")
    assert "Audit of a privacy ledger" in (tmp_path / "audit.html").read_text(encoding="utf-8")


def test_a_record_is_exported_of_what_holds_only(fedmarket, bundle, broken, tmp_path):
    ran = fedmarket("export", bundle, "--registry", tmp_path / "record.json")
    assert (ran.code, ran.out.split(":")[0]) == (0, "1 record")
    assert ran.err.startswith("warning: keys: NOT COMPARED")
    assert len(json.loads((tmp_path / "record.json").read_text(encoding="utf-8"))["records"]) == 1
    ran = fedmarket("export", broken, "--registry", tmp_path / "none.json")
    assert ran.code == 1
    assert "expected a bundle that holds" in ran.error
    assert not (tmp_path / "none.json").exists()


def test_an_auditors_commands_load_neither_torch_nor_flower(bundle, tmp_path):
    script = (
        "import sys\nfrom fedmarket.cli.main import app\n"
        f"app(['verify', {str(bundle)!r}, '--html', {str(tmp_path / 'a.html')!r}], standalone_mode=False)\n"
        f"app(['export', {str(bundle)!r}, '--registry', {str(tmp_path / 'a.json')!r}], standalone_mode=False)\n"
        "print([name for name in ('torch', 'flwr', 'opacus', 'sklearn', 'polars') if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    assert ran.stdout.rstrip().endswith("[]")
    assert (tmp_path / "a.json").exists()


def snippets(language, opening, closing):
    """Return the programs of the how-to between two lines."""
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "audit-a-bundle.md").read_text(encoding="utf-8")
    blocks = re.findall(rf"```{language}\n(.*?)```", page, flags=re.DOTALL)
    return [block.partition(opening)[2].partition(closing)[0] for block in blocks if opening in block]


def test_the_example_of_the_how_to_gives_the_findings_that_it_shows(fedmarket, bundle, tmp_path):
    with zipfile.ZipFile(bundle) as archive:
        archive.extractall(tmp_path / "spoiled")
    (program,) = snippets("sh", "<<'END'\n", "END\n")
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True, timeout=60)
    said = fedmarket("verify", tmp_path / "spoiled").out
    assert (
        "party Beta Insurance, entry 4: entry: expected one that follows and keeps the rules, found the signature"
        in said
    )
    assert "found others: 2 findings about its entries in the log follow from this" in said


def test_the_example_of_the_how_to_finds_a_models_hash(tmp_path):
    numpy = pytest.importorskip("safetensors.numpy")
    vectors = {"centre": np.arange(2.0), "scale": np.ones(2), "parameters": np.arange(3.0), "calibration": np.ones(1)}
    numpy.save_file(vectors, tmp_path / "model.safetensors")
    (program,) = snippets("python", "from hashlib", "```")
    ran = subprocess.run(
        [sys.executable, "-c", f"from hashlib{program}"], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    assert ran.stdout.strip() == ModelState(**vectors).hash.hex()
