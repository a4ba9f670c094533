"""Small integers at their true width: the digits of numbers that fill a few bytes.

Digits below a base of 2^n take n bits each, and those of any other base no more than a whole number of bits would, most
often less: five of base 3 make a number below 3^5 = 243, which is a byte, or 1.6 bits each where log2 3 is 1.585.

A word is the number of bytes, up to seven, that wastes least for the base. The digits are laid out row by row: word i
of w holds the digits i, i + w, i + 2w, ..., lowest first, its bytes too. Digits that fill no word are the last, shorter
one.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
LONGEST_WORD = 7
"""Bytes: with one more, a digit more than there are would not fit the integers that it is computed with."""


def packed_bytes(count: int, base: int) -> int:
    """What so many digits take."""
    digits, size = _word(base)
    return count // digits * size + _bytes_of(count % digits, base)


def pack(codes: Array, base: int) -> Array:
    """uint8 (packed_bytes,) of integers 0 .. base - 1, of shape (count,)."""
    digits, size = _word(base)
    full = len(codes) // digits * digits
    words = _words(codes[:full].reshape(digits, -1), base, size)
    return np.concatenate([words, _words(codes[full:, np.newaxis], base, _bytes_of(len(codes) - full, base))])


def unpack(packed: Array, count: int, base: int) -> Array:
    """The `count` integers again, uint8, of a base up to 256. ValueError where the bytes are none that `pack` made."""
    if len(packed) != packed_bytes(count, base):
        raise ValueError(f"{count} digits of base {base} take {packed_bytes(count, base)} bytes, not {len(packed)}")
    digits, size = _word(base)
    codes, words = np.empty(count, np.uint8), count // digits
    full = words * digits
    _read(packed[: words * size].reshape(words, size), base, codes[:full].reshape(digits, words))
    _read(packed[np.newaxis, words * size :], base, codes[full:, np.newaxis])
    return codes


@cache
def _word(base: int) -> tuple[int, int]:
    """Digits and bytes of a word."""
    sizes = range(1, LONGEST_WORD + 1)
    return max(((_digits_in(size, base), size) for size in sizes), key=lambda word: word[0] / word[1])


def _digits_in(size: int, base: int) -> int:
    digits = 0
    while base ** (digits + 1) <= 256**size:
        digits += 1
    return digits


def _bytes_of(digits: int, base: int) -> int:
    return -(-int.bit_length(base**digits - 1) // 8)


def _words(rows: Array, base: int, size: int) -> Array:
    """uint8 (words * size,) of (digits, words): one word a column."""
    numbers = np.zeros(rows.shape[1], np.uint64)
    for row in rows[::-1]:
        numbers = numbers * np.uint64(base) + row.astype(np.uint64)
    return numbers.astype("<u8").view(np.uint8).reshape(-1, 8)[:, :size].ravel()


def _read(words: Array, base: int, rows: Iterable[Array]) -> None:
    """The digits of (words, size) uint8 into rows of (words,), lowest first."""
    padded = np.zeros((len(words), 8), np.uint8)
    padded[:, : words.shape[1]] = words
    numbers = padded.view("<u8")[:, 0]
    for row in rows:
        higher = numbers // np.uint64(base)
        row[:] = numbers - higher * np.uint64(base)
        numbers = higher
    if numbers.any():
        raise ValueError(f"a word is larger than its digits of base {base}")
