"""Number formats of at most 16 bits: which numbers their codes stand for, and which of those lies nearest to a number.

A format is a set of levels at scale 1. What brings a tensor's values into their reach, a scale for each tensor, channel
or block, is chosen elsewhere. Formats whose levels are all integers run in int8 kernels whatever their width, since
their codes can be looked up once when a network is loaded.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from paring.errors import TechniqueError

Array = npt.NDArray[Any]

FEW_LEVELS = 32
"""With so many, comparing with each middle between two is quicker than searching among them."""


@dataclass(frozen=True)
class Format:
    """`levels`, ascending and each once, at most 2^bits: the numbers that codes 0, 1, ... stand for."""

    name: str
    bits: int
    levels: tuple[float, ...]

    def __post_init__(self) -> None:
        if not (2 <= len(self.levels) <= 2**self.bits and all(np.diff(self.levels) > 0)):
            raise ValueError(f"{self.name}: {len(self.levels)} levels must ascend and fit {self.bits} bits.")

    @property
    def largest(self) -> float:
        """The largest magnitude that both signs reach; of a format without negative levels the largest level."""
        low, high = self.levels[0], self.levels[-1]
        return high if low >= 0 else min(-low, high)

    @property
    def is_integral(self) -> bool:
        """Whether every level is an integer that int8 or uint8 holds: integer kernels can run it."""
        low, high = self.levels[0], self.levels[-1]
        fits = low >= -128 and high <= (127 if low < 0 else 255)
        return fits and all(level == int(level) for level in self.levels)

    @cached_property
    def step(self) -> float | None:
        """The distance from each level to the next; None where it differs."""
        steps = np.diff(self.levels)
        return float(steps[0]) if (steps == steps[0]).all() else None

    @cached_property
    def values(self) -> Array:
        """The levels, shape (levels,), float32."""
        return np.array(self.levels, np.float32)

    @cached_property
    def _middles(self) -> Array:
        levels: Array = np.array(self.levels)
        return np.asarray((levels[1:] + levels[:-1]) / 2)

    @cached_property
    def _narrow_middles(self) -> Array:
        """The largest float32 at most each middle: above it lie the same float32 as above the middle."""
        narrow = self._middles.astype(np.float32)
        return np.where(narrow > self._middles, np.nextafter(narrow, np.float32(-np.inf)), narrow)

    def encode(self, values: Array) -> Array:
        """Codes of the nearest levels, same shape; a tie goes to the level of even rank, counted from zero.

        They are uint8, of more than 8 bits uint16. So integers round half to even, and floats to the even mantissa, as
        IEEE 754 has it. Values out of reach, also infinite ones, become the level at that end. ValueError where there
        is a NaN.
        """
        given = np.asarray(values)
        if np.isnan(given).any():
            raise ValueError(f"NaN has no {self.name}.")
        kind = np.uint8 if self.bits <= 8 else np.uint16
        zero = self.levels.index(0.0) if 0.0 in self.levels else 0
        if self.step is not None and self.levels[zero] == 0:
            ranks = np.rint(given / self.step)
            return (np.clip(ranks, -zero, len(self.levels) - 1 - zero) + zero).astype(kind)
        # Also where steps are equal but none begins at 0: a number near 0 less the first level would lose its sign.
        if given.dtype == np.float32 and len(self.levels) <= FEW_LEVELS:
            below = np.zeros(given.shape, kind)
            for middle in self._narrow_middles:
                below += given > middle
        else:
            below = np.searchsorted(self._middles, given).astype(kind)
        # Many values lie beyond the last middle, on which none of them can be.
        tied = given == np.append(self._middles, np.nan).take(below)
        codes: Array = (below + (tied & (below % 2 != zero % 2))).astype(kind)
        return codes

    def decode(self, codes: Array) -> Array:
        """float32 levels of the codes, same shape."""
        return self.values[codes]


def integers(bits: int, *, signed: bool = True) -> Format:
    """All of so many bits: -2^(bits-1) .. 2^(bits-1) - 1, or 0 .. 2^bits - 1."""
    low = -(2 ** (bits - 1)) if signed else 0
    return Format(f"{'' if signed else 'u'}int{bits}", bits, tuple(float(low + code) for code in range(2**bits)))


def odd_integers(bits: int) -> Format:
    """The odd integers -(2^bits - 1) .. 2^bits - 1: as many levels on either side of 0, and none of them wasted.

    Uniform levels that are symmetric about 0; one bit has -1 and 1, which are binary weights.
    """
    return Format(f"odd{bits}", bits, tuple(float(level) for level in range(1 - 2**bits, 2**bits, 2)))


def floats(exponent_bits: int, mantissa_bits: int, *, codes_for_special: int) -> Format:
    """The finite numbers of a float format with a sign, subnormals and the usual bias.

    Micikevicius et al. 2022, FP8 Formats for Deep Learning, table 1; OCP Microscaling Formats 1.0, section 5.3. Of the
    codes of each sign the `codes_for_special` largest stand for infinity and NaN.
    """
    bias = 2 ** (exponent_bits - 1) - 1
    positive = []
    for exponent, mantissa in product(range(2**exponent_bits), range(2**mantissa_bits)):
        fraction = mantissa / 2**mantissa_bits
        positive.append(2.0 ** (max(exponent, 1) - bias) * (fraction + (exponent > 0)))
    finite = positive[: len(positive) - codes_for_special]
    levels = (*(-level for level in reversed(finite[1:])), *finite)
    return Format(f"e{exponent_bits}m{mantissa_bits}", 1 + exponent_bits + mantissa_bits, levels)


def powers_of_two(bits: int) -> Format:
    """0 and the powers 1, 2, 4, ... of either sign. Zhou et al. 2017, INQ, section 2.1; there with a free exponent."""
    powers = [2.0**exponent for exponent in range(2 ** (bits - 1) - 1)]
    return Format(f"pow{bits}", bits, (*(-power for power in reversed(powers)), 0.0, *powers))


def sums_of_powers(name: str, bits: int, *terms: Iterable[int]) -> Format:
    """Additive powers of two: sums of one number of each of the `terms`, of either sign, in units of the smallest.

    Li et al. 2020, Additive Powers-of-Two Quantization, eq. 5.
    """
    positive = sorted({sum(chosen) for chosen in product(*terms)})
    return Format(name, bits, tuple(map(float, (*(-level for level in reversed(positive[1:])), *positive))))


NORMAL_FLOAT_4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334),
    *(-0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
"""Quantiles of the normal distribution. Dettmers et al. 2023, QLoRA, appendix E."""

FORMATS: Mapping[str, Format] = MappingProxyType(
    {
        each.name: each
        for each in (
            *(integers(bits, signed=signed) for bits in (*range(2, 9), 16) for signed in (True, False)),
            integers(1, signed=False),
            *(odd_integers(bits) for bits in range(2, 7)),
            *(powers_of_two(bits) for bits in range(2, 5)),
            sums_of_powers("apot4", 4, (0, 1, 4, 8), (0, 2)),
            sums_of_powers("apot5", 5, (0, 2, 8, 32), (0, 1, 4, 16)),
            Format("binary", 1, (-1.0, 1.0)),
            Format("ternary", 2, (-1.0, 0.0, 1.0)),
            Format("nf4", 4, NORMAL_FLOAT_4),
            floats(4, 3, codes_for_special=1),
            floats(5, 2, codes_for_special=4),
            floats(2, 3, codes_for_special=0),
            floats(3, 2, codes_for_special=0),
            floats(2, 1, codes_for_special=0),
        )
    }
)
"""By name: int2 to int8 and int16, uint1 to uint8 and uint16, binary, ternary, odd2 to odd6, pow2 to pow4 (powers of
two), apot4 and apot5, nf4, and e4m3 and other floats."""


def format_of(name: str) -> Format:
    """The format of that name. TechniqueError names the closest known ones."""
    if name not in FORMATS:
        close = ", ".join(difflib.get_close_matches(name, FORMATS, n=3, cutoff=0.0))
        raise TechniqueError(f"format {name!r} is unknown: choose {close}.")
    return FORMATS[name]
