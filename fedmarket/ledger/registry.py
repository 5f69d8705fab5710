"""One record for each released model, in the fields of the Differential Privacy Deployments Registry.

The registry (NIST and partners, 2025, after Dwork, Kohli and Mulligan 2019, "Differential privacy in practice: expose
your epsilons!") asks for variant, unit, parameters, actors and trust assumptions, tuning, and what is not protected.
The fields are in ``deployment.schema.json`` beside this module; every record is held against it before it is written.
"""

import json
import math
import re
from dataclasses import asdict
from importlib.resources import files
from typing import Any

from fedmarket.errors import DataError
from fedmarket.ledger.findings import PartyAccount, RunAccount, Verdict

FORMAT = "fedmarket-deployments/1"

_TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict,
    "array": list,
    "string": str,
    "number": (int, float),
    "integer": int,
    "boolean": bool,
    "null": type(None),
}

_KNOWN = {
    "$schema", "$id", "$defs", "$ref", "title", "description", "type", "const", "enum", "pattern", "minimum",
    "exclusiveMinimum", "minItems", "minLength", "items", "properties", "required", "additionalProperties",
}  # fmt: skip


def registry_of(verdict: Verdict) -> dict[str, Any]:
    """Return the records of all released models that were not withdrawn, as one document.

    Raises:
        DataError: if the bundle does not hold: what is not verified is not put into a register; or if there is no
            released model.
    """
    if not verdict.good:
        raise DataError(f"expected a bundle that holds, got {len(verdict.findings)} finding(s): {verdict.findings[0]}")
    records = [
        _record(run, model, verdict) for run in verdict.runs for model in run.models if model not in run.withdrawn
    ]
    if not records:
        raise DataError("expected a released model, got none in this bundle")
    document = {"format": FORMAT, "records": records}
    if broken := broken_rules(document, schema()):
        raise DataError(f"the record breaks its schema: {broken[0]}")
    return document


def _record(run: RunAccount, model: str, verdict: Verdict) -> dict[str, Any]:
    parties = [party for party in verdict.parties if party.name in run.parties]
    plan, worst = run.plan, max(parties, key=lambda party: party.epsilon)
    shared = plan["mechanisms"][0]["grid"] is not None
    return {
        "deployment": {
            "model_hash": model,
            "run": run.run,
            "terms_hash": run.terms_hash,
            "contract_hash": run.contract_hash,
        },
        "variant": {
            "name": "approximate differential privacy",
            "adjacency": plan["adjacency"],
            "unit": plan["unit"],
            "model": "distributed" if shared else "local to each party",
        },
        "parameters": {
            "epsilon": _number(worst.epsilon),
            "delta": worst.delta,
            "scope": "all that each party released of the data set in this ledger, over all runs; the largest party's",
            "of_each_party": [_of_party(party) for party in parties],
            "held_by_all_parties": {
                "epsilon": _number(verdict.overlap.epsilon),
                "delta": verdict.overlap.delta,
                "statement": verdict.overlap.words,
            },
            "of_each_observer": [
                {"observer": name, "who": who, "epsilon_of_the_run": _number(epsilon)}
                for name, who, epsilon in run.observers
            ],
            "mechanisms": [
                {"name": "Gaussian, discrete" if shared else "Gaussian"}
                | {key: mechanism[key] for key in ("phase", "releases", "sampling")}
                | {key: float(mechanism[key]) for key in ("clip_norm", "noise_multiplier", "sample_rate")}
                | {"noise_shares": mechanism["grid"]["shares"] if mechanism["grid"] else None}
                for mechanism in plan["mechanisms"]
            ],
        },
        "actors": {
            "data_holders": list(run.parties),
            "aggregator": verdict.log_key.partition("+")[0],
            "assumed_colluders": plan["assumed_colluders"],
            "minimum_survivors": plan["minimum_survivors"],
            "trust_assumptions": list(verdict.assumptions),
        },
        "tuning": {
            "accounted": False,
            "statement": "No entry of a ledger speaks of choosing hyperparameters; what was tried on customers' rows "
            "outside these runs is not in epsilon.",
        },
        "accounting": {
            "accountants": sorted({name for party in parties for data in party.data for name in data.accountants}),
            "composed_over": "all runs and rounds of a data set together",
        },
        "implementation": [{"version": version, "hash": code} for version, code in run.code],
        "not_protected": list(verdict.not_protected),
        "evidence": _evidence(verdict),
        "open_questions": list(verdict.questions),
    }


def _of_party(party: PartyAccount) -> dict[str, Any]:
    worst = max(party.data, key=lambda data: data.epsilon)
    return {
        "party": party.name,
        "epsilon": _number(party.epsilon),
        "epsilon_without_sampling": None if worst.unsampled is None else _number(worst.unsampled),
        "delta": party.delta,
        "cap": party.cap,
        "data_sets": [
            {
                "data_set": data.data_set,
                "in_use": data.in_use,
                "epsilon": _number(data.epsilon),
                "trained": [asdict(use) for use in data.trained],
                "held_out": [asdict(use) for use in data.held_out],
            }
            for data in party.data
        ],
    }


def _evidence(verdict: Verdict) -> dict[str, Any]:
    found = verdict.evidence
    version, code = found.checker
    return {
        "bundle_hash": found.bundle_hash,
        "bundle_form": found.bundle_form,
        "checked_at": found.time,
        "checker": {"version": version, "hash": code},
        "checkpoint": found.checkpoint and asdict(found.checkpoint),
        "roster_hash": verdict.roster_hash,
        "roster_compared": verdict.roster_compared,
        "log_key": verdict.log_key,
        "log_key_compared": verdict.log_key_compared,
        "log_size": verdict.log_size,
        "quorum": verdict.quorum,
    }


def _number(value: float) -> float | str:
    return value if math.isfinite(value) else "infinite"


def schema() -> dict[str, Any]:
    """Return the JSON schema of a document of records."""
    text = files("fedmarket.ledger").joinpath("deployment.schema.json").read_text(encoding="utf-8")
    return dict(json.loads(text))


def broken_rules(value: Any, rules: dict[str, Any]) -> list[str]:
    """Return what of ``value`` breaks a JSON schema, one line each, as a path and what was expected.

    Only the keywords that our schema uses are known (JSON Schema 2020-12); another one is an error, not a pass.

    Raises:
        DataError: if the schema has an unknown keyword.
    """
    return _broken(value, rules, "record", rules)


def _broken(value: Any, rules: dict[str, Any], path: str, root: dict[str, Any]) -> list[str]:
    if unknown := set(rules) - _KNOWN:
        raise DataError(f"schema: unknown keyword {min(unknown)}")
    if "$ref" in rules:
        return _broken(value, root["$defs"][rules["$ref"].removeprefix("#/$defs/")], path, root)
    if "type" in rules and not _is_a(value, rules["type"]):
        return [f"{path}: expected {rules['type']}, got {type(value).__name__}"]
    found = [f"{path}: {said}" for said in _of_scalar(value, rules)]
    if isinstance(value, list):
        if len(value) < rules.get("minItems", 0):
            found.append(f"{path}: expected at least {rules['minItems']} items, got {len(value)}")
        for place, item in enumerate(value):
            found += _broken(item, rules.get("items", {}), f"{path}[{place}]", root)
    if isinstance(value, dict):
        properties = rules.get("properties", {})
        found += [f"{path}.{key}: missing" for key in rules.get("required", ()) if key not in value]
        if rules.get("additionalProperties") is False:
            found += [f"{path}: unknown key" for key in value if key not in properties]
        for key in value.keys() & properties.keys():
            found += _broken(value[key], properties[key], f"{path}.{key}", root)
    return found


def _is_a(value: Any, kinds: str | list[str]) -> bool:
    names = [kinds] if isinstance(kinds, str) else kinds
    return any(isinstance(value, _TYPES[name]) and (name == "boolean" or not isinstance(value, bool)) for name in names)


def _of_scalar(value: Any, rules: dict[str, Any]) -> list[str]:
    found = []
    if "const" in rules and value != rules["const"]:
        found.append(f"expected {rules['const']!r}")
    if "enum" in rules and value not in rules["enum"]:
        found.append(f"expected one of {rules['enum']}")
    if isinstance(value, str):
        if "pattern" in rules and not re.search(rules["pattern"], value):
            found.append(f"expected text like {rules['pattern']}")
        if len(value) < rules.get("minLength", 0):
            found.append(f"expected at least {rules['minLength']} characters")
    elif isinstance(value, int | float) and not isinstance(value, bool):
        if "minimum" in rules and not value >= rules["minimum"]:
            found.append(f"expected at least {rules['minimum']}")
        if "exclusiveMinimum" in rules and not value > rules["exclusiveMinimum"]:
            found.append(f"expected more than {rules['exclusiveMinimum']}")
    return found
