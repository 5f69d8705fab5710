"""Two accountants agree with each other, lie above exact formulas, and the larger is what is reported."""

import itertools
import math
import warnings

import numpy as np
import pytest
from dp_accounting import dp_event
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant
from hypothesis import given, settings
from hypothesis import strategies as st
from opacus.accountants import PRVAccountant
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.stats import norm

from fedmarket.errors import PlanError
from fedmarket.privacy import accountant
from fedmarket.privacy.accountant import (
    Event,
    exact_epsilon,
    gaussian_delta,
    gaussian_epsilon,
    gaussian_mu,
    pld_epsilon,
    prv_epsilon,
    spent,
    weighed,
)

DELTA = 1e-5


def event(noise_multiplier: float = 4.0, sample_rate: float = 1.0, count: int = 10) -> Event:
    return Event(noise_multiplier=noise_multiplier, sample_rate=sample_rate, count=count)


def of(*events: Event, delta: float = DELTA, adjacency: accountant.Adjacency = "add-or-remove-one") -> float:
    return spent(events, delta=delta, adjacency=adjacency).epsilon


FULL = {
    "one strong": (event(20.0, count=1),),
    "one weak": (event(0.8, count=1),),
    "many": (event(30.0, count=60),),
    "three phases": (event(50.0, count=1), event(12.0, count=20), event(40.0, count=3)),
}
SAMPLED = {
    "rare": (event(1.0, 0.01, 500),),
    "little noise": (event(0.7, 0.005, 400),),
    "often": (event(3.0, 0.3, 50),),
    "three phases": (event(30.0, count=1), event(2.0, 0.1, 100), event(30.0, count=3)),
}


def close(found: float, exact: float) -> bool:
    """Whether ``found`` is an upper bound of ``exact`` and tight."""
    return exact <= found + 1e-6 and found <= 1.01 * exact + 0.02


@pytest.mark.parametrize("events", [*FULL.values(), *SAMPLED.values()], ids=[*FULL, *(f"sampled {k}" for k in SAMPLED)])
def test_both_accountants_agree_and_the_larger_is_reported(events: tuple[Event, ...]):
    found = spent(events, delta=DELTA, adjacency="add-or-remove-one")
    name, second = ("exact", exact_epsilon) if events in FULL.values() else ("prv", prv_epsilon)
    assert found.accountants == {"pld": pld_epsilon(events, DELTA), name: second(events, DELTA)}
    assert abs(found.accountants["pld"] - prv_epsilon(events, DELTA)) <= 0.02 + 0.01 * found.epsilon
    assert found.epsilon == max(found.accountants.values())


def exact_full(events: tuple[Event, ...]) -> float:
    """Full batches are Gaussian mechanisms, whose squared mu adds up (Dong et al. 2022, corollary 3.3)."""
    return gaussian_epsilon(math.sqrt(sum(e.count / e.noise_multiplier**2 for e in events)), DELTA)


@pytest.mark.parametrize("events", FULL.values(), ids=FULL)
def test_full_batches_cost_what_the_exact_formula_says(events: tuple[Event, ...]):
    exact = exact_full(events)
    assert close(pld_epsilon(events, DELTA), exact)
    assert close(prv_epsilon(events, DELTA), exact)
    quieter = tuple(event(0.9 * e.noise_multiplier, 1.0, e.count) for e in events)
    assert not (close(pld_epsilon(quieter, DELTA), exact) and close(prv_epsilon(quieter, DELTA), exact))


def sampled_delta(epsilon: float, noise: float, rate: float) -> float:
    """Return delta of one Gaussian release on a Poisson sample: the larger of removing and of adding the row.

    With the row: (1 - q) N(0, s^2) + q N(1, s^2); without it: N(0, s^2). The likelihood ratio rises in x, so each
    direction is decided by one threshold.
    """

    def threshold(ratio: float) -> float:
        return 0.5 + noise**2 * math.log((ratio - 1 + rate) / rate)

    def above(x: float) -> float:
        return float((1 - rate) * norm.sf(x / noise) + rate * norm.sf((x - 1) / noise))

    x = threshold(math.exp(epsilon))
    removed = above(x) - math.exp(epsilon) * float(norm.sf(x / noise))
    if math.exp(-epsilon) <= 1 - rate:
        return removed
    x = threshold(math.exp(-epsilon))
    return max(removed, float(norm.cdf(x / noise)) - math.exp(epsilon) * (1 - above(x)))


@pytest.mark.parametrize(("noise", "rate"), [(0.6, 0.05), (1.0, 0.5), (2.0, 0.9)])
def test_one_sampled_release_costs_what_its_own_integral_says(noise: float, rate: float):
    exact = float(brentq(lambda epsilon: sampled_delta(epsilon, noise, rate) - DELTA, 1e-6, 60.0))
    assert close(pld_epsilon((event(noise, rate, 1),), DELTA), exact)
    assert close(prv_epsilon((event(noise, rate, 1),), DELTA), exact)
    assert not close(pld_epsilon((event(0.9 * noise, rate, 1),), DELTA), exact)


RUNS = {
    "rare": ((1.0, 0.01, 501),),
    "one": ((1.5, 0.1, 1),),
    "a block": ((0.8, 0.05, 32),),
    "less noise": ((0.6, 0.1, 100),),
    "likely": ((10.0, 0.9, 200),),
    "three phases": ((30.0, 1.0, 2), (2.0, 0.1, 77), (30.0, 1.0, 3)),
    "two runs": ((3.0, 0.3, 50), (2.0, 0.1, 20), (3.0, 0.2, 5)),
}


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_kept_parts_compose_to_what_dp_accounting_finds_by_itself(run: tuple[tuple[float, float, int], ...]):
    whole = PLDAccountant()
    for noise, rate, count in run:
        gaussian = dp_event.GaussianDpEvent(noise)
        whole.compose(gaussian if rate == 1 else dp_event.PoissonSampledDpEvent(rate, gaussian), count)
    found = pld_epsilon(tuple(event(*each) for each in run), DELTA)
    assert found == pytest.approx(whole.get_epsilon(DELTA), abs=1e-8)


def test_what_was_asked_before_does_not_change_what_is_found():
    runs = [(event(9.0, count=1), event(1.5, 0.1, count)) for count in (40, 3, 41, 17)]
    found = [pld_epsilon(events, DELTA) for events in runs]
    for cached in (accountant.pld_epsilon, accountant._composed, accountant._loss):
        cached.cache_clear()
    assert [pld_epsilon(events, DELTA) for events in reversed(runs)] == found[::-1]


def test_hundreds_of_mechanisms_are_composed():
    many = tuple(event(1000.0 + number, 0.9 if number % 2 else 1.0, 1) for number in range(1200))
    assert 0 < pld_epsilon(many, DELTA) < 1


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_prv_is_what_opacus_finds_by_code_of_its_own(run: tuple[tuple[float, float, int], ...]):
    other = PRVAccountant()
    other.history = list(run)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = other.get_epsilon(DELTA, eps_error=accountant.PRV_ERROR)
    assert prv_epsilon(tuple(event(*each) for each in run), DELTA) == pytest.approx(theirs, abs=1e-6)


@pytest.mark.parametrize(("noise", "rate"), [(0.2, 0.1), (0.5, 0.1), (0.8, 0.1), (50.0, 0.001), (50.0, 0.9)])
def test_the_mean_of_a_loss_is_its_integral_over_what_is_released(noise: float, rate: float):
    cut = accountant._Cut(loss=accountant._prv(event(noise, rate, 1)), low=-60.0, high=400.0)
    loss = lambda x: np.log1p(rate * np.expm1((2 * x - 1) / (2 * noise**2)))  # noqa: E731
    at, step = np.linspace(-12 * noise, 1 + 12 * noise, 200_001, retstep=True)
    density = (1 - rate) * norm.pdf(at, scale=noise) + rate * norm.pdf(at, loc=1, scale=noise)
    assert cut.mean() == pytest.approx(float(np.sum(loss(at) * density) * step), rel=1e-5, abs=1e-9)


def test_a_grid_that_no_memory_holds_is_refused():
    with pytest.raises(PlanError, match="grid of more than"):
        prv_epsilon((event(1.0, 1e-6, 10**9),), DELTA)


@pytest.mark.parametrize("events", [FULL["three phases"], SAMPLED["three phases"]], ids=["full", "sampled"])
def test_a_reservation_far_below_its_cap_is_weighed_by_one_accountant_and_near_it_by_both(events: tuple[Event, ...]):
    both = spent(events, delta=DELTA, adjacency="add-or-remove-one")
    first = "exact" if events in FULL.values() else "pld"
    reach = (both.accountants[first] + 0.02) / 0.99

    def found(cap: float) -> accountant.Spent:
        return weighed(events, delta=DELTA, adjacency="add-or-remove-one", cap=cap)

    for cap in (reach + 1e-9, 100.0):
        assert found(cap).accountants == {first: both.accountants[first]}
        assert found(cap).epsilon == both.accountants[first]
    for cap in (reach - 1e-9, both.epsilon, both.accountants[first], 0.5 * both.epsilon, 1e-9):
        assert found(cap) == both


@given(first=st.floats(0.0, 40.0), second=st.floats(0.0, 40.0), cap=st.floats(1e-3, 40.0))
def test_one_accountant_never_keeps_a_cap_that_both_would_not(first: float, second: float, cap: float):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(accountant, "pld_epsilon", lambda events, delta: first)
        patch.setattr(accountant, "prv_epsilon", lambda events, delta: second)
        events = (event(4.0, 0.5),)
        try:
            alone = weighed(events, delta=DELTA, adjacency="add-or-remove-one", cap=cap).epsilon
            both = spent(events, delta=DELTA, adjacency="add-or-remove-one").epsilon
        except PlanError:
            return
        assert (alone <= cap) == (both <= cap)


PUBLISHED = {
    # Noise, epochs and epsilon of the MNIST tutorial of TensorFlow Privacy (batch 256 of 60,000, RDP, delta 1e-5).
    "1.3, 15 epochs": (1.3, 15, 1.19),
    "1.1, 60 epochs": (1.1, 60, 3.01),
    "0.7, 45 epochs": (0.7, 45, 7.10),
}


@pytest.mark.parametrize(("noise", "epochs", "published"), PUBLISHED.values(), ids=PUBLISHED)
def test_published_runs_cost_a_little_less_than_rdp_said(noise: float, epochs: int, published: float):
    rate, steps = 256 / 60_000, epochs * 60_000 // 256
    rdp = RdpAccountant().compose(dp_event.PoissonSampledDpEvent(rate, dp_event.GaussianDpEvent(noise)), steps)
    ours = of(event(noise, rate, steps))
    assert 0.7 * published < ours < min(0.9 * published, rdp.get_epsilon(DELTA))


def test_the_central_limit_is_not_what_is_reported():
    """It lies far below the truth for rare samples (Dong et al. 2022, section 5, ask for many likely steps)."""
    noise, rate, steps = 0.6, 0.001, 100
    limit = gaussian_epsilon(rate * math.sqrt(steps * math.expm1(noise**-2)), DELTA)
    assert of(event(noise, rate, steps)) > 5 * limit


@pytest.mark.parametrize("rate", [1.0, 0.1])
def test_epsilon_composes_and_neither_adds_up_nor_stays(rate: float):
    once, twice = of(event(2.0, rate, 10)), of(event(2.0, rate, 20))
    assert once * 1.2 < twice < once * 1.8
    assert twice == pytest.approx(of(event(2.0, rate, 10), event(2.0, rate, 10)), abs=0.02)


def test_replacing_a_row_costs_as_much_as_half_the_noise():
    events = (event(8.0, count=5), event(20.0, count=1))
    halved = tuple(event(e.noise_multiplier / 2, 1.0, e.count) for e in events)
    assert of(*events, adjacency="replace-one") == of(*halved)
    assert of(*events, adjacency="replace-one") > 2 * of(*events)


def test_sampling_under_replacement_is_refused():
    with pytest.raises(PlanError, match="Poisson-sampled event cannot be accounted under replace-one"):
        of(event(), event(4.0, 0.5), adjacency="replace-one")


@pytest.mark.parametrize(
    "bad",
    [
        event(noise_multiplier=-1.0),
        event(noise_multiplier=math.nan),
        event(sample_rate=0.0),
        event(sample_rate=1.01),
        event(sample_rate=math.nan),
        event(count=0),
        event(count=-1),
    ],
    ids=str,
)
def test_what_is_no_event_is_refused(bad: Event):
    for adjacency in ("add-or-remove-one", "replace-one"):
        with pytest.raises(PlanError, match="not an event that can be accounted"):
            spent((event(), bad), delta=DELTA, adjacency=adjacency)


def test_one_release_without_noise_costs_everything_and_no_release_nothing():
    assert of(event(), event(noise_multiplier=0.0, count=1)) == math.inf
    assert of(event(noise_multiplier=0.0, sample_rate=0.01, count=1)) == math.inf
    assert of() == 0.0


@pytest.mark.parametrize("off", [0.05, -0.05, math.nan, -math.inf])
@pytest.mark.parametrize(("second", "rate"), [("exact_epsilon", 1.0), ("prv_epsilon", 0.5)])
def test_no_epsilon_is_claimed_where_the_accountants_disagree(
    second: str, rate: float, off: float, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(accountant, second, lambda events, delta: pld_epsilon(events, delta) + off)
    with pytest.raises(PlanError, match="accountants disagree"):
        of(event(4.0, rate, count=1))


@pytest.mark.parametrize("off", [0.015, -0.015, math.inf])
def test_the_larger_is_reported_whichever_it_is(off: float, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(accountant, "exact_epsilon", lambda events, delta: pld_epsilon(events, delta) + off)
    assert of(event(count=1)) == pld_epsilon((event(count=1),), DELTA) + max(off, 0)


def test_a_failed_second_accountant_claims_nothing(monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object, **__: object) -> float:
        raise ValueError("secret detail")

    monkeypatch.setattr("prv_accountant.composers.Heterogeneous.compute_composition", fail)
    with pytest.raises(PlanError, match=r"PRV accountant failed \(ValueError\)"):
        of(event(3.21, 0.5, count=1))


@settings(max_examples=3, deadline=None)
@given(noise=st.floats(2.0, 5.0), rate=st.sampled_from([0.02, 0.2, 1.0]), count=st.integers(1, 10))
def test_less_noise_more_releases_or_likelier_rows_cost_more(noise: float, rate: float, count: int):
    base = pld_epsilon((event(noise, rate, count),), DELTA)
    assert pld_epsilon((event(0.8 * noise, rate, count),), DELTA) > base
    assert pld_epsilon((event(noise, rate, 2 * count),), DELTA) > base
    assert rate == 1 or pld_epsilon((event(noise, 2 * rate, count),), DELTA) > base
    assert pld_epsilon((event(noise, rate, count),), 1e-7) > base


def hockey_stick(epsilon: float, mu: float) -> float:
    """Return the integral of max(0, p - e^epsilon q) for N(mu, 1) against N(0, 1), without any closed form."""
    start = epsilon / mu + mu / 2
    density = lambda x: norm.pdf(x - mu) - math.exp(epsilon) * norm.pdf(x)  # noqa: E731
    pieces = [start + width for width in (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 40.0)]
    return math.fsum(quad(density, low, high, epsabs=0)[0] for low, high in itertools.pairwise(pieces))


@given(epsilon=st.floats(0.0, 8.0), mu=st.floats(0.05, 5.0))
@settings(max_examples=60, deadline=None)
def test_gaussian_delta_is_the_integral(epsilon: float, mu: float):
    assert gaussian_delta(epsilon, mu) == pytest.approx(hockey_stick(epsilon, mu), rel=1e-4, abs=1e-11)
    assert gaussian_delta(epsilon, 1.1 * mu) > gaussian_delta(epsilon, mu) or gaussian_delta(epsilon, 1.1 * mu) < 1e-12


@given(epsilon=st.floats(0.01, 30.0), log_delta=st.floats(-9.0, -2.0))
@settings(max_examples=60, deadline=None)
def test_gaussian_mu_undoes_gaussian_epsilon(epsilon: float, log_delta: float):
    mu = gaussian_mu(epsilon, 10.0**log_delta)
    assert gaussian_epsilon(mu, 10.0**log_delta) == pytest.approx(epsilon, rel=1e-6)
    assert np.isclose(gaussian_delta(epsilon, mu), 10.0**log_delta, rtol=1e-4)


def test_a_mechanism_within_delta_alone_costs_no_epsilon():
    assert gaussian_epsilon(1e-6, DELTA) == 0.0
