"""A confidence interval for a ratio from few independent repetitions, each of which gives one log ratio.

The interval is that of Wilcoxon's signed-rank test around the Hodges-Lehmann estimate (Hodges and Lehmann, "Estimates
of location based on rank tests", 1963): all averages of two repetitions are sorted, and the interval reaches from the
k-th smallest to the k-th largest. It holds exactly where the log ratios are symmetric around the truth, whatever the
tails of the noise: a neighbour's burst that spoils one repetition moves it little. Log ratios of two processes that
start alike are symmetric, since which of them the machine treats better is chance. Where the repetitions are too few
for it, Student's t takes over.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from paring.types import Array

_BISECTIONS = 60


def log_ratio_interval(log_ratios: Sequence[float], error: float) -> tuple[float, float, float]:
    """(estimate, low, high) of the log ratio, wrong with probability at most `error`; from at least two values."""
    values = np.asarray(log_ratios, dtype=np.float64)
    estimate = float(np.median(walsh_averages(values)))
    rank = signed_rank_cut(len(values), error)
    if rank:
        averages = np.sort(walsh_averages(values))
        return estimate, float(averages[rank - 1]), float(averages[-rank])
    half = student_quantile(1 - error / 2, len(values) - 1) * float(values.std(ddof=1)) / math.sqrt(len(values))
    return float(values.mean()), float(values.mean()) - half, float(values.mean()) + half


def walsh_averages(values: Array) -> Array:
    """The mean of every pair, each value with itself included: (n,) -> (n (n + 1) / 2,)."""
    first, second = np.triu_indices(len(values))
    averages: Array = (values[first] + values[second]) / 2
    return averages


def signed_rank_cut(count: int, error: float) -> int:
    """The largest k with P(signed-rank statistic < k) <= error / 2; 0 where even k = 1 is too likely."""
    ways = np.zeros(count * (count + 1) // 2 + 1)
    ways[0] = 1
    for rank in range(1, count + 1):
        ways[rank:] = ways[rank:] + ways[: len(ways) - rank]
    below = np.cumsum(ways) / 2.0**count
    return int(np.searchsorted(below, error / 2, side="right"))


def student_quantile(probability: float, freedom: int) -> float:
    """The quantile of Student's t for a probability above 0.5, by bisection on the closed form of its distribution."""
    low, high = 0.0, 1.0
    while _student_tail(high, freedom) > 1 - probability:
        high *= 2
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if _student_tail(middle, freedom) > 1 - probability else (low, middle)
    return (low + high) / 2


def _student_tail(value: float, freedom: int) -> float:
    """P(T > value) for value >= 0 (Abramowitz and Stegun, 26.7.3 and 26.7.4: finite sums)."""
    angle = math.atan(value / math.sqrt(freedom))
    cosine, sine = math.cos(angle), math.sin(angle)
    if freedom % 2:
        term, total = cosine, 0.0
        for k in range(1, freedom, 2):
            total += term
            term *= cosine * cosine * (k + 1) / (k + 2)
        inside = 2 / math.pi * (angle + sine * total)
    else:
        term, total = 1.0, 0.0
        for k in range(0, freedom, 2):
            total += term
            term *= cosine * cosine * (k + 1) / (k + 2)
        inside = sine * total
    return (1 - inside) / 2
