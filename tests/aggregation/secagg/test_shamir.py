"""Shamir sharing: any threshold of shares gives the secret, fewer fit every secret, wrong ones are found."""

import os
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedmarket.aggregation.secagg.shamir import (
    KEY_FIELD,
    SEED_FIELD,
    combined,
    element,
    evaluated,
    inner,
    split,
    strays,
    weights,
)
from fedmarket.errors import BadMessage

FIELDS = [SEED_FIELD, KEY_FIELD]


def is_prime(number):
    odd, twos = number - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for base in (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53):  # Miller-Rabin
        value = pow(base, odd, number)
        if value in (1, number - 1):
            continue
        for _ in range(twos - 1):
            value = value * value % number
            if value == number - 1:
                break
        else:
            return False
    return True


@pytest.mark.parametrize("field", FIELDS)
def test_the_modulus_is_the_least_prime_above_all_secrets(field):
    power = 256**field.secret_size
    assert is_prime(field.prime)
    assert not any(is_prime(number) for number in range(power + 1, field.prime, 2))


@given(data=st.data(), field=st.sampled_from(FIELDS), places=st.integers(2, 12))
def test_any_threshold_of_shares_gives_the_secret(data, field, places):
    threshold = data.draw(st.integers(1, places))
    secret = data.draw(st.binary(min_size=field.secret_size, max_size=field.secret_size))
    shares = [element(field, share) for share in split(field, secret, places=places, threshold=threshold)]
    chosen = data.draw(st.permutations(range(1, places + 1)))[:threshold]
    assert combined(field, [shares[place - 1] for place in chosen], weights(field, chosen)) == secret


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("secret_byte", [0, 255])
def test_the_least_and_the_greatest_secret_come_back(field, secret_byte):
    secret = bytes([secret_byte]) * field.secret_size
    shares = [element(field, share) for share in split(field, secret, places=100, threshold=67)]
    for chosen in (range(1, 68), range(34, 101)):
        assert combined(field, [shares[place - 1] for place in chosen], weights(field, list(chosen))) == secret


def test_one_share_fewer_fits_every_secret():
    shares = [element(SEED_FIELD, share) for share in split(SEED_FIELD, bytes(16), places=5, threshold=3)]
    for other in (1, 2**128 - 1):
        places = [0, 1, 2]
        third = inner(SEED_FIELD, [other, *shares[:2]], weights(SEED_FIELD, places, at=3))
        assert combined(SEED_FIELD, [*shares[:2], third], weights(SEED_FIELD, [1, 2, 3])) == other.to_bytes(16, "big")


def test_coefficients_come_from_the_given_generator_and_are_reduced():
    drawn = []

    def fixed(count):
        drawn.append(count)
        return b"\xff" * count

    share = split(SEED_FIELD, bytes(16), places=1, threshold=3, _random=fixed)[0]
    assert drawn == [2 * 33]
    coefficient = (256**33 - 1) % SEED_FIELD.prime
    assert element(SEED_FIELD, share) == evaluated(SEED_FIELD, [coefficient, coefficient, 0], 1)


def test_two_sharings_of_one_secret_differ():
    one, other = (split(KEY_FIELD, bytes(32), places=3, threshold=2) for _ in range(2))
    assert not set(one) & set(other)


@pytest.mark.parametrize("field", FIELDS)
def test_only_the_one_encoding_of_an_element_is_taken(field):
    top = field.prime - 1
    assert element(field, top.to_bytes(field.share_size, "big")) == top
    for wrong in (field.prime.to_bytes(field.share_size, "big"), bytes(field.secret_size), bytes(field.share_size + 1)):
        with pytest.raises(BadMessage):
            element(field, wrong)


def shared(places, threshold):
    shares = split(SEED_FIELD, os.urandom(16), places=places, threshold=threshold)
    return {place: element(SEED_FIELD, share) for place, share in enumerate(shares, start=1)}


@given(data=st.data(), places=st.integers(4, 13))
def test_wrong_shares_are_found_up_to_half_of_the_spare_ones(data, places):
    threshold = data.draw(st.integers(2, places))
    bad = data.draw(st.sets(st.integers(1, places), max_size=(places - threshold) // 2))
    values = shared(places, threshold)
    for place in bad:
        values[place] = (values[place] + data.draw(st.integers(1, 5))) % SEED_FIELD.prime
    assert strays(SEED_FIELD, values, threshold=threshold) == bad


def test_holders_who_cancel_each_others_errors_frame_nobody():
    # At x = 1 and 6 of 1 to 7 Lagrange's weights at zero are opposite: equal errors leave the secret right.
    for bad in combinations(range(1, 11), 2):
        values = shared(10, 7)
        for place in bad:
            values[place] = (values[place] + 1) % SEED_FIELD.prime
        assert strays(SEED_FIELD, values, threshold=7) is None


def test_without_spare_shares_nobody_is_named():
    values = shared(4, 3)
    assert strays(SEED_FIELD, values, threshold=3) == set()
    assert strays(SEED_FIELD, {**values, 2: 0}, threshold=3) is None


def test_sixteen_wrong_shares_of_a_hundred_are_found():
    values = shared(100, 67)
    bad = set(range(3, 100, 6)[:16])
    assert strays(SEED_FIELD, values | dict.fromkeys(bad, 5), threshold=67) == bad
