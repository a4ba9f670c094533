"""The interval of a ratio, against SciPy and against the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from paring.measure.interval import log_ratio_interval, signed_rank_cut, student_quantile, walsh_averages

finite = st.floats(-3, 3, allow_nan=False)


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 7, 12, 31])
@pytest.mark.parametrize("probability", [0.75, 0.975, 0.9875, 0.9995])
def test_the_quantile_of_students_t_is_scipys(freedom, probability):
    assert student_quantile(probability, freedom) == pytest.approx(stats.t.ppf(probability, freedom), rel=1e-6)


@pytest.mark.parametrize("count", [5, 7, 8, 12, 20])
@pytest.mark.parametrize("error", [0.05, 0.025, 0.00625])
def test_the_cut_is_the_last_that_the_signed_rank_test_rejects(count, error):
    rank = signed_rank_cut(count, error)

    def two_sided(statistic):
        """Wilcoxon's exact p-value where the negative ranks sum to `statistic`."""
        signs, left = np.ones(count), statistic
        for value in range(count, 0, -1):
            if value <= left:
                signs[value - 1], left = -1, left - value
        return stats.wilcoxon(signs * np.arange(1, count + 1), method="exact").pvalue

    assert rank == 0 or two_sided(rank - 1) <= error
    assert two_sided(rank) > error


@given(st.lists(finite, min_size=2, max_size=30), finite)
def test_a_shift_of_the_data_shifts_the_interval(values, shift):
    before = log_ratio_interval(values, 0.05)
    after = log_ratio_interval([value + shift for value in values], 0.05)
    assert after == pytest.approx([value + shift for value in before], abs=1e-9)


@given(st.lists(finite, min_size=2, max_size=30))
def test_swapping_the_two_deployments_mirrors_the_interval(values):
    estimate, low, high = log_ratio_interval(values, 0.05)
    assert low <= estimate <= high
    assert log_ratio_interval([-value for value in values], 0.05) == pytest.approx((-estimate, -high, -low), abs=1e-9)


@given(st.lists(finite, min_size=7, max_size=25))
def test_less_error_is_a_wider_interval(values):
    _, low, high = log_ratio_interval(values, 0.05)
    _, lower, higher = log_ratio_interval(values, 0.0005)
    if signed_rank_cut(len(values), 0.0005):
        assert lower <= low
        assert higher >= high


def test_averages_of_all_pairs():
    assert sorted(walsh_averages(np.array([0.0, 2.0, 6.0]))) == [0, 1, 2, 3, 4, 6]


def test_with_few_repetitions_it_is_students_interval():
    values = [0.1, 0.3, 0.2, 0.25]
    estimate, low, high = log_ratio_interval(values, 0.05)
    reference = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert (low, high) == pytest.approx(reference)
    assert estimate == pytest.approx(np.mean(values))


@pytest.mark.parametrize("count", [4, 7, 10, 14])
@pytest.mark.parametrize("noise", ["normal", "bursts", "cauchy"])
def test_it_holds_the_truth_as_often_as_it_says(count, noise):
    random = np.random.default_rng(count)
    draws = 2000
    samples = {
        "normal": random.normal(0, 0.01, (draws, count)),
        "bursts": random.normal(0, 0.01, (draws, count)) * np.where(random.random((draws, count)) < 0.1, 20, 1),
        "cauchy": random.standard_cauchy((draws, count)) * 0.01,
    }[noise]
    held = 0
    for sample in samples:
        _, low, high = log_ratio_interval(0.3 + sample, 0.05)
        held += low <= 0.3 <= high
    # Four standard errors of a share of 0.95 in 2,000 draws.
    assert held / draws >= 0.95 - 4 * math.sqrt(0.95 * 0.05 / draws)


def test_one_burst_moves_it_little():
    quiet = list(np.random.default_rng(1).normal(0, 0.01, 12))
    _, low, high = log_ratio_interval([*quiet[:-1], 3.0], 0.05)
    assert high - low < 0.06
    assert low < 0 < high
