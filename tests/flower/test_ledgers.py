"""Whole runs of the two apps: what an auditor finds in their bundle, and that epsilon is what was announced."""

from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, Message

from fedmarket.config import load_config
from fedmarket.contract.schema import load_contract
from fedmarket.errors import FederationStopped
from fedmarket.experiment.arms import arm_named, terms_of
from fedmarket.experiment.market import MarketKey, open_market
from fedmarket.federation import books, rehearsal
from fedmarket.federation.books import Books
from fedmarket.federation.rehearsal import bundle_of_rehearsal
from fedmarket.federation.terms import Terms
from fedmarket.files import sha256_of
from fedmarket.flower import client as app
from fedmarket.flower import inprocess
from fedmarket.flower.inprocess import Outcome, RunConfig, run_in_process
from fedmarket.ledger import store
from fedmarket.ledger.bundle import Bundle
from fedmarket.ledger.canonical import real
from fedmarket.ledger.entries import CapChanged, Committed, Joined, Reserved, read_entry
from fedmarket.ledger.envelope import read_envelope
from fedmarket.ledger.findings import Verdict
from fedmarket.ledger.replay import replay
from fedmarket.ledger.verify import verify

PRIVATE = 'privacy.generator="operating-system"'
SHORT = ("training.rounds=1", "privacy.calibration_rounds=1")
SHARED = ('privacy.noise="distributed"',)


@dataclass(frozen=True)
class Audited:
    """A run, what an auditor was handed of it, and what was found."""

    outcome: Outcome | None
    terms: Terms
    bundle: Bundle
    verdict: Verdict

    @property
    def findings(self) -> list[str]:
        return [str(finding) for finding in self.verdict.findings]

    def statements(self, party: int) -> list[Any]:
        return [read_entry(read_envelope(envelope).payload).statement for envelope in self.bundle.ledgers[party]]


def terms_in(run_config: RunConfig) -> Terms:
    changes = tuple(filter(None, str(run_config["changes"]).split("\n")))
    config = load_config(Path(str(run_config["config"])), changes=changes)
    return terms_of(arm_named("federated_dp"), config, load_contract(Path(config.data.contract)), seed=0)


def audited(run_config: RunConfig, outcome: Outcome | None, run: bytes | None = None) -> Audited:
    terms = terms_in(run_config)
    bundle = bundle_of_rehearsal(Path(str(run_config["roster"])), run or outcome.run, terms)
    return Audited(outcome, terms, bundle, verify(bundle))


MODES: dict[str, tuple[str, tuple[str, ...]]] = {
    "masked": ("mask", (PRIVATE,)),
    "masked, 64 bits": ("mask", (PRIVATE, "aggregation.modulus_bits=64")),
    "masked, shared noise": ("mask", (PRIVATE, *SHARED)),
    "masked, batches": ("mask", (PRIVATE, "privacy.sample_rate=0.2")),
    "masked, shared noise, batches": ("mask", (PRIVATE, *SHARED, "privacy.sample_rate=0.2")),
    "masked, two steps": ("mask", (PRIVATE, "training.local_steps=2")),
    "open": ("sum", (PRIVATE,)),
    "open, batches": ("sum", (PRIVATE, "privacy.sample_rate=0.2")),
    "open, two steps": ("sum", (PRIVATE, "training.local_steps=2")),
    "open, no evaluation": ("sum", (PRIVATE, "privacy.private_evaluation=false")),
}


@pytest.mark.parametrize("mode", MODES)
def test_a_run_leaves_a_bundle_that_holds_and_epsilon_is_what_was_announced(apps, run_config, mode: str):
    step, changes = MODES[mode]
    config = run_config(*changes, step=step)
    found = audited(config, run_in_process(apps, config, nodes=4))
    assert found.findings == []
    assert found.verdict.good
    plan = found.terms.plan
    announced = plan.spent().epsilon
    for place, (state, account) in enumerate(zip(found.outcome.states, found.verdict.parties, strict=True)):
        assert state.spending.spent(plan).epsilon == pytest.approx(announced, abs=1e-6)
        assert account.epsilon == pytest.approx(announced, abs=1e-6)
        figures = [said.figures for said in found.statements(place) if isinstance(said, Reserved)]
        # A bound that was good enough to keep the cap, by one accountant or both.
        assert announced - 1e-6 <= max(real(figure.epsilon) for figure in figures[-1]) <= 1.0
        assert (account.open, account.given_back) == (0, 0)
    releases = found.terms.rounds
    assert len(found.bundle.log) == 4 * (3 + 2 * releases)
    assert len(found.bundle.checkpoints) == releases + 1


def test_a_seeded_generator_breaks_the_promise_and_nothing_else(apps, run_config):
    config = run_config()
    found = audited(config, run_in_process(apps, config, nodes=4))
    assert {finding.question for finding in found.verdict.findings} == {"promise"}
    assert len(found.findings) == 4
    assert found.verdict.integrity
    assert found.verdict.completeness


def test_three_parties_in_the_open_leave_a_bundle_that_holds(apps, write_market, tmp_path: Path):
    path = write_market(tmp_path / "three", ("parties = 4\nseed = 7", "parties = 3\nseed = 7"))
    names = open_market(MarketKey(config=path, changes=(), seed=0)).names
    config = {
        "config": str(path), "changes": f"aggregation.secagg=ideal\n{PRIVATE}", "arm": "federated_dp", "seed": 0,
        "alone": "", "parties": 3, "output": "", "roster": str(rehearsal.rehearse(tmp_path / "roster", names)),
    }  # fmt: skip
    found = audited(config, run_in_process(apps, config, nodes=3))
    assert found.findings == []
    assert found.verdict.quorum == 3


# Parties that are lost, and rounds that are void.


@pytest.mark.parametrize("step", ["sum", "advertise", "share", "mask", "consent", "unmask"])
def test_a_party_lost_for_a_round_leaves_a_bundle_that_holds(silenced, run_config, step: str):
    config = run_config(PRIVATE, step=step)
    found = audited(config, silenced(config, nodes={2}, step=step, rounds={2}))
    assert found.findings == []
    lost = found.verdict.parties[1]
    assert lost.given_back == (step in ("share", "mask"))
    spared = step in ("sum", "advertise", "share", "mask")
    assert (lost.epsilon < found.verdict.parties[0].epsilon) == spared


@pytest.mark.parametrize("step", ["sum", "mask", "unmask"])
def test_void_rounds_leave_a_bundle_that_holds(silenced, run_config, step: str):
    config = run_config(PRIVATE, step=step)
    found = audited(config, silenced(config, nodes={2, 3}, step=step, rounds={2, 5}))
    assert len(found.outcome.void_rounds) == 2
    assert found.findings == []
    assert all(
        account.epsilon == pytest.approx(state.spending.spent(found.terms.plan).epsilon, abs=1e-6)
        for account, state in zip(found.verdict.parties, found.outcome.states, strict=True)
    )


@pytest.mark.parametrize("step", ["sum", "mask"])
def test_of_a_party_that_is_gone_for_good_the_log_has_what_it_told(apps, run_config, run_with, fields_of, step: str):
    config = run_config(PRIVATE, step=step)

    def gone(message: Message, context: Context) -> Message:
        joining = message.metadata.message_type == "query.join"
        if context.node_id == 2 and not joining and fields_of(message.content).get("round_number", 99) > 3:
            raise RuntimeError
        return apps.client(message, context)

    found = audited(config, run_with(config, gone))
    assert found.findings == []  # it told all before it went; the model's release is the others' word
    assert found.verdict.parties[1].entries == 2 + 2 * 4
    assert found.outcome.void_rounds == ()


@pytest.mark.parametrize("step", ["sum", "mask"])
def test_answers_lost_on_their_way_are_in_the_log_with_the_next(apps, run_config, run_with, fields_of, step: str):
    config = run_config(PRIVATE, step=step)
    kind = f"train.{step}"

    def losing(message: Message, context: Context) -> Message:
        answer = apps.client(message, context)
        number = fields_of(message.content).get("round_number")
        if context.node_id == 2 and message.metadata.message_type == kind and number in (0, 3, 4):
            raise RuntimeError
        return answer

    found = audited(config, run_with(config, losing))
    assert {(r.round_number, r.reason) for r in found.outcome.rejections} == {
        (number, "the node's app failed (Flower error 1)") for number in (0, 3, 4)
    }
    assert found.findings == []
    assert found.verdict.parties[1].epsilon == pytest.approx(found.verdict.parties[0].epsilon, abs=1e-9)


def test_of_a_run_that_stopped_what_was_told_is_in_the_log_and_no_more(silenced, run_config, monkeypatch):
    config, runs = run_config(PRIVATE), []
    join = Books.join
    monkeypatch.setattr(Books, "join", lambda self, run, *a, **k: runs.append(run) or join(self, run, *a, **k))
    with pytest.raises(FederationStopped):
        silenced(config, nodes={2, 3}, step="unmask", rounds=range(8))
    found = audited(config, None, runs[0])
    assert found.verdict.integrity
    # The round that was begun has no outcome, and no checkpoint over the last entries was cosigned.
    expected = {"entries that a checkpoint covers", "outcome of a reservation"}
    assert {finding.what for finding in found.verdict.findings} <= expected


def test_books_that_each_message_opens_anew_leave_the_same_entries(apps, run_config, monkeypatch):
    """As on nodes that are processes of their own."""
    monkeypatch.setattr(inprocess, "books_kept_open", nullcontext)
    config = run_config(PRIVATE)
    found = audited(config, run_in_process(apps, config, nodes=4))
    assert found.findings == []
    assert app._kept is None


def test_a_second_run_with_the_same_folder_is_refused_by_the_cap_at_all_parties(apps, run_config):
    config = run_config(PRIVATE, step="sum")
    first = run_in_process(apps, config, nodes=4)
    said = r"0 parties joined, at least 3 are needed \(.*this run would bring epsilon from 1\.0000 to 1\.\d+; the cap"
    with pytest.raises(FederationStopped, match=said):
        run_in_process(apps, config, nodes=4)
    assert audited(config, first).findings == []


# What does not fit is found.


def test_what_left_has_the_hash_that_was_committed(apps, run_config, run_with, fields_of):
    config, sent = run_config(PRIVATE), {}

    def watched(message: Message, context: Context) -> Message:
        answer = apps.client(message, context)
        if message.metadata.message_type == "train.mask":
            fields = fields_of(answer.content)
            sent.setdefault(fields["party"], []).append(sha256_of(fields["content"]))
        return answer

    found = audited(config, run_with(config, watched))
    for place, party in enumerate(found.bundle.manifest.parties):
        committed = [said.content_hash for said in found.statements(place) if isinstance(said, Committed)]
        assert committed == sent[party.name]
        assert len(committed) == 8


def test_a_plan_with_less_noise_at_one_party_is_found(apps, run_config, monkeypatch):
    """It writes what it does, and no other party does so."""
    config, plan_of, join = run_config(PRIVATE, step="sum"), books.plan_of, Books.join

    def plan_with_less(terms: Terms):
        mechanisms = tuple(replace(m, noise_multiplier=0.9 * m.noise_multiplier) for m in terms.plan.mechanisms)
        return plan_of(replace(terms, plan=replace(terms.plan, mechanisms=mechanisms)))

    def quieter(self, run, terms, *, roster_hash):
        if self.ledger.state.party == "grocer":
            monkeypatch.setattr(books, "plan_of", plan_with_less)
            self.ledger.append(CapChanged(old=self.ledger.state.cap, new="2.0", reason="to be let through"))
        try:
            join(self, run, terms, roster_hash=roster_hash)
        finally:
            monkeypatch.setattr(books, "plan_of", plan_of)

    monkeypatch.setattr(Books, "join", quieter)
    found = audited(config, run_in_process(apps, config, nodes=4))
    assert not found.verdict.integrity
    assert [finding.what for finding in found.verdict.findings if finding.question == "integrity"] == ["plan"]
    assert found.verdict.findings[0].party == "grocer"
    assert found.verdict.parties[1].epsilon > 1.05 > 1.0 >= found.verdict.parties[0].epsilon


def test_figures_that_say_less_than_was_spent_are_found(apps, run_config, monkeypatch):
    """A party whose accountant lies to itself signs figures that an auditor does not find again."""
    honest = store.figures_of

    def lying(found):
        return tuple(f.model_copy(update={"epsilon": repr(0.5 * real(f.epsilon))}) for f in honest(found))

    config = run_config(PRIVATE, *SHORT, step="sum")
    with monkeypatch.context() as patch:
        patch.setattr(store, "figures_of", lying)
        outcome = run_in_process(apps, config, nodes=4)
    found = audited(config, outcome)
    assert not found.verdict.integrity


def test_a_ledger_is_what_its_replay_says(apps, run_config):
    config = run_config(PRIVATE)
    found = audited(config, run_in_process(apps, config, nodes=4))
    for place in range(4):
        state = replay(found.bundle.ledgers[place])
        assert {r.outcome for r in state.reservations.values()} == {"committed"}
        assert {said.run for said in found.statements(place) if isinstance(said, Joined)} == {found.outcome.run.hex()}
        assert state.spent().epsilon == pytest.approx(found.verdict.parties[place].epsilon, abs=1e-9)
