"""8-bit numerics against a slow oracle, and ranges against what they promise."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from paring.ops.quantization import Parameters, Range, affine, around_zero, dequantize, quantize, to_bfloat16
from paring.ops.ranges import Calibration, Histogram, chosen_range, wild_rows

numbers = st.floats(-1e4, 1e4, width=32)
matrices = arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 6)), elements=numbers)


def slow_round_trip(value: float, scale: float, zero_point: int, low: int, high: int) -> float:
    """One number, in Python's own arithmetic: round half to even, then saturate."""
    integer = min(max(round(float(np.float32(value) / np.float32(scale))) + zero_point, low), high)
    return (integer - zero_point) * scale


@given(matrices)
@settings(max_examples=200, deadline=None)
def test_affine_round_trip_equals_the_oracle_and_errs_by_half_a_step(values: np.ndarray) -> None:
    parameters = affine(Range(float(values.min()), float(values.max())))
    found = dequantize(quantize(values, parameters), parameters)
    scale, zero_point = float(parameters.scale), int(parameters.zero_point)
    expected = [slow_round_trip(v, scale, zero_point, 0, 255) for v in values.reshape(-1)]
    np.testing.assert_allclose(found.reshape(-1), expected, rtol=1e-6, atol=1e-30)
    if float(np.ptp(np.append(values, 0))) / 255 >= 1e-37:
        assert np.abs(found - values).max() <= scale * 1.001  # half a step, and half of one of the zero point


@given(matrices, st.sampled_from([1, 2, 3, 4, 6, 8, 16]), st.booleans())
@settings(max_examples=150, deadline=None)
def test_fewer_bits_round_to_the_same_oracle_within_their_ends(values: np.ndarray, bits: int, signed: bool) -> None:
    levels, seen = 2**bits, Range(float(values.min()), float(values.max()))
    if signed and bits == 1:
        return
    parameters = around_zero(seen, levels) if signed else affine(seen, levels)
    low, high = (-levels // 2, levels // 2 - 1) if signed else (0, levels - 1)
    assert parameters.ends == (low, high)
    integers = quantize(values, parameters)
    assert integers.min() >= low
    assert integers.max() <= high
    scale, zero_point = float(parameters.scale), int(parameters.zero_point)
    expected = [slow_round_trip(v, scale, zero_point, low, high) for v in values.reshape(-1)]
    np.testing.assert_allclose(dequantize(integers, parameters).reshape(-1), expected, rtol=1e-6, atol=1e-30)


@given(st.floats(-1, 1), st.floats(-1, 1), st.sampled_from([2, 4, 16, 255, 256, 65536]))
@example(-1.0, 1.0, 256)
@settings(deadline=None)
def test_ranges_as_wide_as_there_are_numbers_stay_finite(a: float, b: float, levels: int) -> None:
    """Rounding the zero point must not move the ends beyond float32."""
    largest = float(np.finfo(np.float32).max)
    parameters = affine(Range(min(a, b) * largest, max(a, b) * largest), levels)
    ends = dequantize(np.array(parameters.ends, np.int32), parameters)
    assert np.isfinite(ends).all()
    around = around_zero(Range(min(a, b) * largest, max(a, b) * largest), max(3, levels))
    assert np.isfinite(dequantize(np.array([-around.ends[1], around.ends[1]], np.int32), around)).all()
    values = np.array([a, b, 0], np.float32) * np.float32(largest)
    found = dequantize(quantize(values, parameters), parameters).astype(np.float64)
    assert np.abs(found - values).max() <= float(parameters.scale) * 1.01


@given(st.floats(-1e30, 1e30), st.floats(-1e30, 1e30))
@settings(deadline=None)
def test_zero_is_exact_in_every_affine_range(a: float, b: float) -> None:
    parameters = affine(Range(min(a, b), max(a, b)))
    zero = np.zeros(1, np.float32)
    assert dequantize(quantize(zero, parameters), parameters)[0] == 0
    assert parameters.scale > 0
    if min(a, b) >= 0:
        assert parameters.zero_point == 0


@pytest.mark.parametrize(
    ("scale", "zero_point", "axis"),
    [(0.0, 0, None), (np.nan, 0, None), (np.inf, 0, None), ([1.0, 1.0], [0], 0), ([1.0], [0], None), (1.0, 0, 0)],
)
def test_parameters_that_contradict_themselves_are_refused(scale: object, zero_point: object, axis: int | None) -> None:
    with pytest.raises(ValueError, match=r"scale|shapes"):
        Parameters(np.array(scale, np.float32), np.array(zero_point, np.uint8), axis)


@given(arrays(np.float32, st.integers(1, 20), elements=st.floats(width=32)))
@settings(deadline=None)
def test_bfloat16_is_the_nearest_one(values: np.ndarray) -> None:
    import torch

    expected = torch.from_numpy(values).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)
    found = to_bfloat16(values)
    nan = np.isnan(values)
    np.testing.assert_array_equal(found[~nan], expected[~nan])
    back = (found.astype(np.uint32) << 16).view(np.float32)
    assert np.isnan(back[nan]).all()


def filled(*parts: np.ndarray) -> Histogram:
    histogram = Histogram()
    for part in parts:
        histogram.add(part)
    return histogram


@given(st.lists(arrays(np.float32, st.integers(0, 30), elements=numbers), min_size=1, max_size=6))
@settings(max_examples=100, deadline=None)
def test_histogram_keeps_the_count_and_the_exact_ends(parts: list[np.ndarray]) -> None:
    histogram = filled(*parts)
    values = np.concatenate(parts)
    assert histogram.counts.sum() == values.size
    if values.size:
        assert (histogram.low, histogram.high) == (values.min(), values.max())
        mean = histogram.counts @ histogram.centers / values.size
        assert abs(mean - values.astype(np.float64).mean()) <= histogram.reach / 2048 + 1e-30
    assert histogram.counts.size == Histogram().counts.size


def test_merged_histograms_equal_one_that_saw_both() -> None:
    small, large = np.linspace(0, 1, 1001, dtype=np.float32), np.linspace(-9, 70, 777, dtype=np.float32)
    merged, both = filled(small).merged(filled(large)), filled(small, large)
    assert merged.range == both.range
    assert merged.counts.sum() == both.counts.sum()
    quantiles = [chosen_range(h, "percentile", 90.0) for h in (merged, both)]
    assert quantiles[0].high == pytest.approx(quantiles[1].high, rel=0.02)
    assert filled(small).merged(Histogram()).counts.sum() == small.size


def test_a_histogram_of_rows_knows_how_far_each_reaches() -> None:
    one, other = Histogram(), Histogram()
    for part in (np.array([[1.0, -3.0], [0.5, 2.0]]), np.array([[0.0, 0.25]])):
        one.add(part, in_rows=True)
        other.add(2 * part[:, ::-1] - 1, in_rows=True)
    np.testing.assert_array_equal(one.row_reaches, [3, 2, 0.25])
    np.testing.assert_array_equal(one.merged(other).row_reaches, [7, 3, 1])
    one.add(np.array([9.0]))
    assert len(one.row_reaches) == 3


@pytest.mark.parametrize(
    ("reaches", "scale", "expected"),
    [
        ([1, 2, 300, 1.5, 2], 1.0, [2]),
        ([1, 2, 300, 1.5, 9000], 1.0, [2, 4]),
        ([1, 2, 300, 1.5, 2], 0.1, []),  # Levels enough for all.
        ([1, 2, 30, 1.5, 2], 1.0, []),
        ([1, 20, 300, 4000, 9000], 10.0, []),  # No gap.
        ([1, 300, 300, 1, 300], 1.0, []),  # Most are large.
        ([1, 300], 1.0, [1]),
        ([0, 0, 300], 1.0, []),
        ([300], 1.0, []),
        ([], 1.0, []),
    ],
)
def test_wild_rows_lie_beyond_a_gap_above_at_least_half_of_all(
    reaches: list[float], scale: float, expected: list[int]
) -> None:
    seen = Histogram()
    seen.add(np.array(reaches, np.float32), in_rows=True)
    assert wild_rows(seen, scale).tolist() == expected


def test_histogram_tells_of_values_that_are_not_finite() -> None:
    assert filled(np.array([1.0, 2.0])).finite
    assert not filled(np.array([1.0, np.nan])).finite
    assert not filled(np.array([1.0, np.inf])).finite


@pytest.mark.parametrize("calibration", get_args(Calibration))
@given(values=arrays(np.float32, st.integers(1, 60), elements=numbers))
@settings(max_examples=40, deadline=None)
def test_a_chosen_range_lies_in_what_was_seen(calibration: str, values: np.ndarray) -> None:
    seen = filled(values)
    chosen = chosen_range(seen, calibration)  # type: ignore[arg-type]
    slack = 1e-5 * max(abs(seen.low), abs(seen.high)) + 1e-6
    assert min(seen.low, 0) - slack <= chosen.low <= max(chosen.high, 0) + slack
    assert chosen.high <= max(seen.high, 0) + slack
    assert affine(chosen).scale > 0


def test_percentile_cuts_what_it_says() -> None:
    values = np.random.default_rng(0).normal(size=200_000).astype(np.float32)
    two_sided = chosen_range(filled(values), "percentile", 99.0)
    expected = np.quantile(values, [0.005, 0.995])
    np.testing.assert_allclose([two_sided.low, two_sided.high], expected, atol=0.01)
    one_sided = chosen_range(filled(np.abs(values)), "percentile", 99.0)
    assert one_sided.low == pytest.approx(0, abs=1e-3)
    assert one_sided.high == pytest.approx(np.quantile(np.abs(values), 0.99), abs=0.01)
    everything = chosen_range(filled(values), "percentile", 100.0)
    np.testing.assert_allclose([everything.low, everything.high], [values.min(), values.max()], atol=1e-3)


@pytest.mark.parametrize("one_sided", [True, False])
@pytest.mark.parametrize("calibration", ["percentile", "entropy", "aciq"])
def test_outliers_are_cut_off(calibration: str, one_sided: bool) -> None:
    values = np.random.default_rng(1).normal(size=100_000).astype(np.float32)
    values = np.abs(values) if one_sided else values
    seen = filled(np.append(values, np.float32(200.0)))
    assert chosen_range(seen, "min-max").high == 200
    assert chosen_range(seen, calibration).high < 60  # type: ignore[arg-type]


@pytest.mark.parametrize("one_sided", [True, False])
@pytest.mark.parametrize("levels", [2, 3, 4, 8, 16])
def test_the_least_divergence_of_few_levels_is_near_the_least_error(levels: int, one_sided: bool) -> None:
    values = np.random.default_rng(1).normal(size=100_000).astype(np.float32)
    values = np.maximum(values, 0) if one_sided else values

    def error(calibration: Calibration) -> float:
        parameters = affine(chosen_range(filled(values), calibration, levels=levels), levels)
        return float(np.mean((dequantize(quantize(values, parameters), parameters) - values) ** 2))

    assert error("mse") * 0.99 < error("entropy") < 1.6 * error("mse") < 1.6 * error("min-max")


def test_mse_is_no_worse_than_any_other_range() -> None:
    values = np.random.default_rng(2).laplace(size=50_000).astype(np.float32)
    seen = filled(values)

    def error(calibration: str) -> float:
        parameters = affine(chosen_range(seen, calibration))  # type: ignore[arg-type]
        return float(np.mean((dequantize(quantize(values, parameters), parameters) - values) ** 2))

    assert error("mse") <= min(error(c) for c in get_args(Calibration)) * 1.01
    assert error("mse") < error("min-max") * 0.95
