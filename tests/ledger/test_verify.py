"""What a verdict says: two bundles that hold, and one for each thing that can be wrong, under its own heading."""

import runpy
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from fedmarket.files import sha256_of
from fedmarket.ledger.bundle import Bundle, hash_of_files, read_bundle, write_bundle
from fedmarket.ledger.canonical import decimal
from fedmarket.ledger.code import installed_code
from fedmarket.ledger.meter import Meter
from fedmarket.ledger.replay import State, take
from fedmarket.ledger.spending import epsilon_of
from fedmarket.ledger.verify import MOST_FINDINGS, verify

MADE = runpy.run_path(str(Path(__file__).with_name("bundles.py")))
RUN, plan_of, whole, found = MADE["RUN"], MADE["plan_of"], MADE["whole"], MADE["found"]
with_ledger = MADE["with_ledger"]


@pytest.fixture(scope="module")
def market():
    return whole()


def changed(kind, at=(1,), **statement):
    """Return a change of the first statement of ``kind`` at some parties."""
    done = Counter()

    def change(place, _, said):
        if said["kind"] != kind or place not in at or done[place]:
            return said
        done[place] += 1
        return said | statement

    return change


@pytest.mark.parametrize("kind", ["own", "shared", "sampled"])
def test_a_valid_bundle_holds(kind):
    verdict = verify(whole(plan=plan_of(kind=kind)).bundle())
    assert (verdict.findings, verdict.integrity, verdict.completeness, verdict.good) == ((), True, True, True)


@pytest.mark.parametrize("kind", ["own", "shared", "sampled"])
def test_what_is_recomputed_is_what_the_party_itself_finds(kind):
    made = whole(plan=plan_of(kind=kind))
    for party, account in zip(made.parties, verify(made.bundle()).parties, strict=True):
        assert account.epsilon == pytest.approx(party.state.spent().epsilon, abs=1e-9)
        # A reservation far from the cap is weighed by the first accountant, and what stands at the end by both.
        first = next(name for name in ("exact", "pld") if name in account.data[0].accountants)
        assert account.points[-1].epsilon == pytest.approx(account.data[0].accountants[first], abs=1e-6)
        assert len(account.data[0].accountants) == 2


def test_bookkeeping_over_data_sets_and_void_rounds_is_that_of_the_replay():
    made = MADE["Market"]().opened().joined()
    party, figures = made.parties[0], [{"accountant": "pld", "version": "0", "epsilon": "0.5"}]
    for number, left in enumerate((False, True)):
        party.say("reserved", run=RUN, round=number, phase="centre", count=1, figures=figures,
                  cap="4.0")  # fmt: skip
        party.say("voided", run=RUN, round=number, left=left, reason="too few")
    party.say("reserved", run=RUN, round=2, phase="evaluate", count=1, figures=figures, cap="4.0")
    party.say("data-replaced", old=party.state.data_set, new="9" * 64, overlap=True, reason="another year")
    party.say("data-replaced", old="9" * 64, new="8" * 64, overlap=False, reason="another market")
    state, meter = State(), Meter()
    for envelope in party.envelopes:
        meter.take(take(state, envelope).statement, state)
        for data_set in state.lineage:
            groups = meter.groups(data_set, state)
            known = state.spent(data_set=data_set).epsilon
            assert epsilon_of(groups, delta=1e-5, adjacency="add-or-remove-one").epsilon == pytest.approx(known)
    assert meter.given_back == 1


def test_a_ledger_that_is_cut_is_intact_and_not_complete(market):
    bundle = market.bundle()
    ledgers = (bundle.ledgers[0][:-1], *bundle.ledgers[1:])
    verdict = verify(Bundle(manifest=bundle.manifest, ledgers=ledgers, log=bundle.log, checkpoints=bundle.checkpoints))
    assert (verdict.integrity, verdict.completeness) == (True, False)
    assert "the ledger ends before it" in str(verdict.findings[0])


def test_a_missing_party_is_named(market):
    bundle = market.bundle()
    ledgers = ((), *bundle.ledgers[1:])
    verdict = verify(Bundle(manifest=bundle.manifest, ledgers=ledgers, log=bundle.log, checkpoints=bundle.checkpoints))
    assert not verdict.completeness
    assert "ledger-0.jsonl, party Alpha Bank: ledger: expected" in str(verdict.findings[0])


def test_of_what_was_not_read_to_its_end_no_bound_is_stated(market):
    bundle = market.bundle()
    ledgers = ((*bundle.ledgers[0][:4], b"{}", *bundle.ledgers[0][5:]), (), *bundle.ledgers[2:])
    verdict = verify(Bundle(manifest=bundle.manifest, ledgers=ledgers, log=bundle.log, checkpoints=bundle.checkpoints))
    assert verdict.unread == ("Alpha Bank", "Beta Insurance")
    assert verdict.verdict("promise") == "not-established"
    assert not verdict.overlap.bounded
    said = "2 of 4 ledgers could not be read to their end: no bound can be stated"
    assert verdict.overlap.words.startswith(said)


def test_a_reservation_without_outcome_is_not_complete():
    made = MADE["Market"]().opened().joined()
    made.reserved(RUN, 0, "centre")
    verdict = verify(made.logged().bundle())
    assert verdict.integrity
    assert len(verdict.findings) == 4
    assert "entry 2, run 111111111111, round 0: outcome of a reservation" in str(verdict.findings[0])


def test_seeded_noise_is_flagged_as_not_private():
    verdict = verify(whole(plan=plan_of(generator="seeded-for-tests")).bundle())
    assert (verdict.integrity, verdict.completeness, verdict.good) == (True, True, False)
    assert all("NOT PRIVATE" in str(finding) for finding in verdict.findings)
    assert not verdict.runs[0].private


def test_a_passed_cap_is_found_by_the_auditors_own_epsilon():
    verdict = verify(whole(cap="1.0").bundle())
    assert verdict.integrity
    assert "epsilon beyond the cap: expected at most 1.0, found 1.170" in str(verdict.findings[0])


@pytest.mark.parametrize("wrong", ["0.726747", "0.0", "9.0"])
def test_an_announced_epsilon_that_is_not_the_recomputed_one_is_found(wrong):
    said = [{"accountant": name, "version": "1", "epsilon": wrong} for name in ("pld", "exact")]
    report = found(whole(change=changed("reserved", figures=said)).bundle())
    assert len(report) == 2
    assert report[0].startswith("integrity: ledger-1.jsonl, party Beta Insurance, entry 2, run 111111111111, round 0: ")


@pytest.mark.parametrize("key", ["terms_hash", "contract_hash"])
def test_a_party_that_joined_something_else_is_named(key):
    (line,) = found(whole(change=changed("joined", **{key: "0" * 64})).bundle())
    assert f"party Beta Insurance, entry 1, run 111111111111: {key}: expected the same" in line


def test_a_party_that_was_shown_another_model_is_named():
    said = found(whole(change=changed("committed", model_hash="0" * 64)).bundle())
    (line,) = [line for line in said if "model_hash" in line]
    assert line.startswith("integrity: ledger-1.jsonl, party Beta Insurance, entry 3,")
    assert "expected the same at all parties in a round, found another than 3 parties have" in line


def test_another_roster_is_found():
    report = found(whole(change=changed("joined", roster_hash="0" * 64)).bundle())
    assert any("roster_hash: expected" in line and "entry 1" in line for line in report)


def test_too_few_cosignatures_are_found():
    report = found(whole(cosigners=2).bundle())
    assert all("cosignatures of parties: expected at least 3 of 4, found 2" in line for line in report)
    assert found(whole(cosigners=3).bundle()) == []


def test_keys_of_the_bundle_are_held_against_ones_own(market):
    bundle = market.bundle()
    assert found(bundle, roster_hash=bundle.manifest.roster_hash, log_key=bundle.manifest.log_key) == []
    assert "by your copy" in found(bundle, roster_hash="0" * 64)[0]
    assert "by your copy" in found(bundle, log_key="another+1+x")[0]
    asked = verify(bundle).questions
    assert sum("(--roster)" in line or "(--log-key)" in line for line in asked) == 2


def test_a_rotated_key_signs_and_cosigns_from_then_on():
    made = MADE["Market"]().opened().joined()
    new = MADE["identity_of"]("new key")
    made.parties[0].say("rotated", public_key=new.public_hex, reason="a new machine")
    made.parties[0].signer = new
    verdict = verify(made.logged().bundle())
    assert verdict.good
    assert verdict.parties[0].changes[0].kind == "rotated"


def test_sampling_has_both_readings():
    (account, *_) = verify(whole(plan=plan_of(kind="sampled")).bundle()).parties
    assert account.data[0].unsampled > account.data[0].epsilon
    assert verify(whole().bundle()).parties[0].data[0].unsampled is None


def updates_of(kind):
    """Return a plan that begins with an update, and what both accountants find after its first."""
    plan = plan_of(kind=kind)
    plan = replace(plan, mechanisms=plan.mechanisms[1:])
    return plan, plan.spent({"update": 1}).accountants


@pytest.mark.parametrize("kind", ["own", "sampled"])
def test_one_accountant_or_both_may_be_announced(kind):
    plan, due = updates_of(kind)
    assert len(due) == 2
    for names in (*([name] for name in due), [*due]):
        said = [{"accountant": name, "version": "1", "epsilon": decimal(due[name])} for name in names]
        assert found(whole(plan=plan, change=changed("reserved", figures=said)).bundle()) == []


@pytest.mark.parametrize(("kind", "strange"), [("own", "prv"), ("sampled", "exact")])
def test_an_accountant_that_does_not_fit_or_one_said_twice_is_found(kind, strange):
    plan, due = updates_of(kind)
    first, *_ = said = [{"accountant": name, "version": "1", "epsilon": decimal(due[name])} for name in sorted(due)]
    for figures in ([*said, first], [first, first], [*said, first | {"accountant": strange}]):
        (line,) = found(whole(plan=plan, change=changed("reserved", figures=figures)).bundle())
        assert "entry 2, run 111111111111, round 0: accountants: expected one or all of " in line


@pytest.mark.parametrize("kind", ["own", "sampled"])
def test_near_the_cap_both_accountants_look_whatever_was_announced(kind):
    plan = plan_of(kind=kind)
    least, largest = sorted(plan.spent().accountants.values())
    between = decimal((least + largest) / 2) if kind == "sampled" else decimal(least - 1e-5)
    report = found(whole(plan=plan, cap=between).bundle())
    assert len(report) >= 4
    assert all(line.startswith("promise: ") and f"at most {between}, found {largest:.6f}" in line for line in report)
    assert found(whole(plan=plan, cap=decimal(largest)).bundle()) == []


def test_each_observer_has_an_epsilon_by_the_shares_it_misses():
    plan = plan_of(kind="shared")
    (run,) = verify(whole(plan=plan).bundle()).runs
    missed = {"public": 3, "server": 3, "party": 2, "coalition": 2, "bare": 1}
    assert {name: epsilon for name, _, epsilon in run.observers} == {
        name: plan.epsilon_against(shares) for name, shares in missed.items()
    }


def test_a_customer_of_all_parties_spends_the_sum(market):
    verdict = verify(market.bundle())
    assert verdict.overlap.epsilon == pytest.approx(sum(party.epsilon for party in verdict.parties))
    assert verdict.overlap.delta == pytest.approx(4e-5)
    assert verify(whole(plan=plan_of(kind="shared")).bundle()).overlap.delta > 4e-5


@pytest.mark.parametrize(("noise", "rate"), [("1e-05", "1.0"), ("0.01", "0.5")])
def test_what_no_accountant_can_finish_is_refused_at_once(noise, rate):
    sampling = "all-rows" if rate == "1.0" else "poisson"

    def change(_place, _number, said):
        if said["kind"] != "joined":
            return said
        mechanisms = [each | {"noise_multiplier": noise, "sample_rate": rate, "sampling": sampling, "releases": 10**9}
                      for each in said["plan"]["mechanisms"]]  # fmt: skip
        return said | {"plan": said["plan"] | {"mechanisms": mechanisms}}

    made = MADE["Market"](change=change).opened().joined()
    for party in made.parties:
        party.say("reserved", run=RUN, round=0, phase="update", count=10**8, cap="4.0",
                  figures=[{"accountant": "pld", "version": "0", "epsilon": "0.5"}])  # fmt: skip
    report = found(made.logged().bundle())
    assert any("expected one that can be accounted" in line for line in report)


def test_a_verdict_is_one_document(market):
    document = verify(market.bundle()).to_document()
    assert document["verdicts"] == dict.fromkeys(("integrity", "completeness", "promise"), "holds")
    assert document["good"]


def test_a_promise_is_broken_by_what_was_promised_alone():
    assert verify(whole(cap="1.0").bundle()).verdicts == {
        "integrity": "holds", "completeness": "holds", "promise": "broken",
    }  # fmt: skip
    made = MADE["Market"]().opened().joined()
    made.reserved(RUN, 0, "centre")
    assert verify(made.logged().bundle()).verdict("promise") == "not-established"


@pytest.mark.parametrize(("unit", "per"), [("row", "row"), ("column:customer", "customer (column customer)")])
def test_the_signed_unit_is_said_and_asked_for(unit, per):
    verdict = verify(whole(plan=replace(plan_of(), unit=unit)).bundle())
    assert (verdict.per, {party.per for party in verdict.parties}) == (per, {per})
    assert any("one row at each party?" in line for line in verdict.questions) is (unit == "row")
    assert ("with one row at each of all 4 parties" in verdict.overlap.words) is (unit == "row")


@pytest.mark.parametrize("roster", [None, True, False])
@pytest.mark.parametrize("log", [None, True, False])
def test_whose_keys_these_are_is_said_first(market, roster, log):
    bundle = market.bundle()
    known = {
        "roster_hash": {None: None, True: bundle.manifest.roster_hash, False: "0" * 64}[roster],
        "log_key": {None: None, True: bundle.manifest.log_key, False: "another+1+x"}[log],
    }
    verdict = verify(bundle, **known)
    assert (verdict.roster_compared, verdict.log_key_compared) == (roster is not None, log is not None)
    assert ("NOT COMPARED" in verdict.keys) is (None in (roster, log))
    assert ("NOT what you gave" in verdict.keys) is (False in (roster, log))
    assert (verdict.keys == "the roster and the log's key are those you gave") is (roster is True and log is True)
    asked = "".join(verdict.assumptions)
    assert ("hold " in asked) is (None in (roster, log))
    assert ("came to you another way" in asked) is (roster is not None or log is not None)


def test_the_evidence_says_what_was_checked_by_what_and_when(market, tmp_path):
    bundle, now = market.bundle(), datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
    write_bundle(bundle, tmp_path / "bundle.zip")
    write_bundle(bundle, tmp_path / "folder")
    of_zip = verify(read_bundle(tmp_path / "bundle.zip"), now=now).evidence
    of_folder = verify(read_bundle(tmp_path / "folder"), now=now).evidence
    assert (of_zip.bundle_form, of_zip.bundle_hash) == ("zip", sha256_of((tmp_path / "bundle.zip").read_bytes()))
    assert (of_folder.bundle_form, of_folder.bundle_hash) == ("files", hash_of_files(bundle.files()))
    assert of_zip.time == "2026-03-04T05:06:07Z"
    assert of_zip.checker == (installed_code().version, installed_code().hash)
    assert (of_zip.checkpoint.size, of_zip.checkpoint.cosigners) == (len(bundle.log), 5)
    assert of_zip.checkpoint.time == "2026-02-02T02:40:52Z"


def test_a_checkpoint_that_cannot_be_read_is_no_evidence(market):
    bundle = market.bundle()
    assert verify(replace(bundle, checkpoints=(*bundle.checkpoints[:-1], b"none"))).evidence.checkpoint is None
    assert verify(replace(bundle, checkpoints=())).evidence.checkpoint is None


def test_findings_alike_are_one_line_with_ranges(market):
    bundle = market.bundle()
    verdict = verify(with_ledger(bundle, 0, ()))
    assert len(verdict.findings) == 14
    assert len(verdict.lines) == 2
    assert "party Alpha Bank, entries 0 to 12, log entries 0 to 48, 13 of them: entry of the log" in verdict.lines[1]
    unsigned = [b"x\n\n" + "\u2014 x QUJDREVGR0g=\n".encode() for _ in bundle.checkpoints]
    verdict = verify(replace(bundle, checkpoints=tuple(unsigned)))
    last = len(unsigned) - 1
    assert f"integrity: checkpoint-0.note to checkpoint-{last}.note: checkpoint: expected" in verdict.lines[0]


def test_a_flood_of_findings_hides_no_verdict(market, monkeypatch):
    bundle = market.bundle()
    log = (b"{}",) * (MOST_FINDINGS + 50)
    verdict = verify(with_ledger(replace(bundle, log=log), 0, ()))
    assert verdict.verdicts == {"integrity": "broken", "completeness": "broken", "promise": "not-established"}
    assert len(verdict.findings) <= MOST_FINDINGS + 3
    assert len(verdict.lines) < 20
