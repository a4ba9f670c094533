"""Which range of values an activation is quantized to, chosen from a histogram of what was observed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from paring.ops.clipping import fitted
from paring.ops.divergence import Cells, least_diverging
from paring.ops.quantization import LEVELS, SMALLEST_SCALE, Range, affine, dequantize, quantize

Array = npt.NDArray[Any]
Calibration = Literal["min-max", "percentile", "entropy", "mse", "aciq"]

_HALF_BINS = 4096

GAP = 32
"""How many times further than all others a row reaches that is out of scale."""

FEW_STEPS = 8
"""Scales within which nothing is left of a row but its coarsest."""


class Histogram:
    """Counts of a tensor's values in bins of equal width over [-reach, reach], and the exact minimum and maximum.

    Memory is fixed: where a value falls outside, the reach doubles and neighbouring bins merge, which loses nothing
    but resolution. NaN and infinity are not counted; `finite` tells that there were some. `row_reaches` holds the
    largest magnitude in each row of what was told to consist of rows, shape (rows,).
    """

    def __init__(self) -> None:
        self.counts: npt.NDArray[np.int64] = np.zeros(2 * _HALF_BINS, np.int64)
        self.reach = 0.0
        self.low, self.high = np.inf, -np.inf
        self.finite = True
        self.row_reaches: npt.NDArray[np.float32] = np.zeros(0, np.float32)

    def add(self, values: Array, *, in_rows: bool = False) -> None:
        """Count the values of an array of any shape; with `in_rows` its first axis counts rows."""
        if not values.size:
            return
        flat = values.reshape(-1).astype(np.float32, copy=False)
        each = flat.reshape(len(values) if in_rows else 1, -1)
        lows, highs = each.min(axis=1), each.max(axis=1)
        low, high = float(lows.min()), float(highs.max())
        if not (np.isfinite(low) and np.isfinite(high)):
            self.finite = False
            return
        if in_rows:
            self.row_reaches = np.append(self.row_reaches, np.maximum(-lows, highs))
        self.low, self.high = min(self.low, low), max(self.high, high)
        self._reach_to(max(-low, high))
        self.counts += np.histogram(flat, bins=2 * _HALF_BINS, range=(-self.reach, self.reach))[0]

    def _reach_to(self, magnitude: float) -> None:
        if self.reach == 0.0:
            self.reach = max(magnitude, SMALLEST_SCALE * _HALF_BINS)
        while self.reach < magnitude:
            merged = self.counts.reshape(_HALF_BINS, 2).sum(axis=1)
            self.counts = np.pad(merged, _HALF_BINS // 2)
            self.reach *= 2

    @property
    def range(self) -> Range:
        """The exact minimum and maximum; (0, 0) where nothing was counted."""
        return Range(self.low, self.high) if self.low <= self.high else Range(0.0, 0.0)

    @property
    def centers(self) -> Array:
        """The middle of each bin, shape (bins,)."""
        width = self.reach / _HALF_BINS
        return (np.arange(-_HALF_BINS, _HALF_BINS) + 0.5) * width

    def merged(self, other: Histogram) -> Histogram:
        """Both as one, as if it had seen the values of either; this and the other are untouched."""
        result = Histogram()
        result.low, result.high = min(self.low, other.low), max(self.high, other.high)
        result.finite = self.finite and other.finite
        if len(self.row_reaches) == len(other.row_reaches):
            result.row_reaches = np.maximum(self.row_reaches, other.row_reaches)
        result.reach = max(self.reach, other.reach)
        if result.reach:
            edges = (-result.reach, result.reach)
            for part in (self, other):
                if part.reach:
                    counted = np.histogram(part.centers, bins=2 * _HALF_BINS, range=edges, weights=part.counts)[0]
                    result.counts += counted.astype(np.int64)
        return result


def wild_rows(seen: Histogram, scale: float) -> Array:
    """Which rows reach so far beyond all others that these have hardly a level at that scale; none of many rows.

    Told by a gap: sizes of rows that are merely spread out widely have none, and what all rows hold has none either.
    At least half of the rows lie below it.
    """
    reaches = np.sort(seen.row_reaches)
    middle = (len(reaches) - 1) // 2
    if len(reaches) < 2 or reaches[middle] == 0:
        # What is nearly always exactly 0, as behind a rectifier that hardly opens, loses nothing.
        return np.zeros(0, np.int64)
    upper = reaches[middle:].astype(float)
    gaps = np.flatnonzero((upper[1:] > GAP * upper[:-1]) & (upper[:-1] < FEW_STEPS * scale))
    return np.flatnonzero(seen.row_reaches > upper[gaps[0]]) if gaps.size else np.zeros(0, np.int64)


def _percentile_range(seen: Histogram, percentile: float) -> Range:
    """The range that holds `percentile` percent of the values; the rest is cut off in equal parts at both ends.

    Where no value is negative everything is cut off at the top.
    """
    missing = (1 - percentile / 100) * seen.counts.sum()
    below = 0.0 if seen.low >= 0 else missing / 2
    cumulative = np.cumsum(seen.counts)
    width = seen.reach / _HALF_BINS
    first = int(np.searchsorted(cumulative, below, side="right"))
    last = int(np.searchsorted(cumulative, cumulative[-1] - (missing - below), side="left"))
    return Range(max(seen.low, (first - _HALF_BINS) * width), min(seen.high, (last + 1 - _HALF_BINS) * width))


def entropy_range(seen: Histogram, cells: Cells) -> Range:
    """The range whose quantized magnitudes diverge least from the observed ones, see `paring.ops.divergence`.

    The first bin counts as its neighbour: a rectifier's zeros, exact in any range, would outweigh all else.
    """
    magnitudes = seen.counts[_HALF_BINS:] + seen.counts[:_HALF_BINS][::-1]
    if magnitudes[1:].any():
        magnitudes[0] = magnitudes[1]
    reach = least_diverging(magnitudes, seen.reach / _HALF_BINS, max(-seen.low, seen.high), cells)
    return Range(max(seen.low, -reach), min(seen.high, reach))


def _even_cells(seen: Histogram, levels: int) -> Cells:
    """Values of one sign have all levels, others half of them."""
    return Cells.even(levels, half=seen.low >= 0 or seen.high <= 0)


def _squared_error(seen: Histogram, candidate: Range, levels: int) -> float:
    """Mean squared error of quantizing and reading back, over the histogram's bins."""
    parameters = affine(candidate, levels)
    error = dequantize(quantize(seen.centers, parameters), parameters) - seen.centers
    return float(seen.counts @ (error * error))


def _mse_range(seen: Histogram, levels: int) -> Range:
    """The range of least squared error: both ends are drawn in together, then each alone."""
    low, high = min(seen.low, 0.0), max(seen.high, 0.0)
    shrunk = np.geomspace(1.0, 0.05, 91)
    both = min(shrunk, key=lambda c: _squared_error(seen, Range(low * c, high * c), levels))
    low, high = low * both, high * both
    around = np.linspace(0.8, 1.2, 21)
    if seen.low < 0:
        low *= min(around, key=lambda c: _squared_error(seen, Range(low * c, high), levels))
    high *= min(around, key=lambda c: _squared_error(seen, Range(low, high * c), levels))
    return Range(float(max(seen.low, low)), float(min(seen.high, high)))


def _aciq_range(seen: Histogram, levels: int) -> Range:
    """The range of least expected squared error for the Gaussian or Laplace distribution that the values follow.

    It rests on a few moments, so that it holds beyond the rows that were seen, and can't fit what they don't show. The
    first bin counts as its neighbour where nothing is negative, as above.
    """
    counts = seen.counts.copy()
    if seen.low >= 0:
        counts[_HALF_BINS] = counts[_HALF_BINS + 1]
    low, high = fitted(seen.centers, counts).range(levels)
    return Range(max(seen.low, low), min(seen.high, high))


def chosen_range(seen: Histogram, calibration: Calibration, percentile: float = 99.99, levels: int = LEVELS) -> Range:
    """The range to quantize a tensor to so many levels; `percentile` counts for the calibration of that name alone."""
    if not seen.counts.any() or seen.low == seen.high:
        return seen.range
    choices: dict[str, Callable[[], Range]] = {
        "min-max": lambda: seen.range,
        "percentile": lambda: _percentile_range(seen, percentile),
        "entropy": lambda: entropy_range(seen, _even_cells(seen, levels)),
        "mse": lambda: _mse_range(seen, levels),
        "aciq": lambda: _aciq_range(seen, levels),
    }
    return choices[calibration]()
