"""The stream is ChaCha20 under the operating system's key, and its draws follow their laws and no near ones."""

import os
import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats

from fedmarket.privacy import noise
from fedmarket.privacy.noise import Stream

DOUBT = 1e-7
"""A right law is rejected this rarely: the streams are secret, so no seed makes a lucky run last."""

BLOCK_0 = (
    "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"
    "da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586"
)
BLOCK_1 = (
    "9f07e7be5551387a98ba977c732d080dcb0f29a048e3656912c6533e32ee7aed"
    "29b721769ce64e43d57133b074d839d531ed1f28510afb45ace10a1f4b794d6f"
)


def test_the_words_are_the_chacha20_keystream_of_rfc_8439(monkeypatch: pytest.MonkeyPatch):
    """RFC 8439, appendix A.1, test vectors 1 and 2: zero key and nonce, blocks 0 and 1."""
    monkeypatch.setattr(os, "urandom", bytes)
    stream = Stream.secret()
    assert (stream.words(3).tobytes() + stream.words(13).tobytes()).hex() == BLOCK_0 + BLOCK_1


def test_each_secret_stream_asks_the_operating_system_for_its_own_256_bit_key(monkeypatch: pytest.MonkeyPatch):
    asked: list[int] = []

    def urandom(size: int) -> bytes:
        asked.append(size)
        return bytes([len(asked)]) * size

    monkeypatch.setattr(os, "urandom", urandom)
    one, other = Stream.secret(), Stream.secret()
    assert asked == [32, 32]
    assert one.words(8).tobytes() != other.words(8).tobytes()


def seed_every_generator() -> None:
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)


def repeats(draw: Callable[[], float]) -> bool:
    first, second = [(seed_every_generator(), draw())[1] for _ in range(2)]
    return first == second


def test_no_seed_makes_secret_noise_repeat():
    assert repeats(lambda: float(np.random.standard_normal()))
    assert repeats(lambda: float(torch.randn(())))
    assert not repeats(lambda: float(Stream.secret().normals(1)[0]))
    assert not repeats(lambda: int(Stream.secret().words(1)[0]))


def test_secret_streams_never_repeat_and_a_stream_does_not_repeat_itself():
    stream = Stream.secret()
    words = [int(Stream.secret().words(1)[0]) for _ in range(2000)] + [int(word) for word in stream.words(50_000)]
    assert len(set(words)) == len(words)


def test_seeded_streams_repeat_with_seed_and_labels_and_with_nothing_else():
    keys = [(1,), (2,), (1, "a"), (1, "b"), (1, "a", "b"), (1, "b", "a"), (1, "ab")]
    draws = {key: Stream.seeded(*key).normals(5).tobytes() for key in keys}
    assert all(Stream.seeded(*key).normals(5).tobytes() == draw for key, draw in draws.items())
    assert len(set(draws.values())) == len(keys)


@pytest.mark.parametrize("stream", [Stream.secret(), Stream.seeded(3, "party")])
def test_a_stream_shows_no_key(stream: Stream):
    assert repr(stream) == "Stream()"


def test_nothing_is_drawn_for_nothing():
    stream = Stream.seeded(1)
    assert [stream.normals(0).size, stream.coins(0, 0.5).size, stream.words(0).size] == [0, 0, 0]
    np.testing.assert_array_equal(stream.words(4), Stream.seeded(1).words(4))


def normal_complaints(draws: np.ndarray) -> list[str]:
    """Return which tests against independent N(0, 1) reject ``draws`` (n,)."""
    n = draws.size
    chances = {
        "shape": stats.kstest(draws, "norm").pvalue,
        "mean": 2 * stats.norm.sf(abs(draws.mean()) * np.sqrt(n)),
        "variance": 2 * min(stats.chi2.sf(np.sum(draws**2), n), stats.chi2.cdf(np.sum(draws**2), n)),
        "tails": 2 * stats.norm.sf(abs(np.mean(draws**4) - 3) * np.sqrt(n / 96)),
        "skew": 2 * stats.norm.sf(abs(np.mean(draws**3)) * np.sqrt(n / 15)),
        "neighbours": stats.pearsonr(draws[1:], draws[:-1]).pvalue,
        "halves": stats.pearsonr(draws[: n // 2], draws[n // 2 : 2 * (n // 2)]).pvalue,
        "halves' size": stats.pearsonr(draws[: n // 2] ** 2, draws[n // 2 : 2 * (n // 2)] ** 2).pvalue,
    }
    return [name for name, chance in chances.items() if not chance > DOUBT]


def repeated_half(rng: np.random.Generator, n: int) -> np.ndarray:
    return np.tile(rng.standard_normal(n // 2), 2)


def shared_radius(rng: np.random.Generator, n: int) -> np.ndarray:
    """Box-Muller whose halves share radii but take angles of their own: uncorrelated, and yet dependent."""
    radius = np.sqrt(-2 * np.log(rng.random(n // 2)))
    return np.concatenate([radius, radius]) * np.cos(2 * np.pi * rng.random(n))


WRONG_NORMALS: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "scale 0.9": lambda rng, n: 0.9 * rng.standard_normal(n),
    "scale 1.02": lambda rng, n: 1.02 * rng.standard_normal(n),
    "shifted": lambda rng, n: rng.standard_normal(n) + 0.02,
    "Laplace": lambda rng, n: rng.laplace(scale=np.sqrt(0.5), size=n),
    "sum of uniforms": lambda rng, n: rng.random((12, n)).sum(axis=0) - 6,
    "truncated": lambda rng, n: np.clip(rng.standard_normal(n), -2.5, 2.5),
    "neighbours alike": lambda rng, n: np.convolve(rng.standard_normal(n + 1), [np.sqrt(0.99), 0.1], "valid"),
    "repeated half": repeated_half,
    "shared radius": shared_radius,
    "none": lambda _, n: np.zeros(n) + 1e-9 * np.arange(n),
}


@pytest.mark.statistical
@pytest.mark.parametrize("stream", [Stream.secret(), Stream.seeded(5, "normals")])
def test_normals_are_independent_standard_normals(stream: Stream):
    assert normal_complaints(stream.normals(300_000)) == []


@pytest.mark.statistical
@pytest.mark.parametrize("law", WRONG_NORMALS)
def test_a_wrong_law_of_noise_is_noticed(law: str):
    draws = WRONG_NORMALS[law](np.random.default_rng(0), 300_000)
    assert normal_complaints(draws) != []


@pytest.mark.statistical
def test_short_draws_follow_the_same_law():
    stream = Stream.secret()
    assert normal_complaints(np.concatenate([stream.normals(count) for count in (1, 2, 3, 7) * 8000])) == []


def largest_correlation(columns: np.ndarray) -> float:
    """Return the smallest p-value of all pairs' correlations, of the values and of their squares."""
    chances = []
    for values in (columns, columns**2):
        correlation = np.corrcoef(values, rowvar=False)[np.triu_indices(columns.shape[1], k=1)]
        chances.append(2 * stats.norm.sf(np.abs(correlation).max() * np.sqrt(len(columns))))
    return float(min(chances))


@pytest.mark.statistical
def test_coordinates_streams_and_labels_are_independent():
    n, width = 40_000, 6
    coordinates = np.stack([Stream.secret().normals(width) for _ in range(n // 4)])
    streams = np.stack([Stream.secret().normals(n) for _ in range(width)], axis=1)
    labels = np.stack([Stream.seeded(1, "party", str(label)).normals(n) for label in range(width)], axis=1)
    assert [largest_correlation(columns) > DOUBT for columns in (coordinates, streams, labels)] == [True] * 3
    wrong = streams + 0.25 * np.random.default_rng(0).standard_normal((n, 1))
    assert not largest_correlation(wrong) > DOUBT


def coin_complaints(tosses: np.ndarray, rate: float) -> list[str]:
    """Return which tests against independent Bernoulli(rate) coins reject ``tosses`` (samples, rows)."""
    samples, rows = tosses.shape
    variance = rate * (1 - rate)
    dispersion = np.sum((tosses.sum(axis=1) - rows * rate) ** 2) / (rows * variance)
    of_rows = np.sum((tosses.sum(axis=0) - samples * rate) ** 2) / (samples * variance)
    centred = tosses - rate
    chances = {
        "rate": stats.binomtest(int(tosses.sum()), tosses.size, rate).pvalue,
        "sizes": 2 * min(stats.chi2.sf(dispersion, samples), stats.chi2.cdf(dispersion, samples)),
        "rows": 2 * min(stats.chi2.sf(of_rows, rows), stats.chi2.cdf(of_rows, rows)),
        "neighbours": 2
        * stats.norm.sf(abs(np.sum(centred[:, 1:] * centred[:, :-1])) / variance / np.sqrt(tosses.size)),
        "samples": 2 * stats.norm.sf(abs(np.sum(centred[1:] * centred[:-1])) / variance / np.sqrt(tosses.size)),
    }
    return [name for name, chance in chances.items() if not chance > DOUBT]


def of_fixed_size(rng: np.random.Generator, shape: tuple[int, int], rate: float) -> np.ndarray:
    return rng.permuted(np.tile(np.arange(shape[1]) < round(rate * shape[1]), (shape[0], 1)), axis=1)


def shuffled_epochs(rng: np.random.Generator, shape: tuple[int, int], rate: float) -> np.ndarray:
    """Batches cut from one permutation for each pass over the rows, as ordinary loaders do."""
    batches = round(1 / rate)
    passes = [rng.permutation(shape[1]) % batches for _ in range(-(-shape[0] // batches))]
    return np.stack([dealt == batch for dealt in passes for batch in range(batches)])[: shape[0]]


WRONG_COINS: dict[str, Callable[[np.random.Generator, tuple[int, int], float], np.ndarray]] = {
    "rate 0.9": lambda rng, shape, rate: rng.random(shape) < 0.9 * rate,
    "fixed size": of_fixed_size,
    "shuffled epochs": shuffled_epochs,
    "favoured rows": lambda rng, shape, rate: rng.random(shape) < rate * np.linspace(0.8, 1.2, shape[1]),
    "rows in pairs": lambda rng, shape, rate: np.repeat(rng.random((shape[0], shape[1] // 2)) < rate, 2, axis=1),
    "the same sample": lambda rng, shape, rate: np.tile(rng.random((1, shape[1])) < rate, (shape[0], 1)),
}


@pytest.mark.statistical
@pytest.mark.parametrize("rate", [0.01, 0.2, 0.5, 0.93])
def test_coins_are_independent_with_the_rate(rate: float):
    stream = Stream.secret()
    assert coin_complaints(np.stack([stream.coins(500, rate) for _ in range(2000)]), rate) == []


@pytest.mark.statistical
@pytest.mark.parametrize("law", WRONG_COINS)
def test_sampling_that_is_not_poisson_is_noticed(law: str):
    tosses = WRONG_COINS[law](np.random.default_rng(0), (2000, 500), 0.2)
    assert coin_complaints(tosses, 0.2) != []


def test_a_rate_of_one_takes_every_row_and_draws_nothing():
    stream = Stream.seeded(1)
    assert stream.coins(1000, 1.0).all()
    np.testing.assert_array_equal(stream.words(2), Stream.seeded(1).words(2))


def test_a_coin_is_heads_exactly_below_the_rate(monkeypatch: pytest.MonkeyPatch):
    steps = np.array([0, 1, 2**52 - 1, 2**52, 2**53 - 1], dtype=np.uint64) << np.uint64(11)
    monkeypatch.setattr(noise.Stream, "words", lambda _, count: steps)
    assert Stream.seeded(1).coins(5, 0.5).tolist() == [True, True, True, False, False]
    assert Stream.seeded(1).coins(5, 2.0**-53).tolist() == [True, False, False, False, False]
    assert not Stream.seeded(1).coins(5, 2.0**-54).any()


@pytest.mark.parametrize("word", [0, 2**64 - 1])
def test_the_most_extreme_words_give_finite_normals_within_the_integer_range(
    word: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(noise.Stream, "words", lambda _, count: np.full(count, word, dtype=np.uint64))
    assert np.abs(Stream.seeded(1).normals(3)).max() < 17.2
