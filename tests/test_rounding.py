"""Roundings that know a layer's inputs: against all roundings there are, the nearest one, and AdaRound's relaxation."""

from __future__ import annotations

from itertools import product
from typing import get_args

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from paring.ops import rounding as module
from paring.ops.formats import FORMATS, format_of
from paring.ops.grid import Grid
from paring.ops.rounding import Rounding, errors, gptq, learned, mean_shift, refitted, rounded
from paring.ops.scales import Scaling, fitted

Array = npt.NDArray[np.float64]
NAMES = sorted(name for name in FORMATS if not name.endswith("16"))
numbers = st.floats(-10, 10, width=32)


def inputs(seed: int, columns: int, samples: int = 400) -> Array:
    """Correlated samples of different sizes, as a layer behind a rectifier reads them, shape (samples, columns)."""
    draw = np.random.default_rng(seed)
    factors = max(1, columns // 3)
    mixed = draw.normal(size=(samples, factors)) @ draw.normal(size=(factors, columns))
    noisy: Array = mixed + 0.3 * draw.normal(size=mixed.shape)
    return np.maximum(noisy, 0) * draw.gamma(1.0, size=columns)


def problem(
    seed: int, name: str, rows: int, columns: int, blocks: int = 1
) -> tuple[npt.NDArray[np.float32], Grid, Array]:
    weight = np.random.default_rng(seed).normal(size=(rows, columns)).astype(np.float32)
    read = inputs(seed + 1, columns)
    return weight, fitted(weight, format_of(name), Scaling(), blocks), read.T @ read / len(read)


@given(
    st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 3)).flatmap(
        lambda shape: st.tuples(
            arrays(np.float32, (shape[0], shape[1] * shape[2]), elements=numbers),
            arrays(np.float64, (shape[1] * shape[2] + 2, shape[1] * shape[2]), elements=numbers),
            st.just(shape[1]),
        )
    ),
    st.sampled_from(NAMES),
    st.sampled_from(get_args(Rounding)),
)
@settings(max_examples=100, deadline=None)
def test_no_row_errs_more_than_by_the_nearest_levels(
    drawn: tuple[npt.NDArray[np.float32], Array, int], name: str, rounding: Rounding
) -> None:
    weight, read, blocks = drawn
    moments = read.T @ read / len(read)
    grid = fitted(weight, format_of(name), Scaling(), blocks)
    codes = rounded(weight, grid, moments, rounding)
    assert codes.shape == weight.shape
    assert codes.dtype == grid.nearest(weight).dtype
    found, nearest = (errors(weight, grid.values(each), moments) for each in (codes, grid.nearest(weight)))
    assert (found <= nearest * (1 + 1e-9)).all()


@pytest.mark.parametrize("name", ["int2", "ternary", "uint2", "pow2"])
def test_what_is_learned_is_near_the_best_of_all_roundings_and_no_single_change_betters_it(name: str) -> None:
    totals = np.zeros(4)
    for seed in range(12):
        weight, grid, moments = problem(seed, name, 3, 7)
        codes = learned(weight, grid, moments)
        every = np.array(list(product(range(len(grid.format.levels)), repeat=7)), np.uint8)
        for row in range(3):
            part, one = grid.rows(slice(row, row + 1)), weight[row : row + 1]
            energies = errors(np.repeat(one, len(every), 0), part.values(every), moments)
            own = errors(one, part.values(codes[row : row + 1]), moments)[0]
            neighbours = energies[(every != codes[row]).sum(axis=1) == 1]
            assert own <= neighbours.min() * (1 + 1e-6)
            near, fed = (
                errors(one, part.values(each), moments)[0] for each in (part.nearest(one), gptq(one, part, moments))
            )
            totals += [energies.min(), own, fed, near]
    best, own, fed, near = totals
    assert best <= own <= 1.25 * best
    assert own <= fed < 0.8 * near


def relaxed(weight: npt.NDArray[np.float32], grid: Grid, moments: Array, steps: int = 1000) -> Array:
    """AdaRound: eq. 21 to 25, on the same error, with Adam; for grids of integers with one scale a row."""
    low, high = grid.format.levels[0], grid.format.levels[-1]
    scale, target = (torch.from_numpy(each.astype(np.float64)) for each in (grid.scale, weight))
    hessian = torch.from_numpy(moments)
    floor = torch.floor(target / scale)
    share = (target / scale - floor).clamp(0.01, 0.99)
    chosen = torch.log((share + 0.1) / (1.1 - share)).requires_grad_()
    adam = torch.optim.Adam([chosen], lr=0.05)
    usual = float(errors(weight, grid.quantized(weight), moments).sum())
    for step in range(steps):
        up = (torch.sigmoid(chosen) * 1.2 - 0.1).clamp(0, 1)
        difference = (floor + up).clamp(low, high) * scale - target
        error = ((difference @ hessian) * difference).sum()
        beta = 20 - 18 * max(0.0, step / steps - 0.2) / 0.8
        penalty = (1 - (2 * up - 1).abs().pow(beta)).mean() if step > 0.2 * steps else 0.0
        adam.zero_grad()
        (error / usual + penalty).backward()
        adam.step()
    up = (chosen.detach() > 0).double()
    return np.asarray((floor + up).clamp(low, high) * scale)


@pytest.mark.parametrize("name", ["int2", "int3", "int4"])
def test_what_is_learned_errs_less_than_gptq_and_than_adarounds_relaxation(name: str) -> None:
    totals = np.zeros(4)
    for seed in range(3):
        weight, grid, moments = problem(seed, name, 16, 24)
        found = (way(weight, grid, moments) for way in (learned, gptq))
        ours = [float(errors(weight, grid.values(codes), moments).sum()) for codes in found]
        others = (relaxed(weight, grid, moments), grid.quantized(weight))
        totals += [*ours, *(float(errors(weight, values, moments).sum()) for values in others)]
    assert totals[0] < totals[1] < totals[2] < totals[3]


def slow_gptq(weight: npt.NDArray[np.float32], grid: Grid, hessian: Array) -> Array:
    """Column by column, the inverse of what is left solved anew each time: optimal brain quantization in this order."""
    left = weight.astype(np.float64)
    values = np.zeros_like(left)
    order = list(np.argsort(-hessian.diagonal(), kind="stable"))
    for at, column in enumerate(order):
        rest = order[at:]
        inverse = np.linalg.inv(hessian[np.ix_(rest, rest)])
        values[:, column] = grid.quantized(left)[:, column]
        gap = (left[:, column] - values[:, column]) / inverse[0, 0]
        left[:, rest] -= np.outer(gap, inverse[0])
    return values


@pytest.mark.parametrize(("name", "blocks"), [("int3", 1), ("uint3", 5), ("e2m1", 4), ("nf4", 2), ("binary", 1)])
def test_gptq_is_the_papers_whatever_the_size_of_its_blocks(
    name: str, blocks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BLOCK", 7)
    weight, grid, moments = problem(3, name, 6, 20, blocks)
    hessian = moments + 0.01 * moments.diagonal().mean() * np.eye(20)
    expected = slow_gptq(weight, grid, hessian)
    better = errors(weight, expected, moments) < errors(weight, grid.quantized(weight), moments)
    assert better.sum() >= 4
    found = grid.values(gptq(weight, grid, moments))
    np.testing.assert_allclose(found[better], expected[better], rtol=1e-6)
    np.testing.assert_array_equal(found[~better], grid.quantized(weight)[~better])


@pytest.mark.parametrize("rounding", ["gptq", "learned"])
def test_columns_that_were_never_seen_and_inputs_of_nothing_take_the_nearest_levels(rounding: Rounding) -> None:
    weight, grid, moments = problem(0, "int3", 5, 12)
    moments[[2, 7]] = moments[:, [2, 7]] = 0
    nearest = grid.nearest(weight)
    codes = rounded(weight, grid, moments, rounding)
    np.testing.assert_array_equal(codes[:, [2, 7]], nearest[:, [2, 7]])
    assert (codes != nearest).any()
    np.testing.assert_array_equal(rounded(weight, grid, np.zeros((12, 12)), rounding), nearest)
    np.testing.assert_array_equal(rounded(weight, grid, None, rounding), nearest)
    np.testing.assert_array_equal(rounded(weight, grid, np.diag(np.arange(1.0, 13)), rounding), nearest)


def test_entries_far_out_of_reach_take_the_level_at_the_end() -> None:
    grid = Grid(format_of("binary"), np.full((1, 1), np.finfo(np.float32).tiny))
    assert rounded(np.array([[3e38, -3e38]]), grid, np.eye(2), "learned").tolist() == [[1, 0]]


@pytest.mark.parametrize(("name", "blocks"), [("ternary", 1), ("uint3", 1), ("uint2", 3), ("int3", 4), ("nf4", 2)])
@pytest.mark.parametrize("rounding", ["gptq", "learned"])
def test_scales_that_are_fitted_to_the_codes_err_less_in_every_row(name: str, blocks: int, rounding: Rounding) -> None:
    weight, grid, moments = problem(1, name, 8, 24, blocks)
    before = errors(weight, grid.values(rounded(weight, grid, moments, rounding)), moments)
    fitted_grid, codes = refitted(weight, grid, moments, rounding)
    after = errors(weight, fitted_grid.values(codes), moments)
    assert fitted_grid.scale.shape == grid.scale.shape
    assert (after <= before * (1 + 1e-6)).all()
    assert after.sum() < 0.97 * before.sum()
    # With one scale a row it is the best for these codes; several are fitted one after the other.
    for factor in (0.99, 1.01) if blocks == 1 else ():
        other = Grid(grid.format, fitted_grid.scale * np.float32(factor), grid.zero_point)
        assert (errors(weight, other.values(codes), moments) > after).all()


@given(
    arrays(np.float32, (2, 6), elements=numbers),
    arrays(np.float64, (8, 6), elements=numbers),
    st.sampled_from(NAMES),
    st.sampled_from(get_args(Rounding)),
    st.booleans(),
)
@settings(max_examples=80, deadline=None)
def test_fitted_scales_can_be_used_and_are_no_worse(
    weight: npt.NDArray[np.float32], read: Array, name: str, rounding: Rounding, by_row: bool
) -> None:
    moments = read.T @ read / len(read)
    grid = fitted(weight, format_of(name), Scaling(), 2, by_row=by_row)
    codes = rounded(weight, grid, moments, rounding)
    other, found = refitted(weight, grid, moments, rounding)
    before, after = (errors(weight, one.values(each), moments) for one, each in ((grid, codes), (other, found)))
    assert (after <= before * (1 + 1e-5) + 1e-12).all()
    if rounding == "nearest" or not by_row:
        assert other is grid
        np.testing.assert_array_equal(found, codes)


def test_groups_of_rows_are_rounded_by_what_each_of_them_reads() -> None:
    weight, grid, _ = problem(0, "uint3", 6, 8)
    moments = np.stack([problem(seed, "int2", 1, 8)[2] for seed in range(3)])
    for rounding in get_args(Rounding):
        codes = rounded(weight, grid, moments, rounding)
        for group, rows in enumerate((slice(0, 2), slice(2, 4), slice(4, 6))):
            alone = rounded(weight[rows], grid.rows(rows), moments[group], rounding)
            np.testing.assert_array_equal(codes[rows], alone)
        other, codes = refitted(weight, grid, moments, rounding)
        alone_grid, alone = refitted(weight[rows], grid.rows(rows), moments[group], rounding)
        np.testing.assert_array_equal(other.values(codes)[rows], alone_grid.values(alone))


def test_outputs_keep_their_mean_once_the_shift_is_taken_off() -> None:
    weight, grid, _ = problem(0, "int2", 6, 8)
    values = grid.quantized(weight)
    read = inputs(5, 8)
    shift = mean_shift(weight, values, read.mean(axis=0))
    np.testing.assert_allclose((read @ values.T - shift).mean(axis=0), (read @ weight.T).mean(axis=0), atol=1e-9)
    halves = np.stack([read.mean(axis=0), 2 * read.mean(axis=0)])
    np.testing.assert_allclose(mean_shift(weight, values, halves), shift * np.repeat([1, 2], 3))


def test_what_can_not_be_rounded_is_refused() -> None:
    weight, grid, moments = problem(0, "int3", 4, 6)
    for bad in (np.nan, np.inf):
        broken = weight.copy()
        broken[1, 2] = bad
        with pytest.raises(ValueError, match="NaN or infinity"):
            rounded(broken, grid, moments, "learned")
    for wrong in (np.eye(5), np.ones((3, 6, 6)), np.full((6, 6), np.nan)):
        with pytest.raises(ValueError, match="must be finite and fit a weight of shape"):
            rounded(weight, grid, wrong, "gptq")
