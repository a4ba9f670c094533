"""How much faster one deployment is than another, with an interval that says how sure that is.

Two things make a plain comparison of two runs wrong. The machine changes from second to second: so both run in turn, in
short blocks, in random order, each in a process of its own, and only the ratio of neighbouring blocks counts. And a
process is a few per cent faster or slower than the next one of the same program for as long as it lives, by where its
memory happens to lie (Mytkowicz et al., "Producing Wrong Data Without Doing Anything Obviously Wrong!", 2009;
Kalibera and Jones, "Rigorous Benchmarking in Reasonable Time", 2013): so both are started anew again and again, and
each pair of processes counts as one repetition.

What is compared is the first quartile of the calls' times. What other processes do to a call only ever makes it longer,
so the quartile stays where it is until three calls in four are disturbed; the median moves at two. On a machine that is
left alone both give the same ratio.
"""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from paring.backends.isolated import Deployment
from paring.errors import BudgetError
from paring.measure.interval import log_ratio_interval
from paring.measure.latency import Latency, Workload
from paring.measure.pairs import Both, Pair, measured_pair

CONFIDENCE = 0.95
LOOKS = (7, 10, 14, 20, 28, 40, 56, 80)
"""Numbers of pairs after which the interval is looked at.

Look k may err with probability 0.05 / 2**k, and where time is up, the last one with all that is left: 0.05 in all.
"""

PAIR_TIME_S = 0.4
"""Time on calls for each of the two processes of a pair."""

PROCESS_EFFECT = 0.03
"""By how much two processes of one program may differ as long as they live, as a log ratio."""

NOISE = 0.03
"""Where speed is not the objective: a ratio this far below 1 is slower, however wide its interval."""

FEWEST_PAIRS = 4
"""With fewer, the spread between pairs can't be told from them: PROCESS_EFFECT is taken for it."""

ALWAYS_PAIRS = 2
"""Measured however long they take: a single pair may be off by the luck of one process."""


@dataclass(frozen=True)
class Comparison:
    """`ratio` is the original's time over the candidate's: above 1 the candidate is faster.

    `low` and `high` hold the true ratio at 95 %. `pairs` counts the pairs of processes; peak memory is that of the
    largest process.
    """

    ratio: float
    low: float
    high: float
    candidate: Latency
    original: Latency
    candidate_peak_memory_bytes: int
    original_peak_memory_bytes: int
    pairs: int

    @classmethod
    def of(cls, pairs: Sequence[Pair], workload: Workload, look: int) -> Self:
        """At the look of that number, or after so many of them: what is left of the error is the same."""
        ratio, low, high = (math.exp(value) for value in _interval(pairs, (1 - CONFIDENCE) / 2**look))
        return cls(
            ratio,
            low,
            high,
            Latency.of(
                np.concatenate([calls for pair in pairs for calls in pair.candidate_blocks]), workload.batch_size
            ),
            Latency.of(
                np.concatenate([calls for pair in pairs for calls in pair.original_blocks]), workload.batch_size
            ),
            max(pair.candidate_memory for pair in pairs),
            max(pair.original_memory for pair in pairs),
            len(pairs),
        )

    @property
    def faster(self) -> bool:
        """Whether the candidate is faster, for sure."""
        return self.low > 1

    @property
    def not_slower(self) -> bool:
        """Whether the candidate is at least as fast, as far as can be told, and not slower by more than NOISE."""
        return self.high >= 1 and self.ratio >= 1 - NOISE

    @property
    def width(self) -> float:
        """Width of the interval as a share of the ratio."""
        return (self.high - self.low) / self.ratio


def compare(
    candidate: Deployment,
    original: Deployment,
    workload: Workload,
    *,
    time_limit_s: float = 20.0,
    width: float = 0.02,
    seed: int = 0,
) -> Comparison:
    """Measure both in turn until the ratio's interval is narrower than `width` (a share of the ratio) or time is up.

    At least two pairs of processes are measured, however long they take.
    Raises BackendError where one of them can't be run.
    """
    if not width > 0:
        raise BudgetError(f"width={width} must be above 0: a share of the ratio, for example 0.02.")
    order = random.Random(seed)
    end = time.monotonic() + time_limit_s
    pairs: list[Pair] = []
    longest_s, looks = 0.0, 0
    while len(pairs) < ALWAYS_PAIRS or time.monotonic() + longest_s < end:
        begin = time.monotonic()
        with Both(candidate, original, workload.threads) as (first, second):
            pairs.append(measured_pair(first, second, workload, min(PAIR_TIME_S, time_limit_s / 10), order))
        longest_s = max(longest_s, time.monotonic() - begin)
        if len(pairs) in LOOKS:
            looks += 1
            result = Comparison.of(pairs, workload, looks)
            if result.width < width:
                return result
    return Comparison.of(pairs, workload, looks)


def _interval(pairs: Sequence[Pair], error: float) -> tuple[float, float, float]:
    """(estimate, low, high) of the log ratio."""
    found = [pair.log_ratio for pair in pairs]
    if len(pairs) >= FEWEST_PAIRS:
        return log_ratio_interval(found, error)
    _, low, high = log_ratio_interval([value for pair in pairs for value in pair.block_log_ratios], error)
    half = math.hypot(PROCESS_EFFECT / math.sqrt(len(pairs)), (high - low) / 2)
    estimate = statistics.median(found)
    return estimate, estimate - half, estimate + half
