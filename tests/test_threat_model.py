"""The threat model names the test behind each of its claims, and each of them is there."""

import re
from pathlib import Path

HERE = Path(__file__).parent
PAGE = (HERE.parent / "docs" / "explanation" / "threat-model.md").read_text(encoding="utf-8")


def test_every_test_that_the_threat_model_names_is_there():
    named = set(re.findall(r"`([a-z]+/test_[a-z_]+\.py)`", PAGE))
    assert len(named) > 12
    assert not [name for name in named if not (HERE / name).is_file()]


def test_every_line_of_the_table_names_one():
    table = PAGE.partition("## Who can do what")[2].partition("\n## ")[0]
    lines = [line for line in table.splitlines() if line.startswith("|")][2:]
    assert len(lines) > 10
    assert all("test_" in line or "attack-operator" in line for line in lines)
