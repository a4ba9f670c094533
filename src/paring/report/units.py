"""Numbers as people read them: three significant digits, SI units, bounds rounded to the safe side."""

from __future__ import annotations

import math
from dataclasses import dataclass

NONE = "–"
MINUS = "−"
NARROW = "\u202f"


def significant(value: float, digits: int = 3) -> str:
    """The number with that many significant digits, thousands separated: 0.2513 -> 0.251, 7260.4 -> 7,260."""
    if value == 0:
        return "0"
    rounded = float(f"{value:.{digits - 1}e}")
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(rounded))))
    return signed(f"{rounded if decimals else value:,.{decimals}f}")


def signed(text: str) -> str:
    """The text with a true minus sign."""
    return text.replace("-", MINUS)


def count(value: int) -> str:
    """7000 -> 7,000."""
    return f"{value:,}"


def counted(value: int, noun: str) -> str:
    """1 -> `1 row`, 2 -> `2 rows`."""
    return f"{count(value)} {noun}" if value == 1 else f"{count(value)} {noun}s"


def latency(ms: float | None) -> str:
    """Milliseconds as µs, ms or s, whichever reads best."""
    if ms is None:
        return NONE
    if 0 < ms < 0.1:
        return f"{significant(ms * 1000)} µs"
    return f"{significant(ms / 1000)} s" if ms >= 1000 else f"{significant(ms)} ms"


def size(size_bytes: float | None) -> str:
    """Bytes as B, kB, MB or GB, each 1,000 of the one before."""
    if size_bytes is None:
        return NONE
    value = float(size_bytes)
    for unit in ("B", "kB", "MB"):
        if abs(value) < 999.5:
            return f"{value:.0f} B" if unit == "B" else f"{significant(value)} {unit}"
        value /= 1000
    return f"{significant(value)} GB"


def throughput(per_s: float | None) -> str:
    """Samples per second."""
    return NONE if per_s is None else f"{significant(per_s, 4 if per_s >= 1000 else 3)} /s"


def ratio(value: float) -> str:
    """A factor, rounded to nearest: 1.899 -> 1.90×, 10134 -> 10,100×."""
    if value < 100:
        return f"{value:.{2 if value < 10 else 1}f}×"
    return f"{float(f'{value:.3g}'):,.0f}×"


def interval(low: float, high: float) -> str:
    """The two ends of a factor's interval, rounded outwards so that it never looks narrower than it is."""
    digits = 2 if high < 10 else 1
    step = 10**digits
    return f"{_floor(low, step):.{digits}f}–{_ceil(high, step):.{digits}f}"


def layer(name: str) -> str:
    """A layer's qualified name, as people read it: that of the network itself is empty."""
    return name or "(the network itself)"


def percent(share: float) -> str:
    """A share between 0 and 1: 0.95 -> 95 %. Only all is 100 %, and only nothing is 0 %."""
    value = share * 100
    if 0 < value < 1 or 99 < value < 100:
        return f"{min(max(value, 0.1), 99.9):.1f}{NARROW}%"
    text = f"{value:.1f}".removesuffix(".0")
    return f"{text}{NARROW}%"


def duration(seconds: float | None) -> str:
    """Wall time: 8.4 s, 4 min 12 s, 1 h 02 min."""
    if seconds is None:
        return NONE
    if seconds < 60:
        return f"{significant(seconds, 2 if seconds < 10 else 3)} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


@dataclass(frozen=True)
class ScoreUnit:
    """How a metric's values read. `fraction`: they lie in 0..1, so a score is a percentage and a drop is in points."""

    fraction: bool = True

    def value(self, score: float) -> float:
        """The number as it is plotted: points for fractions, else the metric's own."""
        return score * 100 if self.fraction else score

    def score(self, score: float | None) -> str:
        """A score: 0.9173 -> 91.73 %."""
        if score is None:
            return NONE
        return f"{score * 100:.2f}{NARROW}%" if self.fraction else significant(score, 4)

    def bare(self, drop: float | None) -> str:
        """A drop without its unit, for columns: 0.0012 -> 0.12; a gain is negative."""
        if drop is None:
            return NONE
        text = f"{drop * 100:.2f}" if self.fraction else significant(drop)
        return signed("0.00" if text == "-0.00" else text)

    def drop(self, drop: float | None) -> str:
        """A drop with its unit: 0.0012 -> 0.12 points."""
        return NONE if drop is None else self._with_unit(self.bare(drop))

    def bound(self, drop: float | None) -> str:
        """An upper bound, rounded up: 0.007912 -> 0.80 points."""
        if drop is None:
            return NONE
        if not self.fraction:
            step = 10.0 ** (2 - math.floor(math.log10(abs(drop)))) if drop else 1.0
            return significant(_ceil(drop, step))
        return self._with_unit(signed(f"{_ceil(drop * 100, 100) + 0.0:.2f}"))

    @property
    def noun(self) -> str:
        """What a drop is counted in."""
        return "points" if self.fraction else "the metric's unit"

    def _with_unit(self, text: str) -> str:
        return f"{text} points" if self.fraction else text


def _ceil(value: float, step: float) -> float:
    return math.ceil(value * step - 1e-9) / step


def _floor(value: float, step: float) -> float:
    return math.floor(value * step + 1e-9) / step
