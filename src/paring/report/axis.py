"""An axis: from a value to a position, and where its ticks stand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


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
        exponents = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        values = (mantissa * 10.0**exponent for exponent in exponents for mantissa in mantissas)
        return tuple(value for value in values if self.low <= value <= self.high)


def _round_step(step: float) -> float:
    power = 10.0 ** math.floor(math.log10(step))
    return next(nice * power for nice in (1, 2, 2.5, 5, 10) if nice * power >= step * 0.999)
