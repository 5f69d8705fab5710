"""A server that was killed goes on in the same run: between rounds nothing is lost, within one that round alone."""

import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from flwr.app import Message

from fedmarket.aggregation.steps import ENDING, SECURE
from fedmarket.config import load_config
from fedmarket.contract.schema import load_contract
from fedmarket.errors import ConfigError, DataError, FederationStopped
from fedmarket.experiment.arms import JOINT, arm_named, terms_of
from fedmarket.federation.messages import Acceptance
from fedmarket.federation.rehearsal import bundle_of_rehearsal
from fedmarket.federation.resume import due_round
from fedmarket.federation.wire import decoded, encoded
from fedmarket.flower.checkpoint import CHECKPOINT, PROGRESS, StateFolder
from fedmarket.flower.inprocess import Apps, run_in_process
from fedmarket.flower.records import frame_in, framed
from fedmarket.ledger.bundle import read_bundle
from fedmarket.ledger.replay import replay
from fedmarket.ledger.verify import verify

SHORT = ("training.rounds=2", "privacy.calibration_rounds=1")
ROUNDS = 5
FIRST, EACH = 5, 3
"""Exchanges of the first round, and of each other one."""


class Killed(BaseException):
    """The server's process is gone."""


@pytest.fixture
def killed_after_round(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Return what kills the next server when a round is over, before it asks for anything in the next one."""

    def after(number: int) -> None:
        real = StateFolder.keep

        def keep(folder, coordinator, nodes):
            real(folder, coordinator, nodes)
            if nodes and due_round(coordinator) == number + 1:
                monkeypatch.setattr(StateFolder, "keep", real)
                raise Killed

        monkeypatch.setattr(StateFolder, "keep", keep)

    return after


def killed_in_exchange(apps: Apps, config, number: int) -> None:
    """Run until the exchange of this number, counted from 0, has reached every node."""
    seen: list[str] = []

    def on_exchange(action: str) -> None:
        seen.append(action)
        if len(seen) == number + 1:
            raise Killed

    with pytest.raises(Killed):
        run_in_process(apps, config, nodes=4, on_exchange=on_exchange)


@pytest.fixture
def kept(run_config, tmp_path: Path) -> Callable[..., dict[str, object]]:
    """Return a maker of run configurations with a state folder and a bundle in ``tmp_path``."""
    state, bundle = str(tmp_path / "state"), str(tmp_path / "bundle.zip")
    return lambda **changed: run_config(*SHORT, **({"state": state, "bundle": bundle} | changed))


def charged(bundle: Path) -> list[dict[str, int]]:
    """Return for each party how many of its rounds ended how, after an auditor found nothing but the tests' seeds."""
    found = read_bundle(bundle)
    assert all("seeded-for-tests" in str(finding) for finding in verify(found).findings)
    return [dict(Counter(r.outcome for r in replay(ledger).reservations.values())) for ledger in found.ledgers]


@pytest.mark.parametrize(("step", "number"), [("sum", 0), ("sum", 3), ("mask", 4)])
def test_a_server_killed_between_rounds_gives_the_same_model_to_the_last_bit(
    apps, run_config, kept, tmp_path, killed_after_round, same, step, number
):
    whole = run_in_process(apps, run_config(*SHORT, step=step), nodes=4)
    config = kept(step=step)
    killed_after_round(number)
    with pytest.raises(Killed):
        run_in_process(apps, config, nodes=4)
    resumed = run_in_process(apps, config, nodes=4)
    assert same(whole, resumed)
    assert (resumed.void_rounds, resumed.rejections) == ((), ())
    assert charged(tmp_path / "bundle.zip") == 4 * [{"committed": 5}]


@pytest.mark.parametrize("exchange", range(1, FIRST + 2 * EACH + 1))
def test_a_server_killed_in_a_round_loses_it_and_the_one_that_was_begun(apps, kept, tmp_path, exchange):
    """What a party had committed is spent, what it had only reserved is given back: as in any void round."""
    config = kept()
    killed_in_exchange(apps, config, exchange)
    outcome = run_in_process(apps, config, nodes=4)
    number = max(0, -(-(exchange - FIRST) // EACH))
    place = exchange if exchange <= FIRST else FIRST - (FIRST + number * EACH - exchange)
    lost = [number, number + 1] if SECURE[place - 1] in ENDING else [number]
    said = ("the server was stopped in it", "the server was stopped when it was only begun")
    assert [(void.round_number, void.reason) for void in outcome.void_rounds] == list(zip(lost, said, strict=False))
    assert outcome.rejections == ()
    back = len(lost) - (place >= SECURE.index("mask") + 1)
    expected = {"committed": ROUNDS - back} | ({"given-back": back} if back else {})
    assert charged(tmp_path / "bundle.zip") == 4 * [expected]


@pytest.mark.parametrize("number", [0, 2])
def test_a_server_killed_between_masked_rounds_loses_the_one_that_was_begun(apps, kept, killed_after_round, number):
    config = kept()
    killed_after_round(number)
    with pytest.raises(Killed):
        run_in_process(apps, config, nodes=4)
    assert [void.round_number for void in run_in_process(apps, config, nodes=4).void_rounds] == [number + 1]


def test_a_server_killed_when_parties_join_begins_the_same_run_again(apps, kept, tmp_path):
    config = kept()
    killed_in_exchange(apps, config, 0)
    outcome = run_in_process(apps, config, nodes=4)
    assert (outcome.void_rounds, outcome.rejections) == ((), ())
    assert len(verify(read_bundle(tmp_path / "bundle.zip")).runs) == 1


def test_a_server_killed_at_the_end_only_closes_again(apps, kept, tmp_path, run_config, same):
    config = kept()
    killed_in_exchange(apps, config, 1 + FIRST + (ROUNDS - 1) * EACH)
    resumed = run_in_process(apps, config, nodes=4)
    assert same(run_in_process(apps, run_config(*SHORT), nodes=4), resumed)
    assert charged(tmp_path / "bundle.zip") == 4 * [{"committed": 5}]


def test_a_server_killed_in_every_round_ends_the_run(apps, kept):
    config = kept()
    for _ in range(3):
        killed_in_exchange(apps, config, 2)
    with pytest.raises(FederationStopped, match="the server was stopped in it, as were all of the last 3"):
        run_in_process(apps, config, nodes=4)


def test_a_party_that_is_silent_when_the_run_goes_on_is_asked_again_later(apps, kept, killed_after_round, silenced):
    """Here its node has forgotten the run; what matters is that it is asked, and costs the others nothing."""
    config = kept()
    killed_after_round(1)
    with pytest.raises(Killed):
        run_in_process(apps, config, nodes=4)
    outcome = silenced(config, nodes={2}, step="join", rounds={None})
    first, *later = outcome.rejections
    assert (first.party, first.reason) == ("node 2", "no reply in time")
    assert {(one.party, one.reason) for one in later} == {("grocer", "this party has not joined a run")}
    assert {one.round_number for one in later} == {3, 4, 5}
    assert [void.round_number for void in outcome.void_rounds] == [2]  # was begun


def test_a_party_that_declares_another_size_when_the_run_goes_on_is_out(apps, kept, killed_after_round, monkeypatch):
    config = kept()
    killed_after_round(1)
    with pytest.raises(Killed):
        run_in_process(apps, config, nodes=4)

    def grown(message, context):
        reply = apps.client(message, context)
        if context.node_id != 2 or message.metadata.message_type != "query.join":
            return reply
        found = decoded(Acceptance, frame_in(reply.content))
        return Message(framed(encoded(replace(found, declared_rows=found.declared_rows + 1))), reply_to=message)

    outcome = run_in_process(Apps(server=apps.server, client=grown), config, nodes=4)
    assert [(one.party, one.reason) for one in outcome.rejections] == [
        ("node 2", "declares another number of rows than before")
    ]
    assert [void.round_number for void in outcome.void_rounds] == [2]  # was begun


def test_a_checkpoint_of_other_terms_is_refused(apps, kept, killed_after_round):
    config = kept()
    killed_after_round(1)
    with pytest.raises(Killed):
        run_in_process(apps, config, nodes=4)
    with pytest.raises(ConfigError, match=r"checkpoint: this run was begun under other terms"):
        run_in_process(apps, config | {"changes": "training.rounds=3"}, nodes=4)


def test_a_checkpoint_of_another_log_is_refused(apps, kept, killed_after_round, run_config):
    config = kept()
    killed_after_round(1)
    with pytest.raises(Killed):
        run_in_process(apps, config, nodes=4)
    shutil.rmtree(Path(str(config["roster"])).parent / "log")
    with pytest.raises(ConfigError, match=r"the log has 0 entries, but had \d+: it is not this run's log"):
        run_in_process(apps, config, nodes=4)


@pytest.mark.parametrize(
    "damage", [lambda c: c[:-1], lambda c: b"", lambda c: b"\xc1", lambda c: c + c, lambda c: b"\x80"]
)
def test_a_damaged_checkpoint_is_refused(apps, kept, killed_after_round, tmp_path, damage):
    config, path = kept(), tmp_path / "state" / CHECKPOINT
    killed_after_round(0)
    with pytest.raises(Killed):
        run_in_process(apps, config, nodes=4)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match="checkpoint: not a whole checkpoint of a run"):
        run_in_process(apps, config, nodes=4)


def test_progress_says_how_far_the_run_is(apps, kept, tmp_path):
    config, said = kept(), []

    def on_exchange(action: str) -> None:
        said.append(json.loads((tmp_path / "state" / PROGRESS).read_text()))

    run_in_process(apps, config, nodes=4, on_exchange=on_exchange)
    assert [(told["round"], told["doing"]) for told in said[1:6]] == [(0, step) for step in SECURE]
    assert said[-1]["parties"] == sorted(said[-1]["parties"])
    assert len(said[-1]["parties"]) == 4
    done = json.loads((tmp_path / "state" / PROGRESS).read_text())
    assert (done["doing"], done["round"], done["rounds"]) == ("done", ROUNDS, ROUNDS)


def test_the_logs_bundle_is_the_parties_own(apps, kept, tmp_path):
    config = kept()
    outcome = run_in_process(apps, config, nodes=4)
    experiment = load_config(Path(str(config["config"])), changes=SHORT)
    terms = terms_of(arm_named(JOINT), experiment, load_contract(Path(experiment.data.contract)), seed=0)
    parties = bundle_of_rehearsal(Path(str(config["roster"])), outcome.run, terms)
    assert read_bundle(tmp_path / "bundle.zip") == parties


def test_who_is_away_at_first_and_joins_when_the_run_goes_on_is_not_told_as_rejected(
    apps, kept, killed_after_round, silenced
):
    config = kept(step="sum")
    killed_after_round(1)
    with pytest.raises(Killed):
        silenced(config, nodes={2}, step="join", rounds={None})
    resumed = run_in_process(apps, config, nodes=4)
    assert resumed.rejections == ()
    assert resumed.states[1].spending.evaluate == 1


def test_rounds_that_were_only_begun_do_not_count_towards_the_end_of_a_run(apps, kept):
    """Killed in the exchange in which a round ends and the next begins, twice: four rounds void, two for a cause."""
    config = kept()
    for _ in range(2):
        killed_in_exchange(apps, config, 4)
    outcome = run_in_process(apps, config, nodes=4)
    assert [void.round_number for void in outcome.void_rounds] == [0, 1, 2, 3]
