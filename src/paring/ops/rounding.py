"""Which level each weight takes, knowing what the layer reads: the nearest, GPTQ, or one that is learned.

Let H = E[x x^T] be the second moments of a layer's input columns. Weights q in place of w change an output by
(q - w) x, whose square is (q - w) H (q - w)^T on average: that is what is made small, for each row of the weight by
itself. H gets a share of its mean diagonal in addition, so that columns which were never seen take the nearest level.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from paring.ops.grid import Grid
from paring.ops.quantization import SMALLEST_SCALE
from paring.ops.reconstruction import dampened

Array = npt.NDArray[Any]
Rounding = Literal["nearest", "gptq", "learned"]

BLOCK = 128
"""Columns whose effect on those behind them is added at once: the same numbers as one by one, by larger products."""

MOST_SWEEPS = 50
REFITS = 6


def rounded(weight: Array, grid: Grid, moments: Array | None, rounding: Rounding) -> Array:
    """The code of each entry, shape (rows, columns), by one of three ways, of which the later ones cost more.

    "nearest": the nearest level. "gptq": see `gptq`. "learned": see `learned`; the least error of the three, in an
    instance as in general. `moments` is E[x x^T] of the inputs, shape (columns, columns), or (groups, columns, columns)
    where equal parts of the rows read inputs of their own, as in a grouped convolution; None has the nearest levels.
    """
    if not np.isfinite(weight).all():
        raise ValueError("a weight that holds NaN or infinity can't be rounded.")
    if moments is None or rounding == "nearest":
        return grid.nearest(weight)
    each = moments.reshape(-1, *moments.shape[-2:])
    if not np.isfinite(moments).all() or each.shape[1:] != (weight.shape[1],) * 2 or len(weight) % len(each):
        raise ValueError(f"moments of shape {moments.shape} must be finite and fit a weight of shape {weight.shape}.")
    rows = len(weight) // len(each)
    parts = [slice(first, first + rows) for first in range(0, len(weight), rows)]
    way = _WAYS[rounding]
    found = [way(weight[part], grid.rows(part), hessian) for part, hessian in zip(parts, each, strict=True)]
    return np.concatenate(found)


def refitted(
    weight: Array, grid: Grid, moments: Array | None, rounding: Rounding, *, free: bool = True
) -> tuple[Grid, Array]:
    """As `rounded`, with scales for it: (grid, codes).

    The scale of least error for codes that are given is known exactly, and so are better codes for that scale: both
    take turns, each of which can only lower a row's error. Few levels gain most. Scales of all rows together stay, and
    so do those that are not `free` to be any number, as powers of two, and all where the nearest levels are asked for.
    """
    codes = rounded(weight, grid, moments, rounding)
    if not free or moments is None or rounding == "nearest" or len(grid.scale) < len(weight):
        return grid, codes
    each = moments.reshape(-1, *moments.shape[-2:])
    rows = len(weight) // len(each)
    scales = grid.scale.copy()
    for group, hessian in enumerate(map(_dampened, each)):
        part = slice(group * rows, (group + 1) * rows)
        scales[part], codes[part] = _turns(weight[part], grid.rows(part), codes[part], hessian, rounding)
    return replace(grid, scale=scales), codes


def errors(weight: Array, values: Array, moments: Array) -> Array:
    """(values - weight) H (values - weight)^T of each row, H dampened: what rounding makes small, shape (rows,)."""
    return _energy(values.astype(np.float64) - weight, _dampened(moments))


def mean_shift(weight: Array, values: Array, mean: Array) -> Array:
    """How far `values` in place of the weight move each output on average, (rows,): what a bias has to lose.

    Nagel et al. 2019, Data-Free Quantization, section 4.2, with E[x] observed. `mean` is E[x], shape (columns,), or
    (groups, columns) where equal parts of the rows read inputs of their own.
    """
    groups = mean.reshape(-1, weight.shape[1], 1)
    difference = (values.astype(np.float64) - weight).reshape(len(groups), -1, weight.shape[1])
    return np.asarray(difference @ groups).reshape(-1)


def gptq(weight: Array, grid: Grid, moments: Array) -> Array:
    """Column by column to the nearest level, the error of each made up for by the columns that follow.

    Frantar et al. 2022, GPTQ, algorithm 1, the columns in the order of their moments ("act-order"), the largest first;
    rows that come out worse so than by the nearest levels, as few do, take these.
    """
    hessian = _dampened(moments)
    return _lowest(weight, grid, hessian, [grid.nearest(weight), _fed_forward(weight, grid, hessian)])


def learned(weight: Array, grid: Grid, moments: Array) -> Array:
    """Each entry to the level of least error, given all others, until none changes; from the nearest and from GPTQ.

    The learned rounding of AdaRound (Nagel et al. 2020) minimises the same error by gradients of a relaxation, eq. 25,
    over the level below and the one above. The error is quadratic in a single entry, so that its best level, whichever
    that is, is known exactly (Behdin et al. 2023, QuantEase, eq. 13): no step has to be chosen, and none can raise it.
    """
    hessian = _dampened(moments)
    starts = [grid.nearest(weight), _fed_forward(weight, grid, hessian)]
    return _lowest(weight, grid, hessian, [_descended(weight, grid, hessian, codes) for codes in starts])


_WAYS: Mapping[Rounding, Callable[[Array, Grid, Array], Array]] = MappingProxyType({"gptq": gptq, "learned": learned})


def _dampened(moments: Array) -> Array:
    return np.asarray(dampened(torch.from_numpy(np.asarray(moments, np.float64))))


def _energy(difference: Array, hessian: Array) -> Array:
    """d H d^T of each row d, shape (rows,)."""
    return np.asarray(np.einsum("rj,rj->r", difference @ hessian, difference))


def _lowest(weight: Array, grid: Grid, hessian: Array, found: list[Array]) -> Array:
    """Row by row the codes of least error; the first of those that are equal."""
    energies = [_energy(grid.values(codes) - weight.astype(np.float64), hessian) for codes in found]
    best = np.argmin(energies, axis=0)
    return np.asarray(np.take_along_axis(np.stack(found), best[None, :, None], axis=0)[0])


def _blocks(count: int) -> Iterator[slice]:
    return (slice(first, min(first + BLOCK, count)) for first in range(0, count, BLOCK))


def _column(grid: Grid, column: int, count: int) -> Grid:
    return grid.columns(slice(column, column + 1), count)


def _fed_forward(weight: Array, grid: Grid, hessian: Array) -> Array:
    """GPTQ's codes: with U^T U = H^-1, column j's error over U_jj goes to the columns k behind it, times U_jk."""
    count = len(hessian)
    order = np.argsort(-hessian.diagonal(), kind="stable")
    inverse = np.linalg.inv(hessian[np.ix_(order, order)])
    upper = np.linalg.cholesky((inverse + inverse.T) / 2).T
    left = weight.astype(np.float64)[:, order]
    codes = grid.nearest(weight)
    for block in _blocks(count):
        fed = np.zeros_like(left[:, block])
        for at in range(block.start, block.stop):
            column = order[at]
            part = _column(grid, column, count)
            codes[:, column] = part.nearest(left[:, at : at + 1])[:, 0]
            gap = (left[:, at] - part.values(codes[:, column : column + 1])[:, 0]) / upper[at, at]
            left[:, at : block.stop] -= np.outer(gap, upper[at, at : block.stop])
            fed[:, at - block.start] = gap
        left[:, block.stop :] -= fed @ upper[block, block.stop :]
    return codes


def _descended(weight: Array, grid: Grid, hessian: Array, codes: Array) -> Array:
    """Better codes than the given ones, until no change of a single one lowers a row's error."""
    count, target = len(hessian), weight.astype(np.float64)
    codes = codes.copy()
    values = grid.values(codes).astype(np.float64)
    for _ in range(MOST_SWEEPS):
        gradient = (values - target) @ hessian
        before = codes.copy()
        for block in _blocks(count):
            inner, slope = hessian[block, block], gradient[:, block].copy()
            moved = np.zeros_like(slope)
            for at in range(block.start, block.stop):
                place = at - block.start
                step = _step(_column(grid, at, count), codes, values, at, slope[:, place], inner[place, place])
                slope += np.outer(step, inner[place])
                moved[:, place] = step
            gradient += moved @ hessian[block]
        if np.array_equal(codes, before):
            break
    return codes


def _turns(weight: Array, grid: Grid, codes: Array, hessian: Array, rounding: Rounding) -> tuple[Array, Array]:
    """Scales and codes, bettered in turn."""
    for _ in range(REFITS):
        grid = replace(grid, scale=_rescaled(weight, grid, codes, hessian))
        before, codes = codes, _onwards(weight, grid, codes, hessian, rounding)
        if np.array_equal(codes, before):
            break
    return _rescaled(weight, grid, codes, hessian), codes


def _onwards(weight: Array, grid: Grid, codes: Array, hessian: Array, rounding: Rounding) -> Array:
    """Codes for scales that are new, none worse than the given ones."""
    if rounding == "learned":
        return _descended(weight, grid, hessian, codes)
    return _lowest(weight, grid, hessian, [codes, _fed_forward(weight, grid, hessian)])


def _rescaled(weight: Array, grid: Grid, codes: Array, hessian: Array) -> Array:
    """Scales of less error for these codes, shape (rows, blocks): block after block the best, given the others."""
    size = weight.shape[1] // grid.scale.shape[1]
    scales, values = grid.scale.astype(np.float64), grid.values(codes).astype(np.float64)
    slope = (values - weight) @ hessian
    for block in range(scales.shape[1]):
        columns = slice(block * size, (block + 1) * size)
        moved = values[:, columns] @ hessian[columns]
        curvature = np.sum(moved[:, columns] * values[:, columns], axis=1)
        wanted = 1 - np.sum(slope[:, columns] * values[:, columns], axis=1) / np.where(curvature > 0, curvature, 1.0)
        fits = (curvature > 0) & (wanted * scales[:, block] >= SMALLEST_SCALE)
        factor = np.where(fits, wanted, 1.0)
        scales[:, block] *= factor
        slope += (factor - 1)[:, None] * moved
    return scales.astype(np.float32)


def _step(part: Grid, codes: Array, values: Array, at: int, slope: Array, curvature: float) -> Array:
    """Move one column's entries to their best levels, in place; how far each went, shape (rows,)."""
    new = part.nearest((values[:, at] - slope / curvature)[:, None])
    step = part.values(new)[:, 0] - values[:, at]
    # What rounding of numbers makes look better may go back and forth for ever.
    step[step * (2 * slope + step * curvature) >= 0] = 0
    moves = step != 0
    codes[moves, at] = new[moves, 0]
    values[:, at] += step
    return step
