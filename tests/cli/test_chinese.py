"""Chinese columns, words, parties and paths, from the table to scores and pages, as a partner and an auditor would."""

import json
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

CONTRACT = """
format = "fedmarket-contract/1"
name = "市场"
task = "propensity"
minimum_parties = 2
[label]
column = "购买"
positive = "是"
negative = "否"
[privacy]
unit = "row"
adjacency = "add-or-remove-one"
delta = 1e-5
[[column]]
name = "年龄"
kind = "numeric"
lower = 0
upper = 100
edges = [30, 60]
[[column]]
name = "城市"
kind = "category"
vocabulary = ["北京", "上海"]
"""
OWN_FILE = (
    'kind = "synthetic-market"\ncustomers = 1500\nparties = 4\nseed = 7',
    'kind = "file"\npath = "客户.csv"\npartition = { kind = "column", column = "公司" }',
)
COMPANIES = ("甲公司", "乙公司", "丙公司", "丁公司")
BOM = "\N{ZERO WIDTH NO-BREAK SPACE}"


@pytest.fixture
def market(write_market, tmp_path: Path) -> Path:
    """A folder with experiment, contract and table."""
    folder = tmp_path / "实验"
    write_market(folder, OWN_FILE, ('name = "tiny"', 'name = "中文实验"'))
    (folder / "contract.toml").write_text(CONTRACT, encoding="utf-8")
    rows = range(600)
    pl.DataFrame(
        {
            "公司": [COMPANIES[row % 4] for row in rows],
            "年龄": [row * 7 % 101 for row in rows],
            "城市": [("北京", "上海", "广州")[row % 3] for row in rows],
            "购买": ["是" if row * 7 % 101 + row * 13 % 40 > 75 else "否" for row in rows],
        }
    ).write_csv(folder / "客户.csv")
    return folder


def test_a_market_in_chinese_goes_the_whole_way(fedmarket: Callable, market: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(Path(__file__).parents[2])  # where the apps are
    table, found = ("--contract", market / "contract.toml", "--data", market / "客户.csv"), market / "结果"
    checked = fedmarket("check", *table)
    assert checked.code == 0
    assert all(word in checked.out for word in ("市场", "年龄", "城市", "公司"))
    secret = ("--set", 'privacy.generator="operating-system"')
    ran = fedmarket("simulate", market / "config.toml", "--output", found, *secret)
    assert ran.code == 0
    assert all(name in ran.out for name in (*COMPANIES, f"  {found}/report.html"))
    for name, words in {"report.html": (*COMPANIES, "中文实验"), "results.json": (*COMPANIES, "中文实验")}.items():
        text = (found / name).read_text(encoding="utf-8")
        assert all(word in text for word in words), name
    scored = fedmarket("predict", "--model", found / "model.safetensors", *table, "--output", market / "分数.csv")
    assert (scored.code, scored.out) == (0, f"600 customers scored: {market}/分数.csv\n")
    verified = fedmarket("verify", found / "bundle.zip", "--html", market / "审计.html")
    assert verified.code == 0
    page = (market / "审计.html").read_text(encoding="utf-8")
    assert all(name in verified.out and name in page for name in COMPANIES)
    told = json.loads(fedmarket("verify", found / "bundle.zip", "--json").out)
    assert [party["name"] for party in told["parties"]] == sorted(COMPANIES)


def test_a_broken_rule_names_the_chinese_column(fedmarket: Callable, market: Path):
    (market / "contract.toml").write_text(
        CONTRACT.replace('"北京", "上海"]', '"北京"]\nclosed = true'), encoding="utf-8"
    )
    ran = fedmarket("check", "--contract", market / "contract.toml", "--data", market / "客户.csv")
    assert ran.code == 1
    assert "column '城市': 400 values outside the closed vocabulary of 1 words" in ran.err
    assert "上海" not in ran.err + ran.out


def test_a_byte_order_mark_changes_nothing(fedmarket: Callable, market: Path):
    words = ("check", "--contract", market / "contract.toml", "--data", market / "客户.csv")
    without = fedmarket(*words)
    text = (market / "客户.csv").read_text(encoding="utf-8")
    (market / "客户.csv").write_text(BOM + text, encoding="utf-8")
    assert fedmarket(*words) == without


def test_another_encoding_is_refused_with_the_way_out(fedmarket: Callable, market: Path):
    path = market / "客户.csv"
    path.write_bytes(path.read_text(encoding="utf-8").encode("gb18030"))
    ran = fedmarket("check", "--contract", market / "contract.toml", "--data", path)
    assert ran.code == 1
    assert ran.error == (
        f"{path}: expected UTF-8 text, but byte 0 is not; save it as CSV UTF-8, or convert it "
        "(iconv -f GB18030 -t UTF-8)"
    )
