"""Which scales bring a weight's entries into the reach of a format: by extremes, percentiles, error or divergence."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from paring.ops.formats import Format
from paring.ops.grid import Grid
from paring.ops.quantization import SMALLEST_SCALE
from paring.ops.ranges import Histogram, chosen_range

Array = npt.NDArray[Any]
ScaleChoice = Literal["min-max", "percentile", "mse", "entropy", "hqq"]

_SHRINKS = np.geomspace(1.0, 0.12, 40)
_REFINEMENTS = 3
_NORM = 0.7
_STIFFNESS, _STIFFENING, _STEPS = 4.0, 1.05, 30
_ENTRIES_AT_ONCE = 2**22


@dataclass(frozen=True)
class Scaling:
    """How scales are chosen.

    `choice`: "min-max" reaches the largest magnitude; "percentile" cuts off what lies above that percentile of the
    magnitudes; "mse" has the least squared error, which for binary levels gives mean|w| (Rastegari et al. 2016,
    XNOR-Net, eq. 6) and for ternary ones what TWN approximates (Li et al. 2016, eq. 3); "entropy" the least
    Kullback-Leibler divergence of the magnitudes (one histogram a block, slow where there are many); "hqq" the least
    sum of |error|^0.7, to which a few far entries matter less (Badri and Shaji 2023, HQQ). Formats without negative
    levels are affine: both ends are chosen so, and a zero point tells where 0 lies.
    `power_of_two`: scales are 2^p, of the two next to the chosen one that with the smaller error.
    """

    choice: ScaleChoice = "mse"
    percentile: float = 99.9
    power_of_two: bool = False


def fitted(weight: Array, form: Format, scaling: Scaling, blocks: int = 1, *, by_row: bool = True) -> Grid:
    """The grid for a weight (rows, columns): scales for `blocks` equal parts of each row, or of all rows together.

    Blocks of zeros get the largest scale of the others, or 1. Raises ValueError where the columns don't divide.
    """
    if weight.shape[1] % blocks:
        raise ValueError(f"{weight.shape[1]} columns do not divide into {blocks} blocks.")
    parts = weight.astype(np.float32).reshape(len(weight), blocks, -1)
    if not by_row:
        parts = parts.transpose(1, 0, 2).reshape(1, blocks, -1)
    step = max(1, _ENTRIES_AT_ONCE // max(1, parts[0].size))
    found = [_fitted(parts[first : first + step], form, scaling) for first in range(0, len(parts), step)]
    zeros = None if form.levels[0] < 0 else np.concatenate([zero for _, zero in found])
    return Grid(form, _usable(np.concatenate([scale for scale, _ in found])), zeros)


def least(grid: Grid, scale: Array | float) -> Grid:
    """The same grid with no scale below the given ones, a number or shape (rows,)."""
    floor = np.broadcast_to(np.asarray(scale, np.float32).reshape(-1, 1), grid.scale.shape)
    return replace(grid, scale=np.maximum(grid.scale, floor))


def _usable(scale: Array) -> Array:
    """Scales that can be divided by: those of blocks without any values are the largest of the others, or 1."""
    usable = scale >= SMALLEST_SCALE
    return np.where(usable, scale, scale.max(initial=0.0) if usable.any() else 1.0).astype(np.float32)


def _fitted(parts: Array, form: Format, scaling: Scaling) -> tuple[Array, Array]:
    """Scales and zero points, each of shape (rows, blocks), for parts (rows, blocks, entries)."""
    low, high = _ends(parts, scaling, affine=form.levels[0] >= 0)
    scale, zero = _covering(low, high, form)
    if scaling.choice == "mse":
        scale, zero = _least_error(parts, form, low, high)
    elif scaling.choice == "hqq":
        scale, zero = _half_quadratic(parts, form, scale, zero)
    if scaling.power_of_two:
        scale, zero = _power_of_two(parts, form, scale, zero)
    return scale, zero


def _ends(parts: Array, scaling: Scaling, *, affine: bool) -> tuple[Array, Array]:
    """The range to cover in each block, (rows, blocks) each, which holds 0."""
    if scaling.choice == "percentile":
        share = scaling.percentile / 100
        if affine:
            low, high = np.quantile(parts, (1 - share) / 2, axis=-1), np.quantile(parts, (1 + share) / 2, axis=-1)
        else:
            high = np.quantile(np.abs(parts), share, axis=-1)
            low = -high
    elif scaling.choice == "entropy":
        low, high = _by_divergence(parts)
    else:
        low, high = parts.min(axis=-1, initial=0.0), parts.max(axis=-1, initial=0.0)
    return np.minimum(low, 0.0), np.maximum(high, 0.0)


def _by_divergence(parts: Array) -> tuple[Array, Array]:
    ends = np.zeros((2, *parts.shape[:2]))
    for row, block in np.ndindex(*parts.shape[:2]):
        seen = Histogram()
        seen.add(parts[row, block])
        chosen = chosen_range(seen, "entropy")
        ends[:, row, block] = chosen.low, chosen.high
    return ends[0], ends[1]


def _covering(low: Array, high: Array, form: Format) -> tuple[Array, Array]:
    """Scales and zero points with which the format reaches from low to high."""
    if form.levels[0] < 0:
        scale = np.maximum(-low, high) / form.largest
        return scale, np.zeros_like(scale)
    scale = (high - low) / form.largest
    # A part of all zeros has no scale yet.
    zero = np.rint(-low / np.where(scale > 0, scale, 1.0))
    return scale, np.clip(zero, 0, form.largest)


def _least_error(parts: Array, form: Format, low: Array, high: Array) -> tuple[Array, Array]:
    """The best of shrunken ranges, and of steps by least squares from there.

    With the codes given, the scale of least error is <w, l> / <l, l>; each step can only lower the error.
    """
    best_scale, best_zero = _covering(low, high, form)
    best = _error(parts, form, best_scale, best_zero)
    for shrink in _SHRINKS[1:]:
        scale, zero = _covering(low * shrink, high * shrink, form)
        best_scale, best_zero, best = _better(parts, form, (scale, zero), (best_scale, best_zero, best))
    for _ in range(_REFINEMENTS):
        levels = _levels(parts, form, best_scale, best_zero)
        norm = (levels * levels).sum(axis=-1)
        scale = (parts * levels).sum(axis=-1) / np.where(norm > 0, norm, 1.0)
        best_scale, best_zero, best = _better(parts, form, (scale, best_zero), (best_scale, best_zero, best))
    return best_scale, best_zero


def _half_quadratic(parts: Array, form: Format, scale: Array, zero: Array) -> tuple[Array, Array]:
    """Scales and zero points of less sum |error|^p by half-quadratic steps from the given ones.

    Badri and Shaji 2023, Half-Quadratic Quantization: what shrinkage leaves of the errors counts as outliers, and the
    rest decides, by least squares. They move the zero point alone, a real number; here it is rounded to an integer, as
    integer kernels have it, and moves little by itself, so that the scale takes a step of least squares as well. The
    error is measured in scales, so that a weight's size does not matter.
    """
    best = (scale, zero, _error(parts, form, scale, zero, _NORM))
    stiffness = _STIFFNESS
    for _ in range(_STEPS):
        levels, unit = _levels(parts, form, scale, zero), _usable(scale)[..., None]
        inliers = parts / unit - _shrunk(parts / unit - levels, stiffness)
        if form.levels[0] >= 0:
            shift = np.rint((levels - inliers).mean(axis=-1))
            zero = np.clip(zero + shift, 0, form.largest)
            levels = _levels(parts, form, scale, zero)
        norm = (levels * levels).sum(axis=-1)
        factor = (inliers * levels).sum(axis=-1) / np.where(norm > 0, norm, 1.0)
        scale = np.where(factor > 0, scale * factor, scale)
        best = _better(parts, form, (scale, zero), best, _NORM)
        stiffness *= _STIFFENING
    return best[0], best[1]


def _shrunk(error: Array, stiffness: float) -> Array:
    """sign(e) max(0, |e| - |e|^(p-1) / stiffness): small errors vanish, large ones stay almost as they are."""
    magnitude = np.abs(error)
    threshold = np.maximum(magnitude, 1e-6) ** (_NORM - 1) / stiffness
    return np.asarray(np.sign(error) * np.maximum(magnitude - threshold, 0.0))


def _better(
    parts: Array, form: Format, new: tuple[Array, Array], best: tuple[Array, Array, Array], norm: float = 2.0
) -> tuple[Array, Array, Array]:
    """Block by block the one with the smaller error: (scale, zero point, error)."""
    error = _error(parts, form, *new, norm)
    wins = (error < best[2]) & (new[0] >= SMALLEST_SCALE)
    return np.where(wins, new[0], best[0]), np.where(wins, new[1], best[1]), np.where(wins, error, best[2])


def _levels(parts: Array, form: Format, scale: Array, zero: Array) -> Array:
    """The nearest levels less the zero points, same shape as the parts."""
    quotient = parts / _usable(scale)[..., None]
    if form.levels[0] < 0:
        return form.decode(form.encode(quotient))
    shift = zero[..., None]
    return form.decode(form.encode(np.rint(quotient) + shift)) - shift


def _error(parts: Array, form: Format, scale: Array, zero: Array, norm: float = 2.0) -> Array:
    """Sum of |error|^norm of each block, shape (rows, blocks)."""
    difference = _levels(parts, form, scale, zero) * _usable(scale)[..., None] - parts
    powers = np.square(difference) if norm == 2 else np.abs(difference) ** norm
    return np.asarray(powers.sum(axis=-1))


def _power_of_two(parts: Array, form: Format, scale: Array, zero: Array) -> tuple[Array, Array]:
    exponent = np.log2(_usable(scale))
    lower, upper = np.exp2(np.floor(exponent)), np.exp2(np.ceil(exponent))
    shifts = [np.clip(np.rint(zero * scale / each), 0, form.largest) for each in (lower, upper)]
    start = (upper, shifts[1], _error(parts, form, upper, shifts[1]))
    chosen, shift, _ = _better(parts, form, (lower, shifts[0]), start)
    return np.where(scale > 0, chosen, 0.0), shift
