"""What of a risk document other pages carry: every key that is used is checked, and no other."""

import json
from pathlib import Path

import pytest

from fedmarket.attacks.measured import LARGEST, read_measured, same_epsilon
from fedmarket.errors import ConfigError


def test_rows_join_what_was_attained_before_and_after(made_risk, tmp_path: Path):
    (tmp_path / "risk.json").write_text(json.dumps(made_risk() | {"what else": 1}), encoding="utf-8")
    (row,) = read_measured(tmp_path / "risk.json").rows
    assert (row.group, row.customers, row.views) == (
        "random customers", 100, ("informed update", "informed aggregate"),
    )  # fmt: skip
    assert (row.before.estimate, row.after.high, row.limit, row.cut.certified) == (
        0.9,
        0.15000000000000002,
        0.107,
        0.875,
    )


@pytest.mark.parametrize(("gaussian", "expected"), [(None, 0.4), (0.7, 0.7), (0.1, 0.4)])
def test_the_lower_bound_is_the_larger_one_of_the_first_score(made_risk, tmp_path: Path, gaussian, expected: float):
    document = made_risk()
    document["gate"]["readings"][0]["gaussian"] = gaussian
    document["gate"]["readings"].append({"epsilon": 9.0, "gaussian": None, "claimed": 1.0})
    (tmp_path / "risk.json").write_text(json.dumps(document), encoding="utf-8")
    assert read_measured(tmp_path / "risk.json").lower_bound == expected


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("format", "fedmarket-risk/9", "format"),
        ("epsilon", "1", "epsilon"),
        ("epsilon", float("nan"), "epsilon"),
        ("gate", {"verdict": "fine"}, "gate.verdict"),
        ("membership", {}, "membership.watched: missing"),
    ],
)
def test_a_wrong_key_is_named(made_risk, tmp_path: Path, key: str, value: object, said: str):
    (tmp_path / "risk.json").write_text(json.dumps(made_risk() | {key: value}), encoding="utf-8")
    with pytest.raises(ConfigError, match=rf"risk\.json: .*{said}"):
        read_measured(tmp_path / "risk.json")


def test_a_reduction_of_what_was_not_measured_is_refused(made_risk, tmp_path: Path):
    document = made_risk()
    document["membership"]["reductions"][0]["after"] = "model"
    (tmp_path / "risk.json").write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(ConfigError, match="a reduction of 'model', which was not measured"):
        read_measured(tmp_path / "risk.json")


@pytest.mark.parametrize("content", [b"nothing", b"[]", b"\xff", b"[" * 10**5, b" " * LARGEST + b"{}"])
def test_what_is_no_document_is_one_line(tmp_path: Path, content: bytes):
    (tmp_path / "risk.json").write_bytes(content)
    with pytest.raises(ConfigError, match="expected a JSON document"):
        read_measured(tmp_path / "risk.json")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_measured(tmp_path / "none.json")


def test_two_accountants_of_one_plan_may_differ_and_two_plans_not():
    assert same_epsilon(0.9999987948, 0.9999987939)
    assert not same_epsilon(1.0, 0.99)
    assert not same_epsilon(float("inf"), 1.0)
