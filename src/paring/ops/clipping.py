"""Where to clip values of a bell-shaped distribution, and how many bits they need, known from a few of its moments.

Banner, Nahshan, Soudry 2019, Post Training 4-bit Quantization of Convolutional Networks for Rapid-Deployment (ACIQ),
section 3. Differs in that the levels reach both ends of the range: n of them make steps of 2 reach / (n - 1), where the
paper has 2 reach / n; and in that values that are never negative are the upper half of a distribution about 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from paring.errors import TechniqueError

Array = npt.NDArray[Any]
Distribution = Literal["gaussian", "laplace"]

MIDDLE_KURTOSIS = 4.5
"""Half-way between a Gaussian's 3 and a Laplace's 6."""

BITS = range(2, 17)


@dataclass(frozen=True)
class Bell:
    """A distribution of values: `spread` is the standard deviation of a Gaussian, the mean distance of a Laplace.

    A `half` one is the upper half of one about 0. `power` is the mean square of all values, of which the share `here`
    follows the distribution; the rest is exactly zero, which every range holds.
    """

    distribution: Distribution
    middle: float
    spread: float
    half: bool = False
    power: float = 1.0
    here: float = 1.0

    def range(self, levels: int) -> tuple[float, float]:
        """The lowest and the highest of so many levels, which have the least squared error."""
        reach = analytic_clipping(self.spread, self._steps(levels), self.distribution)
        return 0.0 if self.half else self.middle - reach, self.middle + reach

    def error(self, levels: int) -> float:
        """The mean squared error within that range."""
        return self.here * expected_error(self.spread, self._steps(levels), self.distribution)

    def _steps(self, levels: int) -> int:
        """How many steps there are between -reach and reach, where a half one has all its levels on one side."""
        return (levels - 1) * (2 if self.half else 1)


def analytic_clipping(spread: float, steps: int, distribution: Distribution) -> float:
    """The reach at which so many steps between -reach and reach have the least squared error.

    `spread` is the standard deviation of a Gaussian, the mean distance from the middle of a Laplace. Where the
    derivative of the error is zero: it rises all along, so that halving an interval finds it.
    """
    slope = _SLOPES[distribution]
    low, high = 0.0, 1.0
    while slope(high, steps) < 0:
        low, high = high, 2 * high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle, steps) < 0 else (low, middle)
    return spread * high


def expected_error(spread: float, steps: int, distribution: Distribution, reach: float | None = None) -> float:
    """The mean squared error of so many steps between -reach and reach; by default at the best reach.

    What is clipped, and a twelfth of the squared step for what is rounded.
    """
    if spread == 0:
        return 0.0
    found = analytic_clipping(1.0, steps, distribution) if reach is None else reach / spread
    return spread**2 * (_CLIPPED[distribution](found) + found**2 / (3 * steps**2))


def fitted(values: Array, counts: Array | None = None) -> Bell:
    """The Gaussian or the Laplace distribution that values follow, the one whose kurtosis lies nearer.

    `counts` says how often each value comes, as bins of a histogram do; without them once each. Of values that are
    never negative those above 0 are fitted. ValueError where there are none, or NaN or infinity among them.
    """
    flat = np.asarray(values, np.float64).reshape(-1)
    weight = np.ones(flat.size) if counts is None else np.asarray(counts, np.float64).reshape(-1)
    total = weight.sum()
    if not (total > 0 and np.isfinite(flat).all()):
        raise ValueError("a distribution can be fitted to finite values, at least one.")
    flat, weight = flat[weight > 0], weight[weight > 0]
    power = float(weight @ flat**2 / total)
    half = bool(flat.min() >= 0 and flat.max() > 0)
    if half:
        flat, weight = flat[flat > 0], weight[flat > 0]
    share = weight / weight.sum()
    middle = 0.0 if half else float(share @ flat)
    away = np.abs(flat - middle)
    variance = float(share @ away**2)
    kurtosis = float(share @ (away**2 / variance) ** 2) if variance > 0 else 0.0
    here = float(weight.sum() / total)
    if kurtosis < MIDDLE_KURTOSIS:
        return Bell("gaussian", middle, math.sqrt(variance), half, power, here)
    return Bell("laplace", middle, float(share @ away), half, power, here)


def proposed_bits(values: Array, least_sqnr_db: float, counts: Array | None = None) -> int:
    """The least bits, from 2 to 16, whose signal-to-noise ratio in decibels is expected to reach this.

    Values and counts as in `fitted`. TechniqueError where 16 bits have less.
    """
    bell = fitted(values, counts)
    for bits in BITS:
        if bell.power >= bell.error(2**bits) * 10 ** (least_sqnr_db / 10):
            return bits
    most = 10 * math.log10(bell.power / bell.error(2 ** BITS[-1]))
    raise TechniqueError(
        f"least_sqnr_db={least_sqnr_db:g} needs more than {BITS[-1]} bits for these values: choose {most:.0f} or less."
    )


def _gaussian_clipped(reach: float) -> float:
    """The mean square of what lies beyond -reach and reach; of spread 1, as all that follow."""
    tail = (1 + reach**2) * math.erfc(reach / math.sqrt(2))
    return tail - math.sqrt(2 / math.pi) * reach * math.exp(-(reach**2) / 2)


def _gaussian_slope(reach: float, steps: int) -> float:
    tail = 2 * reach * math.erfc(reach / math.sqrt(2)) - 2 * math.sqrt(2 / math.pi) * math.exp(-(reach**2) / 2)
    return tail + 2 * reach / (3 * steps**2)


def _laplace_clipped(reach: float) -> float:
    return 2 * math.exp(-reach)


def _laplace_slope(reach: float, steps: int) -> float:
    return -2 * math.exp(-reach) + 2 * reach / (3 * steps**2)


_CLIPPED: dict[Distribution, Callable[[float], float]] = {"gaussian": _gaussian_clipped, "laplace": _laplace_clipped}
_SLOPES: dict[Distribution, Callable[[float, int], float]] = {"gaussian": _gaussian_slope, "laplace": _laplace_slope}
