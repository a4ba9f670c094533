"""Axes: from a value to a position, and where the ticks stand."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Axis:
    """From `low`..`high` to 0..1, evenly or by ratio (`log`, for values above 0 that span a factor of 4 or more)."""

    low: float
    high: float
    log: bool = False

    @classmethod
    def over(cls, values: Sequence[float], *, ratio: bool = False, margin: float = 0.06) -> Axis:
        """The axis that shows all values with a margin; `ratio` lets it be logarithmic."""
        low, high = (min(values), max(values)) if values else (0.0, 1.0)
        if ratio and low > 0 and high / low >= 4:
            pad = (high / low) ** margin
            return cls(low / pad, high * pad, log=True)
        pad = (high - low) * margin or abs(high) * 0.2 or 1.0
        return cls(max(0.0, low - pad) if low >= 0 else low - pad, high + pad)

    def at(self, value: float) -> float:
        """The position of a value, 0 at `low` and 1 at `high`."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self, wanted: int = 5) -> tuple[float, ...]:
        """Round values on the axis, about as many as wanted."""
        if self.log:
            for mantissas in ((1, 1.5, 2, 3, 4, 5, 6, 8), (1, 2, 3, 5), (1, 2, 5), (1, 3), (1,)):
                ticks = self._decades(mantissas)
                if len(ticks) <= wanted + 1:
                    break
            return ticks
        step = _round_step((self.high - self.low) / wanted)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return tuple(round(n * step, 12) for n in range(first, last + 1))

    def _decades(self, mantissas: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(value for value in _decades(self.low, self.high, mantissas) if self.low <= value <= self.high)


@dataclass(frozen=True)
class Arcsinh:
    """From `low`..`high` to 0..1: even up to about `bend` on both sides of 0, by ratio further off."""

    low: float
    high: float
    bend: float

    def at(self, value: float) -> float:
        """The position of a value, 0 at `low` and 1 at `high`."""
        begin, end, there = (math.asinh(each / self.bend) for each in (self.low, self.high, value))
        return (there - begin) / (end - begin)

    def ticks(self, wanted: int = 5) -> tuple[float, ...]:
        """0 and round values on both sides of it, at most as many as wanted or so, none close to the next."""
        for mantissas in ((1, 2, 5), (1, 3), (1,)):
            found = _decades(self.bend, max(-self.low, self.high), mantissas)
            sizes = [size for size in found if 2 * size >= self.bend]
            ticks = [t for t in (*(-size for size in reversed(sizes)), 0.0, *sizes) if self.low <= t <= self.high]
            if all(self.at(right) - self.at(left) > 0.6 / wanted for left, right in pairwise(ticks)):
                break
        return tuple(ticks)


def _decades(low: float, high: float, mantissas: tuple[float, ...]) -> Iterator[float]:
    """The multiples of powers of ten about `low`..`high`, which are above 0."""
    for exponent in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1):
        yield from (mantissa * 10.0**exponent for mantissa in mantissas)


def _round_step(step: float) -> float:
    power = 10.0 ** math.floor(math.log10(step))
    return next(nice * power for nice in (1, 2, 2.5, 5, 10) if nice * power >= step * 0.999)
