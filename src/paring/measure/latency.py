"""How long a network takes, in a process of its own."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from paring.backends.isolated import Deployment, IsolatedSession
from paring.errors import BudgetError
from paring.types import Array

WARM_CALLS = 3
NS_PER_MS = 1e6


@dataclass(frozen=True)
class Workload:
    """What is run again and again: batches from .npy files (axis 0 = rows) on a number of threads."""

    inputs: Mapping[str, Path]
    batch_size: int
    threads: int

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise BudgetError(f"batch_size={self.batch_size} must be 1 or more.")
        if self.threads < 1:
            raise BudgetError(f"threads={self.threads} must be 1 or more.")


@dataclass(frozen=True)
class Latency:
    """Wall time of one call, in milliseconds at the quantiles 0.5, 0.9 and 0.99.

    `throughput_per_s` is rows a second at the median call: what the machine gives while nobody else disturbs it.
    """

    p50_ms: float
    p90_ms: float
    p99_ms: float
    throughput_per_s: float
    calls: int

    @classmethod
    def of(cls, call_ns: Array, batch_size: int) -> Latency:
        """From the nanoseconds of each call, shape (calls,)."""
        p50, p90, p99 = (float(value) for value in np.quantile(call_ns, (0.5, 0.9, 0.99)) / NS_PER_MS)
        return cls(p50, p90, p99, batch_size * 1000 / p50, len(call_ns))


@dataclass(frozen=True)
class Measured:
    """A deployment measured by itself. `peak_memory_bytes`: interpreter, runtime and network together."""

    latency: Latency
    peak_memory_bytes: int


@dataclass(frozen=True)
class BlockPlan:
    """How calls are grouped: `blocks` blocks of at least `block_time_s` and `runs` calls, after `warm_runs` untimed."""

    blocks: int
    block_time_s: float
    runs: int
    warm_runs: int


LONGEST_BLOCK_S = 0.05
MAXIMUM_BLOCKS = 4
"""Each one costs a warm call and a wait for threads that spin: more pairs of processes tell more than more blocks."""

FEWEST_BLOCKS = 2
"""From a single one nobody could tell how much blocks differ."""


def block_plan(call_s: float, time_s: float) -> BlockPlan:
    """Blocks for a process with `time_s` to spend on calls of `call_s`: many short ones, or fewer calls if slow."""
    calls = max(1, math.floor(time_s / call_s))
    blocks = max(FEWEST_BLOCKS, min(MAXIMUM_BLOCKS, calls // 3))
    # A block of one call still warms the caches first if there is time for it.
    runs = max(1, min(3, calls // blocks - 1))
    return BlockPlan(blocks, min(LONGEST_BLOCK_S, time_s / blocks / 2), runs, 1 if calls > 2 * blocks else 0)


def time_block(session: IsolatedSession, workload: Workload, plan: BlockPlan) -> Array:
    """Nanoseconds of each call of one block, shape (calls,)."""
    return session.time_block(
        workload.inputs,
        batch_size=workload.batch_size,
        min_time_s=plan.block_time_s,
        min_runs=plan.runs,
        warm_runs=plan.warm_runs,
    )


def warm_up(session: IsolatedSession, workload: Workload) -> float:
    """Run a few calls; the seconds that the fastest took."""
    first = session.time_block(workload.inputs, batch_size=workload.batch_size, min_time_s=0)
    if first[0] > NS_PER_MS * 1000:
        # A first call may compile or allocate for seconds: a second one tells what a call takes.
        second = session.time_block(workload.inputs, batch_size=workload.batch_size, min_time_s=0)
        if second[0] > NS_PER_MS * 1000:
            return float(second[0]) / 1e9
    calls = session.time_block(
        workload.inputs, batch_size=workload.batch_size, min_time_s=LONGEST_BLOCK_S, min_runs=WARM_CALLS
    )
    return float(calls.min()) / 1e9


def measure_alone(deployment: Deployment, workload: Workload, *, time_limit_s: float = 3.0) -> Measured:
    """Latency and peak memory of a deployment in a process of its own, over `time_limit_s` of calls once loaded.

    Raises BackendError where it can't be run.
    """
    with IsolatedSession.of(deployment, threads=workload.threads) as session:
        end = time.monotonic() + time_limit_s
        call_s = warm_up(session, workload)
        plan = block_plan(call_s, max(call_s, end - time.monotonic()))
        taken = [time_block(session, workload, plan)]
        while time.monotonic() < end:
            taken.append(time_block(session, workload, plan))
        return Measured(Latency.of(np.concatenate(taken), workload.batch_size), session.peak_memory_bytes())
