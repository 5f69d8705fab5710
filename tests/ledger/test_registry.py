"""Records for the Deployments Registry: complete, of what holds only, and held against their schema."""

import copy
import json
import runpy
from collections import Counter
from pathlib import Path

import pytest

from fedmarket.errors import DataError
from fedmarket.ledger.registry import broken_rules, registry_of, schema
from fedmarket.ledger.spending import epsilon_of
from fedmarket.ledger.verify import verify
from fedmarket.privacy.mechanism import Grid, Mechanism

MADE = runpy.run_path(str(Path(__file__).with_name("bundles.py")))
FIELDS = {
    "deployment", "variant", "parameters", "actors", "tuning", "accounting", "implementation", "not_protected",
    "evidence", "open_questions",
}  # fmt: skip


@pytest.fixture(scope="module", params=["own", "shared", "sampled"])
def document(request):
    return registry_of(verify(MADE["whole"](plan=MADE["plan_of"](kind=request.param)).bundle()))


def test_a_released_model_has_one_record_with_every_field(document):
    (record,) = document["records"]
    assert set(record) == FIELDS
    assert record["deployment"]["model_hash"] == MADE["hashed"]("model of the run")
    assert record["parameters"]["epsilon"] > 0
    assert record["tuning"]["accounted"] is False
    assert len(record["parameters"]["of_each_observer"]) == 5
    assert json.loads(json.dumps(document, allow_nan=False)) == document


def test_every_key_of_a_record_is_required_by_the_schema(document):
    def keys(value, path=()):
        if isinstance(value, dict):
            for key in value:
                yield (*path, key)
                yield from keys(value[key], (*path, key))
        elif isinstance(value, list):
            for place, item in enumerate(value):
                yield from keys(item, (*path, place))

    for path in keys(document):
        changed = copy.deepcopy(document)
        inner = changed
        for part in path[:-1]:
            inner = inner[part]
        del inner[path[-1]]
        assert broken_rules(changed, schema()), path
        inner[path[-1]] = {"extra": 1}
        assert broken_rules(changed, schema()), path


def test_epsilon_can_be_found_again_from_the_record_alone(document):
    (record,) = document["records"]
    for party in record["parameters"]["of_each_party"]:
        (data,) = party["data_sets"]
        found = max(recomputed(data[group], record, party) for group in ("trained", "held_out"))
        assert found == pytest.approx(data["epsilon"], abs=1e-9) == pytest.approx(party["epsilon"], abs=1e-9)


def recomputed(uses, record, party):
    mechanisms = [
        (Mechanism(
            phase=use["phase"], clip_norm=use["clip_norm"], noise_multiplier=use["noise_multiplier"],
            sample_rate=use["sample_rate"], releases=use["count"], length=use["length"],
            grid=use["shares"] and Grid(resolution=use["resolution"], shares=use["shares"], slack=use["slack"]),
        ), use["count"])
        for use in uses
    ]  # fmt: skip
    groups = (Counter(dict(mechanisms)), Counter())
    return epsilon_of(groups, delta=party["delta"], adjacency=record["variant"]["adjacency"]).epsilon


def test_a_record_says_what_was_checked_and_whether_keys_were_compared(document):
    (record,) = document["records"]
    evidence = record["evidence"]
    assert (evidence["roster_compared"], evidence["log_key_compared"]) == (False, False)
    assert evidence["checkpoint"]["size"] == evidence["log_size"]
    assert sum("NOT COMPARED" in line for line in record["open_questions"]) == 2
    assert record["deployment"]["contract_hash"] == MADE["hashed"]("contract")
    shares = {mechanism["noise_shares"] for mechanism in record["parameters"]["mechanisms"]}
    assert shares == ({2} if record["variant"]["model"] == "distributed" else {None})


def test_our_validator_agrees_with_another(document):
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft202012Validator.check_schema(schema())
    assert jsonschema.Draft202012Validator(schema()).is_valid(document)
    document = copy.deepcopy(document)
    document["records"][0]["parameters"]["epsilon"] = -1
    assert not jsonschema.Draft202012Validator(schema()).is_valid(document)
    assert broken_rules(document, schema())


@pytest.mark.parametrize(
    ("value", "rules"),
    [(True, {"type": "integer"}), (1, {"type": "string"}), ("a", {"pattern": "^b"}), (0, {"exclusiveMinimum": 0}),
     (float("nan"), {"minimum": 0}), ([], {"minItems": 1}), ("", {"minLength": 1}), ("a", {"enum": ["b"]}),
     ({"b": 1}, {"additionalProperties": False}), (2, {"const": 1})],
)  # fmt: skip
def test_each_rule_of_a_schema_is_checked(value, rules):
    assert len(broken_rules(value, rules)) == 1


def test_an_unknown_rule_is_not_passed_over():
    with pytest.raises(DataError, match="unknown keyword maxLength"):
        broken_rules("a", {"maxLength": 1})


def test_what_does_not_hold_is_not_recorded():
    with pytest.raises(DataError, match="expected a bundle that holds"):
        registry_of(verify(MADE["whole"](cap="1.0").bundle()))


def test_without_a_released_model_there_is_no_record():
    with pytest.raises(DataError, match="expected a released model"):
        registry_of(verify(MADE["Market"]().opened().joined().rounds().bundle()))


def test_a_withdrawn_model_has_no_record():
    made = MADE["whole"]()
    made.all("withdrawn", model_hash=MADE["hashed"]("model of the run"), reason="a customer asked").logged()
    with pytest.raises(DataError, match="expected a released model"):
        registry_of(verify(made.bundle()))
