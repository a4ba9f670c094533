"""Levels of least squared error for numbers: against every division into stretches, and published distortions."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import numpy.typing as npt
import pytest

from paring.ops import kmeans
from paring.ops.kmeans import levels_of

Array = npt.NDArray[np.float32]


def error(values: Array, levels: Array) -> float:
    return float(np.square(values[:, None].astype(np.float64) - levels).min(axis=1).sum())


def best(values: Array, count: int) -> float:
    """The least error of all divisions of the sorted values."""
    ordered = np.sort(values.astype(np.float64))
    places = range(1, len(ordered))
    divisions = [np.split(ordered, cut) for size in range(count) for cut in combinations(places, size)]
    return min(sum(float(np.square(part - part.mean()).sum()) for part in parts) for parts in divisions)


@pytest.mark.parametrize("seed", range(40))
def test_no_division_of_a_few_numbers_is_better(seed: int) -> None:
    random = np.random.default_rng(seed)
    values = random.standard_t(2, random.integers(1, 12)).astype(np.float32)
    if seed % 3 == 0:
        values = np.round(values)
    count = int(random.integers(2, 6))
    levels = levels_of(values, count)
    assert len(levels) <= count
    assert (np.diff(levels) > 0).all()
    assert error(values, levels) == pytest.approx(best(values, count), rel=1e-5, abs=1e-9)


@pytest.mark.parametrize(("count", "distortion"), [(2, 0.3634), (4, 0.1175), (8, 0.03454), (16, 0.009497)])
def test_normal_numbers_come_to_the_distortion_of_the_textbook(count: int, distortion: float) -> None:
    """Max 1960, Quantizing for Minimum Distortion, table 1."""
    values = np.random.default_rng(0).standard_normal(200_000).astype(np.float32)
    assert error(values, levels_of(values, count)) / values.size == pytest.approx(distortion, rel=0.01)


def test_bins_lose_next_to_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).standard_t(3, 5000).astype(np.float32)
    binned = error(values, levels_of(values, 16))
    monkeypatch.setattr(kmeans, "BINS", values.size)
    assert error(values, levels_of(values, 16)) <= binned * (1 + 1e-9)
    assert binned <= error(values, levels_of(values, 16)) * 1.01


def test_few_numbers_are_their_own_levels() -> None:
    values = np.array([[3, -1, 3], [0, -1, 0]], np.float32)
    assert levels_of(values, 4).tolist() == [-1, 0, 3]
    assert levels_of(np.zeros(7, np.float32), 4).tolist() == [0]


def test_order_and_place_do_not_matter() -> None:
    values = np.random.default_rng(0).standard_normal(3000).astype(np.float32)
    levels = levels_of(values, 8)
    assert np.array_equal(levels, levels_of(values[::-1].reshape(30, 100), 8))
    moved = levels_of((values * 1e-20).astype(np.float32), 8)
    np.testing.assert_allclose(moved * 1e20, levels, rtol=1e-5)


@pytest.mark.parametrize("values", [[], [1.0, np.nan], [np.inf]])
def test_what_has_no_levels_is_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="finite"):
        levels_of(np.array(values, np.float32), 4)
