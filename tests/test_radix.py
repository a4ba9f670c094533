"""Digits at their true width: they come back, and they take what their base needs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paring.ops.radix import LONGEST_WORD, pack, packed_bytes, unpack

BASES = range(2, 257)


@given(st.integers(0, 999), st.sampled_from(BASES), st.integers(0, 300))
def test_digits_come_back(seed: int, base: int, count: int) -> None:
    codes = np.random.default_rng(seed).integers(0, base, count)
    for kind in (np.uint8, np.int64):
        packed = pack(codes.astype(kind), base)
        assert (packed.dtype, len(packed)) == (np.uint8, packed_bytes(count, base))
        assert unpack(packed, count, base).tolist() == codes.tolist()


@pytest.mark.parametrize("base", BASES)
def test_the_largest_digits_fit(base: int) -> None:
    for count in range(60):
        assert (unpack(pack(np.full(count, base - 1), base), count, base) == base - 1).all()


@given(st.integers(1, 8), st.integers(0, 10**6))
def test_powers_of_two_take_their_bits_exactly(bits: int, count: int) -> None:
    assert packed_bytes(count, 2**bits) == math.ceil(bits * count / 8)


@given(st.sampled_from(BASES), st.integers(0, 10**6))
def test_no_base_takes_more_than_whole_bits_nor_less_than_it_can(base: int, count: int) -> None:
    assert packed_bytes(count, base) <= math.ceil(math.ceil(math.log2(base)) * count / 8)
    assert packed_bytes(count, base) >= math.log2(base) * count / 8 - 1e-6


@pytest.mark.parametrize(("base", "bits"), [(3, 1.6), (5, 7 / 3), (6, 8 / 3), (7, 48 / 17), (15, 4), (129, 8)])
def test_what_a_digit_of_other_bases_takes(base: int, bits: float) -> None:
    assert packed_bytes(10**6, base) == pytest.approx(bits / 8 * 10**6, abs=LONGEST_WORD)


def test_five_ternary_digits_are_a_byte() -> None:
    assert pack(np.array([2, 1, 0, 0, 1]), 3).tolist() == [2 + 3 * 1 + 81 * 1]


@pytest.mark.parametrize(
    ("packed", "count", "base", "says"),
    [
        ([243], 5, 3, "a word is larger than its digits of base 3"),
        ([9], 2, 3, "a word is larger than its digits of base 3"),
        ([0, 0], 5, 3, "5 digits of base 3 take 1 bytes, not 2"),
        ([], 5, 3, "5 digits of base 3 take 1 bytes, not 0"),
    ],
)
def test_bytes_that_are_no_such_digits_are_refused(packed: list[int], count: int, base: int, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        unpack(np.array(packed, np.uint8), count, base)
