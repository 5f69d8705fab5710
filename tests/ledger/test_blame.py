"""Who is named when something is wrong: the party that signed it, and nobody for what merely follows from it."""

import json
import runpy
from dataclasses import replace
from pathlib import Path

import pytest

from fedmarket.ledger.canonical import canonical
from fedmarket.ledger.envelope import read_envelope, seal
from fedmarket.ledger.verify import verify

MADE = runpy.run_path(str(Path(__file__).with_name("bundles.py")))
plan_of, whole, found, with_ledger = MADE["plan_of"], MADE["whole"], MADE["found"], MADE["with_ledger"]


@pytest.fixture(scope="module")
def market():
    return whole()


def again(envelope, signer, **changed):
    """Return an entry in which something else is said, signed by ``signer``."""
    return seal(canonical(json.loads(read_envelope(envelope).payload) | changed), signer)


def test_what_follows_from_a_broken_entry_is_one_line_and_accuses_nobody(market):
    bundle, known = market.bundle(), market.parties[1].envelopes
    stranger = MADE["identity_of"]("stranger")
    report = found(
        with_ledger(bundle, 1, [*known[:4], again(known[4], stranger, time="2026-03-03T03:03:03Z"), *known[5:]])
    )
    assert len(report) == 2
    assert report[0].startswith("integrity: ledger-1.jsonl, party Beta Insurance, entry 4: entry: expected")
    assert report[1].startswith(
        "integrity: log.jsonl, party Beta Insurance, entry 4: its entries in the log from there"
    )
    assert "2 findings about its entries in the log follow from this" in report[1]


def test_a_lost_line_is_not_held_against_the_party_as_a_second_ledger(market):
    bundle, known = market.bundle(), market.parties[1].envelopes
    verdict = verify(with_ledger(bundle, 1, [*known[:4], *known[5:]]))
    assert len(verdict.findings) == 2
    assert not any("two signed versions" in line for line in verdict.lines)
    assert verdict.verdicts == {"integrity": "broken", "completeness": "broken", "promise": "not-established"}


@pytest.mark.parametrize("changed", [{"time": "2026-03-03T03:03:03Z"}, {"previous": "0" * 64}])
def test_two_versions_that_the_party_signed_are_both_named_as_the_proof(market, changed):
    bundle, party = market.bundle(), market.parties[1]
    known = party.envelopes
    report = found(with_ledger(bundle, 1, [*known[:4], again(known[4], party.signer, **changed), *known[5:]]))
    (line,) = [line for line in report if "two signed versions" in line]
    assert "party Beta Insurance, entry 4, log entry" in line
    assert line.endswith("found two signed versions of this entry: both are the proof")
    assert not any("found none" in each or "order of a party" in each for each in report)


def test_a_version_in_the_log_that_the_party_did_not_sign_is_not_held_against_it(market):
    stranger = MADE["identity_of"]("stranger")
    old = market.parties[1].envelopes[4]
    log = [again(each, stranger, time="2026-03-03T03:03:03Z") if each == old else each for each in market.log]
    report = found(replace(market.bundle(), log=tuple(log)))
    assert any("an entry that its party's key did not sign" in line for line in report)
    assert not any("two signed versions" in line for line in report)


def test_an_entry_beyond_the_end_that_the_party_did_not_sign_does_not_cut_its_ledger(market):
    stranger = MADE["identity_of"]("stranger")
    forged = again(market.parties[1].envelopes[-1], stranger, sequence=len(market.parties[1].envelopes))
    verdict = verify(replace(market.bundle(), log=(*market.log, forged)))
    assert "its party's key did not sign" in str(verdict.findings[0])
    assert verdict.unread == ()


def test_a_key_that_came_after_the_broken_entry_is_not_a_stranger_to_checkpoints():
    made = MADE["Market"]().opened().joined()
    party = made.parties[0]
    party.say("rotated", public_key=MADE["identity_of"]("new key").public_hex, reason="a new machine")
    party.signer = MADE["identity_of"]("new key")
    bundle = made.logged().bundle()
    report = found(with_ledger(bundle, 0, [party.envelopes[0], b"{}", *party.envelopes[2:]]))
    assert not any("checkpoint" in line for line in report)


def test_a_party_whose_ledger_is_missing_is_not_counted_out_of_the_noise():
    made = whole(plan=plan_of(kind="shared"), names=("Alpha Bank", "Beta Insurance", "Gamma Travel"))
    bundle = made.bundle()
    assert verify(bundle).good
    verdict = verify(with_ledger(bundle, 0, ()))
    assert verdict.verdict("promise") == "not-established"
    assert not any("share the noise" in line for line in verdict.lines)
    without = replace(bundle, ledgers=bundle.ledgers[:2], manifest=bundle.manifest.model_copy(
        update={"parties": bundle.manifest.parties[:2]}))  # fmt: skip
    assert verify(without).verdict("promise") == "broken"
