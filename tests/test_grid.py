"""Grids against a slow oracle, and the ways to choose their scales against what they promise."""

from __future__ import annotations

from itertools import pairwise
from typing import get_args

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from paring.ops.formats import FORMATS, Format, format_of
from paring.ops.grid import Grid
from paring.ops.scales import ScaleChoice, Scaling, fitted, least
from paring.ops.weight_formats import WEIGHT_FORMATS

NAMES = sorted(name for name in FORMATS if not name.endswith("16"))
numbers = st.floats(-(2.0**60), 2.0**60, width=32) | st.floats(-10, 10, width=32)
matrices = st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 4)).flatmap(
    lambda shape: st.tuples(
        arrays(np.float32, (shape[0], shape[1] * shape[2]), elements=numbers), st.just(shape[1]), st.booleans()
    )
)


def oracle(value: float, scale: float, zero_point: int, form: Format) -> set[float]:
    """What one entry may become, entry by entry in Python's own arithmetic; a tie may go either way."""
    quotient = float(np.float32(value) / np.float32(scale))
    if form.step == 1:
        quotient = max(min(round(quotient) + zero_point, form.levels[-1]), form.levels[0])
    distances = [abs(level - quotient) for level in form.levels]
    near = [level for level, far in zip(form.levels, distances, strict=True) if far <= min(distances) * (1 + 1e-6)]
    return {float(np.float32(np.float32(level - zero_point) * np.float32(scale))) for level in near}


@given(matrices, st.sampled_from(NAMES), st.sampled_from(get_args(ScaleChoice)), st.booleans())
@settings(max_examples=150, deadline=None)
def test_every_entry_becomes_the_nearest_value_of_its_block(
    drawn: tuple[npt.NDArray[np.float32], int, bool], name: str, choice: ScaleChoice, power_of_two: bool
) -> None:
    weight, blocks, by_row = drawn
    form = format_of(name)
    grid = fitted(weight, form, Scaling(choice, 95.0, power_of_two), blocks, by_row=by_row)
    assert grid.scale.shape == (len(weight) if by_row else 1, blocks)
    codes = grid.nearest(weight)
    found = grid.values(codes)
    assert found.dtype == np.float32
    assert found.shape == codes.shape == weight.shape
    size = weight.shape[1] // blocks
    for (row, column), value in np.ndenumerate(weight):
        place = (row if by_row else 0, column // size)
        zero = 0 if grid.zero_point is None else int(grid.zero_point[place])
        assert float(found[row, column]) in oracle(float(value), float(grid.scale[place]), zero, form)
    if power_of_two:
        mantissas, _ = np.frexp(grid.scale)
        assert set(mantissas.reshape(-1).tolist()) == {0.5} or not weight.any()


@given(matrices, st.sampled_from(NAMES))
@settings(max_examples=80, deadline=None)
def test_the_least_error_is_no_larger_than_that_of_the_extremes(
    drawn: tuple[npt.NDArray[np.float32], int, bool], name: str
) -> None:
    weight, blocks, by_row = drawn
    errors = [
        np.square(
            (fitted(weight, format_of(name), Scaling(choice), blocks, by_row=by_row).quantized(weight) - weight).astype(
                np.float64
            )
        ).sum()
        for choice in ("mse", "min-max")
    ]
    assert errors[0] <= errors[1] * (1 + 1e-3) + 1e-12


@pytest.mark.parametrize("seed", range(3))
def test_binary_scales_are_mean_magnitudes_and_ternary_ones_the_best_of_all(seed: int) -> None:
    weight = np.random.default_rng(seed).normal(size=(4, 60)).astype(np.float32)
    grid = fitted(weight, format_of("binary"), Scaling())
    np.testing.assert_allclose(grid.scale[:, 0], np.abs(weight).mean(axis=1), rtol=1e-5)
    ternary = fitted(weight, format_of("ternary"), Scaling())
    for row, scale in zip(weight, ternary.scale[:, 0], strict=True):
        # With the k largest kept, mean magnitude of these as scale: the error is exact for each k.
        magnitudes = np.sort(np.abs(row))[::-1]
        gains = [magnitudes[:k].sum() ** 2 / k for k in range(1, len(row) + 1)]
        error = np.square(row).sum() - max(gains)
        rounded = np.clip(np.rint(row / scale), -1, 1) * scale
        assert np.square(rounded - row).sum() <= error * 1.02


@pytest.mark.parametrize("name", ["uint2", "uint3", "int3", "ternary"])
def test_hqq_lowers_the_error_that_forgives_outliers_and_follows_the_weights_size(name: str) -> None:
    weight = np.random.default_rng(0).standard_t(3, size=(8, 256)).astype(np.float32) + np.float32(0.3)

    def error(choice: ScaleChoice, power: float) -> float:
        grid = fitted(weight, format_of(name), Scaling(choice), 4)
        return float((np.abs(grid.quantized(weight) - weight) ** power).sum())

    assert error("hqq", 0.7) < 0.95 * error("min-max", 0.7)
    if name.startswith("uint"):
        assert error("hqq", 0.7) < error("mse", 0.7)
    assert error("hqq", 2) > error("mse", 2)
    grids = [fitted(weight * size, format_of(name), Scaling("hqq"), 4) for size in (np.float32(1), np.float32(2**-10))]
    np.testing.assert_array_equal(grids[0].scale * 2**-10, grids[1].scale)


@given(matrices, st.sampled_from(NAMES))
@settings(max_examples=80, deadline=None)
def test_hqq_is_no_worse_than_the_extremes_in_what_it_minimises(
    drawn: tuple[npt.NDArray[np.float32], int, bool], name: str
) -> None:
    weight, blocks, by_row = drawn
    found, extremes = (
        np.abs(
            fitted(weight, format_of(name), Scaling(choice), blocks, by_row=by_row).quantized(weight).astype(np.float64)
            - weight
        )
        ** 0.7
        for choice in ("hqq", "min-max")
    )
    assert found.sum() <= extremes.sum() * (1 + 1e-3) + 1e-9


def test_more_bits_and_smaller_blocks_err_less() -> None:
    weight = np.random.default_rng(0).normal(size=(8, 256)).astype(np.float32) * np.geomspace(0.1, 3, 256)

    def error(name: str, blocks: int) -> float:
        grid = fitted(weight.astype(np.float32), format_of(name), Scaling(), blocks)
        return float(np.square(grid.quantized(weight) - weight).sum())

    assert all(a > b for a, b in pairwise(error(f"int{bits}", 1) for bits in range(2, 9)))
    assert all(a > b for a, b in pairwise(error(f"uint{bits}", 1) for bits in range(2, 9)))
    assert error("int4", 1) > error("int4", 8) > error("int4", 32)
    assert error("nf4", 8) < error("int4", 8)


@pytest.mark.parametrize("choice", get_args(ScaleChoice))
@pytest.mark.parametrize("name", ["int4", "uint4", "binary", "e2m1"])
def test_blocks_of_zeros_have_a_scale_and_stay_zero(choice: ScaleChoice, name: str) -> None:
    weight = np.zeros((3, 8), np.float32)
    weight[1, 4:] = 3.5
    for given_weight in (weight, np.zeros_like(weight)):
        grid = fitted(given_weight, format_of(name), Scaling(choice), 2)
        assert (grid.scale > 0).all()
        if name != "binary":
            assert not grid.quantized(given_weight)[given_weight == 0].any()


def test_affine_blocks_of_one_sign_reach_their_end_and_constants_are_kept() -> None:
    weight = np.array([[5.0, 5.0, 5.0, 5.0], [-2.0, -2.0, -1.0, -2.0]], np.float32)
    for choice in get_args(ScaleChoice):
        if choice != "entropy":
            found = fitted(weight, format_of("uint4"), Scaling(choice, 100.0)).quantized(weight)
            np.testing.assert_allclose(found, weight, atol=0.08)


def test_parts_of_a_grid_give_the_same_values() -> None:
    weight = np.random.default_rng(1).normal(size=(3, 12)).astype(np.float32)
    for name in ("int3", "uint3"):
        grid = fitted(weight, format_of(name), Scaling(), 4)
        whole = grid.quantized(weight)
        for column in range(12):
            part = grid.columns(slice(column, column + 1), 12)
            np.testing.assert_array_equal(part.quantized(weight[:, column : column + 1])[:, 0], whole[:, column])


def test_rows_of_a_grid_give_the_same_values() -> None:
    weight = np.random.default_rng(1).normal(size=(4, 6)).astype(np.float32)
    for name, by_row in (("int3", True), ("uint3", True), ("uint3", False)):
        grid = fitted(weight, format_of(name), Scaling(), 2, by_row=by_row)
        np.testing.assert_array_equal(grid.rows(slice(1, 3)).quantized(weight[1:3]), grid.quantized(weight)[1:3])


def test_scales_are_not_below_the_least() -> None:
    grid = fitted(np.array([[1.0], [1e-9]], np.float32), format_of("int8"), Scaling("min-max"))
    np.testing.assert_allclose(least(grid, np.array([1e-6, 1e-6])).scale[:, 0], [1 / 127, 1e-6], rtol=1e-6)


def test_least_scales_are_raised_to_powers_of_two_where_scales_are() -> None:
    grid = fitted(np.array([[1.0], [1e-9]], np.float32), format_of("int8"), Scaling("min-max", power_of_two=True))
    assert least(grid, np.array([0.0, 3e-6]), power_of_two=True).scale[1, 0] == 2.0**-18


@pytest.mark.parametrize("choice", ["entropy", "aciq"])
@pytest.mark.parametrize("distribution", ["normal", "laplace"])
@pytest.mark.parametrize("name", ["binary", "ternary", "int2", "odd2", "int3", "uint2", "int4", "uint4", "nf4", "int8"])
def test_scales_by_a_distribution_know_how_many_levels_there_are(
    choice: ScaleChoice, distribution: str, name: str
) -> None:
    weight = getattr(np.random.default_rng(0), distribution)(size=(1, 20_000)).astype(np.float32)

    def error(scales: ScaleChoice) -> float:
        return float(np.square(fitted(weight, format_of(name), Scaling(scales)).quantized(weight) - weight).sum())

    assert error(choice) <= 1.7 * error("mse")
    assert error(choice) <= error("min-max")


@pytest.mark.parametrize("choice", get_args(ScaleChoice))
@pytest.mark.parametrize("power_of_two", [False, True])
@pytest.mark.parametrize("magnitude", [2.0**-140, 2.0**-100, 2.0**100, 3.4028234e38])
def test_weights_at_the_limits_of_float32_have_finite_scales(
    choice: ScaleChoice, power_of_two: bool, magnitude: float
) -> None:
    weight = (np.array([[1, -1, 0.5, 0], [1, 1, 1, 1], [-1, -0.2, -1, -0.7]]) * magnitude).astype(np.float32)
    for form in FORMATS.values():
        with np.errstate(over="raise", invalid="raise"):
            grid = fitted(weight, form, Scaling(choice, power_of_two=power_of_two))
            values = grid.quantized(weight)
        assert np.isfinite(values).all()
        assert not power_of_two or (np.frexp(grid.scale)[0] == 0.5).all()
        if 2.0**-140 < magnitude < 3e38:
            small = fitted(weight / np.float32(magnitude), form, Scaling(choice, power_of_two=power_of_two))
            np.testing.assert_array_equal(grid.scale, small.scale * np.float32(magnitude))


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0, 0)])
@pytest.mark.parametrize("name", ["int4", "uint4", "kmeans3", "mxfp4"])
def test_weights_without_entries_have_a_grid(shape: tuple[int, int], name: str) -> None:
    weight = np.zeros(shape, np.float32)
    for choice in get_args(ScaleChoice):
        assert WEIGHT_FORMATS[name].grid(weight, Scaling(choice), 2).quantized(weight).shape == shape


def test_what_contradicts_itself_is_refused() -> None:
    with pytest.raises(ValueError, match="7 columns do not divide into 2 blocks"):
        fitted(np.ones((2, 7), np.float32), format_of("int4"), Scaling(), 2)
    for scale in (np.zeros((1, 1)), np.full((1, 1), np.nan), np.ones(3)):
        with pytest.raises(ValueError, match="scale"):
            Grid(format_of("int4"), scale)
    with pytest.raises(ValueError, match="zero points"):
        Grid(format_of("nf4"), np.ones((1, 1)), np.ones((1, 1)))


@pytest.mark.parametrize("name", ["int8", "int4"])
def test_a_few_values_are_no_distribution_to_clip_by(name: str) -> None:
    """Such as the nine weights of a channel of a depthwise convolution."""
    rows = np.random.default_rng(0).normal(size=(16, 9)).astype(np.float32)
    found, whole = (fitted(rows, format_of(name), Scaling(choice)) for choice in ("entropy", "min-max"))
    assert np.array_equal(found.scale, whole.scale)
