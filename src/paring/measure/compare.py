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
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np

from paring.backends.isolated import Deployment, IsolatedSession
from paring.errors import BackendError, BudgetError
from paring.measure.interval import log_ratio_interval
from paring.measure.latency import BlockPlan, Latency, Workload, block_plan, time_block, warm_up
from paring.measure.standby import Standby
from paring.types import Array

CONFIDENCE = 0.95
LOOKS = (7, 10, 14, 20, 28, 40, 56, 80)
"""Numbers of pairs after which the interval is looked at.

Look k may err with probability 0.05 / 2**k, and where time is up, the last one with all that is left: 0.05 in all.
"""

TYPICAL_QUANTILE = 0.25
"""The quantile of the calls' times that stands for a deployment in the ratio."""

PAIR_TIME_S = 0.4
"""Time on calls for each of the two processes of a pair."""

WARM_CALLS_EACH, WARM_LIMIT_S = 9, 1.0
"""A pair gets the time for so many calls of each process, up to that limit: with fewer no block warms the caches first.

The other process has emptied them: MiniLM, of 60 ms a call, took 77 to 116 in blocks of a single call.
"""

PROCESS_EFFECT = 0.03
"""By how much two processes of one program may differ as long as they live, as a log ratio."""

NOISE = 0.03
"""Where speed is not the objective: a ratio this far below 1 is slower, however wide its interval."""

FEWEST_PAIRS = 4
"""With fewer, the spread between pairs can't be told from them: PROCESS_EFFECT is taken for it."""

ALWAYS_PAIRS, MOST_QUICK_PAIRS = 2, 4
"""Measured however long they take, since a single pair may be off by the luck of one process; and, for a quick
comparison, at most."""

AGREEMENT = 0.1
"""Log ratios of two pairs that lie further apart are no accident of noise: one of the four processes was unlucky."""

OUT_OF_REACH = 2.5
"""A candidate so many times slower than the fastest so far is not the fastest, whatever its process was up against."""


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


@dataclass(frozen=True)
class _Pair:
    """What one pair of processes gave: the nanoseconds of the calls, block by block, and the peak memory in bytes."""

    candidate_blocks: tuple[Array, ...]
    original_blocks: tuple[Array, ...]
    candidate_memory: int = 0
    original_memory: int = 0

    @property
    def log_ratio(self) -> float:
        return _log_ratio(np.concatenate(self.candidate_blocks), np.concatenate(self.original_blocks))

    @property
    def block_log_ratios(self) -> list[float]:
        return [_log_ratio(*blocks) for blocks in zip(self.candidate_blocks, self.original_blocks, strict=True)]


def _log_ratio(candidate_ns: Array, original_ns: Array) -> float:
    typical = [float(np.quantile(calls, TYPICAL_QUANTILE)) for calls in (candidate_ns, original_ns)]
    return math.log(typical[1] / typical[0])


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
    pairs: list[_Pair] = []
    longest_s, looks = 0.0, 0
    while len(pairs) < ALWAYS_PAIRS or time.monotonic() + longest_s < end:
        begin = time.monotonic()
        with _Both(candidate, original, workload.threads) as (first, second):
            pairs.append(_measured_pair(first, second, workload, min(PAIR_TIME_S, time_limit_s / 10), order))
        longest_s = max(longest_s, time.monotonic() - begin)
        if len(pairs) in LOOKS:
            looks += 1
            result = _result(pairs, workload, looks)
            if result.width < width:
                return result
    return _result(pairs, workload, looks)


class _Both:
    """Two processes that start side by side and end together."""

    def __init__(self, candidate: Deployment, original: Deployment, threads: int) -> None:
        with ThreadPoolExecutor(2) as pool:
            started = [
                pool.submit(IsolatedSession.of, deployment, threads=threads) for deployment in (candidate, original)
            ]
        failed = [error for error in (future.exception() for future in started) if error is not None]
        self._sessions = [future.result() for future in started if future.exception() is None]
        if failed:
            self._close()
            raise failed[0]

    def __enter__(self) -> tuple[IsolatedSession, IsolatedSession]:
        return self._sessions[0], self._sessions[1]

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._close()

    def _close(self) -> None:
        for session in self._sessions:
            session.close()


def _measured_pair(
    candidate: IsolatedSession, original: IsolatedSession, workload: Workload, time_s: float, order: random.Random
) -> _Pair:
    """Blocks in turn, for about `time_s` of each, or for WARM_CALLS_EACH; which one goes first is drawn each time."""
    slower_s = max(warm_up(candidate, workload), warm_up(original, workload))
    plan = block_plan(slower_s, max(time_s, min(WARM_CALLS_EACH * slower_s, WARM_LIMIT_S)))
    blocks = [_block_pair(candidate, original, workload, plan, order) for _ in range(plan.blocks)]
    return _Pair(
        tuple(ours for ours, _ in blocks),
        tuple(theirs for _, theirs in blocks),
        candidate.peak_memory_bytes(),
        original.peak_memory_bytes(),
    )


def _block_pair(
    candidate: IsolatedSession, original: IsolatedSession, workload: Workload, plan: BlockPlan, order: random.Random
) -> tuple[Array, Array]:
    if order.random() < 0.5:
        ours = time_block(candidate, workload, plan)
        return ours, time_block(original, workload, plan)
    theirs = time_block(original, workload, plan)
    return time_block(candidate, workload, plan), theirs


def _result(pairs: Sequence[_Pair], workload: Workload, look: int) -> Comparison:
    """The comparison at the look of that number, or after so many of them: what is left of the error is the same."""
    ratio, low, high = (math.exp(value) for value in _interval(pairs, (1 - CONFIDENCE) / 2**look))
    return Comparison(
        ratio,
        low,
        high,
        Latency.of(np.concatenate([calls for pair in pairs for calls in pair.candidate_blocks]), workload.batch_size),
        Latency.of(np.concatenate([calls for pair in pairs for calls in pair.original_blocks]), workload.batch_size),
        max(pair.candidate_memory for pair in pairs),
        max(pair.original_memory for pair in pairs),
        len(pairs),
    )


def _interval(pairs: Sequence[_Pair], error: float) -> tuple[float, float, float]:
    """(estimate, low, high) of the log ratio."""
    found = [pair.log_ratio for pair in pairs]
    if len(pairs) >= FEWEST_PAIRS:
        return log_ratio_interval(found, error)
    _, low, high = log_ratio_interval([value for pair in pairs for value in pair.block_log_ratios], error)
    half = math.hypot(PROCESS_EFFECT / math.sqrt(len(pairs)), (high - low) / 2)
    estimate = statistics.median(found)
    return estimate, estimate - half, estimate + half


def _unsure(pairs: Sequence[_Pair]) -> bool:
    """Whether the last two disagree, or their blocks do among each other by twice as much."""
    last = pairs[-ALWAYS_PAIRS:]
    whole, blocks = [pair.log_ratio for pair in last], [ratio for pair in last for ratio in pair.block_log_ratios]
    return max(whole) - min(whole) > AGREEMENT or max(blocks) - min(blocks) > 2 * AGREEMENT


class Yardstick:
    """The original, kept running in two processes, so that a search compares many candidates with it in a second each.

    The threads of a process may share one core for as long as it lives, while the other core idles: twice the time, on
    either side, and nothing in that process tells. So a candidate that might turn out the fastest is measured in two
    processes, each beside another process of the original, and in up to two more where these disagree or the blocks of
    calls do, as on a machine that has other work to do; the median counts.
    """

    def __init__(self, original: Deployment, workload: Workload, *, seed: int = 0) -> None:
        self._workload = workload
        self._order = random.Random(seed)
        self._fastest = 0.0
        self._originals = [Standby(original, workload.threads) for _ in range(2)]

    def compare(self, candidate: Deployment, *, time_limit_s: float = 1.0) -> Comparison:
        """Measure a candidate in turn with the original for about `time_limit_s` after it has loaded."""
        with IsolatedSession.of(candidate, threads=self._workload.threads) as session:
            return self.compare_loaded(session, candidate, time_limit_s=time_limit_s)

    def compare_loaded(
        self, session: IsolatedSession, candidate: Deployment, *, time_limit_s: float = 1.0
    ) -> Comparison:
        """The same where the first of the candidate's processes runs already; it goes on."""
        pairs = [self._pair(session, 0, time_limit_s / 4)]
        if pairs[0].log_ratio > self._fastest - math.log(OUT_OF_REACH):
            while len(pairs) < ALWAYS_PAIRS or (len(pairs) < MOST_QUICK_PAIRS and _unsure(pairs)):
                pairs.append(self._another_pair(candidate, len(pairs) % 2, time_limit_s / 4))
        result = _result(pairs, self._workload, 0)
        self._fastest = max(self._fastest, math.log(result.ratio))
        return result

    def _another_pair(self, candidate: Deployment, original: int, time_s: float) -> _Pair:
        with IsolatedSession.of(candidate, threads=self._workload.threads) as session:
            return self._pair(session, original, time_s)

    def _pair(self, session: IsolatedSession, original: int, time_s: float) -> _Pair:
        """A pair beside a process of the original, beside a new one where that died: no fault of the candidate."""
        standby = self._originals[original]
        try:
            return _measured_pair(session, standby.session(), self._workload, time_s, self._order)
        except BackendError:
            if standby.alive or not session.alive:
                raise
        return _measured_pair(session, standby.session(), self._workload, time_s, self._order)

    def close(self) -> None:
        """End the original's processes."""
        for standby in self._originals:
            standby.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
