"""Clipping that is known from a few moments, against samples that are quantized for real."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from paring.errors import TechniqueError
from paring.ops.clipping import Distribution, analytic_clipping, expected_error, fitted, proposed_bits
from paring.ops.quantization import Range, affine, dequantize, quantize
from paring.ops.ranges import Histogram, chosen_range
from paring.ops.sensitivity import sqnr_db

DISTRIBUTIONS = get_args(Distribution)


def counted(distribution: str, half: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Values so dense that sums over them are integrals, and how often each comes; a half one is half zeros."""
    values = np.linspace(-40, 40, 800_001)
    counts = np.exp(-np.square(values) / 2) if distribution == "gaussian" else np.exp(-np.abs(values))
    return np.maximum(values, 0) if half else values, counts


def quantized(values: np.ndarray, low: float, high: float, levels: int) -> np.ndarray:
    step = (high - low) / (levels - 1)
    return np.clip(np.rint((values - low) / step), 0, levels - 1) * step + low


def error(values: np.ndarray, counts: np.ndarray, low: float, high: float, levels: int) -> float:
    return float(counts @ np.square(quantized(values, low, high, levels) - values) / counts.sum())


@pytest.mark.parametrize(
    ("distribution", "reaches"),
    [("laplace", [2.83, 3.89, 5.03, 6.20]), ("gaussian", [1.71, 2.15, 2.55, 2.93])],
)
def test_with_the_steps_of_the_paper_the_reaches_are_its_own(distribution: Distribution, reaches: list[float]) -> None:
    found = [analytic_clipping(1.0, 2**bits, distribution) for bits in (2, 3, 4, 5)]
    np.testing.assert_allclose(found, reaches, atol=0.012)
    assert analytic_clipping(7.0, 16, distribution) == pytest.approx(7 * found[2])


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("steps", [1, 3, 15, 255, 65535])
def test_no_other_reach_has_less_error(distribution: Distribution, steps: int) -> None:
    best = analytic_clipping(1.0, steps, distribution)
    least = expected_error(1.0, steps, distribution)
    assert expected_error(1.0, steps, distribution, best) == pytest.approx(least)
    assert all(expected_error(1.0, steps, distribution, best * factor) > least for factor in (0.5, 0.95, 1.05, 2.0))
    assert expected_error(3.0, steps, distribution) == pytest.approx(9 * least)
    assert expected_error(0.0, steps, distribution) == 0


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize(("bits", "within"), [(2, 0.1), (3, 0.03), (4, 0.02), (6, 0.01), (8, 0.01)])
def test_the_expected_error_is_what_quantizing_does_and_no_range_around_has_less(
    distribution: Distribution, half: bool, bits: int, within: float
) -> None:
    values, counts = counted(distribution, half)
    bell = fitted(values, counts)
    assert (bell.distribution, bell.half) == (distribution, half)
    low, high = bell.range(2**bits)
    found = error(values, counts, low, high, 2**bits)
    assert bell.error(2**bits) == pytest.approx(found, rel=within)
    others = (error(values, counts, low * c, high * c, 2**bits) for c in (0.5, 0.8, 0.9, 1.1, 1.2, 2.0))
    assert min(others) > 0.99 * found


def test_the_middle_is_where_the_values_are() -> None:
    bell = fitted(np.random.default_rng(0).normal(2, 1, 100_000))
    low, high = bell.range(16)
    assert (low + high) / 2 == pytest.approx(2, abs=0.02)
    assert not bell.half
    assert bell.power == pytest.approx(5, rel=0.02)


def test_values_can_be_counted_or_given_one_by_one() -> None:
    values = np.random.default_rng(0).laplace(size=10_000).round(2)
    once, one_by_one = fitted(*np.unique(values, return_counts=True)), fitted(values)
    assert (once.distribution, one_by_one.distribution) == ("laplace", "laplace")
    assert (once.spread, once.middle) == pytest.approx((one_by_one.spread, one_by_one.middle))
    assert fitted(values * 1e-150).distribution == "laplace"


@pytest.mark.parametrize("values", [[], [1.0, np.nan], [np.inf]])
def test_nothing_is_fitted_to_nothing_or_to_what_is_not_finite(values: list[float]) -> None:
    with pytest.raises(ValueError, match="finite values, at least one"):
        fitted(np.array(values))


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("wanted_db", [10, 20, 30, 45])
def test_the_proposed_bits_reach_what_is_wanted_and_one_less_does_not(
    distribution: Distribution, half: bool, wanted_db: float
) -> None:
    values, counts = counted(distribution, half)
    bits = proposed_bits(values, wanted_db, counts)
    weights = np.sqrt(counts)
    reached = [
        sqnr_db(values * weights, quantized(values, *fitted(values, counts).range(2**b), 2**b) * weights)
        for b in (bits - 1, bits)
    ]
    assert reached[1] > wanted_db - 0.5
    assert bits == 2 or reached[0] < wanted_db + 0.5


def test_zeros_need_the_fewest_bits_and_too_much_is_refused() -> None:
    assert proposed_bits(np.zeros(10), 60) == 2
    with pytest.raises(TechniqueError, match=r"least_sqnr_db=200 needs more than 16 bits .*: choose \d\d or less"):
        proposed_bits(*counted("gaussian")[:1], 200)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("half", [False, True])
def test_the_calibration_has_about_the_error_of_the_best_range(distribution: Distribution, half: bool) -> None:
    random = np.random.default_rng(0)
    drawn = random.normal(size=400_000) if distribution == "gaussian" else random.laplace(size=400_000)
    values = (np.maximum(drawn, 0) if half else drawn).astype(np.float32)
    seen = Histogram()
    seen.add(values)

    def of(found: Range) -> float:
        parameters = affine(found)
        return float(np.mean(np.square(dequantize(quantize(values, parameters), parameters) - values)))

    assert of(chosen_range(seen, "aciq")) <= 1.1 * of(chosen_range(seen, "mse"))
    assert (chosen_range(seen, "aciq").low == 0) is half
