"""A black box of the whole: nobody tells a party with one extreme record from the same party without it too well."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from fedmarket.aggregation.fixedpoint import bytes_to_words
from fedmarket.aggregation.scaling import Scaling
from fedmarket.config import load_config
from fedmarket.contract.schema import PrivacyTerms
from fedmarket.errors import Refusal
from fedmarket.federation import release as module
from fedmarket.federation.messages import Request
from fedmarket.federation.party import Party, PartyState
from fedmarket.federation.rows import Rows
from fedmarket.federation.terms import Terms
from fedmarket.models.network import load_vector, network_of, outputs_of
from fedmarket.models.objectives import RESPONSE
from fedmarket.models.prediction import log_odds_of
from fedmarket.models.state import ModelState
from fedmarket.privacy.budget import Spending
from fedmarket.privacy.histogram import SCORE_BINS
from fedmarket.privacy.noise import Stream
from fedmarket.privacy.plan import PrivacyPlan, Sharing, plan_for
from fedmarket.privacy.shape import Shape
from fedmarket.training.batch import Batch
from fedmarket.training.gradients import Gradients
from fedmarket.training.sums import calibration_sum, feature_sum, held_out_sum, update_sum

CONFIG = load_config(
    Path(__file__).parents[2] / "experiments" / "demo" / "config.toml",
    changes=(
        "model.kind=logistic",
        "model.binning=false",
        "training.rounds=1",
        "training.local_steps=1",
        "privacy.epsilon=3",
        "privacy.clip_norm=1.0",
        "privacy.sample_rate=1.0",
        "privacy.centre_share=0.2",
        "privacy.calibration_share=0.2",
        "privacy.calibration_rounds=1",
        "privacy.generator=operating-system",
    ),
)
DELTA, WIDTH, BOUND, RUNS = 1e-5, 4, 2.0, 1200
RUN = b"one run's number"
RELEASES = ("centre", "update", "calibrate", "evaluate")
LENGTHS = (WIDTH, WIDTH + 1, 5, 2 * SCORE_BINS)
MODEL = ModelState(
    centre=np.zeros(WIDTH),
    scale=np.ones(WIDTH),
    parameters=np.array([0.5, 0.5, 0.5, 0.5, 2.0]),
    calibration=RESPONSE.uncalibrated,
)
SCALING = Scaling(row_norm=3.0, exponent=0.35, one_hot=(False,) * WIDTH, weights=(1.0,) * WIDTH)


@pytest.fixture(scope="module", params=["local", "distributed"])
def plan(request: pytest.FixtureRequest) -> PrivacyPlan:
    """One party's noise is the whole: its own, or the only share that an observer misses."""
    terms = PrivacyTerms(unit="row", adjacency="add-or-remove-one", delta=DELTA)
    privacy = CONFIG.privacy.model_copy(update={"noise": request.param})
    sharing = Sharing(shares=1, parties=2, party_rows=50, modulus_bits=32)
    shape = Shape(width=WIDTH, norm_bound=BOUND, parameters=WIDTH + 1)
    return plan_for(privacy, terms, CONFIG.training, shape=shape, sharing=sharing)


def some_rows(*, extreme: bool) -> Rows:
    """Return a few dull rows, and the record that moves every release as far as any can."""
    features = np.zeros((5, WIDTH), dtype=np.float32)
    features[:4] = 0.1 * np.eye(WIDTH)
    targets = np.array([[0], [1], [0], [1], [0]], dtype=np.float32)
    features[4] = BOUND / 2  # of norm BOUND; with its label and weight the gradient's norm is 2.9 and the clip 1
    rows = 5 if extreme else 4
    return Rows(features=features[:rows], targets=targets[:rows])


def party_under(plan: PrivacyPlan, *, extreme: bool) -> Party:
    """Return a party that trains and tests on dull rows, with or without an extreme record among either."""
    terms = Terms(
        contract_hash="0" * 64,
        model=CONFIG.model,
        objective=RESPONSE,
        width=WIDTH,
        parameters=WIDTH + 1,
        segments=0,
        initial_seed=0,
        start_hash="",
        schedule=CONFIG.training,
        scaling=SCALING,
        plan=plan,
        modulus_bits=32,
        max_parties=2,
        max_party_rows=50,
        secagg="ideal",
        minimum_survivors=1,
    )
    return Party(
        name="p", terms=terms, rows=some_rows(extreme=extreme), held_out=some_rows(extreme=extreme), declared_rows=5
    )


def request_for(number: int) -> Request:
    asked = {"run": RUN, "round_number": number, "phase": RELEASES[number], "step": "sum"}
    return Request(**asked, model=MODEL, packet=b"")


def transcript(party: Party) -> np.ndarray:
    """Return all that leaves the party in one run, decoded: four releases, one after the other."""
    states, seen = [PartyState(run=RUN)], []
    for number, phase in enumerate(RELEASES):
        update = party.answer(states[-1], request_for(number), keep=states.append)
        grid = party.terms.grid_of(phase)
        seen.append(grid.decode(bytes_to_words(update.content, modulus_bits=32)))
    assert [state.last_round for state in states] == [-1, 0, 1, 2, 3]
    return np.concatenate(seen)


def exact_transcript(party: Party) -> np.ndarray:
    """Return the same sums without noise: what an adversary who knows all the rows can compute."""
    bare = {m.phase: replace(m, noise_multiplier=0.0) for m in party.terms.plan.mechanisms}
    network, stream = network_of(CONFIG.model, WIDTH), Stream.seeded(0)
    rows, held_out = party.rows, party.held_out
    weights = SCALING.row_norm / np.sqrt(np.sum(rows.features.astype(np.float64) ** 2, axis=1) + 1)
    batch = Batch(
        features=torch.from_numpy(rows.features),
        targets=torch.from_numpy(rows.targets),
        weights=torch.from_numpy(weights.astype(np.float32)),
    )
    update = update_sum(
        Gradients(network),
        MODEL.parameters,
        batch,
        steps=1,
        learning_rate=1.0,
        declared_rows=5,
        mechanism=bare["update"],
        stream=stream,
    )
    load_vector(network, MODEL.parameters)
    outputs, tested = (outputs_of(network, torch.from_numpy(of.features)) for of in (rows, held_out))
    scores = log_odds_of(RESPONSE, tested, MODEL.calibration)[:, 0]
    typical = {"typical_log_odds": 0.0, "typical_value": 0.0}
    calibrate, evaluate = ({"mechanism": bare[phase], "stream": stream} for phase in ("calibrate", "evaluate"))
    return np.concatenate(
        [
            feature_sum(rows.features, mechanism=bare["centre"], stream=stream),
            update,
            calibration_sum(RESPONSE, outputs, MODEL.calibration, rows.targets, **calibrate),
            held_out_sum(scores, held_out.targets[:, 0].astype(np.float64), None, None, **typical, **evaluate),
        ]
    )


def log_likelihood_ratios(transcripts: np.ndarray, claimed: PrivacyPlan) -> dict[str, np.ndarray]:
    """Return log p(transcript with the record) - log p(without it), the strongest test there is, for either record.

    Each record stands in releases of its own: the ratio of one is that of its part of the transcript.
    """
    std = np.concatenate([np.full(n, claimed.mechanism(of).noise_std) for of, n in zip(RELEASES, LENGTHS, strict=True)])
    present, absent = (exact_transcript(party_under(claimed, extreme=extreme)) for extreme in (True, False))
    ratios = ((transcripts - absent) ** 2 - (transcripts - present) ** 2) / (2 * std**2)
    return {"rows": ratios[:, : -LENGTHS[-1]].sum(axis=1), "held_out": ratios[:, -LENGTHS[-1] :].sum(axis=1)}


def breaches(present: np.ndarray, absent: np.ndarray, *, epsilon: float, delta: float) -> int:
    """Return at how many thresholds (TPR, FPR) surely lie outside the region of (epsilon, delta).

    Clopper and Pearson's bounds are so wide that a plan that keeps its promise is accused once in ten thousand runs.
    """
    thresholds = np.quantile(np.concatenate([present, absent]), np.linspace(0.005, 0.995, 40))
    doubt = 1e-4 / (4 * len(thresholds))
    count = 0
    for threshold in thresholds:
        for one, other in ((present > threshold, absent > threshold), (absent <= threshold, present <= threshold)):
            likely, unlikely = int(one.sum()), int(other.sum())
            least = stats.beta.ppf(doubt, likely, one.size - likely + 1) if likely else 0.0
            most = stats.beta.isf(doubt, unlikely + 1, other.size - unlikely) if unlikely < other.size else 1.0
            count += bool(least > np.exp(epsilon) * most + delta)
    return count


def with_noise(plan: PrivacyPlan, factor: float) -> PrivacyPlan:
    return replace(
        plan, mechanisms=tuple(replace(m, noise_multiplier=factor * m.noise_multiplier) for m in plan.mechanisms)
    )


def with_clip(plan: PrivacyPlan, factor: float) -> PrivacyPlan:
    """Return a plan that clips the updates less and has the same noise."""
    changed = (
        replace(m, clip_norm=factor * m.clip_norm, noise_multiplier=m.noise_multiplier / factor)
        if m.phase == "update"
        else m
        for m in plan.mechanisms
    )
    return replace(plan, mechanisms=tuple(changed))


def ratios_of(drawn: PrivacyPlan, claimed: PrivacyPlan) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return, for either record, the ratios of many runs with and without it; parties draw as ``drawn`` says."""
    present, absent = (
        log_likelihood_ratios(np.stack([transcript(party) for _ in range(RUNS)]), claimed)
        for party in (party_under(drawn, extreme=extreme) for extreme in (True, False))
    )
    return {among: (present[among], absent[among]) for among in present}


@pytest.mark.statistical
def test_a_record_cannot_be_told_better_than_the_plan_allows_and_the_test_sees_how_well_it_can(plan: PrivacyPlan):
    for among, ratios in ratios_of(plan, plan).items():
        assert breaches(*ratios, epsilon=plan.spent().epsilon, delta=DELTA) == 0, among
        assert breaches(*ratios, epsilon=0.2, delta=DELTA) > 0, among  # the same noise does not keep a smaller promise


@pytest.mark.statistical
def test_a_quarter_of_the_noise_is_found_out(plan: PrivacyPlan):
    for among, ratios in ratios_of(with_noise(plan, 0.25), plan).items():
        assert breaches(*ratios, epsilon=plan.spent().epsilon, delta=DELTA) > 0, among


def test_the_record_moves_each_release_as_far_as_its_bound_and_no_farther(plan: PrivacyPlan):
    present, absent = (exact_transcript(party_under(plan, extreme=extreme)) for extreme in (True, False))
    for part, phase in zip(np.split(present - absent, np.cumsum(LENGTHS)[:-1]), RELEASES, strict=True):
        clip_norm = plan.mechanism(phase).clip_norm
        assert 0.7 * clip_norm < np.linalg.norm(part) <= clip_norm * (1 + 1e-5)
    loose = with_clip(plan, 3.0)
    present, absent = (exact_transcript(party_under(loose, extreme=extreme)) for extreme in (True, False))
    assert np.linalg.norm((present - absent)[WIDTH : 2 * WIDTH + 1]) > 2 * plan.mechanism("update").clip_norm


@pytest.mark.parametrize("phase", RELEASES)
def test_an_exhausted_budget_is_refused_before_anything_is_computed(
    plan: PrivacyPlan, phase: str, monkeypatch: pytest.MonkeyPatch
):
    computed: list[str] = []
    for name in ("feature_sum", "update_sum", "calibration_sum", "held_out_sum"):
        monkeypatch.setattr(module, name, lambda *_, name=name, **__: computed.append(name) or np.zeros(1))
    monkeypatch.setattr(Stream, "secret", lambda: computed.append("noise"))
    state = PartyState(run=RUN, spending=Spending(centre=1, update=1, calibrate=1, evaluate=1))
    request = request_for(RELEASES.index(phase))
    with pytest.raises(Refusal, match=f"budget: 1 more .* of {phase} asked, 0 left of 1"):
        party_under(plan, extreme=True).answer(state, request, keep=lambda _: computed.append("kept"))
    assert computed == []
