"""Draws of the discrete Gaussian follow the exact law, a near one is noticed, and the claimed distance is true."""

import math
from collections.abc import Callable
from decimal import Context, Decimal, localcontext
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fedmarket.errors import PlanError
from fedmarket.privacy import discrete, noise
from fedmarket.privacy.discrete import DiscreteGaussian, ripple, sum_distance
from fedmarket.privacy.noise import Stream

DOUBT = 1e-7
"""A right law is rejected this rarely: the streams are secret, so no seed makes a lucky run last."""

STDS = [0.5, 0.8, 3.0, 40.3, 511.9, 512.1, 2.0**10, 54321.7, 2.0**26, 2.0**33 + 0.3, 2.0**40]
COUNT = 200_000


def exact(std: float, reach: int) -> np.ndarray:
    """Return N_Z(0, std^2) at -reach .. reach, straight from its definition."""
    mass: np.ndarray = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * std**2))
    return mass / mass.sum()


def cells(std: float) -> np.ndarray:
    """Return upper edges (inclusive) of up to 60 cells, the outer ones open, with 50 draws or more expected in each."""
    return np.unique(np.floor(np.linspace(-3.2 * std, 3.2 * std, 59)).astype(np.int64))


def chances(std: float, edges: np.ndarray) -> np.ndarray:
    """Return the probability of each cell under N_Z(0, std^2)."""
    if std < 5000:
        reach = math.ceil(12 * std)
        below = np.cumsum(exact(std, reach))[np.clip(edges + reach, 0, 2 * reach)]
    else:  # the midpoint rule's error is below 1 / std^2
        below = stats.norm.cdf((edges + 0.5) / std)
    return np.diff(below, prepend=0.0, append=1.0)


def moments(std: float) -> tuple[float, float]:
    """Return variance and fourth moment of N_Z(0, std^2)."""
    if std >= 5000:
        return std**2, 3 * std**4
    reach = math.ceil(12 * std)
    squares = np.arange(-reach, reach + 1.0) ** 2
    return float(exact(std, reach) @ squares), float(exact(std, reach) @ squares**2)


def complaints(draws: np.ndarray, std: float) -> list[str]:
    """Return which tests against independent N_Z(0, std^2) reject ``draws`` (n,)."""
    n, edges = draws.size, cells(std)
    expected = n * chances(std, edges)
    counts = np.bincount(np.searchsorted(edges, draws, side="left"), minlength=edges.size + 1)
    variance, fourth = moments(std)
    values = draws.astype(np.float64)
    beyond = float(1 - chances(std, np.array([-math.ceil(3 * std) - 1, math.ceil(3 * std)]))[1])
    found = {
        "cells": stats.chi2.sf(float(np.sum((counts - expected) ** 2 / expected)), edges.size),
        "mean": 2 * stats.norm.sf(abs(values.mean()) * math.sqrt(n / variance)),
        "variance": 2 * stats.norm.sf(abs(np.mean(values**2) - variance) * math.sqrt(n / (fourth - variance**2))),
        "skew": 2 * stats.norm.sf(abs(np.mean(np.sign(values))) * math.sqrt(n / np.mean(values != 0))),
        "tails": stats.binomtest(int(np.sum(np.abs(draws) > math.ceil(3 * std))), n, beyond).pvalue,
        "neighbours": stats.pearsonr(values[1:], values[:-1]).pvalue,
        "chunks": stats.pearsonr(values[: -(1 << 15)], values[1 << 15 :]).pvalue,
        "lowest bit": 1.0 if std < 3 else stats.binomtest(int(np.sum(draws & 1)), n, 0.5).pvalue,
    }
    return [name for name, chance in found.items() if not chance > DOUBT]


@pytest.mark.statistical
@pytest.mark.parametrize("std", STDS)
def test_draws_are_independent_discrete_gaussians(std: float):
    assert complaints(DiscreteGaussian(std).draw(Stream.secret(), COUNT), std) == []


def truncated(rng: np.random.Generator, std: float) -> np.ndarray:
    draws = np.rint(std * rng.standard_normal(2 * COUNT)).astype(np.int64)
    return draws[np.abs(draws) <= 3 * std][:COUNT]


WRONG: dict[str, tuple[float, Callable[[np.random.Generator, float], np.ndarray]]] = {
    "scale 0.9, narrow": (0.8, lambda rng, std: DiscreteGaussian(0.9 * std).draw(Stream.seeded(1), COUNT)),
    "scale 0.9, wide": (2.0**26, lambda rng, std: DiscreteGaussian(0.9 * std).draw(Stream.seeded(1), COUNT)),
    "scale 1.02": (2.0**12, lambda rng, std: DiscreteGaussian(1.02 * std).draw(Stream.seeded(1), COUNT)),
    "rounded normals": (0.8, lambda rng, std: np.rint(std * rng.standard_normal(COUNT)).astype(np.int64)),
    "rounded towards zero": (40.3, lambda rng, std: np.trunc(std * rng.standard_normal(COUNT)).astype(np.int64)),
    "cut off at three": (40.3, truncated),
    "cut off at three, wide": (54321.7, truncated),
    "only even": (54321.7, lambda rng, std: 2 * np.rint(std / 2 * rng.standard_normal(COUNT)).astype(np.int64)),
    "Laplace": (40.3, lambda rng, std: np.rint(rng.laplace(scale=std / math.sqrt(2), size=COUNT)).astype(np.int64)),
    "one step off": (40.3, lambda rng, std: DiscreteGaussian(std).draw(Stream.seeded(1), COUNT) + 1),
    "halves repeat": (
        40.3,
        lambda rng, std: np.tile(DiscreteGaussian(std).draw(Stream.seeded(1), 1 << 15), 7)[:COUNT],
    ),
    "none": (3.0, lambda rng, std: np.arange(COUNT) % 2),
}


@pytest.mark.statistical
@pytest.mark.parametrize("law", WRONG)
def test_a_wrong_law_is_noticed(law: str):
    std, draw = WRONG[law]
    assert complaints(draw(np.random.default_rng(0), std), std) != []


@pytest.mark.statistical
def test_short_draws_follow_the_same_law():
    stream, share = Stream.secret(), DiscreteGaussian(700.0)
    draws = np.concatenate([share.draw(stream, count) for count in (1, 2, 3, 7, 137) * 1000])
    assert complaints(draws, 700.0) == []


@pytest.mark.statistical
def test_parties_and_rounds_draw_independently():
    def columns(streams: list[Stream]) -> np.ndarray:
        return np.stack([DiscreteGaussian(2.0**20).draw(stream, 40_000) for stream in streams], axis=1)

    def least_chance(draws: np.ndarray) -> float:
        off_diagonal = np.corrcoef(draws, rowvar=False)[np.triu_indices(draws.shape[1], k=1)]
        return float(2 * stats.norm.sf(np.abs(off_diagonal).max() * math.sqrt(len(draws))))

    one = Stream.secret()
    for draws in (
        columns([Stream.secret() for _ in range(5)]),
        columns([one] * 5),
        columns([Stream.seeded(1, "party", str(label)) for label in range(5)]),
    ):
        assert least_chance(draws.astype(np.float64)) > DOUBT
        assert least_chance(draws.astype(np.float64) ** 2) > DOUBT
    wrong = draws + (0.3 * 2.0**20 * np.random.default_rng(0).standard_normal((len(draws), 1))).astype(np.int64)
    assert not least_chance(wrong) > DOUBT


@pytest.mark.parametrize("std", [0.7, 2.0**10, 2.0**30])
def test_a_seeded_stream_gives_the_same_draws_and_goes_on(std: float):
    share, stream = DiscreteGaussian(std), Stream.seeded(3, "party")
    first = share.draw(stream, 50_000)
    np.testing.assert_array_equal(first, DiscreteGaussian(std).draw(Stream.seeded(3, "party"), 50_000))
    assert (first != share.draw(stream, 50_000)).any()
    assert (first != share.draw(Stream.seeded(3, "another"), 50_000)).any()


def test_nothing_is_drawn_for_nothing():
    stream = Stream.seeded(1)
    assert DiscreteGaussian(2.0**20).draw(stream, 0).shape == (0,)
    np.testing.assert_array_equal(stream.words(4), Stream.seeded(1).words(4))


@pytest.mark.parametrize("std", [math.nan, math.inf, -math.inf, -1.0, 0.0, 0.499, 2.0**40 * 1.001])
def test_what_cannot_be_drawn_is_refused(std: float):
    with pytest.raises(PlanError, match="needs a standard deviation"):
        DiscreteGaussian(std)


def table_law(table: discrete._Table) -> dict[int, Fraction]:
    """Return the law that the alias table draws from, exactly: of its columns, thresholds and other columns."""
    law = dict.fromkeys(range(-table.half_width, table.half_width + 1), Fraction(0))
    whole = 2 ** (64 + 64 - table.bits)
    for column in range(2**table.bits):
        kept = (int(table.kept_high[column]) << 64) + int(table.kept_low[column])
        for value, part in ((column, kept), (int(table.other[column]), whole - kept)):
            if part:
                law[value - table.half_width] += Fraction(part, 2**128)
    return law


@pytest.mark.parametrize("std", ["0.5", "0.73", "3.4641", "17.5", "100"])
def test_the_table_is_the_exact_law_within_its_distance(std: str):
    """Against masses from Decimal's own correctly rounded exp, one by one, summed well beyond the table's end."""
    with localcontext(Context(prec=90)):
        variance = Decimal(std) ** 2
        table = discrete._table(variance)
        masses = [(-Decimal(k * k) / (2 * variance)).exp() for k in range(2 * table.half_width)]
        whole = masses[0] + 2 * sum(masses[1:])
        law = table_law(table)
        differences = [
            abs(Decimal(law[k].numerator) / law[k].denominator - masses[abs(k)] / whole) for k in sorted(law)
        ]
        missed = 2 * sum(masses[table.half_width + 1 :]) / whole
        distance = (sum(differences) + missed) / 2
    assert sum(law.values()) == 1
    assert all(law[k] == law[-k] for k in law)
    assert 0 < float(distance) <= table.distance < 2.0**-100
    assert float(max(differences)) < 2.0**-110


def test_a_table_of_another_variance_is_told_apart_exactly():
    law, other = (table_law(discrete._table(variance)) for variance in (Decimal(9), Decimal(9) + Decimal(2) ** -60))
    assert 2.0**-70 < float(sum(abs(law[k] - other[k]) for k in law)) / 2 < 2.0**-60


def test_the_second_word_decides_a_tie(monkeypatch: pytest.MonkeyPatch):
    """A word whose rest equals the first half of the threshold asks for a second word, and only such a word does."""
    table = discrete._table(Decimal(9))
    column = int(np.flatnonzero((table.kept_high > 0) & (table.kept_low > 0))[0])
    assert int(table.other[column]) != column
    edge = (column << (64 - table.bits)) + int(table.kept_high[column])
    low = int(table.kept_low[column])
    asked: list[int] = []

    def draw_with(*words: int) -> int:
        stock = iter(words)

        def next_words(_: Stream, count: int) -> np.ndarray:
            asked.append(count)
            return np.array([next(stock) for _ in range(count)], dtype=np.uint64)

        monkeypatch.setattr(noise.Stream, "words", next_words)
        return int(table.draw(Stream.seeded(1), 1)[0]) + table.half_width

    assert draw_with(edge, low - 1) == column
    assert draw_with(edge, low) == int(table.other[column])
    assert asked == [1, 1, 1, 1]
    assert draw_with(edge - 1) == column
    assert draw_with(edge + 1) == int(table.other[column])
    assert asked[4:] == [1, 1]


def sum_law(a: int, v: float, w: float, reach: int) -> np.ndarray:
    """Return the law of X + a Y at -reach .. reach, X ~ N_Z(0, v) and Y ~ N_Z(0, w), by direct summation."""
    side = math.ceil(12 * math.sqrt(w))
    fine = exact(math.sqrt(v), 2 * reach + a * side)
    middle = fine.size // 2
    law = np.zeros(2 * reach + 1)
    for y, chance in zip(range(-side, side + 1), exact(math.sqrt(w), side), strict=True):
        law += chance * fine[middle - reach - a * y : middle + reach + 1 - a * y]
    return law


@settings(max_examples=60, deadline=None)
@given(a=st.integers(1, 6), fine=st.floats(0.5, 6.0), coarse=st.floats(0.5, 4.0))
def test_a_sum_is_within_its_bound_of_the_wide_law(a: int, fine: float, coarse: float):
    v, w = fine**2, coarse**2
    std = math.sqrt(v + a**2 * w)
    reach = math.ceil(12 * std)
    found = float(np.abs(sum_law(a, v, w, reach) - exact(std, reach)).sum()) / 2
    assert found <= sum_distance(v * w / std**2) + 1e-13


def test_the_bound_on_sums_is_tight_enough_to_notice_a_wrong_exponent():
    """Twice the smoothness would not bound it."""
    a, v, w = 3, 4.0, 2.25
    std = math.sqrt(v + a**2 * w)
    reach = math.ceil(12 * std)
    found = float(np.abs(sum_law(a, v, w, reach) - exact(std, reach)).sum()) / 2
    smoothness = v * w / std**2
    assert sum_distance(2 * smoothness) < found <= sum_distance(smoothness) < 3 * found


@given(variance=st.floats(0.05, 1.5), shift=st.floats(-1.0, 1.0))
def test_the_ripple_bounds_theta_everywhere(variance: float, shift: float):
    theta = math.fsum(math.exp(-((k - shift) ** 2) / (2 * variance)) for k in range(-20, 21))
    assert abs(theta / math.sqrt(2 * math.pi * variance) - 1) <= ripple(variance) + 1e-14


def test_where_the_bound_says_nothing_it_says_one():
    assert sum_distance(0.01) == 1.0
    assert 0 < sum_distance(1e6) < 1e-290


@given(std=st.floats(0.5, 2.0**40))
@settings(max_examples=25, deadline=None)
def test_every_law_is_within_its_claim_and_its_range(std: float):
    share = DiscreteGaussian(std)
    assert 0 < share.distance < 2.0**-82
    draws = share.draw(Stream.seeded(1), 2000)
    assert draws.dtype == np.int64
    assert np.abs(draws).max() <= share.largest < 2**45
    assert 12 * std <= share.largest < 18 * std + 1


@pytest.mark.parametrize("std", [0.5, 511.0, 2.0**26, 2.0**40])
def test_the_most_extreme_words_stay_in_range(std: float, monkeypatch: pytest.MonkeyPatch):
    for word in (0, 2**64 - 1, 2**63, 2**50):
        monkeypatch.setattr(noise.Stream, "words", lambda _, count, word=word: np.full(count, word, dtype=np.uint64))
        share = DiscreteGaussian(std)
        assert abs(int(share.draw(Stream.seeded(1), 1)[0])) <= share.largest
