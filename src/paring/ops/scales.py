"""Which scales bring a weight's entries into the reach of a format: by extremes, percentiles, error and others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from paring.errors import TechniqueError
from paring.ops import clipping
from paring.ops.divergence import Cells
from paring.ops.formats import Format
from paring.ops.grid import Grid
from paring.ops.quantization import SMALLEST_SCALE, Range
from paring.ops.ranges import Histogram, chosen_range, entropy_range

Array = npt.NDArray[Any]
ScaleChoice = Literal["min-max", "percentile", "mse", "entropy", "aciq", "hqq"]

_SHRINKS = np.geomspace(1.0, 0.12, 40)
_REFINEMENTS = 3
_NORM = 0.7
_STIFFNESS, _STIFFENING, _STEPS = 4.0, 1.05, 30
_LARGEST = float(np.finfo(np.float32).max) * (1 - 1e-6)
_ENTRIES_AT_ONCE = 2**22


@dataclass(frozen=True)
class Scaling:
    """How scales are chosen.

    `choice`: "min-max" reaches the largest magnitude; "percentile" cuts off what lies above that percentile of the
    magnitudes; "mse" has the least squared error, which for binary levels gives mean|w| (Rastegari et al. 2016,
    XNOR-Net, eq. 6) and for ternary ones what TWN approximates (Li et al. 2016, eq. 3); "entropy" the least
    Kullback-Leibler divergence of the magnitudes, and "aciq" the least squared error that is expected of the
    distribution which the entries follow, see `paring.ops.clipping` (both go block by block, slow where there are
    many); "hqq" the least sum of |error|^0.7, to which a few far entries matter less (Badri and Shaji 2023, HQQ).
    Formats without negative levels are affine: both ends are chosen so, and a zero point tells where 0 lies.
    `power_of_two`: scales are 2^p, of the two next to the chosen one that with the smaller error.
    """

    choice: ScaleChoice = "mse"
    percentile: float = 99.9
    power_of_two: bool = False

    def __post_init__(self) -> None:
        if not 50 < self.percentile <= 100:
            raise TechniqueError(f"percentile={self.percentile} must be above 50 and at most 100, for example 99.9.")


def fitted(weight: Array, form: Format, scaling: Scaling, blocks: int = 1, *, by_row: bool = True) -> Grid:
    """The grid for a weight (rows, columns): scales for `blocks` equal parts of each row, or of all rows together.

    Blocks of zeros get the largest scale of the others, or 1; without a level 0 the smallest there is. Raises
    ValueError where the columns don't divide.
    """
    if weight.shape[1] % blocks:
        raise ValueError(f"{weight.shape[1]} columns do not divide into {blocks} blocks.")
    rows = len(weight) if by_row else 1
    affine = form.levels[0] >= 0
    if not weight.size:
        return Grid(form, np.ones((rows, blocks), np.float32), np.zeros((rows, blocks)) if affine else None)
    parts = weight.astype(np.float32).reshape(len(weight), blocks, -1)
    if not by_row:
        parts = parts.transpose(1, 0, 2).reshape(1, blocks, -1)
    step = max(1, _ENTRIES_AT_ONCE // max(1, parts[0].size))
    found = [_of_any_size(parts[first : first + step], form, scaling) for first in range(0, len(parts), step)]
    scale, zero = (np.concatenate(each) for each in zip(*found, strict=True))
    used = _usable(scale) if 0.0 in form.levels else np.maximum(scale, SMALLEST_SCALE).astype(np.float32)
    return Grid(form, used, zero if affine else None)


def least(grid: Grid, scale: Array | float, *, power_of_two: bool = False) -> Grid:
    """The same grid with no scale below the given ones, a number or shape (rows,), or the powers of two above them."""
    floor = np.asarray(scale, np.float64).reshape(-1, 1)
    if power_of_two:
        floor = np.where(floor > 0, np.exp2(np.ceil(np.log2(np.where(floor > 0, floor, 1.0)))), 0.0)
    return replace(grid, scale=np.maximum(grid.scale, floor).astype(np.float32))


def _usable(scale: Array) -> Array:
    """Scales that can be divided by: those of blocks without any values are the largest of the others, or 1."""
    usable = scale >= SMALLEST_SCALE
    return np.where(usable, scale, scale.max(initial=0.0) if usable.any() else 1.0).astype(np.float32)


def _of_any_size(parts: Array, form: Format, scaling: Scaling) -> tuple[Array, Array]:
    """As `_fitted`, for entries whose squares float32 does not hold, too: each block is brought below 1 and back.

    That is by a power of two, which no digit is lost by. Scales are such that float32 holds all levels.
    """
    _, exponent = np.frexp(np.abs(parts).max(axis=-1))
    scale, zero = _fitted(np.ldexp(parts, -exponent[..., None]), form, scaling)
    farthest = np.maximum(np.abs(form.levels[0] - zero), np.abs(form.levels[-1] - zero))
    most = _LARGEST / farthest.astype(np.float64)
    if scaling.power_of_two:
        most = np.exp2(np.floor(np.log2(most)))
    return np.minimum(np.ldexp(scale.astype(np.float64), exponent), most), zero


def _fitted(parts: Array, form: Format, scaling: Scaling) -> tuple[Array, Array]:
    """Scales and zero points, each of shape (rows, blocks), for parts (rows, blocks, entries)."""
    low, high = _ends(parts, form, scaling)
    scale, zero = _covering(low, high, form)
    if scaling.choice == "mse":
        scale, zero = _least_error(parts, form, low, high)
    elif scaling.choice == "hqq":
        scale, zero = _half_quadratic(parts, form, scale, zero)
    if scaling.power_of_two:
        scale, zero = _power_of_two(parts, form, scale, zero)
    return scale, zero


def _ends(parts: Array, form: Format, scaling: Scaling) -> tuple[Array, Array]:
    """The range to cover in each block, (rows, blocks) each, which holds 0."""
    if scaling.choice == "percentile":
        share = scaling.percentile / 100
        if form.levels[0] >= 0:
            low, high = np.quantile(parts, (1 - share) / 2, axis=-1), np.quantile(parts, (1 + share) / 2, axis=-1)
        else:
            high = np.quantile(np.abs(parts), share, axis=-1)
            low = -high
    elif scaling.choice == "entropy":
        low, high = _block_by_block(parts, lambda block: _of_least_divergence(block, form))
    elif scaling.choice == "aciq":
        low, high = _block_by_block(parts, lambda block: _of_its_distribution(block, form))
    else:
        low, high = parts.min(axis=-1, initial=0.0), parts.max(axis=-1, initial=0.0)
    return np.minimum(low, 0.0), np.maximum(high, 0.0)


def _block_by_block(parts: Array, found: Callable[[Array], Range]) -> tuple[Array, Array]:
    ends = np.zeros((2, *parts.shape[:2]))
    for row, block in np.ndindex(*parts.shape[:2]):
        within = found(parts[row, block])
        ends[:, row, block] = within.low, within.high
    return ends[0], ends[1]


def _of_least_divergence(block: Array, form: Format) -> Range:
    seen = Histogram()
    seen.add(block)
    if form.levels[0] >= 0 or seen.low == seen.high:
        return chosen_range(seen, "entropy", levels=len(form.levels))
    within = _within_reach(form)
    return entropy_range(seen, Cells.of(within[within >= 0]))


def _within_reach(form: Format) -> Array:
    """The levels whose magnitude both signs have."""
    return form.values[np.abs(form.values) <= form.largest]


def _of_its_distribution(block: Array, form: Format) -> Range:
    """The analysis is for levels of equal steps; for others of as many levels it is near enough."""
    levels = len(form.levels)
    if form.levels[0] < 0:
        block, levels = np.concatenate([block, -block]), len(_within_reach(form))
    low, high = clipping.fitted(block).range(levels)
    return Range(max(float(block.min()), low), min(float(block.max()), high))


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
