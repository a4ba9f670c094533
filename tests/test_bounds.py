"""Bounds on the mean of bounded differences: they hold, they are tight, and they move as they should."""

from __future__ import annotations

import math
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import gammaln

from paring.ops.bounds import betting_upper_bound, normal_upper_bound
from paring.ops.paired_exact import chernoff_interval, ternary_upper_bound

exact_bound = cache(ternary_upper_bound)


def ternary(lost: int, won: int, n: int) -> np.ndarray:
    """Rows of lost (+1), won (-1) and the same (0), in a fixed random order."""
    rows = np.repeat([1.0, -1.0, 0.0], [lost, won, n - lost - won])
    return np.random.default_rng(3).permutation(rows)


def tail(outcome: tuple[int, int, int], bound: float, changed: float, alpha: float) -> float:
    """P of all outcomes that speak as much for a small drop as this one, where the drop is `bound`, term by term."""
    lost_seen, won_seen, n = outcome
    z = stats.norm.ppf(1 - alpha)
    lost, won = np.arange(n + 1)[:, None], np.arange(n + 1)[None, :]
    same = n - lost - won
    score = lost - won + z * np.sqrt(lost + won + z * z / 4)
    seen = lost_seen - won_seen + z * math.sqrt(lost_seen + won_seen + z * z / 4)
    counted = (same >= 0) & (score <= seen + 1e-9)
    room = np.maximum(same, 0)
    log_count = gammaln(n + 1) - gammaln(lost + 1) - gammaln(won + 1) - gammaln(room + 1)
    shares = np.log([(changed + bound) / 2, (changed - bound) / 2, 1 - changed])
    return float(np.exp(log_count + lost * shares[0] + won * shares[1] + room * shares[2])[counted].sum())


@pytest.mark.parametrize("outcome", [(5, 3, 60), (20, 10, 60), (0, 0, 60), (2, 9, 100), (1, 0, 30)])
@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_exact_bound_is_where_the_tail_probability_falls_below_alpha(
    outcome: tuple[int, int, int], alpha: float
) -> None:
    lost, won, n = outcome
    bound = ternary_upper_bound(lost, won, n, alpha)
    low, high = chernoff_interval(lost + won, n, 0.02 * alpha)
    shares = np.linspace(max(low, abs(bound)) + 1e-6, high - 1e-6, 80)

    assert max(tail(outcome, bound, share, alpha) for share in shares) <= 0.98 * alpha + 1e-6
    nearer = bound - 0.04 / math.sqrt(n)
    shares = np.linspace(max(low, abs(nearer)) + 1e-6, high - 1e-6, 80)
    assert max(tail(outcome, nearer, share, alpha) for share in shares) > 0.98 * alpha


@pytest.mark.parametrize("lost", [0, 1, 4, 30])
def test_exact_bound_is_near_clopper_pearson_where_nothing_is_won(lost: int) -> None:
    # With no row won, the worst case is that none can be: the drop is then the share lost, a plain binomial.
    clopper_pearson = stats.beta.ppf(0.95, lost + 1, 2000 - lost)

    assert clopper_pearson <= ternary_upper_bound(lost, 0, 2000, 0.05) <= 1.02 * clopper_pearson


def test_bounds_of_the_outcome_that_people_ask_about() -> None:
    rows = ternary(50, 40, 10_000)
    normal = normal_upper_bound(rows, 0.05)

    assert normal == pytest.approx(0.00256, abs=1e-5)
    assert normal < ternary_upper_bound(50, 40, 10_000, 0.05) < 0.0027
    assert normal < betting_upper_bound(rows, 0.05) < 0.0032


@pytest.mark.parametrize(
    ("lost", "won", "n", "expected"),
    [(7, 0, 7, 1.0), (1, 0, 1, 1.0), (0, 0, 1, 0.95), (0, 10, 10, 1 - 2 * 0.05**0.1)],
)
def test_exact_bound_where_all_rows_agree(lost: int, won: int, n: int, expected: float) -> None:
    assert ternary_upper_bound(lost, won, n, 0.05) == pytest.approx(expected, abs=0.02)


def test_exact_bound_is_finite_where_fifty_thousand_rows_change() -> None:
    normal = normal_upper_bound(ternary(8_000, 7_800, 50_000), 0.05)

    assert normal < ternary_upper_bound(8_000, 7_800, 50_000, 0.05) < normal * 1.02
    assert ternary_upper_bound(50_000, 0, 50_000, 0.05) == pytest.approx(1.0)


@given(data=st.data(), n=st.integers(10, 300))
@settings(max_examples=40, deadline=None)
def test_exact_bound_moves_with_the_counts_and_the_confidence(data: st.DataObject, n: int) -> None:
    lost, won = data.draw(st.integers(0, n // 5)), data.draw(st.integers(0, n // 5))
    bound = exact_bound(lost, won, n, 0.05)

    assert (lost - won) / n < bound <= 1
    assert bound <= exact_bound(lost, won, n, 0.02) + 1e-9
    # The interval for the rows that change moves with the counts too: a tenth of a row is its grain.
    assert bound <= exact_bound(lost + 1, won, n, 0.05) + 0.1 / n
    assert bound >= exact_bound(lost, won + 1, n, 0.05) - 0.1 / n


rows_of_scores = st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=60).map(np.array)


@given(rows=rows_of_scores)
@settings(max_examples=40, deadline=None)
def test_betting_bound_is_above_the_mean_and_widens_with_confidence(rows: np.ndarray) -> None:
    bound = betting_upper_bound(rows, 0.05)

    assert rows.mean() - 1e-12 <= bound <= 1
    assert bound <= betting_upper_bound(rows, 0.01) + 0.01


@given(rows=rows_of_scores, span=st.floats(0.01, 100))
@settings(max_examples=30, deadline=None)
def test_betting_bound_scales_with_the_span(rows: np.ndarray, span: float) -> None:
    expected = span * betting_upper_bound(rows, 0.05)

    assert betting_upper_bound(rows * span, 0.05, span) == pytest.approx(expected, rel=1e-6, abs=1e-6 * span)


def test_betting_bound_depends_little_on_the_order_of_the_rows() -> None:
    rows = ternary(60, 40, 2_000)
    rng = np.random.default_rng(0)
    bounds = [betting_upper_bound(rng.permutation(rows), 0.05) for _ in range(12)]

    assert np.std(bounds) < 0.08 * (np.mean(bounds) - rows.mean())
    assert betting_upper_bound(rows, 0.05) == betting_upper_bound(rows.copy(), 0.05)


@pytest.mark.parametrize(("value", "n"), [(1.0, 5), (-1.0, 5), (0.0, 1), (1.0, 1), (0.25, 400)])
def test_betting_bound_where_all_rows_agree(value: float, n: int) -> None:
    assert value <= betting_upper_bound(np.full(n, value), 0.05) <= 1


def test_betting_bound_comes_nearer_as_rows_grow() -> None:
    rng = np.random.default_rng(1)
    rows = rng.uniform(-0.5, 0.5, 8_000)
    gaps = [betting_upper_bound(rows[:n], 0.05) - rows[:n].mean() for n in (125, 500, 2_000, 8_000)]

    assert all(0.35 < later / earlier < 0.7 for earlier, later in pairwise(gaps))


def coverage(bound_of: object, values: list[float], shares: list[float], n: int, draws: int) -> float:
    """Share of draws whose bound is at or above the true mean; the seed is fixed."""
    assert callable(bound_of)
    rng = np.random.default_rng(11)
    mean = float(np.dot(values, shares))
    rows = rng.choice(values, size=(draws, n), p=shares)
    # No bound is below the mean that was seen: where that covers, the bound need not be known.
    return float(np.mean([row.mean() >= mean or bound_of(row) >= mean for row in rows]))


def counted(rows: np.ndarray) -> float:
    return exact_bound(int((rows > 0).sum()), int((rows < 0).sum()), len(rows), 0.05)


@pytest.mark.parametrize("shares", [[0.03, 0.01, 0.96], [0.2, 0.15, 0.65], [0.012, 0.0, 0.988], [0.1, 0.14, 0.76]])
def test_exact_bound_covers(shares: list[float]) -> None:
    draws = 1_000
    lowest = 0.95 - 3 * math.sqrt(0.95 * 0.05 / draws)

    assert lowest <= coverage(counted, [1.0, -1.0, 0.0], shares, 250, draws)


@pytest.mark.parametrize(
    ("values", "shares"),
    [
        ([1.0, -1.0, 0.0], [0.06, 0.04, 0.9]),
        ([-0.6, -0.2, 0.3, 1.0], [0.3, 0.2, 0.4, 0.1]),
        ([-0.01, 1.0], [0.98, 0.02]),
    ],
)
def test_betting_bound_covers(values: list[float], shares: list[float]) -> None:
    draws = 300
    lowest = 0.95 - 3 * math.sqrt(0.95 * 0.05 / draws)

    assert lowest <= coverage(lambda rows: betting_upper_bound(rows, 0.05), values, shares, 100, draws)


def test_normal_approximation_fails_where_ours_hold() -> None:
    # One row in fifty is lost: among 100 rows none is in 13 % of the draws, and the normal bound is then 0.
    values, shares, draws = [1.0, 0.0], [0.02, 0.98], 300
    lowest = 0.95 - 3 * math.sqrt(0.95 * 0.05 / draws)

    assert coverage(lambda rows: normal_upper_bound(rows, 0.05), values, shares, 100, draws) < 0.9
    assert coverage(counted, values, shares, 100, draws) >= lowest
    assert coverage(lambda rows: betting_upper_bound(rows, 0.05), values, shares, 100, draws) >= lowest
