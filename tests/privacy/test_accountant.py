"""Two accountants agree with each other, lie above exact formulas, and the larger is what is reported."""

import itertools
import math

import numpy as np
import pytest
from dp_accounting import dp_event
from dp_accounting.rdp import RdpAccountant
from hypothesis import given, settings
from hypothesis import strategies as st
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

    monkeypatch.setattr("opacus.accountants.PRVAccountant.get_epsilon", fail)
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
