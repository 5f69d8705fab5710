"""The gate finds planted faults, and no fault where none is.

Every fault is planted in the real code or terms, by replacing what a careless change might break.

==========================================================  ================================================
fault                                                       caught by
==========================================================  ================================================
no noise                                                    the gate: ``updates``, and ``model``
a quarter of the noise                                      the gate: ``updates``
no clipping                                                 the gate: ``updates``
spending forgotten in each round                            the gate: ``updates`` (without the fault the party
                                                            refuses the second round)
epsilon of one round told for all of them                   the gate: ``updates``
full batches accounted as Poisson samples                   the gate: ``updates``
shuffled batches accounted as Poisson samples               not by the gate: they leak too little more. See
                                                            ``test_sums.py::``
                                                            ``test_the_rows_of_an_update_are_a_poisson_sample``
                                                            and, for the coins, ``test_noise.py::``
                                                            ``test_coins_are_independent_with_the_rate``
noise from a seed, or from the same one in two runs         the gate: ``again``
the same noise in two rounds, sampled batches               the gate: ``rounds``
the same noise in two rounds, full batches, linear model    not by the gate: a clipped gradient that stays as it
                                                            is leaks no more by it. See
                                                            :func:`test_noise_is_new_in_every_round`
==========================================================  ================================================
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fedmarket.errors import ConfigError, Refusal
from fedmarket.experiment.arms import JOINT, arm_named, terms_of
from fedmarket.experiment.market import MarketKey, open_market
from fedmarket.federation.party import Party
from fedmarket.federation.terms import Terms
from fedmarket.privacy import plan as plans
from fedmarket.privacy.budget import Spending
from fedmarket.privacy.mechanism import Mechanism
from fedmarket.privacy.noise import Stream
from fedmarket.risk.canaries import Twin, twin_of
from fedmarket.risk.gate import FALSE_ALARMS, Judgement, Verdict, control_of, gate, judged, judgement_of
from fedmarket.risk.replica import in_the_open
from fedmarket.training import gradients, sums

MEMBERS = 600
Real = tuple[Terms, dict[str, Party]]


@pytest.fixture(scope="module")
def experiment(write_market, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_market(tmp_path_factory.mktemp("market"))


@pytest.fixture
def real(experiment: Path) -> Iterator[Callable[..., Real]]:
    def of(*changes: str) -> Real:
        secret = ("privacy.generator=operating-system", "privacy.epsilon=2", *changes)
        market, arm = open_market(MarketKey(config=experiment, changes=secret, seed=0)), arm_named(JOINT)
        terms = in_the_open(terms_of(arm, market.config, market.contract, seed=0))
        return terms, {name: market.party(arm, name, terms=terms) for name in market.names}

    plans._update_noise.cache_clear()  # a fault in the accountant must be seen, and forgotten
    yield of
    plans._update_noise.cache_clear()


def red(judgement: Judgement) -> set[str]:
    """Return which scores of a gate are red; it is red if any is."""
    found = {reading.score for reading in judgement.readings if reading.verdict is Verdict.VIOLATED}
    assert (judgement.verdict is Verdict.VIOLATED) == bool(found)
    return found


NOISES = pytest.mark.parametrize("noise", ["local", "distributed"])


def with_noise(factor: float) -> Callable[..., np.ndarray]:
    drawn = Mechanism.noisy_each
    return lambda self, exact, streams: exact + factor * (drawn(self, exact, streams) - exact)


@NOISES
def test_no_noise_is_found(real, noise: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Mechanism, "noisy_each", lambda self, exact, streams: exact)
    assert {"updates", "model"} <= red(judged(*real(f"privacy.noise={noise}"), canaries=MEMBERS))


@NOISES
def test_a_quarter_of_the_noise_is_found(real, noise: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Mechanism, "noisy_each", with_noise(0.25))
    assert "updates" in red(judged(*real(f"privacy.noise={noise}"), canaries=MEMBERS))


def test_missing_noise_is_found_where_eight_is_claimed(real, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Mechanism, "noisy_each", with_noise(0.0))
    assert "updates" in red(judged(*real("privacy.epsilon=8"), canaries=2000))


def test_no_clipping_is_found(real, monkeypatch: pytest.MonkeyPatch):
    clipped_sum = gradients.clipped_sum
    monkeypatch.setattr(gradients, "clipped_sum", lambda parts, clip_norm: clipped_sum(parts, float("inf")))
    assert "updates" in red(judged(*real(), canaries=MEMBERS))


def test_forgotten_spending_is_found_and_without_the_fault_the_party_refuses(real, monkeypatch: pytest.MonkeyPatch):
    terms, parties = real("training.rounds=1")
    asking = replace(terms, schedule=terms.schedule.model_copy(update={"rounds": 40}))
    with pytest.raises(Refusal, match=r"budget: 1 more release\(s\) of update asked, 0 left of 1"):
        judged(asking, parties, canaries=MEMBERS)
    charged = Spending.charged
    monkeypatch.setattr(Spending, "charged", lambda self, *asked: charged(Spending(), *asked))
    assert "updates" in red(judged(asking, parties, canaries=MEMBERS))


def test_an_epsilon_that_is_not_composed_is_found(real, monkeypatch: pytest.MonkeyPatch):
    event = Mechanism.event
    monkeypatch.setattr(Mechanism, "event", lambda self, releases=None, **kept: event(self, 1, **kept))
    terms, parties = real("training.rounds=30")
    assert terms.plan.spent().epsilon <= 2
    assert "updates" in red(judged(terms, parties, canaries=MEMBERS))


def test_full_batches_that_are_accounted_as_samples_are_found(real, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sums, "sample_of", lambda batch, mechanism, stream: batch)
    assert "updates" in red(judged(*real("privacy.sample_rate=0.1"), canaries=MEMBERS))


@pytest.mark.parametrize("named", [True, False])
def test_noise_from_a_seed_is_found_by_whoever_knows_it(real, named: bool, monkeypatch: pytest.MonkeyPatch):
    if not named:  # the plan says that noise is secret, and it is not
        monkeypatch.setattr(Party, "stream_of", lambda self, number: Stream.seeded(7, self.name, str(number)))
    found = red(judged(*real(*('privacy.generator="seeded-for-tests"',) * named), canaries=MEMBERS))
    assert found == {"again"}


def repeated_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each party draw its noise once and add it in every round; coins are tossed anew."""
    drawn, asked, kept = Mechanism.noisy_each, [], {}

    def stream(self: Party, number: int) -> Stream:
        asked.append(self)
        return Stream.secret()

    def noisy_each(self: Mechanism, exact: np.ndarray, streams: list[Stream]) -> np.ndarray:
        noise = drawn(self, np.zeros_like(exact), streams)
        return exact + (kept.setdefault(id(asked[-1]), noise) if self.phase == "update" else noise)

    monkeypatch.setattr(Party, "stream_of", stream)
    monkeypatch.setattr(Mechanism, "noisy_each", noisy_each)


def test_noise_that_comes_back_in_another_round_is_found(real, monkeypatch: pytest.MonkeyPatch):
    repeated_noise(monkeypatch)
    assert red(judged(*real("privacy.sample_rate=0.5"), canaries=MEMBERS)) == {"rounds"}


def differences(twin: Twin) -> np.ndarray:
    """Return how rounds differ in the places of canaries of whom none takes part: by their noise."""
    seen = twin.run(np.zeros(twin.size, dtype=np.bool_))
    own = np.stack([twin.own(one, at) for one, at in zip(seen.updates[twin.watched], seen.asked, strict=True)])
    return np.diff(own[:, 0], axis=0)


@NOISES
def test_noise_is_new_in_every_round(real, noise: str, monkeypatch: pytest.MonkeyPatch):
    twin = twin_of(*real(f"privacy.noise={noise}"), canaries=MEMBERS)
    std = np.sqrt(2) * twin.terms.plan.mechanism("update").noise_std
    assert np.all(np.abs(differences(twin).std(axis=1) / std - 1) < 0.3)
    repeated_noise(monkeypatch)
    assert np.all(differences(twin).std(axis=1) < 0.01 * std)


FIFTY = 50


@pytest.mark.statistical
@NOISES
def test_twenty_five_correct_runs_of_either_noise_raise_no_alarm(real, noise: str):
    """Fifty in all: with probability 0.05 at most there is an alarm among them."""
    assert FIFTY * FALSE_ALARMS <= 0.05
    twin = twin_of(*real(f"privacy.noise={noise}"), canaries=100)
    control = control_of(twin)
    verdicts = {judgement_of(twin, control=control).verdict for _ in range(FIFTY // 2)}
    assert verdicts == {Verdict.CONSISTENT}


def test_a_correct_sampled_run_raises_no_alarm(real):
    judgement = judged(*real("privacy.sample_rate=0.5"), canaries=100)
    assert judgement.verdict is Verdict.CONSISTENT
    assert all(reading.gaussian is None for reading in judgement.readings)


@pytest.mark.statistical
@pytest.mark.parametrize("epsilon", [2, 4, 8])
def test_two_thousand_canaries_show_a_quarter_of_what_is_claimed_at_least(real, epsilon: int):
    """The mean of two gates: one alone may be unlucky."""
    twin = twin_of(*real(f"privacy.epsilon={epsilon}"))
    control = control_of(twin)
    assert control["updates"] == 1.0
    readings = [judgement_of(twin, control=control).readings[0] for _ in range(2)]
    assert {reading.score for reading in readings} == {"updates"}
    assert readings[0].claimed == pytest.approx(epsilon, rel=1e-3)
    assert epsilon / 4 <= np.mean([reading.gaussian for reading in readings]) <= epsilon
    assert epsilon / 8 <= np.mean([reading.epsilon for reading in readings]) <= epsilon


def test_an_attack_that_fails_without_noise_too_is_inconclusive_and_never_a_success(real):
    """Before the last layer has learned anything, a hidden layer is taught nothing of anybody."""
    network = 'model={kind="mlp", binning=false, hidden=[4]}'
    judgement = judged(*real("training.rounds=1", network), canaries=100)
    assert judgement.verdict is Verdict.INCONCLUSIVE
    assert judgement.readings[0].control < 0.9
    assert "private" not in " ".join([*Verdict, *(reading.words for reading in judgement.readings)])


def test_the_gate_of_an_experiment_says_what_it_found(experiment: Path):
    secret = ("privacy.generator=operating-system", "privacy.noise=distributed")
    judgement = gate(open_market(MarketKey(config=experiment, changes=secret, seed=0)), canaries=100)
    assert judgement.verdict is Verdict.CONSISTENT
    assert judgement.false_alarm_rate == FALSE_ALARMS
    assert "of 1.00 claimed" in judgement.readings[0].words
    assert [reading.score for reading in judgement.readings] == ["updates", "model", "again", "rounds"]


def test_too_few_canaries_are_refused(real):
    with pytest.raises(ConfigError, match="expected at least 40 to guess about, got 39"):
        judged(*real(), canaries=39)
