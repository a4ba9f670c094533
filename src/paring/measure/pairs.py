"""Two processes that are timed in turn, one of each deployment: a repetition of every comparison."""

from __future__ import annotations

import math
import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType

import numpy as np

from paring.backends.isolated import Deployment, IsolatedSession
from paring.measure.latency import BlockPlan, Workload, block_plan, time_block, warm_up
from paring.types import Array

TYPICAL_QUANTILE = 0.25
"""The quantile of the calls' times that stands for a deployment in the ratio."""

WARM_CALLS_EACH, WARM_LIMIT_S = 9, 1.0
"""A pair gets the time for so many calls of each process, up to that limit: with fewer no block warms the caches first.

The other process has emptied them: MiniLM, of 60 ms a call, took 77 to 116 in blocks of a single call.
"""


@dataclass(frozen=True)
class Pair:
    """What one pair of processes gave: the nanoseconds of the calls, block by block, and the peak memory in bytes."""

    candidate_blocks: tuple[Array, ...]
    original_blocks: tuple[Array, ...]
    candidate_memory: int = 0
    original_memory: int = 0

    @property
    def log_ratio(self) -> float:
        """The log of the original's typical time over the candidate's."""
        return _log_ratio(np.concatenate(self.candidate_blocks), np.concatenate(self.original_blocks))

    @property
    def block_log_ratios(self) -> list[float]:
        """The same of each two blocks that were timed in turn."""
        return [_log_ratio(*blocks) for blocks in zip(self.candidate_blocks, self.original_blocks, strict=True)]


def _log_ratio(candidate_ns: Array, original_ns: Array) -> float:
    typical = [float(np.quantile(calls, TYPICAL_QUANTILE)) for calls in (candidate_ns, original_ns)]
    return math.log(typical[1] / typical[0])


class Both:
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


def measured_pair(
    candidate: IsolatedSession, original: IsolatedSession, workload: Workload, time_s: float, order: random.Random
) -> Pair:
    """Blocks in turn, for about `time_s` of each, or for WARM_CALLS_EACH; which one goes first is drawn each time."""
    slower_s = max(warm_up(candidate, workload), warm_up(original, workload))
    plan = block_plan(slower_s, max(time_s, min(WARM_CALLS_EACH * slower_s, WARM_LIMIT_S)))
    blocks = [_block_pair(candidate, original, workload, plan, order) for _ in range(plan.blocks)]
    return Pair(
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
